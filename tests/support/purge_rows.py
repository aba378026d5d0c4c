"""
The rows of the purge matrix: where a request is when the purge comes, and what must be true of every answer after it.

A row names the request, what is cached before it, and the point at which the request is held. `Stage` is the service
under test: in this process or in another one, with or without a cache in front. Every row runs on every stage.
"""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image
from yarl import URL

from imgproxy.config.sections import FreshnessSettings
from imgproxy.failpoints import Point
from tests.support.processes import cpu_ticks, go_on, stop
from tests.support.site import ADMIN, KEY, Held, Reply, poll

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import aiohttp

    from imgproxy.medialibrary.server import EmbeddedLibrary
    from imgproxy.medialibrary.server.probe import Probe

OLD, MIDDLE, NEW = 200, 110, 20
SMALL = f"/{KEY}?w=50"
WHOLE = f"/{KEY}"
SLOW = f"/{KEY}?w=900&fm=avif&q=90"

NOT_SETTLING = FreshnessSettings(settle_s=0)
ALWAYS_STALE = FreshnessSettings(settle_s=0, revalidate_after_s=0)
NEVER_STALE = FreshnessSettings(settle_s=0, revalidate_after_s=0, stale_if_error_s=0)


@cache
def noisy_png(red: int, size_px: tuple[int, int] = (640, 480)) -> bytes:
    """Return a PNG of about a megabyte, known by its red. It is so large that its answer can be held half-way."""
    width_px, height_px = size_px
    pixels = np.random.default_rng(red).integers(0, 256, (height_px, width_px, 3), np.uint8)
    pixels[:, :, 0] = red
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def mean_red(body: bytes) -> float:
    """Return the mean red of a picture, 0 to 255. A lossy format changes single pixels, but hardly their mean."""
    return float(np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))[:, :, 0].mean())


@dataclass(frozen=True)
class Row:
    """
    Where a request is when the purge comes.

    `place` is a failpoint, `origin-body` (the library has sent half of the bytes), or `render-begun` and `render-half`
    (a signal stops the render process before its work, or in the middle of it).
    """

    name: str
    place: Point | str
    target: str = SMALL
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    is_cached: bool = False
    is_behind: bool = False  # the request is answered; what is held is the work behind its answer
    requests: int = 1
    freshness: FreshnessSettings = NOT_SETTLING

    @property
    def status(self) -> int:
        """The status of a good answer."""
        return 206 if "Range" in self.headers else 200

    def __str__(self) -> str:
        return self.name


ROWS = (
    Row("fetch", "origin-body"),
    Row("decode", "render-begun"),
    Row("encode", "render-half", target=SLOW),
    Row("before-rename", Point.AFTER_RENDER),
    Row("after-rename", Point.AFTER_RENAME),
    Row("mid-response", Point.MID_RESPONSE, target=WHOLE, is_cached=True),
    Row("coalesced-waiter", Point.AFTER_RENDER, requests=5),
    Row("304-revalidation", Point.AFTER_FETCH, is_cached=True, freshness=NEVER_STALE),
    Row("background-refresh", Point.AFTER_FETCH, is_cached=True, is_behind=True, freshness=ALWAYS_STALE),
    Row("head", Point.BEFORE_RESPONSE, method="HEAD", is_cached=True),
    Row("range", Point.BEFORE_RESPONSE, target=WHOLE, headers={"Range": "bytes=1000-4999"}, is_cached=True),
)


class Points(Protocol):
    """The failpoints of a service, in this process or in another."""

    async def hold(self, point: Point) -> None:
        """Hold every request that reaches this failpoint."""

    async def arrived(self, point: Point, count: int) -> None:
        """Wait until so many requests are held there."""

    async def release(self, point: Point) -> None:
        """Let the held requests go on."""


class OwnPoints:
    """The failpoints of an edge in this process."""

    def __init__(self, held: Held) -> None:
        self._held = held

    async def hold(self, point: Point) -> None:
        self._held.hold(point)

    async def arrived(self, point: Point, count: int) -> None:
        await self._held.arrived(point, count)

    async def release(self, point: Point) -> None:
        self._held.release(point)


@dataclass(frozen=True)
class Stage:
    """The service under test: its library, its failpoints, its edge, and the URL that clients use."""

    library: EmbeddedLibrary
    probe: Probe
    points: Points
    edge_url: str
    render_pids: Callable[[], Sequence[int]]
    session: aiohttp.ClientSession
    front_url: str | None = None

    async def send(self, method: str, target: str, **headers: str) -> Reply:
        """Send a request as a client does."""
        return await self._ask(method, (self.front_url or self.edge_url) + target, headers)

    async def purge(self) -> Reply:
        """Purge the picture's entry."""
        entry = self.library.entry_id(KEY)
        return await self._ask("POST", f"{self.edge_url}/-/purge/entries/{entry}", ADMIN)

    async def metric(self, name: str) -> float:
        """Return the value of a metric without labels."""
        page = await self._ask("GET", f"{self.edge_url}/-/metrics", ADMIN)
        return float(page.body.decode().split(f"\n{name} ")[1].split("\n")[0])

    async def _ask(self, method: str, url: str, headers: dict[str, str]) -> Reply:
        async with self.session.request(method, URL(url, encoded=True), headers=headers) as response:
            return Reply(response.status, response.headers, await response.read())

    @property
    def render_pid(self) -> int:
        """Return the id of the one render process."""
        (pid,) = self.render_pids()
        return pid


