"""
The acknowledgement of a purge: which nodes can still break its promise, and until when. Pure.

A node that has not applied a line can serve what the line forbids in two ways only:

- from its cache, while its lease runs. The lease was renewed before the line was written: a renewal after that reports
  the line, and the node is current only when it has applied it. So the lease as it was known at the first look after
  the line was written is the last one that counts. It ends `lease_s` after somebody saw it change.
- fenced, by a proof at the origin that is younger than `proof_s`. Only a proof from before the line matters. The last
  of these was begun before the line was written, at T. So it ends at T + `proof_s`.

So a node can break the promise until max(end of its lease, T + proof_s). It is not the sum: at the end of its lease a
node has no other proofs than those that it would have without. And it is not the lease alone: a node that has long been
fenced may have proved the key just before the purge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imgproxy.cluster.log import Member


class NodeState(StrEnum):
    """What a node has to do with a purge."""

    APPLIED = "applied"  # it has applied the purge, and its answers with old bytes have ended
    FENCED = "fenced"  # it has not, and it can serve nothing from before the purge
    WAITING = "waiting"  # it has not, and it can still break the promise


@dataclass(frozen=True, slots=True)
class NodeReport:
    """The state of one node for one purge, and after how many seconds it was known."""

    name: str
    state: NodeState
    after_s: float


@dataclass(frozen=True, slots=True)
class Spread:
    """
    How far a purge has been spread.

    `is_complete`: no node can break its promise. The states of the known nodes are not enough for that: while the log
    cannot be reached, a node may be unknown.
    """

    nodes: tuple[NodeReport, ...]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """A member, and when a change of its renewals was seen last, by the clock of the observer."""

    member: Member
    changed_at_s: float
    is_alive: bool = False  # its renewals have changed since it was first seen

    @property
    def lease_ends_s(self) -> float:
        """When its lease has run out at the latest."""
        return self.changed_at_s + self.member.lease_s


@dataclass(frozen=True, slots=True)
class Awaited:
    """A node that a purge waits for, until it has applied the line or cannot break the promise any more."""

    name: str
    run: str
    until_s: float


def observe(seen: Mapping[str, Seen], members: Iterable[Member], now_s: float) -> dict[str, Seen]:
    """
    Return what is known of the members after a look at the log.

    `now_s` is from after the look: a lease must not be counted from before the renewal was seen. Members that are gone
    have left, or were forgotten.
    """
    found = {}
    for member in members:
        before = seen.get(member.run)
        if before is None:
            found[member.run] = Seen(member, now_s)
        elif before.member.renewals != member.renewals:
            found[member.run] = Seen(member, now_s, is_alive=True)
        else:
            found[member.run] = Seen(member, before.changed_at_s, before.is_alive)
    return found


def awaited(seen: Iterable[Seen], own_run: str, appended_s: float) -> tuple[Awaited, ...]:
    """
    Return the nodes that a purge waits for.

    Args:
        seen: the members, from a look at the log that began after the line was written.
        own_run: this node, which has applied the purge before it wrote the line.
        appended_s: a time after the line was written.
    """
    return tuple(
        Awaited(item.member.name, item.member.run, can_break_until_s(item, appended_s))
        for item in seen
        if item.member.run != own_run
    )


def can_break_until_s(item: Seen, appended_s: float) -> float:
    """Return when a node that has not applied a line can no longer break its promise. Infinite: never."""
    if item.member.proof_s is None:
        return math.inf
    return max(item.lease_ends_s, appended_s + item.member.proof_s)


def judge(node: Awaited, applied: Mapping[str, int], number: int, now_s: float) -> NodeState | None:
    """
    Return the state of a node for line `number`. None: it has left, or it was forgotten, and serves nothing.

    `applied` is what each run has reported.
    """
    reported = applied.get(node.run)
    if reported is None:
        return None
    if reported >= number:
        return NodeState.APPLIED
    return NodeState.FENCED if now_s >= node.until_s else NodeState.WAITING
