"""
The log that many edges share, behind one protocol. `postgres` is the engine; another one is possible.

    line      one change that every edge applies: a purge, a soft one, or the order to prove keys at the origin
    number    the place of a line. The order of numbers is the order of commit, without gaps that fill up later
    history   which log it is. Another history means that lines may be missing, for example after a restored backup or
              a failover. Then a number of the old history says nothing
    lease     while it runs, and all lines that its renewal reported are applied, an edge is current
    member    an edge that the log knows

Times of leases are never taken from the clock of the database. An edge counts its own lease from before it sent the
renewal, by its own monotonic clock. It counts the lease of another edge from after it saw the last renewal of it. So
no two clocks are ever compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgproxy.cache.outbox import OutboxLine


class Kind(StrEnum):
    """What a line asks of every edge."""

    PURGE = "purge"  # forget the keys
    PROVE = "prove"  # prove the keys at the origin before anything of them is served again
    SOFTEN = "soften"  # count the keys as stale: they may be served once more
    PURGE_ALL = "purge-all"  # forget everything


@dataclass(frozen=True, slots=True)
class Change:
    """
    What is written as one line.

    `entry`, `reason`, `is_pending` and `expanded` are those of `Journal.record_purge`. `settle_s`: each edge checks
    what it fetches again this many seconds after it applied the line; None: no check. `outbox`: the calls for the
    caches in front, which one edge of the cluster makes.
    """

    kind: Kind
    keys: tuple[str, ...]
    reason: str
    entry: str | None = None
    is_pending: bool = False
    settle_s: float | None = None
    outbox: tuple[OutboxLine, ...] = ()
    expanded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log. `run` is the run of the edge that wrote it (see `Member`)."""

    number: int
    run: str
    change: Change


@dataclass(frozen=True, slots=True)
class Backlog:
    """
    Old purges that follow a place in the log, taken together: their order does not matter.

    `last`: the number of the last of these lines. `keys`: all their keys. `entries`: those that were purged.
    """

    last: int
    keys: tuple[str, ...]
    entries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Position:
    """How far an edge has applied the log: the history, and the number of the last line. 0: none."""

    history: str
    number: int


@dataclass(frozen=True, slots=True)
class Member:
    """
    An edge as the others see it.

    `run` is a random name for one run of its process; a restart is another member with the same `name`. `renewals`
    counts: if it stands still for `lease_s` after somebody saw it, the lease has run out. `proof_s`: for how long a
    proof at the origin counts for it when it is fenced; None: it then serves unproved pictures (`when_fenced`).
    """

    name: str
    run: str
    applied: int
    renewals: int
    lease_s: float
    proof_s: float | None


@dataclass(frozen=True, slots=True)
class Renewal:
    """
    What the log says at a renewal.

    `head` is the number of the last line, `oldest` that of the first line that is still kept (`head + 1` if none is).
    Every line that is committed later is seen by a later renewal, or waits until this renewal is committed.
    """

    history: str
    head: int
    oldest: int
    members: tuple[Member, ...]


class LogUnavailable(Exception):
    """The log cannot be reached, or refuses. `str()` says why, in words for an operator, without secrets."""


class HistoryLost(Exception):
    """The log does not reach back to this place. Everything cached counts as unproved."""


class PurgeLog(Protocol):
    """
    The log, as one run of one edge uses it. Every method may raise LogUnavailable.

    A call that fails may have been committed all the same.
    """

    async def join(
        self,
        member: Member,
        *,
        ended: Sequence[str] = (),
        on_lines: Callable[[], None],
        on_applied: Callable[[], None],
    ) -> None:
        """
        Become a member, with this name, run, lease and proof time.

        `ended` are runs that serve nothing any more. They are removed in the same transaction: so the lines that they
        have not applied, and that this run may need, are kept for it. The others hear of it.

        On the event loop, `on_lines` is called whenever the log may have new lines, and `on_applied` whenever a member
        may have applied some. Both may be called too often. It is no promise: the caller looks at each renewal, too.
        """

    async def renew(self, applied: Position) -> Renewal:
        """
        Renew the lease and report how far this edge has applied the log, in one transaction.

        If `applied.history` is not that of the log, `applied` counts as 0. A member that was forgotten joins again.
        """

    async def report(self, applied: Position) -> None:
        """Report how far this edge has applied the log, without a renewal. The others hear of it."""

    async def members(self) -> tuple[Member, ...]:
        """Return every member, this one included."""

    async def append(self, changes: Sequence[Change]) -> tuple[Position, ...]:
        """Write lines in one transaction. They are on disk when this returns. Return the place of each."""

    async def read(self, after: Position, count: int) -> tuple[Line, ...]:
        """
        Return the next lines after a place, at most `count`, in order.

        Raises HistoryLost if the place is of another history, or lines after it are no longer kept.
        """

    async def read_backlog(self, after: Position, count: int) -> Backlog | None:
        """
        Return the purges that follow a place, at most `count`, up to the first line that has to be applied by itself.

        That is a line of another kind, of this run, or one whose settle time has not ended. None: the next line is such
        a line, or there is none. Raises HistoryLost as `read`.
        """

    async def forget(self, run: str, renewals: int) -> None:
        """Remove a member if it has not renewed since `renewals`."""

    async def trim(self, kept_s: float) -> int:
        """Delete lines that are older than `kept_s` and that every member has applied. Return how many."""

    async def leave(self) -> None:
        """End this run's membership. Its lease is over from the moment of the call: it must serve nothing any more."""

    async def close(self) -> None:
        """Close the connections."""
