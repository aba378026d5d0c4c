"""
A load generator for what wrk cannot do: bursts, arrivals on a timetable, a list of distinct URLs, checks of answers.

It must use little CPU, because the servers run on the same few cores. So it has one thread and epoll, encodes requests
before they are due, and parses answers after the run. In an open run, latency counts from when a request was due, not
from when a connection was free: a server that stalls cannot hide it (coordinated omission).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

RECEIVE_BYTES = 1 << 18
# In an open run and in a burst, answers are read this often. The kernel notes when they came, and a wake-up for each of
# them would cost as much CPU as sending its request.
READ_EVERY_S = 0.01
SAMPLE_TIMEOUT_S = 120.0
# socket(7): the time of arrival, as a control message with a struct timespec. Python has no name for the option.
SO_TIMESTAMPNS = 35
TIMESPEC = struct.Struct("@ll")
ARRIVAL_BYTES = socket.CMSG_SPACE(TIMESPEC.size)
URGENT = -15
AUTOGROUP = Path("/proc/self/autogroup")


@dataclass(frozen=True, slots=True)
class Request:
    """A GET, ready to be sent. `kind` sorts the samples; `due_s` counts from the start of an open run."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    due_s: float = 0.0

    def encoded(self) -> bytes:
        """Return the request as bytes."""
        parts = urlsplit(self.url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc}", *(f"{k}: {v}" for k, v in self.headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        return parts.hostname, parts.port or 80


@dataclass(frozen=True, slots=True)
class Ready:
    """A request, already encoded, and its host and port."""

    request: Request
    address: tuple[str, int]
    encoded: bytes


@dataclass(slots=True)
class Sample:
    """An answer. Times are of the monotonic clock. Status 0 means that the connection failed or timed out."""

    request: Request
    due_at: float
    first_at: float = 0.0
    last_at: float = 0.0
    status: int = 0
    head: bytes = b""
    size_bytes: int = 0
    body: bytes = b""

    @property
    def headers(self) -> dict[str, str]:
        """Parse the headers; names are lower case. Call it after the run: it costs CPU."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def first_s(self) -> float:
        """Return the seconds from when it was due to its first byte."""
        return self.first_at - self.due_at

    @property
    def latency_s(self) -> float:
        """Return the seconds from when it was due to its last byte."""
        return self.last_at - self.due_at


class Connection:
    """One keep-alive connection and the answer it is receiving."""

    __slots__ = ("_begun", "_chunked", "_length", "_received", "address", "is_last", "keep_body", "sample", "socket")

    def __init__(self, address: tuple[str, int], received: memoryview, *, keep_body: bool) -> None:
        self.address = address
        self._received = received
        self.keep_body = keep_body
        self.socket = socket.create_connection(address, timeout=10.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The kernel notes when bytes came. Of 300 answers at once, this client reads the last one much later.
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self.socket.setblocking(False)
        self.sample: Sample | None = None
        self._begun = b""
        self._length = 0
        self._chunked = False
        self.is_last = False

    def send(self, sample: Sample, encoded: bytes) -> None:
        """Send the sample's request. A request fits a socket buffer, so one call sends it all."""
        self.sample = sample
        self._begun = b""
        self.socket.send(encoded)

    def receive(self, now: float) -> bool:
        """
        Read the bytes that are there. Return whether the answer is complete.

        `now` counts as the time of arrival if the kernel noted none.

        Raises:
            ConnectionError: the server closed the connection.
        """
        sample = self.sample
        assert sample is not None
        try:
            count, arrival, _, _ = self.socket.recvmsg_into((self._received,), ARRIVAL_BYTES)
        except BlockingIOError:
            return False
        if not count:
            raise ConnectionResetError("the server closed the connection")
        arrived_at = _arrived_at(arrival, now)
        sample.first_at = sample.first_at or arrived_at
        data = self._received[:count]
        if not sample.head:
            begun = self._begun + data
            if (end := begun.find(b"\r\n\r\n")) < 0:
                self._begun = begun
                return False
            self._read_head(sample, begun[:end])
            data = memoryview(begun)[end + 4 :]
        sample.size_bytes += len(data)
        if self.keep_body or sample.status >= 400:
            sample.body += data
        is_whole = bytes(data[-5:]) == b"0\r\n\r\n" if self._chunked else sample.size_bytes >= self._length
        if is_whole:
            sample.last_at = arrived_at
        return is_whole

    def _read_head(self, sample: Sample, head: bytes) -> None:
        """Read what tells where the answer ends; the rest is parsed later."""
        sample.head = head
        sample.status = int(head[9:12])
        lower = head.lower()
        self._length = int(_value(lower, b"content-length") or 0) if sample.status not in (204, 304) else 0
        self._chunked = b"chunked" in _value(lower, b"transfer-encoding")
        self.is_last = _value(lower, b"connection") == b"close"


