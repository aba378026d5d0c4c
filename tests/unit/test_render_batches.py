"""How plans of one picture become jobs, how many may wait, and which widths are remembered."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from imgproxy.cache.cache import Cache
from imgproxy.cache.entry import OriginalFacts, key_hash
from imgproxy.config.sections import CacheSettings
from imgproxy.delivery.batching import OPEN_S, TOGETHER_MAX, Finished, RenderBatches, _Want, dealt
from imgproxy.delivery.originals import Original, Originals, State
from imgproxy.errors import Overloaded
from imgproxy.params.plan import Format, Output, Px, RenderPlan, Resize
from imgproxy.workers.job import Lane, Rendered, RenderJob
from imgproxy.workers.process import RenderProcess
from tests.support import images
from tests.unit.test_render_pool import SMALL, job, pool_of, until

if TYPE_CHECKING:
    from imgproxy.workers.pool import RenderPool
    from imgproxy.workers.ticket import OnRendered


def wants(count: int, kind: Format) -> list[_Want]:
    """Plans of growing width that nobody waits for."""
    loop = asyncio.get_running_loop()
    plans = [RenderPlan(resize=Resize(width=Px(100 + n)), output=Output(format=kind)) for n in range(count)]
    return [_Want(plan, None, loop.create_future()) for plan in plans]


def plan_of(width_px: int) -> RenderPlan:
    """A JPEG of this width."""
    return RenderPlan(resize=Resize(width=Px(width_px)), output=Output(format=Format.JPEG))


def original_of(key: str) -> Original:
    """An original that is current."""
    facts = OriginalFacts(key, "0" * 32, 1, "image/jpeg", None, None, "journal", 0, 1.0, 2.0)
    return Original(facts, key_hash(key), State.FRESH)


@pytest.mark.parametrize(
    ("count", "kind", "free", "sizes"),
    [
        (1, Format.AVIF, 2, [1]),
        (7, Format.WEBP, 4, [7]),
        (8, Format.JPEG, 4, [8]),
        (9, Format.JPEG, 0, [5, 4]),
        (9, Format.JPEG, 3, [3, 3, 3]),
        (10, Format.AVIF, 2, [4, 3, 3]),
        (2, Format.AVIF, 2, [1, 1]),
        (3, Format.AVIF, 0, [3]),
        (100, Format.JPEG, 2, [8] * 9 + [7] * 4),
    ],
)
async def test_plans_are_dealt_out(count: int, kind: Format, free: int, sizes: list[int]) -> None:
    """A srcset of usual length shares a decode; AVIFs, and more than a srcset has, go to every process that is free."""
    given = wants(count, kind)

    hands = dealt(given, free=free)

    assert [len(hand) for hand in hands] == sizes
    assert {id(want) for hand in hands for want in hand} == {id(want) for want in given}
    assert max(map(len, hands)) <= TOGETHER_MAX


async def test_every_variant_of_a_job_counts_as_waiting(tmp_path: Path) -> None:
    """Three variants in one job fill a queue of three: the next job is shed."""
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(images.cached_photo())
    async with pool_of(queue_max=3) as pool:
        process = pool.pids[0]
        os.kill(process, signal.SIGSTOP)
        try:
            running = asyncio.create_task(pool.render(job(photo, SMALL)))
            await until(lambda pool: pool.busy == 1, pool)
            three = asyncio.create_task(pool.render(job(photo, SMALL, SMALL, SMALL, name="b")))
            await until(lambda pool: pool.waiting == 3, pool)
            assert pool.is_saturated
            with pytest.raises(Overloaded):
                await pool.render(job(photo, SMALL, name="c"))
        finally:
            os.kill(process, signal.SIGCONT)
        assert len((await three).rendered) == 3
        await running


async def test_the_pool_knows_how_many_jobs_would_begin_at_once() -> None:
    """Idle processes, but for the one that work behind the answers may not take."""
    async with pool_of(processes=2) as pool:
        assert pool.free(Lane.VISITOR) == 2
        assert pool.free(Lane.BACKGROUND) == 1


class _Announces:
    """A pool that makes every file at once, then turns to its next job as the real one does: before the loop's turn ends."""

    def __init__(self) -> None:
        self.waiter: asyncio.Task[None] | None = None
        self.order: list[str] = []

    def free(self, _lane: Lane) -> int:
        return 1

    async def render(self, job: RenderJob, *, lane: Lane, on_rendered: OnRendered, came_at: float | None) -> None:
        del lane, came_at
        for index, target in enumerate(job.targets):
            Path(target.path).parent.mkdir(parents=True, exist_ok=True)  # as the original in it has done
            Path(target.path).write_bytes(b"picture")
            on_rendered(index, Rendered(target.path, "image/webp", 7, "0" * 32, 1, 1), 0.0)
            self.order.append("next job")
            if job.original.endswith("left"):
                assert self.waiter is not None
                self.waiter.cancel()


