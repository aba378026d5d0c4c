"""A whole site for a test: an embedded Media Library over a folder, an edge in front of it, and an HTTP client."""

from __future__ import annotations

import asyncio
import io
import json
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from PIL import Image
from pydantic import SecretStr
from yarl import URL

from imgproxy.config.origin import OriginSettings
from imgproxy.config.sections import (
    AdminSettings,
    CacheSettings,
    LogSettings,
    RenderSettings,
    ServerSettings,
    WebhookSettings,
)
from imgproxy.config.settings import Settings
from imgproxy.edge.app import Edge
from imgproxy.failpoints import Failpoints, Point, Step
from imgproxy.medialibrary.server import AccessToken, EmbeddedLibrary
from imgproxy.medialibrary.server.probe import Probe
from tests.support.kept_processes import KeptProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from multidict import CIMultiDictProxy

    from imgproxy.edge.playground import PlaygroundParts
    from imgproxy.workers.process import RenderProcess

ADMIN = {"Authorization": "Bearer admin-token"}
SECRET = "webhook-secret"
KEY = "2026/03/14/picture.jpg"
LOGO = "logos/paper.png"


def jpeg(red: int, size: tuple[int, int] = (320, 200)) -> bytes:
    """Return a JPEG of one colour, known by its red."""
    out = io.BytesIO()
    Image.new("RGB", size, (red, 80, 120)).save(out, "JPEG", quality=90)
    return out.getvalue()


