"""
The origin that the proxies fetch from. The scenario sets the version and status of its pictures, and holds its answers.

It also answers as much of the Media Library's API as imgproxy needs. The path before the picture's name is ignored.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs

from aiohttp import web

from .pictures import NEW, OLD, png

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Point = Literal["headers", "body"]
PATIENCE_S = 15.0
# Pictures end in this. Other paths are the library's API.
SUFFIX = ".png"
NOT_FOUND = {"status": 404, "error": "Not Found", "error_details": {"name": "NotFound", "message": "No image found."}}
FORBIDDEN = {
    "status": 403,
    "error": "Forbidden",
    "error_details": {"message": "The requested image is revoked or marked as invalid"},
}


@dataclass(slots=True)
class Picture:
    """
    One picture and how it is served. `asked_if_modified` counts conditional requests.

    `is_dated_backwards`: the new version has an older modification date than the old one, as a restored file has.
    """

    version: int = OLD
    is_dated_backwards: bool = False
    status: int = 200
    max_age_s: int = 3600
    asked_if_modified: int = 0
    gates: dict[Point, asyncio.Event] = field(default_factory=dict)
    held: dict[Point, int] = field(default_factory=lambda: defaultdict(int))


def tag_of(name: str) -> str:
    """Return the cache tag of a picture, for proxies that purge by tag."""
    return "p-" + blake2b(name.encode(), digest_size=6).hexdigest()


def entry_of(name: str) -> str:
    """Return the id of the entry that has this picture, for webhooks."""
    return "e" + blake2b(name.encode(), digest_size=6).hexdigest()


class Origin:
    """The server."""

    def __init__(self) -> None:
        self._pictures: defaultdict[str, Picture] = defaultdict(Picture)
        self._changed = asyncio.Condition()
        self.port = 0
        self._pictures["reference/old" + SUFFIX] = Picture(OLD)
        self._pictures["reference/new" + SUFFIX] = Picture(NEW)

    def picture(self, name: str) -> Picture:
        """Return the picture of this name. It is created at first use."""
        return self._pictures[name]

    def hold(self, name: str, point: Point) -> None:
        """Stop answers about this picture: before their headers, or in the middle of their body."""
        picture = self._pictures[name]
        picture.gates[point] = asyncio.Event()
        picture.held[point] = 0

    def release(self, name: str, point: Point) -> None:
        """Let held answers go on, and hold no more."""
        gate = self._pictures[name].gates.pop(point, None)
        if gate is not None:
            gate.set()

    async def arrived(self, name: str, point: Point, count: int = 1) -> None:
        """Wait until so many answers are held at the point."""
        async with self._changed, asyncio.timeout(PATIENCE_S):
            await self._changed.wait_for(lambda: self._pictures[name].held[point] >= count)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer with the version and status of the moment when the request came in."""
        path, _, query = request.raw_path.partition("?")
        if not path.endswith(SUFFIX):
            entry = path.split("/")[-2] if path.endswith("/keys") else ""
            return web.json_response({"results": [name for name in self._pictures if entry_of(name) == entry]})
        name = "/".join(path.split("/")[-2:])
        picture = self._pictures[name]
        version, status = picture.version, picture.status
        note = _accepted(request) if "auto" in parse_qs(query) else ""
        body = png(version, note=note)
        headers = {
            "Content-Type": "image/png",
            "ETag": f'"{version}-{note}"',
            "Last-Modified": f"Sat, 01 Nov 2025 00:00:{30 - version if picture.is_dated_backwards else version:02} GMT",
            "Cache-Control": f"public, max-age={picture.max_age_s}",
            "xkey": tag_of(name),
            "X-Path": f"/{name}",
        }
        if note:
            headers["Vary"] = "Accept"
        if "If-None-Match" in request.headers:
            picture.asked_if_modified += 1
            if status == 200 and headers["ETag"] in request.headers["If-None-Match"]:
                status = 304
        await self._pass(picture, "headers")
        if status in (403, 404):
            headers["Content-Type"] = "application/json"
            text = json.dumps(FORBIDDEN if status == 403 else NOT_FOUND).encode()
            return web.Response(status=status, headers=headers, body=text)
        if status != 200:
            return web.Response(status=status, headers=headers)
        return await self._send(request, picture, headers, body)

    async def _send(
        self, request: web.BaseRequest, picture: Picture, headers: dict[str, str], body: bytes
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        response.content_length = len(body)
        await response.prepare(request)
        if request.method != "HEAD":
            half = len(body) // 2
            await response.write(body[:half])
            await self._pass(picture, "body")
            await response.write(body[half:])
        await response.write_eof()
        return response

    async def _pass(self, picture: Picture, point: Point) -> None:
        gate = picture.gates.get(point)
        if gate is None:
            return
        async with self._changed:
            picture.held[point] += 1
            self._changed.notify_all()
        await gate.wait()


def _accepted(request: web.BaseRequest) -> str:
    return "webp" if "image/webp" in request.headers.get("Accept", "") else "other"


@asynccontextmanager
async def origin(port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[Origin]:
    """Run the origin."""
    running = Origin()
    runner = web.ServerRunner(web.Server(running.handle, access_log=None), shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    running.port = runner.addresses[0][1]
    try:
        yield running
    finally:
        await runner.cleanup()
