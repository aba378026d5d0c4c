"""
The trash: directories that a purge renamed away, until their files are deleted.

A purge is complete before its files are deleted. A thread of its own deletes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgproxy.background import Background
from imgproxy.cache.threads import yielding_thread
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from imgproxy.cache.epochs import Epochs
    from imgproxy.cache.journal import Journal
    from imgproxy.cache.journal_file import PurgedKey
    from imgproxy.cache.store import CacheStore, Detached

log = logging.getLogger(__name__)

# Purges whose files are deleted are noted in the journal together, this long after the first. Each note costs two syncs
# of the disk, and the record of the next purge would wait for them.
NOTE_AFTER_S = 0.25
# Files of purges are deleted this long after the first: a thousand of them would take CPU and disk from the purge that
# is just being acknowledged, here and at other nodes.
DELETE_AFTER_S = 0.2


@dataclass(frozen=True, slots=True)
class Measured:
    """What detached directories held."""

    variants: int
    size_bytes: int


class Trash:
    """Deletes detached directories, and removes their purges from the journal and the epochs."""

    def __init__(self, store: CacheStore, journal: Journal, epochs: Epochs) -> None:
        self._store = store
        self._journal = journal
        self._epochs = epochs
        self._thread = yielding_thread("trash", 10)
        self._background = Background("trash")
        self._waiting: list[tuple[list[Path], Sequence[PurgedKey]]] = []
        self._is_deleting = False
        self._collected: list[PurgedKey] = []

    def collect(self, detached: Sequence[Detached], purged: Sequence[PurgedKey] = ()) -> None:
        """
        Delete these directories in the background. Then note in the journal that these purges left no file.

        `purged` must not name a key whose directory could not be detached: after a restart, only the record of its
        purge keeps that directory from being served.
        """
        self._waiting.append(([item.path for item in detached], purged))
        if len(self._waiting) == 1 and not self._is_deleting:
            self._background.begin(self._delete_waiting)

    def collect_all(self, gone: Detached) -> None:
        """Delete the directories of all keys in the background. Then note in the journal that none is left in reach."""
        self._background.begin(self._delete_all, gone)

    async def _delete_all(self, gone: Detached) -> None:
        loop = asyncio.get_running_loop()
        if await loop.run_in_executor(self._thread, sync_directories, [self._store.directory]):
            try:
                await self._journal.finish_purge_all()
            except CacheUnavailable:
                log.warning("the purge of everything stays in the journal until the next start")
        await loop.run_in_executor(self._thread, delete_directories, [gone.path])

    async def delete_now(self, detached: Sequence[Detached]) -> None:
        """Delete these directories and wait for it, because the disk needs their space."""
        await asyncio.to_thread(delete_directories, [item.path for item in detached])

    async def empty(self) -> None:
        """Delete what an earlier run left in the trash."""
        paths = [self._store.trash_dir / name for name in os.listdir(self._store.trash_dir)]
        await asyncio.get_running_loop().run_in_executor(self._thread, delete_directories, paths)

    async def close(self) -> None:
        """Let the present deletion finish, and note what is deleted. The next start deletes the rest."""
        await self._background.close()
        await self._note_collected()
        self._thread.shutdown()

    async def _delete_waiting(self) -> None:
        """Delete what waits, and then what came meanwhile: many purges at once are a few calls of the thread."""
        self._is_deleting = True
        try:
            while self._waiting:
                await asyncio.sleep(DELETE_AFTER_S)
                waiting, self._waiting = self._waiting, []
                paths = [path for some, _ in waiting for path in some]
                await asyncio.get_running_loop().run_in_executor(self._thread, delete_directories, paths)
                self._deleted([item for _, purged in waiting for item in purged])
        finally:
            self._is_deleting = False

    def _deleted(self, purged: Sequence[PurgedKey]) -> None:
        """Note soon in the journal that these purges left no file."""
        if purged and not self._collected:
            self._background.begin(self._note_soon)
        self._collected += purged

    async def _note_soon(self) -> None:
        await asyncio.sleep(NOTE_AFTER_S)
        await self._note_collected()

    async def _note_collected(self) -> None:
        purged, self._collected = self._collected, []
        if not purged:
            return
        parents = [self._store.trash_dir, *{self._store.key_dir(item.key_hash).parent for item in purged}]
        if not await asyncio.get_running_loop().run_in_executor(self._thread, sync_directories, parents):
            log.error("the cache directory cannot be synced; %d purges stay in the journal", len(purged))
            return
        try:
            await self._journal.mark_collected(purged)
        except CacheUnavailable:
            log.warning("%d purges stay in the journal until the next start", len(purged))
            return
        for item in purged:
            self._epochs.collected(item.key_hash, item.seq)


async def measure(detached: Sequence[Detached]) -> Measured:
    """Count the variants and bytes of detached directories: from the ledger, else by a look at the disk."""
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
    """Delete these directories with everything in them."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


def sync_directories(paths: Iterable[Path]) -> bool:
    """Make renames and deletions in these directories durable. Return whether the disk did. A missing one is fine."""
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
