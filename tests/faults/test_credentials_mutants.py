"""Damaged manifests: the builder may refuse them, the picture is always served, and one process dies at most."""

import random
from pathlib import Path

import pytest

from tests.http.test_content_credentials import settings_of
from tests.support.credentials import read, signed_source
from tests.support.site import site

MUTANTS = 400


def mutant(data: bytes, chance: random.Random) -> bytes:
    """Change some bytes of the manifest, or cut a piece out of it, or put one in twice."""
    changed = bytearray(data)
    start, end = data.find(b"jumb"), data.rfind(b"c2pa.signature") + 200
    for _ in range(chance.choice((1, 2, 8, 64))):
        at = chance.randrange(start, end)
        kind = chance.randrange(4)
        if kind == 0:
            changed[at] = chance.randrange(256)
        elif kind == 1:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            changed[at : at + 4] = chance.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF)).to_bytes(4, "big")
        else:
            size = min(at, chance.randrange(1, 64))
            changed[at : at + size] = changed[at - size : at]
    return bytes(changed)


@pytest.mark.slow
async def test_no_damaged_manifest_costs_the_picture(tmp_path: Path) -> None:
    """Every picture is 200. What says that it is signed can be read, and is valid by our signature."""
    chance = random.Random(20_261_130)
    source = signed_source(parents=1)
    pictures = {f"m/{number}.jpg": mutant(source, chance) for number in range(MUTANTS)}
    outcomes: dict[str, int] = {}
    async with site(tmp_path, pictures=pictures, content_credentials=settings_of(tmp_path)) as here:
        for key in pictures:
            reply = await here.get(f"/{key}?w=48")

            assert reply.status == 200, key
            outcome = reply.headers.get("X-Imgproxy-Credentials", "none")
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            if outcome == "embedded":
                store = read(reply.body, "image/jpeg")
                assert store is not None, key
                # What is missing of older generations stays missing. Our own signature and the picture's hash are right.
                assert not [code for code in store.failures if not code.startswith("ingredient.")], key
        service = here.edge.credentials_service
        assert service is not None
        assert here.metric("imgproxy_credentials_total", result="timeout") == 0
        # The next sound picture is signed, whatever came before.
        await here.library.put("sound.jpg", source)
        service._paused_until_s = 0
        assert (await here.get("/sound.jpg?w=48")).headers["X-Imgproxy-Credentials"] == "embedded"
    assert outcomes.get("embedded", 0) > MUTANTS // 10
    assert outcomes.get("missing", 0) > MUTANTS // 10
