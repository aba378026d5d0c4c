"""Connections that are kept for the next fetch, as long as their server is likely to listen."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final

from aiohappyeyeballs import start_connection

from imgproxy.medialibrary.client.wire import Answer, Connection, Room, Server, WireError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

# What has no place of its own is received in pieces of this size at most.
PASSAGE_BYTES: Final = 256 * 1024
# Where a name has several addresses, the next is tried after this time as well (RFC 8305 section 5).
NEXT_ADDRESS_S: Final = 0.25


class Connections:
    """Connections of one event loop, up to `max_idle` of them while nobody uses them. Proxy variables are not read."""

    def __init__(self, *, max_idle: int, connect_timeout_s: float, ssl_context: ssl.SSLContext) -> None:
        self._max_idle = max_idle
        self._connect_timeout_s = connect_timeout_s
        self._ssl_context = ssl_context
        self._passage = memoryview(bytearray(PASSAGE_BYTES))
        self._idle: list[Connection] = []  # the one used longest ago first
        self._busy: set[Connection] = set()
        self._is_closed = False

    async def ask(self, server: Server, target: str, headers: Mapping[str, str], room: Room) -> Answer:
        """
        Send a GET and return its answer, the body still to come; `put_back` it in the end.

        Raises:
            WireError: no connection, or one that broke off, or an answer that is none.
            OSError: raised by `room`.
            ValueError: what is to be sent is no line of a request.
        """
        request = _request(server, target, headers)
        connection = self._idle_one(server) or await self._new_one(server)
        self._busy.add(connection)
        try:
            self._raise_if_closed()
            return await connection.ask(request, room)
        except BaseException:
            self._busy.discard(connection)
            connection.close()
            raise

    def put_back(self, answer: Answer) -> None:
        """Keep the connection of an answer that has come whole; close any other, as its rest is in the way."""
        connection = answer.connection
        self._busy.discard(connection)
        if connection.is_free():
            self._idle.append(connection)
        else:
            connection.close()
        while self._idle and (len(self._idle) > self._max_idle or not self._idle[0].is_open()):
            self._idle.pop(0).close()

    def close(self) -> None:
        """Close all, for good; who waits for an answer, or asks for one, gets a WireError."""
        self._is_closed, self._max_idle = True, 0
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()

    def _raise_if_closed(self) -> None:
        if self._is_closed:
            raise WireError("Closed")

    def _idle_one(self, server: Server) -> Connection | None:
        for connection in [one for one in reversed(self._idle) if one.server == server]:
            self._idle.remove(connection)
            if connection.is_usable():
                return connection
            connection.close()
        return None

    async def _new_one(self, server: Server) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                places = await loop.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
                # An address that does not answer must not take the time of the next one, which uvloop lets it.
                sock = await start_connection(places, happy_eyeballs_delay=NEXT_ADDRESS_S)
                return await self._over(sock, server, loop)
        except OSError as exc:  # also a TimeoutError, or one of TLS
            raise WireError(type(exc).__name__) from exc

    async def _over(self, sock: socket.socket, server: Server, loop: asyncio.AbstractEventLoop) -> Connection:
        secure: dict[str, Any] = {}
        if server.scheme == "https":
            secure = {"ssl": self._ssl_context, "server_hostname": server.host}
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(server, self._passage, loop), sock=sock, **secure
            )
        except BaseException:
            sock.close()
            raise
        return connection


def _request(server: Server, target: str, headers: Mapping[str, str]) -> bytes:
    """
    A GET as it is sent.

    Raises:
        ValueError: the target, or a header, would be more than one line.
    """
    lines = [f"GET {target} HTTP/1.1", f"host: {server.authority}"]
    lines += (f"{name}: {text}" for name, text in headers.items())
    request = "\r\n".join([*lines, "", ""])
    if request.count("\n") != len(lines) + 1 or request.count("\r") != len(lines) + 1 or "\0" in request:
        raise ValueError("what is to be sent is no line of a request")
    return request.encode("latin-1")
