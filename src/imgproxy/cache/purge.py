"""
A purge of keys, in this process.

The order of its steps is the guarantee. First the record is durable. Then, without an await in between, the epochs are
raised, memory is emptied, the event is published and the directories are renamed away. Only then does the caller hear
of it. The files are deleted later.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from imgproxy.background import Background
from imgproxy.cache.journal_file import PurgedKey
from imgproxy.cache.purge_event import PurgedAll
from imgproxy.cache.trash import Measured, measure
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from imgproxy.cache.epochs import Epochs
    from imgproxy.cache.hot import HotTier
    from imgproxy.cache.housekeeping import Housekeeping
    from imgproxy.cache.purge_event import Event, Purged, PurgeEvent
    from imgproxy.cache.store import CacheStore, Detached
    from imgproxy.cache.trash import Trash

log = logging.getLogger(__name__)

# The record of a purge that the disk refused is tried again after this long, doubling up to the maximum.
RECORD_AGAIN_FIRST_S = 0.5
RECORD_AGAIN_MAX_S = 15.0
NOTHING = Measured(0, 0)
Record: TypeAlias = "Callable[[], Awaitable[int]]"


@dataclass(frozen=True, slots=True)
class PurgedKeys:
    """What a purge of keys deleted."""

    seq: int
    keys: tuple[str, ...]
    variants: int
    size_bytes: int


class CachePurge:
    """
    Purges keys from memory and disk.

    `items` are the keys of one purge, `record` writes its record and returns its number.
    """

    def __init__(
        self,
        store: CacheStore,
        hot: HotTier,
        epochs: Epochs,
        *,
        housekeeping: Housekeeping,
        trash: Trash,
        purged: PurgeEvent,
        purged_all: Event[PurgedAll],
    ) -> None:
        self._store = store
        self._hot = hot
        self._epochs = epochs
        self._housekeeping = housekeeping
        self._trash = trash
        self._purged = purged
        self._purged_all = purged_all
        self._under_way: set[asyncio.Task[PurgedKeys]] = set()
        self._unrecorded = Background("purge that could not be recorded")

    def replay(self, purged: Sequence[PurgedKey]) -> None:
        """Take away what a crash left of purged keys. What was fetched after the purge stays."""
        detached: list[Detached] = []
        gone: list[PurgedKey] = []
        for item in purged:
            facts = self._store.facts(item.key_hash)
            is_newer = facts is not None and self._epochs.holds_in(facts.journal_id, item.key_hash, facts.seq)
            if is_newer or self._detach(item.key_hash, detached):
                gone.append(item)
        self._trash.collect(detached, gone)

    async def run(self, items: Sequence[Purged], record: Record) -> PurgedKeys:
        """
        Do a purge. It goes on to its end even if the caller is cancelled.

        Raises:
            CacheUnavailable: the record could not be written. The keys are closed, and the record is tried again.
        """
        task = asyncio.ensure_future(self._run(items, record))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def run_all(self, record: Callable[[], Awaitable[int]]) -> PurgedKeys:
        """
        Purge everything. It goes on to its end even if the caller is cancelled.

        Raises:
            CacheUnavailable: the record could not be written. Nothing has happened.
        """
        task = asyncio.ensure_future(self._run_all(record))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _run_all(self, record: Callable[[], Awaitable[int]]) -> PurgedKeys:
        seq = await record()
        self._epochs.purge_all(seq)
        self._hot.clear()
        self._purged_all.publish(PurgedAll())
        gone = self.detach_all()
        return PurgedKeys(
            seq,
            (),
            gone.variants if gone is not None and gone.variants is not None else 0,
            gone.size_bytes if gone is not None else 0,
        )

    def detach_all(self) -> Detached | None:
        """Take all directories out of reach, after the purge of everything is recorded. None if the disk refuses."""
        try:
            gone = self._store.detach_all()
        except OSError:
            log.exception("the files of all keys could not be renamed away; they are not served all the same")
            return None
        self._trash.collect_all(gone)
        return gone

    async def close(self) -> None:
        """Stop trying to record what the disk refused."""
        await self._unrecorded.close()

    async def _run(self, items: Sequence[Purged], record: Record) -> PurgedKeys:
        sizes = NOTHING
        try:
            seq = await record()
        except CacheUnavailable as refusal:
            # The files have to go in any case. If the disk is full, deleting them may make the record possible.
            sizes = await self._close_keys(items)
            self._housekeeping.make_room(refusal)
            try:
                seq = await record()
            except CacheUnavailable:
                self._unrecorded.begin(self._record_later, items, record)
                raise
        return await self._finish(items, seq, sizes)

    async def _finish(self, items: Sequence[Purged], seq: int, already: Measured) -> PurgedKeys:
        """Purge number `seq` is recorded: do it. `already` is what was deleted before it could be recorded."""
        detached, gone = self._take_away(items, seq)
        sizes = await measure(detached)
        self._trash.collect(detached, gone)
        keys = tuple(item.key for item in items)
        return PurgedKeys(seq, keys, sizes.variants + already.variants, sizes.size_bytes + already.size_bytes)

    def _take_away(self, items: Sequence[Purged], seq: int) -> tuple[list[Detached], list[PurgedKey]]:
        """
        Raise the epochs and take memory and directories out of reach, without an await in between.

        Return the directories, and the keys of which no directory is left in reach.
        """
        for item in items:
            self._epochs.purge(item.key_hash, seq)
            self._forget(item)
        detached: list[Detached] = []
        gone = [PurgedKey(item.key_hash, seq) for item in items if self._detach(item.key_hash, detached)]
        return detached, gone

    def _forget(self, item: Purged) -> None:
        self._hot.drop(item.key_hash)
        self._purged.publish(item)

    def _detach(self, hashed: str, detached: list[Detached]) -> bool:
        """Take a key's directory out of reach and add it to the list. Return whether none is left in reach."""
        try:
            directory = self._store.detach(hashed)
        except OSError:
            log.exception("the files of a purged key could not be renamed away; they are not served all the same")
            return False
        if directory is not None:
            detached.append(directory)
        return True

    async def _close_keys(self, items: Sequence[Purged]) -> Measured:
        """Answer with nothing of these keys until their purge is recorded, and delete their files now."""
        log.error("a purge cannot be recorded; its %d keys are closed until it can", len(items))
        detached: list[Detached] = []
        for item in items:
            self._epochs.close(item.key_hash)
            self._forget(item)
            self._detach(item.key_hash, detached)
        sizes = await measure(detached)
        await self._trash.delete_now(detached)
        return sizes

    async def _record_later(self, items: Sequence[Purged], record: Record) -> None:
        wait_s = RECORD_AGAIN_FIRST_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RECORD_AGAIN_MAX_S)
            if items and not any(self._epochs.is_closed(item.key_hash) for item in items):
                return  # the same keys were purged again, with success
            try:
                seq = await record()
            except CacheUnavailable:
                continue
            await self._finish(items, seq, NOTHING)
            return
