"""The way to the Media Library: its certificate, ours, a proxy, headers, and API versions that come later."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from imgproxy.config.origin import OriginSettings
from imgproxy.edge.origin import library_client
from imgproxy.errors import ConfigError, ImgproxyError
from imgproxy.medialibrary.versions import NEWEST
from tests.support.certificates import Authority, needs_openssl
from tests.support.library import running_library
from tests.support.scripted_origin import EMPTY_LIST, drops, origin, says

ENTRY = "asze63i9"


async def ask(url: str, **options: object) -> str:
    """Ask a library for entries. Return the cause of the failure; empty: it answered."""
    settings = OriginSettings(url=url, token=SecretStr("T"), timeout_s=5, **options)
    async with library_client(settings) as library:
        try:
            await library.get_entries(ids=(ENTRY,))
        except ImgproxyError as error:
            return str(getattr(error, "message", ""))
        return ""


@asynccontextmanager
async def proxy(*, wants: str | None = None) -> AsyncIterator[tuple[str, list[str]]]:
    """An HTTP proxy that tunnels; `wants` is the Proxy-Authorization that it asks for. Gives its address and requests."""
    seen: list[str] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, _ = head.split("\r\n", 1)[0].split(" ")
        seen.append(f"{method} {target}")
        if wants is not None and f"Proxy-Authorization: {wants}" not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        host, _, port = target.removeprefix("http://").split("/")[0].partition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            far_writer.write(head.encode("latin-1"))
        await asyncio.gather(relay(reader, far_writer), relay(far_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return int(unused.getsockname()[1])


# --- TLS --------------------------------------------------------------------------------------------------------


@needs_openssl
async def test_an_authority_of_ones_own_is_trusted(tmp_path: Path) -> None:
    """With its file the library answers; without it the cause says that nobody trusts the certificate."""
    authority = Authority(tmp_path)
    server = authority.sign("server").server_context()
    async with origin(EMPTY_LIST, tls=server) as library:
        assert await ask(library.url, ca_file=authority.own.certificate) == ""
        assert await ask(library.url) == "TLS: the certificate's authority is not trusted"


@needs_openssl
@pytest.mark.parametrize(
    ("subject", "days", "expected"),
    [
        ("DNS:cms.example", None, "TLS: the certificate is for another name"),
        ("DNS:localhost", ("20200101000000Z", "20200201000000Z"), "TLS: the certificate has expired"),
        ("DNS:localhost", ("20900101000000Z", "20900201000000Z"), "TLS: the certificate is not valid yet"),
    ],
)
async def test_the_cause_says_what_is_wrong_with_a_certificate(
    tmp_path: Path, subject: str, days: tuple[str, str] | None, expected: str
) -> None:
    """Another name, expired, not valid yet."""
    authority = Authority(tmp_path)
    server = authority.sign("server", subject=subject, days=days).server_context()
    async with origin(EMPTY_LIST, tls=server) as library:
        assert await ask(library.url, ca_file=authority.own.certificate) == expected


@needs_openssl
async def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    """A server that asks for one refuses a client without it; key and certificate may be in one file."""
    authority = Authority(tmp_path)
    server = authority.sign("server").server_context(trusts=authority.own.certificate)
    ours = authority.sign("client")
    both = tmp_path / "both.pem"
    both.write_bytes(ours.certificate.read_bytes() + ours.key.read_bytes())
    trust = {"ca_file": authority.own.certificate}
    async with origin(EMPTY_LIST, tls=server) as library:
        two_files = {"client_certificate_file": ours.certificate, "client_key_file": ours.key}
        assert await ask(library.url, **trust, **two_files) == ""
        assert await ask(library.url, **trust, client_certificate_file=both) == ""
        assert await ask(library.url, **trust) != ""


@needs_openssl
def test_files_that_cannot_be_used_are_refused_at_the_start(tmp_path: Path) -> None:
    """A missing file, no PEM, the key of another certificate, and an encrypted key: each in its own words."""
    authority = Authority(tmp_path)
    one, other = authority.sign("one"), authority.sign("other")
    text = tmp_path / "text.pem"
    text.write_text("not PEM")

    def refused(**options: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            library_client(OriginSettings(**options))
        return str(caught.value)

    assert refused(ca_file=tmp_path / "none.pem") == f"[origin] ca_file: {tmp_path}/none.pem: No such file or directory"
    assert refused(ca_file=text).endswith("expected certificates in PEM form")
    assert refused(client_certificate_file=text).endswith("expected a certificate and its key in PEM form")
    mixed = refused(client_certificate_file=one.certificate, client_key_file=other.key)
    assert mixed.endswith("the key does not belong to the certificate")


# --- what else can be wrong -----------------------------------------------------------------------------------


async def test_the_cause_of_a_failure_has_its_own_words() -> None:
    """Nobody listens, no such name, no TLS there, no HTTP, closed at once: no type names, no URLs."""
    assert await ask(f"http://127.0.0.1:{unused_port()}") == "the connection was refused: nothing listens there"
    assert await ask("http://cms.invalid") == "DNS: the name of the host is not known"
    async with speaks(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert await ask(f"https://127.0.0.1:{port}") == "TLS: the server does not speak TLS on this port"
    async with origin(drops) as closing:
        assert await ask(closing.url) == "the connection was closed without an answer"
    async with speaks(b"SSH-2.0-OpenSSH_9.2\r\n\r\n") as port:
        assert await ask(f"http://127.0.0.1:{port}") == "the answer is not HTTP"
    async with origin(says("200 OK\r\ncontent-length: 99", b"{}", is_last=True)) as short:
        assert await ask(short.url) == "the answer broke off"


@asynccontextmanager
async def speaks(answer: bytes) -> AsyncIterator[int]:
    """A server on this port that sends the same bytes to everybody."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


