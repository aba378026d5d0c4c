"""All keys of an entry: what the keys API lists, a few calls at a time, and what any node of a cluster has seen."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imgproxy.cluster.log import LogUnavailable
from imgproxy.errors import ImgproxyError, NotFound
from imgproxy.purge.entry_keys import ListedKeys
from imgproxy.purge.turns import Turns

if TYPE_CHECKING:
    from imgproxy.purge.entry_keys import EntryKeys

log = logging.getLogger(__name__)

# Calls of the keys API at a time. Each takes a part of a millisecond of the event loop, so hits would wait for more.
CALLS_MAX = 4


@dataclass(frozen=True, slots=True)
class AllKeys:
    """
    What is known of an entry's keys.

    `seen` are those of the other nodes. `is_there`: the keys API knows the entry. `failure`: why there may be more.
    """

    listed: ListedKeys = field(default_factory=ListedKeys)
    seen: tuple[str, ...] = ()
    is_there: bool = True
    failure: Exception | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """Each key once."""
        return tuple(dict.fromkeys((*self.listed.keys, *self.seen)))


class KeyFinder:
    """Finds the keys of entries."""

    def __init__(self, entries: EntryKeys, timeout_s: float) -> None:
        """`timeout_s`: for an answer of the keys API."""
        self._entries = entries
        self._timeout_s = timeout_s
        self._turns = Turns(CALLS_MAX)

    async def list(self, entry: str) -> ListedKeys:
        """
        Ask for the keys of an entry, at most `timeout_s` from this call's turn.

        Raises:
            TimeoutError: the API did not answer in time.
            ImgproxyError: as `EntryKeys.ask` and `Turns.turn`.
        """
        return await self._ask(entry, self._timeout_s)

    async def list_patiently(self, entry: str) -> ListedKeys:
        """Ask for the keys of an entry when it is this call's turn. Raises ImgproxyError, as `list`."""
        return await self._ask(entry, None)

    async def seen(self, entry: str) -> tuple[str, ...] | None:
        """Return the keys that any node of the cluster has seen. None: its database cannot be reached."""
        try:
            return await self._entries.seen_elsewhere(entry)
        except LogUnavailable as error:
            log.warning("the keys that other nodes have seen for entry %s are not known: %s", entry, error)
            return None

    async def find_all(self, entry: str, *, is_patient: bool = False) -> AllKeys:
        """Ask for all keys. What could not be found out is in `failure`. `is_patient`: as `list_patiently`."""
        listing = self._ask(entry, None if is_patient else self._timeout_s)
        elsewhere, listed = await asyncio.gather(self._entries.seen_elsewhere(entry), listing, return_exceptions=True)
        seen: tuple[str, ...] = ()
        failure: Exception | None = None
        if isinstance(elsewhere, LogUnavailable):
            failure = elsewhere
        elif isinstance(elsewhere, BaseException):
            raise elsewhere
        else:
            seen = elsewhere
        if isinstance(listed, NotFound):
            return AllKeys(seen=seen, is_there=False, failure=failure)
        if isinstance(listed, ImgproxyError | TimeoutError):
            return AllKeys(seen=seen, failure=listed)
        if isinstance(listed, BaseException):
            raise listed
        return AllKeys(listed, seen, failure=failure)

    async def _ask(self, entry: str, within_s: float | None) -> ListedKeys:
        async with self._turns.turn(self._timeout_s):
            try:
                async with asyncio.timeout(within_s):
                    listed = await self._entries.ask(entry)
            except NotFound:
                self._turns.answered()
                raise
            self._turns.answered()
            return listed
