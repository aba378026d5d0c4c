"""The purges of a node that was away, in a few statements: one row for many lines of the log."""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, Final

from imgproxy.cluster.log import Backlog, HistoryLost, Position
from imgproxy.cluster.postgres_database import fetch_in
from imgproxy.cluster.postgres_schema import with_history

if TYPE_CHECKING:
    from imgproxy.cluster.postgres_database import Session

# The time of a line and the time of now are of the same clock, that of the server.
_READ_BACKLOG: Final = with_history("""
WITH page AS MATERIALIZED (
    SELECT number, run, kind, written_at, change FROM imgproxy.line WHERE number > $2::bigint ORDER BY number LIMIT $3),
stop AS MATERIALIZED (
    SELECT min(number) AS number FROM page WHERE kind <> 'purge' OR run = $4
        OR written_at + make_interval(secs => coalesce((change ->> 'settle_s')::float8, 0)) > clock_timestamp()),
old AS MATERIALIZED (SELECT page.number, change FROM page, stop WHERE stop.number IS NULL OR page.number < stop.number)
SELECT HISTORY AS history, head.number AS head, head.oldest, count(old.number) AS count, max(old.number) AS last,
    json_agg(old.change -> 'keys')::text AS keys, array_agg(DISTINCT old.change ->> 'entry') AS entries
FROM imgproxy.head LEFT JOIN old ON true GROUP BY head.number, head.oldest
""")


async def read_backlog(session: Session, run: str, after: Position, count: int) -> Backlog | None:
    """As `PurgeLog.read_backlog`, for this run. Raises HistoryLost, and the driver's errors."""
    [row] = await fetch_in(session, _READ_BACKLOG, session.server, after.number, count, run)
    if row["history"] != after.history or after.number + 1 < row["oldest"] or after.number > row["head"]:
        raise HistoryLost
    if not row["count"]:
        return None
    if row["last"] != after.number + row["count"]:
        raise HistoryLost  # somebody has deleted lines by hand
    keys = dict.fromkeys(chain.from_iterable(json.loads(row["keys"])))
    return Backlog(row["last"], tuple(keys), tuple(entry for entry in row["entries"] if entry is not None))
