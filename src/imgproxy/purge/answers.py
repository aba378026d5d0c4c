"""
Answers under way: which connections are sending bytes of which key.

A purge is acknowledged only when the answers with old bytes have ended. Those that do not end in time (a slow client, a
large original) are cut: the connection is closed in the middle of the answer, which every client treats as an error.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import TracebackType

    from imgproxy.cache.purge_event import Event, Purged, PurgedAll, PurgedMany, PurgeEvent

# How often a purge looks whether late answers have ended.
LOOK_EVERY_S = 0.005


class Connection(Protocol):
    """A connection of the fast path. It does not count its answers: that would cost more than sending them."""

    last_key_hash: str

    def is_flushed(self) -> bool:
        """Whether the kernel has all that was written, or the connection is closed."""

    def cut(self) -> None:
        """Close the connection in the middle of its answer."""


class Answers:
    """
    The answers that are being sent, by key hash.

    Most answers are counted while they are sent (`sending`). Connections of the fast path add themselves to
    `connections` instead, and remove themselves when they close.
    """

    def __init__(
        self,
        purged: PurgeEvent,
        purged_all: Event[PurgedAll] | None = None,
        purged_many: Event[PurgedMany] | None = None,
    ) -> None:
        self._sending: defaultdict[str, set[Sending]] = defaultdict(set)
        self.connections: set[Connection] = set()
        purged.subscribe(self._mark_old)
        if purged_all is not None:
            purged_all.subscribe(self._mark_all_old)
        if purged_many is not None:
            purged_many.subscribe(self._mark_many_old)

    def sending(self, hashes: Collection[str], cut: Callable[[], None]) -> Sending:
        """Make the count of an answer with bytes of these keys (a picture's, its watermark's)."""
        return Sending(self._sending, hashes, cut)

    def _mark_old(self, purged: Purged) -> None:
        for answer in self._sending.get(purged.key_hash, ()):
            answer.is_old = True

    def _mark_many_old(self, purged: PurgedMany) -> None:
        for key_hash in self._sending.keys() & purged.key_hashes:
            for answer in self._sending[key_hash]:
                answer.is_old = True

    def _mark_all_old(self, _purged: PurgedAll) -> None:
        for answer in self._all():
            answer.is_old = True

    def _all(self) -> set[Sending]:
        return {answer for answers in self._sending.values() for answer in answers}

    def key_hashes(self) -> set[str]:
        """The keys whose bytes are being sent."""
        late = {connection.last_key_hash for connection in self.connections if not connection.is_flushed()}
        return late | set(self._sending)

    def cut_unless(self, may_go_on: Callable[[str], bool]) -> int:
        """Cut the answers that hold bytes of a key that may not go on. Return how many."""
        forbidden = {hashed for hashed in self.key_hashes() if not may_go_on(hashed)}
        late: set[Sending | Connection] = {answer for hashed in forbidden for answer in self._sending.get(hashed, ())}
        late |= {item for item in self.connections if item.last_key_hash in forbidden}
        late = {answer for answer in late if not answer.is_flushed()}
        for answer in late:
            answer.cut()
        return len(late)

    async def drain_all(self, within_s: float) -> int:
        """As `drain`, for the answers of all keys that are under way now."""
        return await self._end({*self._all(), *self.connections}, within_s)

    async def drain(self, hashes: Collection[str], within_s: float) -> int:
        """
        Wait until answers with old bytes of these keys have ended; cut those that have not ended in time.

        Returns how many were cut.
        """
        names = set(hashes)
        late: set[Sending | Connection] = {
            answer for hashed in self._sending.keys() & names for answer in self._sending[hashed] if answer.is_old
        }
        late |= {connection for connection in self.connections if connection.last_key_hash in names}
        return await self._end(late, within_s)

    @staticmethod
    async def _end(late: set[Sending | Connection], within_s: float) -> int:
        """Wait until these answers have ended; cut those that have not ended in time. Return how many."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + within_s
        # Polling: a notification would cost something in every answer, and purges are rare.
        while (late := {answer for answer in late if not answer.is_flushed()}) and loop.time() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_EVERY_S)
        for answer in late:
            answer.cut()
        return len(late)


class Sending:
    """
    One counted answer. `is_old`: a purge came while it was sent.

    As a context manager it is counted while the block runs. It is a class because `contextlib` takes longer than the
    count.
    """

    __slots__ = ("_all", "_has_ended", "_hashes", "cut", "is_old")

    def __init__(
        self, all_sending: defaultdict[str, set[Sending]], hashes: Collection[str], cut: Callable[[], None]
    ) -> None:
        """`cut` closes the connection in the middle of the answer."""
        self._all = all_sending
        self._hashes = hashes
        self._has_ended = False
        self.cut = cut
        self.is_old = False

    def begin(self) -> None:
        """Count it from now on."""
        for hashed in self._hashes:
            self._all[hashed].add(self)

    def end(self) -> None:
        """Count it no more. A second call is harmless."""
        self._has_ended = True
        for hashed in self._hashes:
            answers = self._all.get(hashed)
            if answers is not None:
                answers.discard(self)
                if not answers:
                    del self._all[hashed]

    def __enter__(self) -> None:
        self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def is_flushed(self) -> bool:
        """Whether the kernel has all of it, or the connection is closed."""
        return self._has_ended
