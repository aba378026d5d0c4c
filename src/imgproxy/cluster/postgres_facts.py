"""The facts that edges share, in PostgreSQL: a `SharedFacts`. The outbox is in `postgres_outbox`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from imgproxy.cache.journal import DELIVERIES_KEPT_S, RECEIPTS_KEPT_S, KeptReceipt
from imgproxy.cluster.facts import Claim, Validators
from imgproxy.cluster.postgres_append import clean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from imgproxy.cluster.postgres_database import Database

# Without validators, the next event for a picture purges it, and the next fetch notes them again.
VALIDATORS_KEPT_S: Final = 366 * 86_400
TIDIED_AT_ONCE: Final = 10_000

# A row is free if its run is this one, is known to be gone, or is no member.
_CLAIM: Final = """
WITH claimed AS (
    INSERT INTO imgproxy.delivery AS delivery (id, run) VALUES ($1, $2)
    ON CONFLICT (id) DO UPDATE SET run = excluded.run, claimed_at = excluded.claimed_at
    WHERE NOT delivery.is_handled AND (delivery.run = $2 OR delivery.run = ANY ($3::text[])
        OR NOT EXISTS (SELECT FROM imgproxy.member WHERE member.run = delivery.run))
    RETURNING 1)
SELECT EXISTS (SELECT FROM claimed) AS is_first
"""
_IS_HANDLED: Final = "SELECT is_handled FROM imgproxy.delivery WHERE id = $1"
# A delivery whose claim was lost meanwhile is handled all the same.
_FINISH: Final = """
INSERT INTO imgproxy.delivery (id, run, is_handled) VALUES ($1, $2, true)
ON CONFLICT (id) DO UPDATE SET is_handled = true, run = excluded.run, claimed_at = excluded.claimed_at
"""
_RELEASE: Final = "DELETE FROM imgproxy.delivery WHERE id = $1 AND run = $2 AND NOT is_handled"

_REMEMBER: Final = """
WITH finished AS (DELETE FROM imgproxy.pending WHERE entry = $1 AND last <= $3),
shortened AS (UPDATE imgproxy.pending SET first = $3 + 1 WHERE entry = $1 AND first <= $3 AND last > $3),
written AS (
    INSERT INTO imgproxy.entry_key (entry, key) SELECT $1, unnest($2::text[])
    ON CONFLICT (entry, key) DO UPDATE SET seen_at = excluded.seen_at RETURNING key, xmax = 0 AS is_new)
SELECT key FROM written WHERE is_new
"""
_FINISH_PENDING: Final = """
WITH shortened AS (UPDATE imgproxy.pending SET first = $2 + 1 WHERE entry = $1 AND first <= $2 AND last > $2)
DELETE FROM imgproxy.pending WHERE entry = $1 AND last <= $2
"""
_TAKE_PENDING: Final = """
WITH taken AS (
    UPDATE imgproxy.pending SET run = $1 WHERE run <> $1 AND (run = ANY ($2::text[])
        OR NOT EXISTS (SELECT FROM imgproxy.member WHERE member.run = pending.run))
    RETURNING entry, first),
mine AS (SELECT entry, first FROM imgproxy.pending WHERE run = $1 UNION SELECT entry, first FROM taken)
SELECT entry FROM mine ORDER BY first
"""
_LAST_PURGE: Final = """
SELECT greatest((SELECT max(number) FROM imgproxy.line WHERE entry = $1),
    (SELECT max(number) FROM imgproxy.receipt WHERE entry = $1), 0) AS number
"""
_ENTRIES_OF: Final = """
SELECT key, array_agg(entry ORDER BY seen_at DESC) AS entries FROM imgproxy.entry_key WHERE key = ANY ($1::text[])
GROUP BY key
"""
# The answer to a purge waits for this commit, so that every node can give the receipt from then on. The commit does not
# wait for the disk: if the database crashes in the same second, the journal of this node has the receipt.
_KEEP_RECEIPTS: Final = """
WITH quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
INSERT INTO imgproxy.receipt (number, given_at, entry, keys, receipt)
SELECT number, to_timestamp(given_at_s), entry, ARRAY(SELECT json_array_elements_text(keys)), receipt
FROM quick, unnest($1::bigint[], $2::float8[], $3::text[], $4::json[], $5::text[])
    AS given (number, given_at_s, entry, keys, receipt)
