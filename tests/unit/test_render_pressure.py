"""The judgement of a queue: a burst may wait, an overload is refused early."""

from __future__ import annotations

from imgproxy.render.pressure import BURST_S, CALM_S, LATE_S, SHORT_WAIT_S, Pressure

PATIENCE_S = 5.0
LONG_S = 2.0


def test_a_burst_may_wait() -> None:
    """What comes at once is let in up to the patience, however short a standing queue would have to be."""
    pressure = Pressure()

    assert pressure.admits(0.0, 10.0, patience_s=PATIENCE_S)
    assert pressure.admits(LONG_S, 10.0 + BURST_S / 2, patience_s=PATIENCE_S)
    assert not pressure.admits(PATIENCE_S + 0.1, 10.0 + BURST_S / 2, patience_s=PATIENCE_S)
    assert not pressure.is_late(LONG_S, 10.0 + BURST_S / 2)


def test_a_queue_that_stands_is_cut_short() -> None:
    """Once the wait has been long for a while, only a short one is let in, and who waited too long is late."""
    pressure = Pressure()
    pressure.admits(LONG_S, 10.0, patience_s=PATIENCE_S)
    now_s = 10.0 + BURST_S * 1.5

    assert not pressure.admits(LONG_S, now_s, patience_s=PATIENCE_S)
    assert pressure.admits(SHORT_WAIT_S, now_s, patience_s=PATIENCE_S)
    assert not pressure.admits(LONG_S, now_s + CALM_S / 2, patience_s=PATIENCE_S)
    assert pressure.is_late(LATE_S * 1.1, now_s)
    assert not pressure.is_late(LATE_S * 0.9, now_s)


def test_it_is_over_when_nobody_was_refused_for_a_while() -> None:
    """A second without a refusal ends the overload; the next burst may wait again."""
    pressure = Pressure()
    pressure.admits(LONG_S, 10.0, patience_s=PATIENCE_S)
    pressure.admits(LONG_S, 11.0, patience_s=PATIENCE_S)

    assert pressure.stands(11.0 + CALM_S * 0.9)
    assert not pressure.stands(11.0 + CALM_S)
    assert pressure.admits(0.0, 13.0, patience_s=PATIENCE_S)
    assert pressure.admits(LONG_S, 13.0, patience_s=PATIENCE_S)


def test_the_patience_may_be_shorter() -> None:
    """A configured wait below the short one holds for every state of the queue."""
    pressure = Pressure()

    assert not pressure.admits(SHORT_WAIT_S / 2, 10.0, patience_s=SHORT_WAIT_S / 4)
