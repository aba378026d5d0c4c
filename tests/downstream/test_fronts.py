"""The guarantee of a purge holds through a real Varnish and a real nginx in front of the edge."""

import asyncio
from pathlib import Path

import pytest

from imgproxy.cache.entry import key_hash
from imgproxy.config.sections import CacheSettings, FreshnessSettings, PurgeSettings, ServerSettings
from imgproxy.failpoints import Point
from imgproxy.medialibrary.operations import RevokeAsset, UnrevokeAsset
from imgproxy.medialibrary.server import Webhook
from tests.downstream.front import Kind, fronted
from tests.support.frontends import free_port
from tests.support.site import ADMIN, KEY, SECRET, Held, Site, jpeg, red_of

OLD, NEW = 200, 20
BOTH: list[Kind] = ["varnish", "nginx"]
QUICK = PurgeSettings(drain_s=0.05)
AVIF = "image/avif,image/webp,*/*"
WEBP = "image/webp,*/*"


def is_new(body: bytes) -> bool:
    return abs(red_of(body) - NEW) <= 3


async def purged(here: Site) -> None:
    """Replace the picture at the origin and purge it. When this returns, edge and cache have acknowledged the purge."""
    await here.library.put(KEY, jpeg(NEW))
    reply = await here.purge(here.library.entry_id(KEY))
    assert reply.status == 200, reply.body


@pytest.mark.parametrize("kind", BOTH)
async def test_a_picture_revoked_in_the_library_is_gone_from_the_cache_in_front(tmp_path: Path, kind: Kind) -> None:
    """The library revokes and sends its webhook; edge and cache answer 403. Unrevoked, the picture is served again."""
    port = free_port()
    hook = Webhook(f"http://127.0.0.1:{port}/-/webhooks/livingdocs", SECRET)
    async with fronted(tmp_path, kind, library={"webhook": hook}, server=ServerSettings(port=port)) as front:
        entry = front.here.library.entry_id(KEY)
        for query in ("w=50", "w=60&auto=format", ""):
            await front.get(f"/{KEY}?{query}", Accept=WEBP)
            assert await front.has_hit(f"/{KEY}?{query}", Accept=WEBP)

        await front.here.library.patch(entry, RevokeAsset())
        async with asyncio.timeout(20):
            while front.here.metric("imgproxy_purges_total", reason="revoke") == 0:
                await asyncio.sleep(0.01)
        refused = [
            (await front.get(f"/{KEY}?{query}", Accept=WEBP)).status for query in ("w=50", "w=60&auto=format", "")
        ]
        assert refused == [403, 403, 403]

        await front.here.library.patch(entry, UnrevokeAsset())
        async with asyncio.timeout(20):
            while (await front.get(f"/{KEY}?w=50", Accept=WEBP)).status != 200:
                await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOTH)
async def test_one_purge_removes_every_size_format_and_form_of_answer(tmp_path: Path, kind: Kind) -> None:
    """Each is a hit before and the new picture after, also for HEAD, Range and a conditional request."""
    async with fronted(tmp_path, kind) as front:
        asked = [(f"w={width}&auto=format&q=90", accept) for width in (40, 50) for accept in (AVIF, WEBP, "*/*")]
        for query, accept in asked:
            await front.get(f"/{KEY}?{query}", Accept=accept)
            assert await front.has_hit(f"/{KEY}?{query}", Accept=accept), (query, accept)
        old = await front.get(f"/{KEY}")

        await purged(front.here)

        for query, accept in asked:
            assert is_new((await front.get(f"/{KEY}?{query}", Accept=accept)).body), (query, accept)
        head = await front.send("HEAD", f"/{KEY}")
        part = await front.get(f"/{KEY}", Range="bytes=0-9")
        conditional = await front.get(f"/{KEY}", If_None_Match=old.headers["ETag"])
        assert head.headers["ETag"] != old.headers["ETag"]
        assert (part.status, part.headers["ETag"]) == (206, head.headers["ETag"])
        assert (conditional.status, is_new(conditional.body)) == (200, True)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    "point",
    [
        pytest.param(Point.BEFORE_FETCH, marks=pytest.mark.slow),
        pytest.param(Point.AFTER_FETCH, marks=pytest.mark.slow),
        Point.AFTER_RENDER,
        pytest.param(Point.AFTER_RENAME, marks=pytest.mark.slow),
        pytest.param(Point.BEFORE_RESPONSE, marks=pytest.mark.slow),
    ],
)
async def test_requests_held_in_the_edge_while_a_purge_goes_by_leave_nothing_old(
    tmp_path: Path, kind: Kind, point: Point
) -> None:
    """Three clients wait in front for one fetch. They get the new picture, and so does the next client."""
    held = Held()
    async with fronted(tmp_path, kind, failpoints=held) as front:
        held.hold(point)
        requests = [asyncio.create_task(front.get(f"/{KEY}?w=50")) for _ in range(3)]
        await held.arrived(point)
        await purged(front.here)
        held.release(point)

        assert [is_new((await request).body) for request in requests] == [True] * 3
        assert is_new((await front.get(f"/{KEY}?w=50")).body)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOTH)
