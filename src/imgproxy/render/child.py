"""
A render process from the inside: `python -m imgproxy.render.child FD [CORE]`.

It takes jobs from a socket, one at a time, and answers with facts. It ends itself when its memory passes the limit
(libvips crashes under RLIMIT_AS, pyvips#142, so a thread watches the resident size), when the edge goes away, and
when the socket closes; everything else that ends it is a crash, which the edge sees as one. It ignores the signals
that a terminal or a supervisor sends to a whole group: the edge decides when a render process stops.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import pickle
import re
import resource
import select
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from imgproxy import errors
from imgproxy.render.own_core import OwnCore
from imgproxy.render.scheduling import step_back
from imgproxy.workers import channel
from imgproxy.workers.channel import Done, Failed, Finished, Ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.workers.job import ProcessLimits, Rendered, RenderJob, SourceFacts

    Run = Callable[[RenderJob, ProcessLimits, Callable[[int, Rendered], None]], tuple[float, SourceFacts]]

# So fast can a decoder allocate and touch memory. The next look is due when it could have reached the limit, but not
# sooner than in 20 ms, in which it overshoots by at most 100 MB; and the parent is looked at now and then.
GROWTH_BYTES_PER_S: Final = 5e9
WATCH_LEAST_S: Final = 0.02
WATCH_MOST_S: Final = 0.25

# A process that has had nothing to do for so long gives its free memory back: 25 of 95 MB, in 5 ms. While jobs come it
# would only have to ask for it again.
REST_S: Final = 10.0

# How often the peak of the resident size is looked up. It only rises, and the kernel writes sixty lines to tell it:
# 70 us beside a render. A report may be behind by so much.
PEAK_EVERY_S: Final = 1.0

PAGE_BYTES: Final = resource.getpagesize()
_PEAK: Final = re.compile(rb"^VmHWM:\s*(\d+) kB", re.MULTILINE)


def main() -> None:
    """Serve the socket whose descriptor is the first argument, on the core that is the second, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    step_back()
    link = Link(socket.socket(fileno=int(sys.argv[1])))
    first = channel.receive(link.socket)
    if first is None:
        return
    limits: ProcessLimits = pickle.loads(first)  # noqa: S301 - from the edge that started this process
    memory = Memory()
    own_core = OwnCore(int(sys.argv[2]) if len(sys.argv) > 2 else None)
    watchdog = Watchdog(limits.memory_bytes, link, memory, own_core)
    watchdog.start()

    from imgproxy.render import pipeline, vips  # noqa: PLC0415 - libvips may crash or grow only under the watchdog

    vips.prepare()
    vips.warm_up()
    link.send(Ready(vips.version()))
    waiting = Waiting(link.socket, give_memory_back)
    while (payload := waiting.next_job()) is not None:
        own_core.begin(time.perf_counter())
        _serve(pipeline.run, channel.unpack_job(payload), limits, link, memory)
        own_core.end(time.perf_counter())


def _serve(run: Run, job: RenderJob, limits: ProcessLimits, link: Link, memory: Memory) -> None:
    """Run one job and say how it ended. What is no error of ours ends the process, as a crash does."""
    started = time.perf_counter()
    left = len(job.targets)
    last: list[channel.Message] = []

    def on_done(index: int, rendered: Rendered) -> None:
        nonlocal left
        left -= 1
        if left:
            link.send(Done(index, rendered))
        else:
            last.append(Done(index, rendered))  # it goes with the report, which follows at once: the edge wakes once

    try:
        opened_s, source = run(job, limits, on_done)
    except errors.ImgproxyError as exc:
        # A purge or an eviction takes the original away under the job; that is usual, and the edge starts over.
        if exc.__cause__ is not None and os.path.exists(job.original):
            # For the operator's log alone: libvips' words may hold paths, and may be very long.
            print(f"render: {exc.code}: {str(exc.__cause__)[:300]!r}", file=sys.stderr, flush=True)  # noqa: T201
        link.send(*last, Failed(exc, _settle(memory)))
    except FileNotFoundError:
        # As above, before the decoder saw it.
        link.send(*last, Failed(errors.CacheUnavailable(), _settle(memory)))
    except OSError as exc:
        print(f"render: {exc!r}", file=sys.stderr, flush=True)  # noqa: T201
        link.send(*last, Failed(errors.CacheUnavailable(), _settle(memory)))
    else:
        ended = time.perf_counter()
        render_s = ended - started - opened_s
        peak_bytes = memory.peak_bytes(ended)
        resident_bytes = _settle(memory)
        link.send(*last, Finished(source, opened_s, render_s, max(peak_bytes, resident_bytes), resident_bytes))


