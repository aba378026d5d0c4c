"""Fetches of images: what is given up ends, what an origin gets wrong does no harm. Over real sockets."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import resource
import socket
import ssl
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from imgproxy.digest import digest_of
from imgproxy.medialibrary import errors
from imgproxy.medialibrary.client.client import MediaLibraryClient
from imgproxy.medialibrary.client.tokens import TokenSource
from imgproxy.medialibrary.models import HEAD_BYTES, Validators
from imgproxy.workers import sniff
from tests.support.scripted_origin import GOOD, Origin, Reply, Request, client_of, hangs, origin, says
from tests.support.site import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

CERTIFICATE = Path(__file__).parents[1] / "support" / "localhost.pem"
LARGE = bytes(range(256)) * 10_000


def noting(reply: Reply, used: list[object]) -> Reply:
    """The same reply; where it was asked from goes to `used`."""

    async def noted(request: Request, writer: asyncio.StreamWriter) -> None:
        used.append(writer.get_extra_info("peername"))
        await reply(request, writer)

    return noted


def secure_origin(*replies: Reply) -> AbstractAsyncContextManager[Origin]:
    """The same over TLS, as localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return origin(*replies, tls=context)


def secure_client(url: str, *, trusts: bool = True) -> MediaLibraryClient:
    context = ssl.create_default_context(cafile=str(CERTIFICATE) if trusts else None)
    return MediaLibraryClient(url, token=TokenSource.literal("T"), timeout_s=20, max_attempts=1, ssl_context=context)


# --- the end of a fetch -----------------------------------------------------------------------------------------


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
    """The origin sees the end of the connection at once."""
    reply = Watched(begin)
    async with origin(reply) as server, client_of(server) as client, asyncio.timeout(10):
        await give_up(client, reply, tmp_path / "out")


async def test_a_fetch_over_tls_is_given_up_as_well(tmp_path: Path) -> None:
    """A body that hangs inside TLS ends with its caller; one that is too long is an error there, too."""
    surplus = says("200 OK\r\ncontent-length: 5", b"hello and more")
    reply = Watched(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    async with secure_origin(surplus, reply) as server, secure_client(server.url) as client, asyncio.timeout(10):
        with pytest.raises(errors.OriginUnavailable):
            await client.serve_image("a.jpg", tmp_path / "out")
        await give_up(client, reply, tmp_path / "out")


BEGUN = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"


@pytest.mark.parametrize("begin", [b"", BEGUN], ids=["before the answer", "in its body"])
async def test_closing_the_client_ends_its_fetches(tmp_path: Path, begin: bytes) -> None:
    """When the service stops, no fetch waits for an origin that hangs; no file is left."""
    reply = Watched(begin)
    async with origin(reply) as server, asyncio.timeout(10):
        async with client_of(server) as client:
            fetch = asyncio.create_task(client.serve_image("a.jpg", tmp_path / "out"))
            await reply.has_begun.wait()
        with pytest.raises(errors.OriginUnavailable):
            await fetch
        await reply.is_gone.wait()
    assert not (tmp_path / "out").exists()


async def test_nothing_is_asked_for_once_the_client_is_closed(tmp_path: Path) -> None:
    """A fetch that is just connecting sends no token any more, nor does one that tries again."""
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


async def test_a_disk_that_hangs_does_not_hold_a_fetch_that_is_given_up(tmp_path: Path) -> None:
    """The fetch ends at once. Its thread removes the file when the disk works again."""
    os.mkfifo(tmp_path / "out")  # a write to it hangs until something reads
    reply = says(f"200 OK\r\ncontent-length: {len(LARGE)}", LARGE)
    async with origin(reply) as server, client_of(server, max_attempts=1) as client, asyncio.timeout(20):
        fetch = asyncio.create_task(client.serve_image("a.jpg", tmp_path / "out"))
        reader = await asyncio.to_thread(os.open, tmp_path / "out", os.O_RDONLY)  # returns as the thread opens it, too
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        assert (tmp_path / "out").exists()
        while (tmp_path / "out").exists():
            await asyncio.to_thread(os.read, reader, 1 << 20)
    os.close(reader)


@pytest.mark.parametrize("size_bytes", [2_000, len(LARGE)], ids=["as it is closed", "as it is written"])
async def test_a_disk_that_refuses_leaves_no_file(tmp_path: Path, size_bytes: int) -> None:
    """An error of the disk is raised as it is: it says nothing about the origin."""
    reply = says(f"200 OK\r\ncontent-length: {size_bytes}", bytes(size_bytes))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with origin(reply) as server, client_of(server) as client:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
        try:
            with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
                await client.serve_image("a.jpg", tmp_path / "out")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        assert len(server.requests) == 1
    assert not (tmp_path / "out").exists()


# --- bodies ------------------------------------------------------------------------------------------------------


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


async def test_a_body_may_last_as_long_as_its_connection(tmp_path: Path) -> None:
    """Without any length the end of the connection is the end of the image (RFC 9112 section 6.3)."""
    async with origin(says("200 OK", LARGE, is_last=True)) as server, client_of(server, max_attempts=1) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out")

    assert (image.size_bytes, (tmp_path / "out").read_bytes()) == (len(LARGE), LARGE)


async def test_a_body_that_is_torn_is_not_whole(tmp_path: Path) -> None:
    """Where its end is that of the connection, a reset is no such end (RFC 9112 section 8)."""

    async def resets(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1000))
        await turns_of_the_loop()
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with origin(resets) as server, client_of(server, max_attempts=1) as client:
        with pytest.raises(errors.OriginUnavailable):
            await client.serve_image("a.jpg", tmp_path / "out")
    assert not (tmp_path / "out").exists()


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