def _value(lower: bytes, name: bytes) -> bytes:
    """Return the value of a header in a lower-case head; empty if the header is missing."""
    _, found, rest = lower.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip() if found else b""


class Engine:
    """Sends requests: `closed` over a fixed number of connections, `open` when each is due, `burst` all at once."""

    def __init__(self, *, keep_bodies: bool = False, connections_max: int = 4000) -> None:
        self._keep_bodies = keep_bodies
        self._connections_max = connections_max
        self._epoll = select.epoll()
        # One buffer for all reads: a new one of this size would be mapped and unmapped for each read.
        self._received = memoryview(bytearray(RECEIVE_BYTES))
        self._busy: dict[int, Connection] = {}
        self._idle: dict[tuple[str, int], list[Connection]] = {}
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in (*self._busy.values(), *(one for several in self._idle.values() for one in several)):
            connection.socket.close()
        self._epoll.close()

    # --- the ways to load -----------------------------------------------------------------------------------------

    def closed(self, requests: Iterable[Request], connections: int) -> list[Sample]:
        """Send each request as soon as one of `connections` is free. Return the samples as they ended."""
        return self.closed_until(requests, connections, None)

    def closed_until(self, requests: Iterable[Request], connections: int, seconds: float | None) -> list[Sample]:
        """As `closed`, but no request begins after `seconds`."""
        begin = len(self.samples)
        waiting: Iterator[Request] = iter(requests)
        end_at = None if seconds is None else time.monotonic() + seconds
        free = connections
        while True:
            while free and (end_at is None or time.monotonic() < end_at):
                request = next(waiting, None)
                if request is None:
                    end_at = 0.0
                    break
                free -= self._begin(_ready(request), time.monotonic())
            if not self._busy:
                return self.samples[begin:]
            free += self._turn(1.0)

    def open(self, requests: Sequence[Request]) -> list[Sample]:
        """Send each request when it is due, whether or not the others are answered."""
        begin = len(self.samples)
        waiting = deque(_ready(request) for request in sorted(requests, key=lambda request: request.due_s))
        started_at = read_at = time.monotonic()
        while waiting or self._busy:
            now = time.monotonic()
            while waiting and started_at + waiting[0].request.due_s <= now:
                ready = waiting.popleft()
                self._begin(ready, started_at + ready.request.due_s)
            if not waiting:
                self._turn(0.2)
                continue
            if now >= read_at:
                self._turn(0.0)
                read_at = now + READ_EVERY_S
            until_due_s = started_at + waiting[0].request.due_s - time.monotonic()
            time.sleep(max(0.0, min(until_due_s, READ_EVERY_S)))
        return self.samples[begin:]

    def burst(self, requests: Sequence[Request]) -> list[Sample]:
        """Send all requests at once, over connections that are open already."""
        several = [_ready(request) for request in requests]
        for ready in several:
            self._idle.setdefault(ready.address, []).append(self._connect(ready.address))
        begin = len(self.samples)
        now = time.monotonic()
        for ready in several:
            self._begin(ready, now)
        while self._busy:
            time.sleep(READ_EVERY_S)
            self._turn(0.2)
        return self.samples[begin:]

    # --- one turn -------------------------------------------------------------------------------------------------

    def _connect(self, address: tuple[str, int]) -> Connection:
        connection = Connection(address, self._received, keep_body=self._keep_bodies)
        self._epoll.register(connection.socket.fileno(), select.EPOLLIN)
        return connection

    def _begin(self, ready: Ready, due_at: float) -> int:
        """Send a request. Return 1, or 0 if it failed at once."""
        sample = Sample(ready.request, due_at)
        idle = self._idle.get(ready.address)
        try:
            if len(self._busy) >= self._connections_max:
                raise ConnectionError("too many connections are open")
            connection = idle.pop() if idle else self._connect(ready.address)
            connection.send(sample, ready.encoded)
        except OSError:
            self._fail(sample)
            return 0
        self._busy[connection.socket.fileno()] = connection
        return 1

    def _turn(self, timeout_s: float) -> int:
        """Wait for bytes and read them. Return how many answers ended."""
        ended = 0
        events = self._epoll.poll(timeout_s)
        now = time.monotonic()
        for descriptor, _ in events:
            connection = self._busy.get(descriptor)
            if connection is None:
                self._forget(descriptor)
                continue
            try:
                if not connection.receive(now):
                    continue
            except OSError:
                self._drop(connection)
            else:
                self._settle(connection)
            ended += 1
        if not events:
            for connection in [one for one in self._busy.values() if _is_late(one, now)]:
                self._drop(connection)
                ended += 1
        return ended

    def _settle(self, connection: Connection) -> None:
        del self._busy[connection.socket.fileno()]
        assert connection.sample is not None
        self.samples.append(connection.sample)
        if connection.is_last:
            connection.socket.close()
        else:
            self._idle.setdefault(connection.address, []).append(connection)

    def _forget(self, descriptor: int) -> None:
        """Close an idle connection that the server has closed."""
        for several in self._idle.values():
            for connection in [one for one in several if one.socket.fileno() == descriptor]:
                several.remove(connection)
                connection.socket.close()

    def _drop(self, connection: Connection) -> None:
        del self._busy[connection.socket.fileno()]
        assert connection.sample is not None
        connection.sample.status = 0
        self._fail(connection.sample)
        connection.socket.close()

    def _fail(self, sample: Sample) -> None:
        sample.first_at = sample.first_at or time.monotonic()
        sample.last_at = time.monotonic()
        self.samples.append(sample)


