"""Fetches end when they are given up, and what origins do amiss does no harm. Over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import gzip
import os
import socket
import ssl
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from imgproxy.cache.staging import Landings
from imgproxy.digest import digest_of
from imgproxy.medialibrary import MediaLibraryClient, TokenSource, Validators, errors
from imgproxy.medialibrary.client import wire
from imgproxy.medialibrary.models import HEAD_BYTES
from imgproxy.workers import sniff
from tests.http.test_client_faults import GOOD, Origin, Reply, Request, client_of, hangs, origin, says

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

CERTIFICATE = Path(__file__).parents[1] / "support" / "localhost.pem"


class Watched:
    """A reply that begins as it is told, hangs, and notes when the client's end of the connection is closed."""

    def __init__(self, begin: bytes = b"") -> None:
        self._begin = begin
        self.has_begun = asyncio.Event()
        self.is_gone = asyncio.Event()

    async def __call__(self, _: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(self._begin)
        await writer.drain()
        self.has_begun.set()
        protocol = writer.transport.get_protocol()
        assert isinstance(protocol, asyncio.StreamReaderProtocol)
        reader = protocol._stream_reader  # type: ignore[attr-defined]
        # A client that leaves before it has read everything resets the connection: that is an end, too.
        with suppress(ConnectionError):
            assert await reader.read() == b""
        self.is_gone.set()
        raise ConnectionAbortedError


async def give_up(client: MediaLibraryClient, reply: Watched, path: Path) -> None:
    """Begin a fetch, leave it when its answer hangs, and wait until the origin sees that."""
    fetch = asyncio.create_task(client.serve_image("a.jpg", path))
    await reply.has_begun.wait()
    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch
    await reply.is_gone.wait()
    while path.exists():  # its thread may have made it just then, and removes it itself
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "begin",
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"],
    ids=["before the answer", "in its head", "in its body"],
)
async def test_a_fetch_that_is_given_up_ends_its_connection(tmp_path: Path, begin: bytes) -> None:
    """The origin sees the end of the connection at once, not when a timeout of the thread has passed."""
    reply = Watched(begin)
    async with origin(reply) as server, client_of(server) as client, asyncio.timeout(10):
        await give_up(client, reply, tmp_path / "out")


async def test_closing_the_client_ends_its_fetches(tmp_path: Path) -> None:
    """Nobody waits for an origin that hangs when the service stops."""
    reply = Watched()
    async with origin(reply) as server, asyncio.timeout(10):
        async with client_of(server, max_attempts=1) as client:
            fetch = asyncio.create_task(client.serve_image("a.jpg", tmp_path / "out"))
            await reply.has_begun.wait()
        with pytest.raises(errors.OriginUnavailable):
            await fetch
        await reply.is_gone.wait()


async def test_the_loop_is_free_while_origins_hang(tmp_path: Path) -> None:
    """More fetches than the machine has processors can hang; another one is answered, and all can be given up."""
    async with (
        origin(hangs) as slow,
        origin(GOOD) as quick,
        client_of(slow) as slow_client,
        client_of(quick) as client,
        asyncio.timeout(20),
    ):
        waiting = [asyncio.create_task(slow_client.serve_image("a.jpg", tmp_path / str(n))) for n in range(60)]
        while len(slow.requests) < len(waiting):
            await asyncio.sleep(0.01)
        image = await client.serve_image("a.jpg", tmp_path / "out")
        for fetch in waiting:
            fetch.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    assert image.size_bytes == 5
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("size_bytes", [5, 70_000, 600_000])
@pytest.mark.parametrize("ending", ["", "\r\nconnection: close"])
@pytest.mark.parametrize("lands", [False, True], ids=["in pieces", "landing"])
async def test_more_than_announced_of_any_size(
    tmp_path: Path, landings: Landings, size_bytes: int, ending: str, lands: bool
) -> None:
    """What comes behind the announced length is an error, whether it was read with the body or lies in the kernel."""
    body = bytes(size_bytes)
    lying = says(f"200 OK\r\ncontent-length: {size_bytes}{ending}", body + b"more")
    async with origin(lying) as server, client_of(server, max_attempts=1) as client:
        with pytest.raises(errors.OriginUnavailable):
            await client.serve_image("a.jpg", tmp_path / "out", landing=landings.take() if lands else None)

    assert not (tmp_path / "out").exists()


