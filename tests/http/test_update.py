"""
The event `mediaLibraryEntry.update`: it comes for titles and for bytes, and does not say which.

What the origin confirms stays, here and in the caches in front. Everything else is purged.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from imgproxy.config.origin import OriginSettings
from imgproxy.config.sections import FreshnessSettings, PurgeSettings
from imgproxy.failpoints import Point
from imgproxy.medialibrary.operations import ReplaceAsset, RevokeAsset
from tests.http.test_downstream import at_fastly, tag, tags_of
from tests.support.cdn import Told, cdn
from tests.support.scripted_origin import scripted_origin
from tests.support.site import KEY, Held, Site, jpeg, png, poll, red_of, site, until
from tests.support.slow import slow_but
from tests.support.webhooks import deliver

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted_origin import ScriptedOrigin
    from tests.support.site import Reply

OTHER = "2026/03/15/other.jpg"
OLD, NEW = 200, 20
ONCE = FreshnessSettings(settle_s=0)
QUICK = PurgeSettings(drain_s=0.05)
EVENT = "mediaLibraryEntry.update"
POINTS = [Point.BEFORE_FETCH, Point.AFTER_FETCH, Point.AFTER_RENDER, Point.AFTER_RENAME, Point.BEFORE_RESPONSE]


async def update(here: Site, key: str = KEY, *, delivery: str = "d-1") -> dict[str, Any]:
    """Deliver the event of the key's entry, and return the receipt."""
    reply = await deliver(here, EVENT, here.library.entry_id(key), delivery=delivery)
    receipt: dict[str, Any] = reply.json()
    assert reply.status == (202 if receipt["pending"] else 200)
    return receipt


def is_new(reply: Reply) -> bool:
    return abs(red_of(reply.body) - NEW) <= 3


async def replace_key(here: Site, key: str, by: str) -> str:
    """Let an entry have another key, and return the id of the entry. The keys API lists both."""
    entry = here.library.entry_id(key)
    asset = next(found.asset for found in here.library.store.all_entries() if found.id == here.library.entry_id(by))
    await here.library.patch(
        entry,
        ReplaceAsset(
            key=by,
            url="http://x",
            size_bytes=asset.size_bytes,
            width_px=320,
            height_px=200,
            filename="o",
            mime_type="image/jpeg",
        ),
    )
    return entry


# --- unchanged -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [60, pytest.param(300, marks=pytest.mark.slow)])
async def test_a_storm_of_updates_of_unchanged_pictures_renders_and_purges_nothing(tmp_path: Path, count: int) -> None:
    """Many events at once: one conditional request a key, no render, no call to the CDN. All stay hits."""
    keys = [f"2026/{number:03}.jpg" for number in range(count)]
    pictures = {key: jpeg(number % 200, (40, 30)) for number, key in enumerate(keys)}
    async with (
        cdn() as server,
        site(tmp_path, pictures=pictures, downstream=(at_fastly(server),), freshness=ONCE) as here,
    ):
        for key in keys:
            assert (await here.get(f"/{key}?w=20")).status == 200
        rendered = await here.renders()
        here.probe.reset()

        receipts = await asyncio.gather(*(update(here, key, delivery=f"d-{number}") for number, key in enumerate(keys)))

        assert [(item["kept"], item["keys"]) for item in receipts] == [([key], []) for key in keys]
        assert {here.probe.count("serveImage", key) for key in keys} == {1}
        assert here.metric("imgproxy_origin_answers_total", answer="not_modified") == count
        answers = [await here.get(f"/{key}?w=20") for key in keys]
        assert all("hit" in answer.cache_status for answer in answers)
        assert await here.renders() == rendered
        assert server.asked == []
        assert here.metric("imgproxy_updated_keys_total", result="kept") == count


async def test_a_kept_key_is_named_in_a_receipt_that_can_be_asked_for(tmp_path: Path) -> None:
    """`kept` has the keys that were proved. `keys` has those that were purged, as for every purge."""
    async with site(tmp_path, freshness=ONCE) as here:
        await here.get(f"/{KEY}?w=50")
        receipt = await update(here)
        kept = (await here.get(f"/-/purges?entry={receipt['entry']}", Authorization="Bearer admin-token")).json()

        assert (receipt["kept"], receipt["keys"], receipt["variants"], receipt["bytes"]) == ([KEY], [], 0, 0)
        assert (receipt["pending"], receipt["downstream"]) == (False, [])
        found = kept["purges"][0]
        assert (found["reason"], found["seq"], found["kept"]) == ("update", receipt["seq"], [KEY])


