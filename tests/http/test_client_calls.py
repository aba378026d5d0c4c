"""API calls and purge calls over real sockets: what a server gets wrong does no harm, and no token goes elsewhere."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgproxy.cache.outbox import Subject
from imgproxy.medialibrary import errors
from imgproxy.medialibrary.operations import Archive
from imgproxy.purge.downstream.calls import CallResult, PurgeCall, PurgeHttp, Verdict, judge_status
from tests.support.cli import run
from tests.support.scripted_origin import (
    EMPTY_LIST,
    Origin,
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
    from collections.abc import Sequence

    from imgproxy.purge.downstream.calls import PurgeAnswer

EVIL = b'HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{"results": ["evil"]}'[:-1]


def lists(*keys: str, head: str = "", body: bytes | None = None) -> Reply:
    """A reply of the keys API, with more lines of its head, or with its body in another form."""
    body = json.dumps({"results": keys}).encode() if body is None else body
    return says(f"200 OK\r\ncontent-length: {len(body)}{head}", body)


def noting(reply: Reply, used: list[object]) -> Reply:
    """The same reply; where it was asked from goes to `used`."""

    async def noted(request: Request, writer: asyncio.StreamWriter) -> None:
        used.append(writer.get_extra_info("peername"))
        await reply(request, writer)

    return noted


async def turns_of_the_loop() -> None:
    """Let the loop read what lies in the sockets: client and server are in the same one."""
    for _ in range(5):
        await asyncio.sleep(0)


# --- calls of the API ----------------------------------------------------------------------------------------------


async def test_calls_use_one_connection_again() -> None:
    """One after another, answers and refusals of the keys API take one connection."""
    used: list[object] = []
    missing = says("404 Not Found\r\ncontent-length: 2", b"{}")
    async with (
        origin(*[noting(reply, used) for reply in (lists("a"), missing, lists("b"))]) as server,
        client_of(server) as client,
    ):
        assert await client.keys("x") == ("a",)
        with pytest.raises(errors.LibraryNotFound):
            await client.keys("x")
        assert await client.keys("x") == ("b",)

    assert len(used) == 3
    assert len(set(used)) == 1


async def test_a_call_that_is_abandoned_is_no_answer_for_the_next() -> None:
    """A call that is cancelled in its body, or refused before its end, gives its connection up."""
    async with origin(hangs_in_the_body, lists("a")) as server, client_of(server) as client:
        call = asyncio.create_task(client.keys("x"))
        while not server.requests:
            await asyncio.sleep(0.01)
        await turns_of_the_loop()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        assert await client.keys("x") == ("a",)


@pytest.mark.parametrize("size", [len(EVIL), 30], ids=["whole", "half"])
async def test_bytes_that_nobody_asked_for_list_no_keys(size: int) -> None:
    """What comes on a kept connection between two calls does not answer the second one."""
    writers = []

    async def kept(request: Request, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await lists("a")(request, writer)

    async with origin(kept, lists("b")) as server, client_of(server, max_attempts=1) as client:
        await client.keys("x")
        writers[0].write(EVIL[:size])
        await turns_of_the_loop()

        assert await client.keys("x") == ("b",)


@pytest.mark.parametrize(
    "broken",
    [
        says("200 OK\r\ncontent-length: 50", b'{"results": []}', is_last=True),
        says("200 OK\r\ncontent-length: 14", b'{"results":[]}' + EVIL),
        says("200 OK\r\ntransfer-encoding: chunked", b'e\r\n{"results":[]}\r\n', is_last=True),
        says("200 OK\r\ncontent-length: 14\r\ncontent-length: 15", b'{"results":[]}'),
        says("nonsense"),
        drops,
    ],
    ids=["too short", "too long", "no end of chunks", "two lengths", "no HTTP", "nothing"],
)
async def test_a_broken_answer_is_asked_for_again(broken: Reply) -> None:
    """Keys come from a whole answer only; where none comes, the call is OriginUnavailable after every try."""
    async with origin(broken, lists("a")) as server, client_of(server) as client:
        assert await client.keys("x") == ("a",)
        assert len(server.requests) == 2
    async with origin(broken) as server, client_of(server) as client:
        with pytest.raises(errors.OriginUnavailable):
            await client.keys("x")
        assert len(server.requests) == 3


@pytest.mark.parametrize("reply", [hangs, hangs_in_the_body])
async def test_a_call_has_one_deadline(reply: Reply) -> None:
    """A call that hangs, in its second try, before or in its body, is OriginTimeout."""
    async with origin(drops, reply) as server, client_of(server, timeout_s=1.0) as client:
        with pytest.raises(errors.OriginTimeout):
            await client.keys("x")

        assert len(server.requests) == 2


async def test_what_a_proxy_encoded_is_decoded() -> None:
    """Answers and refusals come as they were, although `identity` was asked for. A name that is no encoding is none."""
    plain = json.dumps({"results": ["a"]}).encode()
    refusal = gzip.compress(b'{"error_details": {"name": "NotFound", "message": "No such entry."}}')
    async with (
        origin(
            lists(head="\r\ncontent-encoding: gzip", body=gzip.compress(plain)),
            lists(head="\r\ncontent-encoding: utf-8", body=plain),
            says(f"404 No\r\ncontent-encoding: gzip\r\ncontent-length: {len(refusal)}", refusal),
        ) as server,
        client_of(server) as client,
    ):
        assert await client.keys("x") == ("a",)
        assert await client.keys("x") == ("a",)
        with pytest.raises(errors.LibraryNotFound) as missing:
            await client.keys("x")

        assert server.requests[0].headers["accept-encoding"] == "identity"
    assert (missing.value.is_api_answer, missing.value.message) == (True, "No such entry.")


@pytest.mark.parametrize(
    "body",
    [gzip.compress(b" " * 40_000_000 + b'{"results": []}'), gzip.compress(b'{"results": []}' * 99)[:-12], b"{}"],
    ids=["a bomb", "cut off", "no gzip"],
)
async def test_what_cannot_be_decoded_lists_no_keys(body: bytes) -> None:
    """A little that stands for too much, what is cut off, and what is no gzip: none is an answer, or asked for again."""
    async with origin(lists(head="\r\ncontent-encoding: gzip", body=body)) as server, client_of(server) as client:
        with pytest.raises(errors.UnexpectedAnswer):
            await client.keys("x")

        assert len(server.requests) == 1


async def test_a_head_may_have_a_long_line() -> None:
    """Some servers send policies of 20 KB."""
    async with (
        origin(lists("a", head=f"\r\ncontent-security-policy: {'x' * 20_000}")) as server,
        client_of(server, max_attempts=1) as client,
    ):
        assert await client.keys("x") == ("a",)


async def test_what_a_call_sends() -> None:
    """Queries are encoded, a patch is JSON in UTF-8 with its type, and a read has neither body nor type."""
    sent: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        sent.append(head + await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\nconnection: close\r\n\r\n" + b'{"results":[]}')
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/cms"
    async with server, client_of(Origin([], url)) as client:
        await client.get_entries(ids=("a b", "ü"), external_id="x&y=z")
        await client.patch_entry("é", Archive(), version=3)
    read, patch = sent

    assert read.startswith(b"GET /cms/api/2026-05/mediaLibrary?ids=a+b%2C%C3%BC&externalId=x%26y%3Dz HTTP/1.1\r\n")
    assert b"\r\nauthorization: bearer t\r\n" in read.lower()
    assert b"content-" not in read.lower()
    head, _, body = patch.partition(b"\r\n\r\n")
    assert head.startswith(b"PATCH /cms/api/2026-05/mediaLibrary/%C3%A9 HTTP/1.1\r\n")
    assert b"\r\ncontent-type: application/json\r\n" in head.lower() + b"\r\n"
    assert json.loads(body)["version"] == "3"


async def test_no_cookie_is_kept_and_no_proxy_variable_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token goes where the configuration says, and nothing that one answer set goes with the next call."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with origin(lists(head="\r\nset-cookie: a=b")) as server, client_of(server, max_attempts=1) as client:
        for _ in range(2):
            await client.keys("x")

        assert [request.headers.get("cookie") for request in server.requests] == [None, None]


@pytest.mark.parametrize("reply", [hangs, hangs_in_the_body])
async def test_closing_the_client_ends_its_calls(reply: Reply) -> None:
    """When the service stops, no call waits for a library that hangs, and none is begun."""
    async with origin(reply) as server, asyncio.timeout(10):
        async with client_of(server) as client:
            call = asyncio.create_task(client.keys("x"))
            while not server.requests:
                await asyncio.sleep(0.01)
            await turns_of_the_loop()
        with pytest.raises(errors.OriginUnavailable):
            await call
        with pytest.raises(errors.OriginUnavailable):
            await client.keys("x")

        assert len(server.requests) == 1


async def test_a_library_on_ipv6() -> None:
    """The host of the URL may be an IPv6 address in brackets."""
    hosts: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        hosts.append(head.partition("host: ")[2].split("\r\n")[0])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\nconnection: close\r\n\r\n" + b'{"results":[]}')
        writer.close()

    try:
        server = await asyncio.start_server(answer, "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    port = server.sockets[0].getsockname()[1]
    async with server, client_of(Origin([], f"http://[::1]:{port}")) as client:
        assert await client.keys("x") == ()

    assert hosts == [f"[::1]:{port}"]


# --- purge calls ---------------------------------------------------------------------------------------------------


class Api:
    """A cache in front with one call, which 200 confirms."""

    subjects_max = 1
    concurrency = 1

    def __init__(self, url: str, token: str = "T") -> None:
        self._url = url
        self._token = token

    def covers(self, subject: Subject) -> bool:
        del subject
        return True

    def call(self, subjects: Sequence[Subject]) -> PurgeCall:
        del subjects
        return PurgeCall("POST", self._url, {"Authorization": f"Bearer {self._token}"}, b"{}")

    def judge(self, answer: PurgeAnswer) -> Verdict:
        return judge_status(answer, frozenset({200}))


async def told(*urls: str, timeout_s: float = 10.0, token: str = "T") -> list[Verdict]:
    """Send a purge call to each of these and return the verdicts."""
    async with aclosing(PurgeHttp()) as http:
        return [await http.send(Api(url, token), [Subject("a.jpg")], timeout_s=timeout_s) for url in urls]


OK = says("200 OK\r\ncontent-length: 2", b"{}")


async def test_a_purge_call_goes_where_the_configuration_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """No redirect is followed and no proxy variable read, so that no other host gets the token."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with origin(OK) as elsewhere:
        away = says(f"307 Go\r\nlocation: {elsewhere.url}/x\r\ncontent-length: 0")
        async with origin(away) as server:
            assert await told(server.url) == [Verdict(CallResult.FAILED, "HTTP 307")]
        assert elsewhere.requests == []


