"""
A render process from the inside: `python -m imgproxy.render.child FD`.

It takes jobs from a socket, one at a time, and answers with facts. It ends itself when its memory passes the limit
(libvips crashes under RLIMIT_AS, pyvips#142, so a thread watches the resident size), when the edge goes away, and
when the socket closes; everything else that ends it is a crash, which the edge sees as one. It ignores the signals
that a terminal or a supervisor sends to a whole group: the edge decides when a render process stops.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import resource
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from imgproxy import errors
from imgproxy.render import channel
from imgproxy.render.channel import Done, Failed, Finished, Ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.render.job import ProcessLimits, Rendered, RenderJob, SourceFacts

    Run = Callable[[RenderJob, ProcessLimits, Callable[[int, Rendered], None]], tuple[float, SourceFacts]]

# Between two looks a decoder can allocate and touch about 20 ms x 5 GB/s = 100 MB: the overshoot of the limit.
WATCH_EVERY_S: Final = 0.02

# Below the event loop, so that hits and health stay quick while renders take every core.
NICENESS: Final = 10

PAGE_BYTES: Final = resource.getpagesize()


def main() -> None:
    """Serve the socket whose descriptor is the first argument until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    step_back()
    link = Link(socket.socket(fileno=int(sys.argv[1])))
    first = channel.receive(link.socket)
    if first is None:
        return
    limits: ProcessLimits = pickle.loads(first)  # noqa: S301 - from the edge that started this process
    watchdog = Watchdog(limits.memory_bytes, link)
    watchdog.start()

    from imgproxy.render import pipeline, vips  # noqa: PLC0415 - libvips may crash or grow only under the watchdog

    vips.prepare()
    vips.warm_up()
    link.send(Ready(vips.version()))
    while (payload := channel.receive(link.socket)) is not None:
        _serve(pipeline.run, channel.unpack_job(payload), limits, link)


def step_back() -> None:
    """
    Let the edge go first, in its session but in a process group of our own, where a terminal's signals do not come.

    Where the kernel groups processes for scheduling by session, and most desktops and servers do, niceness counts
    within a session alone: from one of its own a render process would take as much of a core as the edge is given.
    Source: sched(7), "The autogroup feature".
    """
    os.setpgid(0, 0)
    os.nice(NICENESS)


def _serve(run: Run, job: RenderJob, limits: ProcessLimits, link: Link) -> None:
    """Run one job and say how it ended. What is no error of ours ends the process, as a crash does."""
    reset_peak()
    started = time.perf_counter()

    def on_done(index: int, rendered: Rendered) -> None:
        link.send(Done(index, rendered))

    try:
        opened_s, source = run(job, limits, on_done)
    except errors.ImgproxyError as exc:
        # A purge or an eviction takes the original away under the job; that is usual, and the edge starts over.
        if exc.__cause__ is not None and job.original.exists():
            # For the operator's log alone: libvips' words may hold paths, and may be very long.
            print(f"render: {exc.code}: {str(exc.__cause__)[:300]!r}", file=sys.stderr, flush=True)  # noqa: T201
        link.send(Failed(exc, _settle()))
    except FileNotFoundError:
        # As above, before the decoder saw it.
        link.send(Failed(errors.CacheUnavailable(), _settle()))
    except OSError as exc:
        print(f"render: {exc!r}", file=sys.stderr, flush=True)  # noqa: T201
        link.send(Failed(errors.CacheUnavailable(), _settle()))
    else:
        render_s = time.perf_counter() - started - opened_s
        peak_bytes = max(peak_resident_bytes(), resident_bytes())
        link.send(Finished(source, opened_s, render_s, peak_bytes, _settle()))


def _settle() -> int:
    """Give memory back where a job left much of it, and return what stays resident."""
    gc.collect(0)
    return resident_bytes()


class Link:
    """The socket to the edge. Two threads may send: the job's and the watchdog's."""

    def __init__(self, link: socket.socket) -> None:
        self.socket = link
        self._lock = threading.Lock()

    def send(self, message: channel.Message) -> None:
        """Send one message; a closed socket is the edge's wish to end."""
        with self._lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(channel.frame(channel.encode(message)))


class Watchdog(threading.Thread):
    """Ends the process when it grows past the limit, or when the edge that started it is gone."""

    def __init__(self, limit_bytes: int, link: Link) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._limit_bytes = limit_bytes
        self._link = link
        self._parent = os.getppid()

    def run(self) -> None:
        """Look at the resident size and the parent until the process ends."""
        while True:
            used_bytes = resident_bytes()
            if used_bytes > self._limit_bytes:
                self._link.send(Failed(errors.RenderOutOfMemory(self._limit_bytes, used_bytes), used_bytes))
                os._exit(channel.EXIT_OUT_OF_MEMORY)
            if os.getppid() != self._parent:
                os._exit(channel.EXIT_PARENT_GONE)
            time.sleep(WATCH_EVERY_S)


def resident_bytes() -> int:
    """The process's resident size now. Source: proc(5), /proc/pid/statm, second field."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_peak() -> None:
    """Begin a new peak of the resident size. Source: proc(5), /proc/pid/clear_refs, value 5."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def peak_resident_bytes() -> int:
    """The largest resident size since `reset_peak`. Source: proc(5), VmHWM."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
