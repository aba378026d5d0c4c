"""The collectors of what `metric_table` declares. Each `Metrics` has its own registry: a process may have many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from imgproxy.telemetry import metric_table as table
from imgproxy.telemetry.metric_kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import Metric as Family

    from imgproxy.telemetry.metric_kinds import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# When each child was made: a series more for every counter, which Prometheus does not use. (A switch of the library.)
disable_created_metrics()  # type: ignore[no-untyped-call]


class SentTally:
    """Bodies of one format. Hits of the fast path by where their body was; `other` are those of all other answers."""

    __slots__ = ("disk", "memory", "other", "sent_bytes")

    def __init__(self) -> None:
        self.memory = self.disk = self.other = self.sent_bytes = 0


class Tally:
    """
    Numbers that are added to the counters later, when these are read.

    A call of a counter costs more CPU than the rest of a memory hit, so the fast path adds to plain numbers.
    """

    def __init__(self) -> None:
        # Answers of the fast path: 304s, 503s.
        self.not_modified = self.refused = 0
        self.by_format = {name: SentTally() for name in table.FORMAT.values}

    def of(self, content_type: str) -> SentTally:
        """Return the numbers of the format that has this media type."""
        return self.by_format[table.FORMAT_OF.get(content_type, "other")]


class Metrics:
    """The collectors. `watch` adds a value that is read when the metrics page is made."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tally = Tally()
        # The registry collects in the order of registration: the numbers of the tally are added first.
        self.registry.register(_Emptied(self))
        counter, gauge, seconds = self._counter, self._gauge, self._seconds
        self.requests = counter(table.REQUESTS)
        self.request_duration_s = seconds(table.REQUEST_DURATION)
        self.loop_delay_s = seconds(table.LOOP_DELAY)
        self.fetch_duration_s = seconds(table.FETCH_DURATION)
        self.queue_duration_s = seconds(table.QUEUE_DURATION)
        self.render_duration_s = seconds(table.RENDER_DURATION)
        self.hits = counter(table.HITS)
        self.sent_bodies = counter(table.SENT_BODIES)
        self.sent_bytes = counter(table.SENT_BYTES)
        self.origin_bytes = counter(table.ORIGIN_BYTES)
        self.origin_answers = counter(table.ORIGIN_ANSWERS)
        self.in_flight = gauge(table.IN_FLIGHT)
        self.connections_closed = counter(table.CONNECTIONS_CLOSED)
        self.purges = counter(table.PURGES)
        self.updated_keys = counter(table.UPDATED_KEYS)
        self.purged_variants = counter(table.PURGED_VARIANTS)
        self.purged_bytes = counter(table.PURGED_BYTES)
        self.purge_duration_s = seconds(table.PURGE_DURATION)
        self.overtaken = counter(table.OVERTAKEN)
        self.downstream_purges = counter(table.DOWNSTREAM_PURGES)
        self.outbox_lines = gauge(table.OUTBOX_LINES)
        self.outbox_oldest_age_s = gauge(table.OUTBOX_OLDEST_AGE)
        self.shared_store_reads = counter(table.STORE_READS)
        self.shared_store_writes = counter(table.STORE_WRITES)
        self.shared_store_duration_s = seconds(table.STORE_DURATION)
        self.shared_store_paused = gauge(table.STORE_PAUSED)
        self.webhooks = counter(table.WEBHOOKS)
        self.renders = counter(table.RENDERS)
        self.credentials = counter(table.CREDENTIALS)
        self.credentials_duration_s = seconds(table.CREDENTIALS_DURATION)
        self.credentials_expire_s = gauge(table.CREDENTIALS_EXPIRE)
        self.refused = counter(table.REFUSED)
        self.failed_after_answer = counter(table.FAILED_AFTER_ANSWER)
        self.render_process_ends = counter(table.RENDER_PROCESS_ENDS)
        self.render_peak_bytes = gauge(table.RENDER_PEAK)
        self._peak_bytes = 0
        ProcessCollector(registry=self.registry)

    def _counter(self, metric: Metric) -> Counter:
        made = Counter(metric.family, metric.help, metric.label_names, registry=self.registry)
        # From the start at 0: `increase()` does not see the first event of a series that begins with it.
        if len(metric.labels) == 1:
            for value in metric.labels[0].values:
                made.labels(value)
        return made

    def _gauge(self, metric: Metric) -> Gauge:
        return Gauge(metric.family, metric.help, metric.label_names, registry=self.registry)

    def _seconds(self, metric: Metric) -> Histogram:
        return Histogram(metric.family, metric.help, metric.label_names, buckets=metric.buckets, registry=self.registry)

    def sent(self, content_type: str, sent_bytes: int) -> None:
        """Count a body that the fast path has not sent."""
        sent = self.tally.of(content_type)
        sent.other += 1
        sent.sent_bytes += sent_bytes

    def rendered(self, content_type: str, render_s: float) -> None:
        """Count a render of a variant."""
        self.render_duration_s.labels(table.FORMAT_OF.get(content_type, "other")).observe(render_s)

    def job_ended(self, lane: str, outcome: str, peak_bytes: int) -> None:
        """Count a render job. `peak_bytes` is the largest size of its process so far, 0 if unknown."""
        self.renders.labels(lane, outcome).inc()
        if peak_bytes > self._peak_bytes:
            self._peak_bytes = peak_bytes
            self.render_peak_bytes.set(peak_bytes)

    def process_ended(self, reason: str) -> None:
        """Count a render process that ended."""
        self.render_process_ends.labels(reason=reason).inc()

    def watch(self, metric: Metric, read: Callable[[], float]) -> None:
        """Add a metric without labels. Each metrics page calls `read` for its value; a counter's must only grow."""
        self.registry.register(_Watched(metric, lambda: {(): read()}))

    def watch_each(self, metric: Metric, read: Callable[[], Mapping[str, float]]) -> None:
        """Add a metric with one label. Each metrics page calls `read` for the values by label."""
        self.registry.register(_Watched(metric, lambda: {(label,): value for label, value in read().items()}))

    def watch_info(self, metric: Metric, read: Callable[[], tuple[str, ...]]) -> None:
        """Add facts. Each metrics page calls `read` for the values of the labels."""
        self.registry.register(_Watched(metric, lambda: {read(): 1}))

    def page(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self.registry)


