"""
Answers under way: which connections are sending bytes of which key.

A purge is acknowledged only when answers with the old bytes have ended. Those that do not end within a moment (a slow
client, a large original) are cut: their connection is closed in the middle, which every client takes for an error.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Answers:
    """Connections that are sending, by key hash."""

    def __init__(self) -> None:
        self._sending: defaultdict[str, set[_Sending]] = defaultdict(set)

    @contextmanager
    def sending(self, hashed: str, cut: Callable[[], None]) -> Iterator[None]:
        """Count an answer with this key's bytes while the block runs; `cut` ends its connection."""
        answer = _Sending(cut)
        self._sending[hashed].add(answer)
        try:
            yield
        finally:
            answer.ended.set()
            self._sending[hashed].discard(answer)
            if not self._sending[hashed]:
                del self._sending[hashed]

    async def drain(self, hashes: Iterable[str], within_s: float) -> int:
        """
        Wait until the answers under way now with bytes of these keys have ended, then cut what is left.

        Returns how many were cut.
        """
        answers = [answer for hashed in hashes for answer in self._sending.get(hashed, ())]
        if not answers:
            return 0
        waits = [asyncio.ensure_future(answer.ended.wait()) for answer in answers]
        _, late = await asyncio.wait(waits, timeout=within_s)
        for wait in late:
            wait.cancel()
        left = [answer for answer in answers if not answer.ended.is_set()]
        for answer in left:
            answer.cut()
        return len(left)

    def __len__(self) -> int:
        return sum(len(answers) for answers in self._sending.values())


class _Sending:
    """One answer: how to end its connection, and whether it has ended."""

    __slots__ = ("cut", "ended")

    def __init__(self, cut: Callable[[], None]) -> None:
        self.cut = cut
        self.ended = asyncio.Event()
