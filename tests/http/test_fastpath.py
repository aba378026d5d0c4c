"""Hits answered from the memo: the same answers as the usual way gives, and never one that no longer stands."""

import asyncio
import io
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from imgproxy.config.sections import CacheSettings, FreshnessSettings, LogSettings, PurgeSettings
from imgproxy.edge.fast import server as fastpath
from tests.support.site import KEY, Reply, Site, jpeg, red_of, site, until

REQUEST = "GET {target} HTTP/1.1\r\nHost: edge\r\n{more}\r\n"


def is_fast(headers: Mapping[str, str]) -> bool:
    """Answers of the memo have no total in their Server-Timing."""
    return headers["Server-Timing"] == "memory"


async def warm(here: Site, target: str) -> None:
    """Have the answer made, and then prepared."""
    for _ in range(2):
        assert (await here.get(target)).status == 200


class Wire:
    """A raw connection to the edge."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, here: Site, limit: int = 2**24) -> "Wire":
        """Connect; the client reads no more than about `limit` bytes ahead."""
        host, port = here.edge.url.removeprefix("http://").split(":")
        return cls(*await asyncio.open_connection(host, int(port), limit=limit))

    async def read_answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)).decode("latin-1")
        lines = head.split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        body = await self.reader.readexactly(int(headers.get("Content-Length", "0")))
        return int(lines[0].split()[1]), headers, body

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


def test_the_library_still_has_a_place_for_it() -> None:
    """If an update of aiohttp takes the place away, this says so; the service would only be slower."""
    assert fastpath.is_supported()


async def test_a_repeated_hit_is_answered_from_the_memo_with_the_same_headers(tmp_path: Path) -> None:
    """Status, body and every header but the lively ones are those of the usual way."""
    async with site(tmp_path) as here:
        target = f"/{KEY}?w=50&auto=format&dl=a.jpg"
        usual = await here.get(target, Accept="image/webp")
        fast = await here.get(target, Accept="image/webp")

        lively = {"Server-Timing", "Cache-Status", "Date"}
        assert is_fast(fast.headers)
        assert fast.body == usual.body
        assert {name: value for name, value in fast.headers.items() if name not in lively} == {
            name: value for name, value in usual.headers.items() if name not in lively
        }
        assert fast.cache_status.startswith("imgproxy; hit; ttl=")
        assert here.metric("imgproxy_requests_total", outcome="hit", status="200") == 1
        assert here.metric("imgproxy_cache_hits_total", tier="memory") >= 1


async def test_clients_of_another_accept_class_get_their_own_format(tmp_path: Path) -> None:
    """The memo is by target and Accept class."""
    async with site(tmp_path) as here:
        target = f"/{KEY}?w=50&auto=format"
        for accept, kind in (("image/webp", "image/webp"), ("*/*", "image/jpeg")) * 2:
            assert (await here.get(target, Accept=accept)).headers["Content-Type"] == kind


async def test_conditions_are_answered_from_the_memo(tmp_path: Path) -> None:
    """A current tag is a 304 without a body, another one the picture."""
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
async def test_what_depends_on_other_headers_is_never_prepared(
    tmp_path: Path, query: str, name: str, value: str
) -> None:
    """With the header, without it, and with it again: each gets its own picture, by the usual way."""
    async with site(tmp_path) as here:
        target = f"/{KEY}?{query}"
        await warm(here, target)
        without = await here.get(target)
        answers = [await here.send("GET", target, headers={name: value}) for _ in range(3)]

        assert name in without.headers["Vary"]
        assert not any(is_fast(answer.headers) for answer in (without, *answers))
        assert {answer.headers["ETag"] for answer in answers}.isdisjoint({without.headers["ETag"]})


@pytest.mark.parametrize(("name", "value"), [("Range", "bytes=0-1"), ("Save-Data", "on"), ("DPR", "2")])
async def test_headers_that_do_not_matter_change_nothing(tmp_path: Path, name: str, value: str) -> None:
    """A picture that depends on none of them is the same with each of them, prepared or not."""
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


async def test_a_stale_original_is_asked_for_again_through_the_memo_too(tmp_path: Path) -> None:
    """A hit that is no longer fresh goes the usual way, which revalidates."""
    async with site(tmp_path, freshness=FreshnessSettings(revalidate_after_s=0)) as here:
        await warm(here, f"/{KEY}?w=50")
        await here.get(f"/{KEY}?w=50")

        await until(lambda: here.metric("imgproxy_origin_answers_total", answer="not_modified") >= 1)


def cold_memory(tmp_path: Path) -> CacheSettings:
    """A cache whose memory holds about six small variants."""
    return CacheSettings(dir=tmp_path / "cache", min_free_bytes=0, hot_max_bytes=12_000)


async def known_from_disk(here: Site) -> Reply:
    """Have `/KEY?w=50` prepared, read from disk once, and then pushed out of memory."""
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
    """The file of the variant of `/KEY?w=50`, told apart by its size."""
    files = (tmp_path / "cache").glob("keys/*/*/v-*")
    return min(files, key=lambda path: path.stat().st_size)


async def test_an_evicted_variant_is_read_from_disk_and_answered_by_the_memo(tmp_path: Path) -> None:
    """The memo holds no bytes of its own; it knows the file that it has seen, and notes that it was used."""
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
        # Read twice in a row it is worth its place in memory.
        assert (is_fast(again.headers), again.body) == (True, usual.body)
        assert here.metric("imgproxy_cache_hits_total", tier="disk") >= 3


async def test_a_condition_needs_no_file(tmp_path: Path) -> None:
    """A 304 of the memo costs no read, even where the variant has left memory and disk."""
    async with site(tmp_path, cache=cold_memory(tmp_path)) as here:
        usual = await known_from_disk(here)
        for path in (tmp_path / "cache").glob("keys/*/*/v-*"):
            path.unlink()
        answer = await here.get(f"/{KEY}?w=50", If_None_Match=usual.headers["ETag"])

        assert (answer.status, is_fast(answer.headers)) == (304, True)


@pytest.mark.parametrize("way", ["written over", "replaced", "gone"])
async def test_a_file_that_is_not_the_one_that_was_seen_is_a_miss(tmp_path: Path, way: str) -> None:
    """Other bytes under the variant's name are never answered, whatever wrote them and whatever time it gave them."""
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
    """Even after the purge is collected and its epoch forgotten, and were the old file back under its name."""
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
    """A soft purge counts for variants that have left memory, too: the next answer is said to be stale."""
    async with site(tmp_path, cache=cold_memory(tmp_path)) as here:
        entry = here.library.entry_id(KEY)
        await here.edge.purges.learn(entry)  # that an entry becomes known ends what was prepared, too
        await known_from_disk(here)
        assert (await here.get(f"/{KEY}?w=50")).headers["Server-Timing"] == "disk"
        await here.purge(entry, "?soft=1")
        answer = await here.get(f"/{KEY}?w=50")

        assert answer.headers["Server-Timing"] not in ("memory", "disk")
        await until(lambda: here.metric("imgproxy_origin_answers_total", answer="not_modified") >= 1)


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    """Hits and others mixed on one connection, sent at once."""
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
    """The connection is the same for both ways."""
    async with site(tmp_path) as here:
        await warm(here, f"/{KEY}?w=50")
        wire = await Wire.to(here)
        for _ in range(50):
            wire.writer.write(REQUEST.format(target=f"/{KEY}?w=50", more="").encode())
            status, headers, _ = await wire.read_answer()
            assert (status, is_fast(headers)) == (200, True)
        wire.writer.write(REQUEST.format(target=f"/{KEY}?w=77", more="").encode())
        status, headers, _ = await wire.read_answer()
        assert (status, is_fast(headers)) == (200, False)
        await wire.close()


