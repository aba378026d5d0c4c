"""
Batching: plans of one original that are wanted at the same time become one job, and share a decode.

A page's srcset asks for seven widths within a few milliseconds. The first opens a batch. It takes in more plans of the
same original until a process begins its job: for a moment if a process is idle, else for as long as the job waits. Each
plan is answered as soon as its own file is complete.
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
    from imgproxy.workers.pool import RenderPool

# A browser sends the requests of one srcset within this time; a single render takes ten times as long.
GATHER_S: Final = 0.003
# An AVIF takes eight times as long to encode as to decode, so sharing a decode saves little, and another process more.
AVIFS_PER_JOB: Final = 4

# Key hash and digest of an original, and the lane.
_Name: TypeAlias = "tuple[str, str, Lane]"


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """A file under a temporary name, and the seconds that it took."""

    rendered: Rendered
    queue_s: float
    render_s: float


@dataclass(eq=False, slots=True)
class _Item:
    """One plan of a batch, and the future of its caller."""

    plan: RenderPlan
    mark: MarkFile | None
    done: asyncio.Future[RenderedFile]


@dataclass(eq=False, slots=True)
class _Batch:
    """Plans of one original on their way to one job."""

    name: _Name
    path: str
    items: list[_Item] = field(default_factory=list)
    has_crashed: bool = False
    timer: asyncio.TimerHandle | None = None  # while it gathers before it is given to the pool
    task: asyncio.Task[None] | None = None  # from then on
    targets: list[RenderTarget] = field(default_factory=list)  # once the job has begun, one for each item

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
        self._open: dict[_Name, _Batch] = {}  # those that take plans in
        self._gathering: set[_Batch] = set()  # those that are not given to the pool yet
        self._tasks: set[asyncio.Task[None]] = set()

    async def render(  # noqa: PLR0917 - what a job needs
        self, key_hash: str, digest: str, path: str, plan: RenderPlan, mark: MarkFile | None, lane: Lane
    ) -> RenderedFile:
        """
        Render one plan of the original at `path`, together with others that come at the same time.

        The file is the caller's to rename or remove. If the call is cancelled, the job goes on for the others.

        Raises:
            ImageRefused, Overloaded, CacheUnavailable, OSError: why there is no file.
        """
        name = (key_hash, digest, lane)
        item = _Item(plan, mark, asyncio.get_running_loop().create_future())
        batch = self._open.get(name)
        if batch is not None and batch.takes(plan) and not self._is_better_alone(batch, plan):
            batch.items.append(item)
        else:
            batch = self._open[name] = _Batch(name, path, [item])
            self._schedule(batch)
        try:
            return await item.done
        except asyncio.CancelledError:
            self._leave(batch, item)
            raise

    async def close(self) -> None:
        """Cancel what is under way."""
        for batch in (*self._open.values(), *self._gathering):
            self._cancel(batch)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_better_alone(self, batch: _Batch, plan: RenderPlan) -> bool:
        """Whether an AVIF would leave a process idle if it joined this batch, which is still gathering."""
        is_avif = plan.output.format is Format.AVIF
        return is_avif and batch in self._gathering and self._pool.free(batch.name[2]) > len(self._gathering)

    def _schedule(self, batch: _Batch) -> None:
        """Give the batch to the pool: at once if its job will wait there, else after the time to gather."""
        if self._pool.free(batch.name[2]):
            self._gathering.add(batch)
            batch.timer = asyncio.get_running_loop().call_later(GATHER_S, self._start, batch)
        else:
            self._start(batch)

    def _start(self, batch: _Batch) -> None:
        self._gathering.discard(batch)
        batch.task = asyncio.get_running_loop().create_task(self._run(batch))
        self._tasks.add(batch.task)
        batch.task.add_done_callback(self._tasks.discard)

    def _leave(self, batch: _Batch, item: _Item) -> None:
        """The caller was cancelled. Give the batch up if nobody waits for it any more."""
        if all(one.done.done() for one in batch.items):
            self._cancel(batch)
        if not item.done.cancelled() and item.done.exception() is None:
            self._store.discard(item.done.result().rendered.path)  # the file came as the caller left

    def _cancel(self, batch: _Batch) -> None:
        self._shut(batch)
        if batch in self._gathering and batch.timer is not None:
            self._gathering.discard(batch)
            batch.timer.cancel()
            _give_up(batch.items, None)
        elif batch.task is not None:
            batch.task.cancel()

    def _shut(self, batch: _Batch) -> None:
        """Take in no more plans."""
        if self._open.get(batch.name) is batch:
            del self._open[batch.name]

    async def _run(self, batch: _Batch) -> None:
        try:
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
            """Build the job when a process begins it: until then the batch takes in plans."""
            nonlocal began_s
            began_s = loop.time()
            self._shut(batch)
            return self._job(batch)

        def on_rendered(index: int, rendered: Rendered, queue_s: float) -> None:
            """Pass a file on; from here on it belongs to its caller, whatever becomes of the job."""
            announced.add(index)
            done = batch.items[index].done
            if done.done():
                self._store.discard(rendered.path)  # its caller has left
            else:
                done.set_result(RenderedFile(rendered, queue_s, loop.time() - began_s))

        try:
            report = await self._pool.render(begin, lane=batch.name[2], on_rendered=on_rendered)
            self._admission.job_ended(report.open_s + report.render_s)
        except ImageRefused as error:
            await self._retry(batch, error)
        finally:
            for index, target in enumerate(batch.targets):
                if index not in announced:
                    self._store.discard(target.path)

    def _job(self, batch: _Batch) -> RenderJob:
        self._admission.job_began(batch.name[0])
        batch.items = [item for item in batch.items if not item.done.done()] or batch.items
        batch.targets = [RenderTarget(item.plan, self._store.temp_name(batch.name[0])) for item in batch.items]
        marks = {item.mark.source: item.mark for item in batch.items if item.mark is not None}
        return RenderJob(batch.path, tuple(batch.targets), tuple(marks.values()))

    async def _retry(self, batch: _Batch, error: ImageRefused) -> None:
        """
        Give each plan a job of its own after a refusal: one plan may be too much for a process, and the others not.

        A process may have been killed from outside, so a crash is believed the second time. Raises the refusal if
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
    """Tell the callers that still wait why there is no file; None means that the work was cancelled."""
    for item in items:
        if item.done.done():
            continue
        if error is None:
            item.done.cancel()
        else:
            item.done.set_exception(error)
            with suppress(Exception):
                item.done.exception()  # its caller may have left: then nobody else looks at it
