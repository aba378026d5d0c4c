"""The client against origins that break off, lie, hang, redirect or refuse, over real sockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from imgproxy.errors import BadUrl, NotFound, OriginUnreachable, Revoked, SourceTooLarge
from imgproxy.medialibrary import errors
from imgproxy.medialibrary.client.client import MediaLibraryClient
from imgproxy.medialibrary.client.redirects import RedirectRule
from imgproxy.medialibrary.client.tokens import TokenSource
from imgproxy.medialibrary.models import Validators
from imgproxy.medialibrary.operations import Archive
from tests.support.scripted_origin import (
    EMPTY_LIST,
    GOOD,
    Reply,
    Request,
    client_of,
    drops,
    hangs,
    hangs_in_the_body,
    origin,
    says,
)

if TYPE_CHECKING:
    from pathlib import Path

BAD_BODIES: dict[str, Reply] = {
    "too short": says("200 OK\r\ncontent-length: 50", b"hello", is_last=True),
    "too long": says("200 OK\r\ncontent-length: 5", b"hello and more"),
    "cut in a chunk": says("200 OK\r\ntransfer-encoding: chunked", b"5\r\nhel", is_last=True),
    "no end of chunks": says("200 OK\r\ntransfer-encoding: chunked", b"5\r\nhello\r\n", is_last=True),
    "no HTTP": says("nonsense"),
    "nothing": drops,
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_broken_body_is_never_a_file(tmp_path: Path, name: str) -> None:
    """A body that is shorter or longer than announced is OriginUnavailable after every try; no file stays."""
    async with origin(BAD_BODIES[name]) as server, client_of(server) as client:
        with pytest.raises(errors.OriginUnavailable) as failed:
            await client.serve_image("a.jpg", tmp_path / "out")

        assert len(server.requests) == 3
    assert isinstance(failed.value, OriginUnreachable)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_broken_body_is_asked_for_again(tmp_path: Path, name: str) -> None:
    """The second try replaces what the first wrote."""
    async with origin(BAD_BODIES[name], GOOD) as server, client_of(server) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out")

        assert len(server.requests) == 2
    assert (image.size_bytes, (tmp_path / "out").read_bytes()) == (5, b"hello")


async def test_surplus_bytes_never_answer_another_call(tmp_path: Path) -> None:
    """What a lying origin sends behind a body is not taken for the answer of the next call."""
    smuggled = b"helloHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
    async with (
        origin(says("200 OK\r\ncontent-length: 5", smuggled), GOOD) as server,
        client_of(server, max_attempts=1) as client,
    ):
        with pytest.raises(errors.OriginUnavailable):
            await client.serve_image("a.jpg", tmp_path / "out")
        await client.serve_image("b.jpg", tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == b"hello"


async def test_images_without_a_length(tmp_path: Path) -> None:
    """A chunked image needs no length; what a proxy compressed is stored as the image itself."""
    chunked = says("200 OK\r\ntransfer-encoding: chunked", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")
    zipped = bytes.fromhex("1f8b0800000000000003cb48cdc9c9070086a6103605000000")
    encoded = says(f"200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(zipped)}", zipped)
    async with origin(chunked, encoded) as server, client_of(server) as client:
        for name in ("chunked", "zipped"):
            image = await client.serve_image("a.jpg", tmp_path / name)
            assert (image.size_bytes, (tmp_path / name).read_bytes()) == (5, b"hello")

        assert server.requests[0].headers["accept-encoding"] == "identity"


async def test_too_large(tmp_path: Path) -> None:
    """An announced size over the limit is refused before a byte, an unannounced one as it is passed; no retry."""
    chunked = says("200 OK\r\ntransfer-encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n")
    async with origin(GOOD, chunked, GOOD) as server, client_of(server) as client:
        found = []
        for _ in range(2):
            with pytest.raises(errors.TooLarge) as too_large:
                await client.serve_image("a.jpg", tmp_path / "out", max_bytes=4)
            found.append((too_large.value.limit_bytes, too_large.value.size_bytes))
        assert not (tmp_path / "out").exists()
        await client.serve_image("a.jpg", tmp_path / "out", max_bytes=5)

        assert len(server.requests) == 3
    assert found == [(4, 5), (4, None)]
    assert isinstance(too_large.value, SourceTooLarge)
    assert too_large.value.status == 413


@pytest.mark.parametrize("reply", [hangs, hangs_in_the_body])
async def test_one_deadline_over_all_tries(tmp_path: Path, reply: Reply) -> None:
    """A call that hangs, before or in its body, ends as OriginTimeout with its limit, and leaves no file."""
    async with origin(drops, reply) as server, client_of(server, timeout_s=2.0) as client:
        with pytest.raises(errors.OriginTimeout) as timed_out:
            await client.serve_image("a.jpg", tmp_path / "out")

        assert len(server.requests) == 2
    assert timed_out.value.timeout_s == 2.0
    assert timed_out.value.status == 504
    assert not (tmp_path / "out").exists()


async def test_a_cancelled_call_leaves_no_file(tmp_path: Path) -> None:
    """Cancelling a call in the middle of its body removes what was written, as soon as no thread writes to it."""

    async def hangs_late(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + bytes(2_000_000))
        await asyncio.Event().wait()

    async with origin(hangs_late) as server, client_of(server) as client:
        call = asyncio.create_task(client.serve_image("a.jpg", tmp_path / "out"))
        async with asyncio.timeout(10):
            while not (tmp_path / "out").exists():
                await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(10):
            while (tmp_path / "out").exists():
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_not_now_is_tried_again(tmp_path: Path, status: int) -> None:
    """429 and 502 to 504 are tried again; where they stay, the status and the wish to wait are in the error."""
    refusal = says(f"{status} No\r\nretry-after: 0\r\ncontent-length: 0")
    async with origin(refusal, GOOD, refusal) as server, client_of(server) as client:
        await client.serve_image("a.jpg", tmp_path / "out")
        with pytest.raises(errors.OriginUnavailable) as refused:
            await client.serve_image("a.jpg", tmp_path / "out")

        assert len(server.requests) == 5
    assert (refused.value.origin_status, refused.value.retry_after_s) == (status, 0)


async def test_a_long_retry_after_ends_the_call(tmp_path: Path) -> None:
    """If the origin asks for more time than the call has, the call ends at once and tells for how long."""
    async with (
        origin(says("429 Slow\r\nretry-after: 3600\r\ncontent-length: 0")) as server,
        client_of(server) as client,
    ):
        with pytest.raises(errors.OriginUnavailable) as refused:
            await client.serve_image("a.jpg", tmp_path / "out")

        assert len(server.requests) == 1
    assert refused.value.retry_after_s == 3600


async def test_a_patch_is_sent_once() -> None:
    """A change is not repeated: neither after a lost connection nor after a 503."""
    for reply in (drops, says("503 No\r\ncontent-length: 0")):
        async with origin(reply) as server, client_of(server) as client:
            with pytest.raises(errors.OriginUnavailable):
                await client.patch_entry("x", Archive())

            assert len(server.requests) == 1


async def test_nobody_listens() -> None:
    """Where nothing listens the call is OriginUnavailable without a status."""
    async with origin(GOOD) as server:
        url = server.url
    async with MediaLibraryClient(url, token=TokenSource.none(), timeout_s=5) as client:
        with pytest.raises(errors.OriginUnavailable) as failed:
            await client.get_entry("x")

    assert failed.value.origin_status is None


REFUSALS = [
    (
        "403 Forbidden",
        b'{"error_details": {"message": "The requested image is revoked or marked as invalid"}}',
        errors.Forbidden,
    ),
    ("403 Forbidden", b'{"error_details": {"name": "Forbidden", "message": "no scope"}}', errors.Unauthorized),
    ("403 Forbidden", b'{"message": "The requested image is revoked or marked as invalid"}', errors.Forbidden),
    ("403 Forbidden", b"<html>blocked, revoked, whatever</html>", errors.Unauthorized),
    ("401 Unauthorized", b"", errors.Unauthorized),
    ("404 Not Found", b'{"error_details": {"name": "NotFound", "message": "No image found."}}', errors.LibraryNotFound),
    ("404 Not Found", b"default backend - 404", errors.LibraryNotFound),
    ("410 Gone", b"{}", errors.VersionGone),
    ("400 Bad Request", b'{"error_details": {"key": "no"}}', errors.ValidationFailed),
    ("500 Oh", b"", errors.UnexpectedStatus),
    ("204 No Content", b"", errors.UnexpectedStatus),
    ("304 Not Modified", b"", errors.UnexpectedStatus),
    ("206 Partial Content", b"he", errors.UnexpectedStatus),
]


@pytest.mark.parametrize(("line", "body", "expected"), REFUSALS)
async def test_what_a_refusal_means(
    tmp_path: Path, line: str, body: bytes, expected: type[errors.MediaLibraryError]
) -> None:
    """Revoked is told from a bad token, the library's own 404 from that of a proxy; none is tried again."""
    length = "" if line[:3] in {"204", "304"} else f"\r\ncontent-length: {len(body)}"
    async with origin(says(f"{line}{length}", body)) as server, client_of(server) as client:
        with pytest.raises(expected) as refused:
            await client.serve_image("a/b.jpg", tmp_path / "out")

        assert len(server.requests) == 1
    error = refused.value
    assert type(error) is expected
    assert error.where == "GET /api/2026-05/mediaLibrary/serve-image/a/b.jpg"
    if isinstance(error, errors.LibraryNotFound):
        assert error.is_api_answer == body.startswith(b"{")
        assert isinstance(error, NotFound)
    if isinstance(error, errors.Forbidden):
        assert isinstance(error, Revoked)