ON CONFLICT (number) DO UPDATE SET given_at = excluded.given_at, entry = excluded.entry, keys = excluded.keys,
    receipt = excluded.receipt
"""
_RECEIPTS: Final = """
SELECT receipt.number, extract(epoch FROM given_at)::float8 AS at_s, receipt, pending.entry IS NOT NULL AS is_pending
FROM imgproxy.receipt LEFT JOIN imgproxy.pending
    ON pending.entry = receipt.entry AND receipt.number BETWEEN pending.first AND pending.last
WHERE ($1::text IS NULL OR receipt.entry = $1) AND ($2::text IS NULL OR receipt.keys @> ARRAY[$2::text])
    AND ($3::bigint IS NULL OR receipt.number = $3)
ORDER BY receipt.number DESC LIMIT $4
"""
_NOTE_VALIDATORS: Final = """
INSERT INTO imgproxy.validator (key, digest, etag, last_modified)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
ON CONFLICT (key) DO UPDATE SET etag = excluded.etag, last_modified = excluded.last_modified,
    digest = CASE WHEN validator.digest = excluded.digest THEN validator.digest ELSE '' END
"""
_VALIDATORS: Final = """
SELECT key, digest, etag, last_modified, extract(epoch FROM clock_timestamp() - fetched_at)::float8 AS age_s
FROM imgproxy.validator WHERE key = ANY ($1::text[])
"""
# No other program is likely to use this pair of numbers.
_TIDY: Final = """
WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(272001, 2) AS is_mine),
old_deliveries AS (DELETE FROM imgproxy.delivery WHERE id IN (
    SELECT id FROM imgproxy.delivery, turn WHERE is_mine AND claimed_at < clock_timestamp() - make_interval(secs => $1)
    LIMIT $4)
    RETURNING 1),
old_receipts AS (DELETE FROM imgproxy.receipt WHERE number IN (
    SELECT number FROM imgproxy.receipt, turn WHERE is_mine AND given_at < clock_timestamp() - make_interval(secs => $2)
    LIMIT $4)
    RETURNING 1),
old_validators AS (DELETE FROM imgproxy.validator WHERE key IN (
    SELECT key FROM imgproxy.validator, turn
    WHERE is_mine AND fetched_at < clock_timestamp() - make_interval(secs => $3)
    LIMIT $4)
    RETURNING 1)
SELECT (SELECT count(*) FROM old_deliveries) + (SELECT count(*) FROM old_receipts)
    + (SELECT count(*) FROM old_validators) AS count
