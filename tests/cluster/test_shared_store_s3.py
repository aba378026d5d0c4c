"""The shared store over a real S3 gateway: killed, slow, with wrong bytes, denied."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgproxy.cache.entry import key_hash
from imgproxy.cluster.store.breaker import FAILURES_MAX
from imgproxy.config.sections import FreshnessSettings
from tests.support.cli import run
from tests.support.gateway import ACCESS, BUCKET, LIMITED, SECRET_KEY, Gateway, gateway, missing_gateway
from tests.support.relay import relay
from tests.support.shared_edges import HAS_DETAIL, Edges, edges, reads, writes, written
from tests.support.site import KEY, jpeg, until

WHY_NOT = missing_gateway()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")

SIZES = (f"/{KEY}?w=40", f"/{KEY}?w=80&fm=webp", f"/{KEY}?w=120&h=50&fit=crop")
FRESHNESS = FreshnessSettings(settle_s=0)
FOLDER = f"imgproxy/v1/{key_hash(KEY)}"


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Edges]:
    pictures = {KEY: jpeg(200), **{f"{number}.jpg": jpeg(number) for number in range(20)}}
    async with edges(tmp_path, pictures) as running:
        yield running


@pytest.fixture
async def s3(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway(tmp_path / "s3") as running:
        yield running


@pytest.fixture
def strict(s3: Gateway) -> Gateway:
    if s3.is_moto:
        pytest.skip("moto accepts every key, and forgets its objects when it ends; versitygw is not installed")
    return s3


async def filled(here: Edges, s3: Gateway) -> list[bytes]:
    """Let an edge make these answers, and stop it when the store has them. Return the bodies."""
    async with here.running("first", s3.settings(), freshness=FRESHNESS) as site:
        bodies = [(await site.get(target)).body for target in SIZES]
        await written(site)
        assert writes(site, "variant", "done") == 3
    here.probe.reset()
    return bodies


async def test_an_edge_with_an_empty_disk_serves_a_page_without_a_render(here: Edges, s3: Gateway) -> None:
    """Over S3: one conditional request to the origin, no render, the same bytes."""
    bodies = await filled(here, s3)
    second = await here.start("second", s3.settings())

    answers = await asyncio.gather(*map(second.get, SIZES))

    assert [answer.body for answer in answers] == bodies
    assert await second.renders() == 0
    assert here.probe.count("serveImage") == 1
    assert second.metric("imgproxy_origin_answers_total", answer="not_modified") == 1


@pytest.mark.slow
async def test_a_large_original_goes_up_and_down_in_parts(tmp_path: Path, s3: Gateway) -> None:
    """An original of several parts is whole when it comes back."""
    import io
    import random

    from PIL import Image

    out = io.BytesIO()
    Image.frombytes("RGB", (2000, 1000), random.Random(1).randbytes(6_000_000)).save(out, "PNG", compress_level=0)
    assert out.tell() > 5 * 1024 * 1024
    async with edges(tmp_path, {"noise.png": out.getvalue()}) as here:
        async with here.running("first", s3.settings()) as first:
            await first.get("/noise.png?w=50")
            await written(first)
        second = await here.start("second", s3.settings())

        answer = await second.get("/noise.png")

    assert answer.body == out.getvalue()
    assert second.metric("imgproxy_origin_bytes_total") == 0


async def test_a_purge_deletes_the_objects(here: Edges, s3: Gateway) -> None:
    """The gateway has no object of the key afterwards."""
    site = await here.start("first", s3.settings(), freshness=FRESHNESS)
    for target in SIZES:
        await site.get(target)
    await written(site)
    assert len(await s3.names(FOLDER)) == 5

    receipt = await site.purge(here.library.entry_id(KEY))

    assert receipt.status == 200
    await until(lambda: site.metric("imgproxy_outbox_lines", target="shared store") == 0)
    await until(lambda: site.metric("imgproxy_downstream_purges_total", target="shared store", result="done") >= 1)
    assert await s3.names(FOLDER) == []


async def test_a_killed_gateway_costs_a_miss(here: Edges, s3: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """Answers stay right. After some failures the store is not called; the log says so once, and once that it is back."""
    bodies = await filled(here, s3)
    await s3.stop()
    second = await here.start("second", s3.settings(), freshness=FRESHNESS)

    with caplog.at_level(logging.WARNING):
        answers = [await second.get(target) for target in SIZES]
        others = [await second.get(f"/{number}.jpg?w=20") for number in range(10)]
        await written(second)

    assert [answer.body for answer in answers] == bodies
    assert [answer.status for answer in others] == [200] * 10
    failed = sum(reads(second, kind, "error") for kind in ("facts", "original", "variant"))
    assert failed == FAILURES_MAX
    assert reads(second, "variant", "open") >= 5
    assert second.metric("imgproxy_shared_store_paused", operation="read") == 1
    said = [record.getMessage() for record in caplog.records if "no read for" in record.getMessage()]
    assert said == ["the shared store (read) is down: no connection; no read for 10 s, then one try"]


@pytest.mark.slow
async def test_a_killed_gateway_comes_back(here: Edges, strict: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """After its pause one call decides: the store is used again, and the log says so once."""
    bodies = await filled(here, strict)
    await strict.stop()
    second = await here.start("second", strict.settings(), freshness=FRESHNESS)
    for number in range(5):
        await second.get(f"/{number}.jpg?w=20")
    await written(second)
    breaker = second.edge.shared._reads._breaker  # type: ignore[union-attr]
    assert breaker.is_open
    await strict.start()
    breaker._open_until_s = 0.0

    with caplog.at_level(logging.WARNING):
        answers = [await second.get(target) for target in SIZES]

    assert [answer.body for answer in answers] == bodies
    assert all(HAS_DETAIL in answer.cache_status for answer in answers)
    said = [record.getMessage() for record in caplog.records if "is back" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("the shared store (read) is back after ")


@pytest.mark.slow
async def test_a_slow_gateway_costs_at_most_the_time_limit(here: Edges, s3: Gateway) -> None:
    """What does not come within `read_timeout_s` is a miss; the answer is made here."""
    bodies = await filled(here, s3)
    async with relay(s3.port) as line:
        second = await here.start("second", s3.settings(port=line.port, read_timeout_s=0.2), freshness=FRESHNESS)
        line.hold()

        answer = await second.get(SIZES[0])

        assert answer.body == bodies[0]
        assert reads(second, "facts", "error") == 1
        assert reads(second, "variant", "error") == 1
        assert await second.renders() == 1
        line.release()
        await written(second)


@pytest.mark.slow
async def test_wrong_bytes_are_deleted(here: Edges, s3: Gateway) -> None:
    """An object that another program has overwritten is a miss, and is written anew by the edge that saw it."""
    bodies = await filled(here, s3)
    names = [name for name in await s3.names(FOLDER) if not name.endswith(("facts", "original"))]
    for name in names:
        await s3.client().put_async(name, b"not a variant")
    second = await here.start("second", s3.settings())

    answers = [await second.get(target) for target in SIZES]
    await written(second)

    assert [answer.body for answer in answers] == bodies
    assert reads(second, "variant", "wrong") == 3
    third = await here.start("third", s3.settings())
    assert [(await third.get(target)).body for target in SIZES] == bodies
    assert await third.renders() == 0


async def test_an_edge_that_may_only_read_uses_what_is_there(here: Edges, strict: Gateway) -> None:
    """Without the right to write it reads, and its own writes are given up after a few failures."""
    bodies = await filled(here, strict)
    strict.allow("s3:GetObject", "s3:ListBucket")
    second = await here.start("second", strict.settings(access=LIMITED))

    answers = [await second.get(target) for target in SIZES]
    for number in range(FAILURES_MAX):
        await second.get(f"/{number}.jpg?w=20")
    await written(second)

    assert [answer.body for answer in answers] == bodies
    assert await second.renders() == FAILURES_MAX
    assert second.metric("imgproxy_shared_store_paused", operation="read") == 0
    assert second.metric("imgproxy_shared_store_paused", operation="write") == 1


async def test_denied_calls_cost_a_miss(here: Edges, strict: Gateway) -> None:
    """With a wrong key the edge works without the store."""
    s3 = strict
    bodies = await filled(here, s3)
    second = await here.start("second", s3.settings(secret="wrong-secret-key"), freshness=FRESHNESS)

    answers = [await second.get(target) for target in SIZES]
    await written(second)
    receipt = await second.purge(here.library.entry_id(KEY))

    assert [answer.body for answer in answers] == bodies
    assert reads(second, "facts", "error") == 1
    assert writes(second, "variant", "done") == 0
    assert receipt.status == 200
    await until(lambda: second.metric("imgproxy_downstream_purges_total", target="shared store", result="failed") >= 1)


# --- imgproxy check ---------------------------------------------------------------------------------------------------


async def checked(
    here: Edges, s3: Gateway, *, access: str = ACCESS, secret: str = SECRET_KEY, bucket: str = BUCKET
) -> tuple[int, str]:
    """Run `imgproxy check` with this store. Return its exit code and what it said."""
    file = here.folder / "imgproxy.toml"
    file.write_text(
        f"[origin]\nurl = '{here.library.url}'\ntoken = '{here.library.token}'\n[cache]\ndir = '{here.folder}/cache'\n"
        f"[shared_store]\nurl = 's3://{bucket}'\nendpoint = '{s3.url}'\nallow_http = true\nregion = 'us-east-1'\n"
        f"access_key_id = '{access}'\nsecret_key = '{secret}'\n"
    )
    code, said, _ = await asyncio.to_thread(run, "check", "-c", str(file))
    return code, said


@pytest.mark.usefixtures("no_libraries_tried")
async def test_check_tries_the_store(here: Edges, s3: Gateway) -> None:
    """It writes, reads, lists and deletes an object, and leaves nothing behind."""
    code, said = await checked(here, s3)

    assert code == 0, said
    assert f"the shared store s3://{BUCKET} can be written, read, listed and deleted from" in said
    assert await s3.names() == []


@pytest.mark.slow
@pytest.mark.usefixtures("no_libraries_tried")
async def test_check_names_the_right_that_is_missing(here: Edges, strict: Gateway) -> None:
    """A user without a right is told which one."""
    rights = ("s3:PutObject", "s3:GetObject", "s3:ListBucket", "s3:DeleteObject")
    for missing in rights:
        strict.allow(*(right for right in rights if right != missing))
        code, said = await checked(here, strict, access=LIMITED)
        assert code == 1
        assert said.count("; expected s3:") == 1
        assert f"AccessDenied; expected {missing}" in said

    strict.allow(*rights)
    code, said = await checked(here, strict, access=LIMITED)
    assert code == 0, said


@pytest.mark.usefixtures("no_libraries_tried")
async def test_check_names_what_is_wrong(here: Edges, strict: Gateway) -> None:
    """A wrong key, a bucket that does not exist, and a gateway that is down: one line each."""
    s3 = strict
    code, said = await checked(here, s3, secret="wrong-secret-key")
    assert code == 1
    assert "an object cannot be written: HTTP 403 Forbidden, SignatureDoesNotMatch; expected s3:PutObject" in said

    code, said = await checked(here, s3, bucket="another-bucket")
    assert code == 1
    assert "[shared_store] s3://another-bucket: an object cannot be written: the bucket does not exist" in said

    await s3.stop()
    code, said = await checked(here, s3)
    assert code == 1
    assert "an object cannot be written: no connection" in said
