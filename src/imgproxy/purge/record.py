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
from typing import TYPE_CHECKING

from imgproxy.background import Background
from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from imgproxy.cache.journal import Journal
    from imgproxy.purge.receipt import Receipt

log = logging.getLogger(__name__)

WRITE_AFTER_S = 0.25


class PurgeRecord:
    """Writes receipts into the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: list[tuple[int, float, str]] = []
        self._background = Background("record of purges")

    def keep(self, receipt: Receipt, *, reason: str) -> None:
        """Keep a receipt, soon. A later one of the same number takes its place."""
        row = (receipt.seq, time.time(), json.dumps({"reason": reason, **receipt.as_json()}))
        self._waiting.append(row)
        if len(self._waiting) == 1:
            self._background.begin(self._write_soon)

    async def close(self) -> None:
        """Write what is still waiting."""
        await self._background.close()
        if self._waiting:
            await self._write()

    async def _write_soon(self) -> None:
        await asyncio.sleep(WRITE_AFTER_S)
        await self._write()

    async def _write(self) -> None:
        rows, self._waiting = self._waiting, []
        try:
            await self._journal.keep_receipts(rows)
        except CacheUnavailable:
            log.warning("%d receipts of purges cannot be kept; the log above has them", len(rows))
