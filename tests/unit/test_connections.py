"""Limits of connections, as pure arithmetic: which readers are too slow."""

from __future__ import annotations

from typing import cast

from imgproxy.config.sections import ServerSettings
from imgproxy.edge.connections import Connection, Limits
from imgproxy.edge.descriptors import Descriptors, limit_of_process
from imgproxy.telemetry.metrics import Metrics


class Reader:
    """A client, as far as `Limits` looks at it: bytes that it has not read yet."""

    def __init__(self, unread_bytes: int) -> None:
        self.unread = unread_bytes
        self.is_cut = False

    def unread_bytes(self) -> int:
        return self.unread

    def cut(self) -> None:
        self.is_cut = True


def cut_after_s(*, bytes_per_s: int, unread_bytes: int = 1_000_000, seconds: int = 500) -> int | None:
    """Return the second in which a client is cut that reads at this rate; None if it is not. Limits: 30 s, 1,000 B/s."""
    limits, reader = (
        Limits(
            ServerSettings(send_timeout_s=30, send_min_bytes_per_s=1_000), Descriptors(limit_of_process()), Metrics()
        ),
        Reader(unread_bytes),
    )
    limits.begin_slow_answer(cast("Connection", reader), 100.0)
    for second in range(1, seconds):
        reader.unread = max(0, reader.unread - bytes_per_s)
        limits.look(100.0 + second)
        if reader.is_cut:
            return second
    return None


def test_a_client_that_reads_nothing_is_cut_after_the_time() -> None:
    """`send_timeout_s`, and no look later."""
    assert cut_after_s(bytes_per_s=0) == 30


def test_a_client_that_reads_at_the_least_rate_is_not_cut() -> None:
    """Nor is a faster one."""
    assert cut_after_s(bytes_per_s=1_000) is None
    assert cut_after_s(bytes_per_s=5_000, unread_bytes=100_000_000) is None


def test_a_client_below_the_least_rate_is_cut_later_the_more_it_reads() -> None:
    """Each byte gives it time: at half the rate it has about twice the time."""
    assert cut_after_s(bytes_per_s=500) in range(58, 62)
    assert cut_after_s(bytes_per_s=900) in range(290, 302)


def test_a_fast_start_gives_no_more_time_than_the_limit() -> None:
    """A client that reads a megabyte and then nothing has `send_timeout_s` from then on."""
    limits, reader = (
        Limits(ServerSettings(send_timeout_s=30), Descriptors(limit_of_process()), Metrics()),
        Reader(5_000_000),
    )
    limits.begin_slow_answer(cast("Connection", reader), 100.0)
    for second in range(1, 11):
        reader.unread -= 100_000
        limits.look(100.0 + second)
    limits.look(139.0)
    assert not reader.is_cut
    limits.look(140.0)
    assert reader.is_cut


def test_a_client_that_has_read_all_has_no_limit_until_the_next_answer() -> None:
    """The kernel has taken the answer; a later one counts from its own beginning."""
    limits, reader = (
        Limits(ServerSettings(send_timeout_s=30), Descriptors(limit_of_process()), Metrics()),
        Reader(1_000),
    )
    for began_s in (100.0, 200.0):
        limits.begin_slow_answer(cast("Connection", reader), began_s)
        limits.look(began_s + 29)
        limits.end_slow_answer(cast("Connection", reader))
        limits.look(began_s + 60)
    assert not reader.is_cut
