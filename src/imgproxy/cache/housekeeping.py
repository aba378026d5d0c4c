"""
Housekeeping: the scan at start, eviction, and the times of last use.

It works in a thread of its own, on paths that the event loop no longer uses. A hit never waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from imgproxy.background import Background
from imgproxy.cache.ledger import variant_name
from imgproxy.cache.scan import scan, shards
from imgproxy.cache.threads import yielding_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from imgproxy.cache.hot import HotTier
    from imgproxy.cache.reading import StrPath
    from imgproxy.cache.store import CacheStore
    from imgproxy.cache.trash import Trash
    from imgproxy.config.sections import CacheSettings

log = logging.getLogger(__name__)

# An eviction frees space down to this share of max_bytes. So it does not run at every commit.
EVICT_TO_RATIO = 0.95
EVICT_BATCH = 256
# The event loop makes this many touches in one go: about a millisecond.
TOUCH_BATCH = 1_000
# Times of last use are written to the files this often. A crash loses at most this much of the order of eviction.
TOUCH_EVERY_S = 30.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# A refused write without an error number is blamed on a full disk if less than this is free.
NEARLY_FULL_BYTES = 4_000_000

T = TypeVar("T")


class Housekeeping:
    """Background work over one store."""

    def __init__(
        self,
        store: CacheStore,
        hot: HotTier,
        trash: Trash,
        settings: CacheSettings,
        *,
        free_bytes: Callable[[], float] | None = None,
    ) -> None:
        """`free_bytes` returns the free space of the disk, for tests; by default the file system is asked."""
        self._store = store
        self._hot = hot
        self._trash = trash
        self._settings = settings
        self._free_bytes = free_bytes or self._free_bytes_of_disk
        self._thread = yielding_thread("housekeeping", 10)
        self._background = Background("housekeeping")
        self._is_evicting = False
        self._is_short = False  # the disk is too full, and nothing is left to evict
        self.is_scanned = False
        self.evicted_files = 0

    def start(self) -> None:
        """Begin the scan, and write times of last use from now on."""
        self._background.begin(self._scan)
        self._background.begin(self._write_touches_forever)

    async def close(self) -> None:
        """Stop the work, and write the last times of use."""
        await self._background.close()
        await self._touch_what_is_in_memory()
        await self._write_touches()
        self._thread.shutdown()

    # --- scan --------------------------------------------------------------------------------------------------

    async def _scan(self) -> None:
        started_s = time.monotonic()
        await self._trash.empty()
        orphans = 0
        for shard in await self._in_thread(shards, self._store.keys_dir):
            self._store.ledger.begin_scan()
            found = await self._in_thread(scan, self._store.keys_dir, shard, self._store.run_id)
            self._store.ledger.adopt_older(shard, found.files, found.size_bytes)
            # Checked again here: a fetch may have begun to write there since the scan looked.
            detached = [item for hashed in found.orphans if (item := self._store.detach_orphan(hashed)) is not None]
            if detached:
                self._trash.collect(detached)
            orphans += len(detached)
        self.is_scanned = True
        log.info(
            "cache scanned: %d files, %d bytes, %d orphans in %.1f s",
            len(self._store.ledger),
            self._store.ledger.used_bytes,
            orphans,
            time.monotonic() - started_s,
        )
        self.after_commit()

    # --- eviction ----------------------------------------------------------------------------------------------

    def after_commit(self) -> None:
        """Start an eviction if the cache is over its limits."""
        if self.has_room:
            self._is_short = False
        elif not self._is_evicting:
            self._is_evicting = True
            self._background.begin(self._evict)

    def make_room(self, refusal: BaseException | None) -> None:
        """Start an eviction of at least one batch, if this error means that the disk is full."""
        number = next((error.errno for error in _causes(refusal) if isinstance(error, OSError)), None)
        is_full = number in _FULL if number is not None else self._free_bytes() < NEARLY_FULL_BYTES
        if is_full and not self._is_evicting:
            self._is_evicting = True
            self._background.begin(self._evict, is_urgent=True)

    @property
    def has_room(self) -> bool:
        """Whether the cache is within its limits, so that a file written now may stay."""
        return self._excess_bytes() <= 0

    def _excess_bytes(self) -> float:
        """How many bytes are too many, by max_bytes or by min_free_bytes. 0 or less: none."""
        over = self._store.ledger.used_bytes - self._settings.max_bytes
        return max(over, self._settings.min_free_bytes - self._free_bytes())

    def _free_bytes_of_disk(self) -> float:
        try:
            disk = os.statvfs(self._store.directory)
        except OSError:
            return math.inf  # unknown: evict nothing because of it
        return disk.f_bavail * disk.f_frsize

    async def _evict(self, *, is_urgent: bool = False) -> None:
        try:
            await self._touch_what_is_in_memory()
            slack_bytes = int(self._settings.max_bytes * (1 - EVICT_TO_RATIO))
            while len(self._store.ledger):
                needed_bytes = math.inf if is_urgent else self._excess_bytes() + slack_bytes
                if needed_bytes <= 0:
                    break
                is_urgent = False
                chosen = _enough(self._store.ledger.oldest(EVICT_BATCH), needed_bytes)
                for name in chosen:
                    self._store.ledger.remove(name)
                await self._in_thread(delete_files, [self._store.path_of(name) for name in chosen])
                self.evicted_files += len(chosen)
            # Before the scan has ended, files of ours that it has not found yet may be what fills the disk.
            if self.is_scanned and not self._is_short and not self.has_room:
                self._is_short = True
                log.error("others have filled the disk beyond cache.min_free_bytes: every picture is evicted at once")
        finally:
            self._is_evicting = False

    # --- times of last use -------------------------------------------------------------------------------------

    async def _touch_what_is_in_memory(self) -> None:
        """A hit in memory does not touch the ledger. So the most popular files would look unused there."""
        for number, (hashed, plan) in enumerate(self._hot.names(), start=1):
            self._store.ledger.touch(variant_name(hashed, plan))
            if number % TOUCH_BATCH == 0:
                await asyncio.sleep(0)

    async def _write_touches_forever(self) -> None:
        while True:
            await asyncio.sleep(TOUCH_EVERY_S)
            await self._write_touches()

    async def _write_touches(self) -> None:
        # The thread makes the paths, too: there may be a few hundred thousand.
        await self._in_thread(write_touches, map(self._store.path_of, self._store.ledger.take_touched()))

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(function, *arguments))


def _enough(oldest: Sequence[tuple[bytes, int]], needed_bytes: float) -> list[bytes]:
    """The first of these files that have so many bytes together, or all of them."""
    chosen = []
    for name, size_bytes in oldest:
        if needed_bytes <= 0:
            break
        chosen.append(name)
        needed_bytes -= size_bytes
    return chosen


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def delete_files(paths: Sequence[StrPath]) -> None:
    """Delete files. Delete a key directory, too, if only its facts are left."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)
    for directory in {os.path.dirname(path) for path in paths}:
        with contextlib.suppress(OSError):
            if os.listdir(directory) == ["facts"]:
                os.unlink(f"{directory}/facts")
            os.rmdir(directory)


def write_touches(paths: Iterable[str]) -> None:
    """Set the modification time of these files to now: the scan at the next start reads it as the last use."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.utime(path)
