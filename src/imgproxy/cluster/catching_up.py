"""
Catching up: a node that was away applies thousands of old purges together.

Their order does not matter, and it has no file of most of their keys (purge_many.py). It writes down how far it is when
that is safe on the disk. A run that ends before that catches up again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from imgproxy.background import Background
from imgproxy.cache.journal import many_entries_purged
from imgproxy.cluster.log import Position
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from imgproxy.cache.cache import Cache
    from imgproxy.cluster.log import PurgeLog

log = logging.getLogger(__name__)

# Purges that are read and applied together. The event loop is busy with them for some 30 ms.
TOGETHER_MAX: Final = 20_000
# With fewer the look at the disk is not worth it.
TOGETHER_LEAST: Final = 500
REASON: Final = "caught-up"


class CatchingUp:
    """What one run of a node does with the purges that it has missed."""

    def __init__(self, purge_log: PurgeLog, cache: Cache) -> None:
        self._log = purge_log
        self._cache = cache
        self._is_behind = True
        self._applied = 0
        self._saved = 0
        self._saving = Background("place in the log after catching up")

    @property
    def is_place_safe(self) -> bool:
        """Whether the place that is applied may be written down: no crash can undo a purge before it."""
        return self._saved == self._applied

    def note_read(self, *, is_page_full: bool) -> None:
        """Note whether a page of the log was full: then the node may be far behind."""
        self._is_behind = is_page_full

    async def apply_next(self, place: Position) -> tuple[Position, AbstractSet[str]] | None:
        """
        Apply the old purges that follow a place. Return the place after them, and the hashes of their keys.

        None: there are too few of them, or the next line is no such purge.

        Raises:
            HistoryLost, LogUnavailable: as `PurgeLog.read`.
            CacheUnavailable: the disk refuses.
        """
        if not self._is_behind:
            return None
        backlog = await self._log.read_backlog(place, TOGETHER_MAX)
        if backlog is None or backlog.last < place.number + TOGETHER_LEAST:
            self._is_behind = False
            return None
        self._applied += 1
        also = many_entries_purged(backlog.entries, REASON)
        hashes = await self._cache.purge_many(backlog.keys, reason=REASON, also=also)
        return Position(place.history, backlog.last), hashes

    def begin_saving(self) -> None:
        """Make the place safe, in the background."""
        if not self.is_place_safe and not len(self._saving):
            self._saving.begin(self._save_soon)

    async def _save_soon(self) -> None:
        try:
            await self.save()
        except CacheUnavailable:
            log.warning("the place in the log of purges is not written yet: the cache directory cannot be synced")

    async def save(self) -> None:
        """Make the place safe. Raises CacheUnavailable."""
        applied = self._applied
        if self._saved != applied:
            await self._cache.sync_purge_many()
            self._saved = applied

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._saving.close()

    def start_over(self) -> None:
        """Note that everything cached counts as unproved, and that this is written down."""
        self._saved = self._applied
