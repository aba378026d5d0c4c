"""
The outbox of the cluster, in PostgreSQL: a `SharedOutbox`.

Times are kept by the database's clock. A caller's Unix time is turned into a distance from its own clock, and added
there. So edges whose clocks differ agree on what is due.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from imgproxy.cache.outbox import DUE_AT_MOST_S, EVERYTHING, OutboxFigures, Subject, WaitingLine
from imgproxy.cluster.postgres_append import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from imgproxy.cluster.postgres_database import Database
    from imgproxy.cluster.postgres_listener import Listener

# A rolling deploy that adds a target is over by then.
UNKNOWN_KEPT_S: Final = 86_400.0

_TAKE_TURN: Final = """
INSERT INTO imgproxy.outbox_turn AS turn (target, run, ends_at)
VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (target) DO UPDATE SET run = excluded.run, ends_at = excluded.ends_at
WHERE turn.run = excluded.run OR turn.ends_at < clock_timestamp()
    OR NOT EXISTS (SELECT FROM imgproxy.member WHERE member.run = turn.run)
RETURNING target
"""
_END_TURN: Final = """
WITH ended AS (DELETE FROM imgproxy.outbox_turn WHERE target = $1 AND run = $2 RETURNING target)
SELECT pg_notify('imgproxy_outbox', target) FROM ended
"""
_RELEASE: Final = """
WITH released AS (
    UPDATE imgproxy.outbox SET due_at = least(due_at, clock_timestamp())
    FROM unnest($3::bool[], $4::text[]) AS given (is_entry, name)
    WHERE target = $1 AND round = 1 AND number <= $2 AND outbox.is_entry = given.is_entry AND outbox.name = given.name
    RETURNING 1)
SELECT pg_notify('imgproxy_outbox', $1) WHERE EXISTS (SELECT FROM released)
"""
# A line that is due in a long time was written while a clock was wrong.
_DUE: Final = """
SELECT name, is_entry, round, number, attempts FROM imgproxy.outbox
WHERE target = $1 AND (due_at <= clock_timestamp() + make_interval(secs => $2)
    OR due_at > clock_timestamp() + make_interval(secs => $3))
ORDER BY due_at LIMIT $4
"""
_FIGURES: Final = """
SELECT count(*) AS lines,
    extract(epoch FROM clock_timestamp() - min(recorded_at) FILTER (WHERE round = 1))::float8 AS age_s,
    extract(epoch FROM min(due_at) - clock_timestamp())::float8 AS due_in_s
FROM imgproxy.outbox WHERE target = $1
"""
_UNCONFIRMED: Final = "SELECT target, name, is_entry FROM imgproxy.outbox WHERE round = 1 AND number >= $1"
_WAITING: Final = """
SELECT DISTINCT name, is_entry FROM imgproxy.outbox
WHERE round = 1 AND CASE WHEN is_entry THEN name = $2 ELSE name = ANY ($1::text[]) END
"""
# These leave a line alone if a later purge has taken it over.
_DONE: Final = """
WITH gone AS (
    DELETE FROM imgproxy.outbox USING unnest($2::bool[], $3::text[], $4::int[], $5::bigint[])
        AS given (is_entry, name, round, number)
    WHERE target = $1 AND outbox.is_entry = given.is_entry AND outbox.name = given.name
        AND outbox.round = given.round AND outbox.number <= given.number
    RETURNING 1)
SELECT pg_notify('imgproxy_outbox', $1) WHERE EXISTS (SELECT FROM gone)
"""
_PUT_OFF: Final = """
UPDATE imgproxy.outbox SET due_at = clock_timestamp() + make_interval(secs => $6), attempts = attempts + 1
FROM unnest($2::bool[], $3::text[], $4::int[], $5::bigint[]) AS given (is_entry, name, round, number)
WHERE target = $1 AND outbox.is_entry = given.is_entry AND outbox.name = given.name
    AND outbox.round = given.round AND outbox.number <= given.number
"""
_PUT_OFF_ALL: Final = """
UPDATE imgproxy.outbox SET due_at = clock_timestamp() + make_interval(secs => $3)
WHERE target = $1 AND due_at <= clock_timestamp() + make_interval(secs => $2)
"""
_RESUME: Final = """
UPDATE imgproxy.outbox SET due_at = clock_timestamp()
WHERE target = $1 AND attempts > 0 AND due_at <= clock_timestamp() + make_interval(secs => $2)
"""
_DROP_UNKNOWN: Final = """
DELETE FROM imgproxy.outbox WHERE target <> ALL ($1::text[])
    AND recorded_at < clock_timestamp() - make_interval(secs => $2) RETURNING 1
