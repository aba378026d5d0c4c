"""Numbers that wait are added before the metrics are read."""

from __future__ import annotations

from imgproxy.metrics import Metrics


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
