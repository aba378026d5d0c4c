"""
The spreader: it writes the purges of this node into the log, and finds out when no node can break their promise.

    journal  ->  append, those that wait together in one transaction  ->  look at the members  ->  confirm

A look says who has applied what, but not of which history. So before a purge counts as done, a renewal that is sent
after the look confirms the history: the line was still in the log at that time.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imgproxy.cluster.acknowledge import NodeReport, NodeState, Spread, judge
from imgproxy.cluster.change_text import from_text
from imgproxy.cluster.log import Kind, LogUnavailable
from imgproxy.errors import CacheUnavailable
from imgproxy.failpoints import Step
from imgproxy.telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from imgproxy.cache.spreading import Spreading, Unspread
    from imgproxy.cluster.acknowledge import Awaited
    from imgproxy.cluster.clock import Clock
    from imgproxy.cluster.log import Change, Position, PurgeLog, Renewal
    from imgproxy.cluster.observer import Observer
    from imgproxy.failpoints import Failpoints

log = logging.getLogger(__name__)

# Changes that are written in one transaction.
TOGETHER_MAX = 500
RETRY_FIRST_S = 0.2
RETRY_MAX_S = 5.0
# Purges whose nodes are remembered for their receipts, after they are done.
DONE_MAX = 10_000


@dataclass(eq=False, slots=True)
class _Item:
    """One change on its way. `place`: where the log has it. `nodes`: whom it waits for, from the first look after."""

    row: Unspread
    kind: Kind
    began_s: float
    place: Position | None = None
    appended_s: float = math.inf
    nodes: tuple[Awaited, ...] | None = None
    reports: dict[str, NodeReport] = field(default_factory=dict)  # by run, of the nodes that it waits for no more

    def is_settled(self) -> bool:
        """Whether no node can break its promise, if the line is still in the log."""
        return self.nodes is not None and all(node.run in self.reports for node in self.nodes)


@dataclass(eq=False, slots=True)
class _Waiter:
    seq: int
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Spreader:
    """The changes of this node that are on their way to the others."""

    def __init__(
        self,
        purge_log: PurgeLog,
        rows: Spreading,
        observer: Observer,
        *,
        name: str,
        clock: Clock,
        failpoints: Failpoints,
        confirm: Callable[[], Awaitable[Renewal]],
    ) -> None:
        """`confirm` renews the lease now. It may raise LogUnavailable or CacheUnavailable."""
        self._log = purge_log
        self._rows = rows
        self._observer = observer
        self._name = name
        self._clock = clock
        self._failpoints = failpoints
        self._confirm = confirm
        self._items: OrderedDict[int, _Item] = OrderedDict()  # by row, not done yet
        self._done: OrderedDict[int, Spread] = OrderedDict()  # by number of the purge
        self._rows_of: dict[int, int] = {}  # by number of the purge, until `finished`
        self._finished: list[int] = []
        self._read_row = 0
        self._read_seq = 0
        self._waiters: set[_Waiter] = set()
        self._news = asyncio.Event()
        self._reachable = asyncio.Event()
        self._look = asyncio.Event()

    # --- for purges --------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many changes are on their way."""
        return len(self._items)

    async def wait(self, seq: int, within_s: float = math.inf) -> Spread:
        """
        Wait until no node can break the promise of purge `seq`, at most this long. Return how far it is spread.

        The purge is recorded in the journal before. Purges are done in the order of their numbers.
        """
        waiter = _Waiter(seq)
        self._waiters.add(waiter)
        self._news.set()
        try:
            if not self._is_done(seq):
                await self._clock.wait(waiter.done, self._clock.now_s() + within_s)
        finally:
            self._waiters.discard(waiter)
        return self._spread(seq)

    def wake(self) -> None:
        """Look for changes in the journal soon."""
        self._news.set()

    def finished(self, seqs: Sequence[int]) -> None:
        """Forget the changes of these purges: everything is done that they were kept for."""
        for seq in seqs:
            self._done.pop(seq, None)
            row = self._rows_of.pop(seq, None)
            if row is not None:
                self._finished.append(row)

    def take_finished(self) -> list[int]:
        """Return the rows that can be deleted from the journal."""
        rows, self._finished = self._finished, []
        return rows

    def put_back(self, rows: Sequence[int]) -> None:
        """Keep rows that could not be deleted for the next time."""
        self._finished[:0] = rows

    def _is_done(self, seq: int) -> bool:
        """Whether every change up to this purge is done. Changes are in the order of their numbers; 0 is no number."""
        first = next((item.row.seq for item in self._items.values() if item.row.seq), math.inf)
        return seq <= self._read_seq and seq < first

    def _spread(self, seq: int) -> Spread:
        found = self._done.get(seq)
        if found is not None:
            return found
        item = next((item for item in self._items.values() if item.row.seq == seq), None)
        number = item.place.number if item is not None and item.place is not None else None
        return Spread(self._reports_of(item), self._is_done(seq), number)

    def _reports_of(self, item: _Item | None) -> tuple[NodeReport, ...]:
        """Return the states of this node, which has applied the purge, and of the others."""
        own = NodeReport(self._name, NodeState.APPLIED, 0.0)
        if item is None or item.nodes is None:
            nodes, reports, began_s = self._observer.awaited(0.0), {}, self._clock.now_s()
        else:
            nodes, reports, began_s = item.nodes, item.reports, item.began_s
        waited_s = self._clock.now_s() - began_s
        others = (reports.get(node.run, NodeReport(node.name, NodeState.WAITING, waited_s)) for node in nodes)
        return (own, *others)

    # --- append ------------------------------------------------------------------------------------------------

    def reached(self) -> None:
        """Note that the log can be reached: it just answered a renewal."""
        self._reachable.set()
        self._look.set()
        self._news.set()

    def start_over(self) -> None:
        """Write all changes again that are on their way: the log may have lost them."""
        for item in self._items.values():
            item.place, item.nodes, item.appended_s = None, None, math.inf
            item.reports.clear()
        self._news.set()

    async def append(self) -> None:
        """Write changes into the log, for ever."""
        failures, said = 0, set[str]()
        while True:
            self._news.clear()
            self._reachable.clear()
            try:
                while await self._append_next():
                    failures = 0
                    said.clear()
            except (LogUnavailable, CacheUnavailable) as error:
                if str(error) not in said:
                    said.add(str(error))
                    log.warning("purges of this node wait, they cannot be written into the log of purges: %s", error)
                wait_s = min(RETRY_FIRST_S * 2.0 ** min(failures, 10), RETRY_MAX_S)
                failures += 1
                await self._clock.wait(self._reachable, self._clock.now_s() + wait_s)
            else:
                await self._news.wait()

    async def _append_next(self) -> bool:
        """Write the next changes. Return whether there were any. Raises LogUnavailable, CacheUnavailable."""
        items = [item for item in self._items.values() if item.place is None][:TOGETHER_MAX] or await self._read()
        if not items:
            return False
        await self._failpoints.reach(Step.AFTER_RECORD, "")
        places = await self._written([from_text(item.row.change) for item in items])
        now_s = self._clock.now_s()
        for item, place in zip(items, places, strict=True):
            item.place, item.appended_s, item.nodes = place, now_s, None
        await self._failpoints.reach(Step.AFTER_APPEND, "")
        self._look.set()
        return True

    async def _written(self, changes: Sequence[Change]) -> tuple[Position, ...]:
        """Write lines. Raises LogUnavailable."""
        try:
            with traces.call("append to log", changes=len(changes)):
                return await self._log.append(changes)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise LogUnavailable("the write was given up") from None  # by the log, which is being closed

    async def _read(self) -> list[_Item]:
        """Read the changes that are new in the journal."""
        rows = await self._rows.after(self._read_row, TOGETHER_MAX)
        now_s = self._clock.now_s()
        items = [_Item(row, from_text(row.change).kind, now_s) for row in rows]
        for item in items:
            self._items[item.row.row] = item
            if item.row.seq:
                self._rows_of[item.row.seq] = item.row.row
        if rows:
            self._read_row, self._read_seq = rows[-1].row, max(self._read_seq, *(row.seq for row in rows))
        return items

    # --- acknowledge -------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look at the members soon: one may have applied something."""
        if self._items:
            self._look.set()

    async def acknowledge(self) -> None:
        """Find out, for ever, which changes are done."""
        while True:
            self._look.clear()
            items = [item for item in self._items.values() if item.place is not None]
            until_s = math.inf
            if items:
                try:
                    until_s = await self._look_at(items)
                except (LogUnavailable, CacheUnavailable):
                    until_s = self._clock.now_s() + RETRY_MAX_S
            await self._clock.wait(self._look, until_s)

    async def _look_at(self, items: Sequence[_Item]) -> float:
        """Look at the members, who may be done with these changes. Return when to look again at the latest."""
        members = await self._log.members()
        now_s = self._clock.now_s()
        self._observer.look(members, now_s)
        applied = self._observer.applied()
        for item in items:
            self._judge(item, applied, now_s)
        settled = [item for item in items if item.is_settled()]
        if settled:
            await self._failpoints.reach(Step.BEFORE_ACKNOWLEDGE, "")
            renewal = await self._confirm()
            for item in settled:
                if item.place is not None and item.place.history == renewal.history and item.is_settled():
                    self._end(item)
            self._wake_waiters()
        open_nodes = (node for item in items for node in item.nodes or () if node.run not in item.reports)
        return min((node.until_s for node in open_nodes), default=math.inf)

    def _judge(self, item: _Item, applied: Mapping[str, int], now_s: float) -> None:
        """Note the nodes that this change waits for no more."""
        if item.place is None:
            return
        if item.nodes is None:
            item.nodes = self._observer.awaited(item.appended_s)
        left = []
        for node in item.nodes:
            state = judge(node, applied, item.place.number, now_s)
            if state is None:
                left.append(node)
            elif state is not NodeState.WAITING and node.run not in item.reports:
                item.reports[node.run] = NodeReport(node.name, state, now_s - item.began_s)
        item.nodes = tuple(node for node in item.nodes if node not in left)

    def _end(self, item: _Item) -> None:
        number = item.place.number if item.place is not None else None
        spread = Spread(self._reports_of(item), is_complete=True, number=number)
        del self._items[item.row.row]
        if not item.row.seq:
            self._finished.append(item.row.row)
            return
        self._done[item.row.seq] = spread
        if item.kind is Kind.PROVE:
            self._rows_of.pop(item.row.seq, None)
            self._finished.append(item.row.row)  # no cache in front is told of an order
        if len(self._done) > DONE_MAX:
            self._done.popitem(last=False)

    def _wake_waiters(self) -> None:
        for waiter in self._waiters:
            if self._is_done(waiter.seq):
                waiter.done.set()
