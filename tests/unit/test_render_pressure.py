"""The judgement of a queue: a burst may wait, an overload is refused early."""

from __future__ import annotations

from imgproxy.admission.cost import CostModel
from imgproxy.admission.overload import BURST_S, CALM_S, LATE_JOBS, LONG_JOBS, LONG_WAIT_S, SHORT_JOBS, Pressure
from imgproxy.admission.policy import Admission
from imgproxy.config.sections import RenderSettings

PATIENCE_S = 5.0
LONG_S = 2.0
JOB_S = 0.02


def test_a_burst_may_wait() -> None:
    """What comes at once is let in up to the patience, however short a standing queue would have to be."""
    pressure = Pressure()

    assert pressure.admits(0.0, 10.0, patience_s=PATIENCE_S, job_s=JOB_S)
    assert pressure.admits(LONG_S, 10.0 + BURST_S / 2, patience_s=PATIENCE_S, job_s=JOB_S)
    assert not pressure.admits(PATIENCE_S + 0.1, 10.0 + BURST_S / 2, patience_s=PATIENCE_S, job_s=JOB_S)
    assert not pressure.is_late(LONG_S, 10.0 + BURST_S / 2, job_s=JOB_S)


def test_a_queue_that_stands_is_cut_short() -> None:
    """Once the wait has been long for a while, only a short one is let in, and who waited too long is late."""
    pressure = Pressure()
    pressure.admits(LONG_S, 10.0, patience_s=PATIENCE_S, job_s=JOB_S)
    now_s = 10.0 + BURST_S * 1.5

    assert not pressure.admits(LONG_S, now_s, patience_s=PATIENCE_S, job_s=JOB_S)
    assert pressure.admits(SHORT_JOBS * JOB_S, now_s, patience_s=PATIENCE_S, job_s=JOB_S)
    assert not pressure.admits(SHORT_JOBS * JOB_S * 1.1, now_s, patience_s=PATIENCE_S, job_s=JOB_S)
    assert not pressure.admits(LONG_S, now_s + CALM_S / 2, patience_s=PATIENCE_S, job_s=JOB_S)
    assert pressure.is_late(LATE_JOBS * JOB_S * 1.1, now_s, job_s=JOB_S)
    assert not pressure.is_late(LATE_JOBS * JOB_S * 0.9, now_s, job_s=JOB_S)


def test_what_was_fetched_already_may_wait_longer() -> None:
    """It is refused in an overload alone, and only when it has waited for what is a long queue in itself."""
    pressure = Pressure()
    assert not pressure.is_hopeless(LONG_S, 10.0, job_s=JOB_S)
    assert not pressure.admits(LONG_S, 10.0, patience_s=PATIENCE_S, job_s=JOB_S, is_full=True)

    assert pressure.is_late(LONG_WAIT_S * 0.9, 10.0, job_s=JOB_S)
    assert not pressure.is_hopeless(LONG_WAIT_S * 0.9, 10.0, job_s=JOB_S)
    assert pressure.is_hopeless(LONG_WAIT_S * 1.1, 10.0, job_s=JOB_S)
    assert not pressure.is_hopeless(LONG_JOBS * 0.9, 10.0, job_s=1.0)


def test_what_came_before_the_queue_stood_is_left_over() -> None:
    """Fetched or not it is refused after a short wait, once the queue stands; what has come since is not."""
    pressure = Pressure()
    assert not pressure.is_left_over(9.8, 10.0, job_s=JOB_S)
    assert not pressure.admits(LONG_S, 10.0, patience_s=PATIENCE_S, job_s=JOB_S, is_full=True)
    assert not pressure.admits(LONG_S, 10.1, patience_s=PATIENCE_S, job_s=JOB_S)

    assert pressure.is_left_over(9.99, 9.99 + LATE_JOBS * JOB_S * 1.1, job_s=JOB_S)
    assert not pressure.is_left_over(9.99, 9.99 + LATE_JOBS * JOB_S * 0.9, job_s=JOB_S)
    assert not pressure.is_left_over(10.05, 10.05 + LONG_WAIT_S, job_s=JOB_S)
    assert not pressure.is_left_over(9.99, 10.2 + CALM_S, job_s=JOB_S)


