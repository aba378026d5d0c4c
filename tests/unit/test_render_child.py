"""A render process from the inside: what it measures, how it watches, and what it says when."""

from __future__ import annotations

import os
import pickle
import platform
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from imgproxy.params.plan import RenderPlan
from imgproxy.render import child, own_core, scheduling
from imgproxy.workers import channel
from imgproxy.workers.channel import Done, Finished
from imgproxy.workers.job import ProcessLimits, Rendered, RenderJob, RenderTarget, SourceFacts
from imgproxy.workers.process import child_environment

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = ProcessLimits(memory_bytes=10**9, source_pixels=10**8, frames=10, output_px=8192)
BLOCK_BYTES = 50_000_000


def test_the_watchdog_looks_again_before_the_limit_can_be_reached() -> None:
    """However fast a decoder allocates, it overshoots by no more than it can in the shortest pause."""
    for left_bytes in (-5, 0, 10**6, 10**8, 5 * 10**8, 10**9, 10**12):
        pause_s = child.pause_s(left_bytes)
        assert child.WATCH_LEAST_S <= pause_s <= child.WATCH_MOST_S
        grown_bytes = pause_s * child.GROWTH_BYTES_PER_S
        assert grown_bytes <= max(left_bytes, child.WATCH_LEAST_S * child.GROWTH_BYTES_PER_S)


# In a process of its own: in this one, what earlier tests left to be freed comes and goes meanwhile.
MEASURE = f"""
from imgproxy.render import child
memory = child.Memory()
before_bytes, first_bytes = memory.resident_bytes(), memory.peak_bytes(10.0)
block = b"x" * {BLOCK_BYTES}
held_bytes = memory.resident_bytes()
del block
after_bytes, early_bytes = memory.resident_bytes(), memory.peak_bytes(10.0 + child.PEAK_EVERY_S / 2)
late_bytes = memory.peak_bytes(10.0 + child.PEAK_EVERY_S)
print(*(size - before_bytes for size in (held_bytes, after_bytes, late_bytes)), early_bytes - first_bytes)
"""


def test_memory_is_measured_now_and_at_its_peak() -> None:
    """What was given back is in the peak, and not in the size now; the peak is looked up from time to time."""
    said = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    held_bytes, after_bytes, peak_bytes, unseen_bytes = map(int, said.split())
    assert held_bytes > BLOCK_BYTES * 0.9
    assert after_bytes < BLOCK_BYTES * 0.1
    assert peak_bytes > BLOCK_BYTES * 0.9
    assert unseen_bytes == 0


def test_each_variant_is_announced_as_it_is_whole_and_the_last_with_the_report(tmp_path: Path) -> None:
    """Who waits for the first of two variants does not wait for the second; the edge is woken once for the last."""
    ours, theirs = socket.socketpair()
    targets = tuple(RenderTarget(RenderPlan(), str(tmp_path / name)) for name in ("a", "b"))
    heard: list[list[channel.Message]] = []

    def listen() -> None:
        messages: list[channel.Message] = []
        ours.setblocking(False)
        try:
            data = ours.recv(1 << 16)
        except BlockingIOError:
            data = b""
        while data:
            (size_bytes,) = channel.LENGTH.unpack_from(data)
            end = channel.LENGTH.size + size_bytes
            messages += channel.decode(data[channel.LENGTH.size : end], targets)
            data = data[end:]
        heard.append(messages)

    def run(job: RenderJob, _limits: ProcessLimits, on_done: object) -> tuple[float, SourceFacts]:
        assert callable(on_done)
        for index, target in enumerate(job.targets):
            on_done(index, Rendered(target.path, "image/webp", 1, "0" * 32, 1, 1))
            listen()
        return 0.0, SourceFacts("image/jpeg", 8, 6)

    with ours, theirs:
        child._serve(run, RenderJob(str(tmp_path / "original"), targets), LIMITS, child.Link(theirs), child.Memory())
        listen()

    assert [[type(message) for message in messages] for messages in heard] == [[Done], [], [Done, Finished]]
    assert [message.index for messages in heard for message in messages if isinstance(message, Done)] == [0, 1]


def test_a_job_arrives_as_it_was_sent() -> None:
    """Paths cross as text, and a plan comes out as it went in."""
    plan = RenderPlan(rotation=90.0)
    job = RenderJob("/a/original", (RenderTarget(plan, "/a/out"), RenderTarget(plan, "/a/two")))
    packed = channel.pack_job(job)
    assert channel.unpack_job(packed) == job
    assert b"pathlib" not in packed
    assert pickle.loads(packed)[0] == "/a/original"


def test_a_process_rests_once_where_no_job_comes() -> None:
    """It rests before it goes on waiting, and not while jobs are there."""
    ours, theirs = socket.socketpair()
    rests: list[bytes] = []

    def rest() -> None:
        rests.append(b"rested")
        theirs.sendall(channel.frame(b"late"))

    with ours, theirs:
        theirs.sendall(channel.frame(b"at once"))
        waiting = child.Waiting(ours, rest, rest_s=0.01)

        assert waiting.next_job() == b"at once"
        assert rests == []
        assert waiting.next_job() == b"late"
        assert rests == [b"rested"]
        theirs.close()
        assert waiting.next_job() is None
        assert rests == [b"rested"]


