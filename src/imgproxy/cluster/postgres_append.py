"""
What one append writes: the lines, and the shared facts that belong to them. Pure: from changes to values.

The statement is one transaction, so the row of `head` is locked only while the server works on it. Several changes may
name the same call, key or entry. A statement may write each row only once, so here the last one wins.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from imgproxy.cluster.log import Change, Kind
from imgproxy.cluster.postgres_schema import with_history

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# An index of PostgreSQL takes 2,700 bytes a row. A key has at most 2,048, and no entry of a Media Library has so many.
ENTRY_BYTES_MAX: Final = 500

APPEND: Final = with_history(
    """
WITH head AS (
    UPDATE imgproxy.head SET number = number + $1 WHERE number >= $2 RETURNING number - $1 AS before),
written AS (
    INSERT INTO imgproxy.line (number, run, kind, entry, change)
    SELECT head.before + given.place, $3, given.kind, given.entry, given.change
    FROM head, unnest($4::text[], $18::text[], $5::jsonb[]) WITH ORDINALITY AS given (kind, entry, change, place)),
calls AS (
    INSERT INTO imgproxy.outbox (target, is_entry, name, round, number, due_at)
    SELECT call.target, call.is_entry, call.name, call.round, head.before + call.place,
        clock_timestamp() + make_interval(secs => call.due_in_s)
    FROM head, unnest($6::text[], $7::bool[], $8::text[], $9::int[], $10::bigint[], $11::float8[])
        AS call (target, is_entry, name, round, place, due_in_s)
    ON CONFLICT (target, is_entry, name, round) DO UPDATE SET number = excluded.number, due_at = excluded.due_at),
keys AS (
    INSERT INTO imgproxy.entry_key (entry, key)
    SELECT seen.entry, seen.key FROM head, unnest($12::text[], $13::text[]) AS seen (entry, key)
    ON CONFLICT (entry, key) DO UPDATE SET seen_at = excluded.seen_at),
opened AS (
    INSERT INTO imgproxy.pending (entry, first, last, run)
    SELECT given.entry, head.before + given.place, head.before + given.place, $3
    FROM head, unnest($14::text[], $15::bigint[]) AS given (entry, place)
    ON CONFLICT (entry) DO UPDATE SET last = excluded.last, run = excluded.run),
fetched AS (
    DELETE FROM imgproxy.validator USING head WHERE validator.key = ANY ($19::text[])),
closed AS (
    DELETE FROM imgproxy.pending USING head WHERE pending.entry = ANY ($16::text[]))
SELECT head.before, HISTORY AS history, pg_notify('imgproxy_lines', '') FROM head
""",
    server="$17",
)


def append_values(server: str, run: str, changes: Sequence[Change], *, now_s: float, seen: int) -> tuple[object, ...]:
    """Return the values of APPEND. `now_s` is Unix time, `seen` a number that the log has reached for certain."""
    calls: dict[tuple[str, bool, str, int], tuple[int, float]] = {}
    keys: set[tuple[str, str]] = set()
    pending: dict[str, int | None] = {}  # the place of the change that waits, or None: the entry's keys are known
    for place, change in enumerate(changes, start=1):
        for line in change.outbox:
            row = (line.target, line.subject.is_entry, clean(line.subject.name), line.round)
            calls[row] = (place, line.due_at_s - now_s)
        entry = _short_entry(change.entry)
        if entry is None:
            continue
        if change.is_pending:
            pending[entry] = place
        if change.expanded:
            keys |= {(entry, clean(key)) for key in change.expanded}
            pending[entry] = None
    # In the same order everywhere, so that two edges that write the same rows do not wait for each other.
    ordered_calls, ordered_keys = sorted(calls.items()), sorted(keys)
    opened = sorted((entry, place) for entry, place in pending.items() if place is not None)
    return (
        len(changes),
        seen,
        run,
        [change.kind.value for change in changes],
        [change_json(change) for change in changes],
        *(_column(ordered_calls, lambda item, at=at: item[0][at]) for at in range(4)),
        *(_column(ordered_calls, lambda item, at=at: item[1][at]) for at in range(2)),
        *(_column(ordered_keys, lambda item, at=at: item[at]) for at in range(2)),
        *(_column(opened, lambda item, at=at: item[at]) for at in range(2)),
        sorted(entry for entry, place in pending.items() if place is None),
        server,
        [_short_entry(change.entry) for change in changes],
        sorted({clean(key) for change in changes if change.kind is Kind.PURGE for key in change.keys}),
    )


def _column(rows: Iterable[Any], take: Any) -> list[Any]:
    return [take(row) for row in rows]


def change_json(change: Change) -> str:
    """Return a change as the log keeps it. Its calls are not part of it: they are in the outbox."""
    return json.dumps(
        {
            "keys": [clean(key) for key in change.keys],
            "reason": clean(change.reason),
            "entry": None if change.entry is None else clean(change.entry),
            "is_pending": change.is_pending,
            "settle_s": change.settle_s,
            "expanded": [clean(key) for key in change.expanded],
        }
    )


def read_change(kind: str, text: str) -> Change:
    """
    Read a change as `change_json` wrote it, or a later version of it. Fields that are not known are left out.

    A kind that is not known is read as "forget everything", which is always safe.
    """
    found = json.loads(text)
    try:
        known = Kind(kind)
    except ValueError:
        known = Kind.PURGE_ALL
    return Change(
        known,
        tuple(found["keys"]),
        found["reason"],
        entry=found.get("entry"),
        is_pending=bool(found.get("is_pending")),
        settle_s=found.get("settle_s"),
        expanded=tuple(found.get("expanded", ())),
    )


def clean(text: str) -> str:
    """
    Replace what PostgreSQL cannot keep: NUL, and halves of surrogate pairs.

    No request can name such a key, so nothing of it is cached. An entry's id or a reason only loses its odd character.
    """
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _short_entry(entry: str | None) -> str | None:
    """Return an entry's id, or None if it is too long to be kept as a shared fact. No Media Library has such ids."""
    short = None if entry is None else clean(entry)
    return short if short is not None and len(short.encode()) <= ENTRY_BYTES_MAX else None
