"""Outages in the log: one line when a service is down, one when it is back."""

import pytest

from imgproxy.telemetry.outages import QUIET_S, Outage, duration_words
from tests.support.clock import StandingClock


def test_an_outage_is_said_once_with_its_cause_and_its_end_with_its_length(caplog: pytest.LogCaptureFixture) -> None:
    """However often the service is asked meanwhile."""
    clock = StandingClock()
    outage = Outage("the database", now=clock)
    outage.worked()
    for _ in range(3):
        outage.failed("refused", consequence="purges wait")
        clock.now_s += 50
    assert (outage.cause, outage.age_s) == ("refused", 150)
    outage.worked()
    outage.worked()

    assert (outage.cause, outage.age_s) == (None, 0)
    assert [line.getMessage() for line in caplog.records] == [
        "the database is down: refused; purges wait",
        "the database is back after 2 min 30 s",
    ]
    assert {line.levelname for line in caplog.records} == {"WARNING"}


def test_another_cause_is_said_and_a_flapping_service_is_not_said_again(caplog: pytest.LogCaptureFixture) -> None:
    """A service that fails every second call would fill the log. After half a minute it is said again."""
    clock = StandingClock()
    outage = Outage("the store", now=clock)
    for _ in range(3):  # two causes that alternate
        outage.failed("refused")
        outage.failed("DNS")
    for _ in range(10):
        outage.worked()
        outage.failed("DNS")
    outage.worked()
    clock.now_s += QUIET_S
    outage.failed("DNS")

    assert [line.getMessage() for line in caplog.records] == [
        "the store is down: refused",
        "the store is down: DNS",
        "the store is back after 0.0 s",
        "the store is down: DNS",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.44, "0.4 s"), (12.4, "12 s"), (185, "3 min 5 s"), (59.9, "1 min 0 s"), (7800, "2 h 10 min")],
)
def test_a_duration_is_in_words(seconds: float, words: str) -> None:
    """The larger it is, the coarser."""
    assert duration_words(seconds) == words
