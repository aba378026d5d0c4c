"""
A log of purges in memory, with the promises of `PurgeLog`, and faults to plant.

`MemoryLog` is the database. `MemoryPurgeLog` is one edge's way to it: it can be cut, held and made to lose answers.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from imgproxy.cluster.log import Backlog, HistoryLost, Kind, Line, LogUnavailable, Member, Position, Renewal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgproxy.cluster.log import Change

Result = TypeVar("Result")


@dataclass(slots=True)
class _Row:
    """A member, and of which history its `applied` is."""

    member: Member
    history: str


class MemoryLog:
    """What all edges share."""

    def __init__(self) -> None:
        self.history = "h1"
        self.lines: list[Line] = []
        self.head = 0
        self.old_up_to = 0  # the settle time of lines up to this number has ended
        self.rows: dict[str, _Row] = {}
        self.is_down = False
        self.appended: list[Change] = []  # of every history
        self._ways: list[MemoryPurgeLog] = []

    def way(self) -> MemoryPurgeLog:
        """Return one edge's way to this log."""
        way = MemoryPurgeLog(self)
        self._ways.append(way)
        return way

    @property
    def oldest(self) -> int:
        """The number of the first line that is kept."""
        return self.lines[0].number if self.lines else self.head + 1

    def fail_over(self, history: str, *, lost_lines: int = 0, lost_runs: Sequence[str] = ()) -> None:
        """Go on as another history, which lacks the last lines and some members."""
        self.history = history
        self.go_back(lost_lines)
        for run in lost_runs:
            self.rows.pop(run, None)

    def go_back(self, lost_lines: int) -> None:
        """Lose the last lines, without a word."""
        if lost_lines:
            del self.lines[-lost_lines:]
            self.head -= lost_lines

    def trim_all(self) -> None:
        """Keep no line."""
        self.lines.clear()

    def members(self) -> tuple[Member, ...]:
        """Return the members, as the protocol has them."""
        return tuple(
            row.member if row.history == self.history else replace(row.member, applied=0) for row in self.rows.values()
        )

    def tell(self) -> None:
        """Let every edge hear that there is news."""
        for way in self._ways:
            way.hear()