async def test_validators_are_sent_as_they_were(tmp_path: Path) -> None:
    """A conditional request carries both validators word for word; a 304 writes nothing."""
    validators = Validators('W/"x"', "Mon, 01 Jan 2024 00:00:00 GMT")
    async with origin(says('304 Not Modified\r\netag: "y"')) as server, client_of(server) as client:
        image = await client.serve_image("a.jpg", tmp_path / "out", validators=validators)

        assert server.requests[0].headers["if-none-match"] == 'W/"x"'
        assert server.requests[0].headers["if-modified-since"] == "Mon, 01 Jan 2024 00:00:00 GMT"
    assert (image.is_modified, image.etag, image.digest) == (False, '"y"', None)


async def read_entries(client: MediaLibraryClient, path: Path) -> None:
    del path
    await client.get_entries(ids=("x",))


async def fetch_image(client: MediaLibraryClient, path: Path) -> None:
    await client.serve_image("a.jpg", path / "out")


both_calls = pytest.mark.parametrize("call", [read_entries, fetch_image])
Read = Callable[[MediaLibraryClient, "Path"], Awaitable[None]]


@both_calls
async def test_a_redirect_to_another_host_is_refused(call: Read, tmp_path: Path) -> None:
    """Another port is another host. It is not asked, the call is not tried again, and the error says what to set."""
    async with origin(EMPTY_LIST) as elsewhere:
        away = says(f"302 Found\r\nlocation: {elsewhere.url}/x\r\ncontent-length: 0")
        async with origin(away) as server, client_of(server) as client:
            with pytest.raises(errors.RedirectRefused) as refused:
                await call(client, tmp_path)

            assert len(server.requests) == 1
        assert elsewhere.requests == []
    assert "[origin] redirect_hosts" in refused.value.public
    assert elsewhere.url.removeprefix("http://") in refused.value.message


