"""The parts of delivery around a real cache, with a Media Library and render jobs that live in memory."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from imgproxy.admission.policy import Admission
from imgproxy.cache.cache import Cache
from imgproxy.cache.entry import OriginalFacts, key_hash
from imgproxy.config.sections import CacheSettings, FreshnessSettings, RenderSettings
from imgproxy.delivery.batching import RenderedFile
from imgproxy.delivery.delivery import Delivery
from imgproxy.delivery.fallback import Fallback
from imgproxy.delivery.fetching import Fetching
from imgproxy.delivery.origin_health import OriginHealth
from imgproxy.delivery.originals import RETRY_BEHIND_S, Originals
from imgproxy.delivery.refusals import Refusals
from imgproxy.delivery.variants import Variants
from imgproxy.digest import digest_of
from imgproxy.medialibrary.errors import LibraryNotFound
from imgproxy.medialibrary.models import HEAD_BYTES, ServedImage
from imgproxy.params.plan import Format
from imgproxy.telemetry.metrics import Metrics
from imgproxy.workers.faces import write_record
from imgproxy.workers.job import Rendered
from tests.support.clock import StandingClock
from tests.support.site import Held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from imgproxy.delivery.batching import Batches
    from imgproxy.errors import ImgproxyError
    from imgproxy.medialibrary.models import Validators
    from imgproxy.params.plan import RenderPlan
    from imgproxy.workers.faces import Face
    from imgproxy.workers.job import Lane, MarkFile

KEY = "a.jpg"
HASHED = key_hash(KEY)
MARK = "logo.png"
OLD = b"\xff\xd8\xff\xe0 the old picture"
NEW = b"\xff\xd8\xff\xe0 the new picture"
HTML = b"<html>Please log in</html>"
FRESHNESS = FreshnessSettings(revalidate_after_s=300, stale_if_error_s=1000, negative_ttl_s=30, settle_s=0)
RENDER = RenderSettings(processes=1)


class WallClock:
    """A wall clock that a test sets. Calling it returns Unix seconds."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


async def nothing() -> None:
    """Do nothing."""


class FakeOrigin:
    """
    A Media Library with `pictures` by key. It raises `error` instead, if one is set.

    The answer is decided when the request arrives. `meanwhile` runs before the answer is sent.
    """

    def __init__(self) -> None:
        self.pictures = {KEY: OLD}
        self.last_modified: str | None = None
        self.error: ImgproxyError | None = None
        self.meanwhile: Callable[[], Awaitable[object]] = nothing
        self.asked: list[tuple[str, Validators | None]] = []
        self.probe_error: ImgproxyError | None = None

    async def serve_image(
        self, key: str, destination: str, *, validators: Validators | None = None, max_bytes: int | None = None
    ) -> ServedImage:
        """Write the picture to `destination`, or answer as 304."""
        del max_bytes
        self.asked.append((key, validators))
        error, data = self.error, self.pictures.get(key)
        await self.meanwhile()
        if error is not None:
            raise error
        if data is None:
            raise LibraryNotFound(message="no such image", where=key)
        etag = f'"{digest_of(data)}"'
        if validators is not None and validators.etag == etag:
            return ServedImage(False, None, etag, None, 0, None)
        Path(destination).write_bytes(data)
        return ServedImage(True, "image/jpeg", etag, self.last_modified, len(data), digest_of(data), data[:HEAD_BYTES])

    async def probe(self) -> None:
        """Answer the API call that tries the token."""
        if self.probe_error is not None:
            raise self.probe_error

    @property
    def keys(self) -> list[str]:
        """The keys that were asked for, in order."""
        return [key for key, _ in self.asked]


@dataclass(frozen=True)
class RenderCall:
    """One call of `FakeBatches.render`."""

    plan: RenderPlan
    lane: Lane
    mark: MarkFile | None
    faces: tuple[Face, ...] = ()


class FakeBatches:
    """
    Renders by copying: a variant is the digest of its plan, the original's bytes, and the watermark's bytes. The face
    record has `faces`.

    It raises the `errors` one after the other, and renders when none is left. `meanwhile` runs before either.
    """

    def __init__(self, cache: Cache) -> None:
        self._store = cache.store
        self.calls: list[RenderCall] = []
        self.errors: list[Exception] = []
        self.faces: tuple[Face, ...] = ()
        self.meanwhile: Callable[[], Awaitable[object]] = nothing

    async def render(  # noqa: PLR0917 - the arguments of Batches.render
        self,
        key_hash: str,
        digest: str,
        path: str,
        plan: RenderPlan,
        mark: MarkFile | None,
        lane: Lane,
        faces: tuple[Face, ...] = (),
    ) -> RenderedFile:
        """Return a variant in a temporary file."""
        del digest
        self.calls.append(RenderCall(plan, lane, mark, faces))
        await self.meanwhile()
        if self.errors:
            raise self.errors.pop(0)
        body = plan.digest.encode() + Path(path).read_bytes() + (Path(mark.path).read_bytes() if mark else b"")
        if plan.output.format is Format.FACES:
            body = write_record(self.faces)
        temp = self._store.temp_name(key_hash)
        Path(temp).write_bytes(body)
        is_mark_missing = plan.mark is not None and mark is None
        rendered = Rendered(temp, "image/jpeg", len(body), digest_of(body), 1, 1, is_mark_missing=is_mark_missing)
        return RenderedFile(rendered, 0.25, 0.5)

    async def close(self) -> None:
        """Do nothing."""

    @property
    def plans(self) -> list[RenderPlan]:
        """The plans that were rendered, in order."""
        return [call.plan for call in self.calls]


