"""The alerts: what each asks Prometheus, and what to do when it fires. The rules and the runbooks are made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgproxy.telemetry import metric_table as table

if TYPE_CHECKING:
    from imgproxy.telemetry.metric_kinds import Metric


@dataclass(frozen=True, slots=True)
class Alert:
    """
    An alert.

    `wait` is how long `expr` must hold. `summary` is a line for the pager; `{{ $labels.… }}` in it are Prometheus'.
    `means`, `look` and `do` are the runbook. `is_urgent`: somebody has to get up.
    """

    name: str
    expr: str
    wait: str
    summary: str
    means: str
    look: str
    do: str
    is_urgent: bool = False


def _rate(metric: Metric, by: str = "instance", where: str = "", over: str = "5m") -> str:
    return f"sum by ({by}) (rate({metric.name}{where}[{over}]))"


def _grown(metric: Metric, by: str, where: str = "", over: str = "15m") -> str:
    return f"sum by ({by}) (increase({metric.name}{where}[{over}]))"


def _quantile(share: str, metric: Metric, where: str = "") -> str:
    return f"histogram_quantile({share}, sum by (instance, le) (rate({metric.name}_bucket{where}[5m])))"


# A picture that went without its Content Credentials.
_WITHOUT: Final = '{result!~"embedded|linked|manifest|described"}'
# Other programs have these metrics, too.
_JOB: Final = '{job=~".*imgproxy.*"}'
_FAILED_ANSWERS: Final = '{answer=~"origin_.*"}'
_BAD_ENDS: Final = '{reason=~"crashed|out_of_memory|timeout"}'

_WELL: Final = (
    Alert(
        "ImgproxyDown",
        f"up{_JOB} == 0",
        "2m",
        "{{ $labels.instance }} does not answer Prometheus",
        "The process does not run, hangs, or Prometheus has another admin token.",
        "`/-/health` and the service manager: is the process there? The last lines of its log. A 401 in Prometheus' list of targets is the token.",
        "Start it. If it ends again: `imgproxy check -c FILE` says why.",
        is_urgent=True,
    ),
    Alert(
        "ImgproxyNotReady",
        f'max by (instance, reason) ({table.NOT_READY.name}{{reason!="draining"}}) == 1',
        "2m",
        "{{ $labels.instance }} is not ready: {{ $labels.reason }}",
        "The balancer has taken this node away. The label says why.",
        "The table of reasons in [Operation](operation.md#ready); the disk of the cache; the log.",
        "`disk_full`, `cache_not_writable`, `purges_unrecorded`: give the disk space or its rights back. `render_processes_do_not_start`: the log has the error.",
        is_urgent=True,
    ),
    Alert(
        "ImgproxyOriginDown",
        f"max by (instance, origin) ({table.ORIGIN_DOWN.name}) == 1",
        "1m",
        "{{ $labels.instance }} cannot reach the Media Library {{ $labels.origin }}",
        "Cached pictures are served for `freshness.stale_if_error_s`. New ones get 502, and takedowns without an event are not noticed.",
        "The log says once why: refused, DNS, TLS, timeout. `/-/status` has it in `origin.cause`, and since when.",
        "Mend the Media Library or the network. `imgproxy check` tries the origin step by step. The alert ends with the next answer.",
        is_urgent=True,
    ),
    Alert(
        "ImgproxyOriginTokenDead",
        f"max by (instance, origin) ({table.ORIGIN_TOKEN_DEAD.name}) == 1",
        "1m",
        "{{ $labels.origin }} refuses the token of {{ $labels.instance }}",
        "The token has run out, was deleted, or lacks the scope `public-api:read`. Cached pictures are served; new ones get 502.",
        "`imgproxy check`.",
        "Write a new token into `[origin] token_file`. It is read again at once.",
        is_urgent=True,
    ),
    Alert(
        "ImgproxyOriginErrors",
        f"{_rate(table.ORIGIN_ANSWERS, where=_FAILED_ANSWERS)} / {_rate(table.ORIGIN_ANSWERS)} > 0.2",
        "5m",
        "a fifth of the answers of the Media Library to {{ $labels.instance }} are errors",
        "The origin is there and answers badly or slowly.",
        f"`{table.ORIGIN_ANSWERS.name}` by `answer`; `cause` in the log lines of requests with 5xx.",
        "Mend the Media Library. If it is overloaded, lower `[origin] fetches_max`.",
    ),
    Alert(
        "ImgproxyCertificateExpires",
        f"({table.CREDENTIALS_EXPIRE.name} > 0) - time() < 14 * 86400",
        "10m",
        "the certificate for Content Credentials of {{ $labels.instance }} expires within two weeks",
        "After its end, pictures are sent without Content Credentials. Nothing else happens.",
        "`imgproxy check` names the day.",
        "Get a new certificate ([Content Credentials](content-credentials.md)), and restart. Variants with credentials are made again.",
    ),
    Alert(
        "ImgproxyCredentialsMissing",
        f"{_grown(table.CREDENTIALS, by='instance, result', where=_WITHOUT)} > 5",
        "5m",
        "pictures of {{ $labels.instance }} go without Content Credentials: {{ $labels.result }}",
        "A failure costs the credentials, never the picture. Such pictures are kept for a short time only.",
        "The log names the picture and the cause.",
        "`timeout`, `signature`: the timestamp authority is slow or down. `unreadable`, `build`: the originals that the log names. `crashed`: report it with the picture.",
    ),
    Alert(
        "ImgproxyErrors",
        _rate(table.REQUESTS, where='{status=~"5.."}') + f" / {_rate(table.REQUESTS)} > 0.05",
        "5m",
        "more than 5 % of the answers of {{ $labels.instance }} are 5xx",
        "Readers see missing pictures.",
        "The log has each 5xx as a warning, with `code` and `cause`. [Problems](problems.md) explains each code.",
        "What the code says. An `internal` is a bug: report it with its traceback.",
        is_urgent=True,
    ),
    Alert(
        "ImgproxyRefusing",
        f"{_rate(table.REFUSED)} > 0.1",
        "10m",
        "{{ $labels.instance }} refuses requests: too few processors for the new pictures",
        "More new pictures are asked for than can be rendered. Hits are not concerned.",
        f"The row of renders: `{table.RENDER_WAITING.name}`, `{table.RENDER_BUSY.name}`. The access log: who asks for so many sizes?",
        "More cores or nodes. Signed URLs (`[signing]`) keep strangers from inventing sizes.",
    ),
    Alert(
        "ImgproxyLogDropped",
        f"{_grown(table.LOG_LINES_DROPPED, 'instance')} > 0",
        "0m",
        "{{ $labels.instance }} has lost lines of its log",
        "The reader of standard error is too slow or stands still. Requests are not concerned.",
        "The log driver, the collector, the disk of the logs.",
        'Mend the reader, or log less: `[log] access = "errors"`.',
    ),
)
_READERS: Final = (
    Alert(
        "ImgproxySlowMisses",
        _quantile("0.95", table.REQUEST_DURATION, '{outcome="miss"}') + " > 5",
        "10m",
        "one new picture of twenty takes {{ $labels.instance }} more than 5 s",
        "Readers wait for pictures that are not cached.",
        f"`{table.FETCH_DURATION.name}`, `{table.QUEUE_DURATION.name}`, `{table.RENDER_DURATION.name}`: which of them is long?",
        'Fetch: the origin is slow. Queue: more cores. Render: `render.avif = "upgrade"`, or smaller limits.',
    ),
    Alert(
        "ImgproxyLoopBusy",
        _quantile("0.99", table.LOOP_DELAY) + " > 0.25",
        "5m",
        "the event loop of {{ $labels.instance }} is late: hits wait, too",
        "The edge's own process has too little processor time, or waits for a slow disk.",
        f"`{table.PROCESS_CPU.name}`; other processes of the machine; the throttling of the container.",
        "Give the container a whole core more than it has render processes, or take load away.",
    ),
    Alert(
        "ImgproxyRenderCrashes",
        f"{_grown(table.RENDER_PROCESS_ENDS, 'instance, reason', _BAD_ENDS)} > 10",
        "0m",
        "render processes of {{ $labels.instance }} end: {{ $labels.reason }}",
        "Pictures cannot be rendered within the limits, or somebody tries hostile ones. The service goes on with new processes.",
        "The log has a line for each end. The lines of requests with 422 name the keys.",
        "`out_of_memory`, `timeout`: see [Memory and time of a render](capacity.md#memory-and-time-of-a-render). `crashed`: report the picture.",
    ),
)
_CACHE: Final = (
    Alert(
        "ImgproxyDiskLow",
        f"{table.DISK_FREE_BYTES.name} / ({table.DISK_FREE_BYTES.name} + {table.DISK_BYTES.name}) < 0.05",
        "10m",
        "the disk of the cache of {{ $labels.instance }} is almost full",
        "Less than a twentieth of what cache and free space have together is free. Soon new pictures are not kept.",
        "What else is on this disk? `[cache] max_bytes` and `min_free_bytes`.",
        "Lower `[cache] max_bytes`, or give the cache a disk of its own.",
    ),
    Alert(
        "ImgproxyCacheTooSmall",
        f"{_grown(table.EVICTED_FILES, 'instance', over='1h')} > 0.5 * sum by (instance) ({table.DISK_FILES.name})",
        "30m",
        "{{ $labels.instance }} evicts half of its cache within an hour",
        "Pictures are rendered, thrown away, and rendered again.",
        f"`{table.DISK_BYTES.name}` and its maximum; the share of hits.",
        "A larger disk and `[cache] max_bytes`. With many nodes: does the balancer hash by path?",
    ),
    Alert(
        "ImgproxyJournalDamaged",
        f"{table.JOURNAL_DAMAGED.name} == 1",
        "0m",
        "the journal of {{ $labels.instance }} was damaged when it started",
        "A disk or a power failure. Everything cached counts as unproved and is asked for again; receipts may be lost.",
        "The log of the start; the state of the disk.",
        "Check the disk. Purge the caches in front of what was taken down in the last hours. The alert ends with the next start.",
        is_urgent=True,
    ),
)
_PURGES: Final = (
    Alert(
        "ImgproxyPurgesUnrecorded",
        f"{table.PURGES_UNRECORDED.name} > 0",
        "1m",
        "the disk of {{ $labels.instance }} does not take purges",
        "The keys of these purges answer 503 here until the journal has them. Nothing taken down is shown.",
        "Space, rights and errors of the disk of the cache.",
        "Mend the disk. The purge is tried again by itself.",
        is_urgent=True,
    ),
    Alert(
        "ImgproxyPurgesPending",
        f"{table.PURGES_PENDING.name} > 0",
        "15m",
        "purges of {{ $labels.instance }} have been unfinished for a quarter of an hour",
        "The keys of an entry could not be listed, or an updated picture not be asked for. What is known is purged.",
        '`GET /-/purges`: receipts with `"pending": true`. Is the origin down?',
        "Mend the origin. If a takedown is urgent, purge its keys: `imgproxy purge --keys KEY…`.",
    ),
    Alert(
        "ImgproxyTakedownUnproved",
        f"{table.OLDEST_UNPROVED.name} > 600",
        "5m",
        "{{ $labels.instance }} shows pictures whose right to be shown was last proved over 10 minutes ago",
        "The origin does not confirm them, so a takedown whose event got lost is not noticed. Takedowns by event work.",
        f"`{table.ORIGIN_DOWN.name}`, `{table.ORIGIN_ANSWERS.name}`.",
        "Mend the origin. If no old picture may be shown at all, lower `freshness.stale_if_error_s`.",
    ),
)
_CDNS: Final = (
    Alert(
        "ImgproxyCdnBehind",
        f"max by (instance, target) ({table.OUTBOX_OLDEST_AGE.name}) > 300",
        "1m",
        "{{ $labels.target }} has not confirmed a purge for 5 minutes",
        "A picture that was taken down may still be in this cache.",
        "`/-/status`, `downstream`: the last error. The state page of the CDN.",
        "Mend its token or address. If it is urgent, purge by hand at the CDN; the outbox goes on by itself.",
        is_urgent=True,
    ),
    Alert(
        "ImgproxyCdnRejects",
        _grown(table.DOWNSTREAM_PURGES, "instance, target", '{result="rejected"}') + " > 0",
        "0m",
        "{{ $labels.target }} rejects purges as invalid",
        "The request is not what it expects (400, 413, 422). It is sent again in smaller parts.",
        "The log has the status. Is the zone, the service id, the URL right?",
        "Correct `[[downstream]]`, then `imgproxy check`.",
    ),
)
_CLUSTER: Final = (
    Alert(
        "ImgproxyFenced",
        f"{table.CLUSTER_CURRENT.name} == 0",
        "1m",
        "{{ $labels.instance }} is fenced",
        "It cannot tell whether it has all purges, so it asks the origin about each picture before it serves it.",
        "`/-/ready` says why. All nodes at once: the database. One: its network or disk.",
        "[What each failure looks like](cluster.md#what-each-failure-looks-like). It heals by itself.",
        is_urgent=True,
    ),
    Alert(
        "ImgproxyClusterPurgesWaiting",
        f"{table.CLUSTER_PURGES_WAITING.name} > 0",
        "5m",
        "purges of {{ $labels.instance }} have not reached all nodes for 5 minutes",
        "Purges are answered with 202. A node is away and not yet forgotten, or the database is down.",
        "`imgproxy cluster status`: which node is silent or behind?",
        "Start that node, or stop it properly. After `forget_s` it is forgotten.",
    ),
    Alert(
        "ImgproxySharedStorePaused",
        f"max by (instance, operation) ({table.STORE_PAUSED.name}) == 1",
        "10m",
        "{{ $labels.instance }} does not call the shared store: {{ $labels.operation }} fails",
        "Misses are rendered, as without a store. Deletions of purged objects wait in the outbox.",
        "The log: `the shared store fails: …`. [What to watch](shared-store.md#what-to-watch).",
        "`imgproxy check` tries its rights.",
    ),
)
_MEMORY: Final = (
    Alert(
        "ImgproxyDescriptorsLow",
        f'{table.PROCESS_OPEN_FDS.name}{{job=~".*imgproxy.*"}} / {table.PROCESS_MAX_FDS.name} > 0.8',
        "5m",
        "{{ $labels.instance }} has used 80 % of its file descriptors",
        "Near the limit new connections are closed.",
        f"`{table.CONNECTIONS.name}`. [File descriptors](capacity.md#file-descriptors).",
        "Raise the limit (`LimitNOFILE=`, `--ulimit nofile`), or lower `[server] connections_max`.",
    ),
    Alert(
        "ImgproxyConnectionsFull",
        _grown(table.CONNECTIONS_CLOSED, "instance", '{reason=~"full|room"}', "5m") + " > 100",
        "0m",
        "{{ $labels.instance }} closes connections: `connections_max` is reached",
        "More clients than expected, or a balancer that keeps too many connections open.",
        f"`{table.CONNECTIONS.name}`, and `{table.CONNECTIONS_CLOSED.name}` by reason.",
        "Raise `[server] connections_max`; let the balancer keep fewer idle connections.",
    ),
)
ALERTS: Final = {
    "is it well": _WELL,
    "readers": _READERS,
    "cache": _CACHE,
    "purges": _PURGES,
    "caches in front": _CDNS,
    "cluster": _CLUSTER,
    "memory and connections": _MEMORY,
}
