"""Damaged HEIC files: each is rendered or refused, no process crashes or hangs, and the next picture is made."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgproxy.errors import ImageRefused, RenderCrashed, RenderTimeout
from tests.support import heif, images
from tests.support.workers import SMALL, job, pool_of

if TYPE_CHECKING:
    from imgproxy.workers.pool import RenderPool

COUNT = 1000


def originals() -> list[bytes]:
    """A plain picture with metadata, a deep one, one of tiles that is turned, one with alpha, a photo."""
    picture = heif.picture()
    tiles = [heif.rgb(heif.picture(64, 64)).hidden() for _ in range(4)]
    whole = heif.grid(2, 2, 120, 100, (2, 3, 4, 5)).having(heif.nclx(), heif.turn(1))
    alpha = heif.coded([picture[..., 0]], "400").having(heif.auxiliary(heif.ALPHA)).hidden().referring(b"auxl", 1)
    return [
        heif.write(heif.rgb(picture), heif.exif(b"MM\0*\0\0\0\x08\0\0\0\0\0\0", 1), heif.xmp(b"<x/>", 1)),
        heif.write(heif.rgb(heif.picture(depth=10), 10)),
        heif.write(whole, *tiles),
        heif.write(heif.rgb(picture), alpha),
        (Path(__file__).parents[1] / "data" / "harbour.heic").read_bytes(),
    ]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change a few bytes, most of them in the boxes before the pixels; sometimes cut the file, or double a part."""
    changed = bytearray(data)
    end = data.find(b"mdat") if chance.random() < 0.8 else len(data)
    for _ in range(chance.choice((1, 2, 8))):
        at = chance.randrange(16, end)
        changed[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    if chance.random() < 0.1:
        del changed[chance.randrange(len(changed)) :]
    if chance.random() < 0.1:
        at = chance.randrange(16, end)
        changed[at:at] = changed[at : at + chance.randrange(1, 64)]
    return bytes(changed)


async def refusal(pool: RenderPool, original: Path, data: bytes) -> type[ImageRefused] | None:
    """Render a file. Return how it was refused, or None."""
    original.write_bytes(data)
    try:
        await pool.render(job(original, SMALL))
    except ImageRefused as error:
        return type(error)
    return None


@pytest.mark.slow
async def test_damaged_files_end_no_process(tmp_path: Path) -> None:
    """A thousand damaged files are rendered or refused in words, in the processes that the pool began with."""
    chance, files = random.Random(17), originals()
    async with pool_of() as pool:
        pids = pool.pids
        seen = [await refusal(pool, tmp_path / "a.heic", mutate(files[n % len(files)], chance)) for n in range(COUNT)]
        assert await refusal(pool, tmp_path / "b.jpg", images.cached_photo()) is None
        assert pool.pids == pids
    assert RenderCrashed not in seen
    assert RenderTimeout not in seen
    assert None in seen
