"""
The watch over the fence: it logs when the node becomes fenced and when it heals, and ends answers that outlive a proof.

An answer that began while the node was current may take minutes. The other nodes wait for this one only until its lease
and its proofs have run out. So then such an answer is cut, unless the origin has proved its picture again. The origin
is asked shortly before, about the pictures that are being sent.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from imgproxy.cluster.clock import Clock
    from imgproxy.cluster.fence import Fence

log = logging.getLogger(__name__)

# In the time of a proof, answers under way are looked at so often.
LOOKS = 8
LOOK_LEAST_S = 0.05


class UnderWay(Protocol):
    """The answers that are being sent."""

    def key_hashes(self) -> Collection[str]:
        """The keys of all of them."""

    def prove(self, key_hash: str) -> None:
        """Ask the origin about a key, in the background."""

    def cut_unless(self, may_go_on: Callable[[str], bool]) -> int:
        """Cut the answers with a key that may not go on. Return how many."""


class FenceWatch:
    """Watches one fence."""

    def __init__(
        self,
        fence: Fence,
        clock: Clock,
        *,
        lead_s: float,
        proof_s: float,
        under_way: UnderWay | None,
        cause: Callable[[], str],
    ) -> None:
        """`lead_s`: so long before the lease ends the origin is asked. `under_way`: None if nothing is proved."""
        self._fence = fence
        self._clock = clock
        self._lead_s = lead_s
        self._look_s = max(LOOK_LEAST_S, proof_s / LOOKS)
        self._under_way = under_way
        self._cause = cause
        self._news = asyncio.Event()
        self._fenced_since_s: float | None = clock.now_s()
        self._fenced_s = 0.0
        self._was_current = False
        self._has_window = False  # purges waited for this node, by its lease or its proofs, at the last look

    def wake(self) -> None:
        """Look again: the lease was renewed, or lines were applied."""
        self._news.set()

    @property
    def fenced_s(self) -> float:
        """Seconds for which the node was fenced."""
        since_s = self._fenced_since_s
        return self._fenced_s + (self._clock.now_s() - since_s if since_s is not None else 0.0)

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            self._news.clear()
            until_s = self.look()
            await self._clock.wait(self._news, until_s)

    def look(self) -> float:
        """Note the state of the fence, and end answers that must not go on. Return when to look again."""
        now_s, lease_ends_s = self._clock.now_s(), self._fence.lease.current_until_s
        if now_s < lease_ends_s:
            self._has_window = True
            self._note_current(now_s)
            if now_s < lease_ends_s - self._lead_s:
                return lease_ends_s - self._lead_s
            self._prove(lease_ends_s)
            return min(lease_ends_s, now_s + self._look_s)
        self._note_fenced(now_s)
        if self._under_way is None:
            return float("inf")
        if not self._fence.has_window():
            self._end_window(self._under_way)
            return float("inf")
        self._has_window = True
        cut = self._under_way.cut_unless(lambda key_hash: self._fence.is_proved(key_hash, now_s))
        if cut:
            log.warning("%d answers were cut: this node is fenced, and the origin did not prove them in time", cut)
        self._prove(now_s + 2 * self._look_s)
        return now_s + self._look_s

    def _end_window(self, under_way: UnderWay) -> None:
        """
        Cut all answers, once, when purges no longer wait for this node. They began by the lease, or by older proofs.

        Answers that begin after that are not cut: the origin was asked for each of them alone.
        """
        if not self._has_window:
            return
        self._has_window = False
        cut = under_way.cut_unless(lambda _key_hash: False)
        if cut:
            log.warning("%d answers were cut: this node is fenced, and the others no longer wait for it", cut)

    def _prove(self, until_s: float) -> None:
        """Ask the origin about pictures that are being sent and whose proofs do not last until then."""
        if self._under_way is None or not self._fence.has_window():
            return
        for key_hash in self._under_way.key_hashes():
            if not self._fence.is_proved_until(key_hash, until_s):
                self._under_way.prove(key_hash)

    def _note_current(self, now_s: float) -> None:
        if self._fenced_since_s is None:
            return
        fenced_s = now_s - self._fenced_since_s
        self._fenced_s += fenced_s
        self._fenced_since_s = None
        log.info("this node is current%s", f" again, after {fenced_s:.1f} s" if self._was_current else "")
        self._was_current = True

    def _note_fenced(self, now_s: float) -> None:
        if self._fenced_since_s is None:
            self._fenced_since_s = now_s
            log.error("this node is fenced: %s", self._cause())
