"""Accidents of the machine: killed renders, disks that take nothing, readers that leave; none is a picture's fault."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from imgproxy.cache.cache import Cache
from imgproxy.cache.entry import key_hash
from imgproxy.cache.housekeeping import delete_files
from imgproxy.config.sections import CacheSettings, FreshnessSettings, RenderSettings
from imgproxy.errors import DecodeFailed, Revoked
from imgproxy.medialibrary.errors import LibraryNotFound
from imgproxy.params.plan import Format, Output, Px, RenderPlan, Resize
from imgproxy.workers.job import Lane
from tests.support.purge_rows import children_of, command_of, go_on, stop
from tests.http.test_render_features import LOGO, pixel, png
from tests.support.images import cached_photo
from tests.support.site import ADMIN, KEY, Site, jpeg, site, until
from tests.support.small_disk import fill, small_disk, use_up_inodes

if TYPE_CHECKING:
    from pathlib import Path

    from imgproxy.delivery.batching import RenderedFile

# Seconds of work on any machine.
SLOW = f"/{KEY}?w=7000&fm=avif"
WIDTH_50 = RenderPlan(resize=Resize(width=Px(50)), output=Output(format=Format.JPEG))


def temporary(tmp_path: Path) -> list[Path]:
    """Files in the cache that are still being written, or were forgotten."""
    return list((tmp_path / "cache" / "keys").glob("*/*/t-*"))


# --- originals that go --------------------------------------------------------------------------------------------


async def test_an_original_evicted_under_its_render_is_fetched_again(tmp_path: Path) -> None:
    """The render process finds no file; the client gets its picture all the same, from a second fetch."""
    async with site(tmp_path, cache=CacheSettings(dir=tmp_path / "cache", min_free_bytes=0)) as here:
        assert (await here.get(f"/{KEY}?w=40")).status == 200
        assert await here.renders() == 1
        pids = [pid for pid in children_of(os.getpid()) if "imgproxy.render.child" in command_of(pid)]
        for pid in pids:
            stop(pid)
        request = asyncio.create_task(here.get(f"/{KEY}?w=50"))
        await until(lambda: here.metric("imgproxy_render_busy") == 1)
        delete_files([here.edge.cache.store.key_dir(key_hash(KEY)) / "original"])
        for pid in pids:
            go_on(pid)

        assert (await request).status == 200
        assert here.metric("imgproxy_origin_answers_total", answer="image") == 2


# --- remembered refusals ---------------------------------------------------------------------------------------------


def frames_of(error: BaseException) -> int:
    """How many frames an error's traceback holds."""
    count, link = 0, error.__traceback__
    while link is not None:
        count, link = count + 1, link.tb_next
    return count


async def test_a_remembered_refusal_does_not_grow(tmp_path: Path) -> None:
    """Each request raises an error of its own: the remembered ones hold no frame, however often they are asked for."""
    pictures = {KEY: jpeg(1, (800, 600))[:3000]}
    async with site(tmp_path, pictures=pictures, library={"is_lenient": True}) as here:
        for _ in range(5):
            assert (await here.get("/nothing.jpg?w=50")).status == 404
            assert (await here.get(f"/{KEY}?w=50")).status == 422

        refusals = [refusal.error for refusal in here.edge.originals._refusals._refusals.values()]
        assert {type(error) for error in refusals} == {LibraryNotFound, DecodeFailed}
        assert [frames_of(error) for error in refusals] == [0, 0]


# --- renders that end early ------------------------------------------------------------------------------------------


async def kill_the_render(here: Site) -> None:
    """SIGKILL the process that is rendering, as the kernel does when memory runs out."""
    await until(lambda: here.edge.pool.busy == 1)
    restarts = here.edge.pool.restarts
    os.kill(here.edge.pool.pids[0], signal.SIGKILL)
    await until(lambda: here.edge.pool.restarts > restarts)


async def test_a_killed_render_is_made_again(tmp_path: Path) -> None:
    """Nobody but the operator notices a kill -9: the picture is answered."""
    async with site(tmp_path, render=RenderSettings(processes=1)) as here:
        process = here.edge.pool.pids[0]
        os.kill(process, signal.SIGSTOP)
        request = asyncio.create_task(here.get(f"/{KEY}?w=50"))
        await kill_the_render(here)

        assert (await request).status == 200
        assert here.edge.pool.restarts == 1


async def test_a_render_that_dies_twice_is_refused_and_told_to_nobody_else(tmp_path: Path) -> None:
    """The second death in a row is remembered here, but no CDN may keep it: both may have been bad luck."""
    async with site(tmp_path, pictures={KEY: cached_photo()}, render=RenderSettings(processes=1)) as here:
        request = asyncio.create_task(here.get(SLOW))
        await kill_the_render(here)
        await kill_the_render(here)
        reply, again = await request, await here.get(SLOW)

        for answer in (reply, again):
            assert (answer.status, answer.json()["type"]) == (422, "urn:imgproxy:problem:render-crashed")
            assert answer.headers["Cache-Control"] == "no-store"
        assert here.edge.pool.restarts == 2


async def test_a_render_out_of_time_is_tried_once_more_by_the_next_reader(tmp_path: Path) -> None:
    """The machine may have been busy: only the second timeout in a row is remembered, and no CDN keeps either."""
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
    """A cold picture whose widths are asked for as AVIF keeps no process idle."""
    async with site(tmp_path, pictures={KEY: cached_photo()}, render=RenderSettings(processes=2)) as here:
        await here.get(f"/{KEY}")
        processes = here.edge.pool.pids
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        requests = [asyncio.create_task(here.get(f"/{KEY}?w={width}&fm=avif")) for width in (40, 50, 60, 70)]
        try:
            await until(lambda: here.edge.pool.busy == 2)
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

        assert [reply.status for reply in await asyncio.gather(*requests)] == [200] * 4


