"""
Several nodes of a cluster below HTTP: the service as in `world`, over one log in memory, on one timeline.

Real are cache, journal, delivery, purges, updates, webhooks, and the cluster's node. The log, the origin, the pool and
the clocks are the model's. Each node has an event loop of its own, a way to the log and a way to the origin.

The witness is stricter than a client can be: it knows when each node asked the origin, and when each purge arrived.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import hmac
import json
import math
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgproxy.admission.policy import Admission
from imgproxy.cache.cache import Cache
from imgproxy.cache.entry import key_hash
from imgproxy.cluster.clock import Clock
from imgproxy.cluster.lease import MARGIN
from imgproxy.cluster.log import Kind
from imgproxy.cluster.node import ClusterNode, Parts
from imgproxy.config.cluster import ClusterSettings
from imgproxy.config.sections import CacheSettings, PurgeSettings, RenderSettings
from imgproxy.delivery.batching import Batches
from imgproxy.delivery.delivery import Delivery
from imgproxy.delivery.fallback import Fallback
from imgproxy.delivery.fetching import Fetching
from imgproxy.delivery.origin_health import OriginHealth
from imgproxy.delivery.originals import Originals
from imgproxy.delivery.refusals import Refusals
from imgproxy.delivery.request import Delivered, Request
from imgproxy.delivery.variants import Variants
from imgproxy.edge.cluster import AnswersUnderWay
from imgproxy.errors import ImgproxyError
from imgproxy.purge.answers import Answers
from imgproxy.purge.deliveries import LocalDeliveries
from imgproxy.purge.downstream.targets import Downstreams
from imgproxy.purge.entry_keys import EntryKeys
from imgproxy.purge.known_originals import CachedOriginals
from imgproxy.purge.service import PurgeService
from imgproxy.purge.updates import Updates
from imgproxy.purge.webhooks import PREFIX, Webhooks
from imgproxy.telemetry.metrics import Metrics
from tests.model.timeline import NodeLoop, Timeline
from tests.model.world import (
    FRESHNESS,
    KEY,
    MARK,
    FakeOrigin,
    FakePool,
    GatedJournal,
    Gates,
    Picture,
    Witness,
    digest_of,
    picture,
    versions_in,
)
from tests.support.memory_log import MemoryLog, MemoryPurgeLog

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Sequence

    from imgproxy.cache.spreading import Also, Unspread
    from imgproxy.cluster.acknowledge import Spread
    from imgproxy.cluster.log import Change
    from imgproxy.params.plan import RenderPlan
    from imgproxy.purge.receipts import DownstreamState

KEYS = (KEY, MARK)
LOCK = "journal.lock"
ENTRY = "entry-1"
SECRET = "model"
LEASE_S, PROOF_S, FORGET_S = 5.0, 2.0, 30.0
CLUSTER = ClusterSettings(lease_s=LEASE_S, proof_s=PROOF_S, forget_s=FORGET_S)
WAIT_S = 4.0
PURGE = PurgeSettings(drain_s=0.1)
WALL_S = 1_700_000_000.0
# After each step this much time passes: batches gather, and answers are drained, but no lease ends.
STEP_S = 0.05
# In this time everything is well again, after all lines are healed: dead nodes are forgotten, waits have grown.
HEALING_S = 2 * FORGET_S + 2 * LEASE_S + 15.0
# The monotonic clocks of the nodes have nothing in common.
OFFSETS_S = {"a": 1_000.0, "b": 64_000.0, "c": 16.0}
NAMES = tuple(OFFSETS_S)


@dataclass(frozen=True, slots=True)
class Promise:
    """A purge, or an order to prove, that a node has recorded. It was about to be recorded at `arrived_at`."""

    kind: Kind
    keys: tuple[str, ...]
    arrived_at: int


@dataclass
class Promises:
    """What the nodes have promised, and what became of it. All nodes count the same events."""

    now: int = 0
    recorded: dict[tuple[str, int], Promise] = field(default_factory=dict)  # by node and number
    acknowledged: set[tuple[str, int]] = field(default_factory=set)
    # Arrival of the last purge or order of a key that was acknowledged as complete.
    purged_at: dict[str, int] = field(default_factory=dict)
    ordered_at: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    answers: int = 0
    errors: Counter[str] = field(default_factory=Counter)


class NodeWitness(Witness):
    """
    What one node, with one disk, may answer with.

    A fenced node may answer with bytes from before a purge if the origin has confirmed them since the purge arrived.
    """

    def __init__(self, name: str, promises: Promises) -> None:
        super().__init__()
        self._name = name
        self._promises = promises

    def tick(self) -> int:
        self._promises.now += 1
        return self._promises.now

    def proved(self, seen: tuple[str, int]) -> int:
        """When this node last asked the origin for these bytes, or for whether it has them."""
        etags = self.etags[seen]
        return max([self.fetched_at[seen], *(self.confirmed_at[seen[0], etag] for etag in etags)])

    def take_over(self, other: NodeWitness) -> None:
        """Note that this node has the disk of another one now, and nothing else."""
        for name in ("fetched_at", "etags", "confirmed_at", "proved_at", "softened_at"):
            setattr(self, name, copy.deepcopy(getattr(other, name)))

    def answered(self, seen: set[tuple[str, int]], proved_enough: float = math.inf) -> None:
        """An answer with these bytes begins now. Bytes that were proved at `proved_enough` or later are right."""
        now, promises = self.tick(), self._promises
        promises.answers += 1
        for key, version in seen:
            proved = self.proved((key, version))
            if proved >= proved_enough:
                continue
            for done, what in ((promises.purged_at, "purged"), (promises.ordered_at, "ordered to be proved")):
                if proved < done.get(key, 0):
                    promises.violations.append(
                        f"at {now}: node {self._name} answers with {key} version {version}, last proved at {proved}, "
                        f"which was {what} at {done[key]}"
                    )


class NodeOrigin(FakeOrigin):
    """One node's way to the Media Library."""

    async def keys(self, entry_id: str) -> Sequence[object]:
        """List the keys of the entry."""
        del entry_id
        return list(self.pictures)


