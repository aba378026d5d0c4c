"""Accidents of the machine: killed renders, full disks, clients that leave. No picture is blamed for them."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from imgproxy.cache.entry import key_hash
from imgproxy.cache.housekeeping import Housekeeping, delete_files
from imgproxy.config.sections import CacheSettings, FreshnessSettings, RenderSettings
from imgproxy.errors import DecodeFailed, Revoked
from imgproxy.medialibrary.errors import LibraryNotFound
from imgproxy.params.plan import Format, Output, Px, RenderPlan, Resize
from imgproxy.workers.job import Lane
from tests.support.cache import opened
from tests.support.images import cached_photo
from tests.support.processes import render_pids, stopped
from tests.support.site import ADMIN, KEY, LOGO, Site, jpeg, pixel, png, site, until
from tests.support.small_disk import fill, small_disk, use_up_inodes

if TYPE_CHECKING:
    from pathlib import Path

    from imgproxy.delivery.batching import RenderedFile

# Seconds of work on any machine.
SLOW = f"/{KEY}?w=7000&fm=avif"
WIDTH_50 = RenderPlan(resize=Resize(width=Px(50)), output=Output(format=Format.JPEG))


def temporary(tmp_path: Path) -> list[Path]:
    """Return the files in the cache that are being written, or that were forgotten."""
    return list((tmp_path / "cache" / "keys").glob("*/*/t-*"))


# --- evicted originals ---------------------------------------------------------------------------------------------


async def test_an_original_evicted_under_its_render_is_fetched_again(tmp_path: Path) -> None:
    """The render process finds no file; the client gets its picture from a second fetch."""
    async with site(tmp_path, cache=CacheSettings(dir=tmp_path / "cache", min_free_bytes=0)) as here:
        assert (await here.get(f"/{KEY}?w=40")).status == 200
        assert await here.renders() == 1
        with stopped(*render_pids(os.getpid())):
            request = asyncio.create_task(here.get(f"/{KEY}?w=50"))
            await until(lambda: here.metric("imgproxy_render_busy") == 1)
            delete_files([here.edge.cache.store.key_dir(key_hash(KEY)) / "original"])

        assert (await request).status == 200
        assert here.metric("imgproxy_origin_answers_total", answer="image") == 2


# --- remembered refusals ---------------------------------------------------------------------------------------------


def frames_of(error: BaseException) -> int:
    """Count the frames of an error's traceback."""
    count, link = 0, error.__traceback__
    while link is not None:
        count, link = count + 1, link.tb_next
    return count


async def test_a_remembered_refusal_does_not_grow(tmp_path: Path) -> None:
    """Each request raises an error of its own, so the remembered error keeps no frame alive."""
    pictures = {KEY: jpeg(1, (800, 600))[:3000]}
    async with site(tmp_path, pictures=pictures, library={"is_lenient": True}) as here:
        for _ in range(5):
            assert (await here.get("/nothing.jpg?w=50")).status == 404
            assert (await here.get(f"/{KEY}?w=50")).status == 422

        refusals = [refusal.error for refusal in here.edge.originals._refusals._refusals.values()]
        assert {type(error) for error in refusals} == {LibraryNotFound, DecodeFailed}
        assert [frames_of(error) for error in refusals] == [0, 0]


# --- killed renders ---------------------------------------------------------------------------------------------------


async def kill_the_render(here: Site) -> None:
    """Kill the process that is rendering, as the kernel does when memory runs out."""
    await until(lambda: here.edge.pool.busy == 1)
    restarts = here.edge.pool.restarts
    os.kill(here.edge.pool.pids[0], signal.SIGKILL)
    await until(lambda: here.edge.pool.restarts > restarts)


async def test_a_killed_render_is_made_again(tmp_path: Path) -> None:
    """A SIGKILL from outside costs one more try; the client gets its picture."""
    async with site(tmp_path, render=RenderSettings(processes=1)) as here:
        process = here.edge.pool.pids[0]
        os.kill(process, signal.SIGSTOP)
        request = asyncio.create_task(here.get(f"/{KEY}?w=50"))
        await kill_the_render(here)

        assert (await request).status == 200
        assert here.edge.pool.restarts == 1


async def test_a_render_that_is_killed_twice_is_refused_but_not_stored_by_caches(tmp_path: Path) -> None:
    """The second crash in a row is remembered here; no CDN may keep it, as both may have been accidents."""
    async with site(tmp_path, pictures={KEY: cached_photo()}, render=RenderSettings(processes=1)) as here:
        request = asyncio.create_task(here.get(SLOW))
        await kill_the_render(here)
        await kill_the_render(here)
        reply, again = await request, await here.get(SLOW)

        for answer in (reply, again):
            assert (answer.status, answer.json()["type"]) == (422, "urn:imgproxy:problem:render-crashed")
            assert answer.headers["Cache-Control"] == "no-store"
        assert here.edge.pool.restarts == 2