@dataclass
class Parts:
    """Delivery and everything below it."""

    clock: WallClock
    cache: Cache
    origin: FakeOrigin
    health: OriginHealth
    refusals: Refusals
    fetching: Fetching
    originals: Originals
    batches: FakeBatches
    fallback: Fallback
    variants: Variants
    admission: RecordedAdmission
    admission_clock: StandingClock
    delivery: Delivery
    metrics: Metrics
    failpoints: Held

    async def purge(self, key: str = KEY) -> None:
        """Purge a key."""
        await self.cache.purge([key], reason="test")

    def facts(self, key: str = KEY) -> OriginalFacts | None:
        """Return what the cache knows of a key's original."""
        return self.cache.facts(key_hash(key))

    def evict(self, key: str = KEY) -> None:
        """Delete the bytes of a key's original. Its facts stay known."""
        facts = self.facts(key)
        assert facts is not None
        found = self.cache.store.find_original(facts)
        assert found is not None
        Path(found[0]).unlink()

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric; 0 if it has none yet."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def temporary_files(self) -> list[Path]:
        """Return the files that are being written, or that were forgotten."""
        return list(self.cache.settings.dir.glob("keys/*/*/t-*"))


class RecordedAdmission(Admission):
    """Admission for one render process. It records the rules that refused, and how long fetches took."""

    def __init__(self, render: RenderSettings, fetch_queue_max: int, clock: StandingClock) -> None:
        self.rules: list[str] = []
        self.fetch_times_s: list[float] = []
        super().__init__(render, 1, self.rules.append, clock, fetch_queue_max=fetch_queue_max)

    def fetch_ended(self, seconds: float) -> None:
        """Record the time, and learn it."""
        self.fetch_times_s.append(seconds)
        super().fetch_ended(seconds)


@asynccontextmanager
async def parts(
    directory: Path,
    *,
    freshness: FreshnessSettings = FRESHNESS,
    render: RenderSettings = RENDER,
    fetches_max: int = 16,
    fetch_queue_max: int = 64,
    retry_behind_s: float = RETRY_BEHIND_S,
) -> AsyncIterator[Parts]:
    """Put the parts together, and close them at the end."""
    clock, origin, metrics, failpoints, refusals = WallClock(), FakeOrigin(), Metrics(), Held(), Refusals()
    cache = Cache(CacheSettings(dir=directory, min_free_bytes=0))
    await cache.start()
    health, admission_clock = OriginHealth(origin.probe), StandingClock()
    admission = RecordedAdmission(render, fetch_queue_max, admission_clock)
    fetching = Fetching(
        cache,
        origin,
        health,
        refusals,
        purge=cache.purge,
        admission=admission,
        source_max_bytes=1_000_000,
        negative_ttl_s=freshness.negative_ttl_s,
        metrics=metrics,
        failpoints=failpoints,
        fetches_max=fetches_max,
        now=clock,
    )
    originals = Originals(
        cache,
        fetching,
        refusals,
        freshness=freshness,
        retry_behind_s=retry_behind_s,
        now=clock,
    )
    batches, fallback = FakeBatches(cache), Fallback(cache)
    variants = Variants(
        cache,
        originals,
        cast("Batches", batches),
        fallback=fallback,
        refusals=refusals,
        metrics=metrics,
        failpoints=failpoints,
        refusal_ttl_s=60,
    )
    delivery = Delivery(
        cache,
        originals,
        variants,
        fallback=fallback,
        admission=admission,
        metrics=metrics,
        failpoints=failpoints,
    )
    try:
        yield Parts(
            clock=clock,
            cache=cache,
            origin=origin,
            health=health,
            refusals=refusals,
            fetching=fetching,
            originals=originals,
            batches=batches,
            fallback=fallback,
            variants=variants,
            admission=admission,
            admission_clock=admission_clock,
            delivery=delivery,
            metrics=metrics,
            failpoints=failpoints,
        )
    finally:
        await delivery.background.close()
        await variants.close()
        await originals.close()
        await cache.close()


class Gate:
    """Holds the work that passes through it until `open` is called: `origin.meanwhile = gate.wait`."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._arrived = asyncio.Semaphore(0)

    async def wait(self) -> None:
        """Say that work has arrived, and hold it."""
        self._arrived.release()
        await self._opened.wait()

    async def arrived(self, count: int = 1) -> None:
        """Wait until so many more pieces of work have arrived."""
        async with asyncio.timeout(20):
            for _ in range(count):
                await self._arrived.acquire()

    def open(self) -> None:
        """Let all work pass from now on."""
        self._opened.set()


async def loop_turns(count: int = 10) -> None:
    """Let every task run until it waits for something else than the loop."""
    for _ in range(count):
        await asyncio.sleep(0)
