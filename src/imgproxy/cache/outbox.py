"""
The outbox, in the journal: the purges that downstream caches have not confirmed yet.

Its lines are written in the transaction of their purge, so no crash can come in between. There is one line for each
target, subject and round. A later purge of the same subject takes the line over: it puts its own number there. Only a
confirmation of that number, or of a later one, deletes the line.

Round 1 is sent when the purge here is complete, round 2 when the settle time has passed. An answer that was on its way
to the CDN during round 1 is purged by round 2.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from imgproxy.cache.journal import Journal

OUTBOX_SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
    target TEXT NOT NULL, is_entry INTEGER NOT NULL, name TEXT NOT NULL, round INTEGER NOT NULL, seq INTEGER NOT NULL,
    recorded_at_s REAL NOT NULL, due_at_s REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (target, is_entry, name, round)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS outbox_due ON outbox (target, due_at_s);
"""
# The settle time is an hour at most, and so is a wait. A line that is due later was written while the clock was wrong.
DUE_AT_MOST_S = 3 * 3600.0
# These leave a line alone if a later purge has taken it over.
_DELETE_LINE = "DELETE FROM outbox WHERE target = ? AND is_entry = ? AND name = ? AND round = ? AND seq <= ?"
_PUT_OFF_LINE = (
    "UPDATE outbox SET due_at_s = ?, attempts = attempts + 1 "
    "WHERE target = ? AND is_entry = ? AND name = ? AND round = ? AND seq <= ?"
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is purged downstream: a key, an entry with all answers that carry its tag, or everything."""

    name: str
    is_entry: bool = False
    is_all: bool = False

    @property
    def kind(self) -> int:
        """The kind as the journal has it: 0 a key, 1 an entry, 2 everything."""
        return 2 if self.is_all else int(self.is_entry)


EVERYTHING = Subject("", is_all=True)


def subject_of(name: str, kind: int) -> Subject:
    """Return the subject of this name and kind."""
    return Subject(name, is_entry=kind == 1, is_all=kind == 2)


@dataclass(frozen=True, slots=True)
class OutboxLine:
    """A line to be written. `target` names the downstream cache, `due_at_s` is Unix time."""

    target: str
    subject: Subject
    round: int
    due_at_s: float


@dataclass(frozen=True, slots=True)
class WaitingLine:
    """A line that is due. `seq` is the number of the last purge of its subject."""

    subject: Subject
    round: int
    seq: int
    attempts: int


@dataclass(frozen=True, slots=True)
class OutboxFigures:
    """The lines of one target: how many, when the oldest of round 1 was recorded, when the next is due (Unix times)."""

    lines: int
    oldest_at_s: float | None
    next_due_s: float | None


def record_lines(database: sqlite3.Connection, seq: int, lines: Iterable[OutboxLine]) -> None:
    """Write the lines of purge `seq`. Call it inside the transaction of the purge."""
    now_s = time.time()
    database.executemany(
        "INSERT INTO outbox (target, is_entry, name, round, seq, recorded_at_s, due_at_s) VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET seq = excluded.seq, due_at_s = excluded.due_at_s",
        [(line.target, line.subject.kind, line.subject.name, line.round, seq, now_s, line.due_at_s) for line in lines],
    )


def _values(target: str, line: WaitingLine) -> tuple[object, ...]:
    return target, line.subject.kind, line.subject.name, line.round, line.seq


class Outbox:
    """The lines of every target."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def due(self, target: str, now_s: float, count: int) -> tuple[WaitingLine, ...]:
        """At most `count` lines that are due, the longest overdue first."""
        rows = await self._journal.read(
            "SELECT name, is_entry, round, seq, attempts FROM outbox "
            "WHERE target = ? AND (due_at_s <= ? OR due_at_s > ?) ORDER BY due_at_s LIMIT ?",
            (target, now_s, now_s + DUE_AT_MOST_S, count),
        )
        return tuple(
            WaitingLine(subject_of(name, kind), number, seq, attempts) for name, kind, number, seq, attempts in rows
        )

    async def figures(self, target: str) -> OutboxFigures:
        """The figures of a target."""
        rows = await self._journal.read(
            "SELECT count(*), min(CASE WHEN round = 1 THEN recorded_at_s END), min(due_at_s) FROM outbox "
            "WHERE target = ?",
            (target,),
        )
        return OutboxFigures(*rows[0])

    async def unconfirmed(self, seq: int) -> tuple[tuple[str, Subject], ...]:
        """The (target, subject) pairs of purge `seq` and later ones that are not confirmed."""
        rows = await self._journal.read(
            "SELECT target, name, is_entry FROM outbox WHERE round = 1 AND seq >= ?", (seq,)
        )
        return tuple((target, subject_of(name, kind)) for target, name, kind in rows)

    async def waiting(self, keys: Sequence[str], entry: str) -> frozenset[Subject]:
        """Those of these subjects, the keys and the entry, that a target has not confirmed."""
        rows = await self._journal.read(
            "SELECT DISTINCT name, is_entry FROM outbox WHERE round = 1 AND "
            "((is_entry AND name = ?) OR (NOT is_entry AND name IN (SELECT value FROM json_each(?))))",
            (entry, json.dumps(list(keys))),
        )
        return frozenset(Subject(name, bool(is_entry)) for name, is_entry in rows)

    async def done(self, target: str, lines: Sequence[WaitingLine]) -> None:
        """Delete lines that the target has confirmed. A line that a later purge has taken over stays."""
        await self._journal.execute(_DELETE_LINE, [_values(target, line) for line in lines])

    async def put_off(self, target: str, lines: Sequence[WaitingLine], due_at_s: float) -> None:
        """Note that these lines failed. They are due again at `due_at_s`."""
        await self._journal.execute(_PUT_OFF_LINE, [(due_at_s, *_values(target, line)) for line in lines])

    async def put_off_all(self, target: str, now_s: float, due_at_s: float) -> None:
        """Make the lines that are due now due at `due_at_s`, because the target cannot be reached."""
        await self._journal.execute(
            "UPDATE outbox SET due_at_s = ? WHERE target = ? AND due_at_s <= ?", [(due_at_s, target, now_s)]
        )

    async def resume(self, target: str, due_before_s: float) -> None:
        """Make lines that failed before due at once, because the target works again."""
        await self._journal.execute(
            "UPDATE outbox SET due_at_s = ? WHERE target = ? AND attempts > 0 AND due_at_s <= ?",
            [(time.time(), target, due_before_s)],
        )

    async def take_up(self, targets: Iterable[str]) -> int:
        """
        Make the lines of round 1 due at once, at the start of a run: no answer of an earlier run is under way.

        Delete the lines of targets that are no longer configured. Return how many there were.
        """
        kept = list(targets)

        def write(database: sqlite3.Connection) -> int:
            marks = ", ".join("?" * len(kept))
            dropped = database.execute(f"DELETE FROM outbox WHERE target NOT IN ({marks})", kept).rowcount  # noqa: S608 only question marks
            database.execute("UPDATE outbox SET due_at_s = min(due_at_s, ?) WHERE round = 1", (time.time(),))
            return dropped

        return await self._journal.write(write)
