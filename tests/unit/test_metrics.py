"""Numbers that wait are added before the metrics are read."""

from __future__ import annotations

from imgproxy.metrics import NOTED_MAX, Metrics


def test_what_is_noted_is_counted_when_the_metrics_are_read() -> None:
    """A count and an observation that were only noted are on the metrics page, once."""
    metrics = Metrics()
    metrics.tally.note(metrics.requests.labels("miss", "200").inc)
    metrics.tally.note(metrics.stage_duration_s.labels("render").observe, 0.25)

    for _ in range(2):
        page = metrics.page().decode()

        assert 'imgproxy_requests_total{outcome="miss",status="200"} 1.0' in page
        assert 'imgproxy_stage_duration_seconds_sum{stage="render"} 0.25' in page


def test_what_is_noted_does_not_pile_up() -> None:
    """After `NOTED_MAX` notes they are counted, even if nobody reads the metrics."""
    metrics = Metrics()
    counted: list[float] = []

    for _ in range(2 * NOTED_MAX + 1):
        metrics.tally.note(counted.append, 1.0)

    assert len(counted) == 2 * NOTED_MAX


def test_answers_of_the_fast_path_are_in_the_counters() -> None:
    """Its plain numbers become hits, 304s, 503s and bytes, each counted once."""
    metrics = Metrics()
    tally = metrics.tally
    tally.memory, tally.disk, tally.not_modified, tally.refused, tally.sent_bytes = 3, 2, 4, 1, 900

    for _ in range(2):
        page = metrics.page().decode()

        assert 'imgproxy_requests_total{outcome="hit",status="200"} 5.0' in page
        assert 'imgproxy_requests_total{outcome="hit",status="304"} 4.0' in page
        assert 'imgproxy_requests_total{outcome="error",status="503"} 1.0' in page
        assert 'imgproxy_cache_hits_total{tier="memory"} 3.0' in page
        assert 'imgproxy_cache_hits_total{tier="disk"} 2.0' in page
        assert "imgproxy_sent_bytes_total 900.0" in page
