"""Batching: which plans become one job, when a batch takes plans in, and what happens to the files."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from imgproxy.admission.policy import PLANS_PER_JOB, Admission
from imgproxy.cache.entry import key_hash
from imgproxy.cache.store import CacheStore
from imgproxy.config.sections import RenderSettings
from imgproxy.delivery.batching import AVIFS_PER_JOB, Batches, RenderedFile
from imgproxy.errors import DecodeFailed, ImageRefused, RenderCrashed
from imgproxy.params.plan import Format, Output, Px, RenderPlan, Resize
from imgproxy.workers.job import Lane, MarkFile, Rendered, RenderJob, RenderReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgproxy.workers.pool import RenderPool
    from imgproxy.workers.queue import Begin, OnRendered

KEY = key_hash("a.jpg")
OTHER = key_hash("b.jpg")


def plan(width_px: int, form: Format = Format.JPEG) -> RenderPlan:
    return RenderPlan(resize=Resize(width=Px(width_px)), output=Output(format=form))


class FakePool:
    """One process. It begins a job when `begin_next` says so, and makes every file at once unless `error` refuses."""

    def __init__(self, idle: int = 0) -> None:
        self.idle = idle
        self.jobs: list[RenderJob] = []
        self.queued: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()
        self.error: Callable[[RenderJob], ImageRefused | None] = lambda _job: None
        self.after_file: Callable[[], object] = lambda: None

    def free(self, _lane: Lane) -> int:
        return self.idle

    async def begin_next(self) -> None:
        """Let the job that has waited longest begin, once there is one, and run to its end."""
        (await self.queued.get()).set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)

    async def render(self, begin: Begin, *, lane: Lane, on_rendered: OnRendered) -> RenderReport:
        del lane
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queued.put_nowait(turn)
        await turn
        job = begin()
        self.jobs.append(job)
        if (error := self.error(job)) is not None:
            raise error
        for index, target in enumerate(job.targets):
            Path(target.path).write_bytes(b"picture")
            on_rendered(index, Rendered(target.path, "image/jpeg", 7, "0" * 32, 1, 1), 0.0)
            self.after_file()
        return RenderReport((), 0.01)


class World:
    """Batches over a fake pool and a real store."""

    def __init__(self, store: CacheStore, pool: FakePool) -> None:
        self.store = store
        self.pool = pool
        self.admission = Admission(RenderSettings(), 1)
        self.batches = Batches(store, cast("RenderPool", pool), self.admission)

    def ask(
        self, wanted: RenderPlan, *, key: str = KEY, lane: Lane = Lane.VISITOR, mark: MarkFile | None = None
    ) -> asyncio.Task[RenderedFile]:
        """Ask for one plan."""
        return asyncio.create_task(self.batches.render(key, "d" * 32, f"/{key}", wanted, mark, lane))

    def sizes(self) -> list[int]:
        """How many plans each job had, in the order in which the jobs began."""
        return [len(job.targets) for job in self.pool.jobs]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = CacheStore(tmp_path)
    store.open()
    for key in (KEY, OTHER):
        store.key_dir(key).mkdir(parents=True)
    yield World(store, FakePool())
    store.close()


async def started() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_plans_of_one_original_share_a_job_while_it_waits(world: World) -> None:
    """A batch takes plans in until a process begins its job, however long that takes; what comes then is the next."""
    first = [world.ask(plan(width)) for width in (100, 200)]
    await started()
    first.append(world.ask(plan(300)))
    await started()
    await world.pool.begin_next()
    late = world.ask(plan(400))
    await world.pool.begin_next()
    await asyncio.gather(*first, late)

    assert world.sizes() == [3, 1]
    await world.batches.close()


@pytest.mark.parametrize(
    ("count", "form", "sizes"),
    [
        (PLANS_PER_JOB, Format.WEBP, [PLANS_PER_JOB]),
        (PLANS_PER_JOB + 1, Format.JPEG, [PLANS_PER_JOB, 1]),
        (AVIFS_PER_JOB + 2, Format.AVIF, [AVIFS_PER_JOB, 2]),
    ],
)
async def test_a_job_has_so_many_plans(world: World, count: int, form: Format, sizes: list[int]) -> None:
    """A srcset of usual length shares a decode. AVIFs are slow to encode, so fewer of them share a process."""
    asked = [world.ask(plan(100 + number, form)) for number in range(count)]
    await started()
    for _ in sizes:
        await world.pool.begin_next()
    await asyncio.gather(*asked)

    assert world.sizes() == sizes


async def test_other_originals_and_lanes_have_jobs_of_their_own(world: World) -> None:
    """Only plans of the same original that the same kind of caller waits for are put together."""
    asked = [world.ask(plan(1)), world.ask(plan(2), key=OTHER), world.ask(plan(3), lane=Lane.BACKGROUND)]
    await started()
    for _ in asked:
        await world.pool.begin_next()
    await asyncio.gather(*asked)

    assert world.sizes() == [1, 1, 1]


async def test_an_idle_pool_is_given_the_batch_after_a_moment(tmp_path: Path) -> None:
    """Plans that come within the time to gather share the job although a process was free all the time."""
    store = CacheStore(tmp_path)
    store.open()
    store.key_dir(KEY).mkdir(parents=True)
    here = World(store, FakePool(idle=1))
    asked = [here.ask(plan(width)) for width in (100, 200)]
    await here.pool.begin_next()
    await asyncio.gather(*asked)

    assert here.sizes() == [2]
    store.close()


async def test_each_mark_is_named_once(world: World) -> None:
    """Plans with the same watermark share its file."""
    mark = MarkFile("logo.png", "/logo")
    asked = [world.ask(plan(width), mark=mark) for width in (100, 200)] + [world.ask(plan(300))]
    await started()
    await world.pool.begin_next()
    await asyncio.gather(*asked)

    assert world.pool.jobs[0].marks == (mark,)


async def test_admission_learns_that_a_job_began_and_how_long_it_took(world: World) -> None:
    """The policy is told through the batch, so that what is at work is not left over in an overload."""
    async with world.admission.admit(KEY, "p", is_fetched=True):
        asked = world.ask(plan(100))
        await started()
        await world.pool.begin_next()
        await asked
        work = world.admission._work[KEY]
        assert work.began_s is not None
    assert world.admission._job_s < 0.1


async def test_after_a_refusal_each_plan_is_tried_alone(world: World) -> None:
    """One plan may be too much for a process, and the others not."""
    world.pool.error = lambda job: DecodeFailed() if any(one.plan == plan(200) for one in job.targets) else None
    asked = [world.ask(plan(width)) for width in (100, 200, 300)]
    await started()
    for _ in range(4):
        await world.pool.begin_next()
    results = await asyncio.gather(*asked, return_exceptions=True)

    assert [type(result) for result in results] == [RenderedFile, DecodeFailed, RenderedFile]
    assert world.sizes() == [3, 1, 1, 1]


async def test_a_crash_is_believed_the_second_time(world: World) -> None:
    """A process may have been killed from outside; the second crash is the picture's fault."""
    counted: Counter[str] = Counter()

    def crash(_job: RenderJob) -> ImageRefused | None:
        counted["jobs"] += 1
        return RenderCrashed()

    world.pool.error = crash
    asked = world.ask(plan(100))
    await started()
    await world.pool.begin_next()
    await world.pool.begin_next()

    with pytest.raises(RenderCrashed):
        await asked
    assert counted["jobs"] == 2