# --- proxy and headers ----------------------------------------------------------------------------------------


@needs_openssl
async def test_requests_go_through_the_proxy(tmp_path: Path) -> None:
    """Plain ones are forwarded, https is tunnelled; user and password are in the URL of the proxy."""
    authority = Authority(tmp_path)
    secure = authority.sign("server").server_context()
    async with (
        proxy(wants="Basic dXNlcjpwYXNz") as (address, seen),
        origin(EMPTY_LIST) as plain,
        origin(EMPTY_LIST, tls=secure) as library,
    ):
        url = SecretStr(f"http://user:pass@{address}")
        assert await ask(plain.url, proxy=url) == ""
        assert await ask(library.url, proxy=url, ca_file=authority.own.certificate) == ""
        assert seen[0].startswith(f"GET {plain.url}/api/")
        assert seen[1] == f"CONNECT {library.url.removeprefix('https://')}"
        wrong = SecretStr(f"http://{address}")
        assert await ask(library.url, proxy=wrong) == "the proxy answered 407"
    nobody = SecretStr(f"http://127.0.0.1:{unused_port()}")
    assert await ask("http://cms.example", proxy=nobody) == (
        "the proxy: the connection was refused: nothing listens there"
    )


async def test_own_headers_go_to_the_library_only() -> None:
    """Each request has them; where a redirect leads to another host, neither they nor the token are sent."""
    headers = {"CF-Access-Client-Id": SecretStr("id"), "X-Team": SecretStr("images")}
    async with origin(EMPTY_LIST) as store:
        there = store.url.removeprefix("http://").replace("127.0.0.1", "localhost")
        moved = says(f"302 Found\r\nlocation: http://{there}/file\r\ncontent-length: 0")
        async with origin(EMPTY_LIST, moved) as library:
            assert await ask(library.url, headers=headers) == ""
            assert await ask(library.url, headers=headers, redirect_hosts=(there,)) == ""

            for request in library.requests:
                assert request.headers["cf-access-client-id"] == "id"
                assert request.headers["x-team"] == "images"
        assert not {"cf-access-client-id", "x-team", "authorization"} & store.requests[0].headers.keys()


@pytest.mark.parametrize("name", ["Authorization", "host", "If-None-Match", "two words", ""])
def test_headers_that_the_service_sets_itself_are_refused(name: str) -> None:
    """Another value would break the call, or send the token elsewhere."""
    with pytest.raises(ValueError, match="expected"):
        OriginSettings(headers={name: SecretStr("x")})


# --- versions -------------------------------------------------------------------------------------------------


async def test_a_version_that_comes_later_is_spoken_as_the_newest_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Client and embedded library take any YYYY-MM from 2025-03 on. The log has one line about it."""
    with caplog.at_level(logging.WARNING):
        async with (
            running_library(tmp_path, "a.jpg") as embedded,
            embedded.client(api_version="2031-11") as library,
        ):
            await library.get_entries(ids=(ENTRY,))
            await library.get_entries(ids=(ENTRY,))
    said = [line.getMessage() for line in caplog.records if "2031-11" in line.getMessage()]
    assert said == [f"Public API version 2031-11 is newer than this program; it is spoken as {NEWEST}"]


@pytest.mark.parametrize("version", ["2025-02", "2026-13", "2026-5", "2026-05-01", "latest", ""])
def test_other_versions_are_refused(version: str) -> None:
    """Expected: YYYY-MM, 2025-03 or later."""
    with pytest.raises(ValueError, match="expected a version as YYYY-MM, 2025-03 or later"):
        OriginSettings(api_version=version)