@both_calls
async def test_redirects_never_carry_the_token_to_another_host(call: Read, tmp_path: Path) -> None:
    """A redirect is followed with the token on the same origin, and without it to a host that is allowed."""
    async with origin(EMPTY_LIST) as elsewhere:
        away = says(f"302 Found\r\nlocation: {elsewhere.url}/x\r\ncontent-length: 0")
        home = says("302 Found\r\nlocation: /y\r\ncontent-length: 0")
        hosts = (elsewhere.url.removeprefix("http://"),)
        async with origin(home, away) as server, client_of(server, redirect_hosts=hosts) as client:
            await call(client, tmp_path)

            assert [request.headers.get("authorization") for request in server.requests] == ["Bearer T", "Bearer T"]
        assert [request.headers.get("authorization") for request in elsewhere.requests] == [None]


@pytest.mark.parametrize(
    ("home", "before", "after", "is_allowed"),
    [
        ("http://cms.example", "http://cms.example/a", "http://cms.example/b", True),
        ("http://cms.example", "http://cms.example/a", "https://cms.example/b", True),
        ("http://cms.example", "https://cms.example/a", "http://cms.example/b", False),
        ("https://cms.example", "https://cms.example/a", "http://cms.example/b", False),
        ("https://cms.example", "https://cms.example/a", "https://CMS.example:443/b", True),
        ("https://cms.example", "https://cms.example/a", "https://cms.example:8443/b", False),
        ("https://cms.example", "https://cms.example/a", "https://cms.example.evil.test/b", False),
        ("https://cms.example", "https://cms.example/a", "https://cms.example@evil.test/b", False),
        ("https://cms.example", "https://cms.example/a", "https://169.254.169.254/b", False),
        ("https://cms.example", "https://cms.example/a", "https://[::1]/b", False),
        ("https://cms.example", "https://cms.example/a", "https://Files.example/b", True),
        ("https://cms.example", "https://cms.example/a", "https://files.example:8443/b", False),
        ("https://cms.example", "https://cms.example/a", "https://other.example:8443/b", True),
        ("https://cms.example", "https://cms.example/a", "http://files.example/b", False),
        ("https://cms.example", "https://files.example/a", "https://cms.example/b", True),
    ],
)
def test_where_a_redirect_may_lead(home: str, before: str, after: str, *, is_allowed: bool) -> None:
    """To the library itself and to named hosts, each with its port; never from https to http."""
    rule = RedirectRule(URL(home), frozenset({"files.example", "other.example:8443"}))

    with nullcontext() if is_allowed else pytest.raises(errors.RedirectRefused):
        rule.check(URL(before), URL(after), "GET /")