"""


class PostgresFacts:
    """The facts, as the run `run` uses them."""

    def __init__(self, database: Database, run: str) -> None:
        self._database = database
        self._run = run

    # --- webhook deliveries ------------------------------------------------------------------------------------

    async def claim_delivery(self, delivery: str, *, gone: Collection[str] = ()) -> Claim:
        """Claim a delivery for this run."""
        [row] = await self._database.fetch(_CLAIM, clean(delivery), self._run, list(gone))
        if row["is_first"]:
            return Claim.FIRST
        rows = await self._database.read(_IS_HANDLED, clean(delivery))
        # It may have been released meanwhile. Livingdocs then delivers it again.
        return Claim.HANDLED if rows and rows[0]["is_handled"] else Claim.BUSY

    async def finish_delivery(self, delivery: str) -> None:
        """Note that the delivery was handled."""
        await self._database.fetch(_FINISH, clean(delivery), self._run)

    async def release_delivery(self, delivery: str) -> None:
        """Give up the claim of this run."""
        await self._database.fetch(_RELEASE, clean(delivery), self._run)

    # --- entries and their keys --------------------------------------------------------------------------------

    async def remember_keys(
        self, entry: str, keys: Iterable[str], *, finished_seq: int | None = None
    ) -> tuple[str, ...]:
        """Remember keys of an entry. Return those that were not known before."""
        # Sorted, so that two edges that write the same keys do not wait for each other.
        seen = sorted({clean(key) for key in keys})
        rows = await self._database.fetch(_REMEMBER, clean(entry), seen, 0 if finished_seq is None else finished_seq)
        return tuple(row["key"] for row in rows)

    async def keys_of(self, entry: str) -> tuple[str, ...]:
        """Return the keys last seen for an entry."""
        rows = await self._database.read("SELECT key FROM imgproxy.entry_key WHERE entry = $1", clean(entry))
        return tuple(row["key"] for row in rows)

    async def entries_of(self, keys: Collection[str]) -> dict[str, tuple[str, ...]]:
        """Return the entries of each key, the one seen last first."""
        rows = await self._database.read(_ENTRIES_OF, [clean(key) for key in keys])
        return {row["key"]: tuple(row["entries"]) for row in rows}

    async def recent_entry_keys(self, count: int) -> dict[str, str]:
        """Return the keys seen last, each with its entry."""
        query = "SELECT key, entry FROM imgproxy.entry_key ORDER BY seen_at DESC LIMIT $1"
        return {row["key"]: row["entry"] for row in await self._database.read(query, count)}

    # --- entries that are still to be expanded -----------------------------------------------------------------

    async def last_purge_of_entry(self, entry: str) -> int:
        """Return the number of the entry's last purge."""
        [row] = await self._database.read(_LAST_PURGE, clean(entry))
        return int(row["number"])

    async def pending_entries(self) -> tuple[str, ...]:
        """Return the pending entries of all runs."""
        rows = await self._database.read("SELECT entry FROM imgproxy.pending ORDER BY first")
        return tuple(row["entry"] for row in rows)

    async def take_pending(self, *, gone: Collection[str] = ()) -> tuple[str, ...]:
        """Take the entries whose run is gone, and return all that this run has."""
        rows = await self._database.fetch(_TAKE_PENDING, self._run, list(gone))
        return tuple(row["entry"] for row in rows)

    async def finish_pending(self, entry: str, *, up_to_seq: int) -> None:
        """Note that the entry was expanded."""
        await self._database.fetch(_FINISH_PENDING, clean(entry), up_to_seq)

    # --- receipts ----------------------------------------------------------------------------------------------

    async def keep_receipts(self, receipts: Sequence[tuple[int, float, str]]) -> None:
        """Keep receipts. Of several with one number, the last one counts."""
        rows = sorted({seq: (seq, at_s, receipt) for seq, at_s, receipt in receipts}.values())
        found = [json.loads(receipt) for _, _, receipt in rows]
        entries = [None if item["entry"] is None else clean(item["entry"]) for item in found]
        await self._database.fetch(
            _KEEP_RECEIPTS,
            [seq for seq, _, _ in rows],
            [at_s for _, at_s, _ in rows],
            entries,
            [json.dumps([clean(key) for key in item["keys"]]) for item in found],
            [clean(receipt) for _, _, receipt in rows],
        )

    async def receipts(
        self, *, entry: str | None, key: str | None, seq: int | None, count: int
    ) -> tuple[KeptReceipt, ...]:
        """Return the latest receipts."""
        asked = (None if entry is None else clean(entry), None if key is None else clean(key), seq, count)
        return tuple(
            KeptReceipt(row["number"], row["at_s"], row["receipt"], row["is_pending"])
            for row in await self._database.read(_RECEIPTS, *asked)
        )

    # --- validators of originals -------------------------------------------------------------------------------

    async def note_validators(self, found: Mapping[str, Validators]) -> None:
        """Note what fetches found, in one statement. Another digest than the one that is noted makes it unknown."""
        rows = sorted((clean(key), item) for key, item in found.items()) if found else []
        await self._database.fetch(
            _NOTE_VALIDATORS,
            [key for key, _ in rows],
            [clean(item.digest or "") for _, item in rows],
            [None if item.etag is None else clean(item.etag) for _, item in rows],
            [None if item.last_modified is None else clean(item.last_modified) for _, item in rows],
        )

    async def validators(self, keys: Collection[str]) -> dict[str, Validators]:
        """Return what the latest fetch of each key found."""
        rows = await self._database.read(_VALIDATORS, [clean(key) for key in keys])
        return {
            row["key"]: Validators(row["digest"] or None, row["etag"], row["last_modified"], row["age_s"])
            for row in rows
        }

    # --- age ---------------------------------------------------------------------------------------------------

    async def tidy(self) -> int:
        """Delete what is kept long enough, at most TIDIED_AT_ONCE of each."""
        kept_s = (float(DELIVERIES_KEPT_S), float(RECEIPTS_KEPT_S), float(VALIDATORS_KEPT_S))
        [row] = await self._database.fetch(_TIDY, *kept_s, TIDIED_AT_ONCE)
        return int(row["count"])

    async def close(self) -> None:
        """End the connections."""
        await self._database.close()
