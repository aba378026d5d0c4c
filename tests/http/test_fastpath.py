"""Hits answered from the memo: the same answers as delivery gives, and never one that a purge or a change has ended."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from imgproxy.config.sections import CacheSettings, FreshnessSettings, LogSettings, PurgeSettings
from imgproxy.edge.fast import server as fastpath
from tests.support.site import KEY, Reply, Site, jpeg, png_of_noise, red_of, site, until
from tests.support.wire import REQUEST, Wire


def is_fast(headers: Mapping[str, str]) -> bool:
    """Whether the memo has answered from memory: then Server-Timing has nothing but that word."""
    return headers["Server-Timing"] == "memory"


async def warm(here: Site, target: str) -> None:
    """Have the answer made, and prepared for the memo."""
    for _ in range(2):
        assert (await here.get(target)).status == 200


def test_the_installed_aiohttp_supports_the_fast_path() -> None:
    """If an update of aiohttp breaks it, this test says so; the service itself would only be slower."""
    assert fastpath.is_supported()


async def test_a_repeated_hit_is_answered_from_the_memo_with_the_same_headers(tmp_path: Path) -> None:
    """Status, body and headers are those of the first answer, but for the headers that change with every answer."""
    async with site(tmp_path) as here:
        target = f"/{KEY}?w=50&auto=format&dl=a.jpg"
        usual = await here.get(target, Accept="image/webp")
        fast = await here.get(target, Accept="image/webp")

        # A hit without a line in the log has no id.
        changing = {"Server-Timing", "Cache-Status", "Date", "X-Request-Id"}
        assert is_fast(fast.headers)
        assert fast.body == usual.body
        assert {name: value for name, value in fast.headers.items() if name not in changing} == {
            name: value for name, value in usual.headers.items() if name.title() not in changing
        }
        assert fast.cache_status.startswith("imgproxy; hit; ttl=")
        assert here.metric("imgproxy_requests_total", outcome="hit", status="200") == 1
        assert here.metric("imgproxy_cache_hits_total", tier="memory") >= 1


async def test_clients_of_another_accept_class_get_their_own_format(tmp_path: Path) -> None:
    """The memo keeps answers by target and Accept class."""
    async with site(tmp_path) as here:
        target = f"/{KEY}?w=50&auto=format"
        for accept, kind in (("image/webp", "image/webp"), ("*/*", "image/jpeg")) * 2:
            assert (await here.get(target, Accept=accept)).headers["Content-Type"] == kind


async def test_conditions_are_answered_from_the_memo(tmp_path: Path) -> None:
    """A current tag gets a 304 without a body; another tag gets the picture."""
    async with site(tmp_path) as here:
        target = f"/{KEY}?w=50"
        await warm(here, target)
        etag = (await here.get(target)).headers["ETag"]
        same = await here.get(target, If_None_Match=etag)
        other = await here.get(target, If_None_Match='"other"')

        assert (same.status, same.body, is_fast(same.headers)) == (304, b"", True)
        assert same.headers["ETag"] == etag
        assert "Content-Type" not in same.headers
        assert (other.status, is_fast(other.headers)) == (200, True)


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [("w=50&ch=save-data", "Save-Data", "on"), ("w=50&ch=dpr", "DPR", "2"), ("w=50&ch=width", "Width", "20")],
)
async def test_an_answer_that_depends_on_a_client_hint_is_never_prepared(
    tmp_path: Path, query: str, name: str, value: str
) -> None:
    """Requests with and without the hint get pictures of their own, and none comes from the memo."""
    async with site(tmp_path) as here:
        target = f"/{KEY}?{query}"
        await warm(here, target)
        without = await here.get(target)
        answers = [await here.send("GET", target, headers={name: value}) for _ in range(3)]

        assert name in without.headers["Vary"]
        assert not any(is_fast(answer.headers) for answer in (without, *answers))
        assert {answer.headers["ETag"] for answer in answers}.isdisjoint({without.headers["ETag"]})


@pytest.mark.parametrize(("name", "value"), [("Range", "bytes=0-1"), ("Save-Data", "on"), ("DPR", "2")])
async def test_headers_without_effect_on_the_picture_change_nothing(tmp_path: Path, name: str, value: str) -> None:
    """The picture is the same with each of them, from the memo or not."""
    async with site(tmp_path) as here:
        target = f"/{KEY}?w=50"
        usual = await here.send("GET", target, headers={name: value})
        await warm(here, target)
        fast = await here.send("GET", target, headers={name: value})

        assert (usual.status, is_fast(usual.headers)) == (200, False)
        assert (fast.status, is_fast(fast.headers)) == (200, True)
        assert fast.body == usual.body


async def test_a_purge_ends_what_the_memo_knows(tmp_path: Path) -> None:
    """The next answer after the acknowledgement is made of the new picture."""
    async with site(tmp_path, freshness=FreshnessSettings(settle_s=0)) as here:
        await warm(here, f"/{KEY}?w=50")
        await here.library.put(KEY, jpeg(20))
        await here.purge(here.library.entry_id(KEY))

        assert abs(red_of((await here.get(f"/{KEY}?w=50")).body) - 20) <= 2


async def test_a_stale_original_is_revalidated_although_the_memo_has_the_answer(tmp_path: Path) -> None:
    """The memo does not answer with a stale original, so delivery revalidates it."""
    async with site(tmp_path, freshness=FreshnessSettings(revalidate_after_s=0)) as here:
        await warm(here, f"/{KEY}?w=50")
        await here.get(f"/{KEY}?w=50")

        await until(lambda: here.metric("imgproxy_origin_answers_total", answer="not_modified") >= 1)


def cold_memory(tmp_path: Path) -> CacheSettings:
    """Return a cache whose memory holds about six small variants."""
    return CacheSettings(dir=tmp_path / "cache", min_free_bytes=0, hot_max_bytes=12_000)


async def known_from_disk(here: Site) -> Reply:
    """Have `/KEY?w=50` prepared, read from disk once, and evicted from memory."""
    target = f"/{KEY}?w=50"
    await warm(here, target)
    for width in (*range(60, 70), 50, *range(60, 70)):
        answer = await here.get(f"/{KEY}?w={width}")
        assert answer.status == 200
        if width == 50:
            reply = answer
    assert here.edge.cache.hot.used_bytes <= 12_000
    return reply


def file_of(here: Site, tmp_path: Path) -> Path:
    """Return the file of the variant of `/KEY?w=50`, which is the smallest."""
    files = (tmp_path / "cache").glob("keys/*/*/v-*")
    return min(files, key=lambda path: path.stat().st_size)


async def test_an_evicted_variant_is_read_from_disk_and_answered_by_the_memo(tmp_path: Path) -> None:
    """The memo has no bytes of its own; it knows the file that was read before, and notes its use."""
    async with site(tmp_path, cache=cold_memory(tmp_path)) as here:
        usual = await known_from_disk(here)
        here.edge.cache.store.ledger.take_touched()
        fast = await here.get(f"/{KEY}?w=50")
        second = await here.get(f"/{KEY}?w=50")
        again = await here.get(f"/{KEY}?w=50")

        assert usual.cache_status.endswith("detail=disk")
        assert (second.headers["Server-Timing"], second.body) == ("disk", usual.body)
        assert (fast.headers["Server-Timing"], fast.body) == ("disk", usual.body)
        assert fast.cache_status.endswith("detail=disk")
        assert len(here.edge.cache.store.ledger.take_touched()) == 1
        # A variant that is read twice in a row goes into memory.
        assert (is_fast(again.headers), again.body) == (True, usual.body)
        assert here.metric("imgproxy_cache_hits_total", tier="disk") >= 3


async def test_a_condition_needs_no_file(tmp_path: Path) -> None:
    """A 304 of the memo reads nothing: the variant is neither in memory nor on disk."""
    async with site(tmp_path, cache=cold_memory(tmp_path)) as here:
        usual = await known_from_disk(here)
        for path in (tmp_path / "cache").glob("keys/*/*/v-*"):
            path.unlink()
        answer = await here.get(f"/{KEY}?w=50", If_None_Match=usual.headers["ETag"])

        assert (answer.status, is_fast(answer.headers)) == (304, True)


@pytest.mark.parametrize("way", ["written over", "replaced", "gone"])
async def test_a_file_that_is_not_the_one_that_was_read_before_is_a_miss(tmp_path: Path, way: str) -> None:
    """Other bytes under the variant's name are never sent, even with the size and the time of the right file."""
    async with site(tmp_path, cache=cold_memory(tmp_path)) as here:
        usual = await known_from_disk(here)
        path = file_of(here, tmp_path)
        status = path.stat()
        foreign = bytes(status.st_size)
        if way == "written over":
            path.write_bytes(foreign)
        else:
            path.unlink()
        if way == "replaced":
            path.write_bytes(foreign)
        if way != "gone":
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        answer = await here.get(f"/{KEY}?w=50")

        assert (answer.status, answer.body) == (200, usual.body)
        assert answer.headers["Server-Timing"] not in ("memory", "disk")


