"""The panels of the dashboard: a row for each question of an operator, in the order in which they are asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgproxy.telemetry import metric_table as table
from imgproxy.telemetry.metric_kinds import Group
from tools.promql import Query, chosen, largest, observed, quantile, rate, ratio, smallest, total

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over time, or with `is_number` the value of this moment. `good`: what a number should be at most."""

    title: str
    about: str
    queries: tuple[Query, ...]
    is_number: bool = False
    good: float | None = None


_requests: Final = rate(table.REQUESTS)
_errors: Final = rate(table.REQUESTS, where='status=~"5.."')
_EVERY_BODY: Final = rate(table.HITS)
_cached: Final = rate(table.HITS, where='tier!="origin"')

_WELL: Final = (
    Panel("Requests", table.REQUESTS.help, (rate(table.REQUESTS, legend="requests"),), is_number=True),
    Panel("Errors", "share of 5xx", (ratio(_errors, _requests, "5xx"),), is_number=True, good=0.01),
    Panel("Origin down", table.ORIGIN_DOWN.help, (largest(table.ORIGIN_DOWN, "origin"),), is_number=True, good=0),
    Panel("Token refused", table.ORIGIN_TOKEN_DEAD.help, (largest(table.ORIGIN_TOKEN_DEAD),), is_number=True, good=0),
    Panel("Not ready", table.NOT_READY.help, (total(table.NOT_READY, legend="reasons"),), is_number=True, good=0),
    Panel("Nodes by version", table.BUILD.help, (total(table.BUILD, "version", "libvips", "python"),), is_number=True),
    Panel("Answers", table.REQUESTS.help, (rate(table.REQUESTS, "outcome", "status"),)),
    Panel("Why not ready", table.NOT_READY.help, (largest(table.NOT_READY, "instance", "reason"),)),
    Panel("Answers of the origin", table.ORIGIN_ANSWERS.help, (rate(table.ORIGIN_ANSWERS, "answer"),)),
    Panel(
        "Refused, failed, lost",
        "requests refused by admission; requests that failed late; lines of the log that were dropped",
        (rate(table.REFUSED, "rule"), rate(table.FAILED_AFTER_ANSWER), rate(table.LOG_LINES_DROPPED)),
    ),
)
_READERS: Final = (
    Panel(
        "Requests by outcome, 95 of 100",
        table.REQUEST_DURATION.help,
        (quantile(0.95, table.REQUEST_DURATION, "outcome"),),
    ),
    Panel(
        "Delay of the event loop",
        table.LOOP_DELAY.help,
        (quantile(0.5, table.LOOP_DELAY), quantile(0.99, table.LOOP_DELAY)),
    ),
    Panel(
        "Stages of a miss, half and 95 of 100",
        "a miss is fetched, waits for a render process, and is rendered",
        tuple(
            quantile(share, metric, legend=f"p{share * 100:g} {name}")
            for name, metric in (
                ("fetch", table.FETCH_DURATION),
                ("queue", table.QUEUE_DURATION),
                ("render", table.RENDER_DURATION),
            )
            for share in (0.5, 0.95)
        ),
    ),
    Panel(
        "Renders by format, 95 of 100", table.RENDER_DURATION.help, (quantile(0.95, table.RENDER_DURATION, "format"),)
    ),
    Panel(
        "Render processes",
        "busy and kept processes; jobs that wait; fetches and requests under way",
        (
            total(table.RENDER_BUSY),
            total(table.RENDER_PROCESSES),
            total(table.RENDER_WAITING),
            total(table.FETCHES_UNDER_WAY),
            total(table.IN_FLIGHT),
        ),
    ),
    Panel("Render jobs", table.RENDERS.help, (rate(table.RENDERS, "lane", "outcome"),)),
    Panel("Content Credentials", table.CREDENTIALS.help, (rate(table.CREDENTIALS, "result"),)),
    Panel(
        "Wait for Content Credentials",
        table.CREDENTIALS_DURATION.help,
        (quantile(0.5, table.CREDENTIALS_DURATION), quantile(0.95, table.CREDENTIALS_DURATION)),
    ),
    Panel("Certificate expires", table.CREDENTIALS_EXPIRE.help, (largest(table.CREDENTIALS_EXPIRE, "instance"),)),
)
_CACHE: Final = (
    Panel(
        "Hits",
        "share of bodies that were not made for their request",
        (ratio(_cached, _EVERY_BODY, "hits"),),
        is_number=True,
    ),
    Panel(
        "Bytes saved from the origin",
        "share of the bytes sent that were not fetched",
        (
            Query(
                f"1 - ({rate(table.ORIGIN_BYTES).expr}) / ({rate(table.SENT_BYTES).expr} > 0)", "saved", "percentunit"
            ),
        ),
        is_number=True,
    ),
    Panel("Where bodies were", table.HITS.help, (rate(table.HITS, "tier"),)),
    Panel("Bodies by format", table.SENT_BODIES.help, (rate(table.SENT_BODIES, "format"),)),
    Panel(
        "Bytes sent and fetched",
        "by format, and what the origin sent",
        (rate(table.SENT_BYTES, "format"), rate(table.ORIGIN_BYTES, legend="from the origin")),
    ),
    Panel(
        "Disk of the cache",
        "used, the most that may be used, and what the disk has left",
        (
            total(table.DISK_BYTES, "instance", legend="{{instance}} used"),
            total(table.DISK_MAX_BYTES, "instance", legend="{{instance}} most"),
            total(table.DISK_FREE_BYTES, "instance", legend="{{instance}} free"),
        ),
    ),
    Panel(
        "Memory of the cache",
        table.MEMORY_BYTES.help,
        (
            total(table.MEMORY_BYTES, "instance", legend="{{instance}} used"),
            total(table.MEMORY_MAX_BYTES, "instance", legend="{{instance}} most"),
        ),
    ),
    Panel("Evicted files", table.EVICTED_FILES.help, (rate(table.EVICTED_FILES, "instance"),)),
    Panel("Files", table.DISK_FILES.help, (total(table.DISK_FILES, "instance"),)),
    Panel("Journal damaged", table.JOURNAL_DAMAGED.help, (largest(table.JOURNAL_DAMAGED, "instance"),)),
)
_PURGES: Final = (
    Panel(
        "A takedown is done after",
        "the slowest of a hundred purges, from arrival to acknowledgement; the oldest purge that a CDN has not confirmed",
        (
            quantile(0.99, table.PURGE_DURATION, legend="p99 of purges"),
            largest(table.OUTBOX_OLDEST_AGE, legend="oldest in an outbox"),
        ),
    ),
    Panel(
        "A takedown without an event is noticed after",
        table.OLDEST_UNPROVED.help,
        (largest(table.OLDEST_UNPROVED, "instance"),),
    ),
    Panel(
        "Unfinished purges",
        "expansions and checks to come; keys that are closed until the disk takes their purge; purges other nodes have to apply",
        (
            total(table.PURGES_PENDING),
            total(table.PURGES_UNRECORDED),
            total(table.CLUSTER_PURGES_WAITING),
        ),
    ),
    Panel("Purges", table.PURGES.help, (rate(table.PURGES, "reason"),)),
    Panel("Webhooks", table.WEBHOOKS.help, (rate(table.WEBHOOKS, "event"),)),
    Panel(
        "What purges took",
        "variants purged; results that a purge overtook; keys of updated entries",
        (
            rate(table.PURGED_VARIANTS),
            rate(table.OVERTAKEN, "point", legend="overtaken at {{point}}"),
            rate(table.UPDATED_KEYS, "result", legend="updated: {{result}}"),
        ),
    ),
    Panel("Bytes purged", table.PURGED_BYTES.help, (rate(table.PURGED_BYTES),)),
)
_CDNS: Final = (
    Panel("Oldest purge not confirmed", table.OUTBOX_OLDEST_AGE.help, (largest(table.OUTBOX_OLDEST_AGE, "target"),)),
    Panel("Purges to be told", table.OUTBOX_LINES.help, (largest(table.OUTBOX_LINES, "target"),)),
    Panel("Calls", table.DOWNSTREAM_PURGES.help, (rate(table.DOWNSTREAM_PURGES, "target", "result"),)),
)
_CLUSTER: Final = (
    Panel(
        "Current nodes",
        "nodes that answer from their cache, and nodes that are counted",
        (
            total(table.CLUSTER_CURRENT, legend="current"),
            largest(table.CLUSTER_MEMBERS, legend="most members that a node sees"),
            smallest(table.CLUSTER_MEMBERS, legend="fewest members that a node sees"),
        ),
    ),
    Panel("Behind the log", table.CLUSTER_LAG_LINES.help, (largest(table.CLUSTER_LAG_LINES, "instance"),)),
    Panel(
        "Fenced, and renewals",
        "share of the time for which a node was fenced; renewals of its lease",
        (
            rate(table.CLUSTER_FENCED, "instance", legend="{{instance}} fenced"),
            rate(table.CLUSTER_RENEWALS, "instance", legend="{{instance}} renewals"),
        ),
    ),
    Panel("Shared store: reads", table.STORE_READS.help, (rate(table.STORE_READS, "kind", "result"),)),
    Panel("Shared store: writes", table.STORE_WRITES.help, (rate(table.STORE_WRITES, "kind", "result"),)),
    Panel(
        "Shared store: 95 of 100 calls",
        table.STORE_DURATION.help,
        (quantile(0.95, table.STORE_DURATION, "operation"),),
    ),
    Panel(
        "Shared store: queue and pauses",
        "objects that wait to be written; 1 while it is not called",
        (total(table.STORE_QUEUE), largest(table.STORE_PAUSED, "operation", legend="{{operation}} paused")),
    ),
)
_MEMORY: Final = (
    Panel(
        "Memory",
        "of the edge, of all its render processes, and the most that one of these has had",
        (
            total(table.PROCESS_RESIDENT, "instance", legend="{{instance}} edge"),
            total(table.RENDER_RESIDENT, "instance", legend="{{instance}} render processes"),
            largest(table.RENDER_PEAK, "instance", legend="{{instance}} largest render process"),
        ),
    ),
    Panel("Virtual memory", table.PROCESS_VIRTUAL.help, (total(table.PROCESS_VIRTUAL, "instance"),)),
    Panel("Processor of the edge", "1: a whole core", (rate(table.PROCESS_CPU, "instance"),)),
    Panel("Ends of render processes", table.RENDER_PROCESS_ENDS.help, (rate(table.RENDER_PROCESS_ENDS, "reason"),)),
    Panel("Replaced render processes", table.RENDER_RESTARTS.help, (rate(table.RENDER_RESTARTS, "instance"),)),
    Panel("Connections", table.CONNECTIONS.help, (total(table.CONNECTIONS, "instance"),)),
    Panel(
        "Connections closed or refused",
        table.CONNECTIONS_CLOSED.help,
        (rate(table.CONNECTIONS_CLOSED, "reason"), rate(table.DESCRIPTORS_REFUSED, legend="no descriptor")),
    ),
    Panel(
        "File descriptors",
        "share of those that the edge may have",
        (Query(f"{chosen(table.PROCESS_OPEN_FDS)} / {chosen(table.PROCESS_MAX_FDS)}", "{{instance}}", "percentunit"),),
    ),
    Panel(
        "Up for",
        table.PROCESS_START.help,
        (Query(f"time() - {chosen(table.PROCESS_START)}", "{{instance}}", "s"),),
    ),
    Panel(
        "Renders and purges, a second",
        "how often each was measured",
        (observed(table.RENDER_DURATION, "format"), observed(table.PURGE_DURATION, legend="purges")),
    ),
)
ROWS: Final[Mapping[Group, tuple[Panel, ...]]] = {
    Group.WELL: _WELL,
    Group.READERS: _READERS,
    Group.CACHE: _CACHE,
    Group.PURGES: _PURGES,
    Group.CDNS: _CDNS,
    Group.CLUSTER: _CLUSTER,
    Group.MEMORY: _MEMORY,
}