async def test_a_purge_call_keeps_its_url_byte_for_byte() -> None:
    """What a template has escaped stays so; what a configured URL has not is escaped."""
    async with origin(OK) as server:
        await told(f"{server.url}/a%2Fb%41/{{x}}?q=%7B+%20", f"{server.url}/ü b")

        assert [request.target for request in server.requests] == ["/a%2Fb%41/{x}?q=%7B+%20", "/%C3%BC%20b"]


async def test_credentials_in_the_url_are_basic_ones() -> None:
    """They win over the token."""
    async with origin(OK) as server:
        assert await told(server.url.replace("://", "://user:pass@")) == [Verdict(CallResult.DONE)]

        assert server.requests[0].headers["authorization"] == "Basic dXNlcjpwYXNz"


@pytest.mark.parametrize("broken", [drops, says("nonsense"), says("200 OK\r\ncontent-length: 9", b"{}", is_last=True)])
async def test_a_purge_call_that_breaks_off_is_sent_twice(broken: Reply) -> None:
    """The first one may have met a connection that the server was just closing. Two purges do no harm."""
    async with origin(broken, OK) as server:
        assert await told(server.url) == [Verdict(CallResult.DONE)]
        assert len(server.requests) == 2
    async with origin(broken) as server:
        (verdict,) = await told(server.url)
        assert len(server.requests) == 2
    assert verdict.result is CallResult.FAILED
    assert (verdict.detail or "").startswith("no answer: ")