async def test_a_body_that_trickles_comes_whole(tmp_path: Path) -> None:
    """Head and body byte by byte: the deadline is for the call, not for a pause."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01\r\n\r\n6789"

    async def trickles(_: Request, writer: asyncio.StreamWriter) -> None:
        for byte in answer:
            writer.write(bytes([byte]))
            await turns_of_the_loop()

    async with origin(trickles) as server, client_of(server, max_attempts=1) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out")

    assert (image.size_bytes, (tmp_path / "out").read_bytes()) == (10, answer[-10:])


def cut_at(position: int, head: bytes, body: bytes) -> Reply:
    """The same bytes in two, the second of them when the first have been read."""

    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        whole = head + body
        writer.write(whole[:position])
        await turns_of_the_loop()
        writer.write(whole[position:])

    return reply


async def test_an_answer_may_be_cut_anywhere(tmp_path: Path) -> None:
    """Every byte of the body is in its place, wherever the answer is cut in two; a body may look like a head's end."""
    head, body = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", b"01\r\n\r\n6789"
    replies = [cut_at(position, head, body) for position in range(1, len(head) + len(body))]
    async with origin(*replies) as server, client_of(server, max_attempts=1, timeout_s=5) as client:
        for _ in replies:
            image = await client.serve_image("a.jpg", tmp_path / "out")
            assert (image.size_bytes, image.digest) == (10, digest_of(body))
            assert (tmp_path / "out").read_bytes() == body


async def test_what_cannot_be_decoded_is_no_image(tmp_path: Path) -> None:
    """Bytes that are not what their Content-Encoding says are not stored."""
    async with origin(says("200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5", b"hello")) as server:
        async with client_of(server) as client:
            with pytest.raises(errors.UnexpectedAnswer):
                await client.serve_image("a.jpg", tmp_path / "out")

        assert len(server.requests) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "gzip"], ids=["unknown", "two of them", "cut off"])
async def test_what_is_encoded_in_an_unknown_way_or_cut_off_is_no_image(tmp_path: Path, encoding: str) -> None:
    """It is an odd answer, which is not asked for again; no file stays."""
    body = gzip.compress(os.urandom(600_000))[:-4]
    encoded = says(f"200 OK\r\ncontent-encoding: {encoding}\r\ncontent-length: {len(body)}", body)
    async with origin(encoded) as server, client_of(server) as client:
        with pytest.raises(errors.UnexpectedAnswer):
            await client.serve_image("a.jpg", tmp_path / "out")
        assert len(server.requests) == 1
    assert not (tmp_path / "out").exists()


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


async def test_a_little_that_stands_for_too_much_is_too_large(tmp_path: Path) -> None:
    """What is decoded counts, and decoding stops there."""
    body = gzip.compress(bytes(100_000_000))
    bomb = says(f"200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(body)}", body)
    async with origin(bomb) as server, client_of(server) as client:
        with pytest.raises(errors.TooLarge):
            await client.serve_image("a.jpg", tmp_path / "out", max_bytes=3_000_000)

        assert len(server.requests) == 1
    assert not (tmp_path / "out").exists()


async def test_a_refusal_that_a_proxy_encoded_is_understood(tmp_path: Path) -> None:
    """A revoked image must not be taken for a refused token."""
    refusal = gzip.compress(b'{"error_details": {"message": "The requested image is revoked or marked as invalid"}}')
    encoded = says(f"403 No\r\ncontent-encoding: gzip\r\ncontent-length: {len(refusal)}", refusal)
    async with origin(encoded) as server, client_of(server) as client:
        with pytest.raises(errors.Forbidden):
            await client.serve_image("a.jpg", tmp_path / "out")


