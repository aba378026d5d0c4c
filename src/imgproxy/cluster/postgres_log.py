"""
The log of purges in PostgreSQL.

The order of numbers is the order of commit: an append takes its numbers from the one row of `head`, and holds the lock
of that row until its commit. A renewal holds a shared lock of the same row. So each line is either seen by a renewal,
or is committed after it. Then everybody who looks at the members after the line was committed sees that renewal.

`history` has five parts: the system's identity, the timeline of its WAL, and of the table `identity` the random id, the
oid, and the transaction that wrote its row. A failover changes the second one, a restored dump one of the others. If
the log is shorter than an edge knows, or has not its last renewal, a copy of the disk was restored. The edge then
writes a new random id.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from imgproxy.cluster.log import HistoryLost, Line, LogUnavailable, Member, Position, Renewal
from imgproxy.cluster.postgres_append import APPEND, append_values, read_change
from imgproxy.cluster.postgres_backlog import read_backlog
from imgproxy.cluster.postgres_database import fetch_in
from imgproxy.cluster.postgres_schema import SCHEMA_VERSION, newer_words, with_history

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from imgproxy.cluster.log import Backlog, Change
    from imgproxy.cluster.postgres_database import Database, Session
    from imgproxy.cluster.postgres_listener import Listener

log = logging.getLogger(__name__)

# What one transaction appends at most. More waits for the next one.
APPENDED_AT_ONCE: Final = 500
_CLOSED: Final = "the connections to the cluster's database are closed"
_ANY_RENEWALS: Final = 2**63 - 1
# What one call of `trim` deletes at most, so that it does not take long.
TRIMMED_AT_ONCE: Final = 10_000
# `head` first: it waits for an append that is under way, and then has its number. Nothing else here depends on when.
_RENEW: Final = with_history("""
WITH head AS MATERIALIZED (SELECT number, oldest FROM imgproxy.head FOR SHARE),
history AS MATERIALIZED (SELECT HISTORY AS name),
known AS MATERIALIZED (SELECT max(renewals) AS renewals FROM imgproxy.member WHERE run = $2),
renewed AS (
    INSERT INTO imgproxy.member AS member (run, name, history, applied, renewals, lease_s, proof_s)
    SELECT $2, $3, history.name, CASE WHEN history.name = $4 THEN $5::bigint ELSE 0 END, $6, $7, $8 FROM head, history
    ON CONFLICT (run) DO UPDATE SET history = excluded.history, lease_s = excluded.lease_s, proof_s = excluded.proof_s,
        applied = CASE WHEN member.history = excluded.history THEN greatest(member.applied, excluded.applied)
            ELSE excluded.applied END,
        renewals = greatest(member.renewals + 1, excluded.renewals), renewed_at = clock_timestamp()
    RETURNING renewals)
SELECT history.name AS history, head.number AS head, head.oldest, known.renewals AS known, renewed.renewals,
    version, min_reader
FROM head, history, known, renewed, imgproxy.edge_schema
""")
# A renewal that also removes members.
_ENDED: Final = "ended AS (DELETE FROM imgproxy.member WHERE run = ANY ($9::text[]) RETURNING 1)"
_TOLD: Final = "(SELECT count(pg_notify('imgproxy_applied', '')) FROM ended) AS told"
_JOIN: Final = _RENEW.replace("WITH ", f"WITH {_ENDED},\n").replace("min_reader\n", f"min_reader, {_TOLD}\n")
_MEMBERS: Final = with_history("""
SELECT name, run, CASE WHEN member.history = HISTORY THEN applied ELSE 0 END AS applied, renewals, lease_s, proof_s
FROM imgproxy.member ORDER BY name, run
""")
# This commit need not wait for the disk: after a crash the edge counts as further behind than it is.
_REPORT: Final = """
WITH quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)),
reported AS (
    UPDATE imgproxy.member SET applied = $3 FROM quick WHERE run = $1 AND history = $2 AND applied < $3 RETURNING 1)
SELECT pg_notify('imgproxy_applied', '') FROM reported
"""
_READ: Final = with_history("""
SELECT HISTORY AS history, head.number AS head, head.oldest, line.number, line.run, line.kind, line.change
FROM imgproxy.head LEFT JOIN LATERAL (
    SELECT * FROM imgproxy.line WHERE number > $2::bigint ORDER BY number LIMIT $3) AS line ON true ORDER BY line.number
