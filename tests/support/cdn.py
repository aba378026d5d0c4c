"""A CDN's purge API on the loopback: notes what it is asked, and answers as the test says."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from multidict import CIMultiDictProxy


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came in; `target` is the raw path and query."""

    method: str
    target: str
    headers: CIMultiDictProxy[str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Told:
    """An answer."""

    status: int = 200
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = ()


class Cdn:
    """The server. `answer` decides; by default everything is 200."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], Told] = lambda asked: Told()
        self.gate = asyncio.Event()
        self.gate.set()
        self._came = asyncio.Condition()
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def arrived(self, count: int) -> None:
        """Wait until it has been asked so often."""
        async with self._came, asyncio.timeout(20):
            await self._came.wait_for(lambda: len(self.asked) >= count)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Note the request, wait at the gate, answer."""
        asked = Asked(request.method, request.raw_path, request.headers, await request.read())
        async with self._came:
            self.asked.append(asked)
            self._came.notify_all()
        await self.gate.wait()
        told = self.answer(asked)
        return web.Response(status=told.status, body=told.body, headers=dict(told.headers))


@asynccontextmanager
async def cdn(port: int = 0) -> AsyncIterator[Cdn]:
    """Run one."""
    server = Cdn()
    runner = web.ServerRunner(web.Server(server.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        server.gate.set()
        await runner.cleanup()


def fastly(asked: Asked) -> Told:
    """Answer as Fastly's bulk purge, or refuse what is not of its documented form."""
    body = asked.json()
    keys = body.get("surrogate_keys")
    is_right = (
        asked.method == "POST"
        and asked.target == "/service/SU1Z0isxPaozGVKXdv0eY/purge"
        and asked.headers.get("Content-Type") == "application/json"
        and isinstance(keys, list)
        and 1 <= len(keys) <= 256
        and all(isinstance(key, str) and key.isascii() and key.isprintable() and " " not in key for key in keys)
    )
    if not is_right:
        return Told(400, b'{"msg":"Bad request"}')
    if asked.headers.get("Fastly-Key") != "fastly-token":
        return Told(401, b'{"msg":"Provided credentials are missing or invalid"}')
    return Told(200, json.dumps({key: f"{number}-1700000000-1" for number, key in enumerate(keys)}).encode())


def cloudflare(asked: Asked) -> Told:
    """Answer as Cloudflare's purge_cache, or refuse what is not of its documented form."""
    body = asked.json()
    tags = body.get("tags")
    if asked.headers.get("Authorization") != "Bearer cloudflare-token":
        return Told(403, b'{"success":false,"errors":[{"code":10000,"message":"Authentication error"}]}')
    is_right = (
        asked.method == "POST"
        and asked.target == f"/client/v4/zones/{'0a' * 16}/purge_cache"
        and set(body) == {"tags"}
        and 1 <= len(tags) <= 100
        and all(isinstance(tag, str) and tag.isascii() and tag.isprintable() and " " not in tag for tag in tags)
    )
    if not is_right:
        return Told(400, b'{"success":false,"errors":[{"code":1012,"message":"Request must contain tags"}]}')
    return Told(200, b'{"success":true,"errors":[],"messages":[],"result":{"id":"1"}}')
