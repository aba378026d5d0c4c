"""
Receipts: what a purge did. The journal keeps each for a year.

Receipts are written behind the answers: those of a quarter of a second in one write. While the disk refuses them, they
are tried again. A crash before that loses the receipt only: the journal has the purge itself, with its time, entry and
reason.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from imgproxy.background import Background
from imgproxy.cache.outbox import EVERYTHING, Outbox, Subject
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproxy.cache.journal import Journal, KeptReceipt
    from imgproxy.cluster.acknowledge import NodeReport

log = logging.getLogger(__name__)

WRITE_AFTER_S = 0.25
RETRY_MAX_S = 10.0
# Receipts that wait for the disk: about 10 MB.
UNWRITTEN_MAX = 10_000
# States of a cache in front after which nothing more is to be done.
DONE = frozenset({"done", "skipped"})


@dataclass(frozen=True, slots=True)
class DownstreamState:
    """
    The state of a purge in one cache in front.

    `done`: the cache confirmed it. `pending`: not yet, for the reason in `detail`; the outbox tries again. `skipped`:
    it has no call for this.
    """

    name: str
    kind: str
    state: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """
    What a purge did. `size_bytes`: deleted from disk. `cut`: connections that were closed in the middle of an answer.

    `kept`: keys of an updated entry whose bytes the origin has confirmed, so that they were not purged.
    `malformed`: what the keys API listed that is no key. `is_pending`: the keys API has not answered yet. The listed
    keys are purged; more may follow. `nodes`: the nodes of the cluster; none if this service is alone. `seqs`: the
    numbers of all its purges here, `seq` is the last of them. `is_spreading`: a node can still break its promise.
    `is_everything`: no keys are named, all are purged.
    """

    entry: str | None
    keys: tuple[str, ...]
    variants: int
    size_bytes: int
    seq: int
    duration_s: float
    cut: int = 0
    kept: tuple[str, ...] = ()
    malformed: tuple[str, ...] = ()
    downstream: tuple[DownstreamState, ...] = ()
    is_pending: bool = False
    is_soft: bool = False
    nodes: tuple[NodeReport, ...] = ()
    seqs: tuple[int, ...] = ()
    is_spreading: bool = False
    is_everything: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether every key is known, no node can serve it, and every cache in front has confirmed."""
        return not (self.is_pending or self.is_spreading) and all(item.state in DONE for item in self.downstream)

    def as_json(self) -> dict[str, Any]:
        """Return the public form. Scripts depend on its names."""
        return {
            "entry": self.entry,
            "keys": list(self.keys),
            "kept": list(self.kept),
            "malformed": list(self.malformed),
            "variants": self.variants,
            "bytes": self.size_bytes,
            "downstream": [
                {"name": item.name, "kind": item.kind, "state": item.state, "detail": item.detail}
                for item in self.downstream
            ],
            "nodes": _nodes_json(self.nodes),
            "spreading": self.is_spreading,
            "pending": not self.is_complete,
            "soft": self.is_soft,
            "cut": self.cut,
            "seq": self.seq,
            "ms": round(self.duration_s * 1000, 1),
        }


class Receipts:
    """Writes receipts into the journal, and reads them."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._outbox = Outbox(journal)
        self._unwritten: list[tuple[int, float, str]] = []
        self._background = Background("receipts of purges")

    def keep(self, receipt: Receipt, *, reason: str) -> None:
        """Write a receipt soon. It replaces an earlier one of the same number."""
        row = (receipt.seq, time.time(), json.dumps({"reason": reason, **receipt.as_json()}))
        self._unwritten.append(row)
        if len(self._unwritten) == 1:
            self._background.begin(self._write_soon)

    async def latest(
        self, *, entry: str | None = None, key: str | None = None, seq: int | None = None, count: int = 1
    ) -> list[dict[str, Any]]:
        """
        Return the latest receipts in their public form, newest first: of an entry, of a key, of one number, or of any.

        Each is as it was given, with its time and reason. Only what was pending then is updated.

        Raises:
            CacheUnavailable: the journal cannot be read.
        """
        await self._write()
        kept = await self._journal.receipts(entry=entry, key=key, seq=seq, count=count)
        unconfirmed = await self._outbox.unconfirmed(kept[-1].seq) if kept else ()
        return [_updated(item, unconfirmed) for item in kept]

    async def complete_nodes(self, seq: int, nodes: Sequence[NodeReport]) -> None:
        """
        Note in a receipt of an earlier run that its purge is complete on every node.

        Raises:
            CacheUnavailable: the journal cannot be read or written.
        """
        for kept in await self._journal.receipts(entry=None, key=None, seq=seq, count=1):
            receipt = json.loads(kept.receipt) | {"nodes": _nodes_json(nodes), "spreading": False}
            await self._journal.keep_receipts([(seq, kept.at_s, json.dumps(receipt))])

    async def close(self) -> None:
        """Write the receipts that are not written yet."""
        await self._background.close()
        await self._write()

    async def _write_soon(self) -> None:
        wait_s = WRITE_AFTER_S
        while self._unwritten:
            await asyncio.sleep(wait_s)
            await self._write()
            wait_s = min(wait_s * 2, RETRY_MAX_S)

    async def _write(self) -> None:
        if not self._unwritten:
            return
        rows, self._unwritten = self._unwritten, []
        try:
            await self._journal.keep_receipts(rows)
        except CacheUnavailable:
            log.warning("%d receipts of purges cannot be written yet", len(rows))
            self._unwritten[:0] = rows
            del self._unwritten[:-UNWRITTEN_MAX]


def _nodes_json(nodes: Sequence[NodeReport]) -> list[dict[str, Any]]:
    return [{"name": node.name, "state": node.state, "ms": round(node.after_s * 1000, 1)} for node in nodes]


def _updated(kept: KeptReceipt, unconfirmed: Sequence[tuple[str, Subject]]) -> dict[str, Any]:
    """Return a kept receipt with the present state of its caches in front."""
    receipt = json.loads(kept.receipt)
    is_waiting = receipt.get("spreading", False)
    subjects = (
        {EVERYTHING} | {Subject(key) for key in receipt["keys"]} | {Subject(receipt["entry"] or "", is_entry=True)}
    )
    waiting = {target for target, subject in unconfirmed if subject in subjects}
    for cache in receipt["downstream"]:
        if cache["name"] not in waiting and cache["state"] not in DONE and not is_waiting:
            cache |= {"state": "done", "detail": None}
    is_pending = kept.is_pending or is_waiting or any(cache["state"] not in DONE for cache in receipt["downstream"])
    at = datetime.fromtimestamp(kept.at_s, UTC).isoformat(timespec="milliseconds")
    return {**receipt, "at": at, "pending": is_pending}
