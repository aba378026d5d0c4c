"""
The rows of the purge matrix: where a request stands when the purge comes, and what must be true of every answer after.

A row names the request, what is cached before it, and the place where it is held. `Stage` is one service under test,
in this process or another, with or without a cache in front; a row is played on it in the same way.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image
from yarl import URL

from imgproxy.config.sections import FreshnessSettings
from imgproxy.failpoints import Point
from tests.support.site import ADMIN, KEY, Held, Reply

if TYPE_CHECKING:
    from collections.abc import Callable

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
    """A PNG of about a megabyte, told apart by its red: large enough that an answer with it has a middle."""
    width_px, height_px = size_px
    pixels = np.random.default_rng(red).integers(0, 256, (height_px, width_px, 3), np.uint8)
    pixels[:, :, 0] = red
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def mean_red(body: bytes) -> float:
    """The mean red of a picture, 0 to 255; a lossy format changes single pixels of noise, and hardly this."""
    return float(np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))[:, :, 0].mean())


@dataclass(frozen=True)
class Row:
    """
    Where a request stands when the purge comes.

    `place` is a barrier, `origin-body` (the library has sent half of the bytes), or `render-begun` and `render-half`
    (the render process is stopped by a signal before, or in the middle of, its work).
    """

    name: str
    place: Point | str
    target: str = SMALL
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    is_cached: bool = False
    is_behind: bool = False  # the request is answered; what is held is a piece of work it left behind
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
    Row("before-rename", Point.BEFORE_COMMIT),
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
        """Hold whoever reaches this barrier."""

    async def arrived(self, point: Point, count: int) -> None:
        """Wait until so many stand at the barrier."""

    async def release(self, point: Point) -> None:
        """Let them go on."""


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
    """A service under test: its library, its failpoints, its edge, and the URL that readers use."""

    library: EmbeddedLibrary
    probe: Probe
    points: Points
    edge_url: str
    edge_pid: int
    session: aiohttp.ClientSession
    front_url: str | None = None

    async def send(self, method: str, target: str, **headers: str) -> Reply:
        """Send a request as a reader does."""
        return await self._ask(method, (self.front_url or self.edge_url) + target, headers)

    async def purge(self) -> Reply:
        """Purge the picture's entry."""
        entry = self.library.entry_id(KEY)
        return await self._ask("POST", f"{self.edge_url}/-/purge/entries/{entry}", ADMIN)

    async def metric(self, name: str) -> float:
        """A metric without labels."""
        page = await self._ask("GET", f"{self.edge_url}/-/metrics", ADMIN)
        return float(page.body.decode().split(f"\n{name} ")[1].split("\n")[0])

    async def _ask(self, method: str, url: str, headers: dict[str, str]) -> Reply:
        async with self.session.request(method, URL(url, encoded=True), headers=headers) as response:
            return Reply(response.status, response.headers, await response.read())

    @property
    def render_pid(self) -> int:
        """The id of the one render process."""
        (pid,) = [pid for pid in children_of(self.edge_pid) if "imgproxy.render.child" in command_of(pid)]
        return pid