""")
_FORGET: Final = """
WITH gone AS (DELETE FROM imgproxy.member WHERE run = $1 AND renewals <= $2 RETURNING 1)
SELECT pg_notify('imgproxy_applied', '') FROM gone
"""
_HEAD: Final = with_history("SELECT HISTORY AS history, number FROM imgproxy.head")
# The lock of `head` first: no append and no renewal is under way then.
_WENT_BACK: Final = """
WITH head AS MATERIALIZED (SELECT number FROM imgproxy.head WHERE number < $1 FOR UPDATE)
UPDATE imgproxy.identity SET id = gen_random_uuid()::text FROM head RETURNING id
"""
# By one edge at a time. No other program is likely to use this pair of numbers.
_TRIM: Final = with_history("""
WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(272001, 1) AS is_mine),
bound AS MATERIALIZED (
    SELECT least(
        (SELECT min(CASE WHEN member.history = HISTORY THEN applied ELSE 0 END) FROM imgproxy.member),
        (SELECT oldest + $3 - 1 FROM imgproxy.head),
        (SELECT coalesce(
            (SELECT min(number) - 1 FROM imgproxy.line
                WHERE written_at >= clock_timestamp() - make_interval(secs => $2)),
            (SELECT number FROM imgproxy.head)))) AS number FROM turn WHERE turn.is_mine),
gone AS (DELETE FROM imgproxy.line USING bound WHERE line.number <= bound.number RETURNING line.number),
last AS (SELECT max(number) AS number, count(*) AS count FROM gone),
moved AS (
    UPDATE imgproxy.head SET oldest = greatest(oldest, last.number + 1) FROM last WHERE last.count > 0 RETURNING 1)
