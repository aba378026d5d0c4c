"""Every failure has its status, its type and its text, and leaks nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from imgproxy.config.origin import OriginSettings
from imgproxy.config.sections import AdminSettings, FreshnessSettings, LimitsSettings, LogSettings, RenderSettings
from imgproxy.config.url import UrlSettings
from tests.support.processes import stopped
from tests.support.site import ADMIN, KEY, Reply, Site, jpeg, site, until

TOKEN = "secret-origin-token"


def problem(reply: Reply, status: int, kind: str) -> str:
    """Check the form of a problem (RFC 9457) and return its text."""
    assert reply.status == status, reply
    assert reply.headers["Content-Type"] == "application/problem+json"
    body = json.loads(reply.body)
    assert body["type"] == f"urn:imgproxy:problem:{kind}"
    assert body["status"] == status
    assert body["title"]
    assert "Traceback" not in body["detail"]
    assert TOKEN not in reply.body.decode()
    assert "/tmp" not in reply.body.decode()
    return str(body["detail"])


@asynccontextmanager
async def raw_origin(answer: bytes | None) -> AsyncIterator[str]:
    """Run a server that reads a request, sends these bytes and closes; for None it never answers."""
    hanging: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            hanging.append(asyncio.Event())
            await hanging[-1].wait()
        else:
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        for event in hanging:
            event.set()
        server.close()
        await server.wait_closed()


def origin(url: str, timeout_s: float = 5.0) -> OriginSettings:
    return OriginSettings(url=url, token=SecretStr(TOKEN), timeout_s=timeout_s)


async def test_an_unknown_key_is_404_and_remembered_for_a_short_time(tmp_path: Path) -> None:
    """The origin is asked once; the second answer is a hit, and both say how long they may be kept."""
    async with site(tmp_path) as here:
        first = await here.get("/nothing.jpg?w=50")
        second = await here.get("/nothing.jpg?w=60")

        problem(first, 404, "not-found")
        problem(second, 404, "not-found")
        assert "fwd-status=404" in first.cache_status
        assert second.cache_status.startswith("imgproxy; hit; ttl=")
        assert "max-age=" in first.headers["Cache-Control"]
        assert here.probe.count("serveImage", "nothing.jpg") == 1
        assert list((tmp_path / "cache" / "keys").glob("*/*")) == []


async def test_a_revoked_image_is_403_with_a_short_life_and_a_reason(tmp_path: Path) -> None:
    """The type differs from that of a bad signature, and Cache-Status names the reason."""
    async with site(tmp_path) as here:
        await here.library.mark_invalid(here.library.entry_id(KEY))
        reply = await here.get(f"/{KEY}?w=50")

        problem(reply, 403, "revoked")
        assert "fwd-status=403" in reply.cache_status
        assert "detail=revoked" in reply.cache_status
        assert reply.headers["Cache-Control"] in {f"public, max-age={left}" for left in range(25, 31)}


async def test_bytes_that_are_no_image_are_422(tmp_path: Path) -> None:
    """HTML with status 200 is neither rendered nor passed on."""
    async with site(
        tmp_path, pictures={KEY: jpeg(1), "page.jpg": b"<html>hello</html>"}, library={"is_lenient": True}
    ) as here:
        problem(await here.get("/page.jpg?w=50"), 422, "not-an-image")
        problem(await here.get("/page.jpg"), 422, "not-an-image")


async def test_a_truncated_image_is_422(tmp_path: Path) -> None:
    """A picture whose end is missing cannot be decoded."""
    async with site(tmp_path, pictures={KEY: jpeg(1, (800, 600))[:3000]}, library={"is_lenient": True}) as here:
        problem(await here.get(f"/{KEY}?w=50"), 422, "decode-failed")


async def test_too_many_bytes_or_pixels_are_413_with_both_numbers(tmp_path: Path) -> None:
    """The text says what was found and what is allowed."""
    size = len(jpeg(200))
    async with site(tmp_path, limits=LimitsSettings(source_bytes=size - 1)) as here:
        text = problem(await here.get(f"/{KEY}?w=50"), 413, "source-too-large")
        assert str(size - 1) in text
    async with site(tmp_path, limits=LimitsSettings(source_pixels=63_999)) as here:
        text = problem(await here.get(f"/{KEY}?w=50"), 413, "too-many-pixels")
        assert "64000" in text
        assert "63999" in text


async def test_an_origin_that_cannot_be_reached_is_502(tmp_path: Path) -> None:
    """Its port takes no connection; the answer is not stored."""
    async with site(tmp_path, origin=origin("http://127.0.0.1:1")) as here:
        reply = await here.get(f"/{KEY}?w=50")

        problem(reply, 502, "origin-unreachable")
        assert reply.headers["Cache-Control"] == "no-store"


async def test_the_log_says_why_the_origin_is_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line when it is down; the line of each 502 is a warning with the cause; so has `/-/status`. No client sees it."""
    cause = "the connection was refused: nothing listens there"
    with caplog.at_level("INFO"):
        async with site(tmp_path, origin=origin("http://127.0.0.1:1"), log=LogSettings(access="errors")) as here:
            replies = [await here.get(f"/{KEY}?w={width}") for width in (50, 60)]
            status = (await here.send("GET", "/-/status", headers=ADMIN)).json()["origin"]

    assert (status["down"], status["cause"]) == (True, cause)
    assert all(cause not in reply.body.decode() for reply in replies)
    lines = [line for line in caplog.records if line.levelname == "WARNING"]
    assert [line.getMessage() for line in lines if line.name != "imgproxy.access"] == [
        f"the Media Library is down: {cause}; cached pictures are served within stale_if_error_s"
    ]
    assert [vars(line)["facts"]["cause"] for line in lines if line.name == "imgproxy.access"] == [cause] * 2


