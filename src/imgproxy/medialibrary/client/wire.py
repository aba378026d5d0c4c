"""
A connection for fetches, on the event loop: heads are read by aiohttp's parser, a body comes straight into its place.

A body whose length was announced is received into memory that whoever asked provides, with no bytes object and no
buffer in between; any other is taken apart by the parser: chunks, and what lasts as long as its connection. Threads
that receive by http.client take 0.4 ms of CPU more for 0.8 MB, most of it to wake up and for the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import re
import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.http_parser import HttpResponseParser
from aiohttp.streams import EMPTY_PAYLOAD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp.http_parser import RawResponseMessage
    from aiohttp.streams import StreamReader

KEEPALIVE_EXPIRY_S: Final = 4.0  # below the 5 s of Node's servers, whose close would race with our next request
PORTS: Final = {"http": 80, "https": 443}
FIELDS_MAX: Final = 100
LINE_MAX_BYTES: Final = 64 * 1024
# As much as a head nearly always has.
HEAD_READ_BYTES: Final = 4096
# What comes in pieces waits for its reader in no more than two of this size.
PIECE_BYTES: Final = 1024 * 1024
# Of line feeds alone as well: they are read for ends of lines (RFC 9112 section 2.2).
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_END_OF_CHUNKS: Final = b"\r\n\r\n"
_LENGTH_MAX_BYTES: Final = 1 << 62  # beyond any disk; the parser counts modulo four times that
_NO_CONTENT: Final = 204
_NOT_MODIFIED: Final = 304
_SWITCHING_PROTOCOLS: Final = 101


class WireError(Exception):
    """No connection, or one that broke off, or an answer that is none; the message says which, in one word."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a connection leads: `http` or `https`, a name or an address (IPv6 without brackets), a port."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port as they stand in a URL and in `Host` (RFC 9110 section 7.2). Raises ValueError for no name."""
        host = f"[{self.host}]" if ":" in self.host else self.host.encode("idna").decode()
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


class Answer:
    """An answer whose head is here; its body has a place of its own (`body`), or comes in pieces."""

    __slots__ = ("_message", "body", "connection", "is_chunked", "is_last", "length", "payload", "status")

    def __init__(self, connection: Connection, message: RawResponseMessage, payload: StreamReader) -> None:
        """Raises WireError for one that cannot be read."""
        if message.version not in {HttpVersion10, HttpVersion11}:
            raise WireError("UnknownProtocol")
        self._message = message
        self.connection = connection
        self.payload = payload
        self.status = message.code
        self.is_last = message.should_close
        self.is_chunked = message.chunked
        announced = self.header("content-length")  # the parser refuses one that is no number
        # What is framed in another way comes in pieces, and this does not matter to it.
        self.length = None if message.chunked or announced is None else int(announced)
        if self.length is not None and self.length > _LENGTH_MAX_BYTES:
            raise WireError("BadLength")
        if self.status in {_NO_CONTENT, _NOT_MODIFIED}:  # what is announced there never comes (RFC 9110 section 8.6)
            self.length, self.payload = 0, EMPTY_PAYLOAD
        self.body: memoryview | None = None

    def header(self, name: str) -> str | None:
        """The value of the first header of this name, a letter for each of its bytes."""
        value = self._message.headers.get(name)
        if value is None or value.isascii():
            return value
        return value.encode("utf-8", "surrogateescape").decode("latin-1")  # the parser reads UTF-8

    async def pieces(self) -> AsyncIterator[bytes]:
        """
        Give a body that has no place of its own, as it comes.

        Raises:
            WireError: the connection broke off.
        """
        while piece := await self.payload.readany():
            yield piece


# Gives memory for a body, told its answer's head; None has it come in pieces. OSError where there is none any more.
Room: TypeAlias = "Callable[[Answer], memoryview | None]"


class Connection(asyncio.BufferedProtocol):
    """
    One connection to one server, for one request at a time.

    To aiohttp's parser and its StreamReader it is the protocol that they pause and resume. `passage` is memory that
    all connections of a loop receive through: what is in it is taken before another reads.
    """

    def __init__(self, server: Server, passage: memoryview, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.good_until_s = 0.0
        self._passage = passage
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._broken: WireError | None = None  # what it ended by
        self._surplus: WireError | None = None  # what came behind an answer
        self._parser: HttpResponseParser | None = None  # while a head is expected, or a body comes in pieces
        self._room: Room = _no_room
        self._head: asyncio.Future[Answer] | None = None
        self._answer: Answer | None = None
        self._left: int | None = None  # of an announced body that comes in pieces
        self._tail = b""  # the last bytes of a head so far, or of a body in chunks
        self._into: memoryview | None = None  # where the rest of a body goes
        self._arrival: asyncio.Future[None] | None = None
        self._has_ended = False  # as the other side said, not as a connection that is torn does

    # --- a request ------------------------------------------------------------------------------------------------

    async def ask(self, request: bytes, room: Room) -> Answer:
        """
        Send a request and return its answer, the body still to come; `room` is asked for a place for it.

        Raises:
            WireError: the connection broke off, or what came is no answer.
            OSError: raised by `room`.
        """
        if self._transport is None:
            raise self._broken or WireError("NotConnected")
        self._answer = self._left = self._into = self._arrival = None
        self._tail = b""
        self._room = room
        self._head = self._loop.create_future()
        self._parser = HttpResponseParser(
            cast("Any", self),
            self._loop,
            PIECE_BYTES,
            max_line_size=LINE_MAX_BYTES,
            max_headers=FIELDS_MAX,
            max_field_size=LINE_MAX_BYTES,
            read_until_eof=True,
            auto_decompress=False,
        )
        self.good_until_s = time.monotonic() + KEEPALIVE_EXPIRY_S
        self._transport.write(request)
        return await self._head

    async def arrival(self) -> None:
        """
        Wait until a body that has a place of its own is there.

        Raises:
            WireError: the connection broke off.
        """
        if self._into is None:
            return
        if self._broken is not None:
            raise self._broken
        self._arrival = self._loop.create_future()
        await self._arrival

    def raise_if_more_came(self) -> None:
        """
        Look behind the body.

        Raises:
            WireError: more than was announced has come.
        """
        if self._surplus is not None:
            raise self._surplus

    def is_free(self) -> bool:
        """Whether all of its answer is here, and another request may follow."""
        answer = self._answer
        if answer is None or answer.is_last or self._into is not None:
            return False
        if answer.body is None and not answer.payload.is_eof():
            return False
        # Behind chunks may lie a part of an answer that nobody asked for, which only their end tells from nothing.
        return self.is_open() and (not answer.is_chunked or self._tail == _END_OF_CHUNKS)

    def is_open(self) -> bool:
        """Whether it may be used again, as far as the loop has heard."""
        return self._broken is None and self._transport is not None and time.monotonic() < self.good_until_s

    def is_usable(self) -> bool:
        """
        Whether it may be used again now.

        The kernel is asked as well: what the loop had no time to read yet, an end or bytes that nobody asked for, would
        be taken for the answer to the next request.
        """
        if self._transport is None or not self.is_open():
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """End it now: the other side sees its end at once, and who waits for an answer gets a WireError."""
        self._break(WireError("Closed"))

    # --- what the loop tells --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hear that it stands."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where the next bytes go."""
        del sizehint
        if self._into is not None:
            return self._into
        # Of what follows a head as little as possible comes with it, to be moved to its own place.
        return self._passage if self._answer is not None else self._passage[:HEAD_READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """Hear that they have come."""
        if self._into is None:
            self._take(bytes(self._passage[:nbytes]))
        else:
            self._has_come(nbytes)

    def eof_received(self) -> bool:
        """Hear that the other side has said all; over TLS it has to say so in TLS."""
        self._has_ended = True
        return False  # then this side has, too

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that it is over: the end of a body that lasts as long as its connection, or of one that is not whole."""
        self._transport = None
        if exc is None and self._has_ended and self._parser is not None and self._answer is not None:
            try:
                self._parser.feed_eof()
            except Exception as error:
                self._break(WireError(type(error).__name__))
        self._break(WireError(type(exc).__name__ if exc is not None else "BrokeOff"))

    # --- what the parser and its reader want ----------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether more may come."""
        return self._transport is not None

    def pause_reading(self) -> None:
        """Receive no more: the reader has enough. What is here already is taken apart all the same."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on."""
        del resume_parser
        if self._transport is not None:
            self._transport.resume_reading()

    # --- bytes ----------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        """Take bytes of a head, of a body that comes in pieces, or such as nobody asked for."""
        while data and self._answer is None and self._parser is not None:
            # Up to the end of a head, wherever it was cut in two: what follows it may have a place of its own.
            found = _END_OF_HEAD.search(self._tail + data)
            end = len(data) if found is None else found.end() - len(self._tail)
            self._tail = b"" if found is not None else (self._tail + data)[-2:]
            self._parse(data[:end])
            data = data[end:]
        if not data or self._broken is not None:
            return
        if self._into is not None:
            count = min(len(data), len(self._into))
            self._into[:count] = data[:count]
            self._has_come(count)
            data = data[count:]
        elif self._parser is not None and self._left != 0:
            count = len(data) if self._left is None else min(len(data), self._left)
            self._left = None if self._left is None else self._left - count
            self._parse(data[:count])
            data = data[count:]
        if data:
            self._end_with_surplus()

    def _has_come(self, count: int) -> None:
        """So many bytes have come to their place."""
        assert self._into is not None
        self._into = self._into[count:] if count < len(self._into) else None
        if self._into is None and self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def _parse(self, data: bytes) -> None:
        assert self._parser is not None
        is_chunked = self._answer is not None and self._answer.is_chunked
        try:
            messages, _, _ = self._parser.feed_data(data)
            for message, payload in messages:
                if self._answer is not None:
                    self._end_with_surplus()
                elif not 100 <= message.code < 200 or message.code == _SWITCHING_PROTOCOLS:
                    self._begin(Answer(self, message, payload))  # the others are interim (RFC 9110 section 15.2)
        except WireError as error:
            self._break(error)
        except Exception as exc:
            self._break(WireError(type(exc).__name__))
        if is_chunked:
            self._tail = (self._tail + data)[-len(_END_OF_CHUNKS) :]

    def _begin(self, answer: Answer) -> None:
        """The head is here. Raises WireError where more than a head was taken for one."""
        if answer.payload.total_bytes:
            raise WireError("BadHead")
        self._answer, self._left = answer, answer.length
        if self._head is None or self._head.done():
            return  # who asked has left
        try:
            room = self._room(answer) if answer.length else None
        except OSError as exc:
            self._head.set_exception(exc)
            self._break(WireError("NoRoom"))
            return
        if room is not None:
            self._into = answer.body = room[: answer.length]
        if room is not None or answer.length == 0:
            self._parser = None
        self._head.set_result(answer)

    def _end_with_surplus(self) -> None:
        """Something else came than was announced: nothing that follows could be told from another answer."""
        self._surplus = self._surplus or WireError("Surplus")
        self._break(self._surplus)

    def _break(self, error: WireError) -> None:
        """Nothing more is to be had here, and whoever waits hears of it."""
        if self._broken is not None:
            return
        self._broken = error
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        payload = self._answer.payload if self._answer is not None else None
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(error)
        for waited in (self._head, self._arrival):
            if waited is not None and not waited.done():
                waited.set_exception(error)


def _no_room(_: Answer) -> None:
    """Have every body come in pieces."""