async def test_a_purge_ends_what_the_memo_knows_of_the_disk(tmp_path: Path) -> None:
    """Even after the purge's epoch is forgotten, and with the old file back under its name."""
    freshness = FreshnessSettings(settle_s=0)
    async with site(tmp_path, cache=cold_memory(tmp_path), freshness=freshness) as here:
        await known_from_disk(here)
        path = file_of(here, tmp_path)
        os.link(path, tmp_path / "kept")
        await here.library.put(KEY, jpeg(20))
        await here.purge(here.library.entry_id(KEY))
        await until(lambda: not len(here.edge.cache.epochs))
        path.parent.mkdir(parents=True, exist_ok=True)
        os.rename(tmp_path / "kept", path)

        assert abs(red_of((await here.get(f"/{KEY}?w=50")).body) - 20) <= 2


async def test_another_proof_of_the_original_ends_what_the_memo_knows_of_the_disk(tmp_path: Path) -> None:
    """After a soft purge the next answer is stale, also for a variant that is on disk alone."""
    async with site(tmp_path, cache=cold_memory(tmp_path)) as here:
        entry = here.library.entry_id(KEY)
        await here.edge.purges.learn(entry)  # a newly known entry changes the tags, and so ends prepared answers
        await known_from_disk(here)
        assert (await here.get(f"/{KEY}?w=50")).headers["Server-Timing"] == "disk"
        await here.purge(entry, "?soft=1")
        answer = await here.get(f"/{KEY}?w=50")

        assert answer.headers["Server-Timing"] not in ("memory", "disk")
        await until(lambda: here.metric("imgproxy_origin_answers_total", answer="not_modified") >= 1)


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    """Hits, a miss and an admin route, sent at once over one connection."""
    async with site(tmp_path) as here:
        await warm(here, f"/{KEY}?w=50")
        wire = await Wire.to(here)
        targets = [f"/{KEY}?w=50", f"/{KEY}?w=51", f"/{KEY}?w=50", "/-/health", f"/{KEY}?w=50"]
        wire.writer.write("".join(REQUEST.format(target=target, more="") for target in targets).encode())
        answers = [await wire.read_answer() for _ in targets]
        await wire.close()

        kinds = [headers["Content-Type"] for _, headers, _ in answers]
        assert [status for status, _, _ in answers] == [200] * 5
        assert [kind.split(";")[0] for kind in kinds] == ["image/jpeg"] * 3 + ["application/json", "image/jpeg"]
        assert answers[0][2] == answers[2][2] == answers[4][2] != answers[1][2]