def _settle(memory: Memory) -> int:
    """Give memory back where a job left much of it, and return what stays resident."""
    gc.collect(0)
    return memory.resident_bytes()


class Waiting:
    """Waits for jobs, and calls `rest` once where none has come for `rest_s`."""

    def __init__(self, link: socket.socket, rest: Callable[[], None], rest_s: float = REST_S) -> None:
        self._link = link
        self._rest = rest
        self._rest_ms = rest_s * 1e3
        # Not `select.select`: the descriptor has the edge's number, which may be beyond what that takes.
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)

    def next_job(self) -> bytes | None:
        """The next job as it was sent; None when the edge has closed the socket."""
        if not self._poll.poll(self._rest_ms):
            self._rest()
        return channel.receive(self._link)


def give_memory_back() -> None:
    """
    Have glibc's allocator return the pages that nothing is in, wherever they lie.

    Source: malloc_trim(3). Allocators without that call return them in time by themselves.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Link:
    """The socket to the edge. Two threads may send: the job's and the watchdog's."""

    def __init__(self, link: socket.socket) -> None:
        self.socket = link
        self._lock = threading.Lock()

    def send(self, *messages: channel.Message) -> None:
        """Send messages in one go; a closed socket is the edge's wish to end."""
        words = channel.frame(channel.encode(*messages))
        with self._lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(words)


class Watchdog(threading.Thread):
    """Ends the process when it grows past the limit, or the edge that started it is gone; looks after its core."""

    def __init__(self, limit_bytes: int, link: Link, memory: Memory, own_core: OwnCore) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._limit_bytes = limit_bytes
        self._link = link
        self._memory = memory
        self._own_core = own_core
        self._parent = os.getppid()

    def run(self) -> None:
        """Look at the resident size, the parent and the core until the process ends."""
        while True:
            used_bytes = self._memory.resident_bytes()
            if used_bytes > self._limit_bytes:
                self._link.send(Failed(errors.RenderOutOfMemory(self._limit_bytes, used_bytes), used_bytes))
                os._exit(channel.EXIT_OUT_OF_MEMORY)
            if os.getppid() != self._parent:
                os._exit(channel.EXIT_PARENT_GONE)
            self._own_core.look(time.perf_counter(), time.process_time())
            time.sleep(pause_s(self._limit_bytes - used_bytes))


def pause_s(left_bytes: int) -> float:
    """How long the watchdog may look away from a process that has so much memory left."""
    return min(WATCH_MOST_S, max(WATCH_LEAST_S, left_bytes / GROWTH_BYTES_PER_S))


class Memory:
    """
    The process's resident size, now and at its largest so far, in bytes.

    From files of /proc that stay open, read without moving in them: to open one takes longer than to read it.
    """

    def __init__(self) -> None:
        self._now = _opened("statm", os.O_RDONLY)
        self._status = _opened("status", os.O_RDONLY)
        self._peak_bytes = 0
        self._peak_due_s = -math.inf

    def resident_bytes(self) -> int:
        """The resident size now. Source: proc(5), /proc/pid/statm, second field."""
        if self._now is None:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return int(os.pread(self._now, 256, 0).split()[1]) * PAGE_BYTES

    def peak_bytes(self, now_s: float) -> int:
        """The largest resident size so far, as of at most PEAK_EVERY_S before `now_s`. Source: proc(5), VmHWM."""
        if now_s >= self._peak_due_s:
            self._peak_due_s = now_s + PEAK_EVERY_S
            found = _PEAK.search(os.pread(self._status, 8192, 0)) if self._status is not None else None
            self._peak_bytes = int(found[1]) * 1024 if found is not None else 0
        return self._peak_bytes


def _opened(name: str, flags: int) -> int | None:
    """A file of this process in /proc, or None where there is none."""
    try:
        return os.open(f"/proc/self/{name}", flags | os.O_CLOEXEC)
    except OSError:
        return None


if __name__ == "__main__":
    main()
