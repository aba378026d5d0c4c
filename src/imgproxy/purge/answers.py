"""
Answers under way: which connections are sending bytes of which key.

A purge is acknowledged only when answers with the old bytes have ended. Those that do not end within a moment (a slow
client, a large original) are cut: their connection is closed in the middle, which every client takes for an error.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import TracebackType

# How often connections that answer without being counted are looked at while a purge waits for them.
LOOK_EVERY_S = 0.005


@dataclass(frozen=True, slots=True)
class Late:
    """An answer that is not wholly sent: whether it is by now, and how to end its connection."""

    is_sent: Callable[[], bool]
    cut: Callable[[], None]


class Answers:
    """
    Connections that are sending, by key hash.

    Most answers are counted while they are sent. Hits of the fast path are not, as counting would cost more than
    sending: the server is asked for those of them that are late (`ask_for_late`).
    """

    def __init__(self) -> None:
        self._sending: defaultdict[str, set[Sending]] = defaultdict(set)
        self._ask_for_late: Callable[[set[str]], list[Late]] = lambda _: []

    def ask_for_late(self, ask: Callable[[set[str]], list[Late]]) -> None:
        """Have `ask(key hashes)` name the uncounted answers with bytes of these keys that are not wholly sent."""
        self._ask_for_late = ask

    def sending(self, hashes: Collection[str], cut: Callable[[], None]) -> Sending:
        """An answer with bytes of these keys (a picture's, its watermark's), counted from its `begin` to its `end`."""
        return Sending(self._sending, hashes, cut)

    def overtake(self, hashed: str) -> None:
        """A purge of this key happens now: the answers under way hold old bytes, those to come do not."""
        for answer in self._sending.get(hashed, ()):
            answer.is_old = True

    async def drain(self, hashes: Collection[str], within_s: float) -> int:
        """
        Wait until the answers with bytes of these keys that a purge has overtaken have ended, then cut what is left.

        Returns how many were cut.
        """
        counted = [answer for hashed in hashes for answer in self._sending.get(hashed, ())]
        late = [Late(answer.has_ended, answer.cut) for answer in counted if answer.is_old]
        late += self._ask_for_late(set(hashes))
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + within_s
        # Looked at, not told: to tell would cost every answer something, and purges are few.
        while (late := [item for item in late if not item.is_sent()]) and loop.time() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_EVERY_S)
        for item in late:
            item.cut()
        return len(late)

    def __len__(self) -> int:
        return sum(len(answers) for answers in self._sending.values())


class Sending:
    """
    One answer: how to end its connection, whether it has ended, and whether a purge has overtaken it.

    As a context manager it is counted while the block runs. Written out, as `contextlib` takes longer than the count.
    """

    __slots__ = ("_all", "_hashes", "cut", "is_ended", "is_old")

    def __init__(
        self, all_sending: defaultdict[str, set[Sending]], hashes: Collection[str], cut: Callable[[], None]
    ) -> None:
        self._all = all_sending
        self._hashes = hashes
        self.cut = cut
        self.is_ended = False
        self.is_old = False

    def begin(self) -> None:
        """Count it."""
        for hashed in self._hashes:
            self._all[hashed].add(self)

    def end(self) -> None:
        """It has ended; to say so twice does no harm."""
        self.is_ended = True
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

    def has_ended(self) -> bool:
        """Whether the kernel has all of it, or its connection is gone."""
        return self.is_ended