async def test_many_hits_on_one_connection_and_then_a_miss(tmp_path: Path) -> None:
    """The fast path hands the connection over to aiohttp and takes it back."""
    async with site(tmp_path) as here:
        await warm(here, f"/{KEY}?w=50")
        wire = await Wire.to(here)
        for _ in range(50):
            wire.ask(f"/{KEY}?w=50")
            status, headers, _ = await wire.read_answer()
            assert (status, is_fast(headers)) == (200, True)
        wire.ask(f"/{KEY}?w=77")
        status, headers, _ = await wire.read_answer()
        assert (status, is_fast(headers)) == (200, False)
        await wire.close()


async def test_a_request_in_pieces_is_put_together(tmp_path: Path) -> None:
    """A head that arrives byte by byte is one request."""
    async with site(tmp_path) as here:
        await warm(here, f"/{KEY}?w=50")
        wire = await Wire.to(here)
        for byte in REQUEST.format(target=f"/{KEY}?w=50", more="").encode():
            wire.writer.write(bytes([byte]))
            await wire.writer.drain()
            await asyncio.sleep(0)
        assert (await wire.read_answer())[0] == 200
        await wire.close()


@pytest.mark.parametrize(
    "junk", [b"nonsense\r\n\r\n", b"GET / HTTPS/1.1\r\n\r\n", b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n"]
)
async def test_bytes_that_are_not_http_are_400_and_close_that_connection_alone(tmp_path: Path, junk: bytes) -> None:
    """Also after a hit on the same connection."""
    async with site(tmp_path) as here:
        await warm(here, f"/{KEY}?w=50")
        wire = await Wire.to(here)
        wire.ask(f"/{KEY}?w=50")
        assert (await wire.read_answer())[0] == 200
        wire.writer.write(junk)
        assert (await wire.reader.readline()).split()[1] == b"400"
        await wire.close()
        assert (await here.get(f"/{KEY}?w=50")).status == 200


async def test_a_purge_cuts_a_hit_whose_client_does_not_read(tmp_path: Path) -> None:
    """Bytes that are still in this process when the purge comes are never sent."""
    settings = CacheSettings(dir=tmp_path / "cache", min_free_bytes=0, hot_item_max_bytes=50_000_000)
    pictures = {KEY: png_of_noise(2400)}
    async with site(tmp_path, purge=PurgeSettings(drain_s=0.05), pictures=pictures, cache=settings) as here:
        target = f"/{KEY}?w=2400&fm=png"
        await warm(here, target)
        wire = await Wire.to(here, limit=1024)
        wire.ask(target)
        head = await wire.read_head()
        assert b"Server-Timing: memory" in head

        receipt = await here.purge(here.library.entry_id(KEY))

        assert receipt.json()["cut"] == 1
        await wire.close()


async def test_hits_are_logged_where_all_requests_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With `access = "all"`, hits of the fast path are in the log, too."""
    caplog.set_level("INFO", "imgproxy.access")
    async with site(tmp_path, log=LogSettings(access="all")) as here:
        await warm(here, f"/{KEY}?w=50")

    assert len([record for record in caplog.records if record.name == "imgproxy.access"]) == 2