class _Emptied(Collector):
    """Adds the numbers of the tally to the counters, each time the registry is read. It has no metric of its own."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterator[Family]:
        yield from ()

    def collect(self) -> Iterator[Family]:
        metrics, tally = self._metrics, self._metrics.tally
        memory = disk = 0
        for name, sent in tally.by_format.items():
            bodies = sent.memory + sent.disk + sent.other
            if bodies:
                metrics.sent_bodies.labels(name).inc(bodies)
                metrics.sent_bytes.labels(name).inc(sent.sent_bytes)
            memory, disk = memory + sent.memory, disk + sent.disk
            sent.memory = sent.disk = sent.other = sent.sent_bytes = 0
        for tier, amount in (("memory", memory), ("disk", disk)):
            if amount:
                metrics.hits.labels(tier).inc(amount)
        answers = (("hit", "200", memory + disk), ("hit", "304", tally.not_modified), ("error", "503", tally.refused))
        tally.not_modified = tally.refused = 0
        for outcome, status, amount in answers:
            if amount:
                metrics.requests.labels(outcome, status).inc(amount)
        yield from ()


class _Watched(Collector):
    """A metric whose values are read when the page is made, by the values of its labels."""

    def __init__(self, metric: Metric, read: Callable[[], Mapping[tuple[str, ...], float]]) -> None:
        self._metric = metric
        self._read = read

    def describe(self) -> Iterator[Family]:
        """Yield the family without a value. So the registry refuses a name that it has already."""
        yield self._family()

    def collect(self) -> Iterator[Family]:
        family = self._family()
        for labels, value in self._read().items():
            family.add_metric(labels, value)
        yield family

    def _family(self) -> CounterMetricFamily | GaugeMetricFamily:
        metric = self._metric
        family = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
        return family(metric.family, metric.help, labels=metric.label_names)
