"""The threads of the cache: their priority."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from imgproxy.cache.journal import Journal
from imgproxy.cache.threads import yielding_thread

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path


def niceness() -> int:
    """Return the nice value of the thread that calls."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="the nice value is one of the process")
async def test_the_journal_yields_to_the_event_loop(tmp_path: Path) -> None:
    """The thread that writes the journal has a lower priority than the thread of the loop, which keeps its own."""
    before = niceness()
    journal = Journal(tmp_path)
    await journal.open()

    def write(database: sqlite3.Connection) -> int:
        del database
        return niceness()

    assert await journal.write(write) == before + 5
    await journal.close()
    assert niceness() == before


@pytest.mark.skipif(sys.platform != "linux", reason="the nice value is one of the process")
def test_a_yielding_thread_changes_no_other_thread() -> None:
    """Each has its own priority, counted from that of the thread which made it."""
    before = niceness()
    with yielding_thread("a", 10) as one, yielding_thread("b", 2) as other:
        assert one.submit(niceness).result() == before + 10
        assert other.submit(niceness).result() == before + 2
        assert one.submit(niceness).result() == before + 10
    assert niceness() == before


def test_where_the_priority_is_that_of_the_process_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """On another system than Linux `os.nice` would slow down the event loop as well."""
    monkeypatch.setattr(sys, "platform", "darwin")
    before = niceness()
    with yielding_thread("a", 10) as thread:
        assert thread.submit(niceness).result() == before