async def test_an_origin_that_hangs_is_504(tmp_path: Path) -> None:
    """It accepts the connection and never answers; the text has the timeout."""
    async with raw_origin(None) as url, site(tmp_path, origin=origin(url, timeout_s=0.3)) as here:
        text = problem(await here.get(f"/{KEY}?w=50"), 504, "origin-timeout")
        assert "0.3 s" in text


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 500000\r\n\r\n\xff\xd8\xff\xe0half",
        b"not http at all\r\n\r\n",
        b"",
    ],
    ids=["truncated", "garbage", "reset"],
)
async def test_an_origin_that_breaks_off_is_502_and_nothing_is_kept(tmp_path: Path, answer: bytes) -> None:
    """A body shorter than announced is no picture; the next request asks again."""
    async with raw_origin(answer) as url, site(tmp_path, origin=origin(url)) as here:
        reply = await here.get(f"/{KEY}?w=50")

        problem(reply, 502, "origin-unreachable")
        assert list((tmp_path / "cache" / "keys").glob("*/*/original")) == []


async def test_an_origin_with_another_status_is_502(tmp_path: Path) -> None:
    """The text has the origin's status."""
    answer = b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    async with raw_origin(answer) as url, site(tmp_path, origin=origin(url)) as here:
        text = problem(await here.get(f"/{KEY}?w=50"), 502, "origin-status")
        assert "500" in text


async def test_a_refused_token_is_502_and_no_picture_counts_as_revoked(tmp_path: Path) -> None:
    """A 401 for everything is a fault of the token, as `/-/status` says. This node can answer, so it is ready."""
    token_file = tmp_path / "token"
    token_file.write_text("wrong")
    async with site(tmp_path) as right:
        settings = OriginSettings(url=right.library.url, token_file=token_file)
        async with site(tmp_path / "second", origin=settings) as here:
            problem(await here.get(f"/{KEY}?w=50"), 502, "origin-denied")
            assert (await token_dead(here), (await here.get("/-/ready")).status) == (True, 200)

            token_file.write_text("library-token")
            assert (await here.get(f"/{KEY}?w=50")).status == 200
            assert (await token_dead(here), (await here.get("/-/ready")).status) == (False, 200)


async def token_dead(here: Site) -> bool:
    """Return what `/-/status` says of the token."""
    return bool((await here.send("GET", "/-/status", headers=ADMIN)).json()["origin"]["token_dead"])


async def test_a_full_render_queue_is_503_with_retry_after(tmp_path: Path) -> None:
    """A refused request is told when to come back, and its answer is not stored. The node is ready: hits are served."""
    pictures = {f"{number}.jpg": jpeg(number) for number in range(12)}
    settings = RenderSettings(processes=1, queue_max=1)
    async with site(tmp_path, pictures=pictures, render=settings) as here:
        with stopped(*here.edge.pool.pids):
            requests = [asyncio.create_task(here.get(f"/{key}?w=50")) for key in pictures]
            await until(lambda: any(request.done() for request in requests))
            ready = await here.get("/-/ready")
            status = await here.send("GET", "/-/status", headers=ADMIN)
        replies = await asyncio.gather(*requests)

        refused = [reply for reply in replies if reply.status != 200]
        assert refused
        assert (ready.status, status.json()["render"]["queue_full"]) == (200, True)
        for reply in refused:
            problem(reply, 503, "overloaded")
            assert int(reply.headers["Retry-After"]) >= 1
            assert reply.headers["Cache-Control"] == "no-store"