class NodesLog(MemoryLog):
    """The log. Runs of nodes come and go."""

    def connect(self, way: MemoryPurgeLog) -> None:
        """Let a run hear of news."""
        self._ways.append(way)

    def disconnect(self, way: MemoryPurgeLog) -> None:
        """Let a run that has ended hear nothing any more."""
        self._ways.remove(way)


class NodeWay(MemoryPurgeLog):
    """One run's way to the log. News come on the loop of its node."""

    loop: NodeLoop

    def hear(self) -> None:
        if self._on_news is not None and not (self.is_deaf or self.is_cut or self.server.is_down):
            self.loop.call_soon(self._on_news)


class CachesInFront(Downstreams):
    """The caches in front, which are told at the end: then a purge counts as acknowledged."""

    world: NodesWorld
    node: Node

    async def purge(
        self,
        keys: Sequence[str],
        *,
        entry: str | None,
        seq: int,
        number: int | None = None,
        is_part: bool = False,
    ) -> tuple[DownstreamState, ...]:
        self.world.acknowledge(self.node, seq, Kind.PURGE, keys)
        return await super().purge(keys, entry=entry, seq=seq, number=number, is_part=is_part)

    async def purge_all(self, seq: int, number: int | None = None) -> tuple[DownstreamState, ...]:
        self.world.acknowledge(self.node, seq, Kind.PURGE_ALL, ())
        return await super().purge_all(seq, number)


