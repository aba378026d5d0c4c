"""Statistics of the benchmark, its goals, its SSIM and its load generator's reading of answers."""

from __future__ import annotations

import asyncio
import statistics
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench import Peer, read_peers
from benchmarks.client import Engine, Request
from benchmarks.rows import Goal, Result
from benchmarks.ssim import ssim
from benchmarks.stats import between, paired_ratios, percentile, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PEER_URL = "http://127.0.0.1:8000/{width}/{key}?a=b&u=http://x"
VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


def test_spread_of_known_values() -> None:
    """Median and MAD of 1, 2, 3, 4, 100 are 3 and 1: one wild round moves neither."""
    found = spread([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found.median, found.mad, found.least, found.most, found.count) == (3.0, 1.0, 1.0, 100.0, 5)


@pytest.mark.parametrize("name", ["other", "imgproxy", "a=b", "two words | and more", "", "http"])
def test_a_peer_may_have_any_name(name: str) -> None:
    """--peer and --peer-pid are read with any name, also one with = or that of imgproxy."""
    assert read_peers([f"{name}={PEER_URL}"], [f"{name}=77"]) == [Peer(name, PEER_URL, 77)]
    assert read_peers([f"{name}={PEER_URL}"], []) == [Peer(name, PEER_URL)]


@pytest.mark.parametrize(
    ("peers", "pids"), [(["other"], []), (["a=ftp://x"], []), ([], ["a=1"]), (["a=http://x"], ["a=b"])]
)
def test_wrong_peers_are_refused(peers: list[str], pids: list[str]) -> None:
    """A peer without a URL of http, a process without a number, and a process without a peer are errors."""
    with pytest.raises(ValueError, match=r".+"):
        read_peers(peers, pids)


@given(VALUES)
def test_spread_holds_half_of_the_values(values: list[float]) -> None:
    """At least half of the values lie within one MAD of the median."""
    found = spread(values)
    assert found.median == statistics.median(values)
    inside = sum(abs(value - found.median) <= found.mad for value in values)
    assert inside * 2 >= len(values)


def test_relative_mad_of_a_zero_median() -> None:
    """A median of 0 gives a relative deviation of 0, not a division by zero."""
    assert spread([0.0, 0.0, 5.0]).relative_mad == 0.0


@given(VALUES, st.floats(0, 100))
def test_percentile_is_a_value_that_enough_do_not_exceed(values: list[float], percent: float) -> None:
    """The percentile is one of the values; `percent` of them do not exceed it, and no smaller value has that."""
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= percent / 100 * len(values) - 1e-9
    smaller = [value for value in values if value < found]
    assert not smaller or len(smaller) < percent / 100 * len(values) + 1e-9


def test_percentile_of_a_hundred() -> None:
    """The p99 of 1..100 is 99 and the p50 is 50: nearest rank, nothing interpolated."""
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 99), percentile(values, 50), percentile(values, 100)) == (99.0, 50.0, 100.0)


@pytest.mark.parametrize("function", [spread, lambda values: percentile(values, 50)])
def test_no_values_have_no_statistics(function: Callable[[list[float]], object]) -> None:
    """Nothing measured is an error, never a 0."""
    with pytest.raises(ValueError, match="no values"):
        function([])


