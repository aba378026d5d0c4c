"""
Batching: plans of one original that are wanted at the same time become one job, and share a decode.

A page's srcset asks for seven widths within a few milliseconds. The first one opens a batch. The batch takes in more
plans of the same original until a process begins its job: for `GATHER_S` if a process is idle, else for as long as the
job waits in the queue. A plan is answered as soon as its own file is complete.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from imgproxy.admission.policy import PLANS_PER_JOB
from imgproxy.errors import ImageRefused, RenderCrashed
from imgproxy.params.plan import Format
from imgproxy.workers.job import Lane, MarkFile, Rendered, RenderJob, RenderTarget

if TYPE_CHECKING:
    from imgproxy.admission.policy import Admission
    from imgproxy.cache.store import CacheStore
    from imgproxy.params.plan import RenderPlan
    from imgproxy.workers.faces import Face
    from imgproxy.workers.pool import RenderPool

# A browser sends the requests of one srcset within this time. A render takes ten times as long.
GATHER_S: Final = 0.003
# An AVIF takes eight times as long to encode as to decode. So a second process saves more time than a shared decode.
AVIFS_PER_JOB: Final = 4

# Key hash and digest of an original, and the lane.
_Name: TypeAlias = "tuple[str, str, Lane]"


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """A variant under a temporary name, and the seconds that it took."""

    rendered: Rendered
    queue_s: float
    render_s: float


@dataclass(eq=False, slots=True)
class _Item:
    """One plan of a batch, and the future of its caller."""

    plan: RenderPlan
    mark: MarkFile | None
    faces: tuple[Face, ...]
    done: asyncio.Future[RenderedFile]


@dataclass(eq=False, slots=True)
class _Batch:
    """Plans of one original that are rendered in one job."""

    name: _Name
    path: str
    items: list[_Item]
    has_crashed: bool = False
    task: asyncio.Task[None] | None = None
    targets: list[RenderTarget] = field(default_factory=list)  # one for each item, once the job has begun

    def takes(self, plan: RenderPlan) -> bool:
        """Whether one more plan fits in."""
        has_avif = any(one.output.format is Format.AVIF for one in (plan, *(item.plan for item in self.items)))
        return len(self.items) < (AVIFS_PER_JOB if has_avif else PLANS_PER_JOB)


class Batches:
    """Gathers plans into render jobs."""

    def __init__(self, store: CacheStore, pool: RenderPool, admission: Admission) -> None:
        self._store = store
        self._pool = pool
        self._admission = admission
        self._open: dict[_Name, _Batch] = {}  # batches that take plans in
        self._gathering: set[_Batch] = set()  # batches that the pool does not have yet
        self._tasks: set[asyncio.Task[None]] = set()

    async def render(  # noqa: PLR0917 - all that a job needs
        self,
        key_hash: str,
        digest: str,
        path: str,
        plan: RenderPlan,
        mark: MarkFile | None,
        lane: Lane,
        faces: tuple[Face, ...] = (),
    ) -> RenderedFile:
        """
        Render one plan of the original at `path`, in one job with others that come at the same time.

        A search for faces has a job of its own: it may take a second, and nobody else waits for it. The caller
        renames or removes the file. If one caller is cancelled, the job goes on for the others.

        Raises:
            ImageRefused, Overloaded, CacheUnavailable, OSError: the variant could not be made.
        """
        name = (key_hash, digest, lane)
        item = _Item(plan, mark, faces, asyncio.get_running_loop().create_future())
        batch = self._open.get(name)
        if plan.output.format is Format.FACES:
            batch = _Batch(name, path, [item])
            self._begin(batch)
        elif batch is not None and batch.takes(plan) and not self._is_better_alone(batch, plan):
            batch.items.append(item)
        else:
            batch = self._open[name] = _Batch(name, path, [item])
            self._begin(batch)
        try:
            return await item.done
        except asyncio.CancelledError:
            self._leave(batch, item)
            raise

    async def close(self) -> None:
        """Cancel all batches, and wait until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_better_alone(self, batch: _Batch, plan: RenderPlan) -> bool:
        """Whether the plan is an AVIF, and an idle process could make it while this batch gathers."""
        is_avif = plan.output.format is Format.AVIF
        return is_avif and batch in self._gathering and self._pool.free(batch.name[2]) > len(self._gathering)

    def _begin(self, batch: _Batch) -> None:
        """Render the batch: at once if its job has to wait in the queue, else after the time to gather."""
        if self._pool.free(batch.name[2]):
            self._gathering.add(batch)
        batch.task = asyncio.get_running_loop().create_task(self._run(batch))
        self._tasks.add(batch.task)
        batch.task.add_done_callback(self._tasks.discard)

    def _leave(self, batch: _Batch, item: _Item) -> None:
        """Deal with a cancelled caller: cancel the batch if it was the last one."""
        if batch.task is not None and all(one.done.done() for one in batch.items):
            self._shut(batch)
            batch.task.cancel()
        if not item.done.cancelled() and item.done.exception() is None:
            self._store.discard(item.done.result().rendered.path)  # the file was complete as the caller left

    def _shut(self, batch: _Batch) -> None:
        """Take in no more plans."""
        self._gathering.discard(batch)
        if self._open.get(batch.name) is batch:
            del self._open[batch.name]

    async def _run(self, batch: _Batch) -> None:
        try:
            if batch in self._gathering:
                await asyncio.sleep(GATHER_S)
                self._gathering.discard(batch)
            await self._render(batch)
        except asyncio.CancelledError:
            _give_up(batch.items, None)
            raise
        except Exception as error:
            _give_up(batch.items, error)
        finally:
            self._shut(batch)

    async def _render(self, batch: _Batch) -> None:
        announced: set[int] = set()
        loop = asyncio.get_running_loop()
        began_s = 0.0

        def begin() -> RenderJob:
            """Build the job. A process begins it now, so the batch takes in no more plans."""
            nonlocal began_s
            began_s = loop.time()
            self._shut(batch)
            return self._build_job(batch)

        def on_rendered(index: int, rendered: Rendered, queue_s: float) -> None:
            """Give a file to its caller. It is the caller's file from now on, even if the job fails later."""
            announced.add(index)
            done = batch.items[index].done
            if done.done():
                self._store.discard(rendered.path)  # its caller has left
            else:
                done.set_result(RenderedFile(rendered, queue_s, loop.time() - began_s))

        try:
            report = await self._pool.render(begin, lane=batch.name[2], on_rendered=on_rendered)
            self._admission.job_ended(report.render_s)
        except ImageRefused as error:
            await self._retry(batch, error)
        finally:
            for index, target in enumerate(batch.targets):
                if index not in announced:
                    self._store.discard(target.path)

    def _build_job(self, batch: _Batch) -> RenderJob:
        batch.items = [item for item in batch.items if not item.done.done()] or batch.items
        marks = {item.mark.source: item.mark for item in batch.items if item.mark is not None}
        batch.targets = [
            RenderTarget(item.plan, self._store.temp_name(batch.name[0]), item.faces) for item in batch.items
        ]
        self._admission.job_began(batch.name[0])
        return RenderJob(batch.path, tuple(batch.targets), tuple(marks.values()))

    async def _retry(self, batch: _Batch, error: ImageRefused) -> None:
        """
        Render each plan in a job of its own after a refusal: perhaps only one plan is too much for a process.

        A crash counts only the second time: the process may have been killed from outside. Raises the refusal if
        nothing is left to try.
        """
        is_crash = isinstance(error, RenderCrashed)
        if len(batch.items) == 1 and (batch.has_crashed or not is_crash):
            raise error
        for item in batch.items:
            if not item.done.done():
                alone = _Batch(batch.name, batch.path, [item], has_crashed=batch.has_crashed or is_crash)
                try:
                    await self._render(alone)
                except Exception as again:
                    _give_up([item], again)


def _give_up(items: list[_Item], error: Exception | None) -> None:
    """Raise the error in all callers that still wait; None cancels them."""
    for item in items:
        if item.done.done():
            continue
        if error is None:
            item.done.cancel()
        else:
            item.done.set_exception(error)
            with suppress(Exception):
                item.done.exception()  # asyncio logs an error that nobody reads, and the caller may have left
