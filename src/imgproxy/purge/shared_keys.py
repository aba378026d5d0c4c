"""
The keys that the nodes of a cluster have seen for each entry. A deleted entry can no longer be asked for them.

What a node learns is written to the database at once. While that fails, the node's journal notes since when, and all it
has learnt since is written later. A node that is in a cluster for the first time writes all it knows.
"""

from __future__ import annotations

import time
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from imgproxy.cluster.log import LogUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproxy.cache.journal import Journal
    from imgproxy.cluster.facts import SharedFacts

# Keys that are read from the journal together.
PAGE: Final = 1000
# If the clock of this machine is set back by less than this, nothing is left out.
MARGIN_S: Final = 3600.0
NOTHING_LEFT: Final = float("inf")


class SharedKeys:
    """The keys of entries in the cluster."""

    def __init__(self, facts: SharedFacts, journal: Journal) -> None:
        self._facts = facts
        self._journal = journal
        self._since_s: float | None = None  # what was seen since this Unix time is still to be written; None: not read
        self._has_missed = False

    async def of(self, entry: str) -> tuple[str, ...]:
        """Return the keys that any node has seen for an entry. Raises LogUnavailable."""
        return await self._facts.keys_of(entry)

    async def remember(self, entry: str, keys: Sequence[str]) -> None:
        """Write keys that the journal has just got. If that fails, `catch_up` does it. Raises CacheUnavailable."""
        try:
            await self._facts.remember_keys(entry, keys)
        except LogUnavailable:
            self._has_missed = True
            if await self._since() == NOTHING_LEFT:
                await self._set_since(time.time() - MARGIN_S)

    async def catch_up(self) -> None:
        """Write what is still to be written. Raises LogUnavailable, CacheUnavailable."""
        since_s = await self._since()
        if since_s == NOTHING_LEFT:
            return
        self._has_missed = False
        last = ("", "")
        while rows := await self._journal.keys_seen_since(since_s, after=last, count=PAGE):
            for entry, group in groupby(rows, itemgetter(0)):
                await self._facts.remember_keys(entry, [key for _, key in group])
            last = rows[-1]
        if not self._has_missed:
            await self._set_since(NOTHING_LEFT)

    async def _since(self) -> float:
        if self._since_s is None:
            self._since_s = await self._journal.unshared_since()
        return self._since_s

    async def _set_since(self, since_s: float) -> None:
        await self._journal.set_unshared_since(since_s)
        self._since_s = since_s
