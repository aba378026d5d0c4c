"""
Every Prometheus collector, declared once. Each `Metrics` has its own registry, so a process can hold many services.

Label values are the words of the code and the logs: outcomes `hit`, `stale`, `revalidated`, `miss`, `pass`,
`not_modified`, `error`; tiers `memory`, `disk`; stages `fetch`, `queue`, `render`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# From a memory hit (tens of microseconds) to a slow AVIF (seconds).
_DURATION_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


# The `inc` of a counter, or the `observe` of a histogram, with its labels.
Count: TypeAlias = "Callable[[float], None]"
# After so many notes they are counted; that takes half a millisecond.
NOTED_MAX = 256


class Tally(Collector):
    """
    Numbers that wait to be added to the counters.

    A call of a counter costs more CPU than the rest of a memory hit. So the fast path adds to the plain numbers here,
    and other requests use `note`: calls that are made many at once take a third of the time.

    The registry collects this object first, before any counter. It adds what waits, so the metrics page is complete.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._noted: list[tuple[Count, float]] = []
        # Answers of the fast path: hits by tier, 304s, 503s; and the bytes of their bodies.
        self.memory = self.disk = self.not_modified = self.refused = self.sent_bytes = 0

    def note(self, count: Count, amount: float = 1.0) -> None:
        """Call `count(amount)` later: after `NOTED_MAX` notes, or when the metrics are read."""
        self._noted.append((count, amount))
        if len(self._noted) >= NOTED_MAX:
            self._count_noted()

    def _count_noted(self) -> None:
        noted, self._noted = self._noted, []
        for count, amount in noted:
            count(amount)

    def collect(self) -> Iterator[Metric]:
        """Add what waits to the counters. Yields nothing: it has no metric of its own."""
        self._count_noted()
        counters = self._metrics
        hits = {"memory": self.memory, "disk": self.disk}
        answers = {("hit", "200"): self.memory + self.disk, ("hit", "304"): self.not_modified}
        answers["error", "503"] = self.refused
        counters.sent_bytes.inc(self.sent_bytes)
        self.memory = self.disk = self.not_modified = self.refused = self.sent_bytes = 0
        for (outcome, status), amount in answers.items():
            if amount:
                counters.requests.labels(outcome=outcome, status=status).inc(amount)
        for tier, amount in hits.items():
            if amount:
                counters.hits.labels(tier=tier).inc(amount)
        yield from ()

    def describe(self) -> Iterator[Metric]:
        """Yield nothing, as `collect` does."""
        yield from ()


class Metrics:
    """The collectors. `watch` adds gauges whose value is read when the metrics page is."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tally = Tally(self)
        self.registry.register(self.tally)
        self.requests = Counter(
            "imgproxy_requests", "image requests by outcome and status", ("outcome", "status"), registry=self.registry
        )
        self.request_duration_s = Histogram(
            "imgproxy_request_duration_seconds",
            "image requests from first byte in to last byte handed to the kernel; hits of the fast path are not in it",
            ("outcome",),
            buckets=_DURATION_BUCKETS_S,
            registry=self.registry,
        )
        self.stage_duration_s = Histogram(
            "imgproxy_stage_duration_seconds",
            "one stage of a miss: fetch, queue (wait for a render process), render (decode, resize, encode)",
            ("stage",),
            buckets=_DURATION_BUCKETS_S,
            registry=self.registry,
        )
        self.hits = Counter("imgproxy_cache_hits", "answers from the cache by tier", ("tier",), registry=self.registry)
        self.origin_bytes = Counter("imgproxy_origin_bytes", "bytes of originals fetched", registry=self.registry)
        self.sent_bytes = Counter("imgproxy_sent_bytes", "bytes of bodies sent", registry=self.registry)
        self.origin_answers = Counter(
            "imgproxy_origin_answers",
            "answers of the Media Library to serve-image",
            ("answer",),
            registry=self.registry,
        )
        self.in_flight = Gauge("imgproxy_requests_in_flight", "image requests being answered", registry=self.registry)
        self.purges = Counter("imgproxy_purges", "purges by what asked for them", ("reason",), registry=self.registry)
        self.purged_variants = Counter("imgproxy_purged_variants", "variants purged", registry=self.registry)
        self.purged_bytes = Counter("imgproxy_purged_bytes", "bytes purged from disk", registry=self.registry)
        self.purge_duration_s = Histogram(
            "imgproxy_purge_duration_seconds",
            "purges from arrival to acknowledgement",
            buckets=_DURATION_BUCKETS_S,
            registry=self.registry,
        )
        self.overtaken = Counter(
            "imgproxy_overtaken",
            "results thrown away because a purge overtook them",
            ("point",),
            registry=self.registry,
        )
        self.downstream_purges = Counter(
            "imgproxy_downstream_purges",
            "purge calls to caches in front by result: done, limited, failed, rejected",
            ("target", "result"),
            registry=self.registry,
        )
        self.outbox_lines = Gauge(
            "imgproxy_outbox_lines",
            "purges that a cache in front has still to be told, second rounds included",
            ("target",),
            registry=self.registry,
        )
        self.outbox_oldest_age_s = Gauge(
            "imgproxy_outbox_oldest_age_seconds",
            "how long the oldest purge has waited for a cache in front to confirm it",
            ("target",),
            registry=self.registry,
        )
        self.webhooks = Counter("imgproxy_webhooks", "webhooks by event", ("event",), registry=self.registry)
        self.renders = Counter(
            "imgproxy_renders", "render jobs by lane and outcome", ("lane", "outcome"), registry=self.registry
        )
        self.refused = Counter(
            "imgproxy_refused", "requests refused by admission, by rule", ("rule",), registry=self.registry
        )
        self.failed_after_answer = Counter(
            "imgproxy_failed_after_answer",
            "requests that failed after another request had written their answer",
            registry=self.registry,
        )
        self.render_process_ends = Counter(
            "imgproxy_render_process_ends",
            "render processes that ended, by reason",
            ("reason",),
            registry=self.registry,
        )
        self.render_peak_bytes = Gauge(
            "imgproxy_render_peak_bytes", "largest resident size a render process has had", registry=self.registry
        )
        self._peak_bytes = 0
        self.build = Info("imgproxy_build", "versions of this service and of libvips", registry=self.registry)

    def job_ended(self, lane: str, outcome: str, peak_bytes: int) -> None:
        """Count a render job. `peak_bytes` is the largest size of its process so far, 0 if unknown."""
        self.tally.note(self.renders.labels(lane, outcome).inc)
        if peak_bytes > self._peak_bytes:
            self._peak_bytes = peak_bytes
            self.render_peak_bytes.set(peak_bytes)

    def process_ended(self, reason: str) -> None:
        """Count a render process that ended."""
        self.render_process_ends.labels(reason=reason).inc()

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a gauge. `read` is called each time the metrics page is made."""
        Gauge(name, help_text, registry=self.registry).set_function(read)

    def page(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
