"""
Media Libraries that behave badly, over real sockets.

`scripted_origin` serves one picture, until a test sets another mode. `origin` gives the raw answers of a test in turn.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from imgproxy.medialibrary.client.client import MediaLibraryClient
from imgproxy.medialibrary.client.tokens import TokenSource

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

Mode = Literal[
    "ok",
    "hangs",
    "resets",
    "truncates",
    "announces too little",
    "announces too much",
    "serves HTML with 200",
    "answers 500",
    "answers 404 without the API's form",
    "refuses the token: 401",
    "refuses everything: 403 in the API's form",
    "refuses everything: 403 of a proxy",
]
REVOKED = "The requested image is revoked or marked as invalid"


class ScriptedOrigin:
    """Answers serve-image and every other call by its mode."""

    def __init__(self, picture: bytes) -> None:
        self.picture = picture
        self.mode: Mode = "ok"
        self.validator: Literal["strong", "weak", "none"] = "strong"
        self.listed: list[object] = []  # the answer of the keys API
        self.calls = 0
        self.pictures_sent = 0
        self.url = ""
        self._writers: set[asyncio.StreamWriter] = set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        self._writers.add(writer)
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.calls += 1
            await self._answer(request, writer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self._writers.discard(writer)

    async def _answer(self, request: str, writer: asyncio.StreamWriter) -> None:
        target = request.split(" ", 2)[1]
        is_image = "/serve-image/" in target
        etag = f'"{hashlib.sha256(self.picture).hexdigest()[:16]}"'
        if self.validator == "weak":
            etag = 'W/"the same for ever"'
        head = {"ETag": etag, "Content-Type": "image/png"}
        if self.validator == "none":
            del head["ETag"]
        size = len(self.picture)
        if self.mode == "hangs":
            await asyncio.Event().wait()
        elif self.mode == "resets":
            writer.transport.abort()
        elif self.mode == "truncates":
            writer.write(response(200, head, self.picture[: size // 2], announced=size))
        elif self.mode.startswith("announces"):
            announced = size // 2 if self.mode == "announces too little" else size + 100
            writer.write(response(200, head, self.picture, announced=announced))
        elif self.mode != "ok":
            writer.write(REFUSALS[self.mode])
        elif not is_image:
            body = json.dumps({"results": self.listed if target.endswith("/keys") else []}).encode()
            writer.write(response(200, {"Content-Type": "application/json"}, body))
        elif f"if-none-match: {etag}".lower() in request.lower():
            writer.write(response(304, head, b""))
        else:
            self.pictures_sent += 1
            writer.write(response(200, head, self.picture))

    def hang_up(self) -> None:
        """Cut the connections that hang."""
        for writer in list(self._writers):
            writer.transport.abort()


def response(status: int, headers: dict[str, str], body: bytes, announced: int | None = None) -> bytes:
    """An HTTP/1.1 answer, whatever length it announces."""
    lines = [f"HTTP/1.1 {status} Because", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body) if announced is None else announced}", "", ""]
    return "\r\n".join(lines).encode() + body


def api_error(status: int, error: str, message: str) -> bytes:
    """An error body in the API's form."""
    return json.dumps({"status": status, "error": error, "error_details": {"message": message}}).encode()


REFUSALS: dict[str, bytes] = {
    "serves HTML with 200": response(200, {"Content-Type": "text/html"}, b"<html>Please log in</html>"),
    "answers 500": response(500, {}, b"oops"),
    "answers 404 without the API's form": response(404, {"Content-Type": "text/html"}, b"<html>no such vhost</html>"),
    "refuses the token: 401": response(401, {}, api_error(401, "Unauthorized", "invalid token")),
    "refuses everything: 403 in the API's form": response(403, {}, api_error(403, "Forbidden", REVOKED)),
    "refuses everything: 403 of a proxy": response(403, {}, b"blocked"),
}


@asynccontextmanager
async def scripted_origin(picture: bytes) -> AsyncIterator[ScriptedOrigin]:
    """Serve until the block ends."""
    origin = ScriptedOrigin(picture)
    server = await asyncio.start_server(origin.answer, "127.0.0.1", 0)
    origin.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield origin
    finally:
        server.close()
        origin.hang_up()
        await asyncio.sleep(0)


# --- raw answers ---------------------------------------------------------------------------------------------------

Reply = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent; header names in small letters."""

    method: str
    target: str
    headers: dict[str, str]


@dataclass(slots=True)
class Origin:
    """A server that gives each request the next reply, and the last one for ever."""

    replies: list[Reply]
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, with as many requests as come."""
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                pairs = (line.split(": ", 1) for line in head[1:] if line)
                request = Request(method, target, {name.lower(): value for name, value in pairs})
                if length := int(request.headers.get("content-length", "0")):
                    await reader.readexactly(length)
                self.requests.append(request)
                reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                await reply(request, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self.connections.discard(task)


@asynccontextmanager
async def origin(*replies: Reply, tls: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
    """Answer with these, one after the other; with `tls` as https://localhost."""
    scripted = Origin(list(replies))
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0, ssl=tls)
    base = "http://127.0.0.1" if tls is None else "https://localhost"
    scripted.url = f"{base}:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        server.close()
        for task in list(scripted.connections):
            task.cancel()
        await asyncio.gather(*scripted.connections, return_exceptions=True)
        await server.wait_closed()


def says(head: str, body: bytes = b"", *, is_last: bool = False) -> Reply:
    """A reply as raw bytes; with `is_last` the connection ends after it."""

    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {head}\r\n\r\n".encode("latin-1") + body)
        await writer.drain()
        if is_last:
            raise ConnectionAbortedError

    return reply


async def hangs(_: Request, writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def hangs_in_the_body(_: Request, writer: asyncio.StreamWriter) -> None:
    """Send four of a hundred bytes."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    await writer.drain()
    await asyncio.Event().wait()


async def drops(_: Request, writer: asyncio.StreamWriter) -> None:
    """Close the connection without an answer."""
    raise ConnectionAbortedError


GOOD = says('200 OK\r\ncontent-length: 5\r\netag: "e"', b"hello")
EMPTY_LIST = says("200 OK\r\ncontent-length: 14", b'{"results":[]}')


def client_of(
    server: Origin,
    *,
    token: TokenSource | None = None,
    timeout_s: float = 20.0,
    max_attempts: int = 3,
    redirect_hosts: tuple[str, ...] = (),
) -> MediaLibraryClient:
    """Return a client of this origin."""
    source = token or TokenSource.literal("T")
    return MediaLibraryClient(
        server.url, token=source, timeout_s=timeout_s, max_attempts=max_attempts, redirect_hosts=redirect_hosts
    )
