"""For each alert: series with which it fires, and series with which it is silent, a sample a minute."""

from __future__ import annotations

from dataclasses import dataclass, field

EDGE = 'instance="edge-1:8080"'
# A minute more than the evaluation, which is at the end of the second hour.
SAMPLES = 121


@dataclass(frozen=True, slots=True)
class Case:
    """`fires` and `silent`: values in promtool's notation by series. `labels`: those of the alert besides instance and severity."""

    fires: dict[str, str]
    silent: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)


def constant(value: float) -> str:
    return f"{value:g}x{SAMPLES}"


def growing(by: float) -> str:
    """A counter that grows by so many a minute."""
    return f"0+{by:g}x{SAMPLES}"


def late(value: float) -> str:
    """0 for most of the time, and a value only in the last half minute."""
    return f"0x{SAMPLES - 2} {value:g}"


def gauge(name: str, bad: float, good: float, *, labels: dict[str, str] | None = None) -> Case:
    """A gauge without labels that make a difference."""
    inner = ",".join((EDGE, *(f'{key}="{value}"' for key, value in (labels or {}).items())))
    return Case({f"{name}{{{inner}}}": constant(bad)}, {f"{name}{{{inner}}}": constant(good)}, labels or {})


def share(bad: str, good: str, of_bad: tuple[float, float], of_good: tuple[float, float]) -> Case:
    """Two counters: how much the bad and the good one grow a minute, when it fires and when it is silent."""
    return Case(
        {bad: growing(of_bad[0]), good: growing(of_bad[1])}, {bad: growing(of_good[0]), good: growing(of_good[1])}
    )


def quantile(name: str, fast_le: str, slow_le: str, *, labels: str = "") -> Case:
    """A histogram whose values are all in the slow bucket, or all in the fast one."""
    fast, slow, every = (f'{name}_bucket{{{EDGE}{labels},le="{le}"}}' for le in (fast_le, slow_le, "+Inf"))
    return Case(
        {fast: constant(0), slow: growing(60), every: growing(60)},
        {fast: growing(60), slow: growing(60), every: growing(60)},
    )


def grown(series: str, bad: float, good: float = 0, labels: dict[str, str] | None = None) -> Case:
    """A counter that grows by so many a minute."""
    return Case({series: growing(bad)}, {series: growing(good)}, labels or {})