async def test_connections_are_used_again(tmp_path: Path) -> None:
    """One after another, fetches of pictures, confirmations and refusals take one connection."""
    unchanged = says('304 Not Modified\r\netag: "e"\r\ncontent-length: 5')  # of what it does not send
    missing = says("404 Not Found\r\ncontent-length: 2", b"{}")
    used: list[object] = []
    async with (
        origin(*[noting(reply, used) for reply in (GOOD, unchanged, missing, GOOD)]) as server,
        client_of(server) as client,
    ):
        await client.serve_image("a.jpg", tmp_path / "out")
        await client.serve_image("a.jpg", tmp_path / "out", validators=Validators('"e"'))
        with pytest.raises(errors.NotFound):
            await client.serve_image("b.jpg", tmp_path / "out")
        await client.serve_image("a.jpg", tmp_path / "out")
        assert client._fetcher._connections._busy == set()

    assert len(used) == 4
    assert len(set(used)) == 1


def noting(reply: Reply, used: list[object]) -> Reply:
    """The same reply; where it was asked from goes to `used`."""

    async def noted(request: Request, writer: asyncio.StreamWriter) -> None:
        used.append(writer.get_extra_info("peername"))
        await reply(request, writer)

    return noted


LARGE = bytes(range(256)) * 10_000


LARGE_REPLIES = [
    says(f"200 OK\r\ncontent-length: {len(LARGE)}", LARGE),
    says(
        "200 OK\r\ntransfer-encoding: chunked",
        b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (LARGE[:7], LARGE[7:1_300_000], LARGE[1_300_000:]))
        + b"0\r\n\r\n",
    ),
    says(f"200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(gzip.compress(LARGE))}", gzip.compress(LARGE)),
]


@pytest.mark.parametrize("reply", LARGE_REPLIES, ids=["length", "chunked", "gzip"])
async def test_large_bodies_come_whole(tmp_path: Path, reply: Reply) -> None:
    """More than is read at once, however it is sent; the digest is the file's, and the connection is used again."""
    used: list[object] = []
    async with origin(noting(reply, used)) as server, client_of(server, max_attempts=1) as client:
        for name in ("one", "two"):
            image = await client.serve_image("a.jpg", tmp_path / name)
            assert (tmp_path / name).read_bytes() == LARGE
            assert (image.size_bytes, image.digest) == (len(LARGE), digest_of(LARGE))

    assert len(set(used)) == 1


PAGE_BYTES = 4096


@pytest.fixture
def landings() -> Iterator[Landings]:
    """One landing of ten megabytes."""
    made = Landings(1, 10_000_000)
    yield made
    made.close()


def landed(landings: Landings) -> bytes:
    """What is in the landing, which nobody else may use."""
    landing = landings.take()
    assert landing is not None
    return Path(landing.path).read_bytes()