class WatchedNode:
    """The other nodes as `SpreadPurges` sees them. It notes what is recorded, and which orders are complete."""

    def __init__(self, inner: ClusterNode, world: NodesWorld, name: str) -> None:
        self._inner = inner
        self._world = world
        self._name = name
        self.node: Node | None = None

    def recording(self, change: Change) -> Also:
        also = self._inner.recording(change)
        promises = self._world.promises
        promises.now += 1
        promise = Promise(change.kind, change.keys, promises.now)

        def watched(database: sqlite3.Connection, seq: int) -> None:
            also(database, seq)
            if self.node is None or not self.node.is_dead:  # else it is written to a disk that is gone
                promises.recorded[self._name, seq] = promise

        return watched

    async def wait(self, seq: int, within_s: float | None = None) -> Spread:
        spread = await self._inner.wait(seq, within_s)
        if spread.is_complete and self.node is not None:
            self._world.acknowledge(self.node, seq, Kind.PROVE, None)
        return spread

    def finished(self, seqs: Sequence[int]) -> None:
        self._inner.finished(seqs)

    def wake(self) -> None:
        self._inner.wake()

    async def left_over(self) -> tuple[Unspread, ...]:
        return await self._inner.left_over()

    async def spread_unpromised(self, change: Change) -> None:
        await self._inner.spread_unpromised(change)


class NodeClock(Clock):
    """The clock of the node's machine, which is that of its loop."""

    def __init__(self, loop: NodeLoop) -> None:
        super().__init__()
        self.now_s = loop.time


@dataclass(eq=False)
class Answer:
    """An answer that is being sent. `is_unwaited`: no purge waits for it, because its node may be forgotten."""

    seen: set[tuple[str, int]]
    is_unwaited: bool
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def cut(self) -> None:
        """Close its connection."""
        self.gate.set()


