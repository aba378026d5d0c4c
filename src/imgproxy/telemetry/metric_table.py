"""
Every metric, declared once: the registration, docs/metrics.md, the dashboard and the alerts are made from these rows.

Label values are the words of the code and the logs. Every label is bounded: a stranger cannot make new values.
"""

from __future__ import annotations

from typing import Final

from imgproxy.telemetry.metric_kinds import Group, Label, Metric, Section, Unit

# --- labels ---

# By the media type of an answer. What is in no row of the table is "other".
FORMAT_OF: Final = {
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/webp": "webp",
    "image/avif": "avif",
    "image/gif": "gif",
    "image/heic": "heic",
    "image/tiff": "tiff",
    "image/bmp": "bmp",
    "image/svg+xml": "svg",
    "application/json": "json",
    "text/plain; charset=utf-8": "blurhash",
    "text/css; charset=utf-8": "css",
}
FORMAT: Final = Label("format", (*FORMAT_OF.values(), "other"))
OUTCOME: Final = Label("outcome", ("hit", "stale", "revalidated", "miss", "pass", "error"))
STATUS: Final = Label("status", bound="HTTP status codes that the service answers")
TARGET: Final = Label("target", bound="the names in `[[downstream]]`, and `shared store`")
ORIGIN: Final = Label("origin", bound="host and port of `[origin] url`")
PROBLEMS: Final = "types of problems, with underscores"

# --- buckets, in seconds ---

# A hit takes a tenth of a millisecond; a miss waits for the origin and for a render.
ANSWERS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# From another process on the same machine (a millisecond) to `origin.timeout_s`.
FETCHES_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
QUEUE_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# A thumbnail of a JPEG takes some 5 ms. `render.timeout_s` is 10 s.
RENDERS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 5, 10)
# Alone some 5 ms. In a cluster a purge may wait for a lease and `proof_s`; with caches in front, for those.
PURGES_S: Final = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
STORE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
LOOP_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)

# --- is it well? ---

_well = Section(Group.WELL)
BUILD = _well.info(
    "imgproxy_build_info",
    "versions of this service, of libvips and of Python",
    *(Label(name, bound="one value for each process") for name in ("version", "libvips", "python")),
)
NOT_READY = _well.gauge(
    "imgproxy_not_ready",
    "1 for each reason why /-/ready answers 503",
    Label(
        "reason",
        ("draining", "cache_not_writable", "disk_full", "purges_unrecorded", "render_processes_do_not_start"),
    ),
    unit=Unit.YES_NO,
)
REQUESTS = _well.counter("imgproxy_requests_total", "image requests by outcome and status", OUTCOME, STATUS)
IN_FLIGHT = _well.gauge("imgproxy_requests_in_flight", "image requests being answered")
ORIGIN_DOWN = _well.gauge(
    "imgproxy_origin_down", "1 if the origin could not be reached when it was last asked", ORIGIN, unit=Unit.YES_NO
)
ORIGIN_TOKEN_DEAD = _well.gauge(
    "imgproxy_origin_token_dead", "1 if the origin refuses our token", ORIGIN, unit=Unit.YES_NO
)
ORIGIN_ANSWERS = _well.counter(
    "imgproxy_origin_answers_total",
    "answers of the Media Library to serve-image: image, not_modified, or the problem",
    Label("answer", bound=f"`image`, `not_modified`, {PROBLEMS}"),
)
REFUSED = _well.counter(
    "imgproxy_refused_total",
    "requests refused by admission, by rule",
    Label("rule", ("overload", "burst", "full", "fetches", "left over")),
)
FAILED_AFTER_ANSWER = _well.counter(
    "imgproxy_failed_after_answer_total", "requests that failed after another request had written their answer"
)
LOG_LINES_DROPPED = _well.counter(
    "imgproxy_log_lines_dropped_total", "log lines that standard error did not take in time"
)

# --- what do readers wait for? ---

