"""
Plans of one original that are wanted at the same time go to a render process together, and share a decode.

A page's srcset asks for seven widths within a few milliseconds. The first opens a batch, which gathers what comes for
the same original: for a moment where a process is idle, else while its job waits for one. Each plan is answered as soon
as its own file is whole. A decode that is shared saves less than a second process at work: where the plans are many, or
slow to encode, they are dealt out.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from imgproxy.delivery.originals import StaleGeneration
from imgproxy.errors import ImageRefused, ImgproxyError, RenderCrashed
from imgproxy.params.plan import Format
from imgproxy.workers.job import Lane, MarkFile, Rendered, RenderJob, RenderTarget

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.staging import Landing
    from imgproxy.delivery.originals import Original, Originals
    from imgproxy.params.plan import RenderPlan
    from imgproxy.workers.pool import RenderPool

# A browser sends the requests of one srcset, or of one page, within this time; a single render takes ten times as long.
GATHER_S = 0.003
# So long after it was opened a batch takes plans in, if its job waits. What comes later has a wait of its own: with
# this job it would be given up too early.
OPEN_S = 0.1
# A srcset of usual length stays together. More plans than this in one job would keep a process from everyone else.
TOGETHER_MAX = 8
# An AVIF takes about eight times as long to encode as to decode (render/cost.py): little is saved by sharing.
DEAR_TOGETHER_MAX = 4

log = logging.getLogger(__name__)

# Key hash and digest of an original, and the lane.
_Name: TypeAlias = "tuple[str, str, Lane]"


@dataclass(frozen=True, slots=True)
class Finished:
    """A rendered file, still under a temporary name, the originals it was made from, and what it took."""

    rendered: Rendered
    source: Original
    mark: Original | None
    fetch_s: float
    queue_s: float
    render_s: float


@dataclass(eq=False, slots=True)
class _Want:
    """One plan of a batch, and who waits for it."""

    plan: RenderPlan
    mark: Original | None
    done: asyncio.Future[Finished]


@dataclass(eq=False, slots=True)
class _Hand:
    """Plans of a batch that become one job."""

    lane: Lane
    came_at: float | None
    source: Original
    path: str
    landing: Landing | None  # what `path` leads to, if it is not on disk
    fetch_s: float
    wants: list[_Want]
    has_crashed: bool = False
    targets: list[RenderTarget] = field(default_factory=list)  # of each want, in this order
    job: RenderJob | None = None  # as the pool has it


@dataclass(eq=False, slots=True)
class _Batch:
    original: Original
    lane: Lane
    came_at: float | None
    opened_s: float  # by the loop's clock
    wants: list[_Want] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None  # until it begins
    task: asyncio.Task[None] | None = None  # from then on
    hand: _Hand | None = None  # all of it, once it is known to be one job


class RenderBatches:
    """Gathers plans into render jobs."""

    def __init__(self, cache: Cache, originals: Originals, pool: RenderPool) -> None:
        self._cache = cache
        self._originals = originals
        self._pool = pool
        self._open: dict[_Name, _Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.for_visitors = 0  # batches under way that visitors wait for

    async def render(
        self, original: Original, plan: RenderPlan, mark: Original | None, lane: Lane, came_at: float | None = None
    ) -> Finished:
        """
        Render one plan, together with others of the same original that come at the same time.

        `came_at` is when the visitor came, by the loop's clock, where the original had to be fetched first.
        The file is the caller's to rename or remove. Cancelling gives the plan up; the job goes on for the others.

        Raises:
            ImageRefused, Overloaded, StaleGeneration, CacheUnavailable, OSError, or why the original cannot be had.
        """
        loop = asyncio.get_running_loop()
        name = (original.key_hash, original.facts.digest, lane)
        want = _Want(plan, mark, loop.create_future())
        batch = self._open.get(name)
        if batch is None or not self._joins(batch, want):
            batch = self._open[name] = _Batch(original, lane, came_at, loop.time(), [want])
            self.for_visitors += lane is not Lane.BACKGROUND
            if self._pool.free(lane):
                batch.timer = loop.call_later(GATHER_S, self._begin, name, batch)
            else:
                self._begin(name, batch)  # it will wait long enough, and a timer would wake the loop once more
        try:
            return await want.done
        except asyncio.CancelledError:
            if all(item.done.done() for item in batch.wants):
                self._cancel(name, batch)
            if not want.done.cancelled() and want.done.done() and want.done.exception() is None:
                self._cache.store.discard(want.done.result().rendered.path)  # it came as its caller left
            raise

    def gathers(self, original: Original) -> bool:
        """Whether one more size of this original would share the decode of others that visitors wait for."""
        batch = self._open.get((original.key_hash, original.facts.digest, Lane.VISITOR))
        if batch is None or len(batch.wants) >= TOGETHER_MAX or _is_late(batch):
            return False
        hand = batch.hand
        return hand is None or (hand.job is not None and self._pool.waits(hand.job, Lane.VISITOR))

    def _joins(self, batch: _Batch, want: _Want) -> bool:
        """Take a plan into a batch that is not dealt out yet, or is one job that waits; whether that was possible."""
        hand = batch.hand
        if hand is not None:
            if hand.job is None or hand.job.marks or want.mark is not None or _is_late(batch):
                return False
            if len(dealt([*hand.wants, want], free=0)) > 1:
                return False
            target = RenderTarget(want.plan, self._cache.store.temp_name(hand.source.key_hash))
            job = self._pool.widen(hand.job, hand.lane, target)
            if job is None:
                self._cache.store.discard(target.path)
                return False
            hand.job = job
            hand.targets.append(target)
            hand.wants.append(want)
        batch.wants.append(want)
        return True

    def _begin(self, name: _Name, batch: _Batch) -> None:
        """Render the plans that this batch has by then."""
        batch.timer = None
        batch.task = task = batch.wants[0].done.get_loop().create_task(self._run(name, batch))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._end(task, batch))

    def _end(self, task: asyncio.Task[None], batch: _Batch) -> None:
        self._tasks.discard(task)
        self.for_visitors -= batch.lane is not Lane.BACKGROUND

    def _shut(self, name: _Name, batch: _Batch) -> None:
        """Take no more plans into this batch; another may be open under its name already."""
        if self._open.get(name) is batch:
            del self._open[name]

    def _cancel(self, name: _Name, batch: _Batch) -> None:
        """Give up a batch."""
        self._shut(name, batch)
        if batch.timer is not None:
            batch.timer.cancel()
            batch.timer = None
            self.for_visitors -= batch.lane is not Lane.BACKGROUND
            _give_up(batch.wants, None)
        elif batch.task is not None:
            batch.task.cancel()

    async def close(self) -> None:
        """Cancel what is under way."""
        for name, batch in list(self._open.items()):
            self._cancel(name, batch)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, name: _Name, batch: _Batch) -> None:
        loop = batch.wants[0].done.get_loop()
        started_s = loop.time()
        landing = None
        try:
            source, path = await self._originals.file(batch.original)
            landing = self._originals.landed(source)
            path = landing.path if landing is not None else path
            fetch_s = loop.time() - started_s if source is not batch.original else 0.0
            wants = [want for want in batch.wants if not want.done.done()]
            hands = [
                _Hand(batch.lane, batch.came_at, source, path, landing, fetch_s, dealt_wants)
                for dealt_wants in dealt(wants, free=self._pool.free(batch.lane))
            ]
            if len(hands) == 1:
                batch.hand = hands[0]
                await self._render(hands[0])  # as it is nearly always: then it needs no task of its own
            else:
                self._shut(name, batch)
                await asyncio.gather(*map(self._render, hands))
        except asyncio.CancelledError:
            _give_up(batch.wants, None)
            raise
        except Exception as error:
            _give_up(batch.wants, error)
        finally:
            self._shut(name, batch)
            if landing is not None:
                landing.give_back()

    async def _render(self, hand: _Hand) -> None:
        """Render these plans in one job. Whatever goes wrong is theirs alone; only a cancellation is raised."""
        try:
            marks = await self._mark_files(hand.wants)
            hand.wants = [want for want in hand.wants if not want.done.done()]
            if hand.wants:
                await self._render_with(hand, marks)
        except Exception as error:
            _give_up(hand.wants, error)

    async def _render_with(self, hand: _Hand, marks: tuple[MarkFile, ...]) -> None:
        announced: set[int] = set()
        store, hashed = self._cache.store, hand.source.key_hash
        try:
            for want in hand.wants:
                hand.targets.append(RenderTarget(want.plan, store.temp_name(hashed)))
            facts, targets = hand.source.facts, tuple(hand.targets)
            hand.job = RenderJob(hand.path, targets, marks, facts.size_bytes, facts.digest, hand.landing)
            await self._pool.render(
                hand.job, lane=hand.lane, on_rendered=self._on_rendered(hand, announced), came_at=hand.came_at
            )
        except ImageRefused as error:
            await self._try_again(hand, error)
        finally:
            for index, target in enumerate(hand.targets):
                if index not in announced:
                    store.discard(target.path)

    def _on_rendered(self, hand: _Hand, announced: set[int]) -> Callable[[int, Rendered, float], None]:
        loop = hand.wants[0].done.get_loop()  # `get_running_loop` asks the system for the process's id each time
        started_s = loop.time()

        def on_rendered(index: int, rendered: Rendered, queue_s: float) -> None:
            """Hand a file on to whoever waits for it; from here on it is theirs, whatever becomes of the job."""
            announced.add(index)
            want = hand.wants[index]
            render_s = loop.time() - started_s - queue_s
            finished = Finished(rendered, hand.source, want.mark, hand.fetch_s, queue_s, render_s)
            if want.done.done():
                self._cache.store.discard(rendered.path)  # its caller has left
            else:
                # Its caller commits in the loop's next turn: the pool has given the process its next job by then.
                want.done.set_result(finished)

        return on_rendered

    async def _try_again(self, hand: _Hand, error: ImageRefused) -> None:
        """
        After a refusal: one plan may be too much where the others are not, so each gets a job of its own.

        A process that died may have been killed by somebody (kill -9, the kernel when memory runs out), so a crash is
        believed the second time. Raises the refusal where nothing is left to try.
        """
        is_crash = isinstance(error, RenderCrashed)
        if len(hand.wants) == 1 and (hand.has_crashed or not is_crash):
            raise error
        for want in hand.wants:
            if not want.done.done():
                again = replace(hand, wants=[want], has_crashed=hand.has_crashed or is_crash, targets=[], job=None)
                await self._render(again)

    async def _mark_files(self, wants: list[_Want]) -> tuple[MarkFile, ...]:
        """
        The files of the watermarks that these plans have, each once.

        A watermark that cannot be had does not keep the picture back: its plans lose it. One that a purge overtook
        gives up its plans, and no others.
        """
        marks = {want.plan.mark.source: want.mark for want in wants if want.plan.mark is not None and want.mark}
        files = []
        for name, mark in marks.items():
            its_wants = [want for want in wants if want.plan.mark is not None and want.plan.mark.source == name]
            try:
                current, path = await self._originals.file(mark)
            except StaleGeneration as overtaken:
                _give_up(its_wants, overtaken)
                continue
            except ImgproxyError as error:
                log.warning("the file of the watermark %s cannot be had: %s", name, error)
                for want in its_wants:
                    want.mark = None
                continue
            files.append(MarkFile(name, path))
            for want in its_wants:
                want.mark = current  # what is painted is what the variant has to be proved by
        return tuple(files)


def _is_late(batch: _Batch) -> bool:
    """Whether what comes now would have too short a wait with this batch."""
    return batch.wants[0].done.get_loop().time() > batch.opened_s + OPEN_S


def dealt(wants: list[_Want], *, free: int) -> list[list[_Want]]:
    """
    Deal plans out to jobs: few and quick ones stay together, others go to as many processes as are free.

    Dealt in turn, like cards: neighbours in a srcset are of similar size, so each job gets a bit of everything.
    """
    is_dear = any(want.plan.output.format is Format.AVIF for want in wants)
    together_max = DEAR_TOGETHER_MAX if is_dear else TOGETHER_MAX
    hands = -(-len(wants) // together_max)
    if is_dear or len(wants) > TOGETHER_MAX:
        hands = max(hands, min(free, len(wants)))
    return [wants[start::hands] for start in range(hands)]


def _give_up(wants: list[_Want], error: Exception | None) -> None:
    """Tell those who still wait why there is nothing; None means that the work was cancelled."""
    for want in wants:
        if want.done.done():
            continue
        if error is None:
            want.done.cancel()
        else:
            want.done.set_exception(error)
            with suppress(Exception):
                want.done.exception()  # its waiter may have left: then nobody else looks at it