class MemoryPurgeLog:
    """
    A `PurgeLog`.

    Faults: `is_cut` refuses calls, `hold` holds those of one method before they do anything, `hold_answers` after. A
    method in `lost_answers` does its work and fails. With `is_deaf` no news come.
    """

    def __init__(self, server: MemoryLog) -> None:
        self.server = server
        self.is_cut = False
        self.is_deaf = False
        self.lost_answers: set[str] = set()
        self.calls: Counter[str] = Counter()
        self._before: dict[str, asyncio.Event] = {}
        self._after: dict[str, asyncio.Event] = {}
        self._arrived: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._member: Member | None = None
        self._on_news: Callable[[], None] | None = None

    # --- faults ------------------------------------------------------------------------------------------------

    def hold(self, method: str) -> None:
        """Hold calls of this method before they reach the log."""
        self._before[method] = asyncio.Event()
        self._arrived[method].clear()

    def hold_answers(self, method: str) -> None:
        """Hold the answers to calls of this method: the log has done its work."""
        self._after[method] = asyncio.Event()
        self._arrived[method].clear()

    async def arrived(self, method: str) -> None:
        """Wait until a call is held."""
        async with asyncio.timeout(20):
            await self._arrived[method].wait()

    def release(self, method: str) -> None:
        """Let the held calls of this method go on."""
        for gates in (self._before, self._after):
            gate = gates.pop(method, None)
            if gate is not None:
                gate.set()

    def hear(self) -> None:
        """Tell the edge that there is news."""
        if self._on_news is not None and not (self.is_deaf or self.is_cut or self.server.is_down):
            asyncio.get_running_loop().call_soon(self._on_news)

    async def _call(self, method: str, work: Callable[[], Result]) -> Result:
        self.calls[method] += 1
        await self._gate(self._before, method)
        if self.is_cut or self.server.is_down:
            raise LogUnavailable("cut off, by a test")
        result = work()
        await self._gate(self._after, method)
        if method in self.lost_answers:
            raise LogUnavailable("the answer is lost, by a test")
        return result

    async def _gate(self, gates: dict[str, asyncio.Event], method: str) -> None:
        gate = gates.get(method)
        if gate is not None:
            self._arrived[method].set()
            await gate.wait()

    # --- the protocol ------------------------------------------------------------------------------------------

    async def join(
        self,
        member: Member,
        *,
        ended: Sequence[str] = (),
        on_lines: Callable[[], None],
        on_applied: Callable[[], None],
    ) -> None:
        def on_news() -> None:
            on_lines()
            on_applied()

        def work() -> None:
            for run in ended:
                if self.server.rows.pop(run, None) is not None:
                    self.server.tell()
            self._put(Position("", 0))

        self._member, self._on_news = member, on_news
        await self._call("join", work)

    async def renew(self, applied: Position) -> Renewal:
        def work() -> Renewal:
            self._put(applied)
            server = self.server
            return Renewal(server.history, server.head, server.oldest, server.members())

        return await self._call("renew", work)

    async def report(self, applied: Position) -> None:
        def work() -> None:
            row = self.server.rows.get(self._joined().run)
            if row is not None and row.history == applied.history and row.member.applied < applied.number:
                row.member = replace(row.member, applied=applied.number)
                self.server.tell()

        await self._call("report", work)

    async def members(self) -> tuple[Member, ...]:
        return await self._call("members", self.server.members)

    async def append(self, changes: Sequence[Change]) -> tuple[Position, ...]:
        def work() -> tuple[Position, ...]:
            server, run = self.server, self._joined().run
            places = []
            for change in changes:
                server.head += 1
                server.lines.append(Line(server.head, run, change))
                server.appended.append(change)
                places.append(Position(server.history, server.head))
            server.tell()
            return tuple(places)

        return await self._call("append", work)

    async def read(self, after: Position, count: int) -> tuple[Line, ...]:
        def work() -> tuple[Line, ...]:
            server = self.server
            if after.history != server.history or after.number + 1 < server.oldest or after.number > server.head:
                raise HistoryLost
            return tuple(line for line in server.lines if line.number > after.number)[:count]

        return await self._call("read", work)

    async def read_backlog(self, after: Position, count: int) -> Backlog | None:
        def work() -> Backlog | None:
            old: list[Line] = []
            for line in self.server.lines:
                if line.number <= after.number:
                    continue
                is_old = line.number <= self.server.old_up_to and line.run != self._joined().run
                if len(old) == count or not is_old or line.change.kind is not Kind.PURGE:
                    break
                old.append(line)
            keys = tuple(key for line in old for key in line.change.keys)
            entries = tuple(line.change.entry for line in old if line.change.entry is not None)
            return Backlog(old[-1].number, keys, entries) if old else None

        return await self._call("read_backlog", work)

    async def forget(self, run: str, renewals: int) -> None:
        def work() -> None:
            row = self.server.rows.get(run)
            if row is not None and row.member.renewals <= renewals:
                del self.server.rows[run]
                self.server.tell()

        await self._call("forget", work)

    async def trim(self, kept_s: float) -> int:
        del kept_s
        return await self._call("trim", lambda: 0)

    async def leave(self) -> None:
        def work() -> None:
            self.server.rows.pop(self._joined().run, None)
            self.server.tell()

        await self._call("leave", work)

    async def close(self) -> None:
        """Do nothing."""

    def _joined(self) -> Member:
        assert self._member is not None, "join comes first"
        return self._member

    def _put(self, applied: Position) -> None:
        """Renew the row of this run, or make it."""
        server, member = self.server, self._joined()
        row = server.rows.get(member.run)
        number = applied.number if applied.history == server.history else 0
        renewals = 0
        if row is not None:
            renewals = row.member.renewals
            if row.history == server.history:
                number = max(number, row.member.applied)
        has_moved = row is not None and number > row.member.applied
        server.rows[member.run] = _Row(replace(member, applied=number, renewals=renewals + 1), server.history)
        if has_moved:
            server.tell()