async def test_why_a_purge_call_failed() -> None:
    """Nobody there, an unknown authority, silence, and what is no URL have their own words. They do not repeat the URL."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}/s3cret"
    untrusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    untrusted.load_cert_chain(Path(__file__).parents[1] / "support" / "localhost.pem")
    async with origin(OK, tls=untrusted) as server:
        refused, untrusted_one = await told(nobody, server.url)
        assert refused.detail == "no connection: the connection was refused: nothing listens there"
        assert (untrusted_one.detail or "").startswith("no connection: TLS: the certificate is signed by itself")
        assert server.requests == []
    async with origin(hangs) as silent:
        assert await told(silent.url, timeout_s=0.5) == [Verdict(CallResult.FAILED, "no answer within 0.5 s")]
    for url in ("ftp://127.0.0.1/s3cret", "http:///s3cret", "http://[::1/s3cret", "http://127.0.0.1:99999/s3cret"):
        (verdict,) = await told(url)
        assert verdict.result is CallResult.REJECTED, url
        assert (verdict.detail or "").startswith("the call cannot be made: ")
        assert "s3cret" not in (verdict.detail or "")


async def test_an_answer_to_a_purge_is_read_up_to_a_limit() -> None:
    """A body without an end is left, and its connection with it; the status counts."""

    async def endless(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await writer.drain()

    async with origin(endless, OK) as server:
        assert await told(server.url, server.url) == [Verdict(CallResult.DONE)] * 2


# --- commands ------------------------------------------------------------------------------------------------------


async def test_a_command_takes_the_proxy_of_the_environment(tmp_path: Path) -> None:
    """`imgproxy purge` runs where a person works. Credentials of a .netrc do not replace the admin token."""
    (tmp_path / "netrc").write_text("default login other password other\n")
    body = b'{"variants": 1}'
    reply = says(f"200 OK\r\ncontent-length: {len(body)}", body)
    async with origin(reply) as proxy:
        code, out, _ = await asyncio.to_thread(
            run,
            *("purge", "what?é", "--edge", "http://edge.test", "--token", "T", "--json", "--reason", "edited"),
            http_proxy=proxy.url,
            no_proxy="",
            NETRC=str(tmp_path / "netrc"),
        )

        (request,) = proxy.requests
    assert (code, json.loads(out)["variants"]) == (0, 1)
    assert request.target == "http://edge.test/-/purge/entries/what%3F%C3%A9?reason=edited"
    assert request.headers["authorization"] == "Bearer T"


async def test_a_command_says_that_the_edge_sends_no_json() -> None:
    """Something else may listen there."""
    async with origin(EMPTY_LIST, says("200 OK\r\ncontent-length: 6", b"<html>")) as server:
        found = [
            await asyncio.to_thread(run, "purge", "x", "--edge", server.url, "--token", "T", "--json") for _ in range(2)
        ]

    assert [json.loads(out).get("detail") for _, out, _ in found] == [None, "the edge's answer is not JSON"]