SELECT last.count FROM last
""")


class PostgresLog:
    """The log, as one run of one edge uses it: a `PurgeLog`."""

    def __init__(self, database: Database, listener: Listener) -> None:
        self._database = database
        self._listener = listener
        self._member: Member | None = None
        self._renewals = 0
        self._confirmed = 0  # the last renewal that the log has for certain, unless it went back or forgot this member
        self._seen = Position("", 0)  # what the log had for certain, to find out that it went back
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None

    # --- the member --------------------------------------------------------------------------------------------

    async def join(
        self,
        member: Member,
        *,
        ended: Sequence[str] = (),
        on_lines: Callable[[], None],
        on_applied: Callable[[], None],
    ) -> None:
        """Become a member. News come as soon as the database can be reached, also if this call fails."""
        self._member = member
        self._listener.listen(("imgproxy_lines",), on_lines)
        self._listener.listen(("imgproxy_applied",), on_applied)
        await self._renew(Position("", 0), ended)

    async def renew(self, applied: Position) -> Renewal:
        """Renew the lease, then read the members: they must not be older than the number that the renewal has seen."""
        return await self._renew(applied, ())

    async def _renew(self, applied: Position, ended: Sequence[str]) -> Renewal:
        member = self._joined()
        async with self._database.session() as session:
            self._renewals += 1
            values = (
                *(session.server, member.run, member.name, applied.history, applied.number),
                *(self._renewals, member.lease_s, member.proof_s),
            )
            [row] = await (
                fetch_in(session, _JOIN, *values, list(ended)) if ended else fetch_in(session, _RENEW, *values)
            )
            if self._went_back(row, applied):
                await _note_loss(session, max(applied.number, row["head"] + 1))
                [row] = await fetch_in(session, _RENEW, *values)
            members = _members(await fetch_in(session, _MEMBERS, session.server))
        self._renewals = self._confirmed = row["renewals"]
        if row["min_reader"] > SCHEMA_VERSION:
            raise self._database.refusal(newer_words(row["version"]))
        self._see(Position(row["history"], row["head"]))
        return Renewal(row["history"], row["head"], row["oldest"], members)

    def _went_back(self, row: Any, applied: Position) -> bool:
        """Whether the log says that it is the same, and lines or a renewal are missing that it had."""
        is_short = row["history"] == applied.history and row["head"] < applied.number
        is_older = row["history"] == self._seen.history and (row["known"] or math.inf) < self._confirmed
        return is_short or is_older

    async def report(self, applied: Position) -> None:
        """Report how far this edge is. Until its first renewal in this history the report changes nothing."""
        await self._database.fetch(_REPORT, self._joined().run, applied.history, applied.number)

    async def members(self) -> tuple[Member, ...]:
        """Return every member."""
        async with self._database.session() as session:
            return _members(await fetch_in(session, _MEMBERS, session.server))

    async def forget(self, run: str, renewals: int) -> None:
        """Remove a member if it has not renewed since."""
        await self._database.fetch(_FORGET, run, renewals)

    async def leave(self) -> None:
        """End the membership of this run."""
        await self._database.fetch(_FORGET, self._joined().run, _ANY_RENEWALS)

    def _joined(self) -> Member:
        assert self._member is not None, "join comes first"
        return self._member

    def _see(self, position: Position) -> None:
        if position.history != self._seen.history or position.number > self._seen.number:
            self._seen = position

    # --- lines -------------------------------------------------------------------------------------------------

    async def append(self, changes: Sequence[Change]) -> tuple[Position, ...]:
        """Write lines. Calls that wait at the same time share one transaction. A cancelled call may be written."""
        if not changes:
            return ()
        loop = asyncio.get_running_loop()
        waiting = _Waiting(tuple(changes), loop.create_future())
        self._waiting.append(waiting)
        if self._writer is None:
            self._writer = loop.create_task(self._write())
        return await waiting.places

    async def _write(self) -> None:
        """Write what waits, as many changes at once as a transaction may have, until nothing waits."""
        try:
            while self._waiting:
                group = [self._waiting.pop(0)]
                count = len(group[0].changes)
                while self._waiting and count + len(self._waiting[0].changes) <= APPENDED_AT_ONCE:
                    group.append(self._waiting.pop(0))
                    count += len(group[-1].changes)
                await self._write_group(group)
        finally:
            self._writer = None
            for waiting in self._waiting:
                waiting.fail(LogUnavailable(_CLOSED))
            self._waiting.clear()

    async def _write_group(self, group: Sequence[_Waiting]) -> None:
        changes = [change for waiting in group for change in waiting.changes]
        failure: Exception = LogUnavailable(_CLOSED)
        try:
            first = await self._append(changes)
        except LogUnavailable as error:
            failure = error
        except Exception as error:
            log.exception("the cluster's log cannot be written")
            failure = error
        else:
            number = first.number
            for waiting in group:
                waiting.finish(Position(first.history, number + at) for at in range(len(waiting.changes)))
                number += len(waiting.changes)
        finally:
            for waiting in group:
                waiting.fail(failure)

    async def _append(self, changes: Sequence[Change]) -> Position:
        """Append in one transaction. Return the place of the first line."""
        run = self._joined().run
        async with self._database.session() as session:
            seen = self._seen
            values = append_values(session.server, run, changes, now_s=time.time(), seen=seen.number)
            rows = await fetch_in(session, APPEND, *values)
            if not rows:
                # The log is shorter than this edge knows: it is another one, or it went back.
                [head] = await fetch_in(session, _HEAD, session.server)
                if head["history"] == seen.history:
                    await _note_loss(session, seen.number)
                values = append_values(session.server, run, changes, now_s=time.time(), seen=0)
                rows = await fetch_in(session, APPEND, *values)
        history, before = rows[0]["history"], rows[0]["before"]
        self._see(Position(history, before + len(changes)))
        return Position(history, before + 1)

    async def read(self, after: Position, count: int) -> tuple[Line, ...]:
        """Return the next lines. Their calls for the caches in front are left out: they are in the outbox."""
        async with self._database.session() as session:
            rows = await fetch_in(session, _READ, session.server, after.number, count)
        head = rows[0]
        if head["history"] != after.history or after.number + 1 < head["oldest"] or after.number > head["head"]:
            raise HistoryLost
        lines = tuple(
            Line(row["number"], row["run"], read_change(row["kind"], row["change"]))
            for row in rows
            if row["number"] is not None
        )
        expected = range(after.number + 1, min(after.number + count, head["head"]) + 1)
        if [line.number for line in lines] != list(expected):
            raise HistoryLost  # somebody has deleted lines by hand
        return lines

    async def read_backlog(self, after: Position, count: int) -> Backlog | None:
        """Return the old purges of other runs that follow a place."""
        async with self._database.session() as session:
            return await read_backlog(session, self._joined().run, after, count)

    async def trim(self, kept_s: float) -> int:
        """Delete old lines, at most TRIMMED_AT_ONCE. While another edge does it, this one does nothing."""
        async with self._database.session() as session:
            [row] = await fetch_in(session, _TRIM, session.server, kept_s, TRIMMED_AT_ONCE)
        return int(row["count"])

    async def close(self) -> None:
        """End the connections."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        await self._listener.close()
        await self._database.close()


@dataclass(eq=False, slots=True)
class _Waiting:
    """A call of `append` that waits for its transaction."""

    changes: tuple[Change, ...]
    places: asyncio.Future[tuple[Position, ...]]

    def finish(self, places: Iterable[Position]) -> None:
        if not self.places.done():
            self.places.set_result(tuple(places))

    def fail(self, error: Exception) -> None:
        if not self.places.done():
            self.places.set_exception(error)


async def _note_loss(session: Session, seen: int) -> None:
    """Make the log a new history, unless another edge has done so, or the log has this number meanwhile."""
    if await fetch_in(session, _WENT_BACK, seen):
        log.critical("the cluster's log went back, it has lost lines: every edge asks the origin before it serves")


def _members(rows: Sequence[Any]) -> tuple[Member, ...]:
    return tuple(Member(**row) for row in rows)
