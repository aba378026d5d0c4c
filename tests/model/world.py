"""
The service below HTTP, with an origin and a render pool of the model's own, and the witness of every answer.

Real are cache, journal, originals, renders and delivery. The pool copies bytes: what is proved here is the order of
events, and a picture that is its own bytes says of every answer where it comes from.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgproxy.admission.policy import Admission
from imgproxy.cache.cache import Cache
from imgproxy.cache.journal import Journal
from imgproxy.config.sections import CacheSettings, FreshnessSettings, RenderSettings
from imgproxy.delivery.batching import Batches
from imgproxy.delivery.delivery import Delivery
from imgproxy.delivery.fallback import Fallback
from imgproxy.delivery.fetching import Fetching
from imgproxy.delivery.origin_health import OriginHealth
from imgproxy.delivery.originals import Originals, State
from imgproxy.delivery.refusals import Refusals
from imgproxy.delivery.request import Delivered, Request
from imgproxy.delivery.variants import Variants
from imgproxy.errors import ImgproxyError
from imgproxy.failpoints import Failpoints, Point
from imgproxy.medialibrary.errors import Forbidden, LibraryNotFound, OriginUnavailable
from imgproxy.medialibrary.models import HEAD_BYTES, ServedImage
from imgproxy.params.plan import Mark, RenderPlan
from imgproxy.purge.known_originals import CachedOriginals
from imgproxy.telemetry.metrics import Metrics
from imgproxy.workers.job import Rendered, RenderReport
from tests.model.simulated_loop import SimulatedLoop

if TYPE_CHECKING:
    from imgproxy.medialibrary.models import Validators
    from imgproxy.workers.queue import Begin, OnRendered

KEY = "a.jpg"
MARK = "mark.png"
JPEG = b"\xff\xd8\xff\xe0"
PLANS: tuple[RenderPlan | None, ...] = (
    RenderPlan(rotation=7.0),
    RenderPlan(rotation=8.0),
    RenderPlan(mark=Mark(MARK)),
    None,
)
FRESHNESS = FreshnessSettings(revalidate_after_s=60, stale_if_error_s=600, negative_ttl_s=30, settle_s=0)


def digest_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def picture(key: str, version: int) -> bytes:
    """The bytes of one version of one key; they say which."""
    return JPEG + f"[{key}#{version}]".encode()


def versions_in(body: bytes) -> set[tuple[str, int]]:
    """The pictures that an answer holds bytes of."""
    texts = body.decode("latin-1").split("[")[1:]
    return {(text.split("#")[0], int(text.split("#")[1].split("]")[0])) for text in texts}


class Clock:
    """Wall and monotonic time of the service; only the wall can be set back."""

    def __init__(self) -> None:
        self.wall_s = 1_700_000_000.0
        self.steady_s = 1_000.0

    def time(self) -> float:
        return self.wall_s

    def monotonic(self) -> float:
        return self.steady_s


@dataclass
class Picture:
    """What the origin has under a key."""

    version: int = 1
    etag: str = '"1"'
    is_revoked: bool = False


class Witness:
    """
    Counts events, and knows which bytes may be in an answer.

    A version counts as fetched when the origin is asked for it and hands out its bytes; a 304 hands out nothing, and
    so proves nothing after a purge. That is stricter than the origin's word, and is what the guarantee says. After an
    order to prove, a 304 counts for the bytes that came with its entity tag.
    """

    def __init__(self) -> None:
        self.now = 0
        self.fetched_at: defaultdict[tuple[str, int], int] = defaultdict(int)
        self.purged_at: dict[str, int] = {}  # arrival of the last purge that was acknowledged
        self.ordered_at: dict[str, int] = {}  # arrival of the last order to prove that was acknowledged
        self.etags: dict[tuple[str, int], set[str]] = defaultdict(set)  # those that the version was handed out with
        self.confirmed_at: defaultdict[tuple[str, str], int] = defaultdict(int)  # by key and entity tag
        self.proved_at: defaultdict[str, int] = defaultdict(int)  # when the origin was asked for its last answer
        self.softened_at: dict[str, int] = {}
        self.answers = 0
        self.violations: list[str] = []

    def tick(self) -> int:
        self.now += 1
        return self.now

    def answered(self, seen: set[tuple[str, int]]) -> None:
        """An answer with these bytes begins now."""
        self.tick()
        self.answers += 1
        for key, version in seen:
            fetched, purged = self.fetched_at[key, version], self.purged_at.get(key, 0)
            if fetched < purged:
                self.violations.append(
                    f"at {self.now}: {key} version {version}, last fetched at {fetched}, was purged at {purged}"
                )
            proved = max([fetched, *(self.confirmed_at[key, etag] for etag in self.etags[key, version])])
            ordered = self.ordered_at.get(key, 0)
            if proved < ordered:
                self.violations.append(
                    f"at {self.now}: {key} version {version}, last proved at {proved}, was ordered to be at {ordered}"
                )

    def counted_as_fresh(self, key: str, began_at: int) -> None:
        """A request that began then is answered with an original that needs no revalidation."""
        proved, softened = self.proved_at[key], self.softened_at.get(key, 0)
        if proved < softened < began_at:
            self.violations.append(f"at {self.now}: {key}, last proved at {proved}, is fresh: softened at {softened}")


class FakeOrigin:
    """A Media Library in memory. `is_etag_stuck` makes a replaced picture keep its validator, as bad origins do."""

    def __init__(self, witness: Witness, failpoints: Gates) -> None:
        self._witness = witness
        self._gates = failpoints
        self.pictures = {key: Picture() for key in (KEY, MARK)}
        self.is_down = False

    async def serve_image(
        self,
        key: str,
        destination: str,
        *,
        validators: Validators | None = None,
        max_bytes: int | None = None,
    ) -> ServedImage:
        """Decide, then be held, then hand out: what is handed out is the picture of the moment it was asked for."""
        del max_bytes
        asked_at = self._witness.tick()
        found = self.pictures.get(key)
        if self.is_down:
            raise OriginUnavailable(message="down", where=key)
        if found is None:
            raise LibraryNotFound(is_api_answer=True, message="no such image", where=key)
        if found.is_revoked:
            await self._gates.reach("origin", key)
            raise Forbidden(message="revoked", where=key)
        version, etag = found.version, found.etag
        is_known = validators is not None and validators.etag == etag
        await self._gates.reach("origin", key)
        self._witness.proved_at[key] = max(asked_at, self._witness.proved_at[key])
        if is_known:
            self._witness.confirmed_at[key, etag] = max(asked_at, self._witness.confirmed_at[key, etag])
            return ServedImage(False, "image/jpeg", etag, None, 0, None)
        data = picture(key, version)
        Path(destination).write_bytes(data)
        self._witness.fetched_at[key, version] = max(asked_at, self._witness.fetched_at[key, version])
        self._witness.etags[key, version].add(etag)
        return ServedImage(True, "image/jpeg", etag, None, len(data), digest_of(data), data[:HEAD_BYTES])


class FakePool:
    """Renders by copying: plan, original and watermark one after the other. Each job begins at once."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates

    def free(self, lane: object) -> int:
        """One process is always free."""
        del lane
        return 1

    async def render(self, begin: Begin, *, lane: object = None, on_rendered: OnRendered) -> RenderReport:
        del lane
        job = begin()
        marks = {mark.source: mark.path for mark in job.marks}
        await self._gates.reach("render", "")
        rendered = []
        for index, target in enumerate(job.targets):
            mark = target.plan.mark
            marked = Path(marks[mark.source]).read_bytes() if mark is not None and mark.source in marks else b""
            body = target.plan.digest.encode() + Path(job.original).read_bytes() + marked
            Path(target.path).write_bytes(body)
            rendered.append(Rendered(target.path, "image/jpeg", len(body), digest_of(body), 1, 1))
            on_rendered(index, rendered[-1], 0.0)
        return RenderReport(tuple(rendered), 0.0)