class HeldRequest:
    """A row's request, held at its place."""

    def __init__(self, stage: Stage, row: Row) -> None:
        self._stage = stage
        self._row = row
        self.requests: list[asyncio.Task[Reply]] = []
        self._pid = 0

    async def begin(self) -> None:
        """Send the row's request, and return when it is held at its place."""
        stage, row = self._stage, self._row
        if row.is_cached:
            await self._warm()
        await self._hold()
        tasks = [asyncio.create_task(stage.send(row.method, row.target, **row.headers)) for _ in range(row.requests)]
        await self._arrived()
        if row.requests > 1 and stage.front_url is None:  # a cache in front passes only one of them on
            await poll(lambda: stage.metric("imgproxy_requests_in_flight"), lambda count: count >= row.requests)
        if row.is_behind:
            await asyncio.gather(*tasks)  # answered from the cache, rightly: the purge has not come yet
        else:
            self.requests = tasks

    async def _warm(self) -> None:
        """
        Put the row's variant into the edge's cache.

        A cache in front gets another variant, which the purge must remove. It must not have the row's own variant: the
        request would end there. A request to be held before its answer must not be a hit in the edge's memory, because
        the fast path has no failpoint.
        """
        stage, row = self._stage, self._row
        if stage.front_url is None:
            assert (await stage.send("GET", row.target)).status == 200
            return
        # A revalidation behind an answer happens once in a while, so there must be no answer before the row's own.
        for _ in range(0 if row.is_behind else 2):
            assert (await stage.send("GET", WHOLE if row.target != WHOLE else SMALL)).status == 200
        if row.place is not Point.BEFORE_RESPONSE:
            assert (await replace(stage, front_url=None).send("GET", row.target)).status == 200

    async def begin_again(self) -> bool:
        """Let the request go on, and hold it if it comes to its place again. Return False if it has ended."""
        stage, place = self._stage, self._row.place
        if self._row.is_behind or not isinstance(place, Point):
            return False
        await stage.points.release(place)
        await stage.points.hold(place)
        arrival = asyncio.create_task(stage.points.arrived(place, 1))
        await asyncio.wait([arrival, *self.requests], return_when=asyncio.FIRST_COMPLETED)
        is_held = arrival.done()
        arrival.cancel()
        await asyncio.gather(arrival, return_exceptions=True)
        return is_held

    async def _hold(self) -> None:
        place = self._row.place
        if isinstance(place, Point):
            await self._stage.points.hold(place)
        elif place == "origin-body":
            self._stage.probe.hold("body")
        else:
            self._pid = self._stage.render_pid
            if place == "render-begun":
                stop(self._pid)

    async def _arrived(self) -> None:
        place = self._row.place
        if isinstance(place, Point):
            await self._stage.points.arrived(place, 1)
        elif place == "origin-body":
            await self._stage.probe.arrived("body")
        elif place == "render-begun":
            # The stopped process has its job in the socket, and has not read it.
            await poll(lambda: self._stage.metric("imgproxy_render_busy"), lambda count: count == 1)
        else:
            before = cpu_ticks(self._pid)
            await poll(lambda: cpu_ticks(self._pid), lambda ticks: ticks >= before + 5)
            stop(self._pid)

    async def let_go(self) -> None:
        """Let the request go on, and do not hold it again."""
        place = self._row.place
        if isinstance(place, Point):
            await self._stage.points.release(place)
        elif place == "origin-body":
            self._stage.probe.release("body")
        else:
            go_on(self._pid)

    async def replies(self) -> list[Reply | BaseException]:
        """Return the answers to the held requests; an exception for a connection that was cut."""
        async with asyncio.timeout(30):
            return await asyncio.gather(*self.requests, return_exceptions=True)


@dataclass(frozen=True)
class Pictures:
    """The pictures that were under the key before, and the one that is there now."""

    gone: tuple[bytes, ...]
    now: bytes

    def is_old(self, reply: Reply | BaseException) -> bool:
        """Whether an answer has any bytes of the pictures that are gone."""
        if isinstance(reply, BaseException) or reply.status >= 400:
            return False
        if reply.status == 206:
            return any(reply.body in gone for gone in self.gone)
        if not reply.body:
            return False  # an answer to HEAD: its entity tag is compared by `assert_only_new`
        return abs(mean_red(reply.body) - mean_red(self.now)) > 30

    async def assert_only_new(self, stage: Stage, row: Row, *held: Reply | BaseException) -> None:
        """Check that answers of every kind, and the held ones, have the picture that is there now."""
        assert not [reply for reply in held if self.is_old(reply)]
        tags = {}
        for target in dict.fromkeys((row.target, SMALL, WHOLE)):
            for _ in range(2):
                reply = await stage.send("GET", target)
                assert reply.status == 200
                assert not self.is_old(reply)
                tags[target] = reply.headers["ETag"]
        for target, tag in tags.items():
            assert (await stage.send("HEAD", target)).headers["ETag"] == tag
        part = await stage.send("GET", WHOLE, Range="bytes=1000-4999")
        assert part.body in self.now
        for answer in held:
            if isinstance(answer, Reply) and answer.status < 400:
                assert answer.headers["ETag"] == tags[row.target]
