"""A purge meets a request at every point of its way: no old byte is sent after the acknowledgement."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgproxy.config.sections import CacheSettings, FreshnessSettings, PurgeSettings
from imgproxy.delivery.delivery import TRIES
from imgproxy.failpoints import Point
from imgproxy.purge.entry_keys import ListedKeys
from tests.support.site import KEY, Held, Site, jpeg, red_of, site, until

if TYPE_CHECKING:
    from imgproxy.medialibrary.server.probe import Point as LibraryPoint

OLD, NEW = 200, 20
QUICK = PurgeSettings(drain_s=0.05)
NO_SETTLING = FreshnessSettings(settle_s=0)
HOLDING_POINTS = [
    Point.BEFORE_FETCH,
    Point.AFTER_FETCH,
    Point.AFTER_RENDER,
    Point.AFTER_RENAME,
    Point.BEFORE_RESPONSE,
]


async def purged(here: Site, times: int = 1) -> None:
    """Edit the picture at the origin and purge it; when this returns the purge is acknowledged."""
    await here.library.put(KEY, jpeg(NEW))
    for _ in range(times):
        assert (await here.purge(here.library.entry_id(KEY))).status == 200


def is_new(body: bytes) -> bool:
    return abs(red_of(body) - NEW) <= 3


@pytest.mark.parametrize("point", HOLDING_POINTS)
async def test_a_request_held_at_any_point_answers_with_the_new_picture(tmp_path: Path, point: Point) -> None:
    """A request that is purged while it is held sends no old bytes, and stores none."""
    held = Held()
    async with site(tmp_path, failpoints=held, freshness=NO_SETTLING) as here:
        held.hold(point)
        request = asyncio.create_task(here.get(f"/{KEY}?w=50"))
        await held.arrived(point)
        await purged(here)
        held.release(point)

        assert is_new((await request).body)
        again = await here.get(f"/{KEY}?w=50")
        assert is_new(again.body)
        assert "hit" in again.cache_status


@pytest.mark.parametrize("point", HOLDING_POINTS)
async def test_every_request_of_a_stale_flight_gets_the_new_picture(tmp_path: Path, point: Point) -> None:
    """Each of five requests that share a flight checks for itself."""
    held = Held()
    async with site(tmp_path, failpoints=held, freshness=NO_SETTLING) as here:
        held.hold(point)
        requests = [asyncio.create_task(here.get(f"/{KEY}?w=50")) for _ in range(5)]
        await held.arrived(point)
        await until(lambda: here.metric("imgproxy_requests_in_flight") == 5)
        await purged(here)
        held.release(point)

        replies = await asyncio.gather(*requests)
        assert all(is_new(reply.body) for reply in replies)


@pytest.mark.parametrize("point", HOLDING_POINTS)
async def test_after_the_acknowledgement_a_new_request_does_not_join_the_old_flight(
    tmp_path: Path, point: Point
) -> None:
    """While the old request is still held, a new one gets the new picture."""
    held = Held()
    async with site(tmp_path, failpoints=held, freshness=NO_SETTLING) as here:
        held.hold(point)
        old = asyncio.create_task(here.get(f"/{KEY}?w=50"))
        await held.arrived(point)
        let_go = held.stop_holding(point)
        await purged(here)

        new = await here.get(f"/{KEY}?w=50")
        let_go()

        assert is_new(new.body)
        assert is_new((await old).body)


@pytest.mark.parametrize("point", [Point.AFTER_RENDER, Point.BEFORE_RESPONSE])
async def test_a_picture_revoked_while_it_is_made_is_refused(tmp_path: Path, point: Point) -> None:
    """The held request is a 403, and nothing of the picture stays on disk."""
    held = Held()
    async with site(tmp_path, failpoints=held) as here:
        held.hold(point)
        request = asyncio.create_task(here.get(f"/{KEY}?w=50"))
        await held.arrived(point)
        await here.library.mark_invalid(here.library.entry_id(KEY))
        await here.purge(here.library.entry_id(KEY))
        held.release(point)

        assert (await request).status == 403
        await until(lambda: list((tmp_path / "cache" / "keys").glob("*/*")) == [])


async def test_a_request_that_is_purged_again_and_again_is_a_503(tmp_path: Path) -> None:
    """A request starts over some times; after the last purge the client may try again at once."""
    held = Held()
    async with site(tmp_path, failpoints=held, freshness=NO_SETTLING) as here:
        held.hold(Point.BEFORE_RESPONSE)
        request = asyncio.create_task(here.get(f"/{KEY}?w=50"))
        for _ in range(TRIES):
            await held.arrived(Point.BEFORE_RESPONSE)
            await purged(here)
            held.hold_again(Point.BEFORE_RESPONSE)

        reply = await request
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")


async def test_an_answer_under_way_is_cut_before_the_acknowledgement(tmp_path: Path) -> None:
    """A client that has half of the old bytes does not get the rest after the purge."""
    held = Held()
    settings = CacheSettings(dir=tmp_path / "cache", min_free_bytes=0, hot_max_bytes=0)
    noise = jpeg(OLD, (1600, 1200))
    async with site(tmp_path, failpoints=held, cache=settings, purge=QUICK, pictures={KEY: noise}) as here:
        await here.get(f"/{KEY}?w=1600&fm=png")
        held.hold(Point.MID_RESPONSE)
        request = asyncio.create_task(here.get(f"/{KEY}"))
        await held.arrived(Point.MID_RESPONSE)

        receipt = await here.purge(here.library.entry_id(KEY))
        held.release(Point.MID_RESPONSE)

        assert receipt.json()["cut"] == 1
        await asyncio.gather(request, return_exceptions=True)


async def test_a_304_of_the_origin_does_not_bring_back_what_a_purge_removed(tmp_path: Path) -> None:
    """A revalidation under way when the purge comes is thrown away."""
    held = Held()
    stale_at_once = FreshnessSettings(revalidate_after_s=0, settle_s=0)
    async with site(tmp_path, failpoints=held, freshness=stale_at_once) as here:
        await here.get(f"/{KEY}?w=50")
        held.hold(Point.AFTER_FETCH)
        await here.get(f"/{KEY}?w=50")
        await held.arrived(Point.AFTER_FETCH)
        assert here.metric("imgproxy_origin_answers_total", answer="not_modified") == 1
        await purged(here)
        held.release(Point.AFTER_FETCH)
        await until(lambda: here.metric("imgproxy_overtaken_total", point="revalidation") == 1)

        assert is_new((await here.get(f"/{KEY}?w=50")).body)


async def test_a_403_under_way_is_not_remembered_after_the_picture_is_allowed_again(tmp_path: Path) -> None:
    """The purge that allows the picture ends the refusal, also one that has not arrived yet."""
    held = Held()
    async with site(tmp_path, failpoints=held) as here:
        entry = here.library.entry_id(KEY)
        await here.library.mark_invalid(entry)
        here.probe.hold("headers")
        held.hold(Point.BEFORE_FETCH)
        request = asyncio.create_task(here.get(f"/{KEY}?w=50"))
        await held.arrived(Point.BEFORE_FETCH)
        await here.library.mark_invalid(entry, is_invalid=False)
        await here.purge(entry, "?reason=active")
        held.release(Point.BEFORE_FETCH)
        here.probe.release("headers")

        assert (await request).status == 200


async def test_a_late_answer_of_the_origin_with_the_old_picture_is_thrown_away(tmp_path: Path) -> None:
    """The purge comes while the library's answer is held, before its headers or in its body."""
    points: tuple[LibraryPoint, ...] = ("headers", "body")
    for point in points:
        where = tmp_path / point
        async with site(where, freshness=NO_SETTLING) as here:
            here.probe.hold(point)
            request = asyncio.create_task(here.get(f"/{KEY}?w=50"))
            await here.probe.arrived(point)
            await purged(here)
            here.probe.release(point)

            assert is_new((await request).body), point