# Small blocks of which a few stay keep the pages between them from the system.
SCATTERED = """
from imgproxy.render import child
memory = child.Memory()
before_bytes = memory.resident_bytes()
blocks = [b"x" * 20_000 for _ in range(4_000)]
kept = blocks[::50]
del blocks
scattered_bytes = memory.resident_bytes()
child.give_memory_back()
print(before_bytes, scattered_bytes, memory.resident_bytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such call")
def test_a_rest_returns_what_lies_between_what_is_still_needed() -> None:
    """Eighty megabytes in small blocks, a fiftieth of them kept: after a rest nearly all of it is the system's again."""
    environment = child_environment() | {"LD_PRELOAD": ""}
    command = [sys.executable, "-P", "-c", SCATTERED]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=environment)
    before_bytes, scattered_bytes, rested_bytes = map(int, done.stdout.split())

    assert scattered_bytes - before_bytes > 60_000_000
    assert rested_bytes - before_bytes < 10_000_000


@pytest.mark.parametrize(
    ("worked_s", "used_s", "expected"),
    [(0.2, 0.2, False), (0.2, 0.19, False), (0.2, 0.13, False), (0.2, 0.11, True), (30.0, 3.0, True), (0.3, 0.0, True)],
)
def test_who_gets_too_little_of_its_core_is_starved(worked_s: float, used_s: float, expected: bool) -> None:
    """An edge beside it takes a tenth; who gets half shares its core with somebody."""
    assert own_core.is_starved(worked_s, used_s) is expected


# In a process of its own, which it moves.
MOVE = """
import os
from imgproxy.render.own_core import AWAY_S, LOOK_S, OwnCore
everywhere = os.sched_getaffinity(0)
core = min(everywhere)
def look(now_s, used_s):
    own.look(now_s, used_s)
    cores = os.sched_getaffinity(0)
    print("own" if cores == {core} else "all" if cores == everywhere else "?", end=" ")
own = OwnCore(core)
look(1.0, 0.5)                                # it has not worked yet
own.begin(2.0); look(2.0 + LOOK_S / 2, 0.5)   # nor for long enough
look(2.0 + LOOK_S, 0.5 + LOOK_S)              # it had all of its core
look(3.0, 0.5 + LOOK_S)                       # and nothing since
own.end(3.0); look(3.0 + AWAY_S / 2, 1.0)
look(3.0 + AWAY_S, 1.0)                       # back, and what was before is forgotten
own.begin(20.0); own.end(20.0 + LOOK_S); look(21.0, 1.0 + LOOK_S)
"""


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="with one core it cannot move"
)
def test_a_process_leaves_its_core_while_it_starves_there_and_comes_back() -> None:
    """Only the time in which it works counts, and it comes back after a while."""
    said = subprocess.run([sys.executable, "-c", MOVE], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.split() == ["own", "own", "own", "all", "all", "own", "own"]


# In a process of its own, which cannot come back from it.
STAND = """
import os, sys
from imgproxy.render import scheduling
may_be_batch = True
try:
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
except OSError:
    may_be_batch = False
scheduling.SLICE_NS = int(sys.argv[1])
scheduling.step_back()
kinds = {os.SCHED_BATCH: "batch", os.SCHED_OTHER: "other"}
print(may_be_batch, kinds[os.sched_getscheduler(0)], os.getpriority(os.PRIO_PROCESS, 0), end=" ")
print(scheduling._become_batch() if kinds[os.sched_getscheduler(0)] == "batch" else False)
"""
HAS_SLICES = platform.system() == "Linux" and tuple(map(int, platform.release().split(".")[:2])) >= (6, 12)


@pytest.mark.skipif(platform.system() != "Linux", reason="batches are Linux's")
@pytest.mark.parametrize("slice_ns", [scheduling.SLICE_NS, 7])
def test_a_render_process_is_a_batch_only_where_the_kernel_takes_its_slice(slice_ns: int) -> None:
    """In slices of the usual length a batch would keep the edge waiting; no kernel takes one of 7 ns as it is."""
    said = subprocess.run(
        [sys.executable, "-c", STAND, str(slice_ns)], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    may_be_batch, kind, niceness, is_slice_taken = said.split()
    can_choose = HAS_SLICES and platform.machine() in scheduling._SET_AND_GET and may_be_batch == "True"
    is_batch = can_choose and slice_ns == scheduling.SLICE_NS
    assert kind == ("batch" if is_batch else "other")
    assert is_slice_taken == str(is_batch)
    assert int(niceness) == min(os.getpriority(os.PRIO_PROCESS, 0) + scheduling.NICENESS, 19)
