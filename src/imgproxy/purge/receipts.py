"""
The record of purges: every receipt stays in the journal for a year, for whoever has to show what was done and when.

A purge does not wait for it: receipts of a quarter of a second are written together, behind the answers. After a crash
in between, the journal still says that the purge came, when, for which entry and why.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from imgproxy.background import Background
from imgproxy.cache.outbox import Outbox, Subject
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproxy.cache.journal import Journal, Kept
    from imgproxy.purge.receipt import Receipt

log = logging.getLogger(__name__)

WRITE_AFTER_S = 0.25


class PurgeRecord:
    """Writes receipts into the journal, and reads them there."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._outbox = Outbox(journal)
        self._waiting: list[tuple[int, float, str]] = []
        self._background = Background("record of purges")

    def keep(self, receipt: Receipt, *, reason: str) -> None:
        """Keep a receipt, soon. A later one of the same number takes its place."""
        row = (receipt.seq, time.time(), json.dumps({"reason": reason, **receipt.as_json()}))
        self._waiting.append(row)
        if len(self._waiting) == 1:
            self._background.begin(self._write_soon)

    async def latest(
        self, *, entry: str | None = None, key: str | None = None, seq: int | None = None, count: int = 1
    ) -> list[dict[str, Any]]:
        """
        The latest receipts, the newest first, in their public form: of an entry, of a key, of one number, or of any.

        They are as they were given, with the time and the reason; only what was pending then is as it stands now.

        Raises:
            CacheUnavailable: the journal cannot be read.
        """
        await self._write()
        kept = await self._journal.receipts(entry=entry, key=key, seq=seq, count=count)
        unconfirmed = await self._outbox.unconfirmed(kept[-1].seq) if kept else ()
        return [_as_it_stands(item, unconfirmed) for item in kept]

    async def close(self) -> None:
        """Write what is still waiting."""
        await self._background.close()
        await self._write()

    async def _write_soon(self) -> None:
        await asyncio.sleep(WRITE_AFTER_S)
        await self._write()

    async def _write(self) -> None:
        if not self._waiting:
            return
        rows, self._waiting = self._waiting, []
        try:
            await self._journal.keep_receipts(rows)
        except CacheUnavailable:
            log.warning("%d receipts of purges cannot be kept; the log above has them", len(rows))


def _as_it_stands(kept: Kept, unconfirmed: Sequence[tuple[str, Subject]]) -> dict[str, Any]:
    """A receipt whose caches in front have confirmed since, or not."""
    receipt = json.loads(kept.receipt)
    subjects = {Subject(key) for key in receipt["keys"]} | {Subject(receipt["entry"] or "", is_entry=True)}
    waiting = {target for target, subject in unconfirmed if subject in subjects}
    for cache in receipt["downstream"]:
        if cache["name"] not in waiting:
            cache |= {"state": "done", "detail": None}
    is_pending = kept.is_pending or any(cache["state"] != "done" for cache in receipt["downstream"])
    at = datetime.fromtimestamp(kept.at_s, UTC).isoformat(timespec="milliseconds")
    return {**receipt, "at": at, "pending": is_pending}