class Standing:
    """A row's request, held at its place."""

    def __init__(self, stage: Stage, row: Row) -> None:
        self._stage = stage
        self._row = row
        self.requests: list[asyncio.Task[Reply]] = []
        self._pid = 0

    async def begin(self) -> None:
        """Send the row's request, and return when it stands at its place."""
        stage, row = self._stage, self._row
        if row.is_cached:
            await self._warm()
        await self._hold()
        tasks = [asyncio.create_task(stage.send(row.method, row.target, **row.headers)) for _ in range(row.requests)]
        await self._arrived()
        if row.requests > 1 and stage.front_url is None:  # a cache in front lets one of them through
            await poll(lambda: stage.metric("imgproxy_requests_in_flight"), lambda count: count >= row.requests)
        if row.is_behind:
            await asyncio.gather(*tasks)  # answered from the cache before the purge, which is right
        else:
            self.requests = tasks

    async def _warm(self) -> None:
        """
        Put the row's variant in the edge's cache.

        A cache in front gets another variant, to lose it; the row's own it must not have, or the request would end
        there. Nor must the edge have it in memory where it is to be held before its answer: that goes too fast.
        """
        stage, row = self._stage, self._row
        if stage.front_url is None:
            assert (await stage.send("GET", row.target)).status == 200
            return
        for _ in range(0 if row.is_behind else 2):  # what is to go on behind one answer must not have gone on before
            assert (await stage.send("GET", WHOLE if row.target != WHOLE else SMALL)).status == 200
        if row.place is not Point.BEFORE_RESPONSE:
            assert (await replace(stage, front_url=None).send("GET", row.target)).status == 200

    async def begin_again(self) -> bool:
        """Let go, and hold the request once more if it comes by again; False if it has ended."""
        stage, place = self._stage, self._row.place
        if self._row.is_behind or not isinstance(place, Point):
            return False
        await stage.points.release(place)
        await stage.points.hold(place)
        arrival = asyncio.create_task(stage.points.arrived(place, 1))
        await asyncio.wait([arrival, *self.requests], return_when=asyncio.FIRST_COMPLETED)
        is_standing = arrival.done()
        arrival.cancel()
        await asyncio.gather(arrival, return_exceptions=True)
        return is_standing

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
            # Its job lies in the socket: the process has it, and does nothing with it.
            await poll(lambda: self._stage.metric("imgproxy_render_busy"), lambda count: count == 1)
        else:
            before = cpu_ticks(self._pid)
            await poll(lambda: cpu_ticks(self._pid), lambda ticks: ticks >= before + 5)
            stop(self._pid)

    async def let_go(self) -> None:
        """Let the request go on, and never hold it again."""
        place = self._row.place
        if isinstance(place, Point):
            await self._stage.points.release(place)
        elif place == "origin-body":
            self._stage.probe.release("body")
        else:
            go_on(self._pid)

    async def replies(self) -> list[Reply | BaseException]:
        """What became of the requests that were held; an exception where the connection was cut."""
        async with asyncio.timeout(30):
            return await asyncio.gather(*self.requests, return_exceptions=True)


@dataclass(frozen=True)
class Pictures:
    """The bytes that were under the key, and those that are there now."""

    gone: tuple[bytes, ...]
    now: bytes

    def is_old(self, reply: Reply | BaseException) -> bool:
        """Whether an answer holds anything of the pictures that are gone."""
        if isinstance(reply, BaseException) or reply.status >= 400:
            return False
        if reply.status == 206:
            return any(reply.body in gone for gone in self.gone)
        if not reply.body:
            return False  # an answer to HEAD: its entity tag is compared by `assert_only_new`
        return abs(mean_red(reply.body) - mean_red(self.now)) > 30

    async def assert_only_new(self, stage: Stage, row: Row, *held: Reply | BaseException) -> None:
        """Ask in every way: each answer is of the picture that is there now, and the held ones are of no other."""
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


async def poll(read: Callable[[], Any], holds: Callable[[Any], bool]) -> None:
    """Read until the value is as wanted, within 20 s; `read` may be a coroutine function."""
    async with asyncio.timeout(20):
        while True:
            value = read()
            if holds(await value if asyncio.iscoroutine(value) else value):
                return
            await asyncio.sleep(0.005)


def stop(pid: int) -> None:
    """Stop a process in its tracks."""
    os.kill(pid, signal.SIGSTOP)


def go_on(pid: int) -> None:
    """Let a stopped process go on; one that is gone is as good."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def cpu_ticks(pid: int) -> int:
    """The processor time a process has used, in ticks (proc(5), /proc/pid/stat, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def children_of(pid: int) -> list[int]:
    """The ids of a process's children (proc(5), /proc/pid/task/tid/children)."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found += [int(child) for child in (task / "children").read_text("ascii").split()]
    return found


def command_of(pid: int) -> str:
    """A process's command line, empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