"""


class PostgresOutbox:
    """The lines of every target, as the run `run` works on them."""

    def __init__(self, database: Database, listener: Listener, run: str) -> None:
        self._database = database
        self._listener = listener
        self._run = run

    def watch(self, on_news: Callable[[], None]) -> None:
        """Call back for news of the outbox."""
        self._listener.listen(("imgproxy_outbox",), on_news)

    async def take_turn(self, target: str, lease_s: float) -> bool:
        """Take or keep the turn at a target."""
        return bool(await self._database.fetch(_TAKE_TURN, target, self._run, lease_s))

    async def end_turn(self, target: str) -> None:
        """End the turn at a target. Others hear of it."""
        await self._database.fetch(_END_TURN, target, self._run)

    async def release(self, target: str, subjects: Collection[Subject], seq: int) -> None:
        """Make lines of round 1 due now. The run that works on the target hears of it."""
        rows = sorted((subject.is_entry, clean(subject.name)) for subject in subjects)
        columns = [is_entry for is_entry, _ in rows], [name for _, name in rows]
        await self._database.fetch(_RELEASE, target, seq, *columns)

    async def due(self, target: str, now_s: float, count: int) -> tuple[WaitingLine, ...]:
        """Return lines that are due."""
        ahead_s = now_s - time.time()
        return tuple(
            WaitingLine(_subject(row), row["round"], row["number"], row["attempts"])
            for row in await self._database.fetch(_DUE, target, ahead_s, ahead_s + DUE_AT_MOST_S, count)
        )

    async def figures(self, target: str) -> OutboxFigures:
        """Return the figures of a target, in this process's time."""
        [row] = await self._database.fetch(_FIGURES, target)
        now_s = time.time()
        return OutboxFigures(
            row["lines"],
            None if row["age_s"] is None else now_s - row["age_s"],
            None if row["due_in_s"] is None else now_s + row["due_in_s"],
        )

    async def unconfirmed(self, seq: int) -> tuple[tuple[str, Subject], ...]:
        """Return what is not confirmed of a purge and of later ones."""
        rows = await self._database.fetch(_UNCONFIRMED, seq)
        return tuple((row["target"], _subject(row)) for row in rows)

    async def waiting(self, keys: Sequence[str], entry: str) -> frozenset[Subject]:
        """Return those of these subjects that are not confirmed."""
        rows = await self._database.fetch(_WAITING, [clean(key) for key in keys], clean(entry))
        return frozenset(_subject(row) for row in rows)

    async def done(self, target: str, lines: Sequence[WaitingLine]) -> None:
        """Delete lines. The edges that wait for their confirmation hear of it."""
        await self._database.fetch(_DONE, target, *_columns(lines))

    async def put_off(self, target: str, lines: Sequence[WaitingLine], due_at_s: float) -> None:
        """Count a failure of these lines, and make them due later."""
        await self._database.fetch(_PUT_OFF, target, *_columns(lines), due_at_s - time.time())

    async def put_off_all(self, target: str, now_s: float, due_at_s: float) -> None:
        """Make the lines that are due now due later."""
        present_s = time.time()
        await self._database.fetch(_PUT_OFF_ALL, target, now_s - present_s, due_at_s - present_s)

    async def resume(self, target: str, due_before_s: float) -> None:
        """Make lines that failed before due now."""
        await self._database.fetch(_RESUME, target, due_before_s - time.time())

    async def take_up(self, targets: Iterable[str]) -> int:
        """Delete old lines of targets that are not configured here."""
        return len(await self._database.fetch(_DROP_UNKNOWN, list(targets), UNKNOWN_KEPT_S))


def _subject(row: Mapping[str, Any]) -> Subject:
    """Return the subject of a row. No key is empty: that is everything."""
    found = Subject(row["name"], row["is_entry"])
    return EVERYTHING if found == Subject("") else found


def _columns(lines: Sequence[WaitingLine]) -> tuple[list[bool], list[str], list[int], list[int]]:
    rows = sorted((line.subject.is_entry, clean(line.subject.name), line.round, line.seq) for line in lines)
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], [row[3] for row in rows]