def png(colour: tuple[int, int, int], size: tuple[int, int] = (20, 20)) -> bytes:
    """Return a PNG of one colour."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def png_of_noise(side_px: int) -> bytes:
    """Return a PNG of noise, which does not compress: a client that does not read leaves bytes of it in the edge."""
    out = io.BytesIO()
    Image.effect_noise((side_px, side_px), 90).convert("RGB").save(out, "PNG", compress_level=1)
    return out.getvalue()


def width_of(body: bytes) -> int:
    """Return the width of a picture in pixels."""
    return Image.open(io.BytesIO(body)).size[0]


def pixel(body: bytes, at: tuple[int, int]) -> tuple[int, ...]:
    """Return the colour of a pixel."""
    found = Image.open(io.BytesIO(body)).convert("RGB").getpixel(at)
    assert isinstance(found, tuple)
    return tuple(int(value) for value in found)


def red_of(body: bytes) -> int:
    """Return the red of a picture of one colour."""
    return pixel(body, (5, 5))[0]


class Held(Failpoints):
    """Failpoints that hold requests at chosen points until they are released, and count the requests that arrive."""

    def __init__(self) -> None:
        self._gates: dict[Point | Step, asyncio.Event] = {}
        self._arrivals: defaultdict[Point | Step, int] = defaultdict(int)
        self._came = asyncio.Condition()

    def hold(self, point: Point | Step) -> None:
        """Hold every request that reaches this point from now on."""
        self._gates[point] = asyncio.Event()
        self._arrivals[point] = 0

    def release(self, point: Point | Step) -> None:
        """Let every request at this point go on, and hold no more there."""
        self.stop_holding(point)()

    def hold_again(self, point: Point | Step) -> None:
        """Let the requests at this point go on, and hold those that reach it from now on."""
        let_go = self.stop_holding(point)
        self.hold(point)
        let_go()

    def stop_holding(self, point: Point | Step) -> Callable[[], None]:
        """Hold no more requests at this point. Return what lets those go on that it holds."""
        gate = self._gates.pop(point, None)
        return gate.set if gate is not None else lambda: None

    async def arrived(self, point: Point | Step, count: int = 1) -> None:
        """Wait until `count` requests stand at the point."""
        async with self._came, asyncio.timeout(20):
            await self._came.wait_for(lambda: self._arrivals[point] >= count)

    async def reach(self, point: Point | Step, key: str) -> None:
        """Stop here if the point is held."""
        del key
        gate = self._gates.get(point)
        if gate is None:
            return
        async with self._came:
            self._arrivals[point] += 1
            self._came.notify_all()
        await gate.wait()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def cache_status(self) -> str:
        """The Cache-Status header."""
        return self.headers.get("Cache-Status", "")

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Site:
    """What a test talks to."""

    edge: Edge
    library: EmbeddedLibrary
    probe: Probe
    session: aiohttp.ClientSession

    async def send(self, method: str, target: str, **options: Any) -> Reply:
        """Send a request; the target goes over the wire byte for byte."""
        url = URL(self.edge.url + target, encoded=True)
        async with self.session.request(method, url, **options) as response:
            body = await response.read()
            return Reply(response.status, response.headers, body)

    async def get(self, target: str, **headers: str) -> Reply:
        """GET with these headers (underscores become dashes)."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.send("GET", target, headers=named)

    async def purge(self, entry: str, query: str = "") -> Reply:
        """Purge an entry as an operator does."""
        return await self.send("POST", f"/-/purge/entries/{entry}{query}", headers=ADMIN)

    async def renders(self) -> float:
        """How many render jobs of visitors ended well; waits until those under way have ended."""
        await until(lambda: not self.edge.pool.busy)
        return self.metric("imgproxy_renders_total", lane="visitor", outcome="ok")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels, 0 where there is none yet."""
        samples = (sample for family in self.edge.metrics.registry.collect() for sample in family.samples)
        return sum(item.value for item in samples if item.name == name and labels.items() <= item.labels.items())


def settings_for(library: EmbeddedLibrary, cache_dir: Path, **sections: Any) -> Settings:
    """Settings of an edge before this library, for a slow machine; sections given by name replace these."""
    chosen: dict[str, Any] = {
        "server": ServerSettings(port=0, shutdown_timeout_s=5.0),
        "origin": OriginSettings(url=library.url, token=SecretStr(library.token), timeout_s=20),
        "admin": AdminSettings(token=SecretStr("admin-token")),
        "cache": CacheSettings(dir=cache_dir, min_free_bytes=0),
        "render": RenderSettings(processes=1, timeout_s=60),
        "webhook": WebhookSettings(secrets=(SecretStr(SECRET),)),
        "log": LogSettings(access="none"),
        **sections,
    }
    return Settings(**chosen)


@asynccontextmanager
async def site(
    tmp_path: Path,
    *,
    failpoints: Failpoints | None = None,
    admission_clock: Callable[[], float] | None = None,
    pictures: dict[str, bytes] | None = None,
    library: dict[str, Any] | None = None,
    playground: PlaygroundParts | None = None,
    process_class: type[RenderProcess] = KeptProcess,
    **sections: Any,
) -> AsyncIterator[Site]:
    """Start a library over `tmp_path/photos` and an edge over `tmp_path/cache`; both may be there from before."""
    folder = tmp_path / "photos"
    for key, data in (pictures if pictures is not None else {KEY: jpeg(200)}).items():
        path = folder / key
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    probe = Probe()
    options: dict[str, Any] = {"tokens": [AccessToken("library-token")], "scan_interval_s": 3600.0, **(library or {})}
    async with EmbeddedLibrary(folder, probe=probe, **options) as embedded:
        settings = settings_for(embedded, tmp_path / "cache", **sections)
        edge = Edge(
            settings,
            failpoints=failpoints,
            admission_clock=admission_clock,
            playground=playground,
            process_class=process_class,
        )
        async with edge, aiohttp.ClientSession(auto_decompress=False) as session:
            yield Site(edge, embedded, probe, session)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until the running service has brought a condition about."""
    await poll(holds, bool)


async def poll(read: Callable[[], Any], holds: Callable[[Any], bool], *, within_s: float = 60) -> None:
    """Read a value until it is as wanted. `read` may be a coroutine function."""
    async with asyncio.timeout(within_s):
        while True:
            value = read()
            if holds(await value if asyncio.iscoroutine(value) else value):
                return
            await asyncio.sleep(0.005)