# --- more than was announced --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [5, 70_000, 600_000])
@pytest.mark.parametrize("ending", ["", "\r\nconnection: close"])
async def test_more_than_announced_of_any_size(tmp_path: Path, size_bytes: int, ending: str) -> None:
    """Bytes behind the announced length are an error: the body may be another one than the length."""
    body = bytes(size_bytes)
    lying = says(f"200 OK\r\ncontent-length: {size_bytes}{ending}", body + b"more")
    async with origin(lying) as server, client_of(server, max_attempts=1) as client:
        with pytest.raises(errors.OriginUnavailable):
            await client.serve_image("a.jpg", tmp_path / "out")

    assert not (tmp_path / "out").exists()


EVIL = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL"


async def test_a_second_answer_behind_a_large_body_answers_no_other_fetch(tmp_path: Path) -> None:
    """It is an error of the fetch that it came with, and its connection is not used again."""
    two = says("200 OK\r\ncontent-length: 600000", bytes(600_000) + EVIL)
    async with origin(two, GOOD) as server, client_of(server, max_attempts=1) as client:
        with pytest.raises(errors.OriginUnavailable):
            await client.serve_image("a.jpg", tmp_path / "out")
        await client.serve_image("b.jpg", tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == b"hello"


async def test_an_answer_that_comes_later_answers_no_other_fetch(tmp_path: Path) -> None:
    """The connection was kept, and is closed before the next request is sent."""
    writers = []

    async def kept(request: Request, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await GOOD(request, writer)

    async with origin(kept, GOOD) as server, client_of(server, max_attempts=1) as client:
        await client.serve_image("a.jpg", tmp_path / "out")
        writers[0].write(EVIL)
        await turns_of_the_loop()
        await client.serve_image("b.jpg", tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == b"hello"


async def turns_of_the_loop() -> None:
    """Let the loop read what lies in the sockets: client and origin are in the same one."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "first",
    [
        says("200 OK\r\ncontent-length: 5", b"hello" + EVIL[:20]),
        says("200 OK\r\ncontent-length: 5", b"hello" + EVIL[:17]),
    ],
    ids=["within a line", "within a line's end"],
)
async def test_half_an_answer_behind_a_body_answers_no_other_fetch(tmp_path: Path, first: Reply) -> None:
    """Its other half, which comes when the next fetch asks, is no answer; the fetch is tried again."""

    async def goes_on(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(EVIL[20:])

    async with origin(first, goes_on, GOOD) as server, client_of(server) as client:
        await client.serve_image("a.jpg", tmp_path / "out")
        await client.serve_image("b.jpg", tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == b"hello"


# --- heads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["five", "-5", "5, 7", "5\r\ncontent-length: 7", str(2**64 - 1)])
async def test_a_length_that_is_none(tmp_path: Path, length: str) -> None:
    """A body whose length cannot be known is not taken for whole."""
    lying = says(f"200 OK\r\ncontent-length: {length}", b"hello", is_last=True)
    async with origin(lying) as server, client_of(server, max_attempts=1) as client:
        with pytest.raises(errors.OriginUnavailable):
            await client.serve_image("a.jpg", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "lines",
    ["no-colon", ": no name", "\tfolds: nothing", "x: y\r\n" * 200 + "z: y", "long: " + "y" * 66_000, "breaks"],
    ids=["no colon", "no name", "nothing to fold", "too many", "too long", "breaks off"],
)
async def test_a_head_with_a_broken_line_is_no_answer(tmp_path: Path, lines: str) -> None:
    """A line that is no header field may hide a header that matters. So the whole answer is refused."""
    head = f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode()

    async def odd(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head[:-2] if lines == "breaks" else head + b"content-length: 5\r\n\r\nhello")
        await writer.drain()
        raise ConnectionAbortedError

    async with origin(odd) as server, client_of(server, max_attempts=1) as client:
        with pytest.raises(errors.OriginUnavailable):
            await client.serve_image("a.jpg", tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_interim_answers_are_skipped(tmp_path: Path) -> None:
    """103 Early Hints, which a CDN in front of the library may send, is not the answer."""
    hinted = says("103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5", b"hello")
    async with origin(hinted) as server, client_of(server) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out")

    assert (image.size_bytes, (tmp_path / "out").read_bytes()) == (5, b"hello")


async def test_headers_are_one_line_each_way(tmp_path: Path) -> None:
    """A folded header becomes one line, bytes that are no UTF-8 are replaced; what is kept can be sent back."""

    async def odd(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nlast-modified: Mon,\r\n 01 Jan 2024 00:00:00 GMT\r\n")
        writer.write(b'etag: "\xe2\x82\xac\xff"\r\ncontent-length: 5\r\n\r\nhello')

    async with origin(odd, GOOD) as server, client_of(server) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out")
        await client.serve_image("a.jpg", tmp_path / "out", validators=Validators(image.etag, image.last_modified))

        sent = server.requests[1].headers
    assert (image.etag, image.last_modified) == ('"€\ufffd"', "Mon, 01 Jan 2024 00:00:00 GMT")
    assert sent["if-none-match"].encode("latin-1").decode() == image.etag
    assert sent["if-modified-since"] == image.last_modified


@pytest.mark.parametrize("text", ["a\r\nx: y", "a\nx: y", "a\rb", "a\0b"])
async def test_what_is_sent_is_one_line_each(tmp_path: Path, text: str) -> None:
    """A validator of two lines would be another header, or another request."""
    async with origin(GOOD) as server, client_of(server) as client:
        with pytest.raises(ValueError, match="in headers"):
            await client.serve_image("a.jpg", tmp_path / "out", validators=Validators(text))

        assert server.requests == []


async def test_no_cookie_is_kept_and_no_proxy_variable_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token goes where the configuration says, and nothing that one answer set goes with the next request."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    baking = says("200 OK\r\nset-cookie: a=b\r\ncontent-length: 5", b"hello")
    async with origin(baking) as server, client_of(server, max_attempts=1) as client:
        for _ in range(2):
            await client.serve_image("a.jpg", tmp_path / "out")

        assert [request.headers.get("cookie") for request in server.requests] == [None, None]


# --- connections and redirects ------------------------------------------------------------------------------------


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
        with pytest.raises(errors.LibraryNotFound):
            await client.serve_image("b.jpg", tmp_path / "out")
        await client.serve_image("a.jpg", tmp_path / "out")

    assert len(used) == 4
    assert len(set(used)) == 1


async def test_a_connection_that_the_server_closed_does_no_harm(tmp_path: Path) -> None:
    """The next fetch has one of its own."""
    reply = says("200 OK\r\ncontent-length: 5", b"hello", is_last=True)
    async with origin(reply) as server, client_of(server, max_attempts=1) as client:
        for name in ("one", "two"):
            await client.serve_image("a.jpg", tmp_path / name)
            await turns_of_the_loop()

        assert len(server.requests) == 2


def waiting_to_be_accepted(server: socket.socket) -> int:
    """How many connections wait: for a server, tcpi_unacked of tcp(7)'s TCP_INFO says it."""
    found: tuple[int] = struct.unpack_from("I", server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)
    return found[0]


async def test_an_address_that_does_not_answer_does_not_take_the_time_of_the_next(tmp_path: Path) -> None:
    """A name with a broken IPv6 address is reached by the other one, at the first try."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as silent,
        socket.create_connection(silent.getsockname()),  # it fills the queue: from here on the server does not answer
    ):
        await until(lambda: waiting_to_be_accepted(silent) == 1)
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


async def test_tls_by_the_given_authority(tmp_path: Path) -> None:
    """Over TLS an image comes only from a server that the authority vouches for, under the name it vouches for."""
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


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/x", "http://a..b/x", "http://[::1/x", "http:///x"])
async def test_redirects_to_what_is_no_web_server(tmp_path: Path, location: str) -> None:
    """They are an odd answer, which is not asked for again."""
    away = says(f"302 Found\r\nlocation: {location}\r\ncontent-length: 0")
    async with origin(away) as server, client_of(server) as client:
        with pytest.raises((errors.UnexpectedAnswer, errors.RedirectRefused)):
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


@pytest.mark.parametrize(
    "behaviour",
    [
        *(
            lambda path, begin=begin: test_a_fetch_that_is_given_up_ends_its_connection(path, begin)
            for begin in (b"", BEGUN)
        ),
        *(lambda path, begin=begin: test_closing_the_client_ends_its_fetches(path, begin) for begin in (b"", BEGUN)),
        *(lambda path, reply=reply: test_large_bodies_come_whole(path, reply) for reply in LARGE_REPLIES),
        lambda path: test_more_than_announced_of_any_size(path, 600_000, ""),
        lambda path: test_a_little_that_stands_for_a_lot_comes_whole_over_tls(path, "connection"),
        test_connections_are_used_again,
        test_a_body_may_last_as_long_as_its_connection,
        test_a_connection_that_the_server_closed_does_no_harm,
        test_an_answer_that_comes_later_answers_no_other_fetch,
        test_a_second_answer_behind_a_large_body_answers_no_other_fetch,
        test_tls_by_the_given_authority,
        test_a_fetch_over_tls_is_given_up_as_well,
        test_a_body_that_is_torn_is_not_whole,
        test_an_answer_may_be_cut_anywhere,
        test_an_address_that_does_not_answer_does_not_take_the_time_of_the_next,
        test_nothing_is_asked_for_once_the_client_is_closed,
    ],
)
def test_the_loop_of_the_service_does_the_same(tmp_path: Path, behaviour: Callable[[Path], Awaitable[None]]) -> None:
    """The service runs on uvloop, these tests on asyncio's own loop; they differ in when they tell of bytes."""

    async def run() -> None:
        await behaviour(tmp_path)

    uvloop.run(run())
