"""What this node has seen of the other members, and until when purges have to reckon with them."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from imgproxy.cluster.acknowledge import Awaited, Seen, awaited, observe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgproxy.cluster.log import Member

log = logging.getLogger(__name__)

# A member that the log may have lost with its tail. No run has this name.
LOST_RUN = "?"
# No line has so low a number: a member that the log does not know applies nothing.
NOTHING = -1


class Observer:
    """
    The members, by this node's own clock.

    When the history of the log changes, members may be missing in it: those that joined just before a failover, or
    after a backup was taken. They may be alive. So the members of the old history are still reckoned with, and one that
    nobody knows, until they would have been forgotten.
    """

    def __init__(self, own: Member, forget_s: float) -> None:
        self._own = own
        self._forget_s = forget_s
        self.history: str | None = None
        self.ended: frozenset[str] = frozenset()  # runs that serve nothing any more, for certain
        self._seen: dict[str, Seen] = {}
        self._renewed: dict[str, Seen] = {}  # as of the last renewal, which says of which history it is
        self._lost: dict[str, Seen] = {}
        self._has_warned = False

    def look(self, members: Sequence[Member], now_s: float) -> None:
        """Note what the log says of its members. `now_s` is from after the look."""
        self._seen = observe(self._seen, members, now_s)
        self._lost = {
            run: item
            for run, item in self._lost.items()
            if run not in self._seen and now_s < item.changed_at_s + self._forget_s
        }
        self._warn_of_namesake(now_s)

    def renewed(self, history: str, members: Sequence[Member], now_s: float, *, is_tail_lost: bool) -> bool:
        """
        As `look`, for a renewal. Return whether the log may have lost lines.

        It may have if it has another history than at the last renewal, or if its tail is missing.
        """
        is_changed = is_tail_lost or self.history not in (None, history)
        self.history = history
        if is_changed:
            others = {run: item for run, item in (self._seen | self._renewed).items() if run != self._own.run}
            unknown = Seen(replace(self._own, run=LOST_RUN, name="unknown"), now_s)
            self._lost |= others | {LOST_RUN: unknown}
            self._seen = {}
        self.look(members, now_s)
        self._renewed = dict(self._seen)
        return is_changed

    def awaited(self, appended_s: float) -> tuple[Awaited, ...]:
        """Return the nodes that a purge waits for, after a look that began after its line was written."""
        return awaited((*self._seen.values(), *self._lost.values()), self._own.run, appended_s)

    def applied(self) -> Mapping[str, int]:
        """Return the number of the last line that each run has applied."""
        known = {run: item.member.applied for run, item in self._seen.items()}
        return dict.fromkeys(self._lost, NOTHING) | known

    def forgettable(self, now_s: float) -> list[Member]:
        """Return the members whose renewals have stood still for so long that they are to be forgotten."""
        return [
            item.member
            for run, item in self._seen.items()
            if run != self._own.run and now_s >= item.changed_at_s + self._forget_s
        ]

    def returned(self) -> list[Member]:
        """Return the members that have ended: a renewal of theirs was still on its way when they were removed."""
        return [item.member for run, item in self._seen.items() if run in self.ended]

    @property
    def members(self) -> tuple[Seen, ...]:
        """The members of the log, as last seen."""
        return tuple(self._seen.values())

    def gone(self, now_s: float) -> frozenset[str]:
        """Return the runs whose lease has run out: they have ended, or cannot reach the log."""
        others = ((run, item) for run, item in self._seen.items() if run != self._own.run)
        return frozenset(run for run, item in others if now_s >= item.lease_ends_s)

    def namesake(self, now_s: float) -> Member | None:
        """Return another member with the name of this node that is alive; None if there is none."""
        for run, item in self._seen.items():
            is_other = run != self._own.run and item.member.name == self._own.name
            if is_other and item.is_alive and now_s < item.lease_ends_s:
                return item.member
        return None

    def as_json(self, now_s: float, head: int) -> list[dict[str, Any]]:
        """Show every member, for the status page. `head` is the number of the last line of the log."""
        return [
            {
                "name": item.member.name,
                "run": run,
                "self": run == self._own.run,
                "applied": item.member.applied,
                "behind": max(0, head - item.member.applied),
                "renewed_s": round(now_s - item.changed_at_s, 1),
                "lease": "runs" if now_s < item.lease_ends_s else "out",
            }
            for run, item in self._seen.items()
        ]

    def _warn_of_namesake(self, now_s: float) -> None:
        is_there = self.namesake(now_s) is not None
        if is_there and not self._has_warned:
            log.error(
                "another node is named %s, too: give each a [cluster] node of its own. Purges wait for both",
                self._own.name,
            )
        self._has_warned = is_there
