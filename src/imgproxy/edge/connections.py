"""
The limits of connections: how many there are, and how long a client may let the service wait for it.

Only connections that wait for their client are looked at, once a second. All others cost nothing here. aiohttp itself
limits idle connections, and bodies that nobody reads. `bodies` limits the bodies that are read.
"""

from __future__ import annotations

import asyncio
import fcntl
import heapq
import logging
import socket
import struct
import sys
import termios
from array import array
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from imgproxy.background import Background
from imgproxy.telemetry import metric_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.http_parser import RawRequestMessage

    from imgproxy.config.sections import ServerSettings
    from imgproxy.edge.descriptors import Descriptors
    from imgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# How often the connections that wait for their client are looked at. A limit shorter than four times this makes it more
# often.
LOOK_EVERY_S = 1.0
# At `connections_max` this share of it is closed at once: to find the idle ones, all connections are looked at.
CLOSED_AT_ONCE = 1 / 100
# Most bytes that the kernel takes before it can send them (TCP_NOTSENT_LOWAT). Without this it takes up to 4 MB for a
# client that does not read.
KERNEL_MAX_BYTES = 256 * 1024
# SO_LINGER: on, for 0 seconds. The connection is then reset, and no byte of it is left in the kernel (socket(7)).
RESET = struct.pack("ii", 1, 0)
# An unread body is read and thrown away, in pieces of this size.
READ_BYTES = 64 * 1024


class Limits:
    """
    The open connections, and those of them that wait for their client.

    At `connections_max` a new connection takes the place of the one that has been idle the longest, as in nginx. To
    stop accepting would be simpler, but then idle connections of strangers would keep everybody out, health checks
    included. If no connection is idle, the new one is closed: a CDN or nginx then tries another node at once. In the
    kernel's queue it would wait without an answer.
    """

    def __init__(self, settings: ServerSettings, descriptors: Descriptors, metrics: Metrics) -> None:
        self._settings = settings
        self._descriptors = descriptors
        self._closed = metrics.connections_closed
        self._open: set[Connection] = set()
        self._of_address: Counter[str] = Counter()
        # When each unfinished head began. The oldest is first.
        self._heads: dict[Connection, float] = {}
        # Answers that the kernel did not take at once: when the client's time ends, and what was unread when last seen.
        self._readers: dict[Connection, tuple[float, int]] = {}
        self._is_none_idle = False  # until the next look; else each refusal would look at all connections
        self._background = Background("connections")
        self.close = self._background.close
        metrics.watch(metric_table.CONNECTIONS, lambda: len(self._open))

    def start(self) -> None:
        """Begin to look at the connections."""
        self._background.begin(self._look_for_ever)

    async def _look_for_ever(self) -> None:
        every_s = min(LOOK_EVERY_S, self._settings.head_timeout_s / 4, self._settings.send_timeout_s / 4)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(every_s)
            self.look(loop.time())

    def admit(self, connection: Connection, descriptor: int) -> bool:
        """Count a new connection, which has this file descriptor. False: it is one too many, and must be closed."""
        settings, address = self._settings, connection.address
        if 0 < settings.connections_per_address_max <= self._of_address[address]:
            self._closed.labels(reason="address").inc()
            return False
        if len(self._open) >= settings.connections_max and not self._make_room():
            self._closed.labels(reason="full").inc()
            return False
        if not self._descriptors.admits_connection(descriptor):
            return False
        self._open.add(connection)
        self._of_address[address] += 1
        return True

    def _make_room(self) -> bool:
        """Close the connections that have been idle the longest. Return whether there was one."""
        if self._is_none_idle:
            return False
        idle = [(since_s, id(item), item) for item in self._open if (since_s := item.idle_since_s()) is not None]
        count = max(1, round(self._settings.connections_max * CLOSED_AT_ONCE))
        for _, _, connection in heapq.nsmallest(count, idle):
            self._close(connection, "room")
        if not idle:
            self._is_none_idle = True
            log.warning("connections_max is reached and no connection is idle: new ones are closed")
        return bool(idle)

    def forget(self, connection: Connection) -> None:
        """Stop counting a connection. A second call is harmless."""
        self.end_head(connection)
        self.end_slow_answer(connection)
        if connection in self._open:
            self._open.discard(connection)
            self._of_address[connection.address] -= 1
            if not self._of_address[connection.address]:
                del self._of_address[connection.address]

    def begin_head(self, connection: Connection, now_s: float) -> None:
        """Wait for the rest of a head. `now_s` is of the loop's clock."""
        self._heads[connection] = now_s

    def end_head(self, connection: Connection) -> None:
        """Stop waiting for a head."""
        self._heads.pop(connection, None)

    def begin_slow_answer(self, connection: Connection, now_s: float) -> None:
        """Wait for a client: the kernel has not taken a whole answer. `now_s` is of the loop's clock."""
        self._readers[connection] = now_s + self._settings.send_timeout_s, 0

    def end_slow_answer(self, connection: Connection) -> None:
        """The kernel has the whole answer."""
        self._readers.pop(connection, None)

    def look(self, now_s: float) -> None:
        """Close the connections that are over a limit. `now_s` is of the loop's clock."""
        self._is_none_idle = False
        began_too_early_s = now_s - self._settings.head_timeout_s
        for connection, began_s in list(self._heads.items()):
            if began_s > began_too_early_s:
                break
            self._close(connection, "head")
        # Each byte that a client takes gives it time, but never more than `send_timeout_s` from now. A client's kernel
        # tells in steps what was read: a 16th of its receive buffer (400 kB at most), on the loopback 128 kB. So with a
        # short limit, clients above the least rate are cut, too.
        timeout_s, second_per_byte = self._settings.send_timeout_s, 1 / self._settings.send_min_bytes_per_s
        for connection, (until_s, left_bytes) in list(self._readers.items()):
            unread_bytes = connection.unread_bytes()
            read_bytes = max(0, left_bytes - unread_bytes)
            until_s = min(now_s + timeout_s, until_s + read_bytes * second_per_byte)  # noqa: PLW2901
            if until_s <= now_s:
                self._close(connection, "reader")
            else:
                self._readers[connection] = until_s, unread_bytes

    def _close(self, connection: Connection, reason: str) -> None:
        self._closed.labels(reason=reason).inc()
        self.forget(connection)  # the loop reports the end of a connection later
        connection.cut()