async def test_several_events_of_one_entry_at_once_share_their_proof(tmp_path: Path) -> None:
    """Those that come during the first one's proof wait for one more."""
    async with site(tmp_path, freshness=ONCE) as here:
        await here.get(f"/{KEY}?w=50")
        here.probe.reset()

        receipts = await asyncio.gather(*(update(here, delivery=f"d-{number}") for number in range(10)))

        assert [item["kept"] for item in receipts] == [[KEY]] * 10
        assert here.probe.count("serveImage", KEY) <= 2
        assert "hit" in (await here.get(f"/{KEY}?w=50")).cache_status


async def test_an_original_whose_bytes_were_evicted_is_proved_all_the_same(tmp_path: Path) -> None:
    """Its variants live on. Their bytes need no original."""
    async with site(tmp_path, freshness=ONCE) as here:
        await here.get(f"/{KEY}?w=50")
        for original in (tmp_path / "cache" / "keys").rglob("original"):
            original.unlink()

        assert (await update(here))["kept"] == [KEY]

        assert "hit" in (await here.get(f"/{KEY}?w=50")).cache_status


@pytest.mark.parametrize("validator", ["none", "weak"])
@pytest.mark.parametrize("is_changed", [False, True])
async def test_without_a_strong_validator_the_bytes_are_compared(
    tmp_path: Path, validator: Any, is_changed: bool
) -> None:
    """A weak entity tag may stay when the bytes change. An original without any is fetched again."""
    async with scripted_origin(png((OLD, 80, 120))) as origin, _before(origin, tmp_path) as here:
        origin.validator = validator
        origin.listed = [KEY]
        await here.get(f"/{KEY}?w=50")
        if is_changed:
            origin.picture = png((NEW, 80, 120))

        receipt = (await deliver(here, EVENT, "entry-1")).json()

        assert (receipt["kept"], receipt["keys"]) == (([], [KEY]) if is_changed else ([KEY], []))
        assert origin.pictures_sent == 2
        again = await here.get(f"/{KEY}?w=50")
        assert is_new(again) is is_changed
        assert ("hit" in again.cache_status) is not is_changed


# --- changed, refused, or not to be proved -----------------------------------------------------------------------------


async def test_changed_bytes_are_purged_here_and_in_the_cdn(tmp_path: Path) -> None:
    """The receipt is that of a purge. Its variants are gone, and the CDN has forgotten key and entry."""
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server),), freshness=ONCE) as here:
        entry = here.library.entry_id(KEY)
        for query in ("w=50", "w=60"):
            await here.get(f"/{KEY}?{query}")
        await here.library.put(KEY, jpeg(NEW))

        receipt = await update(here)

        assert (receipt["keys"], receipt["kept"], receipt["variants"]) == ([KEY], [], 2)
        assert [tags_of(asked) for asked in server.asked] == [{tag(KEY), f"e-{entry}"}]
        assert is_new(await here.get(f"/{KEY}?w=50"))
        assert is_new(await here.get(f"/{KEY}?w=60"))


async def test_a_revoked_picture_is_purged_by_an_update(tmp_path: Path) -> None:
    """The origin refuses it, so it is not proved."""
    async with site(tmp_path, freshness=ONCE) as here:
        await here.get(f"/{KEY}?w=50")
        await here.library.patch(here.library.entry_id(KEY), RevokeAsset())

        receipt = await update(here)

        assert (receipt["keys"], receipt["kept"], receipt["variants"]) == ([KEY], [], 1)
        assert (await here.get(f"/{KEY}?w=50")).status == 403


async def test_a_key_that_is_not_cached_here_is_purged(tmp_path: Path) -> None:
    """A CDN may have it, and nobody knows from which bytes."""
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server),), freshness=ONCE) as here:
        receipt = await update(here)

        assert (receipt["keys"], receipt["kept"]) == ([KEY], [])
        assert len(server.asked) == 1
        assert here.probe.count("serveImage") == 0


async def test_a_key_that_was_fetched_only_just_now_is_purged(tmp_path: Path) -> None:
    """It may be the new picture already, and a CDN may have the old one."""
    async with site(tmp_path, freshness=FreshnessSettings(settle_s=30)) as here:
        await here.get(f"/{KEY}?w=50")

        receipt = await update(here)

        assert (receipt["keys"], receipt["kept"], receipt["variants"]) == ([KEY], [], 1)