async def test_a_render_that_timed_out_is_tried_once_more(tmp_path: Path) -> None:
    """The machine may have been busy: only the second timeout in a row is remembered, and no CDN may keep either."""
    settings = RenderSettings(processes=1, timeout_s=0.3)
    async with site(tmp_path, pictures={KEY: cached_photo()}, render=settings) as here:
        replies = []
        for restarts in (1, 2, 2):
            replies.append(await here.get(SLOW))
            await until(lambda: bool(here.edge.pool.pids))
            assert here.edge.pool.restarts == restarts

        for reply in replies:
            assert (reply.status, reply.json()["type"]) == (422, "urn:imgproxy:problem:render-timeout")
            assert reply.headers["Cache-Control"] == "no-store"


async def test_many_avifs_are_made_by_every_process(tmp_path: Path) -> None:
    """AVIFs of one picture that are wanted at the same time are rendered by all processes."""
    async with site(tmp_path, pictures={KEY: cached_photo()}, render=RenderSettings(processes=2)) as here:
        await here.get(f"/{KEY}")
        with stopped(*here.edge.pool.pids):
            requests = [asyncio.create_task(here.get(f"/{KEY}?w={width}&fm=avif")) for width in (40, 50, 60, 70)]
            await until(lambda: here.edge.pool.busy == 2)

        assert [reply.status for reply in await asyncio.gather(*requests)] == [200] * 4


# --- evicted watermarks, clients that leave ----------------------------------------------------------------------


async def evict_watermark(here: Site) -> None:
    """Delete the watermark's file, as an eviction does. Its facts are still known."""
    await here.get(f"/{KEY}?w=99&fm=png&mark={LOGO}")
    facts = here.edge.cache.facts(key_hash(LOGO))
    assert facts is not None
    os.unlink(here.edge.cache.store.path(key_hash(LOGO), "original"))


async def test_without_its_watermark_a_picture_is_served_all_the_same(tmp_path: Path) -> None:
    """It has a tag of its own and is kept for a short time; plans without a watermark are not affected."""
    async with site(tmp_path, pictures={KEY: jpeg(200), LOGO: png((0, 0, 255))}) as here:
        with_mark = await here.get(f"/{KEY}?w=320&fm=png&mark={LOGO}")
        await here.purge(here.library.entry_id(KEY))
        await evict_watermark(here)
        await here.library.remove(LOGO)
        without, plain = await asyncio.gather(
            here.get(f"/{KEY}?w=320&fm=png&mark={LOGO}"), here.get(f"/{KEY}?w=310&fm=png")
        )

        assert (without.status, plain.status) == (200, 200)
        assert abs(pixel(without.body, (305, 185))[0] - 200) <= 3
        assert without.headers["Cache-Control"] == "public, max-age=60, must-revalidate"
        assert without.headers["ETag"] != with_mark.headers["ETag"]
        assert plain.headers["Cache-Control"] == "public, max-age=300, must-revalidate"
        assert temporary(tmp_path) == []
        assert not here.edge.cache.store.is_being_written(key_hash(KEY))


async def test_a_client_that_leaves_while_the_watermark_is_fetched_leaves_no_file(tmp_path: Path) -> None:
    """There is no file, and no note that one is being written: that would keep the directory for ever."""
    async with site(tmp_path, pictures={KEY: jpeg(200), LOGO: png((0, 0, 255))}) as here:
        await evict_watermark(here)
        here.probe.hold("headers")
        request = asyncio.create_task(here.get(f"/{KEY}?w=50&mark={LOGO}"))
        async with asyncio.timeout(20):
            await here.probe.arrived("headers")
        request.cancel()
        await until(lambda: here.edge.variants.under_way == 0 and here.edge.originals.under_way == 0)
        here.probe.release("headers")

        assert temporary(tmp_path) == []
        assert not here.edge.cache.store.is_being_written(key_hash(KEY))


async def test_a_request_that_arrives_as_the_last_one_leaves_is_answered(tmp_path: Path) -> None:
    """A batch that is given up does not take in the new request."""
    async with site(tmp_path) as here:
        await here.get(f"/{KEY}")
        original = await here.edge.originals.current(KEY)
        _, path = await here.edge.originals.file(original)
        batches = here.edge.variants._batches

        async def render() -> RenderedFile:
            hashed, digest = original.key_hash, original.facts.digest
            return await batches.render(hashed, digest, path, WIDTH_50, None, Lane.VISITOR)

        async def leave_and_come_back() -> int:
            try:
                await render()
            except asyncio.CancelledError:
                finished = await render()
                here.edge.cache.store.discard(finished.rendered.path)
                return finished.rendered.width_px
            raise AssertionError

        client = asyncio.create_task(leave_and_come_back())
        while not batches._open:
            await asyncio.sleep(0)
        client.cancel()

        assert await client == 50
        assert batches._open == {}