async def test_redirects_end(tmp_path: Path) -> None:
    """A redirect in a circle is an error, and that of a patch is not followed at all."""
    around = says("302 Found\r\nlocation: /again\r\ncontent-length: 0")
    async with origin(around) as server, client_of(server) as client:
        with pytest.raises(errors.UnexpectedAnswer):
            await client.serve_image("a.jpg", tmp_path / "out")
        count = len(server.requests)
        with pytest.raises(errors.UnexpectedStatus) as refused:
            await client.patch_entry("x", Archive())

        assert len(server.requests) == count + 1
    assert refused.value.origin_status == 302


def by_token(*accepted: str) -> Reply:
    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        is_known = request.headers.get("authorization", "").removeprefix("Bearer ") in accepted
        await (EMPTY_LIST if is_known else says("401 No\r\ncontent-length: 0"))(request, writer)

    return reply


async def test_two_tokens_during_a_rotation(tmp_path: Path) -> None:
    """After a 401 the second token is tried, then kept in use; a new file is read without a restart."""
    path = tmp_path / "token"
    path.write_text("new\nold\n")
    async with (
        origin(by_token("old"), by_token("old"), by_token("old"), by_token("newest")) as server,
        client_of(server, token=TokenSource.file(path)) as client,
    ):
        await client.get_entries(ids=["a"])
        await client.get_entries(ids=["a"])
        used = [request.headers["authorization"] for request in server.requests]
        path.write_text("newest\n")
        await client.get_entries(ids=["a"])

        assert server.requests[-1].headers["authorization"] == "Bearer newest"
    assert used == ["Bearer new", "Bearer old", "Bearer old"]


async def test_no_token_in_errors_or_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the text nor the repr of an error nor the log holds the token."""
    caplog.set_level(logging.DEBUG)
    async with (
        origin(says("401 No\r\ncontent-length: 0")) as server,
        client_of(server, token=TokenSource.literal("s3cret-t0ken")) as client,
    ):
        with pytest.raises(errors.Unauthorized) as refused:
            await client.get_entry("x")
    texts = f"{refused.value} {refused.value!r} {refused.value.public} {client!r}"

    assert "s3cret" not in texts
    assert not [
        record for record in caplog.records if record.name.startswith("imgproxy") and "s3cret" in record.getMessage()
    ]


BAD_ANSWERS = {
    "no JSON": b"<html>",
    "another kind": b"[]",
    "no list": b'{"results": 3}',
    "no entry": b'{"results": [{}]}',
    "a bad time": b'{"results": [{"id":"x","version":1,"mediaType":"image","createdAt":"x","updatedAt":"x"}]}',
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_answers_that_are_not_in_the_form_of_the_api(name: str) -> None:
    """A 200 that holds something else is UnexpectedAnswer, saying what is missing."""
    body = BAD_ANSWERS[name]
    async with origin(says(f"200 OK\r\ncontent-length: {len(body)}", body)) as server, client_of(server) as client:
        with pytest.raises(errors.UnexpectedAnswer) as failed:
            await client.get_entries(ids=["x"])

    assert failed.value.message


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../x", "a/../b", "a/.", "a\0b"])
async def test_keys_that_name_another_endpoint_are_not_sent(tmp_path: Path, key: str) -> None:
    """A key with dots, an empty part or a NUL is refused before anything is sent."""
    async with origin(GOOD) as server, client_of(server) as client:
        with pytest.raises(BadUrl):
            await client.serve_image(key, tmp_path / "out")
        with pytest.raises(BadUrl):
            await client.get_entry("..")

        assert server.requests == []


async def test_keys_are_quoted(tmp_path: Path) -> None:
    """Spaces, per cent signs, question marks and letters outside ASCII arrive as the key they are."""
    async with origin(GOOD) as server, client_of(server) as client:
        await client.serve_image("a b/50%25?#ü.jpg", tmp_path / "out")

        assert server.requests[0].target == "/api/2026-05/mediaLibrary/serve-image/a%20b/50%2525%3F%23%C3%BC.jpg"