_readers = Section(Group.READERS)
REQUEST_DURATION = _readers.seconds(
    "imgproxy_request_duration_seconds",
    "image requests from first byte in to last byte handed to the kernel; hits of the fast path are not in it",
    OUTCOME,
    buckets=ANSWERS_S,
)
LOOP_DELAY = _readers.seconds(
    "imgproxy_loop_delay_seconds",
    "how much later than planned the event loop wakes up, looked at four times a second: every hit waits as long",
    buckets=LOOP_S,
)
FETCH_DURATION = _readers.seconds(
    "imgproxy_fetch_duration_seconds", "fetches and revalidations of originals", buckets=FETCHES_S
)
QUEUE_DURATION = _readers.seconds(
    "imgproxy_queue_duration_seconds", "what variants waited for a render process", buckets=QUEUE_S
)
RENDER_DURATION = _readers.seconds(
    "imgproxy_render_duration_seconds",
    "renders: decode, resize, encode; by the format that was made",
    FORMAT,
    buckets=RENDERS_S,
)
FETCHES_UNDER_WAY = _readers.gauge("imgproxy_fetches_under_way", "fetches and revalidations")
RENDERS = _readers.counter(
    "imgproxy_renders_total",
    "render jobs by lane and outcome: ok, cancelled, or the problem",
    Label("lane", ("visitor", "animation", "background")),
    Label("outcome", bound=f"`ok`, `cancelled`, {PROBLEMS}"),
)
CREDENTIALS = _readers.counter(
    "imgproxy_credentials_total",
    "Content Credentials by what was made, or why a picture went without",
    Label(
        "result",
        (
            *("embedded", "linked", "manifest", "described"),
            *("unreadable", "signature", "timeout", "crashed", "build"),
        ),
    ),
)
CREDENTIALS_DURATION = _readers.seconds(
    "imgproxy_credentials_duration_seconds",
    "what pictures waited for their Content Credentials, the wait for other pictures' included",
    buckets=QUEUE_S,
)
CREDENTIALS_EXPIRE = _well.gauge(
    "imgproxy_credentials_expire_seconds",
    "when the certificate of Content Credentials expires, Unix time; 0 without one",
    unit=Unit.SECONDS,
)
RENDER_PROCESSES = _readers.gauge("imgproxy_render_processes", "render processes kept")
RENDER_BUSY = _readers.gauge("imgproxy_render_busy", "render processes with a job")
RENDER_WAITING = _readers.gauge("imgproxy_render_waiting", "jobs waiting for a render process")

# --- is the cache good? ---

_cache = Section(Group.CACHE)
HITS = _cache.counter(
    "imgproxy_cache_hits_total",
    "answers with a body by where it was: origin means that it was made for the request",
    Label("tier", ("memory", "disk", "shared", "origin")),
)
SENT_BODIES = _cache.counter("imgproxy_sent_bodies_total", "bodies sent, by format", FORMAT)
SENT_BYTES = _cache.counter("imgproxy_sent_bytes_total", "bytes of bodies sent, by format", FORMAT, unit=Unit.BYTES)
ORIGIN_BYTES = _cache.counter("imgproxy_origin_bytes_total", "bytes of originals fetched", unit=Unit.BYTES)
DISK_BYTES = _cache.gauge("imgproxy_cache_disk_bytes", "bytes of originals and variants on disk", unit=Unit.BYTES)
DISK_MAX_BYTES = _cache.gauge("imgproxy_cache_disk_max_bytes", "`[cache] max_bytes`", unit=Unit.BYTES)
DISK_FREE_BYTES = _cache.gauge("imgproxy_cache_disk_free_bytes", "free space on the disk of the cache", unit=Unit.BYTES)
DISK_FILES = _cache.gauge("imgproxy_cache_disk_files", "originals and variants on disk")
MEMORY_BYTES = _cache.gauge("imgproxy_cache_memory_bytes", "bytes of variants in memory", unit=Unit.BYTES)
MEMORY_MAX_BYTES = _cache.gauge("imgproxy_cache_memory_max_bytes", "`[cache] hot_max_bytes`", unit=Unit.BYTES)
EVICTED_FILES = _cache.counter("imgproxy_cache_evicted_files_total", "files evicted to make room")
JOURNAL_DAMAGED = _cache.gauge(
    "imgproxy_journal_damaged", "1 if the journal was damaged when this process started", unit=Unit.YES_NO
)

