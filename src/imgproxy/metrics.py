"""
Every Prometheus collector, declared once. Each `Metrics` has its own registry, so a process can hold many services.

Label values are the words of the code and the logs: outcomes `hit`, `stale`, `revalidated`, `miss`, `pass`,
`not_modified`, `error`; tiers `memory`, `disk`; stages `fetch`, `queue`, `render`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# From a memory hit (tens of microseconds) to a slow AVIF (seconds).
_DURATION_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Tally(Collector):
    """
    Numbers of the fast path that are added to the counters later.

    A call of a counter costs more CPU than the rest of a memory hit, so the fast path adds to plain numbers.

    The registry collects this object before any counter, so the metrics page is complete.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # Hits by tier, 304s, 503s; and the bytes of the bodies.
        self.memory = self.disk = self.not_modified = self.refused = self.sent_bytes = 0

    def collect(self) -> Iterator[Metric]:
        """Add the numbers to the counters. Yields nothing: the tally has no metric of its own."""
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
    """The collectors. `watch` adds a gauge that reads its value when the metrics page is made."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tally = Tally(self)
        self.registry.register(self.tally)
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, buckets=_DURATION_BUCKETS_S, registry=self.registry)
        self.requests = counter("imgproxy_requests", "image requests by outcome and status", ("outcome", "status"))
        self.request_duration_s = histogram(
            "imgproxy_request_duration_seconds",
            "image requests from first byte in to last byte handed to the kernel; hits of the fast path are not in it",
            ("outcome",),
        )
        self.stage_duration_s = histogram(
            "imgproxy_stage_duration_seconds",
            "one stage of a miss: fetch, queue (wait for a render process), render (decode, resize, encode)",
            ("stage",),
        )
        self.hits = counter("imgproxy_cache_hits", "answers from the cache by tier", ("tier",))
        self.origin_bytes = counter("imgproxy_origin_bytes", "bytes of originals fetched")
        self.sent_bytes = counter("imgproxy_sent_bytes", "bytes of bodies sent")
        self.origin_answers = counter(
            "imgproxy_origin_answers", "answers of the Media Library to serve-image", ("answer",)
        )
        self.in_flight = gauge("imgproxy_requests_in_flight", "image requests being answered")
        self.connections_closed = counter(
            "imgproxy_connections_closed",
            "connections closed by a limit: head, reader, room (made for a new one), full, address",
            ("reason",),
        )
        self.purges = counter("imgproxy_purges", "purges by what asked for them", ("reason",))
        self.updated_keys = counter(
            "imgproxy_updated_keys",
            "keys of updated entries by result: kept, as they have the same bytes, or purged",
            ("result",),
        )
        self.purged_variants = counter("imgproxy_purged_variants", "variants purged")
        self.purged_bytes = counter("imgproxy_purged_bytes", "bytes purged from disk")
        self.purge_duration_s = histogram("imgproxy_purge_duration_seconds", "purges from arrival to acknowledgement")
        self.overtaken = counter("imgproxy_overtaken", "results thrown away because a purge overtook them", ("point",))
        self.downstream_purges = counter(
            "imgproxy_downstream_purges",
            "purge calls to caches in front by result: done, limited, failed, rejected",
            ("target", "result"),
        )
        self.outbox_lines = gauge(
            "imgproxy_outbox_lines",
            "purges that a cache in front has still to be told, second rounds included",
            ("target",),
        )
        self.outbox_oldest_age_s = gauge(
            "imgproxy_outbox_oldest_age_seconds",
            "how long the oldest purge has waited for a cache in front to confirm it",
            ("target",),
        )
        self.webhooks = counter("imgproxy_webhooks", "webhooks by event", ("event",))
        self.renders = counter("imgproxy_renders", "render jobs by lane and outcome", ("lane", "outcome"))
        self.refused = counter("imgproxy_refused", "requests refused by admission, by rule", ("rule",))
        self.failed_after_answer = counter(
            "imgproxy_failed_after_answer", "requests that failed after another request had written their answer"
        )
        self.render_process_ends = counter(
            "imgproxy_render_process_ends", "render processes that ended, by reason", ("reason",)
        )
        self.render_peak_bytes = gauge("imgproxy_render_peak_bytes", "largest resident size a render process has had")
        self._peak_bytes = 0
        self.build = Info("imgproxy_build", "versions of this service and of libvips", registry=self.registry)

    def job_ended(self, lane: str, outcome: str, peak_bytes: int) -> None:
        """Count a render job. `peak_bytes` is the largest size of its process so far, 0 if unknown."""
        self.renders.labels(lane, outcome).inc()
        if peak_bytes > self._peak_bytes:
            self._peak_bytes = peak_bytes
            self.render_peak_bytes.set(peak_bytes)

    def process_ended(self, reason: str) -> None:
        """Count a render process that ended."""
        self.render_process_ends.labels(reason=reason).inc()

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a gauge. Each metrics page calls `read` for its value."""
        Gauge(name, help_text, registry=self.registry).set_function(read)

    def page(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
