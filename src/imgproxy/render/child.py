"""
The main program of a render process: `python -m imgproxy.render.child FD`.

It takes jobs from a socket, one at a time, and answers with facts. It ends itself if its memory passes the limit, if
the edge is gone, or if the socket closes. Every other end is a crash, and the edge sees it as one. It ignores the
signals that a terminal or a supervisor sends to a whole process group: the edge decides when a render process stops.
"""

from __future__ import annotations

import contextlib
import ctypes
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
import traceback
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from imgproxy import errors
from imgproxy.workers import channel
from imgproxy.workers.channel import Done, Failed, Finished, Ready

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgproxy.workers.job import ProcessLimits, Rendered, RenderJob

    Run = Callable[[RenderJob, ProcessLimits, Callable[[int, Rendered], None]], None]

# Below the event loop, so that hits and health stay quick while renders use every core.
NICENESS: Final = 10

# A job has a dozen files open.
FILES_MAX: Final = 256

# How often the watchdog looks. A decoder can allocate 5 GB/s, so the process may pass its limit by 100 MB.
WATCH_S: Final = 0.02

# Memory that one SVG may take while it is drawn, on top of what the process has. 16 MP are 64 MB, and each mask, blend
# or filter is a tile of 16 MB.
DRAWING_BYTES: Final = 400_000_000

# After this time without a job, a process returns free memory to the system: 25 of 95 MB, in 5 ms. Between jobs in
# quick succession, the process would have to allocate the memory again.
IDLE_S: Final = 10.0

# Of a traceback, the end tells most. It may hold text of the file.
TRACEBACK_CHARS: Final = 3_000
_UNPRINTABLE: Final = re.compile(r"[^\n -~]")

_PEAK: Final = re.compile(rb"^VmHWM:\s*(\d+) kB", re.MULTILINE)


