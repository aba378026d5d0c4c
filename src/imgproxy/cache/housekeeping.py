"""
What happens to files behind the answers: the scan at start, eviction, deletion, and the times of last use.

All of it works in one thread of its own on paths the event loop has already let go of; a hit never waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from imgproxy.background import Background
from imgproxy.cache.ledger import split_name, variant_name
from imgproxy.cache.scan import scan, shards
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from imgproxy.cache.journal import Journal
    from imgproxy.cache.journal_file import PurgedKey
    from imgproxy.cache.reading import StrPath
    from imgproxy.cache.store import CacheStore, Detached
    from imgproxy.config.sections import CacheSettings

log = logging.getLogger(__name__)

# Eviction frees down to this share of max_bytes, so that it runs now and then and not at every commit.
EVICT_TO_RATIO = 0.95
EVICT_BATCH = 256
# So many touches are made in one go: a millisecond.
TOUCH_BATCH = 1_000
# Purged keys whose files are gone are noted in the journal together, this long after the first: each note is two syncs
# of the disk, for which the record of the next purge would have to wait.
NOTE_COLLECTED_AFTER_S = 0.25
# Times of last use are written out this often; a crash loses at most this much of the order of eviction.
TOUCH_EVERY_S = 30.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# Where nobody knows the reason of a refused write, so little free space is taken for it.
NEARLY_FULL_BYTES = 4_000_000

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Measured:
    """What detached directories held."""

    variants: int
    size_bytes: int


class Housekeeping:
    """Background work over one store."""

    def __init__(
        self,
        store: CacheStore,
        journal: Journal,
        settings: CacheSettings,
        *,
        detach_orphan: Callable[[str], Detached | None],
        on_collected: Callable[[Sequence[PurgedKey]], None],
        in_memory: Callable[[], Sequence[tuple[str, str]]],
    ) -> None:
        self._store = store
        self._journal = journal
        self._settings = settings
        self._detach_orphan = detach_orphan
        self._on_collected = on_collected
        self._in_memory = in_memory
        self._thread = ThreadPoolExecutor(1, "housekeeping")
        self.background = Background("housekeeping")
        self._is_evicting = False
        self._is_short = False  # of room, with nothing left to evict
        self._collected: list[PurgedKey] = []
        self.is_scanned = False
        self.evicted_files = 0

    def start(self) -> None:
        """Begin the scan and the periodic write-out."""
        self.background.begin(self._scan)
        self.background.begin(self._write_touches_forever)

    async def close(self) -> None:
        """Stop the periodic work, let deletions finish their present step, write out the last times of use."""
        await self.background.close()
        await self._note_collected()
        await self._touch_what_is_in_memory()
        await self._write_touches()
        self._thread.shutdown()

    def after_commit(self) -> None:
        """Start an eviction if the cache has outgrown its bounds."""
        if self.has_room:
            self._is_short = False
        elif not self._is_evicting:
            self._is_evicting = True
            self.background.begin(self._evict)

    def make_room(self, refusal: BaseException | None) -> None:
        """Start an eviction of at least one batch, where this error says that the disk is full."""
        number = next((error.errno for error in _causes(refusal) if isinstance(error, OSError)), None)
        is_full = number in _FULL if number is not None else self._free_bytes() < NEARLY_FULL_BYTES
        if is_full and not self._is_evicting:
            self._is_evicting = True
            self.background.begin(self._evict, is_urgent=True)

    def collect(self, detached: Sequence[Detached], purged: Sequence[PurgedKey]) -> None:
        """
        Delete detached directories; then note in the journal that these keys' purges leave nothing behind.

        `purged` are keys whose directory is out of reach. One that could not be renamed away must not be among them:
        its record is what keeps it from being served after a restart.
        """
        self.background.begin(self._collect, [item.path for item in detached], purged)

    async def delete_now(self, detached: Sequence[Detached]) -> None:
        """Delete detached directories and wait for it: their space is needed."""
        await asyncio.to_thread(delete_directories, [item.path for item in detached])

    # --- the work ----------------------------------------------------------------------------------------------

    async def _collect(self, paths: Sequence[Path], purged: Sequence[PurgedKey]) -> None:
        await self._in_thread(delete_directories, paths)
        is_first = not self._collected
        self._collected += purged
        if is_first and purged:
            await asyncio.sleep(NOTE_COLLECTED_AFTER_S)
            await self._note_collected()

    async def _note_collected(self) -> None:
        purged, self._collected = self._collected, []
        if not purged:
            return
        if not await self._in_thread(sync_directories, self._parents_of(purged)):
            log.error("the cache directory cannot be synced; %d purges stay in the journal", len(purged))
            return
        try:
            await self._journal.mark_collected(purged)
        except CacheUnavailable:
            log.warning("%d purges stay in the journal until the next start", len(purged))
            return
        self._on_collected(purged)

    def _parents_of(self, purged: Sequence[PurgedKey]) -> list[Path]:
        return [self._store.trash_dir, *{self._store.key_dir(item.key_hash).parent for item in purged}]

    async def _scan(self) -> None:
        started_s = time.monotonic()
        trash = [self._store.trash_dir / name for name in os.listdir(self._store.trash_dir)]
        await self._in_thread(delete_directories, trash)
        orphans = 0
        for shard in await self._in_thread(shards, self._store.keys_dir):
            self._store.ledger.begin_scan()
            found = await self._in_thread(scan, self._store.keys_dir, shard, self._store.run_id)
            self._store.ledger.adopt_older(shard, found.files, found.size_bytes)
            detached = [item for hashed in found.orphans if (item := self._detach_orphan(hashed)) is not None]
            if detached:
                self.collect(detached, [])
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

    @property
    def has_room(self) -> bool:
        """Whether a file may stay that is written now."""
        return self._excess_bytes() <= 0

    def _excess_bytes(self) -> float:
        """How many bytes are too many, by max_bytes or by the free-space floor; 0 or less means none."""
        over = self._store.ledger.used_bytes - self._settings.max_bytes
        return max(over, self._settings.min_free_bytes - self._free_bytes())

    def _free_bytes(self) -> float:
        try:
            disk = os.statvfs(self._store.directory)
        except OSError:
            return math.inf  # nothing is known, so nothing is evicted for it
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
                await self._in_thread(delete_files, [self._path_of(name) for name in chosen])
                self.evicted_files += len(chosen)
            # Before the scan has ended it is our own files, perhaps, that are in the way.
            if self.is_scanned and not self._is_short and not self.has_room:
                self._is_short = True
                log.error("others have filled the disk beyond cache.min_free_bytes: every picture is evicted at once")
        finally:
            self._is_evicting = False

    async def _touch_what_is_in_memory(self) -> None:
        """Hits in memory do not tell the ledger, which would take the files of the pictures asked for most for idle."""
        for number, (hashed, plan) in enumerate(self._in_memory(), start=1):
            self._store.ledger.touch(variant_name(hashed, plan))
            if number % TOUCH_BATCH == 0:
                await asyncio.sleep(0)

    def _path_of(self, name: bytes) -> str:
        hashed, plan = split_name(name)
        return self._store.variant_path(hashed, plan) if plan else self._store.name_of_original(hashed)

    async def _write_touches_forever(self) -> None:
        while True:
            await asyncio.sleep(TOUCH_EVERY_S)
            await self._write_touches()

    async def _write_touches(self) -> None:
        # Their paths are made in the thread as well: there may be a few hundred thousand.
        await self._in_thread(write_touches, map(self._path_of, self._store.ledger.take_touched()))

    async def _in_thread(self, function: Callable[..., Result], *arguments: object) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(function, *arguments))


def _enough(oldest: Sequence[tuple[bytes, int]], needed_bytes: float) -> list[bytes]:
    """The first of these files that make so many bytes together; all of them where they do not."""
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


async def measure(detached: Sequence[Detached]) -> Measured:
    """The variants and bytes of detached directories: what the ledger knew of them, or what a look finds."""
    unknown = [item for item in detached if item.variants is None]
    found = await asyncio.to_thread(look_into, unknown) if unknown else Measured(0, 0)
    return Measured(
        found.variants + sum(item.variants or 0 for item in detached),
        found.size_bytes + sum(item.size_bytes for item in detached),
    )


def look_into(detached: Iterable[Detached]) -> Measured:
    """Count the variants and bytes of detached directories on the disk."""
    variants = size_bytes = 0
    for item in detached:
        with contextlib.suppress(OSError), os.scandir(item.path) as files:
            for file in files:
                variants += file.name.startswith("v-")
                size_bytes += file.stat().st_size
    return Measured(variants, size_bytes)


def delete_directories(paths: Iterable[Path]) -> None:
    """Delete these directories with all they hold."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


def delete_files(paths: Sequence[StrPath]) -> None:
    """Delete files; a key directory that holds nothing but its facts afterwards goes too."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)
    for directory in {os.path.dirname(path) for path in paths}:
        with contextlib.suppress(OSError):
            if os.listdir(directory) == ["facts"]:
                os.unlink(f"{directory}/facts")
            os.rmdir(directory)


def write_touches(paths: Iterable[str]) -> None:
    """Write the time of last use into the files' modification times."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.utime(path)


def sync_directories(paths: Iterable[Path]) -> bool:
    """Make renames and deletions in these directories durable; False if the disk refuses. A missing one is fine."""
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        except OSError:
            return False
        try:
            os.fsync(descriptor)
        except OSError:
            return False
        finally:
            os.close(descriptor)
    return True