# --- purges ---

_purges = Section(Group.PURGES)
_ASKED: Final = ("revoke", "invalid", "delete", "archive", "update", "active", "manual", "imgix", "all", "expanded")
# What the service has found out by itself.
_FOUND: Final = ("learnt", "changed", "not_found", "revoked", "not_an_image", "source_too_large")
PURGES = _purges.counter(
    "imgproxy_purges_total",
    "purges by what asked for them",
    Label(
        "reason",
        (
            *("revoke", "invalid", "delete", "archive", "update", "active", "manual", "imgix", "expanded", "all"),
            *_FOUND,
            "other",
        ),
    ),
)
PURGE_DURATION = _purges.seconds(
    "imgproxy_purge_duration_seconds", "purges from arrival to acknowledgement", buckets=PURGES_S
)
PURGES_PENDING = _purges.gauge("imgproxy_purges_pending", "expansions and checks still to come")
PURGES_UNRECORDED = _purges.gauge("imgproxy_purges_unrecorded", "keys closed until the disk takes their purge")
OLDEST_UNPROVED = _purges.gauge(
    "imgproxy_oldest_unproved_original_seconds",
    "since the oldest proof that an answer relied on and that could not be renewed yet; 0: none",
    unit=Unit.SECONDS,
)
PURGED_VARIANTS = _purges.counter("imgproxy_purged_variants_total", "variants purged")
PURGED_BYTES = _purges.counter("imgproxy_purged_bytes_total", "bytes purged from disk", unit=Unit.BYTES)
OVERTAKEN = _purges.counter(
    "imgproxy_overtaken_total",
    "results thrown away because a purge overtook them",
    Label("point", ("fetch", "revalidation", "commit", "response")),
)
WEBHOOKS = _purges.counter(
    "imgproxy_webhooks_total",
    "webhooks by event",
    Label("event", ("create", "update", "archive", "active", "revoke", "invalid", "delete", "other")),
)
UPDATED_KEYS = _purges.counter(
    "imgproxy_updated_keys_total",
    "keys of updated entries by result: kept, as they have the same bytes, or purged",
    Label("result", ("kept", "purged")),
)

# --- caches in front ---

_cdns = Section(Group.CDNS, needs="[[downstream]] or [shared_store]")
DOWNSTREAM_PURGES = _cdns.counter(
    "imgproxy_downstream_purges_total",
    "purge calls to caches in front by result",
    TARGET,
    Label("result", ("done", "limited", "failed", "rejected")),
)
OUTBOX_LINES = _cdns.gauge(
    "imgproxy_outbox_lines", "purges that a cache in front has still to be told, second rounds included", TARGET
)
OUTBOX_OLDEST_AGE = _cdns.gauge(
    "imgproxy_outbox_oldest_age_seconds",
    "how long the oldest purge has waited for a cache in front to confirm it",
    TARGET,
    unit=Unit.SECONDS,
)

# --- cluster ---

