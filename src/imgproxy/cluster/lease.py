"""
The lease of this node, counted on the safe side.

It is counted from before the renewal was sent, and ends a margin early. Others count it from after they saw the
renewal, and for the whole time. So whatever the database and the network do in between, this node stops first. No two
clocks are compared, only their rates: the margin is far above the error of any clock.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgproxy.cluster.log import Position

# This share of a lease is not used.
MARGIN = 0.1
# Renewals in the time of one lease. Two may fail.
RENEWALS = 3


class Lease:
    """
    Until when this node is current.

    It is current while a lease runs and it has applied every line that the renewal of this lease reported. A later
    renewal that reports more lines takes nothing away: the earlier lease runs on, because it is counted by the others,
    too.
    """

    def __init__(self, lease_s: float) -> None:
        self._used_s = lease_s * (1 - MARGIN)
        # The one number that answers compare with the clock.
        self.current_until_s = -math.inf
        # When the last renewal that was answered was sent.
        self.renewed_at_s = -math.inf
        self._next_until_s = -math.inf
        self._needed: Position | None = None

    def renew(self, sent_s: float, needed: Position, has: Position) -> None:
        """Note a renewal that was sent at `sent_s` and reported `needed` as the end of the log."""
        self.renewed_at_s = sent_s
        self._next_until_s = sent_s + self._used_s
        self._needed = needed
        self.advance(has)

    def advance(self, has: Position) -> None:
        """Note how far this node has applied the log."""
        needed = self._needed
        if needed is not None and has.history == needed.history and has.number >= needed.number:
            self.current_until_s = max(self.current_until_s, self._next_until_s)

    def end(self) -> None:
        """End the lease now. Only a later renewal makes the node current again."""
        self.current_until_s = self._next_until_s = -math.inf
        self._needed = None
