"""Metrics: numbers that wait are added before they are read, and the page has what is declared."""

from __future__ import annotations

import pytest

from imgproxy.telemetry import metric_table as table
from imgproxy.telemetry.metric_kinds import Kind, Metric
from imgproxy.telemetry.metrics import Metrics


def test_answers_of_the_fast_path_are_in_the_counters() -> None:
    """Its plain numbers become hits, 304s, 503s, bodies and bytes, each counted once."""
    metrics = Metrics()
    tally = metrics.tally
    jpeg, avif = tally.of("image/jpeg"), tally.of("image/avif")
    jpeg.memory, jpeg.disk, jpeg.sent_bytes = 3, 1, 900
    avif.disk, avif.sent_bytes = 1, 70
    tally.not_modified, tally.refused = 4, 1
    metrics.sent("text/x-unknown", 5)

    for _ in range(2):
        page = metrics.page().decode()

        assert 'imgproxy_requests_total{outcome="hit",status="200"} 5.0' in page
        assert 'imgproxy_requests_total{outcome="hit",status="304"} 4.0' in page
        assert 'imgproxy_requests_total{outcome="error",status="503"} 1.0' in page
        assert 'imgproxy_cache_hits_total{tier="memory"} 3.0' in page
        assert 'imgproxy_cache_hits_total{tier="disk"} 2.0' in page
        assert 'imgproxy_sent_bytes_total{format="jpeg"} 900.0' in page
        assert 'imgproxy_sent_bytes_total{format="avif"} 70.0' in page
        assert 'imgproxy_sent_bodies_total{format="jpeg"} 4.0' in page
        assert 'imgproxy_sent_bodies_total{format="other"} 1.0' in page


def test_a_value_that_is_read_has_its_declared_type() -> None:
    """A counter gets `# TYPE … counter`, a gauge with a label one sample for each value."""
    metrics = Metrics()
    metrics.watch(table.EVICTED_FILES, lambda: 7)
    metrics.watch_each(table.ORIGIN_DOWN, lambda: {"library.example:443": True})
    metrics.watch_info(table.BUILD, lambda: ("1.0", "8.18", "3.13"))
    page = metrics.page().decode()

    assert "# TYPE imgproxy_cache_evicted_files_total counter" in page
    assert "imgproxy_cache_evicted_files_total 7.0" in page
    assert 'imgproxy_origin_down{origin="library.example:443"} 1.0' in page
    assert 'imgproxy_build_info{libvips="8.18",python="3.13",version="1.0"} 1.0' in page
    assert "_created" not in page


def test_a_counter_with_one_label_begins_at_zero() -> None:
    """So `increase()` sees the first event, too."""
    page = Metrics().page().decode()

    assert 'imgproxy_refused_total{rule="full"} 0.0' in page
    assert 'imgproxy_webhooks_total{event="revoke"} 0.0' in page


def test_a_metric_is_registered_once() -> None:
    """A second part that watches the same metric is a mistake of the code, and fails at once."""
    metrics = Metrics()
    metrics.watch(table.CONNECTIONS, lambda: 1)

    with pytest.raises(ValueError, match="Duplicated"):
        metrics.watch(table.CONNECTIONS, lambda: 2)


@pytest.mark.parametrize("metric", table.METRICS, ids=lambda metric: metric.name)
def test_a_declaration_is_complete(metric: Metric) -> None:
    """The name ends as its kind and unit say, a histogram has rising buckets, and each label is bounded."""
    assert metric.help
    assert not metric.help.endswith(".")
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert metric.name.endswith("_info") == (metric.kind is Kind.INFO)
    assert metric.name.removesuffix("_total").endswith(("_seconds", "_bytes")) == (metric.unit in ("seconds", "bytes"))
    assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    for label in metric.labels:
        assert bool(label.values) != bool(label.bound), label
        assert len(set(label.values)) == len(label.values) <= 20, label


def test_no_name_is_declared_twice() -> None:
    """Each row has a name of its own."""
    names = [metric.name for metric in table.METRICS]

    assert len(names) == len(set(names)) > 60