@pytest.mark.parametrize("size_bytes", [1, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, 2000 * PAGE_BYTES + 7])
async def test_a_body_lands_in_memory_and_in_its_file(tmp_path: Path, landings: Landings, size_bytes: int) -> None:
    """Both are whole, to the byte, wherever the last page ends; nothing of what was in either before is left."""
    body = os.urandom(size_bytes)
    (tmp_path / "out").write_bytes(b"old" * 4_000_000)
    landing = landings.take()
    assert landing is not None
    landing.room(10_000_000 // PAGE_BYTES * PAGE_BYTES)[:] = b"o" * (10_000_000 // PAGE_BYTES * PAGE_BYTES)
    reply = says(f"200 OK\r\ncontent-length: {size_bytes}", body)
    async with origin(reply) as server, client_of(server, max_attempts=1) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out", landing=landing)

    assert image.is_landed
    assert (image.size_bytes, image.digest, image.head) == (size_bytes, digest_of(body), body[:HEAD_BYTES])
    assert (tmp_path / "out").read_bytes() == body
    assert Path(landing.path).read_bytes() == body


@pytest.mark.parametrize(
    "reply",
    [
        says("200 OK\r\ntransfer-encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
        says(
            f"200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(gzip.compress(b'hello'))}",
            gzip.compress(b"hello"),
        ),
    ],
    ids=["chunked", "gzip"],
)
async def test_what_has_no_length_of_its_own_does_not_land(tmp_path: Path, landings: Landings, reply: Reply) -> None:
    """It goes to its file alone."""
    landing = landings.take()
    async with origin(reply) as server, client_of(server, max_attempts=1) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out", landing=landing)

    assert (image.is_landed, image.digest) == (False, digest_of(b"hello"))
    assert (tmp_path / "out").read_bytes() == b"hello"


async def test_what_is_over_the_limit_does_not_land_either(tmp_path: Path, landings: Landings) -> None:
    """It is refused by its announced size, and the memory is free again."""
    landing = landings.take()
    assert landing is not None
    async with origin(GOOD) as server, client_of(server) as client:
        with pytest.raises(errors.TooLarge):
            await client.serve_image("a.jpg", tmp_path / "out", max_bytes=4, landing=landing)
    landing.give_back()

    assert landings.take() is landing
    assert not (tmp_path / "out").exists()


async def test_a_refusal_does_not_land(tmp_path: Path, landings: Landings) -> None:
    """What it says is read, and its connection is used again."""
    refusal = b'{"status": 404, "error": "Not Found", "error_details": {"name": "NotFound", "message": "no"}}'
    used: list[object] = []
    missing = noting(says(f"404 Not Found\r\ncontent-length: {len(refusal)}", refusal), used)
    async with origin(missing) as server, client_of(server, timeout_s=5) as client:
        for _ in range(2):
            landing = landings.take()
            assert landing is not None
            with pytest.raises(errors.NotFound):
                await client.serve_image("a.jpg", tmp_path / "out", landing=landing)
            landing.give_back()

    assert len(set(used)) == 1


async def test_what_is_too_large_to_land_goes_to_its_file(tmp_path: Path) -> None:
    """As one byte more than there is room for is."""
    small = Landings(1, PAGE_BYTES)
    body = bytes(PAGE_BYTES + 1)
    reply = says(f"200 OK\r\ncontent-length: {len(body)}", body)
    async with origin(reply) as server, client_of(server, max_attempts=1) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out", landing=small.take())

    assert (image.is_landed, (tmp_path / "out").read_bytes()) == (False, body)
    small.close()


@pytest.mark.parametrize("first", ["refused", "a part that is no page"])
async def test_a_file_system_that_wants_the_page_cache_gets_it(
    tmp_path: Path, landings: Landings, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """What it does not take past the page cache (open(2), O_DIRECT: EINVAL) it takes the usual way."""
    write, was_direct = os.pwrite, []

    def picky(descriptor: int, data: memoryview, offset: int) -> int:
        is_direct = bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)
        was_direct.append(is_direct)
        if is_direct and (first == "refused" or offset % PAGE_BYTES):
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(descriptor, data[:PAGE_BYTES], offset) - 7 if is_direct else write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", picky)
    reply = says(f"200 OK\r\ncontent-length: {len(LARGE)}", LARGE)
    async with origin(reply) as server, client_of(server, max_attempts=1) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out", landing=landings.take())

    assert (was_direct[0], was_direct[-1]) == (True, False)
    assert image.is_landed
    assert (tmp_path / "out").read_bytes() == LARGE


async def test_a_disk_that_refuses_leaves_no_file(
    tmp_path: Path, landings: Landings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk is raised as it is, also of one written past the page cache."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    reply = says(f"200 OK\r\ncontent-length: {len(LARGE)}", LARGE)
    async with origin(reply) as server, client_of(server, max_attempts=1) as client:
        with pytest.raises(OSError, match="No space left"):
            await client.serve_image("a.jpg", tmp_path / "out", landing=landings.take())

    assert not (tmp_path / "out").exists()


async def test_a_disk_that_refuses_at_the_end_leaves_no_file(
    tmp_path: Path, landings: Landings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems say only as a file is closed that they had no room for it (close(2))."""
    close = os.close

    def full(descriptor: int) -> None:
        is_ours = os.readlink(f"/proc/self/fd/{descriptor}") == str(tmp_path / "out")
        close(descriptor)
        if is_ours:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "close", full)
    reply = says(f"200 OK\r\ncontent-length: {len(LARGE)}", LARGE)
    async with origin(reply) as server, client_of(server, max_attempts=1) as client:
        with pytest.raises(OSError, match="quota"):
            await client.serve_image("a.jpg", tmp_path / "out", landing=landings.take())

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("is_disk_broken", [False, True])
async def test_memory_is_not_used_again_while_a_fetch_that_was_given_up_may_write_to_it(
    tmp_path: Path, landings: Landings, monkeypatch: pytest.MonkeyPatch, is_disk_broken: bool
) -> None:
    """Its thread may be at the disk just then; once that is through, the memory is empty and anybody's."""
    is_writing, may_write, write = threading.Event(), threading.Event(), os.pwrite

    def slow(descriptor: int, data: memoryview, offset: int) -> int:
        is_writing.set()
        assert may_write.wait(20)
        return write(descriptor, data, offset)

    def refuse(_path: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "pwrite", slow)
    landing = landings.take()
    assert landing is not None
    reply = says(f"200 OK\r\ncontent-length: {len(LARGE)}", LARGE)
    async with origin(reply) as server, client_of(server, max_attempts=1) as client, asyncio.timeout(20):
        fetch = asyncio.create_task(client.serve_image("a.jpg", tmp_path / "out", landing=landing))
        await asyncio.to_thread(is_writing.wait)
        if is_disk_broken:
            monkeypatch.setattr(os, "unlink", refuse)
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        landing.give_back()  # as its caller does
        assert landings.take() is None

        may_write.set()
        while not landing.is_free:
            await asyncio.sleep(0.01)

    assert landed(landings) == b""
    assert (tmp_path / "out").exists() == is_disk_broken


async def test_a_body_may_last_as_long_as_its_connection(tmp_path: Path) -> None:
    """Without any length the end of the connection is the end of the image (RFC 9112 section 6.3)."""
    async with origin(says("200 OK", LARGE, is_last=True)) as server, client_of(server, max_attempts=1) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out")

    assert (image.size_bytes, (tmp_path / "out").read_bytes()) == (len(LARGE), LARGE)


async def test_what_cannot_be_decoded_is_no_image(tmp_path: Path) -> None:
    """Bytes that are not what their Content-Encoding says are not stored."""
    async with origin(says("200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5", b"hello")) as server:
        async with client_of(server) as client:
            with pytest.raises(errors.UnexpectedAnswer):
                await client.serve_image("a.jpg", tmp_path / "out")

        assert len(server.requests) == 1
    assert not (tmp_path / "out").exists()


async def test_a_connection_that_the_server_closed_is_not_used_again(tmp_path: Path) -> None:
    """Nor one that was idle for too long: the next fetch has one of its own, at its first try."""
    async with (
        origin(says("200 OK\r\ncontent-length: 5", b"hello", is_last=True)) as server,
        client_of(server, max_attempts=1) as client,
        asyncio.timeout(10),
    ):
        for name in ("one", "two"):
            await client.serve_image("a.jpg", tmp_path / name)
            while any(connection.is_usable() for connection in client._fetcher._connections._idle):
                await asyncio.sleep(0.01)

        assert len(server.requests) == 2


async def test_idle_connections_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may be about to close what was idle for as long as it keeps connections."""
    monkeypatch.setattr(wire, "KEEPALIVE_EXPIRY_S", 0.0)
    used: list[object] = []
    async with origin(noting(GOOD, used)) as server, client_of(server, max_attempts=1) as client:
        for _ in range(3):
            await client.serve_image("a.jpg", tmp_path / "out")

        assert client._fetcher._connections._idle == []
    assert len(set(used)) == 3


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/x", "http://a..b/x", "http://[::1/x"])
async def test_redirects_to_what_is_no_web_server(tmp_path: Path, location: str) -> None:
    """They are an odd answer, which is not asked for again."""
    away = says(f"302 Found\r\nlocation: {location}\r\ncontent-length: 0")
    async with origin(away) as server, client_of(server) as client:
        with pytest.raises(errors.UnexpectedAnswer):
            await client.serve_image("a.jpg", tmp_path / "out")

        assert len(server.requests) == 1


async def test_a_library_may_live_below_a_path(tmp_path: Path) -> None:
    """The path of its URL stays in front; a redirect there and back keeps the connection."""
    used: list[object] = []
    home = says("302 Found\r\nlocation: y\r\ncontent-length: 0")
    async with origin(noting(home, used), noting(GOOD, used)) as server:
        async with MediaLibraryClient(f"{server.url}/cms/", token=TokenSource.literal("T")) as client:
            await client.serve_image("a.jpg", tmp_path / "out")

        prefix = "/cms/api/2026-05/mediaLibrary/serve-image"
        assert [request.target for request in server.requests] == [f"{prefix}/a.jpg", f"{prefix}/y"]
    assert len(set(used)) == 1


async def test_interim_answers_are_skipped(tmp_path: Path) -> None:
    """103 Early Hints, which a CDN in front of the library may send, is not the answer."""
    hinted = says("103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5", b"hello")
    async with origin(hinted) as server, client_of(server) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out")

    assert (image.size_bytes, (tmp_path / "out").read_bytes()) == (5, b"hello")


@pytest.mark.parametrize("length", ["five", "-5", "+5", "0_5", "5, 7", "5\r\ncontent-length: 7"])
async def test_a_length_that_is_none(tmp_path: Path, length: str) -> None:
    """A body whose length cannot be known is not taken for whole."""
    lying = says(f"200 OK\r\ncontent-length: {length}", b"hello", is_last=True)
    async with origin(lying) as server, client_of(server, max_attempts=1) as client:
        with pytest.raises(errors.OriginUnavailable):
            await client.serve_image("a.jpg", tmp_path / "out")


@pytest.mark.parametrize(
    "lines",
    ["no-colon", ": no name", "\tfolds: nothing", "x: y\r\n" * 101 + "z: y", "long: " + "y" * 66_000, "breaks"],
    ids=["no colon", "no name", "nothing to fold", "too many", "too long", "breaks off"],
)
async def test_a_head_that_is_none(tmp_path: Path, lines: str) -> None:
    """What stands in a head and is no header field may hide one that matters: such an answer is none."""
    head = f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode()

    async def odd(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head[:-2] if lines == "breaks" else head + b"content-length: 5\r\n\r\nhello")
        await writer.drain()
        raise ConnectionAbortedError

    async with origin(odd) as server, client_of(server, max_attempts=1) as client:
        with pytest.raises(errors.OriginUnavailable):
            await client.serve_image("a.jpg", tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_header_names_are_read_in_any_case_and_spacing(tmp_path: Path) -> None:
    """`ETAG`, a space before the colon, none after it, bare line feeds: it is the same field."""
    odd = says('200 OK\nETAG:"e"\nContent-Length :5\nContent-Type:   image/jpeg  ', b"hello")
    async with origin(odd) as server, client_of(server, max_attempts=1) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out")

    assert (image.etag, image.content_type, image.size_bytes) == ('"e"', "image/jpeg", 5)


async def test_headers_are_one_line_each_way(tmp_path: Path) -> None:
    """A folded header becomes one line, as it goes into our own answers; a validator in any letters can be sent."""
    folded = says("200 OK\r\nlast-modified: Mon,\r\n 01 Jan 2024 00:00:00 GMT\r\ncontent-length: 5", b"hello")
    async with origin(folded) as server, client_of(server) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out", validators=Validators('"€"'))

        assert server.requests[0].headers["if-none-match"] == '"?"'
    assert image.last_modified == "Mon, 01 Jan 2024 00:00:00 GMT"


def secure_origin(*replies: Reply) -> AbstractAsyncContextManager[Origin]:
    """The same over TLS, as localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return origin(*replies, tls=context)


def secure_client(url: str, *, trusts: bool = True) -> MediaLibraryClient:
    context = ssl.create_default_context(cafile=str(CERTIFICATE) if trusts else None)
    return MediaLibraryClient(url, token=TokenSource.literal("T"), timeout_s=20, max_attempts=1, ssl_context=context)


async def test_tls_by_the_given_authority(tmp_path: Path) -> None:
    """Over TLS an image comes from whom the authority vouches for, under the name it vouches for, and from no other."""
    async with secure_origin(GOOD) as server:
        async with secure_client(server.url) as client:
            image = await client.serve_image("a.jpg", tmp_path / "out")
        async with secure_client(server.url, trusts=False) as stranger:
            with pytest.raises(errors.OriginUnavailable):
                await stranger.serve_image("a.jpg", tmp_path / "no")
        async with secure_client(server.url.replace("localhost", "127.0.0.1")) as misnamed:
            with pytest.raises(errors.OriginUnavailable):
                await misnamed.serve_image("a.jpg", tmp_path / "no")

        assert len(server.requests) == 1
    assert image.size_bytes == 5


async def test_a_fetch_over_tls_is_given_up_as_well(tmp_path: Path) -> None:
    """A body that hangs inside TLS ends with its caller; one that is too long is an error there, too."""
    surplus = says("200 OK\r\ncontent-length: 5", b"hello and more")
    reply = Watched(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    async with secure_origin(surplus, reply) as server, secure_client(server.url) as client, asyncio.timeout(10):
        with pytest.raises(errors.OriginUnavailable):
            await client.serve_image("a.jpg", tmp_path / "out")
        await give_up(client, reply, tmp_path / "out")


@pytest.mark.parametrize("before", [b"", b"x", bytes(1000)], ids=["empty", "shorter", "longer"])
async def test_what_a_file_held_before_is_not_in_it_afterwards(tmp_path: Path, before: bytes) -> None:
    """An image is written into the file it is meant for, whether that is there, empty or not."""
    path = tmp_path / "out"
    path.write_bytes(before)
    async with origin(GOOD) as server, client_of(server) as client:
        image = await client.serve_image("a.jpg", path)

    assert path.stat().st_size == image.size_bytes
    assert not path.read_bytes().startswith(b"x")


async def test_the_head_of_an_image_comes_with_it(tmp_path: Path) -> None:
    """Its first bytes are told, in however small pieces they came, and enough of them to know any kind of picture."""
    body = bytes(range(256)) * 32

    async def drips(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for start in range(0, len(body), 1000):
            writer.write(body[start : start + 1000])
            await writer.drain()
        raise ConnectionAbortedError

    async with origin(drips) as server, client_of(server) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out")

    assert (image.head, image.size_bytes) == (body[:HEAD_BYTES], len(body))
    assert HEAD_BYTES >= sniff.HEAD_BYTES


# --- heads and bodies in pieces -----------------------------------------------------------------------------------


def cut_at(position: int, head: bytes, body: bytes) -> Reply:
    """The same bytes in two, the second of them when the first have surely been read."""

    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        whole = head + body
        writer.write(whole[:position])
        await asyncio.sleep(0.005)
        writer.write(whole[position:])

    return reply


@pytest.mark.parametrize("lands", [True, False], ids=["landing", "in pieces"])
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 10\n\n",
    ],
    ids=["plain", "behind an interim one", "line feeds alone"],
)
async def test_a_head_may_be_cut_anywhere(tmp_path: Path, landings: Landings, head: bytes, lands: bool) -> None:
    """Every byte of the body is in its place, wherever the answer is cut in two; a body may look like a head's end."""
    body = b"01\r\n\r\n6789"
    replies = [cut_at(position, head, body) for position in range(1, len(head) + len(body))]
    async with origin(*replies) as server, client_of(server, max_attempts=1, timeout_s=5) as client:
        for _ in replies:
            landing = landings.take() if lands else None
            image = await client.serve_image("a.jpg", tmp_path / "out", landing=landing)
            assert (image.size_bytes, image.digest, image.is_landed) == (10, digest_of(body), lands)
            assert (tmp_path / "out").read_bytes() == body
            if landing is not None:
                landing.give_back()


@pytest.mark.parametrize(
    "size_bytes", [*range(wire.HEAD_READ_BYTES - 4, wire.HEAD_READ_BYTES + 5), 3 * wire.HEAD_READ_BYTES]
)
async def test_a_head_may_be_of_any_size(tmp_path: Path, landings: Landings, size_bytes: int) -> None:
    """Also one that ends where as much has been read as a head usually has; what is behind the body is an error."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\nx: "
    head += b"y" * (size_bytes - len(head) - 4) + b"\r\n\r\n"

    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head + b"0123456789")

    async def lies(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head + b"0123456789EVILEVILEV")

    async with origin(reply, lies) as server, client_of(server, max_attempts=1, timeout_s=5) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out", landing=landings.take())
        assert (image.size_bytes, image.digest, image.is_landed) == (10, digest_of(b"0123456789"), True)
        with pytest.raises(errors.OriginUnavailable):
            await client.serve_image("a.jpg", tmp_path / "lie")
    assert not (tmp_path / "lie").exists()


async def test_a_body_that_is_torn_is_not_whole(tmp_path: Path) -> None:
    """Where its end is that of the connection, a reset is no such end (RFC 9112 section 8)."""

    async def resets(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1000))
        await asyncio.sleep(0.05)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with origin(resets) as server, client_of(server, max_attempts=1) as client:
        with pytest.raises(errors.OriginUnavailable):
            await client.serve_image("a.jpg", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("head", ["HTTP/2.0 200 OK", f"HTTP/1.1 200 OK\r\ncontent-length: {2**64 - 1}"])
async def test_what_cannot_be_an_answer_is_none(tmp_path: Path, head: str) -> None:
    """A version that is not sent in this way, a length that nothing has."""

    async def odd(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{head}\r\n\r\n".encode())

    async with origin(odd) as server, client_of(server, max_attempts=1) as client:
        with pytest.raises(errors.OriginUnavailable):
            await client.serve_image("a.jpg", tmp_path / "out")


def test_what_the_loop_had_no_time_to_read_answers_nobody(tmp_path: Path) -> None:
    """An idle connection is looked at before it is used: an answer that nobody asked for lies in the kernel, perhaps."""
    listening = socket.create_server(("127.0.0.1", 0))
    may_lie, has_lied = threading.Event(), threading.Event()

    def serve() -> None:
        with listening:
            for reply in (b"404 Not Found\r\ncontent-length: 2\r\n\r\n{}", b"200 OK\r\ncontent-length: 4\r\n\r\nGOOD"):
                with listening.accept()[0] as one:
                    one.recv(1 << 16)
                    one.sendall(b"HTTP/1.1 " + reply)
                    if not has_lied.is_set():
                        assert may_lie.wait(10)
                        one.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL")
                        has_lied.set()
                    with suppress(ConnectionError):  # who is lied to leaves without a word
                        one.recv(1 << 16)

    async def fetch_twice() -> None:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with MediaLibraryClient(url, token=TokenSource.literal("T"), max_attempts=1) as client:
            with pytest.raises(errors.NotFound):
                await client.serve_image("a.jpg", tmp_path / "out")
            may_lie.set()
            assert has_lied.wait(10)  # the loop waits, too
            await client.serve_image("b.jpg", tmp_path / "out")

    server = threading.Thread(target=serve)
    server.start()
    uvloop.run(fetch_twice())
    server.join(10)
    assert (tmp_path / "out").read_bytes() == b"GOOD"


@pytest.mark.parametrize("encoding", ["x-gzip", "gzip, gzip"])
async def test_encodings_by_other_names_are_undone(tmp_path: Path, encoding: str) -> None:
    """As they are by every browser."""
    body = gzip.compress(b"hello") if encoding == "x-gzip" else gzip.compress(gzip.compress(b"hello"))
    encoded = says(f"200 OK\r\ncontent-encoding: {encoding}\r\ncontent-length: {len(body)}", body)
    async with origin(encoded) as server, client_of(server) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out")

    assert (image.size_bytes, (tmp_path / "out").read_bytes()) == (5, b"hello")


@pytest.mark.parametrize("encoding", ["br", "gzip"], ids=["unknown", "cut off"])
async def test_what_is_encoded_in_an_unknown_way_or_cut_off_is_no_image(tmp_path: Path, encoding: str) -> None:
    """It is an odd answer, which is not asked for again; no file stays."""
    body = gzip.compress(os.urandom(600_000))[:-4]
    encoded = says(f"200 OK\r\ncontent-encoding: {encoding}\r\ncontent-length: {len(body)}", body)
    async with origin(encoded) as server, client_of(server) as client:
        with pytest.raises(errors.UnexpectedAnswer):
            await client.serve_image("a.jpg", tmp_path / "out")
        assert len(server.requests) == 1
    assert not (tmp_path / "out").exists()


async def test_identity_is_no_encoding(tmp_path: Path, landings: Landings) -> None:
    """What says so lands like what says nothing."""
    plain = says("200 OK\r\ncontent-encoding: Identity\r\ncontent-length: 5", b"hello")
    async with origin(plain) as server, client_of(server) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out", landing=landings.take())

    assert (image.is_landed, (tmp_path / "out").read_bytes()) == (True, b"hello")


@pytest.mark.parametrize("ending", ["chunks", "length", "connection"])
async def test_a_little_that_stands_for_a_lot_comes_whole_over_tls(tmp_path: Path, ending: str) -> None:
    """However its end is told, and though the disk takes longer than the network."""
    large = bytes(12_000_000)
    body = gzip.compress(large)
    heads = {
        "chunks": "200 OK\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked",
        "length": f"200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(body)}",
        "connection": "200 OK\r\ncontent-encoding: gzip",
    }
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if ending == "chunks" else body
    reply = says(heads[ending], sent, is_last=True)
    async with secure_origin(reply) as server, secure_client(server.url) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out")

    assert (image.size_bytes, image.digest) == (len(large), digest_of(large))


async def test_what_begins_behind_chunks_answers_nobody(tmp_path: Path) -> None:
    """Their end is the end of the picture; a connection on which more has begun is not used again."""
    chunked = "200 OK\r\ntransfer-encoding: chunked"
    begun = says(chunked, b"4\r\nGOOD\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nx")
    good = says(chunked, b"4\r\nGOOD\r\n0\r\n\r\n")
    used: list[object] = []
    async with origin(noting(begun, used), noting(good, used)) as server, client_of(server, max_attempts=1) as client:
        for _ in range(3):
            await client.serve_image("a.jpg", tmp_path / "out")
            assert (tmp_path / "out").read_bytes() == b"GOOD"

    assert [used.index(each) for each in used] == [0, 1, 1]


# --- connections --------------------------------------------------------------------------------------------------


async def test_an_address_that_does_not_answer_does_not_take_the_time_of_the_next(tmp_path: Path) -> None:
    """A name with a broken IPv6 address is reached by the other one, at the first try."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent, contextlib.ExitStack() as waiting:
        for _ in range(4):  # its queue is full: from here on it does not answer
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(silent.getsockname())
        await asyncio.sleep(0.1)
        async with origin(GOOD) as server:
            loop = asyncio.get_running_loop()
            look_up, port = loop.getaddrinfo, int(server.url.rpartition(":")[2])
            kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")

            async def two(host: str, *args: Any, **options: Any) -> Any:
                if host != "library.test":
                    return await look_up(host, *args, **options)
                return [(*kind, silent.getsockname()), (*kind, ("127.0.0.1", port))]

            url = f"http://library.test:{port}"
            async with MediaLibraryClient(url, token=TokenSource.none(), timeout_s=8, max_attempts=1) as client:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(loop, "getaddrinfo", two)
                    image = await client.serve_image("a.jpg", tmp_path / "out")
    assert image.size_bytes == 5


@pytest.mark.parametrize("text", ["a\r\nx: y", "a\nx: y", "a\rb", "a\0b"])
async def test_what_is_sent_is_one_line_each(tmp_path: Path, text: str) -> None:
    """A validator that is two would be another header, or another request."""
    async with origin(GOOD) as server, client_of(server) as client:
        with pytest.raises(ValueError, match="no line of a request"):
            await client.serve_image("a.jpg", tmp_path / "out", validators=Validators(text))

        assert server.requests == []


async def test_a_body_that_comes_as_the_client_is_closed_is_no_image(tmp_path: Path, landings: Landings) -> None:
    """There is no thread for it any more, and no error that nobody expects."""
    async with origin(GOOD) as server, client_of(server, max_attempts=1) as client:
        client._fetcher._threads.shutdown(wait=False)
        for landing in (None, landings.take()):
            with pytest.raises(errors.OriginUnavailable):
                await client.serve_image("a.jpg", tmp_path / "out", landing=landing)

    assert not (tmp_path / "out").exists()


async def test_nothing_is_asked_for_once_the_client_is_closed(tmp_path: Path) -> None:
    """Not by a fetch that was just connecting, nor by one that tries again: a token is not sent any more."""
    async with origin(GOOD) as server, asyncio.timeout(10):
        client = client_of(server)
        fetches = [asyncio.create_task(client.serve_image("a.jpg", tmp_path / str(number))) for number in range(3)]
        await asyncio.sleep(0)
        await client.aclose()
        for fetch in (*fetches, asyncio.create_task(client.serve_image("a.jpg", tmp_path / "late"))):
            with pytest.raises(errors.OriginUnavailable):
                await fetch

        assert server.requests == []
    assert list(tmp_path.iterdir()) == []


BEGUN = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"


@pytest.mark.parametrize(
    "behaviour",
    [
        lambda path: test_a_fetch_that_is_given_up_ends_its_connection(path, BEGUN),
        test_closing_the_client_ends_its_fetches,
        test_connections_are_used_again,
        *(lambda path, reply=reply: test_large_bodies_come_whole(path, reply) for reply in LARGE_REPLIES),
        test_a_body_may_last_as_long_as_its_connection,
        test_what_cannot_be_decoded_is_no_image,
        test_a_connection_that_the_server_closed_is_not_used_again,
        test_interim_answers_are_skipped,
        test_tls_by_the_given_authority,
        test_a_fetch_over_tls_is_given_up_as_well,
        test_the_head_of_an_image_comes_with_it,
        test_a_body_that_is_torn_is_not_whole,
        lambda path: test_a_little_that_stands_for_a_lot_comes_whole_over_tls(path, "connection"),
        test_an_address_that_does_not_answer_does_not_take_the_time_of_the_next,
        test_nothing_is_asked_for_once_the_client_is_closed,
    ],
)
def test_the_loop_of_the_service_does_the_same(tmp_path: Path, behaviour: Callable[[Path], Awaitable[None]]) -> None:
    """The service runs on uvloop, these tests on asyncio's own loop; they differ in when they tell of bytes."""

    async def run() -> None:
        await behaviour(tmp_path)

    uvloop.run(run())


@pytest.mark.parametrize("lands", [True, False], ids=["landing", "in pieces"])
def test_more_than_announced_is_an_error_on_the_loop_of_the_service(
    tmp_path: Path, landings: Landings, lands: bool
) -> None:
    """The same there."""
    uvloop.run(test_more_than_announced_of_any_size(tmp_path, landings, 600_000, "", lands))


@pytest.mark.parametrize("lands", [True, False], ids=["landing", "in pieces"])
def test_a_head_may_be_cut_anywhere_on_the_loop_of_the_service(tmp_path: Path, landings: Landings, lands: bool) -> None:
    """The same there."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"
    uvloop.run(test_a_head_may_be_cut_anywhere(tmp_path, landings, head, lands))


@pytest.mark.parametrize("size_bytes", [1, PAGE_BYTES + 1, 2000 * PAGE_BYTES + 7])
def test_a_body_lands_on_the_loop_of_the_service(tmp_path: Path, landings: Landings, size_bytes: int) -> None:
    """Whole, and nothing of what was there before."""
    uvloop.run(test_a_body_lands_in_memory_and_in_its_file(tmp_path, landings, size_bytes))