_cluster = Section(Group.CLUSTER, needs="[cluster]")
CLUSTER_CURRENT = _cluster.gauge(
    "imgproxy_cluster_current", "1 if this node may answer from its cache; 0: it is fenced", unit=Unit.YES_NO
)
CLUSTER_MEMBERS = _cluster.gauge("imgproxy_cluster_members", "nodes that are counted, this one included")
CLUSTER_LAG_LINES = _cluster.gauge("imgproxy_cluster_lag_lines", "lines of the log of purges still to be applied")
CLUSTER_PURGES_WAITING = _cluster.gauge(
    "imgproxy_cluster_purges_waiting", "purges of this node on their way to the others"
)
CLUSTER_RENEWALS = _cluster.counter("imgproxy_cluster_renewals_total", "renewals of the lease")
CLUSTER_FENCED = _cluster.counter(
    "imgproxy_cluster_fenced_seconds_total", "seconds for which this node was fenced", unit=Unit.SECONDS
)

_store = Section(Group.CLUSTER, needs="[shared_store]")
_KIND: Final = Label("kind", ("facts", "original", "variant"))
_OPERATION: Final = Label("operation", ("read", "write"))
STORE_READS = _store.counter(
    "imgproxy_shared_store_reads_total",
    "reads of the shared store by result: hit, miss, wrong (bytes), error, open (not tried after failures)",
    _KIND,
    Label("result", ("hit", "miss", "wrong", "error", "open")),
)
STORE_WRITES = _store.counter(
    "imgproxy_shared_store_writes_total",
    "writes to the shared store by result: done, dropped (queue full), gone (no file), purged, error, open",
    _KIND,
    Label("result", ("done", "dropped", "gone", "purged", "error", "open")),
)
STORE_DURATION = _store.seconds(
    "imgproxy_shared_store_duration_seconds", "calls of the shared store", _OPERATION, buckets=STORE_S
)
STORE_PAUSED = _store.gauge(
    "imgproxy_shared_store_paused",
    "1 while the shared store is not called, after failures",
    _OPERATION,
    unit=Unit.YES_NO,
)
STORE_QUEUE = _store.gauge("imgproxy_shared_store_queue", "objects that wait to be written, or are being written")

# --- memory, processor, connections ---

_memory = Section(Group.MEMORY)
# These are prometheus_client's, of the edge itself.
PROCESS_RESIDENT = _memory.gauge("process_resident_memory_bytes", "resident memory of the edge", unit=Unit.BYTES)
PROCESS_VIRTUAL = _memory.gauge("process_virtual_memory_bytes", "virtual memory of the edge", unit=Unit.BYTES)
PROCESS_CPU = _memory.counter("process_cpu_seconds_total", "processor time of the edge", unit=Unit.SECONDS)
PROCESS_START = _memory.gauge("process_start_time_seconds", "start of the edge, Unix time", unit=Unit.SECONDS)
PROCESS_OPEN_FDS = _memory.gauge("process_open_fds", "open file descriptors of the edge")
PROCESS_MAX_FDS = _memory.gauge("process_max_fds", "file descriptors that the edge may have")
RENDER_RESIDENT = _memory.gauge(
    "imgproxy_render_resident_bytes", "resident memory of all render processes", unit=Unit.BYTES
)
RENDER_PEAK = _memory.gauge(
    "imgproxy_render_peak_bytes", "largest resident size that a render process has had", unit=Unit.BYTES
)
RENDER_PROCESS_ENDS = _memory.counter(
    "imgproxy_render_process_ends_total",
    "render processes that ended, by reason",
    Label("reason", ("crashed", "timeout", "out_of_memory", "abandoned", "recycled", "closed")),
)
RENDER_RESTARTS = _memory.counter("imgproxy_render_restarts_total", "render processes that were replaced")
CONNECTIONS = _memory.gauge("imgproxy_connections", "open connections")
CONNECTIONS_CLOSED = _memory.counter(
    "imgproxy_connections_closed_total",
    "connections closed by a limit; room: made for a new one",
    Label("reason", ("head", "reader", "room", "full", "address")),
)
DESCRIPTORS_REFUSED = _memory.counter(
    "imgproxy_descriptors_refused_total",
    "connections and files refused because almost all descriptors were in use",
)

METRICS: Final = tuple(row for row in tuple(globals().values()) if isinstance(row, Metric))