class Connection(RequestHandler):
    """A connection with limits. It uses nothing of aiohttp but the callbacks of asyncio's protocols."""

    __slots__ = ("_limits", "_wire", "address")

    def __init__(self, server: LimitedServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._limits = server.limits
        # aiohttp forgets its transport when it closes it, but then bytes may still be on their way.
        self._wire: asyncio.Transport | None = None
        self.address = ""  # of the client; a proxy in front is the client here

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection. Its `drain` waits until the kernel has all bytes: then an answer is sent."""
        super().connection_made(transport)
        self._wire = cast("asyncio.Transport", transport)
        self._wire.set_write_buffer_limits(high=0)
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if isinstance(peer, tuple) else ""
        wire = transport.get_extra_info("socket")
        if sys.platform == "linux":
            with suppress(OSError):  # the client has just left
                wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_MAX_BYTES)
        if not self._limits.admit(self, wire.fileno()):
            self.cut()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._limits.forget(self)
        self._wire = None
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The kernel does not take the whole answer: the client is slower than this service."""
        super().pause_writing()
        self._limits.begin_slow_answer(self, self._loop.time())

    def resume_writing(self) -> None:
        """The kernel has the whole answer."""
        super().resume_writing()
        self._limits.end_slow_answer(self)

    def is_flushed(self) -> bool:
        """Whether the kernel has all bytes that were written. A transport that is closing still sends its buffer."""
        return self._wire is None or self._wire.get_write_buffer_size() == 0

    def unread_bytes(self) -> int:
        """How many bytes the client has not acknowledged: those in this process and those in the kernel."""
        if self._wire is None:
            return 0
        in_kernel = array("i", (0,))
        # A kernel that does not tell: then the bytes in this process are all we know.
        with suppress(OSError, ValueError):
            fcntl.ioctl(self._wire.get_extra_info("socket").fileno(), termios.TIOCOUTQ, in_kernel)  # tcp(7): SIOCOUTQ
        return self._wire.get_write_buffer_size() + in_kernel[0]

    def idle_since_s(self) -> float | None:
        """When the last answer ended, in seconds of the loop's clock. None: it is not idle, or that is not known."""
        return None

    def cut(self) -> None:
        """Close the connection, also in the middle of an answer. Then the kernel throws away what it has not sent."""
        is_flushed, wire, self._wire = self.is_flushed(), self._wire, None
        if wire is None:
            return
        if not is_flushed:
            with suppress(OSError):  # the client has just left
                wire.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        wire.abort()


class LimitedServer(web.Server):
    """A server whose connections have limits."""

    def __init__(self, handler: Callable[[web.BaseRequest], Any], limits: Limits, **options: Any) -> None:
        super().__init__(handler, request_factory=self._request, **options)
        self.limits = limits
        # From now on each answer ends its connection. So no connection is in use when the port closes: one that is
        # closed while its client writes the next request loses that request.
        self.is_leaving = False

    def _request(self, message: RawRequestMessage, *parts: Any) -> web.BaseRequest:
        """Make the request of a message."""
        return self._make_request(message._replace(should_close=True) if self.is_leaving else message, *parts)

    def __call__(self) -> RequestHandler:
        """Make the protocol of a new connection."""
        return Connection(self, loop=self._loop, **self._kwargs)


def limit_options(settings: ServerSettings) -> dict[str, Any]:
    """Return the limits that aiohttp keeps itself, as options of a server."""
    return {
        "keepalive_timeout": settings.idle_timeout_s,
        "lingering_time": settings.body_timeout_s,
        "read_bufsize": READ_BYTES,
    }
