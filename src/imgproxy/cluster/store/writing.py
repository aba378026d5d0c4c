"""
Writes to the shared store, behind the answers, from a bounded queue.

The queue holds names and paths, no bytes. The cache may delete a file before its turn comes; then nothing is written. A
purge takes the objects of its key out of the queue. One that was being written meanwhile is deleted again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cachetools import LRUCache

from imgproxy.cluster.store.guarded import GuardedCalls, NotDone
from imgproxy.cluster.store.objects import StoreFailed
from imgproxy.telemetry import metric_table

if TYPE_CHECKING:
    from imgproxy.cache.purge_event import Event, Purged, PurgedMany, PurgeEvent
    from imgproxy.cluster.store.objects import Objects
    from imgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# Keys whose original is known to be in the store, about 200 bytes each.
KNOWN_MAX: Final = 50_000


@dataclass(eq=False, slots=True)
class Upload:
    """
    An object to be written: from `data`, or from the file `path`.

    `sources` are the hashes of the keys that it is made from. `is_purged`: one of them was purged since.
    """

    kind: str
    name: str
    sources: tuple[str, ...]
    path: str = ""
    data: bytes = b""
    is_purged: bool = False


class Writes:
    """The queue of writes, and the tasks that work it off."""

    def __init__(
        self,
        objects: Objects,
        purged: PurgeEvent,
        purged_many: Event[PurgedMany],
        metrics: Metrics,
        *,
        queue_max: int,
        writes_max: int,
    ) -> None:
        self._objects = objects
        self._metrics = metrics
        self.calls = GuardedCalls("write", metrics)
        self._queue: asyncio.Queue[Upload] = asyncio.Queue(queue_max)
        self._writes_max = writes_max
        self._by_key: defaultdict[str, set[Upload]] = defaultdict(set)
        # The digest of each key's original in the store, as far as this process has written or read it.
        self._known: LRUCache[str, str] = LRUCache(KNOWN_MAX)
        self._pending = 0
        self._tasks: list[asyncio.Task[None]] = []
        purged.subscribe(self._forget)
        purged_many.subscribe(self._forget_many)
        metrics.watch(metric_table.STORE_QUEUE, lambda: self._pending)

    def start(self) -> None:
        """Begin to write."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run()) for _ in range(self._writes_max)]

    async def close(self) -> None:
        """Stop. What waits is not written: another edge, or a later render, writes it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def put(self, upload: Upload) -> None:
        """Write an object soon. It is dropped if too many wait."""
        try:
            self._queue.put_nowait(upload)
        except asyncio.QueueFull:
            self._count(upload, "dropped")
            return
        self._pending += 1
        for hashed in upload.sources:
            self._by_key[hashed].add(upload)

    def knows_original(self, hashed: str, digest: str) -> bool:
        """Whether this process has seen the key's original of this digest in the store, or has put it there."""
        return self._known.get(hashed) == digest

    def note_original(self, hashed: str, digest: str) -> None:
        """Note that the store has the key's original of this digest."""
        self._known[hashed] = digest

    def forget_original(self, hashed: str) -> None:
        """Note that the store may not have the key's original."""
        self._known.pop(hashed, None)

    def _forget(self, purged: Purged) -> None:
        """After a purge: write nothing of its key that was made before it."""
        self._forget_key(purged.key_hash)

    def _forget_many(self, purged: PurgedMany) -> None:
        for hashed in purged.key_hashes & (self._known.keys() | self._by_key.keys()):
            self._forget_key(hashed)

    def _forget_key(self, hashed: str) -> None:
        self.forget_original(hashed)
        for upload in self._by_key.pop(hashed, ()):
            upload.is_purged = True

    async def _run(self) -> None:
        while True:
            upload = await self._queue.get()
            try:
                self._count(upload, await self._write(upload))
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("an object of the shared store could not be written")
                self._count(upload, "error")
            finally:
                self._take_off(upload)
                self._pending -= 1

    async def _write(self, upload: Upload) -> str:
        """Write one object. Return the result, in a word for the metric."""
        if upload.is_purged:
            return "purged"
        try:
            await self.calls.run(lambda: self._objects.write(upload.name, upload.data or Path(upload.path)))
        except NotDone as error:
            self._forget_originals(upload)
            return error.result
        except OSError:  # the cache has deleted the file
            self._forget_originals(upload)
            return "gone"
        if not upload.is_purged:
            return "done"
        try:
            await self._objects.delete([upload.name])
        except StoreFailed as error:
            log.info("an object of a purged key stays in the shared store until it expires: %s", error)
        return "purged"

    def _forget_originals(self, upload: Upload) -> None:
        if upload.kind != "variant":
            for hashed in upload.sources:
                self.forget_original(hashed)

    def _take_off(self, upload: Upload) -> None:
        for hashed in upload.sources:
            waiting = self._by_key.get(hashed)
            if waiting is not None:
                waiting.discard(upload)
                if not waiting:
                    del self._by_key[hashed]

    def _count(self, upload: Upload, result: str) -> None:
        self._metrics.shared_store_writes.labels(kind=upload.kind, result=result).inc()
