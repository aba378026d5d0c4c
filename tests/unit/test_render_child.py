"""The main program of a render process: its watchdog, its memory, its messages."""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from imgproxy.params.plan import RenderPlan
from imgproxy.render import child
from imgproxy.workers import channel
from imgproxy.workers.channel import Done, Finished
from imgproxy.workers.job import ProcessLimits, Rendered, RenderJob, RenderTarget
from imgproxy.workers.process import child_environment

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = ProcessLimits(memory_bytes=10**9, source_pixels=10**8, frames=10, output_px=8192)
BLOCK_BYTES = 50_000_000


# In a process of its own: in the tests' process, memory of earlier tests may be freed meanwhile.
MEASURE = f"""
from imgproxy.render import child
before_bytes = child.resident_bytes()
block = b"x" * {BLOCK_BYTES}
held_bytes = child.resident_bytes()
del block
print(*(size - before_bytes for size in (held_bytes, child.resident_bytes(), child.peak_bytes())))
"""


def test_memory_is_measured_now_and_at_its_peak() -> None:
    """Memory that was freed counts in the peak, and not in the present size."""
    output = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, timeout=60)
    held_bytes, after_bytes, peak_bytes = map(int, output.stdout.split())
    assert held_bytes > BLOCK_BYTES * 0.9
    assert after_bytes < BLOCK_BYTES * 0.1
    assert peak_bytes > BLOCK_BYTES * 0.9


def test_each_variant_is_reported_when_it_is_complete_and_the_last_with_the_job(tmp_path: Path) -> None:
    """The first of two variants is sent before the second is made; the last one is sent together with the report."""
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

    def run(job: RenderJob, _limits: ProcessLimits, on_done: object) -> None:
        assert callable(on_done)
        for index, target in enumerate(job.targets):
            on_done(index, Rendered(target.path, "image/webp", 1, "0" * 32, 1, 1))
            listen()

    with ours, theirs:
        child.serve_job(run, RenderJob(str(tmp_path / "original"), targets), LIMITS, child.Link(theirs))
        listen()

    assert [[type(message) for message in messages] for messages in heard] == [[Done], [], [Done, Finished]]
    assert [message.index for messages in heard for message in messages if isinstance(message, Done)] == [0, 1]


def test_a_process_returns_memory_once_while_it_waits_for_a_job() -> None:
    """`on_idle` is called if no job came in time, not if one is there, and not if the edge closes the socket."""
    ours, theirs = socket.socketpair()
    calls: list[str] = []

    def on_idle() -> None:
        calls.append("idle")
        theirs.sendall(channel.frame(b"late"))

    with ours, theirs:
        theirs.sendall(channel.frame(b"at once"))
        assert child.wait_for_job(ours, 60.0, on_idle) == b"at once"
        assert calls == []
        assert child.wait_for_job(ours, 0.01, on_idle) == b"late"
        assert calls == ["idle"]
        theirs.close()
        assert child.wait_for_job(ours, 60.0, on_idle) is None
        assert calls == ["idle"]


# Small blocks that stay in use keep the pages between them from the system.
SCATTERED = """
from imgproxy.render import child
before_bytes = child.resident_bytes()
blocks = [b"x" * 20_000 for _ in range(4_000)]
kept = blocks[::50]
del blocks
scattered_bytes = child.resident_bytes()
child.return_memory()
print(before_bytes, scattered_bytes, child.resident_bytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators do not have malloc_trim")
def test_free_memory_between_used_blocks_is_returned() -> None:
    """Of eighty megabytes in small blocks a fiftieth stays in use; nearly all of the rest goes back to the system."""
    environment = child_environment() | {"LD_PRELOAD": ""}
    command = [sys.executable, "-P", "-c", SCATTERED]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=environment)
    before_bytes, scattered_bytes, returned_bytes = map(int, done.stdout.split())

    assert scattered_bytes - before_bytes > 60_000_000
    assert returned_bytes - before_bytes < 10_000_000
