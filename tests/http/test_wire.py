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

TOKEN = "admin-token"


async def talk(here: Site, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes on a connection of their own; the first answer, read to its end."""
    host, port = here.edge.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    try:
        async with asyncio.timeout(20):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
    finally:
        writer.close()
    return int(lines[0].split()[1]), headers, body


@pytest.mark.parametrize(
    ("data", "status", "kind"),
    [
        (b"FOO /a.jpg HTTP/1.1\r\nHost: x\r\n\r\n", 400, "not-http"),
        (b"GET /a.jpg HTTP/1.1\r\nAuthorization: Bearer admin-token\x00x\r\nHost: x\r\n\r\n", 400, "not-http"),
        (b"GET /a.jpg HTTP/1.1\r\nAuthorization : Bearer admin-token\r\nHost: x\r\n\r\n", 400, "not-http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03admin-token\r\n\r\n", 400, "not-http"),
        (b"GET /a.jpg HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400, "not-http"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "headers-too-large"),
    ],
    ids=["method", "nul in a token", "space in a header", "tls", "length", "long"],
)
async def test_what_is_no_request_is_a_problem_and_leaks_nothing(
    tmp_path: Path, data: bytes, status: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Our shape, our name, none of its bytes; an access line and a count, but no traceback that holds a token."""
    caplog.set_level(logging.INFO)
    async with site(tmp_path, log=LogSettings(access="errors")) as here:
        found, headers, body = await talk(here, data)

        assert found == status
        assert headers["content-type"] == "application/problem+json"
        assert headers["server"] == "imgproxy"
        assert json.loads(body)["type"] == f"urn:imgproxy:problem:{kind}"
        assert TOKEN not in body.decode()
        assert here.metric("imgproxy_requests_total", outcome="error", status=str(status)) == 1
    logged = "".join(record.getMessage() + str(record.exc_text or "") for record in caplog.records)
    assert TOKEN not in logged
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("value", [b"Bearer \xff\xfe", b"Bearer \xc3\x28", b"Bearer"])
async def test_a_token_of_odd_bytes_is_401(tmp_path: Path, value: bytes) -> None:
    """Nothing in a header can be more wrong than a wrong token."""
    async with site(tmp_path) as here:
        status, _, _ = await talk(here, b"GET /-/status HTTP/1.1\r\nHost: x\r\nAuthorization: " + value + b"\r\n\r\n")

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


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/-/purge/keys", {"keys": ["\ud800"]}),
        ("/-/purge/keys", {"keys": ["/"]}),
        ("/-/purge/keys", {"keys": ["../../etc/passwd"]}),
        ("/api/v1/purge", {"data": {"attributes": {"url": 5}}}),
        ("/api/v1/purge", {"data": {"attributes": {"url": None}}}),
        ("/api/v1/purge", {"data": {"attributes": {"url": "http://x/\ud800"}}}),
    ],
)
async def test_keys_that_are_none_are_400_and_not_in_the_journal(tmp_path: Path, target: str, body: object) -> None:
    """What no URL could name is not purged either."""
    async with site(tmp_path) as here:
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