async def test_a_caller_that_leaves_takes_only_its_plan_along(world: World) -> None:
    """The job is made without that plan, and the others get their files."""
    stays, leaves = world.ask(plan(100)), world.ask(plan(200))
    await started()
    leaves.cancel()
    await started()
    await world.pool.begin_next()

    assert Path((await stays).rendered.path).exists()
    assert world.sizes() == [1]


async def test_a_batch_that_nobody_waits_for_is_given_up(world: World) -> None:
    """Its job never begins, and no temporary file is left."""
    asked = world.ask(plan(100))
    await started()
    asked.cancel()
    await started()

    assert world.pool.jobs == []
    assert not world.store.is_being_written(KEY)
    assert world.batches._tasks == set()


async def test_a_file_whose_caller_leaves_as_it_comes_is_removed(world: World) -> None:
    """The cancellation and the file cross; the file belongs to nobody then."""
    asked = world.ask(plan(100))
    await started()
    world.pool.after_file = asked.cancel
    await world.pool.begin_next()
    await asyncio.wait([asked])

    assert asked.cancelled()
    assert not world.store.is_being_written(KEY)


async def test_a_search_for_faces_has_a_job_of_its_own(world: World) -> None:
    """Nobody else waits for it: plans before and after it share a job, and it joins none."""
    asked = [world.ask(plan(100)), world.ask(plan(640, Format.FACES)), world.ask(plan(200))]
    await started()
    await world.pool.begin_next()
    await world.pool.begin_next()
    await asyncio.gather(*asked)

    assert sorted(world.sizes()) == [1, 2]
    assert next(job for job in world.pool.jobs if len(job.targets) == 1).targets[0].plan == plan(640, Format.FACES)