def _ready(request: Request) -> Ready:
    """Encode a request before it is due, so that it takes no CPU from the server then."""
    return Ready(request, request.address, request.encoded())


def _arrived_at(noted: Sequence[tuple[int, int, bytes]], now: float) -> float:
    """Return when the kernel had these bytes, on the monotonic clock; `now` if it noted no time."""
    for level, kind, value in noted:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS) and len(value) == TIMESPEC.size:
            seconds, nanoseconds = TIMESPEC.unpack(value)
            return float(seconds - time.time() + nanoseconds / 1e9 + time.monotonic())
    return now


def _is_late(connection: Connection, now: float) -> bool:
    return connection.sample is not None and now - connection.sample.due_at > SAMPLE_TIMEOUT_S


def get(url: str, headers: Mapping[str, str] | None = None) -> Sample:
    """Send one GET and return its answer with the body."""
    with Engine(keep_bodies=True) as engine:
        (sample,) = engine.closed([Request(url, headers or {})], 1)
    return sample


@contextlib.contextmanager
def urgent() -> Iterator[None]:
    """
    Run at a higher priority than the servers, if the system allows it.

    A probe that waits for a core would count its own wait as the server's latency. If the kernel schedules by session
    (sched(7), autogroup), niceness only counts within a session, so the session gets a priority, too.
    """
    before = os.nice(0)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, URGENT)
        AUTOGROUP.write_text(f"{URGENT}\n", encoding="ascii")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, before)
            AUTOGROUP.write_text("0\n", encoding="ascii")