def test_ratios_are_taken_round_by_round() -> None:
    """Each round is compared with its own neighbour, so a slow minute of the machine cancels out."""
    assert paired_ratios([10.0, 1.0], [20.0, 2.0]) == [0.5, 0.5]
    with pytest.raises(ValueError, match="2 rounds against 1"):
        paired_ratios([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="is 0"):
        paired_ratios([1.0], [0.0])


def test_what_ran_between_two_turns_is_compared_with_both() -> None:
    """A machine that grows slower at a steady pace favours neither side."""
    bare, ours = [10.0, 12.0, 14.0], [11.0, 13.0]

    assert paired_ratios(ours, between(bare)) == [1.0, 1.0]
    with pytest.raises(ValueError, match="fewer than two"):
        between([1.0])


@pytest.mark.parametrize(
    ("value", "is_at_least", "is_met"),
    [(0.4, True, True), (0.39, True, False), (0.4, False, True), (0.41, False, False), (None, True, False)],
)
def test_goal_at_its_bound(value: float | None, is_at_least: bool, is_met: bool) -> None:
    """A bound itself is met; what was not measured is missed."""
    assert Goal("g", value, 0.4, is_at_least=is_at_least).is_met is is_met


def test_row_is_met_only_if_every_goal_is() -> None:
    """One goal missed is the row missed, also in the JSON."""
    result = Result("row", "title")
    result.at_least("fast", 2.0, 1.0)
    assert result.is_met
    result.at_most("small", 2.0, 1.0)
    assert not result.is_met
    assert [goal["is_met"] for goal in result.as_json()["goals"]] == [True, False]


def test_ssim_of_a_picture_and_its_distortions() -> None:
    """1 for equal pictures; noise costs, more noise costs more; another shape is an error."""
    rng = np.random.default_rng(3)
    picture = np.add.outer(np.linspace(0, 200, 80), 40 * np.sin(np.arange(90) / 3)).clip(0, 255)
    little = ssim(picture, picture + rng.normal(0, 4, picture.shape))
    much = ssim(picture, picture + rng.normal(0, 30, picture.shape))
    assert ssim(picture, picture) == pytest.approx(1.0)
    assert much < little < 1.0
    with pytest.raises(ValueError, match="against"):
        ssim(picture, picture[1:])


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3\r\nabc\r\n0\r\n\r\n")
            return
        body = b"" if self.path == "/304" else b"x" * 100_000
        self.send_response(304 if self.path == "/304" else 503 if self.path == "/503" else 200)
        self.send_header("Retry-After", "2")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


def test_engine_reads_every_kind_of_answer(server: str) -> None:
    """Bodies by length, chunked and none at all are told apart on one connection, and statuses are kept."""
    with Engine() as engine:
        samples = engine.closed([Request(server + path) for path in ("/a", "/304", "/chunked", "/503", "/b")], 1)
    assert [sample.status for sample in samples] == [200, 304, 200, 503, 200]
    assert [sample.size_bytes for sample in samples if sample.status == 200] == [100_000, 13, 100_000]
    assert samples[3].headers["retry-after"] == "2"
    assert all(sample.due_at <= sample.first_at <= sample.last_at for sample in samples)


def test_engine_counts_waiting_from_when_a_request_was_due(server: str) -> None:
    """In an open run a request that starts late has waited: its latency begins at its due time."""
    with Engine() as engine:
        samples = engine.open([Request(server + "/a", due_s=0.0), Request(server + "/a", due_s=0.02)])
    first, second = sorted(sample.due_at for sample in samples)
    assert second - first == pytest.approx(0.02, abs=1e-6)
    assert all(sample.status == 200 for sample in samples)


def test_engine_reports_a_server_that_is_not_there() -> None:
    """A refused connection is a sample with status 0, in closed and open runs alike."""
    with Engine() as engine:
        closed = engine.closed([Request("http://127.0.0.1:1/")], 1)
        opened = engine.open([Request("http://127.0.0.1:1/")])
    assert [sample.status for sample in closed + opened] == [0, 0]


async def test_burst_sends_everything_before_it_reads() -> None:
    """All requests of a burst are on the wire together: a server that answers none before it has all does not hang it."""
    many, waiting = 20, []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        waiting.append(writer)
        if len(waiting) == many:
            for one in waiting:
                one.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]

        def burst() -> list[int]:
            with Engine() as engine:
                return [one.status for one in engine.burst([Request(f"http://127.0.0.1:{port}/")] * many)]

        assert await asyncio.wait_for(asyncio.to_thread(burst), 20) == [200] * many
        for writer in waiting:
            writer.close()
            await writer.wait_closed()
