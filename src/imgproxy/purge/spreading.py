"""
Purges in a cluster: complete when no node can break their promise.

A purge is written for the other nodes together with its record here. The caches in front are told at the end.

    recorded here, with the change  ->  in the log  ->  every node has applied it, or can serve nothing old
    ->  caches in front  ->  the change is forgotten

A purge that takes longer than `wait_s` is answered as pending. It goes on by itself, also after a restart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from imgproxy.background import Background
from imgproxy.cluster.acknowledge import Spread
from imgproxy.cluster.change_text import from_text
from imgproxy.cluster.log import Change, Kind, LogUnavailable
from imgproxy.telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgproxy.cache.outbox import OutboxLine
    from imgproxy.cache.spreading import Also, Unspread
    from imgproxy.purge.downstream.targets import Downstreams
    from imgproxy.purge.receipts import Receipt, Receipts
    from imgproxy.purge.shared import Shared

log = logging.getLogger(__name__)

# In the receipt, for each cache in front.
AFTER_THE_NODES = "it is told when every node has taken part"


class Nodes(Protocol):
    """The other nodes: a ClusterNode."""

    def recording(self, change: Change) -> Also:
        """Return what writes a change into the journal, in the transaction of its purge."""

    async def wait(self, seq: int, within_s: float | None = None) -> Spread:
        """Wait until no node can break the promise of a purge, at most `within_s`. Return how far it is spread."""

    def finished(self, seqs: Sequence[int]) -> None:
        """Forget the changes of these purges."""

    def wake(self) -> None:
        """Spread what is new in the journal, without a wait for it."""

    async def left_over(self) -> tuple[Unspread, ...]:
        """The changes that the last run has left."""

    async def spread_unpromised(self, change: Change) -> None:
        """Spread a change that no purge waits for."""


class SpreadPurges:
    """Completes purges in the whole cluster. Without other nodes (None) there are the caches in front alone."""

    def __init__(
        self,
        nodes: Nodes | None,
        downstream: Downstreams,
        receipts: Receipts,
        *,
        wait_s: float,
        settle_s: float,
        shared: Shared | None = None,
    ) -> None:
        """
        A purge is answered as pending after `wait_s`. `settle_s` is as in Change; 0: no check.

        `shared`: what the nodes share. Without it each has an outbox and receipts of its own.
        """
        self._nodes = nodes
        self._shared = shared
        self._under_way: Counter[str] = Counter()
        self._downstream = downstream
        self._receipts = receipts
        self._wait_s = wait_s
        self._settle_s = settle_s
        self._later = Background("purge in the cluster")
        self._is_closed = False

    async def start(self) -> None:
        """Complete the purges that the last run has left."""
        if self._nodes is None:
            return
        for row in await self._nodes.left_over():
            change = from_text(row.change)
            if row.seq and change.kind is not Kind.PROVE:
                self._later.begin(self._complete_left_over, self._nodes, row.seq, change)

    async def close(self) -> None:
        """Stop. The journal has what is not complete."""
        self._is_closed = True
        await self._later.close()

    @property
    def pending(self) -> int:
        """Purges that were answered before they were complete."""
        return len(self._later)

    def recording(
        self,
        keys: Sequence[str],
        *,
        reason: str,
        entry: str | None,
        is_pending: bool = False,
        expanded: Sequence[str] = (),
        outbox: Sequence[OutboxLine] = (),
        kind: Kind = Kind.PURGE,
    ) -> Also | None:
        """
        Return what writes the change for the other nodes, in the transaction of the purge here. None: there are none.

        An entry whose keys are not all known is expanded by this node. Its other keys are a change of their own. If
        this node dies, another one expands the entry.
        """
        if self._nodes is None:
            return None
        settle_s = self._settle_s if self._settle_s > 0 else None
        change = Change(kind, tuple(keys), reason, entry=entry, settle_s=settle_s, expanded=tuple(expanded))
        if self._shared is not None:
            change = replace(change, is_pending=is_pending, outbox=tuple(outbox))
        return self._nodes.recording(change)

    # --- entries whose keys are not all known ------------------------------------------------------------------

    @contextmanager
    def under_way(self, entry: str | None) -> Iterator[None]:
        """Note that a purge of this entry is under way here, while the block runs."""
        name = entry or ""
        self._under_way[name] += 1
        try:
            yield
        finally:
            self._under_way[name] -= 1
            if not self._under_way[name]:
                del self._under_way[name]

    def is_under_way(self, entry: str) -> bool:
        """Whether a purge of this entry is under way here."""
        return entry in self._under_way

    async def finish_pending(self, entry: str | None, number: int | None) -> None:
        """Note for the cluster that the entry was expanded. Its purges up to this number of the log are done."""
        if self._shared is not None and entry is not None and number is not None:
            try:
                await self._shared.facts.finish_pending(entry, up_to_seq=number)
            except LogUnavailable:
                # It stays as it is, and so this node expands the entry once more.
                log.info("it is not noted that entry %s was expanded: the cluster's database cannot be reached", entry)

    async def last_number(self, entry: str) -> int | None:
        """Return the number of the entry's last purge in the log of the cluster. Raises LogUnavailable."""
        return await self._shared.facts.last_purge_of_entry(entry) if self._shared is not None else None

    async def soften(self, keys: Sequence[str], *, reason: str, entry: str) -> None:
        """
        Let the other nodes purge these keys softly, too. Raises CacheUnavailable.

        It is not waited for: a soft purge promises no time.
        """
        if self._nodes is not None:
            await self._nodes.spread_unpromised(Change(Kind.SOFTEN, tuple(keys), reason, entry=entry))

    def wake(self) -> None:
        """Spread what was just recorded."""
        if self._nodes is not None:
            self._nodes.wake()

    def forget(self, entry: str, seqs: Sequence[int]) -> None:
        """Forget purges of an entry that does not exist. The other nodes may still hear of them."""
        if self._nodes is None:
            return
        if self._shared is None:
            self._nodes.finished(seqs)
        else:
            self._later.begin(self._forget, self._nodes, entry, seqs)

    async def _forget(self, nodes: Nodes, entry: str, seqs: Sequence[int]) -> None:
        with self.under_way(entry):
            spread = await nodes.wait(seqs[-1])
            nodes.finished(seqs)
            await self.finish_pending(entry, spread.number)

    async def order_is_spread(self, entry: str, seq: int) -> Spread:
        """Wait until every node proves the entry's keys, by order `seq`, before it serves them, at most `wait_s`."""
        if self._nodes is None:
            return Spread((), is_complete=True)
        spread = await self._nodes.wait(seq, self._wait_s)
        if spread.is_complete:
            await self.finish_pending(entry, spread.number)
        else:
            self._later.begin(self._note_order, self._nodes, entry, seq)
        return spread

    async def _note_order(self, nodes: Nodes, entry: str, seq: int) -> None:
        with self.under_way(entry):
            spread = await nodes.wait(seq)
            await self.finish_pending(entry, spread.number)
        await self._receipts.complete_nodes(seq, spread)

    async def complete(
        self, receipt: Receipt, reason: str, started_s: float, *, is_waited_for: bool, is_part: bool
    ) -> Receipt:
        """
        Wait for the nodes, then tell the caches in front. Return the receipt with the state of both.

        If it takes too long, or if `is_waited_for` is False, both go on by themselves. So they do if the caller is
        cancelled.
        """
        nodes = self._nodes
        if nodes is None:
            return await self._tell_caches(receipt, is_part=is_part)
        complete_later = partial(self._complete_later, nodes, receipt, reason, started_s, is_part=is_part)
        try:
            with traces.span("wait for nodes"):
                spread = await nodes.wait(receipt.seq, self._wait_s if is_waited_for else 0.0)
                traces.note({"is_complete": spread.is_complete, "nodes": len(spread.nodes)})
        except asyncio.CancelledError:
            if not self._is_closed:
                self._later.begin(complete_later)
            raise
        receipt = self.with_nodes(receipt, spread)
        if spread.is_complete:
            return await self._tell_caches(receipt, is_part=is_part)
        self._later.begin(complete_later)
        return replace(receipt, downstream=self._downstream.told_later(AFTER_THE_NODES))

    async def _complete_later(
        self, nodes: Nodes, receipt: Receipt, reason: str, started_s: float, *, is_part: bool
    ) -> None:
        with self.under_way(receipt.entry):
            spread = await nodes.wait(receipt.seq)
            receipt = await self._tell_caches(self.with_nodes(receipt, spread), is_part=is_part)
        receipt = replace(receipt, duration_s=time.monotonic() - started_s)
        self._receipts.keep(receipt, reason=reason)
        log.info("purged on every node", extra={"facts": {"reason": reason, **receipt.as_json()}})

    def with_nodes(self, receipt: Receipt, spread: Spread) -> Receipt:
        """Return a receipt with the state of the nodes, and the number that the log has given."""
        receipt = replace(receipt, nodes=spread.nodes, is_spreading=not spread.is_complete)
        return receipt if self._shared is None else replace(receipt, is_shared=True, number=spread.number)

    async def _tell_caches(self, receipt: Receipt, *, is_part: bool) -> Receipt:
        if not receipt.is_pending:
            await self.finish_pending(receipt.entry, receipt.number)
        seq, number = receipt.seq, receipt.number
        if receipt.is_everything:
            downstream = await self._downstream.purge_all(seq, number)
        else:
            downstream = await self._downstream.purge(
                receipt.keys, entry=receipt.entry, seq=seq, number=number, is_part=is_part
            )
        if self._nodes is not None:
            self._nodes.finished(receipt.seqs)
        return replace(receipt, downstream=downstream)

    async def _complete_left_over(self, nodes: Nodes, seq: int, change: Change) -> None:
        spread = await nodes.wait(seq)
        number = None if self._shared is None else spread.number
        # Nobody knows any more whether it was a part of the entry. The outbox has what was recorded then.
        if change.kind is Kind.PURGE_ALL:
            await self._downstream.purge_all(seq, number)
        else:
            await self._downstream.purge(change.keys, entry=change.entry, seq=seq, number=number)
        nodes.finished([seq])
        await self._receipts.complete_nodes(seq, spread)
        log.info("purge %d of an earlier run is complete on every node", seq)
