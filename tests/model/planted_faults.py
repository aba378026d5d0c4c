"""Faults that are planted in the cluster, one at a time. The model of three nodes has to find each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from imgproxy.cache.runs import Runs
from imgproxy.cluster import acknowledge
from imgproxy.cluster.fence import Fence
from imgproxy.cluster.follower import Follower
from imgproxy.cluster.lease import Lease
from imgproxy.cluster.log import Kind, Line, Position
from tests.model.nodes_world import NodeWay

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from contextlib import AbstractContextManager

    from imgproxy.cluster.acknowledge import Awaited, Seen
    from imgproxy.cluster.log import Change

_AWAITED = acknowledge.awaited


class AnswerLease(Lease):
    """The lease is counted from the answer to the renewal."""

    def renew(self, sent_s: float, needed: Position, has: Position) -> None:
        del sent_s
        super().renew(asyncio.get_running_loop().time(), needed, has)


class HastyLease(Lease):
    """A node is current before it has applied what the renewal reported, for example at its start."""

    def advance(self, has: Position) -> None:
        del has
        self.current_until_s = max(self.current_until_s, self._next_until_s)


class OpenFence(Fence):
    """The fence is off."""

    def is_open(self) -> bool:
        return True


class AnswerFence(Fence):
    """The time of a proof is counted from the origin's answer."""

    def proved(self, key_hash: str, began_s: float) -> None:
        del began_s
        super().proved(key_hash, self.now_s())


class RememberedFence(Fence):
    """A node that may be forgotten still uses the time of its proofs."""

    def has_window(self) -> bool:
        return self._proof_s > 0


class BackgroundFollower(Follower):
    """Lines are reported before they are recorded here."""

    async def _apply(self, kind: Kind, lines: Sequence[Line], place: Position) -> None:
        self._draining.begin(super()._apply, kind, lines, place)


class HastyFollower(Follower):
    """Lines are reported before the answers under way have ended."""

    def _begin_drain(self, place: Position, hashes: Collection[str] | None) -> None:
        super()._begin_drain(place, hashes)
        self._drains[-1].has_ended = True
        self._note_drained()


class IdleFollower(Follower):
    """The answers under way are left alone."""

    async def _drain_answers(self, drain: Any, hashes: Collection[str] | None) -> None:
        del hashes
        await super()._drain_answers(drain, ())


class DeafFollower(Follower):
    """An order to prove is ignored."""

    async def _apply(self, kind: Kind, lines: Sequence[Line], place: Position) -> None:
        if kind is not Kind.PROVE:
            await super()._apply(kind, lines, place)


class TrustingFollower(Follower):
    """If the history is lost, the node goes on as if nothing had happened."""

    async def start_over(self, renewal: Any) -> None:
        with patch.object(self._cache, "distrust_all", _nothing):
            await super().start_over(renewal)


class SequenceWay(NodeWay):
    """Lines are numbered before they are committed: one with a lower number may be committed later."""

    async def append(self, changes: Sequence[Change]) -> tuple[Position, ...]:
        server, run = self.server, self._joined().run
        lines = [Line(server.head + 1 + index, run, change) for index, change in enumerate(changes)]
        server.head += len(lines)

        def work() -> tuple[Position, ...]:
            server.lines = sorted([*server.lines, *lines], key=lambda line: line.number)
            server.tell()
            return tuple(Position(server.history, line.number) for line in lines)

        return await self._call("append", work)


class BackwardsWay(NodeWay):
    """The newest line is read first."""

    async def read(self, after: Position, count: int) -> tuple[Line, ...]:
        return (await super().read(after, count))[-1:]


async def _nothing(**_named: Any) -> None:
    pass


def _without_the_last(seen: Iterable[Seen], own_run: str, appended_s: float) -> tuple[Awaited, ...]:
    """A purge does not wait for the last node."""
    return _AWAITED(seen, own_run, appended_s)[:-1]


def _until_the_lease_ends(item: Seen, appended_s: float) -> float:
    """A purge does not wait for the proofs of a node whose lease has run out."""
    del appended_s
    return item.lease_ends_s


def _from_the_look(item: Seen, appended_s: float) -> float:
    """A purge counts the lease of another node from when it began to be a member, not from its last renewal."""
    del item
    return appended_s


def replaced(where: str, by: object) -> Callable[[], AbstractContextManager[Any]]:
    """Return what replaces a name of the cluster's modules."""
    return lambda: patch(f"imgproxy.cluster.{where}", by)


def _followed_by_whatever(before: Runs, run: str, lock: str | None) -> Runs:
    """The last run of a journal counts as ended, whichever lock it held."""
    return Runs(run, lock, (*before.ended, before.run))


FAULTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "the lease is counted from the answer": replaced("node.Lease", AnswerLease),
    "a node is current before it has replayed the log": replaced("node.Lease", HastyLease),
    "the fence is off": replaced("node.Fence", OpenFence),
    "a proof is counted from the answer": replaced("node.Fence", AnswerFence),
    "a forgotten node uses the time of its proofs": replaced("node.Fence", RememberedFence),
    "applied is reported before it is recorded": replaced("node.Follower", BackgroundFollower),
    "applied is reported before answers are drained": replaced("node.Follower", HastyFollower),
    "answers are not drained": replaced("node.Follower", IdleFollower),
    "an order to prove is ignored": replaced("node.Follower", DeafFollower),
    "a lost history is ignored": replaced("node.Follower", TrustingFollower),
    "a purge does not wait for the slowest node": replaced("observer.awaited", _without_the_last),
    "a purge does not wait for the proofs of a fenced node": replaced(
        "acknowledge.can_break_until_s", _until_the_lease_ends
    ),
    "a copy of a disk takes the run over the first one for ended": lambda: patch.object(
        Runs, "followed_by", _followed_by_whatever
    ),
    "a purge does not wait for leases": replaced("acknowledge.can_break_until_s", _from_the_look),
}
WAYS: dict[str, type[NodeWay]] = {
    "numbers are not in the order of commit": SequenceWay,
    "the newest line is read first": BackwardsWay,
}
