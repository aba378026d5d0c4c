"""
The thread that writes the log, and the bounded queue before it.

Code that logs must not wait for the reader of standard error: the reader may be stopped, and a pipe holds only 64 KiB.
So lines go into a queue. Those that do not fit are dropped and counted. When there is room again, a line says how many.

Lines are formatted and written in batches. To wake the thread for each line would cost more CPU than the line itself.
"""

from __future__ import annotations

import io
import os
import select
import threading
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

# Half a second of the access log at the rate of the benchmark's hits. The thread may hold as much again.
QUEUE_MAX_CHARS = 4_000_000
# What an entry of the queue takes beside its text, roughly.
ENTRY_CHARS = 300
# Lines wait this long for others. Warnings do not.
GATHER_S = 0.05
# This many lines are formatted and written at once. Other threads need the interpreter meanwhile.
BATCH_LINES = 250

# A line with its end, or a function that makes it.
Line: TypeAlias = "str | Callable[[], str]"


class LogWriter:
    """
    Writes lines to a file descriptor, from a thread of its own. It never raises, and only `flush` waits.

    `lines_lost` makes the line that says how many were dropped.
    """

    def __init__(
        self,
        descriptor: int,
        lines_lost: Callable[[int], str],
        *,
        queue_max_chars: int = QUEUE_MAX_CHARS,
        gather_s: float = GATHER_S,
    ) -> None:
        self.descriptor = descriptor
        self._lines_lost = lines_lost
        self._queue_max_chars = queue_max_chars
        self._gather_s = gather_s
        self.dropped = 0  # lines since the start
        # Reentrant: a finalizer may log while this thread is in `put`.
        self._lock = threading.RLock()
        self._queue: list[Line] = []
        self._queue_chars = 0
        self._unsaid = 0  # dropped lines that were not reported yet
        self._flushed: list[threading.Event] = []
        self._has_lines = threading.Event()
        self._is_urgent = threading.Event()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, line: Line, chars: int, *, is_urgent: bool = False) -> None:
        """Queue a line of about this many characters. Drop it if the queue is full."""
        with self._lock:
            if self._queue_chars + chars > self._queue_max_chars:
                self._drop(1)
                return
            self._queue.append(line)
            self._queue_chars += chars + ENTRY_CHARS
        if is_urgent:
            self._is_urgent.set()
        if not self._has_lines.is_set():
            self._has_lines.set()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all lines so far are written, at most `timeout_s`. Return whether they are."""
        flushed = threading.Event()
        with self._lock:
            self._flushed.append(flushed)
        self._is_urgent.set()
        self._has_lines.set()
        return flushed.wait(timeout_s)

    def _drop(self, count: int) -> None:
        with self._lock:
            self.dropped += count
            self._unsaid += count

    # --- the thread ---

    def _run(self) -> None:
        while True:
            self._has_lines.wait()
            self._is_urgent.wait(self._gather_s)
            # Cleared before the queue is taken: a line that comes later sets it again.
            self._has_lines.clear()
            self._is_urgent.clear()
            with self._lock:
                lines, self._queue = self._queue, []
                flushed, self._flushed = self._flushed, []
                unsaid, self._unsaid = self._unsaid, 0
                self._queue_chars = 0
            for start in range(0, len(lines), BATCH_LINES):
                batch = lines[start : start + BATCH_LINES]
                if not self._write(batch):
                    self._drop(len(batch))
            # They were dropped when all of `lines` were in the queue.
            if unsaid and not self._write([self._lines_lost(unsaid)]):
                with self._lock:
                    self._unsaid += unsaid
            for event in flushed:
                event.set()

    def _write(self, lines: list[Line]) -> bool:
        """Format and write lines. Return False if the reader is gone, the disk is full, or a line cannot be made."""
        try:
            text = "".join([line if isinstance(line, str) else line() for line in lines])
            # As Python's own standard error does: no character makes a line fail.
            rest = memoryview(text.encode("utf-8", "backslashreplace"))
            while rest:
                try:
                    rest = rest[os.write(self.descriptor, rest) :]
                except BlockingIOError:  # another process that has this pipe or terminal made it non-blocking
                    poll = select.poll()
                    poll.register(self.descriptor, select.POLLOUT)
                    poll.poll()
        except Exception:  # there is no other place to report it, and the thread must go on
            return False
        return True


def queued_stream(writer: LogWriter) -> io.TextIOWrapper:
    """Return a stream into the queue of a writer, for `sys.stderr`: warnings and tracebacks must not wait either."""
    raw: Any = _QueuedStream(writer)  # a raw stream is enough if nothing is buffered, as in `python -u`
    return io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)


class _QueuedStream(io.RawIOBase):
    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor that the writer writes to."""
        return self._writer.descriptor

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._writer.descriptor)

    def write(self, data: bytes) -> int:  # type: ignore[override] # any buffer: TextIOWrapper gives bytes
        """Queue a piece of text as it is."""
        self._writer.put(bytes(data).decode("utf-8", "replace"), len(data), is_urgent=True)
        return len(data)
