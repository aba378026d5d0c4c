"""Receipts while the journal refuses them."""

from pathlib import Path

import pytest

from imgproxy.cache.journal import Journal
from imgproxy.purge.receipts import Receipt, Receipts
from tests.support.cache import let_journal_refuse
from tests.support.site import poll, until


async def test_a_receipt_that_the_disk_refuses_is_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It would otherwise be in the log only, which may lose lines. Nobody has to ask for it."""
    journal = Journal(tmp_path)
    await journal.open()
    receipts = Receipts(journal)
    try:
        let_journal_refuse(journal, refuses=True)
        receipts.keep(Receipt("e", ("a.jpg",), 1, 2, 7, 0.1), reason="revoke")
        await until(lambda: "cannot be written yet" in caplog.text)
        assert await receipts.latest(entry=None) == []
        let_journal_refuse(journal, refuses=False)

        await poll(lambda: journal.receipts(entry=None, key=None, seq=7, count=1), bool)

        (kept,) = await receipts.latest(seq=7)
        assert (kept["entry"], kept["keys"], kept["reason"]) == ("e", ["a.jpg"], "revoke")
    finally:
        await receipts.close()
        await journal.close()