# --- full disks ------------------------------------------------------------------------------------------------------


async def test_with_a_disk_without_inodes_pictures_are_still_revalidated(tmp_path: Path) -> None:
    """The service is not ready; but a 304 needs no file, so the picture is proved again."""
    with small_disk(tmp_path / "cache", 64_000_000):
        async with site(tmp_path) as here:
            await here.get(f"/{KEY}?w=50")
            use_up_inodes(tmp_path / "cache")
            ready = await here.get("/-/ready")
            before = here.edge.cache.facts(key_hash(KEY))
            await here.edge.originals.revalidate(KEY)
            after = here.edge.cache.facts(key_hash(KEY))

            assert (ready.status, ready.json()["reasons"]) == (503, ["cache_not_writable"])
            assert before is not None
            assert after is not None
            assert after.validated_at_s > before.validated_at_s


async def test_with_a_disk_without_inodes_a_revoked_picture_is_removed(tmp_path: Path) -> None:
    """A 403 needs no file: the picture is purged from memory and disk."""
    with small_disk(tmp_path / "cache", 64_000_000):
        async with site(tmp_path, freshness=FreshnessSettings(settle_s=0)) as here:
            await here.get(f"/{KEY}?w=50")
            await here.library.mark_invalid(here.library.entry_id(KEY))
            use_up_inodes(tmp_path / "cache")
            with pytest.raises(Revoked):
                await here.edge.originals.revalidate(KEY)

            assert (await here.get(f"/{KEY}?w=50")).status == 403


async def test_a_full_disk_is_not_ready_even_if_no_free_space_is_required(tmp_path: Path) -> None:
    """With `min_free_bytes = 0`, too: a full disk takes no original."""
    with small_disk(tmp_path / "cache", 64_000_000):
        async with site(tmp_path) as here:
            assert (await here.get("/-/ready")).status == 200
            filler = fill(tmp_path / "cache")
            full = await here.get("/-/ready")
            filler.unlink()

            assert full.status == 503
            assert "disk_full" in full.json()["reasons"]
            assert (await here.get("/-/ready")).status == 200


async def test_a_disk_that_others_have_filled_is_named_in_the_answer_and_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A picture that is evicted as soon as it is made was not purged, so the answer must not say so."""
    cache = CacheSettings(dir=tmp_path / "cache", min_free_bytes=10**18)
    async with site(tmp_path, cache=cache) as here:
        answers = [await here.get(f"/{KEY}?w={width}") for width in range(50, 58)]

        # One may be made before its original is evicted.
        refused = [answer for answer in answers if answer.status != 200]
        assert {answer.json()["type"] for answer in refused} == {"urn:imgproxy:problem:cache-unavailable"}
        assert "beyond cache.min_free_bytes" in caplog.text


async def test_each_time_that_others_fill_the_disk_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not logged again with every picture, but again after there was space in between."""
    free_bytes = [0.0]
    async with opened(tmp_path / "cache") as cache:
        settings = CacheSettings(dir=tmp_path / "cache")
        housekeeping = Housekeeping(cache.store, cache.hot, cache.trash, settings, free_bytes=lambda: free_bytes[-1])
        housekeeping.start()
        await until(lambda: housekeeping.is_scanned and not housekeeping._is_evicting)
        for now_free_bytes, logged in ((0.0, 1), (0.0, 1), (1e18, 1), (0.0, 2)):
            free_bytes.append(now_free_bytes)
            housekeeping.after_commit()
            await until(lambda: not housekeeping._is_evicting)
            assert caplog.text.count("beyond cache.min_free_bytes") == logged
        await housekeeping.close()


async def test_unknown_reasons_of_purges_are_counted_as_one(tmp_path: Path) -> None:
    """A metric keeps each label value for ever, so callers must not choose them."""
    async with site(tmp_path) as here:
        entry = here.library.entry_id(KEY)
        for word in ("manual", "revoke", "one", "two", "three"):
            assert (await here.purge(entry, f"?reason={word}")).status == 200
        page = (await here.send("GET", "/-/metrics", headers=ADMIN)).body.decode()

        counts = {word: here.metric("imgproxy_purges_total", reason=word) for word in ("manual", "revoke", "other")}
        assert counts == {"manual": 1, "revoke": 1, "other": 3}
        assert 'reason="two"' not in page
