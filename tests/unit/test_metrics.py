"""What is counted later is there whenever somebody looks."""

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
    """Where nobody reads the metrics, what is noted is counted all the same."""
    metrics = Metrics()
    counted: list[float] = []

    for _ in range(2 * NOTED_MAX + 1):
        metrics.tally.note(counted.append, 1.0)

    assert len(counted) == 2 * NOTED_MAX