class _Here:
    """Originals whose file is always there."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def file(self, original: Original) -> tuple[Original, str]:
        return original, self._path

    def landed(self, _original: Original) -> None:
        """Nothing is in memory."""


@pytest.mark.parametrize("name", ["original", "left"])
async def test_a_file_is_handed_over_once_the_pool_is_through(tmp_path: Path, name: str) -> None:
    """The pool gives out its next job before anybody commits; a file whose caller leaves meanwhile is removed."""
    cache = Cache(CacheSettings(dir=tmp_path / "cache"))
    cache.store.open()
    pool = _Announces()
    batches = RenderBatches(cache, cast("Originals", _Here(str(tmp_path / name))), cast("RenderPool", pool))
    original = original_of("a.jpg")
    found: list[Finished] = []

    async def wait() -> None:
        found.append(await batches.render(original, RenderPlan(), None, Lane.VISITOR))
        pool.order.append("commit")

    pool.waiter = asyncio.create_task(wait())
    await asyncio.wait([pool.waiter])
    await batches.close()
    cache.store.close()

    if name == "left":
        assert pool.waiter.cancelled()
    else:
        assert pool.order == ["next job", "commit"]
        assert Path(found[0].rendered.path).read_bytes() == b"picture"
        cache.store.discard(found[0].rendered.path)
    assert not cache.store.is_being_written(original.key_hash)
    assert not cache.store.key_dir(original.key_hash).exists()


@pytest.mark.parametrize(("pause_s", "sizes"), [(0.0, [1, 3, 1]), (OPEN_S + 0.05, [1, 1, 1, 1, 1])])
async def test_a_job_that_waits_takes_plans_in(tmp_path: Path, pause_s: float, sizes: list[int]) -> None:
    """While no process is idle, what soon comes for a picture joins its waiting job; a job that has begun is closed."""
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(images.cached_photo())
    cache = Cache(CacheSettings(dir=tmp_path / "cache"))
    cache.store.open()
    originals = {name: original_of(name) for name in "ab"}
    for original in originals.values():
        cache.store.key_dir(original.key_hash).mkdir(parents=True)
    jobs: list[int] = []
    found: list[asyncio.Task[Finished]] = []
    async with pool_of() as pool:
        batches = RenderBatches(cache, cast("Originals", _Here(str(photo))), pool)
        give = RenderProcess.give

        def counted(process: RenderProcess, job: RenderJob) -> None:
            jobs.append(len(job.targets))
            give(process, job)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RenderProcess, "give", counted)
            os.kill(pool.pids[0], signal.SIGSTOP)
            try:
                for count, (name, width_px) in enumerate(zip("aabbb", (100, 110, 120, 130, 140), strict=True)):
                    rendering = batches.render(originals[name], plan_of(width_px), None, Lane.VISITOR)
                    found.append(asyncio.create_task(rendering))
                    await until(lambda pool, count=count: pool.busy + pool.waiting == count + 1, pool)
                    await asyncio.sleep(pause_s)
            finally:
                os.kill(pool.pids[0], signal.SIGCONT)
            made = await asyncio.gather(*found)
    assert sorted(jobs) == sorted(sizes)
    assert [item.rendered.width_px for item in made] == [100, 110, 120, 130, 140]
    for item in made:
        cache.store.discard(item.rendered.path)
    await batches.close()
    cache.store.close()
    assert not any(cache.store.is_being_written(original.key_hash) for original in originals.values())


async def test_a_plan_that_finds_no_room_in_a_waiting_job_is_refused(tmp_path: Path) -> None:
    """Plans that join a job that waits count as waiting: a queue that is full of them takes no more."""
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(images.cached_photo())
    async with pool_of(queue_max=2) as pool:
        os.kill(pool.pids[0], signal.SIGSTOP)
        try:
            running = asyncio.create_task(pool.render(job(photo, SMALL)))
            await until(lambda pool: pool.busy == 1, pool)
            queued = job(photo, SMALL, name="b")
            waiting = asyncio.create_task(pool.render(queued))
            await until(lambda pool: pool.waiting == 1, pool)
            more = job(photo, SMALL, SMALL, SMALL, name="c").targets
            wider = pool.widen(queued, Lane.VISITOR, more[0])
            assert wider is not None
            assert pool.waiting == 2
            assert pool.widen(queued, Lane.VISITOR, more[1]) is None  # it is another job by now
            assert pool.widen(wider, Lane.VISITOR, more[1]) is None
        finally:
            os.kill(pool.pids[0], signal.SIGCONT)
        assert len((await waiting).rendered) == 2
        await running