async def test_while_the_origin_is_down_an_update_is_a_purge_that_is_pending(tmp_path: Path) -> None:
    """The keys last seen are purged at once; the rest when the keys API answers again."""
    async with site(tmp_path, freshness=ONCE, purge=QUICK) as here:
        entry = here.library.entry_id(KEY)
        await here.get(f"/{KEY}?w=50")
        await update(here)
        await here.library.stop()

        receipt = (await deliver(here, EVENT, entry, delivery="d-2")).json()

        assert (receipt["keys"], receipt["kept"], receipt["pending"]) == ([KEY], [], True)
        assert (await here.get(f"/{KEY}?w=50")).status == 502
        await here.library.start()
        await until(lambda: here.edge.purges.pending == 0)


async def test_only_the_changed_keys_of_an_entry_are_purged(tmp_path: Path) -> None:
    """The CDN is told these keys, and not the entry: that would take the others, too."""
    pictures = {KEY: jpeg(OLD), OTHER: jpeg(50)}
    async with (
        cdn() as server,
        site(tmp_path, pictures=pictures, downstream=(at_fastly(server),), freshness=ONCE) as here,
    ):
        for key in (KEY, OTHER):
            await here.get(f"/{key}?w=50")
        entry = await replace_key(here, KEY, OTHER)
        await here.library.put(KEY, jpeg(NEW))

        receipt = (await deliver(here, EVENT, entry)).json()

        assert (receipt["keys"], receipt["kept"], receipt["variants"]) == ([KEY], [OTHER], 1)
        assert [tags_of(asked) for asked in server.asked] == [{tag(KEY)}]
        assert "hit" in (await here.get(f"/{OTHER}?w=50")).cache_status
        assert is_new(await here.get(f"/{KEY}?w=50"))


async def test_a_key_whose_last_purge_the_cdn_has_not_confirmed_is_purged_again(tmp_path: Path) -> None:
    """The CDN may still have older bytes, so the update is pending like that purge."""
    downstream: dict[str, Any] = {"wait_s": 0.1}
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server, **downstream),), freshness=ONCE) as here:
        server.answer = lambda _asked: Told(503)
        await here.purge(here.library.entry_id(KEY))
        await here.get(f"/{KEY}?w=50")

        receipt = await update(here)

        assert (receipt["keys"], receipt["kept"], receipt["pending"]) == ([KEY], [], True)


async def test_an_old_copy_that_a_lagging_replica_confirms_is_found_when_the_settle_time_ends(tmp_path: Path) -> None:
    """The key is asked for again, and purged in the CDN, too."""
    settings = FreshnessSettings(settle_s=0.3)
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server),), freshness=settings) as here:
        await here.get(f"/{KEY}?w=50")
        await asyncio.sleep(0.31)  # else it was fetched only just now
        receipt = await update(here)
        assert receipt["kept"] == [KEY]
        await here.library.put(KEY, jpeg(NEW))  # the replica catches up

        await until(lambda: here.edge.settling.pending == 0)

        assert tags_of(server.asked[0]) == {tag(KEY)}
        assert is_new(await here.get(f"/{KEY}?w=50"))


# --- races -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_cached", slow_but([True], [False, True]))
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("is_changed", [False, True])
async def test_an_update_meets_a_request_held_at_any_point(
    tmp_path: Path, point: Point, is_changed: bool, is_cached: bool
) -> None:
    """Changed: the held answer is the new picture. Unchanged: it is answered, and its render counts."""
    held = Held()
    async with site(tmp_path, failpoints=held, freshness=ONCE, purge=QUICK) as here:
        if is_cached:
            await here.get(f"/{KEY}?w=60")
        if is_cached and point in (Point.BEFORE_FETCH, Point.AFTER_FETCH):
            here.edge.cache.soften(KEY, 0.0)  # too old to answer without the origin
        held.hold(point)
        request = asyncio.create_task(here.get(f"/{KEY}?w=50"))
        await held.arrived(point)
        let_go = held.stop_holding(point)
        if is_changed:
            await here.library.put(KEY, jpeg(NEW))
        receipt = await update(here)
        before = await here.renders() if point in (Point.AFTER_RENAME, Point.BEFORE_RESPONSE) else None
        let_go()

        answer = await request

        assert answer.status == 200
        assert is_new(answer) is is_changed
        assert bool(receipt["kept"]) is (
            not is_changed and (is_cached or point not in (Point.BEFORE_FETCH, Point.AFTER_FETCH))
        )
        if before is not None and not is_changed:
            assert await here.renders() == before
        again = await here.get(f"/{KEY}?w=50")
        assert is_new(again) is is_changed
        assert "hit" in again.cache_status