CASES = {
    "ImgproxyDown": gauge("up", 0, 1, labels={"job": "imgproxy"}),
    "ImgproxyNotReady": Case(
        {f'imgproxy_not_ready{{{EDGE},reason="disk_full"}}': constant(1)},
        {
            f'imgproxy_not_ready{{{EDGE},reason="disk_full"}}': constant(0),
            f'imgproxy_not_ready{{{EDGE},reason="draining"}}': constant(1),
        },
        {"reason": "disk_full"},
    ),
    "ImgproxyOriginDown": gauge("imgproxy_origin_down", 1, 0, labels={"origin": "library.example:443"}),
    "ImgproxyOriginTokenDead": gauge("imgproxy_origin_token_dead", 1, 0, labels={"origin": "library.example:443"}),
    "ImgproxyOriginErrors": share(
        f'imgproxy_origin_answers_total{{{EDGE},answer="origin_timeout"}}',
        f'imgproxy_origin_answers_total{{{EDGE},answer="image"}}',
        (30, 60),
        (10, 60),
    ),
    "ImgproxyCertificateExpires": gauge(
        "imgproxy_credentials_expire_seconds", 7_200 + 13 * 86_400, 7_200 + 15 * 86_400
    ),
    "ImgproxyCredentialsMissing": grown(
        f'imgproxy_credentials_total{{{EDGE},result="timeout"}}', 1, 0.2, {"result": "timeout"}
    ),
    "ImgproxyErrors": share(
        f'imgproxy_requests_total{{{EDGE},outcome="error",status="502"}}',
        f'imgproxy_requests_total{{{EDGE},outcome="hit",status="200"}}',
        (10, 90),
        (4, 96),
    ),
    "ImgproxyRefusing": grown(f'imgproxy_refused_total{{{EDGE},rule="overload"}}', 60, 5),
    "ImgproxyLogDropped": grown(f"imgproxy_log_lines_dropped_total{{{EDGE}}}", 1),
    "ImgproxySlowMisses": quantile("imgproxy_request_duration_seconds", "5", "10", labels=',outcome="miss"'),
    "ImgproxyLoopBusy": quantile("imgproxy_loop_delay_seconds", "0.25", "0.5"),
    "ImgproxyRenderCrashes": grown(
        f'imgproxy_render_process_ends_total{{{EDGE},reason="timeout"}}', 1, 0.5, {"reason": "timeout"}
    ),
    "ImgproxyDiskLow": Case(
        {
            f"imgproxy_cache_disk_free_bytes{{{EDGE}}}": constant(4e9),
            f"imgproxy_cache_disk_bytes{{{EDGE}}}": constant(96e9),
        },
        {
            f"imgproxy_cache_disk_free_bytes{{{EDGE}}}": constant(6e9),
            f"imgproxy_cache_disk_bytes{{{EDGE}}}": constant(94e9),
        },
    ),
    "ImgproxyCacheTooSmall": Case(
        {
            f"imgproxy_cache_evicted_files_total{{{EDGE}}}": growing(10),
            f"imgproxy_cache_disk_files{{{EDGE}}}": constant(1000),
        },
        {
            f"imgproxy_cache_evicted_files_total{{{EDGE}}}": growing(8),
            f"imgproxy_cache_disk_files{{{EDGE}}}": constant(1000),
        },
    ),
    "ImgproxyJournalDamaged": gauge("imgproxy_journal_damaged", 1, 0),
    "ImgproxyPurgesUnrecorded": gauge("imgproxy_purges_unrecorded", 3, 0),
    "ImgproxyPurgesPending": gauge("imgproxy_purges_pending", 1, 0),
    "ImgproxyTakedownUnproved": gauge("imgproxy_oldest_unproved_original_seconds", 601, 599),
    "ImgproxyCdnBehind": gauge("imgproxy_outbox_oldest_age_seconds", 301, 299, labels={"target": "fastly"}),
    "ImgproxyCdnRejects": Case(
        {f'imgproxy_downstream_purges_total{{{EDGE},target="fastly",result="rejected"}}': growing(1)},
        {
            f'imgproxy_downstream_purges_total{{{EDGE},target="fastly",result="rejected"}}': constant(7),
            f'imgproxy_downstream_purges_total{{{EDGE},target="fastly",result="done"}}': growing(1),
        },
        {"target": "fastly"},
    ),
    "ImgproxyFenced": gauge("imgproxy_cluster_current", 0, 1),
    "ImgproxyClusterPurgesWaiting": Case(
        {f"imgproxy_cluster_purges_waiting{{{EDGE}}}": constant(1)},
        {f"imgproxy_cluster_purges_waiting{{{EDGE}}}": late(1)},
    ),
    "ImgproxySharedStorePaused": gauge("imgproxy_shared_store_paused", 1, 0, labels={"operation": "read"}),
    "ImgproxyDescriptorsLow": Case(
        {
            f'process_open_fds{{{EDGE},job="imgproxy"}}': constant(90),
            f'process_max_fds{{{EDGE},job="imgproxy"}}': constant(100),
        },
        {
            f'process_open_fds{{{EDGE},job="imgproxy"}}': constant(70),
            f'process_max_fds{{{EDGE},job="imgproxy"}}': constant(100),
            f'process_open_fds{{{EDGE},job="other"}}': constant(90),
            f'process_max_fds{{{EDGE},job="other"}}': constant(100),
        },
        {"job": "imgproxy"},
    ),
    "ImgproxyConnectionsFull": grown(f'imgproxy_connections_closed_total{{{EDGE},reason="full"}}', 60, 10),
}
