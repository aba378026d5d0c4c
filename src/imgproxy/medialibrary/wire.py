"""
Connections for blocking fetches, by http.client: each can be cut from another thread, and says what came amiss.

What http.client does not do: cut, look behind a body for bytes that nobody announced, skip interim answers (RFC 9110
section 15.2), keep connections for the next call, and give an idle one up before a Node server closes it. What urllib3
does around it takes 0.8 ms of CPU a fetch, http.client itself 0.2.
"""

from __future__ import annotations

import http.client
import os
import select
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from imgproxy.medialibrary.fields import read_fields

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from imgproxy.medialibrary.fields import Fields

KEEPALIVE_EXPIRY_S: Final = 4.0  # below the 5 s of Node's servers, whose close would race with our next request
# Received, hashed and written at once, if so much is there. For 6.5 MB 9 ms of CPU; pieces of 120 kB, which stay in the
# processor's own cache, take 15; to wait until it is full takes 11: what has come is hashed while more comes.
READ_BYTES: Final = 1024 * 1024
# What is read of a body at a time that nobody wants.
_REST_BYTES: Final = 16 * 1024


class WireError(Exception):
    """No connection, or one that broke off, or an answer that is none; the message says which, in one word."""


class CutError(WireError):
    """The fetch was given up by whoever waited for it."""