async def test_a_request_during_the_proof_waits_for_a_proof(tmp_path: Path) -> None:
    """Neither memory nor disk answers once the order is given, in the fast path neither."""
    held = Held()
    async with site(tmp_path, failpoints=held, freshness=ONCE) as here:
        for _ in range(2):
            await here.get(f"/{KEY}?w=50")
        await here.library.put(KEY, jpeg(NEW))
        held.hold(Point.AFTER_FETCH)
        event = asyncio.create_task(update(here))
        await held.arrived(Point.AFTER_FETCH)  # the proof
        requests = [asyncio.create_task(here.get(f"/{KEY}?w={width}")) for width in (50, 60)]
        await until(lambda: len(here.edge.images._waiters) == 2)
        held.release(Point.AFTER_FETCH)

        assert all(is_new(reply) for reply in await asyncio.gather(*requests))
        assert (await event)["keys"] == [KEY]
        assert is_new(await here.get(f"/{KEY}?w=50"))


async def test_a_revocation_during_the_proof_wins(tmp_path: Path) -> None:
    """The proof that was asked for before it proves nothing."""
    held = Held()
    async with site(tmp_path, failpoints=held, freshness=ONCE) as here:
        entry = here.library.entry_id(KEY)
        await here.get(f"/{KEY}?w=50")
        held.hold(Point.AFTER_FETCH)
        event = asyncio.create_task(update(here))
        await held.arrived(Point.AFTER_FETCH)
        let_go = held.stop_holding(Point.AFTER_FETCH)
        await here.library.patch(entry, RevokeAsset())

        revoked = await deliver(here, "mediaLibraryEntry.revoke", entry, delivery="d-2")

        assert (revoked.status, revoked.json()["variants"]) == (200, 1)
        assert (await here.get(f"/{KEY}?w=50")).status == 403
        let_go()
        assert ((await event)["keys"], (await event)["kept"]) == ([KEY], [])
        assert (await here.get(f"/{KEY}?w=50")).status == 403


async def test_a_soft_purge_during_the_proof_is_not_lost(tmp_path: Path) -> None:
    """The original is proved, and stale: what the origin was asked before the soft purge is not fresh."""
    held = Held()
    async with site(tmp_path, failpoints=held, freshness=ONCE) as here:
        await here.edge.purges.learn(here.library.entry_id(KEY))
        await here.get(f"/{KEY}?w=50")
        held.hold(Point.AFTER_FETCH)
        event = asyncio.create_task(update(here))
        await held.arrived(Point.AFTER_FETCH)
        let_go = held.stop_holding(Point.AFTER_FETCH)
        await here.purge(here.library.entry_id(KEY), "?soft=1")
        let_go()
        assert (await event)["kept"] == [KEY]
        asked = here.probe.count("serveImage", KEY)

        answer = await here.get(f"/{KEY}?w=50")

        assert "hit; ttl=-" in answer.cache_status
        await poll(lambda: here.probe.count("serveImage", KEY), lambda count: count == asked + 1)


async def test_a_kill_between_order_and_proof_lets_no_old_byte_out(tmp_path: Path) -> None:
    """The next run has the order: it asks the origin before it serves, and it finishes the update as a purge."""
    held = Held()
    (tmp_path / "b").mkdir()
    async with site(tmp_path, failpoints=held, freshness=ONCE) as here:
        await here.get(f"/{KEY}?w=50")
        await here.library.put(KEY, jpeg(NEW))
        held.hold(Point.BEFORE_FETCH)
        event = asyncio.create_task(update(here))
        await held.arrived(Point.BEFORE_FETCH)
        for part in ("cache", "photos"):
            shutil.copytree(tmp_path / part, tmp_path / "b" / part)
        held.release(Point.BEFORE_FETCH)
        await event

    async with site(tmp_path / "b", freshness=ONCE) as here:
        assert is_new(await here.get(f"/{KEY}?w=50"))
        await until(lambda: here.edge.purges.pending == 0)
        assert is_new(await here.get(f"/{KEY}?w=50"))


def _before(origin: ScriptedOrigin, tmp_path: Path) -> Any:
    """An edge before a scripted origin."""
    settings = OriginSettings(url=origin.url, token=SecretStr("t"), timeout_s=20)
    return site(tmp_path, origin=settings, freshness=ONCE)
