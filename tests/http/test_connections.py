"""The limits of connections: heads, idle connections, readers, bodies, and how many there may be."""

from __future__ import annotations

import asyncio
import json
import operator
import socket
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from imgproxy.config.sections import CacheSettings, PurgeSettings, ServerSettings, WebhookSettings
from imgproxy.edge.connections import LimitedServer, Limits, limit_options
from imgproxy.edge.descriptors import Descriptors, limit_of_process
from imgproxy.failpoints import Point
from imgproxy.telemetry.metrics import Metrics
from tests.support.delivery import loop_turns
from tests.support.site import ADMIN, KEY, Held, Site, png_of_noise, poll, site, until
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SHORT_S = 0.2
LONG_S = 600.0
LARGE = {KEY: png_of_noise(1200)}  # 4 MB, and more than the kernel takes for a client that does not read
SIGNATURE = "x-livingdocs-signature: sha256=" + "0" * 64


def limited(**limits: float) -> ServerSettings:
    """Return settings of the server with these limits."""
    return ServerSettings.model_validate({"port": 0, "shutdown_timeout_s": 0.5, **limits})


Connect = Callable[..., Awaitable[Wire]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens connections, by site or port. Those that are left at the end are closed."""
    wires: list[Wire] = []

    async def to(here: Site | int, limit: int = 2**24) -> Wire:
        port = here if isinstance(here, int) else int(here.edge.url.rsplit(":", 1)[1])
        wires.append(Wire(*await asyncio.open_connection("127.0.0.1", port, limit=limit)))
        return wires[-1]

    yield to
    for wire in wires:
        await wire.close()


async def is_closed(wire: Wire) -> bool:
    """Wait until the service has closed the connection. What it sent before is thrown away."""
    async with asyncio.timeout(20):
        try:
            while await wire.reader.read(65536):
                pass
        except ConnectionError:
            pass
    return True


async def an_idle_connection_ends(connect: Connect, here: Site) -> None:
    """Have a connection closed by the limit of idle ones. That of each earlier connection is over then."""
    wire = await connect(here)
    wire.ask("/-/health")
    assert (await wire.read_answer())[0] == 200
    assert await is_closed(wire)


def closed(here: Site, reason: str) -> float:
    """How many connections were closed for this reason."""
    return here.metric("imgproxy_connections_closed_total", reason=reason)


async def in_memory(here: Site) -> str:
    """Have a large hit prepared for the fast path, and return its target."""
    target = f"/{KEY}?w=1200&fm=png"
    for _ in range(2):
        assert (await here.get(target)).status == 200
    return target


def large_in_memory(tmp_path: Path) -> CacheSettings:
    return CacheSettings(dir=tmp_path / "cache", min_free_bytes=0, hot_item_max_bytes=50_000_000)


# --- heads and idle connections --------------------------------------------------------------------------------------


async def test_a_first_head_must_be_there_in_time(connect: Connect, tmp_path: Path) -> None:
    """A client that sends no request, or half of one, loses its connection."""
    async with site(tmp_path, server=limited(head_timeout_s=SHORT_S)) as here:
        nothing, half = await connect(here), await connect(here)
        half.writer.write(b"GET /a.jpg HT")

        assert await is_closed(nothing)
        assert await is_closed(half)
        assert closed(here, "head") == 2


async def test_the_next_head_on_a_kept_connection_must_be_there_in_time(connect: Connect, tmp_path: Path) -> None:
    """The time counts from the first byte of a head, after answers of the fast path and of the usual way."""
    async with site(tmp_path, server=limited(head_timeout_s=SHORT_S)) as here:
        for target in ("/-/health", f"/{KEY}?w=50"):
            wire = await connect(here)
            for _ in range(3):
                wire.ask(target)
                assert (await wire.read_answer())[0] == 200
            wire.writer.write(b"GET /a.jpg HT")

            assert await is_closed(wire)
        assert closed(here, "head") == 2


async def test_an_idle_connection_is_closed_and_one_with_half_a_head_is_not_idle(
    connect: Connect, tmp_path: Path
) -> None:
    """The limit of idle connections does not end a request that is arriving."""
    async with site(tmp_path, server=limited(idle_timeout_s=SHORT_S)) as here:
        slow = await connect(here)
        slow.writer.write(b"GET /-/health HT")
        await an_idle_connection_ends(connect, here)
        slow.writer.write(b"TP/1.1\r\nHost: x\r\n\r\n")

        assert (await slow.read_answer())[0] == 200
        assert closed(here, "head") == 0


# --- readers ---------------------------------------------------------------------------------------------------------


async def test_a_client_that_does_not_read_is_disconnected(connect: Connect, tmp_path: Path) -> None:
    """From an original, which is read from its file meanwhile, and from a hit of the fast path."""
    server, cache = limited(send_timeout_s=SHORT_S), large_in_memory(tmp_path)
    async with site(tmp_path, pictures=LARGE, cache=cache, server=server) as here:
        wires = []
        for target in (await in_memory(here), f"/{KEY}"):
            wires.append(await connect(here, limit=1024))
            wires[-1].ask(target)
            await wires[-1].read_head()

        await until(lambda: closed(here, "reader") == 2)
        await until(lambda: here.metric("imgproxy_requests_in_flight") == 0)
        assert all([await is_closed(wire) for wire in wires])


async def test_a_purge_cuts_a_client_that_does_not_read_an_original(connect: Connect, tmp_path: Path) -> None:
    """Within `drain_s`, long before its own limit; the receipt counts it. The kernel sends nothing more: it resets."""
    server = limited(send_timeout_s=3)
    async with site(tmp_path, pictures=LARGE, server=server, purge=PurgeSettings(drain_s=0.05)) as here:
        wires = [await connect(here, limit=1024) for _ in range(3)]
        for wire in wires:
            wire.ask(f"/{KEY}")
            await wire.read_head()

        receipt = await here.purge(here.library.entry_id(KEY))

        assert receipt.json()["cut"] == 3
        for wire in wires:
            with pytest.raises(ConnectionResetError):
                await wire.reader.read()


@pytest.mark.parametrize("target", [f"/{KEY}?w=50", f"/{KEY}?w=51", "/-/ready"], ids=["hit", "miss", "ready"])
async def test_a_node_that_leaves_ends_each_connection_with_its_next_answer(
    connect: Connect, tmp_path: Path, target: str
) -> None:
    """Balancers send it no new ones, but keep those that are open: closed later, one could lose a request."""
    async with site(tmp_path) as here:
        kept = await connect(here)
        for _ in range(3):
            kept.ask(f"/{KEY}?w=50")
            assert (await kept.read_answer())[0] == 200
        await here.edge.server.leave()
        for wire in (kept, await connect(here)):
            wire.ask(target)
            status, headers, _ = await wire.read_answer()

            assert (status, headers["Connection"]) == (200, "close")
            assert await is_closed(wire)


async def test_a_stop_cuts_a_client_that_does_not_read(connect: Connect, tmp_path: Path) -> None:
    """When `shutdown_timeout_s` is over, no byte for it is left in this process."""
    async with site(tmp_path, pictures=LARGE, server=limited(shutdown_timeout_s=SHORT_S)) as here:
        wire = await connect(here, limit=1024)
        wire.ask(f"/{KEY}")
        await wire.read_head()
        await here.edge.stop()

        await until(lambda: here.metric("imgproxy_connections") == 0)


@pytest.mark.parametrize("turns", range(5))
async def test_a_stop_closes_a_connection_that_was_accepted_just_before(tmp_path: Path, turns: int) -> None:
    """The kernel has it; the service may not know it yet."""
    async with site(tmp_path) as here:
        port = int(here.edge.url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as client:
            await loop_turns(turns)
            await here.edge.stop()
            client.settimeout(20)
            with suppress(ConnectionResetError):
                assert await asyncio.to_thread(client.recv, 1) == b""


async def test_a_purge_cuts_a_hit_whose_connection_is_about_to_close(connect: Connect, tmp_path: Path) -> None:
    """A client that has sent its last byte, or is past the limit of idle connections, still gets buffered bytes."""
    server, cache = limited(idle_timeout_s=SHORT_S), large_in_memory(tmp_path)
    async with site(tmp_path, pictures=LARGE, cache=cache, server=server, purge=PurgeSettings(drain_s=0.05)) as here:
        target = await in_memory(here)
        idle, half_closed = await connect(here, limit=1024), await connect(here, limit=1024)
        for wire in (idle, half_closed):
            wire.ask(target)
        half_closed.writer.write_eof()
        for wire in (idle, half_closed):
            await wire.read_head()
        await an_idle_connection_ends(connect, here)

        receipt = await here.purge(here.library.entry_id(KEY))

        assert receipt.json()["cut"] == 2
        assert await is_closed(idle)
        assert await is_closed(half_closed)


# --- how many there may be -------------------------------------------------------------------------------------------


async def test_a_further_connection_takes_the_place_of_the_one_that_is_idle_the_longest(
    connect: Connect, tmp_path: Path
) -> None:
    """Not of one that was used since, and not of one with a request under way."""
    held = Held()
    async with site(tmp_path, failpoints=held, server=limited(connections_max=3)) as here:
        held.hold(Point.BEFORE_RESPONSE)
        busy = await connect(here)
        busy.ask(f"/{KEY}?w=50")
        await held.arrived(Point.BEFORE_RESPONSE)
        used, unused = await connect(here), await connect(here)
        for wire in (used, unused, used):
            wire.ask("/-/health")
            assert (await wire.read_answer())[0] == 200
        new = await connect(here)
        new.ask("/-/health")

        assert (await new.read_answer())[0] == 200
        assert await is_closed(unused)
        used.ask("/-/health")
        assert (await used.read_answer())[0] == 200
        held.release(Point.BEFORE_RESPONSE)
        assert (await busy.read_answer())[0] == 200
        assert closed(here, "room") == 1
        assert here.metric("imgproxy_connections") == 3


async def test_a_further_connection_is_refused_if_every_one_is_busy(connect: Connect, tmp_path: Path) -> None:
    """No request under way is ended for it; when one has ended, there is room again."""
    held = Held()
    async with site(tmp_path, failpoints=held, server=limited(connections_max=2)) as here:
        held.hold(Point.BEFORE_RESPONSE)
        wires = [await connect(here) for _ in range(2)]
        for wire in wires:
            wire.ask(f"/{KEY}?w=50")
        await held.arrived(Point.BEFORE_RESPONSE)
        await until(lambda: here.metric("imgproxy_requests_in_flight") == 2)

        assert await is_closed(await connect(here))
        assert closed(here, "full") == 1
        held.release(Point.BEFORE_RESPONSE)
        assert [(await wire.read_answer())[0] for wire in wires] == [200, 200]
        await wires[0].close()
        await until(lambda: here.metric("imgproxy_connections") == 1)
        assert (await here.get("/-/health")).status == 200


async def test_an_address_has_no_more_connections_than_it_may(connect: Connect, tmp_path: Path) -> None:
    """Only a further one is refused; one that has ended counts no more."""
    async with site(tmp_path, server=limited(connections_per_address_max=2)) as here:
        wires = [await connect(here) for _ in range(2)]
        for wire in wires:
            wire.ask("/-/health")
            await wire.read_answer()

        assert await is_closed(await connect(here))
        assert closed(here, "address") == 1
        await wires[0].close()
        await until(lambda: here.metric("imgproxy_connections") == 1)
        assert (await here.get("/-/health")).status == 200


# --- bodies ----------------------------------------------------------------------------------------------------------


def post(path: str, length: int, *more: str) -> bytes:
    """Return the head of a POST that announces a body."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *more, f"Content-Length: {length}", "", ""]).encode()


async def refused_by_head(wire: Wire, path: str, header: str) -> bool:
    """Post a head with a part of its body. Whether the answer is 401, and the connection closes."""
    wire.writer.write(post(path, 900_000, header, "Expect: 100-continue") + b"a part of it")
    status, headers, body = await wire.read_answer()
    assert (status, headers["Connection"]) == (401, "close")
    assert json.loads(body)["status"] == 401
    return await is_closed(wire)


async def test_what_the_head_refuses_is_answered_before_the_body_comes(connect: Connect, tmp_path: Path) -> None:
    """The client is told that the connection closes, and it does close, although the body never comes."""
    async with site(tmp_path, server=limited(body_timeout_s=SHORT_S)) as here:
        for path, header in (
            ("/-/webhooks/livingdocs", "Accept: */*"),
            ("/-/webhooks/livingdocs", "x-livingdocs-signature: sha256=beef"),
            ("/-/purge/keys", "Authorization: Bearer wrong"),
            ("/-/warm/keys", "Authorization: Basic admin-token"),
            ("/api/v1/purge", "Accept: */*"),
        ):
            assert await refused_by_head(await connect(here), path, header)


async def test_a_webhook_without_a_configured_secret_is_refused_by_its_head(connect: Connect, tmp_path: Path) -> None:
    """No body could be right."""
    async with site(tmp_path, server=limited(body_timeout_s=SHORT_S), webhook=WebhookSettings()) as here:
        assert await refused_by_head(await connect(here), "/-/webhooks/livingdocs", SIGNATURE)


async def test_a_refused_body_that_is_there_leaves_the_connection_open(connect: Connect, tmp_path: Path) -> None:
    """It is thrown away, and the next request is answered."""
    async with site(tmp_path) as here:
        wire = await connect(here)
        wire.writer.write(post("/-/purge/keys", 5, "Authorization: Bearer wrong") + b"12345")
        status, headers, _ = await wire.read_answer()
        wire.ask("/-/health")

        assert (status, headers.get("Connection")) == (401, None)
        assert (await wire.read_answer())[0] == 200


async def test_half_a_body_is_408(connect: Connect, tmp_path: Path) -> None:
    """The text says how long the service has waited."""
    async with site(tmp_path, server=limited(body_timeout_s=SHORT_S)) as here:
        wire = await connect(here)
        wire.writer.write(post("/-/purge/keys", 10, "Authorization: Bearer admin-token") + b"half")
        status, _, body = await wire.read_answer()

        assert (status, json.loads(body)["type"]) == (408, "urn:imgproxy:problem:request-too-slow")
        assert await is_closed(wire)


async def test_few_large_bodies_are_read_at_once(connect: Connect, tmp_path: Path) -> None:
    """One more gets 503. Small ones are always read, and those of strangers do not keep out an operator's."""
    keys = json.dumps({"keys": [KEY]}).encode()
    async with site(tmp_path, server=limited(body_timeout_s=LONG_S)) as here:
        for path, header in (
            ("/-/purge/keys", "Authorization: Bearer admin-token"),
            ("/-/webhooks/livingdocs", SIGNATURE),
        ):
            large = post(path, 900_000, header, "Expect: 100-continue")
            wires = [await connect(here) for _ in range(8)]
            for wire in wires:
                wire.writer.write(large)
                assert b" 100 " in await wire.read_head()
            extra = await connect(here)
            extra.writer.write(large)
            status, headers, body = await extra.read_answer()

            assert (status, headers["Retry-After"]) == (503, "2")
            assert json.loads(body)["type"] == "urn:imgproxy:problem:too-many-bodies"
            assert (await here.send("POST", "/-/purge/keys", data=keys, headers=ADMIN)).status == 200
            if path == "/-/webhooks/livingdocs":
                long = keys + b" " * 100_000
                assert (await here.send("POST", "/-/purge/keys", data=long, headers=ADMIN)).status == 200
            left = here.metric("imgproxy_connections") - len(wires)
            for wire in wires:
                wire.writer.transport.abort()
            await poll(lambda: here.metric("imgproxy_connections"), partial(operator.eq, left))
            wires[0] = await connect(here)
            wires[0].writer.write(large)
            assert b" 100 " in await wires[0].read_head()
            wires[0].writer.transport.abort()


# --- without the fast path -------------------------------------------------------------------------------------------


@asynccontextmanager
async def usual_server(settings: ServerSettings, body: bytes) -> AsyncIterator[tuple[Metrics, int]]:
    """Run a server without the fast path, as with an aiohttp of another version, that answers with this body."""
    metrics = Metrics()
    limits = Limits(settings, Descriptors(limit_of_process()), metrics)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        del request
        return web.Response(body=body)

    runner = web.ServerRunner(LimitedServer(answer, limits, **limit_options(settings)), shutdown_timeout=0.1)
    await runner.setup()
    limits.start()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield metrics, runner.addresses[0][1]
    finally:
        await runner.cleanup()
        await limits.close()


async def test_without_the_fast_path_who_sends_no_request_is_idle(connect: Connect) -> None:
    """So every head has a limit there, too."""
    async with usual_server(limited(idle_timeout_s=SHORT_S), b"x") as (_, port):
        nothing, half = await connect(port), await connect(port)
        half.ask("/")
        await half.read_answer()
        half.writer.write(b"GET / HT")

        assert await is_closed(nothing)
        assert await is_closed(half)


async def test_without_the_fast_path_who_does_not_read_is_disconnected(connect: Connect) -> None:
    """This limit needs nothing of aiohttp."""
    async with usual_server(limited(send_timeout_s=SHORT_S), bytes(20_000_000)) as (metrics, port):
        wire = await connect(port, limit=1024)
        wire.ask("/")
        await wire.read_head()

        reason = {"reason": "reader"}
        await until(lambda: metrics.registry.get_sample_value("imgproxy_connections_closed_total", reason) == 1)
        assert await is_closed(wire)
