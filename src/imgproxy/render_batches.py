"""
Plans of one original that are wanted at the same time go to a render process together, and share a decode.

A page's srcset asks for seven widths within a few milliseconds. The first opens a batch, which gathers what comes for
the same original until it closes; each plan is answered as soon as its own file is whole.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from imgproxy.errors import CacheUnavailable, ImageRefused
from imgproxy.render.job import Lane, MarkFile, Rendered, RenderJob, RenderTarget

if TYPE_CHECKING:
    from pathlib import Path

    from imgproxy.cache.cache import Cache
    from imgproxy.originals import Original, Originals
    from imgproxy.params.plan import RenderPlan
    from imgproxy.render.pool import RenderPool

# A browser sends the requests of one srcset, or of one page, within this time; a single render takes ten times as long.
GATHER_S = 0.003


@dataclass(frozen=True, slots=True)
class Finished:
    """A rendered file, still under a temporary name, and what it took."""

    rendered: Rendered
    source: Original
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
class _Batch:
    original: Original
    lane: Lane
    wants: list[_Want] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class RenderBatches:
    """Gathers plans into render jobs."""

    def __init__(self, cache: Cache, originals: Originals, pool: RenderPool) -> None:
        self._cache = cache
        self._originals = originals
        self._pool = pool
        self._open: dict[tuple[str, str, Lane], _Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def render(self, original: Original, plan: RenderPlan, mark: Original | None, lane: Lane) -> Finished:
        """
        Render one plan, together with others of the same original that come at the same time.

        The file is the caller's to rename or remove. Cancelling gives the plan up; the job goes on for the others.

        Raises:
            ImageRefused, Overloaded, Overtaken, CacheUnavailable, OSError, or why the original cannot be had.
        """
        name = (original.key_hash, original.facts.digest, lane)
        batch = self._open.get(name)
        if batch is None:
            batch = self._open[name] = _Batch(original, lane)
            batch.task = asyncio.get_running_loop().create_task(self._run(name, batch))
            self._tasks.add(batch.task)
            batch.task.add_done_callback(self._tasks.discard)
        want = _Want(plan, mark, asyncio.get_running_loop().create_future())
        batch.wants.append(want)
        try:
            return await want.done
        except asyncio.CancelledError:
            if batch.task is not None and all(item.done.done() for item in batch.wants):
                batch.task.cancel()
            raise

    async def close(self) -> None:
        """Cancel what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, name: tuple[str, str, Lane], batch: _Batch) -> None:
        started_s = asyncio.get_running_loop().time()
        try:
            try:
                await asyncio.sleep(GATHER_S)
            finally:
                self._open.pop(name, None)
            source, path = await self._originals.file(batch.original)
            fetch_s = asyncio.get_running_loop().time() - started_s if source is not batch.original else 0.0
            await self._render(batch, [want for want in batch.wants if not want.done.done()], source, path, fetch_s)
        except asyncio.CancelledError:
            _give_up(batch.wants, None)
            raise
        except Exception as error:
            _give_up(batch.wants, error)

    async def _render(self, batch: _Batch, wants: list[_Want], source: Original, path: Path, fetch_s: float) -> None:
        if not wants:
            return
        started_s = asyncio.get_running_loop().time()
        store = self._cache.store
        targets = tuple(RenderTarget(want.plan, store.temp_path(source.key_hash)) for want in wants)
        marks = await self._mark_files(wants)

        def on_rendered(index: int, rendered: Rendered, queue_s: float) -> None:
            """Take the file out of the pool's hands, which removes those of a job that fails later."""
            want = wants[index]
            try:
                kept = self._take_over(rendered.path, source.key_hash)
            except (OSError, CacheUnavailable) as error:
                if not want.done.done():
                    want.done.set_exception(error)
                return
            if want.done.done():
                store.discard(kept)
                return
            render_s = asyncio.get_running_loop().time() - started_s - queue_s
            want.done.set_result(Finished(replace(rendered, path=kept), source, fetch_s, queue_s, render_s))

        try:
            await self._pool.render(RenderJob(path, targets, marks), lane=batch.lane, on_rendered=on_rendered)
        except ImageRefused as error:
            left = [want for want in wants if not want.done.done()]
            if len(wants) == 1:
                _give_up(left, error)
            # One plan may be too much where the others are not: each gets a job of its own.
            for want in left if len(wants) > 1 else ():
                await self._render(batch, [want], source, path, fetch_s)
        finally:
            for target in targets:
                store.discard(target.path)

    def _take_over(self, path: Path, hashed: str) -> Path:
        """Give a file a new temporary name."""
        kept = self._cache.store.temp_path(hashed)
        try:
            os.rename(path, kept)
        except OSError:
            self._cache.store.discard(kept)
            raise
        return kept

    async def _mark_files(self, wants: list[_Want]) -> tuple[MarkFile, ...]:
        """The files of the watermarks that these plans have, each once."""
        marks = {want.plan.mark.source: want.mark for want in wants if want.plan.mark is not None and want.mark}
        return tuple([MarkFile(name, (await self._originals.file(mark))[1]) for name, mark in marks.items()])


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