async def test_impossible_values_are_400_and_named(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """The text names the parameter, and the origin is not asked."""
    async with site(tmp_path) as here:
        for query, name in (
            ("w=0", "w"),
            ("h=-5", "h"),
            ("txt64=%%%", "txt64"),
            ("w64=a+b/", "w64"),
            ("mark64=*", "mark64"),
        ):
            with subtests.test(query=query, name=name):
                text = problem(await here.get(f"/{KEY}?{query}"), 400, "bad-parameter")
                assert name.removesuffix("64") in text
                assert here.probe.count("serveImage", KEY) == 0


async def test_strict_mode_refuses_what_is_else_ignored(tmp_path: Path) -> None:
    """With `strict`, unknown parameters and values are 400 and named."""
    async with site(tmp_path, url=UrlSettings(strict=True)) as here:
        assert "mark-sclae" in problem(await here.get(f"/{KEY}?mark-sclae=1"), 400, "bad-parameter")
        assert "fit" in problem(await here.get(f"/{KEY}?w=50&fit=stretch"), 400, "bad-parameter")


async def test_paths_that_are_no_keys_are_400_and_never_reach_the_origin(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """A path that could leave the library is refused."""
    async with site(tmp_path) as here:
        for target in (
            "/../etc/passwd?w=5",
            "/a/%2e%2e/b.jpg?w=5",
            "/a%00.jpg?w=5",
            "/%2Fetc%2Fpasswd?w=5",
            "/a%5c..%5cb?w=5",
            "/a//b.jpg?w=5",
        ):
            with subtests.test(target=target):
                problem(await here.get(target), 400, "bad-url")
                assert here.probe.count("serveImage") == 0


async def test_a_url_that_is_too_long_is_414(tmp_path: Path) -> None:
    """The text has the limit."""
    async with site(tmp_path) as here:
        text = problem(await here.get(f"/{KEY}?w=50&x={'a' * 9000}"), 414, "uri-too-long")
        assert "8000" in text


async def test_admin_routes_need_the_token(tmp_path: Path) -> None:
    """Without it, or with another one, every admin route is 401 and names the scheme."""
    async with site(tmp_path) as here:
        for method, target in (
            ("POST", "/-/purge/entries/abc"),
            ("POST", "/-/purge/keys"),
            ("POST", "/api/v1/purge"),
            ("PURGE", f"/{KEY}"),
            ("GET", "/-/metrics"),
            ("GET", "/-/status"),
        ):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic admin-token"}):
                reply = await here.send(method, target, headers=headers)
                problem(reply, 401, "unauthorized")
                assert reply.headers["WWW-Authenticate"].startswith("Bearer")


async def test_without_an_admin_token_the_routes_are_closed(tmp_path: Path) -> None:
    """An empty token is no token."""
    async with site(tmp_path, admin=AdminSettings()) as here:
        for value in ("Bearer ", "Bearer", "Bearer None", ""):
            assert (await here.send("POST", "/-/purge/entries/a", headers={"Authorization": value})).status == 401


async def test_unknown_admin_routes_and_methods(tmp_path: Path) -> None:
    """An unknown route is 404, a wrong method 405 with Allow."""
    async with site(tmp_path) as here:
        problem(await here.send("GET", "/-/nothing", headers=ADMIN), 404, "route-not-found")
        reply = await here.send("GET", "/-/purge/keys", headers=ADMIN)
        problem(reply, 405, "method-not-allowed")
        assert reply.headers["Allow"] == "POST, OPTIONS"


async def test_an_error_within_is_500_without_its_text(tmp_path: Path) -> None:
    """The client sees nothing of an unexpected error."""
    async with site(tmp_path) as here:

        def explode(*_: object) -> None:
            raise RuntimeError(f"{TOKEN} in /tmp/secret")

        here.edge.images._responder._heads.of = explode  # type: ignore[assignment,method-assign]
        problem(await here.get(f"/{KEY}?w=50"), 500, "internal")


async def test_a_404_is_asked_again_after_its_time(tmp_path: Path) -> None:
    """A picture that is added after a 404 is found when the refusal has run out."""
    async with site(tmp_path, freshness=FreshnessSettings(negative_ttl_s=0)) as here:
        problem(await here.get("/late.jpg?w=50"), 404, "not-found")
        await here.library.put("late.jpg", jpeg(9))
        assert (await here.get("/late.jpg?w=50")).status == 200