class Lifeline:
    """Ends what a thread waits for, from outside. One a fetch; `cut` may be called at any time, by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.is_cut = False
        self.has_file = False

    def hold(self, sock: socket.socket) -> None:
        """
        Hold on to the socket that is waited for.

        A descriptor of our own: the thread may close its one at any time, and the system give its number to another.

        Raises:
            CutError: the fetch was given up already.
            OSError: there are no more descriptors.
        """
        with self._lock:
            self._let_go()
            self.raise_if_cut()
            self._socket = socket.socket(sock.family, sock.type, sock.proto, fileno=os.dup(sock.fileno()))

    def raise_if_cut(self) -> None:
        """
        End the fetch here where it was given up.

        Raises:
            CutError: it was.
        """
        if self.is_cut:
            raise CutError

    def let_go(self) -> None:
        """The fetch is over."""
        with self._lock:
            self._let_go()

    def cut(self) -> None:
        """End the connection now: a read under way returns at once, and the other side sees its end."""
        with self._lock:
            self.is_cut = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _let_go(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Answer(http.client.HTTPResponse):
    """An answer that is an error where its length is in doubt, or where less or more comes than was announced."""

    connection: Connection

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._wire = sock
        # Set where the body ended as it should: only then may the connection be used again.
        self.is_whole = False
        self._is_begin = True

    def begin(self) -> None:
        """Read the head. What http.client makes of it is the same but for its fields, see `fields`."""
        version, status, self.reason = self._read_status()  # type: ignore[attr-defined] # not in typeshed
        while 100 <= status < 200 and status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            read_fields(self.fp)
            version, status, self.reason = self._read_status()  # type: ignore[attr-defined]
        if not version.startswith(("HTTP/1.", "HTTP/0.9")):
            raise http.client.UnknownProtocol(version)
        self.code = self.status = status
        self.version = 10 if version in {"HTTP/1.0", "HTTP/0.9"} else 11
        fields = read_fields(self.fp)
        self.headers = self.msg = fields  # type: ignore[assignment] # of its methods only `get` is called
        self.chunked = (fields.get("transfer-encoding") or "").lower() == "chunked"
        self.chunk_left = None
        self.length = None if self.chunked else _announced_bytes(fields)
        if status in {http.HTTPStatus.NO_CONTENT, http.HTTPStatus.NOT_MODIFIED, http.HTTPStatus.SWITCHING_PROTOCOLS}:
            self.length = 0
        self.will_close = self._check_close() or (self.length is None and not self.chunked)  # type: ignore[attr-defined]

    def receive(self, into: memoryview) -> int:
        """
        Take what there is of the body, at most as much as fits, and return how much; 0 at its end.

        No bytes are made for it and no buffer lies between: with one view for all of them, a fetch allocates nothing.

        Raises:
            WireError: the connection broke off, or something else came than was announced.
        """
        try:
            count = self._received(into)
        except (http.client.HTTPException, OSError) as exc:
            raise WireError(type(exc).__name__) from exc
        self.is_whole = self.isclosed()
        return count

    def read(self, amt: int | None = None) -> bytes:
        """Return at most `amt` bytes of the body, or all that is left; none at its end. Raises as `receive` does."""
        view = memoryview(bytearray(_REST_BYTES if amt is None else amt))
        body = bytes(view[: self.receive(view)])
        while amt is None and (count := self.receive(view)):
            body += view[:count]
        return body

    def _received(self, into: memoryview) -> int:
        if self.fp is None:
            return 0
        if self.chunked:
            return self.readinto(into)
        if self.length is None:  # as long as the connection lasts
            return self.fp.readinto1(into)
        count = self._received_of(into[: self.length]) if self.length else 0
        if self.length and not count:
            raise http.client.IncompleteRead(b"", self.length)
        self.length -= count
        if self.length == 0:
            if self._is_more_there():
                raise http.client.HTTPException("more than the announced length came")
            self.close()
        return count

    def _received_of(self, into: memoryview) -> int:
        """Take a part of an announced body; what came with the head is the begin of the next piece."""
        count = self.fp.readinto1(into)
        if self._is_begin:
            self._is_begin = False
            if 0 < count < len(into):
                count += self.fp.readinto1(into[count:])
        return count

    def _is_more_there(self) -> bool:
        """Whether bytes lie in the buffer or in the kernel; does not wait for any."""
        try:
            timeout_s = self._wire.gettimeout()
            self._wire.settimeout(0)
            try:
                return bool(self.fp.peek(1))
            finally:
                self._wire.settimeout(timeout_s)
        except (OSError, ValueError):
            return False  # nothing yet, or a TLS record that is not whole


def _announced_bytes(fields: Fields) -> int | None:
    lengths = set(fields.get_all("content-length"))
    if not lengths:
        return None
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit()):
        raise http.client.HTTPException("a Content-Length that is none")
    return int(length)


@dataclass(frozen=True, slots=True)
class Server:
    """Where a connection leads: `http` or `https`, a name or an address (IPv6 without brackets), a port."""

    scheme: str
    host: str
    port: int


class Connection(http.client.HTTPConnection):
    """A connection to one server; over TLS it is a `_SecureConnection`."""

    response_class = Answer
    server: Server
    read_timeout_s: float
    good_until_s = 0.0

    def connect(self) -> None:
        """Connect, with the time that this may take, and from then on wait as long as reads may take."""
        super().connect()
        self.sock.settimeout(self.read_timeout_s)

    def ask(self, target: str, headers: Mapping[str, str], lifeline: Lifeline) -> Answer:
        """Send a GET and return its answer, the body unread."""
        if self.sock is None:
            self.connect()
        lifeline.hold(self.sock)
        self.putrequest("GET", target, skip_accept_encoding=True)
        for name, value in headers.items():
            self.putheader(name, value)
        self.endheaders()
        self.good_until_s = time.monotonic() + KEEPALIVE_EXPIRY_S
        answer = self.getresponse()
        assert isinstance(answer, Answer)
        answer.connection = self
        return answer

    def is_usable(self) -> bool:
        """Whether the server may still be listening; bytes that nobody asked for, or the end, say that it is not."""
        if self.sock is None or time.monotonic() >= self.good_until_s:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)


class _SecureConnection(Connection, http.client.HTTPSConnection):
    pass


class Connections:
    """Connections that are kept between calls, up to `max_idle`. Any thread may ask. Proxy variables are not read."""

    def __init__(
        self, *, max_idle: int, connect_timeout_s: float, read_timeout_s: float, ssl_context: ssl.SSLContext
    ) -> None:
        self._max_idle = max_idle
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._ssl_context = ssl_context
        self._lock = threading.Lock()
        self._idle: list[Connection] = []  # the one used longest ago first
        self._is_closed = False

    def ask(self, server: Server, target: str, headers: Mapping[str, str], lifeline: Lifeline) -> Answer:
        """
        Send a GET and return its answer, the body unread; `put_back` it in the end.

        Raises:
            WireError: no connection, or one that broke off, or an answer that is none; or it was cut.
        """
        connection = self._idle_one(server) or self._new_one(server)
        try:
            return connection.ask(target, headers, lifeline)
        except (http.client.HTTPException, OSError) as exc:
            connection.close()
            raise WireError(type(exc).__name__) from exc
        except BaseException:
            connection.close()
            raise

    def put_back(self, answer: Answer) -> None:
        """Keep the connection of an answer that was read to its end; close any other, as its rest is in the way."""
        connection = answer.connection
        if answer.length == 0:  # nothing that would have to be read: of a redirect, or a refusal
            with suppress(WireError):
                answer.read()
        answer.close()
        if not answer.is_whole or connection.sock is None:
            connection.close()
            return
        with self._lock:
            self._idle.append(connection)
            now_s, idle_max, gone = time.monotonic(), 0 if self._is_closed else self._max_idle, []
            while self._idle and (len(self._idle) > idle_max or self._idle[0].good_until_s <= now_s):
                gone.append(self._idle.pop(0))
        for one in gone:
            one.close()

    def close(self) -> None:
        """Close those that are idle now, and the others as they are put back."""
        with self._lock:
            self._is_closed = True
            gone, self._idle = self._idle, []
        for one in gone:
            one.close()

    def _idle_one(self, server: Server) -> Connection | None:
        while True:
            with self._lock:
                connection = next((one for one in reversed(self._idle) if one.server == server), None)
                if connection is None:
                    return None
                self._idle.remove(connection)
            if connection.is_usable():
                return connection
            connection.close()

    def _new_one(self, server: Server) -> Connection:
        connection: Connection
        if server.scheme == "https":
            connection = _SecureConnection(
                server.host, server.port, timeout=self._connect_timeout_s, context=self._ssl_context
            )
        else:
            connection = Connection(server.host, server.port, timeout=self._connect_timeout_s)
        connection.server = server
        connection.read_timeout_s = self._read_timeout_s
        return connection