async def test_head_range_and_304_are_checked_like_any_answer(tmp_path: Path) -> None:
    """Each is checked for a purge before it begins."""
    held = Held()
    async with site(tmp_path, failpoints=held, freshness=NO_SETTLING) as here:
        old = await here.get(f"/{KEY}")
        held.hold(Point.BEFORE_RESPONSE)
        requests = [
            asyncio.create_task(here.send("HEAD", f"/{KEY}")),
            asyncio.create_task(here.get(f"/{KEY}", Range="bytes=0-9")),
            asyncio.create_task(here.get(f"/{KEY}", If_None_Match=old.headers["ETag"])),
        ]
        await held.arrived(Point.BEFORE_RESPONSE, 3)
        await purged(here)
        held.release(Point.BEFORE_RESPONSE)
        head, part, conditional = await asyncio.gather(*requests)

        assert head.headers["ETag"] != old.headers["ETag"]
        assert part.headers["ETag"] != old.headers["ETag"]
        assert (conditional.status, is_new(conditional.body)) == (200, True)


async def test_a_purge_that_comes_while_another_is_under_way_does_not_join_it(tmp_path: Path) -> None:
    """A picture that was fetched after the first purge is old to the second."""
    asked, may_answer = asyncio.Event(), asyncio.Event()
    patient = PurgeSettings(expand_timeout_s=60)
    async with site(tmp_path, freshness=NO_SETTLING, purge=patient) as here:
        entry, ask = here.library.entry_id(KEY), here.edge.entries.ask
        assert (await here.purge(entry)).status == 200  # its key is known from now on

        async def ask_in_time(entry: str) -> ListedKeys:
            asked.set()
            await may_answer.wait()
            return await ask(entry)

        here.edge.entries.ask = ask_in_time  # type: ignore[method-assign]
        first = asyncio.create_task(here.purge(entry))
        await asked.wait()
        await until(lambda: here.edge.cache.epochs.seq == 2)
        assert not is_new((await here.get(f"/{KEY}?w=50")).body)
        await here.library.put(KEY, jpeg(NEW))
        second = asyncio.create_task(here.purge(entry))
        await until(lambda: len(here.edge.purges._entry_purges._queued) == 1)  # the second waits for the first
        may_answer.set()

        assert [reply.status for reply in await asyncio.gather(first, second)] == [200, 200]
        assert is_new((await here.get(f"/{KEY}?w=50")).body)


async def test_a_check_after_the_settle_time_does_not_join_a_revalidation_under_way(tmp_path: Path) -> None:
    """The revalidation may have asked the origin too early."""
    held = Held()
    stale_at_once = FreshnessSettings(revalidate_after_s=0, settle_s=0)
    async with site(tmp_path, failpoints=held, freshness=stale_at_once) as here:
        await here.get(f"/{KEY}?w=50")
        held.hold(Point.AFTER_FETCH)
        await here.get(f"/{KEY}?w=50")  # and behind it the origin is asked
        await held.arrived(Point.AFTER_FETCH)
        await here.library.put(KEY, jpeg(NEW))
        check = asyncio.create_task(here.edge.originals.revalidate(KEY))
        await held.arrived(Point.AFTER_FETCH, 2)
        held.release(Point.AFTER_FETCH)
        await check

        assert is_new((await here.get(f"/{KEY}?w=50")).body)