async def test_a_request_in_pieces_is_put_together(tmp_path: Path) -> None:
    """A head that comes byte by byte is one request."""
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
    "junk", [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n"]
)
async def test_what_is_no_http_is_400_and_closes_that_connection_alone(tmp_path: Path, junk: bytes) -> None:
    """After a hit on the same connection, too."""
    async with site(tmp_path) as here:
        await warm(here, f"/{KEY}?w=50")
        wire = await Wire.to(here)
        wire.writer.write(REQUEST.format(target=f"/{KEY}?w=50", more="").encode())
        assert (await wire.read_answer())[0] == 200
        wire.writer.write(junk)
        assert (await wire.reader.readline()).split()[1] == b"400"
        await wire.close()
        assert (await here.get(f"/{KEY}?w=50")).status == 200


async def test_a_client_that_does_not_read_is_cut_by_a_purge(tmp_path: Path) -> None:
    """Bytes of a hit that still wait in this process when the purge comes are never sent."""
    out = io.BytesIO()
    Image.effect_noise((2400, 2400), 90).convert("RGB").save(out, "PNG", compress_level=1)
    settings = CacheSettings(dir=tmp_path / "cache", min_free_bytes=0, hot_item_max_bytes=50_000_000)
    pictures = {KEY: out.getvalue()}
    async with site(tmp_path, purge=PurgeSettings(drain_s=0.05), pictures=pictures, cache=settings) as here:
        target = f"/{KEY}?w=2400&fm=png"
        await warm(here, target)
        wire = await Wire.to(here, limit=1024)
        wire.writer.write(REQUEST.format(target=target, more="").encode())
        head = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 20)
        assert b"Server-Timing: memory" in head

        receipt = await here.purge(here.library.entry_id(KEY))

        assert receipt.json()["cut"] == 1
        await wire.close()


async def test_hits_are_logged_where_all_requests_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With `access = "all"` also those of the fast path."""
    caplog.set_level("INFO", "imgproxy.access")
    async with site(tmp_path, log=LogSettings(access="all")) as here:
        await warm(here, f"/{KEY}?w=50")

    assert len([record for record in caplog.records if record.name == "imgproxy.access"]) == 2