@dataclass(eq=False)
class Node:
    """One run of one node."""

    name: str
    loop: NodeLoop
    directory: Path
    way: NodeWay
    origin: NodeOrigin
    gates: Gates
    cache: Cache
    cluster: ClusterNode
    purges: PurgeService
    updates: Updates
    webhooks: Webhooks
    originals: Originals
    variants: Variants
    refusals: Refusals
    delivery: Delivery
    answers: Answers
    under_way: AnswersUnderWay
    caches: CachesInFront
    is_dead: bool = False
    log_cut_at_s: float | None = None
    origin_cut_at_s: float | None = None
    sending: set[Answer] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def close(self) -> None:
        """End in the order of the edge: nothing is answered any more when the node leaves."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.delivery.background.close()
        await self.variants.close()
        await self.originals.close()
        self.gates.open_all()
        await self.purges.close()
        await self.caches.close()
        await self.under_way.close()
        await self.cluster.close()
        await self.cache.close()


class NodesWorld:
    """The nodes, the log, the origin, and the witnesses."""

    def __init__(self, directory: Path, way: type[NodeWay] = NodeWay) -> None:
        """`way` is how nodes reach the log; another one has a planted fault."""
        self._root = directory
        self._way = way
        self._runs = 0
        self._deliveries = 0
        self.timeline = Timeline()
        self._metrics = Metrics()  # no promise is about them, and to make them takes longer than the rest of a start
        self.log = NodesLog()
        self.promises = Promises()
        self.pictures = {key: Picture() for key in KEYS}
        self.witnesses = {name: NodeWitness(name, self.promises) for name in NAMES}
        self.failures: list[BaseException] = []
        self.nodes: dict[str, Node] = {}
        self._directories = {name: directory / f"{name}-0" for name in NAMES}
        for name in NAMES:
            self.start(name)
        self.pass_time(STEP_S)

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self, name: str, *, held: str | None = None) -> None:
        """Start a node over its disk, if it does not run. Its calls of the method `held` of the log are held."""
        if name in self.nodes:
            return
        self._runs += 1
        loop = self.timeline.start(OFFSETS_S[name] + 4_096.0 * self._runs)
        way = self._way(self.log)
        way.loop = loop
        if held is not None:
            way.hold(held)
        self.log.connect(way)
        self.nodes[name] = self.timeline.run(loop, self._started(name, loop, way))

    async def _started(self, name: str, loop: NodeLoop, way: NodeWay) -> Node:
        gates, witness, metrics, refusals = Gates(), self.witnesses[name], self._metrics, Refusals()
        directory = self._directories[name]
        origin = NodeOrigin(witness, gates)
        origin.pictures = self.pictures
        journal = GatedJournal(directory)
        journal.gates = gates
        cache = Cache(CacheSettings(dir=directory, min_free_bytes=0, hot_max_bytes=20_000), journal=journal)
        answers = Answers(cache.purged, cache.purged_all)
        under_way = AnswersUnderWay(answers)

        async def drain(hashes: Collection[str] | None) -> None:
            await (answers.drain_all(PURGE.drain_s) if hashes is None else answers.drain(hashes, PURGE.drain_s))

        cluster = ClusterNode(
            way,
            CLUSTER,
            Parts(cache, drain, under_way, gates, FRESHNESS.revalidate_after_s + 1, lambda _entry, _keys: None),
            name=name,
            run=f"{name}-{self._runs}",
            clock=NodeClock(loop),
        )
        nodes = WatchedNode(cluster, self, name)
        caches = CachesInFront((), journal, purge=PURGE, freshness=FRESHNESS, metrics=metrics, cluster=CLUSTER)
        entries = EntryKeys(cache, origin)
        purges = PurgeService(
            cache,
            entries,
            answers,
            settings=PURGE,
            freshness=FRESHNESS,
            metrics=metrics,
            downstream=caches,
            nodes=nodes,
            nodes_wait_s=WAIT_S,
        )
        admission, fence = Admission(RenderSettings(), 1), cluster.fence
        fetching = Fetching(
            cache,
            origin,
            OriginHealth(_no_probe),
            refusals,
            purge=purges.purge_found,
            admission=admission,
            source_max_bytes=1_000_000,
            negative_ttl_s=FRESHNESS.negative_ttl_s,
            metrics=metrics,
            failpoints=gates,
            now=self.wall_s,
            fence=fence,
        )
        originals = Originals(cache, fetching, refusals, freshness=FRESHNESS, now=self.wall_s, fence=fence)
        under_way.originals = originals
        updates = Updates(
            cache,
            entries,
            purges,
            originals,
            known=CachedOriginals(cache, settle_s=0),
            downstream=caches,
            settings=PURGE,
            freshness=FRESHNESS,
            metrics=metrics,
        )
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
            fence=fence,
        )
        node = Node(
            name=name,
            loop=loop,
            directory=directory,
            way=way,
            origin=origin,
            gates=gates,
            cache=cache,
            cluster=cluster,
            purges=purges,
            updates=updates,
            webhooks=Webhooks([SECRET], purges, updates, LocalDeliveries(journal), metrics),
            originals=originals,
            variants=variants,
            refusals=refusals,
            delivery=delivery,
            answers=answers,
            under_way=under_way,
            caches=caches,
        )
        caches.world, caches.node, nodes.node = self, node, node
        await cache.start()
        await cluster.start()
        await entries.start()
        await caches.start()
        await purges.start()
        return node

    def leave(self, name: str) -> None:
        """Stop a node in good order."""
        node = self.nodes.pop(name, None)
        if node is not None:
            self._resume(node)
            self._close(node)

    def kill(self, name: str) -> None:
        """Let a node die here and now. What is on its disk stays as it is, everything else is gone."""
        node = self.nodes.pop(name, None)
        if node is None:
            return
        node.is_dead = node.way.is_cut = True
        directory = self._new_directory(name)
        shutil.copytree(node.directory, directory, ignore=lambda _path, _names: {LOCK})
        os.link(node.directory / LOCK, directory / LOCK)  # it is the same disk
        self._directories[name] = directory
        node.loop.is_stopped = False
        self._close(node)
        shutil.rmtree(node.directory)

    def start_over_a_copy(self, name: str, of: str) -> None:
        """Start a node, if it does not run, over a copy of the disk of another one, which runs. Its own is lost."""
        if name in self.nodes or of not in self.nodes:
            return
        directory = self._new_directory(name)
        shutil.copytree(self.nodes[of].directory, directory)
        shutil.rmtree(self._directories[name], ignore_errors=True)
        self._directories[name] = directory
        self.witnesses[name].take_over(self.witnesses[of])
        promises = self.promises
        promises.recorded = {place: each for place, each in promises.recorded.items() if place[0] != name}
        promises.acknowledged = {place for place in promises.acknowledged if place[0] != name}
        self.start(name)

    def _new_directory(self, name: str) -> Path:
        self._runs += 1
        return self._root / f"{name}-{self._runs}"

    def _close(self, node: Node) -> None:
        self.timeline.run(node.loop, node.close())
        self.log.disconnect(node.way)
        self.timeline.end(node.loop)

    def stop(self, name: str) -> None:
        """Stop a node's process (SIGSTOP)."""
        if name in self.nodes:
            self.nodes[name].loop.is_stopped = True

    def resume(self, name: str) -> None:
        """Continue a node's process (SIGCONT)."""
        if name in self.nodes:
            self._resume(self.nodes[name])

    def _resume(self, node: Node) -> None:
        if node.loop.is_stopped:
            self.timeline.run_alone(node.loop)
            node.loop.is_stopped = False

    def close(self) -> None:
        """End everything."""
        for name in list(self.nodes):
            self.kill(name)

    # --- what happens ----------------------------------------------------------------------------------------------

    def wall_s(self) -> float:
        """Return the wall clock of all nodes, Unix time. Leases do not look at it."""
        return WALL_S + self.timeline.now_s

    def request(
        self,
        name: str,
        plan: RenderPlan | None,
        *,
        hold_at: str | None,
        is_slow: bool = False,
        is_conditional: bool = False,
    ) -> None:
        """Ask a node for a variant. `is_slow`: the client takes the bytes only when it is let go."""
        node, witness = self.nodes.get(name), self.witnesses[name]
        if node is None:
            return
        came_at = witness.tick()
        is_cut_off = self._is_cut_off(node)
        is_cached = node.cache.facts(key_hash(KEY)) is not None

        async def begin(delivered: Delivered) -> None:
            if node.is_dead:
                return
            seen = self._seen(node, delivered)
            # Nobody waits for a node that may be forgotten. Its promise is for each request only.
            is_unwaited = self._may_be_forgotten(node)
            witness.answered(seen, came_at if is_unwaited else math.inf)
            if self._is_cut_off(node):
                self.promises.violations.append(f"node {name} answers, cut off from log and origin")
            answer = Answer(seen, is_unwaited)
            with node.answers.sending([hashed for hashed, _ in delivered.proofs], answer.cut):
                if not is_slow:
                    return
                node.sending.add(answer)
                node.gates.standing.append(("body", answer.gate))
                try:
                    await answer.gate.wait()
                finally:
                    node.sending.discard(answer)
                    node.gates.standing = [item for item in node.gates.standing if item[1] is not answer.gate]

        async def ask() -> None:
            try:
                has = (lambda etag: etag) if is_conditional else None
                await node.delivery.answer(Request(KEY, plan, has), begin)
            except ImgproxyError as error:
                self.promises.errors[error.code] += 1
                if is_cut_off and is_cached and error.status != 503 and node.refusals.get(key_hash(KEY)) is None:
                    self.promises.violations.append(f"node {name}, cut off from log and origin, answers {error.status}")

        self._begin(node, ask(), hold_at)

    def _seen(self, node: Node, delivered: Delivered) -> set[tuple[str, int]]:
        """Return the pictures whose bytes an answer holds. A 304 answers with the bytes that the client has."""
        variant = delivered.variant
        if variant is None:
            digests = {digest_of(picture(*seen)): seen for seen in list(self.witnesses[node.name].fetched_at)}
            return {digests[delivered.original.facts.digest]}
        body = variant.body
        if body is None:
            assert variant.path is not None
            body = Path(variant.path).read_bytes()[: variant.facts.size_bytes]
        return versions_in(body)

    def _may_be_forgotten(self, node: Node) -> bool:
        """Whether the node has not renewed its lease for so long that others may have forgotten it, or never."""
        return node.loop.time() >= node.cluster.lease.renewed_at_s + FORGET_S * (1 - MARGIN)

    def _is_cut_off(self, node: Node) -> bool:
        """Whether the node has reached neither log nor origin for so long that no lease and no proof counts."""
        now_s = self.timeline.now_s
        log_s, origin_s = node.log_cut_at_s, node.origin_cut_at_s
        return log_s is not None and origin_s is not None and now_s >= max(log_s + LEASE_S, origin_s + PROOF_S)

    def purge(self, name: str, key: str, *, hold_at: str | None = None) -> None:
        """Purge a key at a node."""
        node = self.nodes.get(name)
        if node is not None:
            self._begin(node, node.purges.purge_keys([key], reason="model"), hold_at)

    def purge_all(self, name: str) -> None:
        """Purge everything at a node."""
        node = self.nodes.get(name)
        if node is not None:
            self._begin(node, node.purges.purge_all(reason="all"), None)

    def webhook(self, name: str, event: str, *, hold_at: str | None = None) -> None:
        """Let a node receive an event of the entry that has all keys."""
        node = self.nodes.get(name)
        if node is None:
            return
        self._deliveries += 1
        raw = json.dumps({"event": PREFIX + event, "mediaId": ENTRY, "deliveryId": str(self._deliveries)}).encode()
        signature = "sha256=" + hmac.new(SECRET.encode(), raw, hashlib.sha256).hexdigest()
        self._begin(node, node.webhooks.receive(raw, signature), hold_at)

    def let_go(self, index: int) -> None:
        """Let something go on that is held, anywhere."""
        nodes = [node for node in self.nodes.values() if node.gates.standing]
        if nodes:
            nodes[index % len(nodes)].gates.let_go(index // len(nodes))
            self.pass_time(STEP_S)

    def open_gates(self, name: str) -> None:
        """Let everything go on that a node holds."""
        if name in self.nodes:
            self.nodes[name].gates.open_all()
            self.pass_time(STEP_S)

    def is_anything_held(self) -> bool:
        """Whether anything is held at a gate."""
        return any(node.gates.standing for node in self.nodes.values())

    def hold_elsewhere(self, point: str | None, *, but: str) -> None:
        """Hold what comes to this point on the other nodes, during the next step only."""
        for node in self.nodes.values():
            if node.name != but:
                node.gates.held = point

    def _begin(self, node: Node, work: Any, hold_at: str | None) -> None:
        node.gates.held = hold_at

        async def begun() -> None:
            await work

        task = node.loop.create_task(begun())
        node.tasks.add(task)
        task.add_done_callback(node.tasks.discard)
        task.add_done_callback(self._note_failure)
        self.pass_time(STEP_S)
        for each in self.nodes.values():
            each.gates.held = None

    def _note_failure(self, task: asyncio.Future[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ImgproxyError):
            self.failures.append(error)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and everything happen that can."""
        self.timeline.pass_time(seconds)
        if seconds >= FRESHNESS.negative_ttl_s:
            for node in self.nodes.values():  # these forget by the real clock, which does not move here
                node.originals._retry_at_s.clear()
                node.refusals.clear()

    # --- lines -----------------------------------------------------------------------------------------------------

    def cut_log(self, name: str, *, is_cut: bool) -> None:
        """Cut a node off from the log, or heal its line."""
        node = self.nodes.get(name)
        if node is not None:
            node.way.is_cut = is_cut
            node.log_cut_at_s = self.timeline.now_s if is_cut else None

    def cut_origin(self, name: str, *, is_cut: bool) -> None:
        """Cut a node off from the origin, or heal its line."""
        node = self.nodes.get(name)
        if node is not None:
            node.origin.is_down = is_cut
            node.origin_cut_at_s = self.timeline.now_s if is_cut else None

    def slow_log(self, name: str, method: str, *, is_answer: bool) -> None:
        """Hold a node's calls of one method of the log: before they reach it, or their answers."""
        node = self.nodes.get(name)
        if node is not None:
            node.way.release(method)
            (node.way.hold_answers if is_answer else node.way.hold)(method)

    def release_log(self, name: str) -> None:
        """Let a node's calls of the log go on."""
        node = self.nodes.get(name)
        if node is not None:
            for method in METHODS:
                node.way.release(method)

    def heal(self) -> None:
        """Let everything be well again, and time pass. Then check that nothing is left over."""
        self.log.is_down = False
        for name in NAMES:
            self.resume(name)
            self.start(name)
            self.cut_log(name, is_cut=False)
            self.cut_origin(name, is_cut=False)
            self.release_log(name)
            self.nodes[name].gates.open_all()
        self.pass_time(HEALING_S)
        for name, node in self.nodes.items():
            if not node.cluster.is_current:
                self.promises.violations.append(f"node {name} stays fenced: {node.cluster.cause}")
            if node.purges.pending or node.cluster.waiting:
                self.promises.violations.append(f"node {name} has purges that stay pending")
        lost = self.promises.recorded.keys() - self.promises.acknowledged
        self.promises.violations += [
            f"the purge {number} of node {name} was recorded, and never acknowledged"
            for name, number in sorted(lost)
            if self.promises.recorded[name, number].kind is not Kind.PROVE
        ]

    # --- what was promised -----------------------------------------------------------------------------------------

    def acknowledge(self, node: Node, seq: int, kind: Kind, keys: Sequence[str] | None) -> None:
        """Note that a node counts its purges of these keys up to this number as complete; None: of all keys."""
        promises = self.promises
        if node.is_dead:
            return
        for (name, number), promise in promises.recorded.items():
            if name != node.name or number > seq or promise.kind is not kind or (name, number) in promises.acknowledged:
                continue
            if keys is None:
                promises.acknowledged.add((name, number))
                _raise(promises.ordered_at, promise.keys, promise.arrived_at)
            elif set(promise.keys) <= set(keys):
                promises.acknowledged.add((name, number))
                purged = KEYS if kind is Kind.PURGE_ALL else promise.keys
                _raise(promises.purged_at, purged, promise.arrived_at)
                self._expect_nothing_sent(name, number, purged, promise.arrived_at)

    def _expect_nothing_sent(self, by: str, number: int, keys: Sequence[str], arrived_at: int) -> None:
        """Note a violation if a node that runs is still sending bytes of these keys from before a purge."""
        for name, node in self.nodes.items():
            if node.loop.is_stopped:
                continue
            for answer in (item for item in node.sending if not item.is_unwaited):
                for seen in answer.seen:
                    proved = self.witnesses[name].proved(seen)
                    if seen[0] in keys and proved < arrived_at and not answer.gate.is_set():
                        self.promises.violations.append(
                            f"purge {number} of node {by}, which arrived at {arrived_at}, is complete, and node {name} "
                            f"is sending {seen[0]} version {seen[1]}, last proved at {proved}"
                        )


METHODS = ("join", "renew", "report", "members", "append", "read", "leave")


def _raise(times: dict[str, int], keys: Sequence[str], at: int) -> None:
    for key in keys:
        times[key] = max(at, times.get(key, 0))


async def _no_probe() -> object:
    return None