class Gates(Failpoints):
    """Failpoints at which one piece of work after the other is held, at the point that is `held` when it comes by."""

    def __init__(self) -> None:
        self.held: str | None = None
        self.standing: list[tuple[str, asyncio.Event]] = []

    async def reach(self, point: Point | str, key: str) -> None:
        del key
        if str(point) != self.held:
            return
        gate = asyncio.Event()
        self.standing.append((str(point), gate))
        await gate.wait()

    def let_go(self, index: int) -> None:
        """Let one of those who stand go on."""
        _, gate = self.standing.pop(index % len(self.standing))
        gate.set()

    def open_all(self) -> None:
        """Let all go on, and hold nobody."""
        self.held = None
        while self.standing:
            self.let_go(0)


class GatedJournal(Journal):
    """A journal after whose record of a purge or an order it can be held: durable, and nothing done about it yet."""

    gates: Gates

    async def record_purge(self, *args: Any, **named: Any) -> int:
        seq = await super().record_purge(*args, **named)
        await self.gates.reach("recorded", "")
        return seq

    async def record_order(self, *args: Any, **named: Any) -> int:
        seq = await super().record_order(*args, **named)
        await self.gates.reach("recorded", "")
        return seq


@dataclass
class Incarnation:
    """One run of the service over a cache directory."""

    loop: SimulatedLoop
    cache: Cache
    originals: Originals
    variants: Variants
    refusals: Refusals
    delivery: Delivery
    gates: Gates
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class World:
    """The origin, the present incarnation of the service, and the witness."""

    def __init__(self, directory: Path) -> None:
        self._root = directory
        self._runs = 0
        self.witness = Witness()
        self.failures: list[BaseException] = []
        self.clock = Clock()
        self._metrics = Metrics()  # no promise is about them, and to make them takes longer than the rest of a start
        self._pictures: dict[str, Picture] | None = None
        # What clients keep: by plan, the entity tag of the last answer and the versions that its bytes hold.
        self.copies: dict[RenderPlan | None, tuple[str, set[tuple[str, int]]]] = {}
        self.run = self._start(directory / "cache-0")

    # --- life ------------------------------------------------------------------------------------------------------

    def _start(self, directory: Path) -> Incarnation:
        loop, gates = SimulatedLoop(), Gates()
        self.origin = FakeOrigin(self.witness, gates)
        if self._pictures is not None:
            self.origin.pictures = self._pictures
        self._pictures = self.origin.pictures

        async def start() -> Incarnation:
            settings = CacheSettings(dir=directory, min_free_bytes=0, hot_max_bytes=20_000)
            journal = GatedJournal(directory)
            journal.gates = gates
            cache, metrics, refusals = Cache(settings, journal=journal), self._metrics, Refusals()
            await cache.start()
            admission = Admission(RenderSettings(), 1)
            fetching = Fetching(
                cache,
                self.origin,
                OriginHealth(_no_probe),
                refusals,
                purge=cache.purge,
                admission=admission,
                source_max_bytes=1_000_000,
                negative_ttl_s=FRESHNESS.negative_ttl_s,
                metrics=metrics,
                failpoints=gates,
                now=self.clock.time,
            )
            originals = Originals(cache, fetching, refusals, freshness=FRESHNESS, now=self.clock.time)
            fallback = Fallback(cache)
            variants = Variants(
                cache,
                originals,
                Batches(cache.store, FakePool(gates), admission),  # type: ignore[arg-type]
                fallback=fallback,
                refusals=refusals,
                metrics=metrics,
                failpoints=gates,
                refusal_ttl_s=60,
            )
            delivery = Delivery(
                cache,
                originals,
                variants,
                fallback=fallback,
                admission=admission,
                metrics=metrics,
                failpoints=gates,
            )
            return Incarnation(loop, cache, originals, variants, refusals, delivery, gates)

        return loop.run(start())

    def restart(self) -> None:
        """Stop in good order, and start over the same directory."""
        directory = self.run.cache.settings.dir
        self._stop(self.run)
        self.run = self._start(directory)

    def crash(self) -> None:
        """Die here and now: what is on the disk stays as it is, everything else is gone."""
        self.run.loop.settle()
        before = self.run
        self._runs += 1
        directory = self._root / f"cache-{self._runs}"
        shutil.copytree(before.cache.settings.dir, directory)
        self.run = self._start(directory)
        directory_before = before.cache.settings.dir
        self._stop(before)
        shutil.rmtree(directory_before)

    def close(self) -> None:
        self._stop(self.run)

    def _stop(self, run: Incarnation) -> None:
        async def stop() -> None:
            for task in run.tasks:
                task.cancel()
            await asyncio.gather(*run.tasks, return_exceptions=True)
            await run.originals.close()
            await run.variants.close()
            run.gates.open_all()
            await run.cache.close()

        run.loop.run(stop())
        run.loop.close()

    # --- what happens ----------------------------------------------------------------------------------------------

    def request(self, plan: RenderPlan | None, *, hold_at: str | None, is_conditional: bool = False) -> None:
        """Ask for a variant, or whether the client's copy is current."""
        run, began_at = self.run, self.witness.tick()

        async def begin(delivered: Delivered) -> None:
            variant = delivered.variant
            if delivered.original.state is State.FRESH:
                self.witness.counted_as_fresh(KEY, began_at)
            if variant is None:
                # "Not modified" answers with the bytes that the client has: those of this entity tag.
                digests = {digest_of(picture(*seen)): seen for seen in list(self.witness.fetched_at)}
                self.witness.answered({digests[delivered.original.facts.digest]})
                return
            body = variant.body
            if body is None:
                assert variant.path is not None
                body = Path(variant.path).read_bytes()[: variant.facts.size_bytes]
            seen = versions_in(body)
            self.witness.answered(seen)
            self.copies[plan] = (delivered.etag, seen)

        async def ask() -> None:
            try:
                has = (lambda etag: etag) if is_conditional else None
                await run.delivery.answer(Request(KEY, plan, has), begin)
            except ImgproxyError:
                return

        self._begin(ask(), hold_at)

    def request_with_copy(self, plan: RenderPlan | None, *, hold_at: str | None) -> None:
        """Ask whether the client's copy is current. A 304 is an answer with the bytes of that copy."""
        run = self.run
        tag, versions = self.copies.get(plan, ("", set()))

        async def begin(delivered: Delivered) -> None:
            if delivered.variant is None:
                self.witness.answered(versions)

        async def ask() -> None:
            try:
                await run.delivery.answer(Request(KEY, plan, lambda etag: etag if etag == tag else None), begin)
            except ImgproxyError:
                return

        self._begin(ask(), hold_at)

    def purge(self, key: str, *, hold_at: str | None) -> None:
        """Purge a key; the acknowledgement is noted when it comes."""
        run, arrived_at = self.run, self.witness.tick()

        async def purge() -> None:
            await run.cache.purge([key], reason="model")
            self.witness.purged_at[key] = max(arrived_at, self.witness.purged_at.get(key, 0))

        self._begin(purge(), hold_at)

    def order(self, key: str, *, hold_at: str | None) -> None:
        """Order that a key be proved, as another edge of a cluster does: nobody asks the origin at once."""
        run, arrived_at = self.run, self.witness.tick()

        async def order() -> None:
            await run.cache.prove([key], reason="model")
            self.witness.ordered_at[key] = max(arrived_at, self.witness.ordered_at.get(key, 0))

        self._begin(order(), hold_at)

    def distrust(self) -> None:
        """Let everything count as unproved."""
        run, arrived_at = self.run, self.witness.tick()

        async def distrust() -> None:
            await run.cache.distrust_all(reason="model")
            for key in (KEY, MARK):
                self.witness.ordered_at[key] = max(arrived_at, self.witness.ordered_at.get(key, 0))

        self._begin(distrust(), None)

    def update(self, key: str, *, hold_at: str | None) -> None:
        """Deal with an update as `purge.updates` does: order, prove, and purge what is not the same."""
        run, arrived_at = self.run, self.witness.tick()

        async def update() -> None:
            known = (await CachedOriginals(run.cache, settle_s=0).find([key])).get(key)
            await run.cache.prove([key], reason="model")
            is_same = False
            if known is not None:
                with suppress(ImgproxyError):
                    is_same = await run.originals.confirm(key, known)
            if not is_same:
                await run.cache.purge([key], reason="model")
                self.witness.purged_at[key] = max(arrived_at, self.witness.purged_at.get(key, 0))
            self.witness.ordered_at[key] = max(arrived_at, self.witness.ordered_at.get(key, 0))

        self._begin(update(), hold_at)

    def soften(self, key: str) -> None:
        """Purge a key softly."""
        run = self.run

        async def soften() -> None:
            run.cache.soften(key, self.clock.wall_s - FRESHNESS.revalidate_after_s - 1)
            self.witness.softened_at[key] = self.witness.tick()

        run.loop.run(soften())

    def revalidate(self, key: str, *, hold_at: str | None) -> None:
        """Check a key with the origin, as at the end of a settle time."""
        run = self.run

        async def revalidate() -> None:
            try:
                await run.originals.revalidate(key)
            except ImgproxyError:
                return

        self._begin(revalidate(), hold_at)

    def evict(self, count: int) -> None:
        """Evict the files used longest ago."""
        run = self.run

        async def evict() -> None:
            store = run.cache.store
            oldest = store.ledger.oldest(count)
            for name, _ in oldest:
                store.ledger.remove(name)
            for name, _ in oldest:
                Path(run.cache.store.path_of(name)).unlink(missing_ok=True)

        run.loop.run(evict())

    def _begin(self, work: Any, hold_at: str | None) -> None:
        """Begin a piece of work and let everything happen that can; what comes to `hold_at` meanwhile stands there."""
        run = self.run
        run.gates.held = hold_at

        async def begin() -> None:
            task = asyncio.ensure_future(work)
            run.tasks.add(task)
            task.add_done_callback(run.tasks.discard)
            task.add_done_callback(self._note_failure)

        run.loop.run(begin())
        run.loop.settle()
        run.gates.held = None

    def _note_failure(self, task: asyncio.Future[None]) -> None:
        """A piece of work that ends with an error nobody foresaw: then nothing of this model means anything."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ImgproxyError):
            self.failures.append(error)

    def pass_time(self, seconds: float, *, is_clock_stepped: bool) -> None:
        """Let time pass, or set the wall clock."""
        self.clock.wall_s += seconds
        if seconds < 0:  # what was just too old to be fresh may be fresh again for as long
            self.witness.softened_at.clear()
        if not is_clock_stepped:
            self.clock.steady_s += seconds
        # These forget by the real monotonic clock, which does not move here.
        self.run.originals._retry_at_s.clear()
        self.run.refusals._refusals.clear()


async def _no_probe() -> object:
    return None