# --- watermarks that get lost, readers that leave ----------------------------------------------------------------


async def losing_its_mark(here: Site) -> None:
    """Have the watermark's file gone from the disk, as by an eviction, while its facts are still known."""
    await here.get(f"/{KEY}?w=99&fm=png&mark={LOGO}")
    facts = here.edge.cache.facts(key_hash(LOGO))
    assert facts is not None
    path = here.edge.cache.store.original_path(facts)
    assert path is not None
    os.unlink(path)


async def test_a_lost_watermark_costs_only_itself(tmp_path: Path) -> None:
    """Its picture comes without it, under a tag of its own; other sizes in the same job come as ever."""
    async with site(tmp_path, pictures={KEY: jpeg(200), LOGO: png((0, 0, 255))}) as here:
        with_mark = await here.get(f"/{KEY}?w=320&fm=png&mark={LOGO}")
        await here.purge(here.library.entry_id(KEY))
        await losing_its_mark(here)
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


async def test_leaving_while_the_watermark_is_fetched_leaves_nothing_behind(tmp_path: Path) -> None:
    """No file, and no note that one is being written, which would keep the directory for ever."""
    async with site(tmp_path, pictures={KEY: jpeg(200), LOGO: png((0, 0, 255))}) as here:
        await losing_its_mark(here)
        here.probe.hold("headers")
        request = asyncio.create_task(here.get(f"/{KEY}?w=50&mark={LOGO}"))
        async with asyncio.timeout(20):
            await here.probe.arrived("headers")
        request.cancel()
        await until(lambda: here.edge.variants.under_way == 0 and here.edge.originals.under_way == 0)
        here.probe.release("headers")

        assert temporary(tmp_path) == []
        assert not here.edge.cache.store.is_being_written(key_hash(KEY))


async def test_a_request_that_comes_as_the_last_one_leaves_is_answered(tmp_path: Path) -> None:
    """A batch that is given up takes no new request with it."""
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

        reader = asyncio.create_task(leave_and_come_back())
        while not batches._open:
            await asyncio.sleep(0)
        reader.cancel()

        assert await reader == 50
        assert batches._open == {}


# --- disks that take nothing -----------------------------------------------------------------------------------------


async def test_a_disk_without_inodes_is_not_ready_and_asks_the_origin_all_the_same(tmp_path: Path) -> None:
    """A 304 needs no file: the picture is proved again."""
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


async def test_a_disk_without_inodes_keeps_no_revoked_picture_up(tmp_path: Path) -> None:
    """A 403 needs no file: what the origin refuses goes, from memory and from the disk."""
    with small_disk(tmp_path / "cache", 64_000_000):
        async with site(tmp_path, freshness=FreshnessSettings(settle_s=0)) as here:
            await here.get(f"/{KEY}?w=50")
            await here.library.mark_invalid(here.library.entry_id(KEY))
            use_up_inodes(tmp_path / "cache")
            with pytest.raises(Revoked):
                await here.edge.originals.revalidate(KEY)

            assert (await here.get(f"/{KEY}?w=50")).status == 403


async def test_a_full_disk_is_not_ready_even_without_a_floor(tmp_path: Path) -> None:
    """`min_free_bytes = 0` asks for no reserve; a disk with nothing left can take no original all the same."""
    with small_disk(tmp_path / "cache", 64_000_000):
        async with site(tmp_path) as here:
            assert (await here.get("/-/ready")).status == 200
            filler = fill(tmp_path / "cache")
            full = await here.get("/-/ready")
            filler.unlink()

            assert full.status == 503
            assert "disk_full" in full.json()["reasons"]
            assert (await here.get("/-/ready")).status == 200


async def test_a_disk_that_others_have_filled_is_what_the_answer_and_the_log_complain_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A picture that is evicted as it comes was not purged: who reads that would look in the wrong place."""
    cache = CacheSettings(dir=tmp_path / "cache", min_free_bytes=10**18)
    async with site(tmp_path, cache=cache) as here:
        answers = [await here.get(f"/{KEY}?w={width}") for width in range(50, 58)]

        # One may be made before its original is evicted.
        refused = [answer for answer in answers if answer.status != 200]
        assert {answer.json()["type"] for answer in refused} == {"urn:imgproxy:problem:cache-unavailable"}
        assert "beyond cache.min_free_bytes" in caplog.text


async def test_each_time_that_others_fill_the_disk_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with every picture that comes meanwhile; and again where there was room in between."""
    cache = Cache(CacheSettings(dir=tmp_path / "cache"))
    await cache.start()
    await until(lambda: cache.housekeeping.is_scanned)
    for free_bytes, said in ((0, 1), (0, 1), (10**18, 1), (0, 2)):
        monkeypatch.setattr(cache.housekeeping, "_free_bytes", lambda free_bytes=free_bytes: free_bytes)
        cache.housekeeping.after_commit()
        await until(lambda: not cache.housekeeping._is_evicting)
        assert caplog.text.count("beyond cache.min_free_bytes") == said
    await cache.close()


async def test_words_of_callers_are_no_labels(tmp_path: Path) -> None:
    """A metric keeps each label value for ever: reasons that we do not know count as one."""
    async with site(tmp_path) as here:
        entry = here.library.entry_id(KEY)
        for word in ("manual", "revoke", "one", "two", "three"):
            assert (await here.purge(entry, f"?reason={word}")).status == 200
        page = (await here.send("GET", "/-/metrics", headers=ADMIN)).body.decode()

        counts = {word: here.metric("imgproxy_purges_total", reason=word) for word in ("manual", "revoke", "other")}
        assert counts == {"manual": 1, "revoke": 1, "other": 3}
        assert 'reason="two"' not in page