async def test_an_answer_cut_by_a_purge_is_not_kept_in_front(tmp_path: Path, kind: Kind) -> None:
    """The cache in front throws the broken answer away, and asks again."""
    held = Held()
    settings = CacheSettings(dir=tmp_path / "cache", min_free_bytes=0, hot_max_bytes=0)
    pictures = {KEY: jpeg(OLD, (2000, 1500)) + bytes(600_000)}
    async with fronted(tmp_path, kind, failpoints=held, cache=settings, purge=QUICK, pictures=pictures) as front:
        held.hold(Point.MID_RESPONSE)
        request = asyncio.create_task(front.get(f"/{KEY}"))
        await held.arrived(Point.MID_RESPONSE)
        await purged(front.here)
        held.release(Point.MID_RESPONSE)
        await asyncio.gather(request, return_exceptions=True)

        assert is_new((await front.get(f"/{KEY}")).body)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOTH)
async def test_a_304_on_its_way_from_the_origin_revives_nothing_in_front(tmp_path: Path, kind: Kind) -> None:
    """The purge comes during a background revalidation. The cache in front has the new picture after it."""
    held = Held()
    at_once = FreshnessSettings(revalidate_after_s=0)
    async with fronted(tmp_path, kind, failpoints=held, freshness=at_once) as front:
        await front.here.get(f"/{KEY}?w=50")
        held.hold(Point.AFTER_FETCH)
        await front.get(f"/{KEY}?w=50")
        await held.arrived(Point.AFTER_FETCH)
        await purged(front.here)
        held.release(Point.AFTER_FETCH)

        assert is_new((await front.get(f"/{KEY}?w=50")).body)


async def test_an_answer_on_the_network_is_kept_by_varnish_until_the_second_round(tmp_path: Path) -> None:
    """
    A single purge loses this race; the second round corrects it.

    The purge reaches Varnish while an old answer is on the network. Varnish confirms, and keeps the answer when it arrives.
    """
    again = FreshnessSettings(settle_s=3600)
    async with fronted(tmp_path, "varnish", freshness=again, purge=QUICK) as front:
        await front.here.get(f"/{KEY}?w=50")
        front.network.hold()
        request = asyncio.create_task(front.get(f"/{KEY}?w=50"))
        await front.network.arrived()
        await purged(front.here)
        front.network.release()

        assert not is_new((await request).body)
        assert not is_new((await front.get(f"/{KEY}?w=50")).body), "the control: Varnish kept it"
        journal = front.here.edge.cache.journal
        await journal.write(lambda database: database.execute("UPDATE outbox SET due_at_s = 0"))
        other = await front.here.send("POST", "/-/purge/keys", headers=ADMIN, json={"keys": ["other.jpg"]})
        assert other.status == 200, "its call to Varnish takes along the second round, which is due"
        assert is_new((await front.get(f"/{KEY}?w=50")).body)


async def test_an_answer_on_the_network_is_not_used_again_by_nginx(tmp_path: Path) -> None:
    """It stores the late answer, and asks before it uses it."""
    async with fronted(tmp_path, "nginx", purge=QUICK) as front:
        await front.here.get(f"/{KEY}?w=50")
        front.network.hold()
        request = asyncio.create_task(front.get(f"/{KEY}?w=50"))
        await front.network.arrived()
        await purged(front.here)
        front.network.release()

        assert not is_new((await request).body)
        assert is_new((await front.get(f"/{KEY}?w=50")).body)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOTH)
async def test_a_purge_without_a_webhook_reaches_the_front_when_the_origin_is_asked(tmp_path: Path, kind: Kind) -> None:
    """All webhooks are lost. The edge sees the revocation at its next revalidation, and purges the cache in front."""
    at_once = FreshnessSettings(revalidate_after_s=0)
    async with fronted(tmp_path, kind, freshness=at_once) as front:
        await front.get(f"/{KEY}?w=50")
        await front.here.library.patch(front.here.library.entry_id(KEY), RevokeAsset())
        await front.here.get(f"/{KEY}?w=60")
        async with asyncio.timeout(20):
            while front.here.edge.cache.facts(key_hash(KEY)) is not None:
                await asyncio.sleep(0.01)
            while (await front.get(f"/{KEY}?w=50")).status != 403:
                await asyncio.sleep(0.01)
