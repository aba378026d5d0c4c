"""What comes over the wire that no browser sends: broken heads, slow clients, odd bodies, tokens in the wrong place."""

import asyncio
import json
import logging
from pathlib import Path

import pytest
from pydantic import SecretStr

from imgproxy.config.sections import LogSettings, ServerSettings, SigningSettings
from imgproxy.edge.handler import origin_form
from imgproxy.failpoints import Point
from imgproxy.params.signature import sign
from tests.support.site import ADMIN, KEY, SECRET, Held, Site, jpeg, site, until
from tests.support.wire import Wire

TOKEN = "admin-token"


async def talk(here: Site, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes on a connection of their own; the first answer, read to its end. Its status line is HTTP/1.1."""
    host, port = here.edge.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    try:
        async with asyncio.timeout(20):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.split("\r\n")
            assert lines[0].startswith("HTTP/1.1 ")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
            length = 0 if data.startswith(b"HEAD") else int(headers.get("content-length", "0"))
            body = await reader.readexactly(length)
            if headers.get("connection") == "close":
                assert await reader.read() == b""
    finally:
        writer.close()
    return int(lines[0].split()[1]), headers, body


# What is sent, and the status and the problem that it gets.
NOT_REQUESTS = (
    (b"FOO /a.jpg HTTP/1.1\r\nHost: x\r\n\r\n", 501, "not-implemented"),
    (b"get /a.jpg HTTP/1.1\r\nHost: x\r\n\r\n", 501, "not-implemented"),
    (b"GETTING /a.jpg HTTP/1.1\r\nHost: x\r\n\r\n", 501, "not-implemented"),
    (b"G(T /a.jpg HTTP/1.1\r\nHost: x\r\n\r\n", 400, "not-http"),
    (b"GET /a.jpg HTTP/1.2\r\nHost: x\r\n\r\n", 505, "version-not-supported"),
    (b"GET /a.jpg HTTP/2.0\r\nHost: x\r\n\r\n", 505, "version-not-supported"),
    (b"GET /a.jpg\r\n\r\n", 505, "version-not-supported"),
    (b"GET /a.jpg HTTP/1.1\r\nAuthorization: Bearer admin-token\x00x\r\nHost: x\r\n\r\n", 400, "not-http"),
    (b"GET /a.jpg HTTP/1.1\r\nAuthorization : Bearer admin-token\r\nHost: x\r\n\r\n", 400, "not-http"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03admin-token\r\n\r\n", 400, "not-http"),
    (b"GET /a.jpg HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400, "not-http"),
    (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "uri-too-long"),
    (b"GET /" + b"a" * 140_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "uri-too-long"),
    (b"GET /a.jpg HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431, "headers-too-large"),
    (b"GET /a.jpg HTTP/1.1\r\nHost: x\r\n" + b"a" * 40_000 + b": x\r\n\r\n", 431, "headers-too-large"),
    (b"GET /a.jpg HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 200 + b"\r\n", 431, "headers-too-large"),
    (b"GET /a.jpg HTTP/1.1\r\nHost: a b/c@\r\n\r\n", 400, "bad-url"),
    (b"GET /a.jpg HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "not-http"),
    (b"GET /a.jpg HTTP/1.1\r\n\r\n", 400, "not-http"),
    (b"GET /a.jpg?w=50#top HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad-url"),
    (b"GET http://user:word@x/a.jpg HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad-url"),
    (b"GET ftp://x/a.jpg HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad-url"),
    (
        b"GET /a.jpg HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "not-http",
    ),
    (
        b"GET /a.jpg HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
        "not-implemented",
    ),
)


async def test_what_is_no_request_is_a_problem_and_leaks_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, subtests: pytest.Subtests
) -> None:
    """Our shape, our name, none of its bytes; an access line and a count, but no traceback that holds a token."""
    caplog.set_level(logging.INFO)
    async with site(tmp_path, log=LogSettings(access="errors")) as here:
        for data, status, kind in NOT_REQUESTS:
            with subtests.test(data=data[:60]):
                labels = {"outcome": "error", "status": str(status)}
                before = here.metric("imgproxy_requests_total", **labels)
                found, headers, body = await talk(here, data)

                assert found == status
                assert headers["content-type"] == "application/problem+json"
                assert headers["server"] == "imgproxy"
                assert headers["cache-control"] == (
                    "public, max-age=60" if headers.get("connection") != "close" else "no-store"
                )
                assert json.loads(body)["type"] == f"urn:imgproxy:problem:{kind}"
                assert TOKEN not in body.decode()
                assert here.metric("imgproxy_requests_total", **labels) == before + 1
    logged = "".join(record.getMessage() + str(record.exc_text or "") for record in caplog.records)
    assert TOKEN not in logged
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_valid_host_is_served(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """A name, an address, with or without a port, or nothing (RFC 9110 7.2); also for a hit, after another host."""
    async with site(tmp_path) as here:
        for host in ("", "x", "EXAMPLE.org:8080", "[::1]", "[2001:db8::1]:80", "10.0.0.1:", "a_b-c.d"):
            with subtests.test(host=host):
                for _ in range(2):
                    head = f"GET /{KEY}?w=50 HTTP/1.1\r\nHost: {host}\r\n\r\n"
                    assert (await talk(here, head.encode()))[0] == 200


async def test_a_host_that_is_none_is_refused_for_a_hit_too(tmp_path: Path) -> None:
    """The fast path knows the answer, and the connection has had a valid Host before."""
    async with site(tmp_path) as here:
        await here.get(f"/{KEY}?w=50")
        wire = await Wire.to(here)
        wire.ask(f"/{KEY}?w=50")
        assert (await wire.read_answer())[0] == 200
        wire.writer.write(f"GET /{KEY}?w=50 HTTP/1.1\r\nHost: a b/c@\r\n\r\n".encode())
        status, headers, _ = await wire.read_answer()
        await wire.close()

        assert (status, headers["Connection"]) == (400, "close")


async def test_a_known_method_that_is_not_for_here_is_405_with_allow(tmp_path: Path) -> None:
    """Images and admin routes say what they allow (RFC 9110 15.5.6)."""
    async with site(tmp_path) as here:
        for target, allowed in ((f"/{KEY}", "GET, HEAD, OPTIONS, PURGE"), ("/-/purge/keys", "POST, OPTIONS")):
            reply = await here.send("DELETE", target, headers=ADMIN)
            assert (reply.status, reply.headers["Allow"]) == (405, allowed)


async def test_a_unit_has_no_case_and_dates_have_three_forms(tmp_path: Path) -> None:
    """`Range: Bytes=` gets a part (RFC 9110 14.1); a date of any form in If-Range gets the whole (RFC 9110 5.6.7)."""
    data = jpeg(10)
    forms = ("Sun, 06 Nov 2094 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 2094", "no date")
    async with site(tmp_path, pictures={KEY: data}) as here:
        part = await here.get(f"/{KEY}", Range="Bytes=0-9")
        assert (part.status, part.body) == (206, data[:10])
        for date in forms:
            assert (await here.get(f"/{KEY}", Range="bytes=0-9", If_Range=date)).status == 200
            assert (await here.get(f"/{KEY}", If_Modified_Since=date)).status == 200


async def test_no_answer_of_an_admin_route_is_stored(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """With the token and without, for GET, HEAD, OPTIONS and a method that is not for here."""
    async with site(tmp_path) as here:
        for target in ("/-/health", "/-/ready", "/-/metrics", "/-/status", "/-/purges", "/-/none", "/-"):
            with subtests.test(target=target):
                for method in ("GET", "HEAD", "OPTIONS", "DELETE"):
                    for headers in (ADMIN, {}):
                        reply = await here.send(method, target, headers=headers)
                        assert reply.headers["Cache-Control"] == "no-store"
                        assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"


async def test_no_answer_to_a_purge_or_a_webhook_is_stored(tmp_path: Path) -> None:
    """Receipts and refusals alike."""
    async with site(tmp_path) as here:
        for method, target, data in (
            ("PURGE", f"/{KEY}", b""),
            ("POST", "/-/purge/keys", b"{}"),
            ("POST", "/api/v1/purge", json.dumps({"data": {"attributes": {"url": f"http://x/{KEY}"}}}).encode()),
            ("POST", "/-/webhooks/livingdocs", b""),
        ):
            reply = await here.send(method, target, headers=ADMIN, data=data)
            assert reply.headers["Cache-Control"] == "no-store"


async def test_a_token_of_odd_bytes_is_401(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Nothing in a header can be more wrong than a wrong token."""
    async with site(tmp_path) as here:
        for value in (b"Bearer \xff\xfe", b"Bearer \xc3\x28", b"Bearer"):
            with subtests.test(value=value):
                status, _, _ = await talk(
                    here, b"GET /-/status HTTP/1.1\r\nHost: x\r\nAuthorization: " + value + b"\r\n\r\n"
                )

                assert status == 401


async def test_a_compressed_webhook_is_no_signed_webhook(tmp_path: Path) -> None:
    """The signature is over the bytes as they came; junk in any coding is a 401, not a 500."""
    async with site(tmp_path) as here:
        reply = await here.send(
            "POST",
            "/-/webhooks/livingdocs",
            data=b"junk",
            headers={"Content-Encoding": "gzip", "x-livingdocs-signature": "sha256=00"},
        )

        assert reply.status == 401
        assert SECRET not in reply.body.decode()


async def test_keys_that_are_none_are_400_and_not_in_the_journal(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """What no URL could name is not purged either."""
    async with site(tmp_path) as here:
        for target, body in (
            ("/-/purge/keys", {"keys": ["\ud800"]}),
            ("/-/purge/keys", {"keys": ["/"]}),
            ("/-/purge/keys", {"keys": ["../../etc/passwd"]}),
            ("/api/v1/purge", {"data": {"attributes": {"url": 5}}}),
            ("/api/v1/purge", {"data": {"attributes": {"url": None}}}),
            ("/api/v1/purge", {"data": {"attributes": {"url": "http://x/\ud800"}}}),
        ):
            with subtests.test(target=target, body=body):
                reply = await here.send("POST", target, headers=ADMIN, data=json.dumps(body).encode())

                assert reply.status == 400
                assert here.edge.cache.epochs.seq == 0


async def test_a_client_that_waits_for_100_is_told_to_continue(tmp_path: Path) -> None:
    """RFC 9110 10.1.1."""
    async with site(tmp_path) as here:
        host, port = here.edge.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps({"keys": [KEY]}).encode()
        head = f"POST /-/purge/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nExpect: 100-continue\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        async with asyncio.timeout(20):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            assert b" 200 " in await reader.readline()
        writer.close()


async def test_who_leaves_gives_up_a_render_that_nobody_else_waits_for(tmp_path: Path) -> None:
    """Forty clients that hang up do not keep the processes busy."""
    async with site(tmp_path) as here:
        here.probe.hold("headers")
        requests = [asyncio.create_task(here.get(f"/{KEY}?w={width}&fm=avif")) for width in range(50, 60)]
        await here.probe.arrived("headers")
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        await until(lambda: here.edge.metrics.in_flight._value.get() == 0)
        here.probe.release("headers")

        await until(lambda: here.edge.originals.under_way == 0)
        assert await here.renders() == 0


async def test_a_purge_goes_on_when_its_caller_hangs_up(tmp_path: Path) -> None:
    """What an operator asked for happens, whether or not they wait for the receipt."""
    async with site(tmp_path) as here:
        await here.get(f"/{KEY}?w=50")
        entry = here.library.entry_id(KEY)
        host, port = here.edge.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST /-/purge/entries/{entry} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        await writer.drain()
        writer.transport.abort()

        await until(lambda: here.metric("imgproxy_purges_total", reason="manual") == 1)


async def test_a_stop_does_not_wait_longer_than_it_was_told(tmp_path: Path) -> None:
    """A request that never ends is ended with its connection at the deadline, and everything else is closed."""
    held = Held()
    server = ServerSettings(port=0, shutdown_timeout_s=0.3)
    async with site(tmp_path, failpoints=held, server=server) as here:
        held.hold(Point.BEFORE_RESPONSE)
        request = asyncio.create_task(here.get(f"/{KEY}?w=50"))
        await held.arrived(Point.BEFORE_RESPONSE)
        async with asyncio.timeout(20):
            await here.edge.stop()

        assert isinstance((await asyncio.gather(request, return_exceptions=True))[0], Exception)


async def test_ranges_are_of_get_alone_and_their_errors_are_problems(tmp_path: Path) -> None:
    """HEAD with a Range is answered in full; 416 has its type and says how long the original is."""
    data = jpeg(10)
    async with site(tmp_path, pictures={KEY: data}) as here:
        head = await here.send("HEAD", f"/{KEY}", headers={"Range": "bytes=0-9"})
        behind = await here.get(f"/{KEY}", Range=f"bytes={len(data)}-")

        assert (head.status, head.headers["Content-Length"]) == (200, str(len(data)))
        assert behind.json()["type"] == "urn:imgproxy:problem:unsatisfiable-range"
        assert behind.headers["Content-Range"] == f"bytes */{len(data)}"
        assert behind.headers["Cache-Control"] == "no-store"


async def test_any_tag_matches_only_what_there_is(tmp_path: Path) -> None:
    """`If-None-Match: *` is 304 for a picture and its own error for what cannot be rendered."""
    pictures = {KEY: jpeg(1), "cut.jpg": jpeg(1, (800, 600))[:3000]}
    async with site(tmp_path, pictures=pictures, library={"is_lenient": True}) as here:
        assert (await here.get(f"/{KEY}?w=50", If_None_Match="*")).status == 304
        assert (await here.get("/cut.jpg?w=50", If_None_Match="*")).status == 422


async def test_an_answer_gets_its_entrys_tag_as_soon_as_the_entry_is_known(tmp_path: Path) -> None:
    """Also one that was prepared before."""
    async with site(tmp_path) as here:
        for _ in range(3):
            before = await here.get(f"/{KEY}?w=50")
        entry = here.library.entry_id(KEY)
        await here.edge.purges.learn(entry)
        after = await here.get(f"/{KEY}?w=50")

        assert f"e-{entry}" not in before.headers["Surrogate-Key"]
        assert f"e-{entry}" in after.headers["Surrogate-Key"]


async def test_a_long_target_is_answered_and_not_remembered(tmp_path: Path) -> None:
    """Memory is not a stranger's to fill."""
    async with site(tmp_path) as here:
        target = f"/{KEY}?w=50&x={'a' * 2000}"
        for _ in range(2):
            assert (await here.get(target)).status == 200

        assert len(here.edge.memo) == 0


async def test_signatures_over_the_decoded_path_are_accepted_where_that_is_configured(tmp_path: Path) -> None:
    """A CMS that signs the key before it is encoded for the wire."""
    key = "2026/03/Zürich.jpg"
    raw, wire = f"/{key}?w=50", "/2026/03/Z%C3%BCrich.jpg?w=50"
    signature = sign(raw, "t").rsplit("s=", 1)[1]
    for is_allowed, status in ((False, 403), (True, 200)):
        signing = SigningSettings(tokens=(SecretStr("t"),), required=True, allow_decoded_path=is_allowed)
        async with site(tmp_path / str(is_allowed), pictures={key: jpeg(1)}, signing=signing) as here:
            assert (await here.get(f"{wire}&s={signature}")).status == status


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/a.jpg?w=1", "/a.jpg?w=1"),
        ("http://foo/a.jpg?w=1", "/a.jpg?w=1"),
        ("http://foo", "/"),
        ("http://foo?x=/-/health", "/?x=/-/health"),
        ("*", "*"),
    ],
)
def test_absolute_targets_lose_scheme_and_host_alone(target: str, expected: str) -> None:
    """A path in the query is no path (RFC 9112 3.2.2)."""
    assert origin_form(target) == expected