def test_a_full_queue_stands_at_once() -> None:
    """More than any page brings is no burst: the queue is cut without waiting for what becomes of it."""
    pressure = Pressure()

    assert not pressure.admits(LONG_S, 10.0, patience_s=PATIENCE_S, job_s=JOB_S, is_full=True)
    assert pressure.stands(10.0)
    assert not pressure.admits(LONG_WAIT_S, 10.0, patience_s=PATIENCE_S, job_s=JOB_S)


def test_it_is_over_when_nobody_was_refused_for_a_while() -> None:
    """A second without a refusal ends the overload; the next burst may wait again."""
    pressure = Pressure()
    pressure.admits(LONG_S, 10.0, patience_s=PATIENCE_S, job_s=JOB_S)
    refused_at_s = 10.0 + BURST_S * 1.5
    assert not pressure.admits(LONG_S, refused_at_s, patience_s=PATIENCE_S, job_s=JOB_S)

    assert pressure.stands(refused_at_s + CALM_S * 0.9)
    assert not pressure.stands(refused_at_s + CALM_S)
    later_s = refused_at_s + CALM_S * 2
    assert pressure.admits(0.0, later_s, patience_s=PATIENCE_S, job_s=JOB_S)
    assert pressure.admits(LONG_S, later_s, patience_s=PATIENCE_S, job_s=JOB_S)


def test_a_new_front_page_is_served_whole() -> None:
    """Thirty new pictures at once, and what scrolls into view while they are made, come in on two processes."""
    pressure = Pressure()
    job_s, processes = 0.05, 2

    ahead_s = 0.0
    for _ in range(30):
        assert pressure.admits(ahead_s / processes, 10.0, patience_s=PATIENCE_S, job_s=job_s)
        ahead_s += job_s
    for at_s in (0.2, 0.4, 0.6):
        left_s = ahead_s / processes - at_s
        assert pressure.admits(left_s, 10.0 + at_s, patience_s=PATIENCE_S, job_s=job_s)
        assert not pressure.is_late(at_s, 10.0 + at_s, job_s=job_s)
        ahead_s += job_s


def test_the_patience_may_be_shorter() -> None:
    """A configured wait below the short one holds for every state of the queue."""
    pressure = Pressure()

    assert not pressure.admits(LONG_WAIT_S / 2, 10.0, patience_s=LONG_WAIT_S / 4, job_s=JOB_S)


def test_slow_jobs_may_queue_all_the_same() -> None:
    """A few jobs before one are no overload, however long each of them takes: a process must not run dry."""
    pressure = Pressure()

    for second in range(10):
        assert pressure.admits(LONG_JOBS * 3.0, 10.0 + second, patience_s=60.0, job_s=3.0)


def test_what_is_done_of_a_job_is_not_waited_for() -> None:
    """Where the queue stands, who comes after those that are being made gets in as they come to their end, not before."""
    costs = CostModel()
    admission = Admission(RenderSettings(), costs, size=2)
    assert not admission.admits(1000, 0.0, 10.0)
    job_s = costs.mean_job_s

    assert admission.admits(1, 0.0, 10.0, [10.0])
    assert not admission.admits(2, 0.0, 10.0, [10.0, 10.0])
    assert admission.admits(2, 0.0, 10.0, [10.0 - 0.1 * job_s, 10.0 - 0.5 * job_s])
    assert not admission.admits(3, 0.0, 10.0, [10.0 - 0.6 * job_s, 10.0 - 0.6 * job_s])
    assert admission.admits(3, 0.0, 10.0, [10.0 - 0.6 * job_s, 10.0 - 0.95 * job_s])
    assert not admission.admits(4, 0.0, 10.0, [10.0 - 0.9 * job_s, 10.0 - 5.0 * job_s])
