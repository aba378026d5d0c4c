"""No date proves a copy: after a purge, a client that has only a date gets the new picture, however it is answered."""

import asyncio
import os
from pathlib import Path

import pytest

from imgproxy.config.sections import CacheSettings, FreshnessSettings
from imgproxy.failpoints import Point
from tests.support.site import KEY, Held, Reply, Site, jpeg, red_of, site

OLD, NEW = 200, 20
MARK = "logos/mark.png"
SMALL = f"/{KEY}?w=50"
MARKED = f"/{KEY}?w=50&fm=jpg&mark=/{MARK}&mark-w=50&mark-h=50&mark-pad=0&mark-fit=scale"
FILE_TIME_S = 1_700_000_000
LATER = "Fri, 01 Jan 2100 00:00:00 GMT"
NOT_SETTLING = FreshnessSettings(settle_s=0)
# How the newsroom replaces the picture: the time of the new file, against that of the old one.
REPLACEMENTS = {"by an older file": FILE_TIME_S - 86_400, "within the same second": FILE_TIME_S}


async def put(here: Site, tmp_path: Path, key: str, red: int, time_s: int) -> None:
    """Put a picture of one colour with this modification time into the library."""
    await here.library.put(key, jpeg(red))
    os.utime(tmp_path / "photos" / key, (time_s, time_s))
    await here.library.rescan()


async def purged(here: Site, tmp_path: Path, key: str, time_s: int) -> None:
    """Replace a picture, and purge it."""
    await put(here, tmp_path, key, NEW, time_s)
    assert (await here.purge(here.library.entry_id(key))).status == 200


def dates(*known: Reply) -> list[str]:
    """Return every date that a client may have kept of these answers, and one in the future."""
    found = [reply.headers[name] for reply in known for name in ("Last-Modified", "Date") if name in reply.headers]
    return [*dict.fromkeys(found), LATER]


async def assert_new(here: Site, target: str, known: str, *, method: str = "GET", status: int = 200) -> None:
    """Check that a request with this date alone gets the new picture."""
    reply = await here.send(method, target, headers={"If-Modified-Since": known})
    assert reply.status == status
    if method == "GET":
        assert abs(red_of(reply.body) - NEW) < 10


async def test_no_answer_has_a_last_modified_date(tmp_path: Path) -> None:
    """Variants and originals have an entity tag and no Last-Modified, so a cache in front cannot answer by date."""
    async with site(tmp_path) as here:
        for target in (SMALL, f"/{KEY}"):
            for _ in range(2):
                reply = await here.get(target)
                assert "ETag" in reply.headers
                assert "Last-Modified" not in reply.headers


@pytest.mark.parametrize("time_s", REPLACEMENTS.values(), ids=REPLACEMENTS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("hot_max_bytes", [64_000_000, 0], ids=["memory", "disk"])
async def test_a_replaced_picture(tmp_path: Path, time_s: int, method: str, hot_max_bytes: int) -> None:
    """The first request after the purge renders; the next ones are hits of the fast path, or from disk."""
    cache = CacheSettings(dir=tmp_path / "cache", min_free_bytes=0, hot_max_bytes=hot_max_bytes)
    async with site(tmp_path, freshness=NOT_SETTLING, cache=cache) as here:
        await put(here, tmp_path, KEY, OLD, FILE_TIME_S)
        first, again = await here.get(SMALL), await here.get(SMALL)
        await purged(here, tmp_path, KEY, time_s)

        for known in dates(first, again):
            for _ in range(3):
                await assert_new(here, SMALL, known, method=method)
        by_tag = await here.get(SMALL, If_None_Match=again.headers["ETag"])
        assert by_tag.status == 200


@pytest.mark.parametrize("time_s", REPLACEMENTS.values(), ids=REPLACEMENTS)
async def test_a_replaced_original(tmp_path: Path, time_s: int) -> None:
    """An original that is passed on is the new one too, and a date in If-Range never gets a part of it."""
    async with site(tmp_path, freshness=NOT_SETTLING) as here:
        await put(here, tmp_path, KEY, OLD, FILE_TIME_S)
        first = await here.get(f"/{KEY}")
        await purged(here, tmp_path, KEY, time_s)

        for known in dates(first):
            await assert_new(here, f"/{KEY}", known)
            part = await here.get(f"/{KEY}", Range="bytes=10-", If_Range=known)
            assert part.status == 200
            assert abs(red_of(part.body) - NEW) < 10


@pytest.mark.parametrize("time_s", REPLACEMENTS.values(), ids=REPLACEMENTS)
async def test_a_replaced_watermark(tmp_path: Path, time_s: int) -> None:
    """The picture is the same and its watermark is another one: a date of the picture says nothing about that."""
    pictures = {KEY: jpeg(NEW), MARK: jpeg(OLD)}
    async with site(tmp_path, pictures=pictures, freshness=NOT_SETTLING) as here:
        await put(here, tmp_path, MARK, OLD, FILE_TIME_S)
        first = await here.get(MARKED)
        await purged(here, tmp_path, MARK, time_s)

        for known in dates(first):
            for _ in range(2):
                reply = await here.get(MARKED, If_Modified_Since=known)
                assert reply.status == 200
                assert reply.body != first.body


@pytest.mark.parametrize("time_s", REPLACEMENTS.values(), ids=REPLACEMENTS)
async def test_an_answer_shared_among_waiters(tmp_path: Path, time_s: int) -> None:
    """Requests that wait together for the new render all get it, also those with a date."""
    held = Held()
    async with site(tmp_path, failpoints=held, freshness=NOT_SETTLING) as here:
        await put(here, tmp_path, KEY, OLD, FILE_TIME_S)
        first = await here.get(SMALL)
        await purged(here, tmp_path, KEY, time_s)
        held.hold(Point.AFTER_RENDER)
        headers: list[dict[str, str]] = [{}, *({"If_Modified_Since": known} for known in dates(first))]
        waiting = [asyncio.create_task(here.get(SMALL, **named)) for named in headers]
        await held.arrived(Point.AFTER_RENDER)
        held.release(Point.AFTER_RENDER)

        replies = await asyncio.gather(*waiting)
        assert [reply.status for reply in replies] == [200] * len(headers)
        assert all(abs(red_of(reply.body) - NEW) < 10 for reply in replies)