def return_memory() -> None:
    """
    Let glibc's allocator return all free pages to the system, wherever they lie. Source: malloc_trim(3).

    Without this an idle process keeps a quarter of its memory, which the benchmark's memory row counts. Other
    allocators do not have the call, and return pages by themselves.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def main() -> None:
    """Serve the socket whose descriptor is the first argument, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Not the edge's limit, which may be a million: a library that calls select(2) fails above 1024.
    files_max = min(FILES_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    # A process group of its own keeps a terminal's signals away. The session stays the edge's: if the kernel schedules
    # by session, niceness only counts within a session. Source: sched(7), "The autogroup feature".
    os.setpgid(0, 0)
    os.nice(NICENESS)
    link = Link(socket.socket(fileno=int(sys.argv[1])))
    first = channel.receive(link.socket)
    if first is None:
        return
    limits: ProcessLimits = pickle.loads(first)  # noqa: S301 - from the edge, which started this process
    watchdog = Watchdog(limits.memory_bytes, link)
    watchdog.start()
    limits = replace(limits, drawing=partial(watchdog.drawing, limits.drawing_cpu_s))

    from imgproxy.render import fonts, pipeline, vips  # noqa: PLC0415 - libvips may crash or grow, so the watchdog starts first

    if (problem := vips.version_problem(vips.version())) is not None:
        sys.exit(problem)  # a line for the operator's log
    vips.prepare()
    vips.warm_up()
    link.send(Ready(vips.version()))
    if limits.warns_of_fonts:
        fonts.warn_if_none()
    while (payload := wait_for_job(link.socket)) is not None:
        serve_job(pipeline.run, pickle.loads(payload), limits, link)  # noqa: S301 - as above


def wait_for_job(
    link: socket.socket, idle_s: float = IDLE_S, on_idle: Callable[[], None] = return_memory
) -> bytes | None:
    """Return the next job as it was sent, or None if the edge has closed the socket. Call `on_idle` after `idle_s`."""
    poll = select.poll()  # not `select.select`: the descriptor may be above its limit of 1024
    poll.register(link, select.POLLIN)
    if not poll.poll(idle_s * 1000):
        on_idle()
    return channel.receive(link)


def serve_job(run: Run, job: RenderJob, limits: ProcessLimits, link: Link) -> None:
    """
    Run one job and send how it ended.

    An exception that nobody foresaw is reported like a crash, but the process goes on: no file may end it. Only
    MemoryError ends it.
    """
    started = time.perf_counter()
    left = len(job.targets)
    last: list[channel.Message] = []

    def on_done(index: int, rendered: Rendered) -> None:
        nonlocal left
        left -= 1
        if left:
            link.send(Done(index, rendered))
        else:
            last.append(Done(index, rendered))  # sent together with the report, which follows at once

    try:
        run(job, limits, on_done)
    except errors.ImgproxyError as exc:
        # A purge or an eviction can remove the original during the job. That is normal: the edge starts over.
        if exc.__cause__ is not None and os.path.exists(job.original):
            # Only for the operator's log: libvips' text may hold paths, and may be very long.
            print(f"render: {exc.code}: {str(exc.__cause__)[:300]!r}", file=sys.stderr, flush=True)  # noqa: T201
        link.send(*last, Failed(exc, resident_bytes()))
    except OSError as exc:
        if not isinstance(exc, FileNotFoundError):  # the original was removed before it was opened: as above
            print(f"render: {exc!r}", file=sys.stderr, flush=True)  # noqa: T201
        link.send(*last, Failed(errors.CacheUnavailable(), resident_bytes()))
    except MemoryError:
        raise
    except Exception:  # a fault of ours, or of a library, that this file brought to light
        found = _UNPRINTABLE.sub("?", traceback.format_exc()[-TRACEBACK_CHARS:])
        print(f"render: {found}", file=sys.stderr, flush=True)  # noqa: T201
        link.send(*last, Failed(errors.RenderCrashed(), resident_bytes()))
    else:
        resident = resident_bytes()
        link.send(*last, Finished(time.perf_counter() - started, max(peak_bytes(), resident), resident))


def resident_bytes() -> int:
    """Return the resident size of this process. Source: proc(5), /proc/pid/statm, second field."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # a system without /proc: the peak is the nearest figure
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_bytes() -> int:
    """
    Return the largest resident size so far, 0 without /proc. Source: proc(5), VmHWM.

    Not getrusage's ru_maxrss: it includes the size of the edge, which this process was forked from.
    """
    try:
        with open("/proc/self/status", "rb") as file:
            found = _PEAK.search(file.read())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found is not None else 0


class Link:
    """The socket to the edge. Two threads send: the one that renders, and the watchdog."""

    def __init__(self, link: socket.socket) -> None:
        self.socket = link
        self._lock = threading.Lock()

    def send(self, *messages: channel.Message) -> None:
        """Send messages in one frame. If the socket is closed, the edge wants this process to end: no error."""
        payload = channel.frame(channel.encode(*messages))
        with self._lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(payload)


class _Drawing(NamedTuple):
    """An SVG that is being drawn: the CPU time at its begin, and its limits."""

    began_s: float
    cpu_s: float
    limit_bytes: int


class Watchdog(threading.Thread):
    """
    Ends the process if it grows past the limit, if the edge is gone, or if an SVG takes too long.

    Not RLIMIT_AS: libvips crashes under it (pyvips issue 142).
    """

    def __init__(self, limit_bytes: int, link: Link) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._limit_bytes = limit_bytes
        self._link = link
        self._parent = os.getppid()
        self._drawing: _Drawing | None = None

    @contextlib.contextmanager
    def drawing(self, cpu_s: float) -> Iterator[None]:
        """Within this block, `cpu_s` of CPU and DRAWING_BYTES of memory may be used. librsvg cannot be interrupted."""
        self._drawing = _Drawing(time.process_time(), cpu_s, resident_bytes() + DRAWING_BYTES)
        try:
            yield
        finally:
            self._drawing = None

    def run(self) -> None:
        """Check the resident size and the parent until the process ends."""
        while True:
            used_bytes, drawing = resident_bytes(), self._drawing
            limit_bytes = min(self._limit_bytes, drawing.limit_bytes) if drawing else self._limit_bytes
            if used_bytes > limit_bytes:
                self._link.send(Failed(errors.RenderOutOfMemory(limit_bytes, used_bytes), used_bytes))
                os._exit(channel.EXIT_OUT_OF_MEMORY)
            if drawing and (spent_s := time.process_time() - drawing.began_s) > drawing.cpu_s:
                self._link.send(Failed(errors.RenderTimeout(drawing.cpu_s, spent_s), used_bytes))
                os._exit(channel.EXIT_TOO_SLOW)
            if os.getppid() != self._parent:
                os._exit(channel.EXIT_PARENT_GONE)
            time.sleep(WATCH_S)


if __name__ == "__main__":
    main()
