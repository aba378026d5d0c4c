"""
The caches in front, each with a queue of its own. All queues share the outbox.

A purge writes its lines into the journal together with its own record (`lines`). When all answers with old bytes have
ended, it releases them (`purge`). What a cache does not confirm in time is tried again until it does.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from aiolimiter import AsyncLimiter

from imgproxy.cache.outbox import EVERYTHING, Outbox, OutboxLine, Subject
from imgproxy.cluster.log import LogUnavailable
from imgproxy.medialibrary.client.tokens import TokenSource
from imgproxy.purge.downstream.calls import Adapter, CallResult, PurgeHttp
from imgproxy.purge.downstream.queue import TargetQueue
from imgproxy.purge.downstream.shared_queue import SharedQueue
from imgproxy.purge.downstream.shared_store import StoreDeletions
from imgproxy.purge.downstream.template import Template
from imgproxy.purge.downstream.vendors import Cloudflare, Fastly, Varnish
from imgproxy.purge.turns import WAITS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from imgproxy.cache.journal import Journal
    from imgproxy.cluster.facts import SharedOutbox
    from imgproxy.cluster.store.shared import SharedStore
    from imgproxy.config.cluster import ClusterSettings
    from imgproxy.config.downstream import DownstreamSettings
    from imgproxy.config.sections import FreshnessSettings, PurgeSettings
    from imgproxy.purge.receipts import DownstreamState
    from imgproxy.purge.shared import Shared
    from imgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# Calls per second and burst of an account, by its plan. Source:
# https://developers.cloudflare.com/cache/how-to/purge-cache/ (tag purges, as of July 2026).
CLOUDFLARE_RATES = {
    "free": (5 / 60, 25),
    "pro": (5.0, 25),
    "business": (10.0, 50),
    "enterprise": (50.0, 500),
}
# A node that dies has the turn at a cache in front for so many leases.
TURN_LEASES = 2
# Added to the time that drain and keys API may take. A purge that has not released its lines by then has crashed.
HELD_MARGIN_S = 5.0
# `imgproxy check` purges this key. A Media Library never makes such a key.
PROBE_KEY = "imgproxy-check"


class Downstreams:
    """
    All configured caches in front, and the shared store. With none configured it does nothing.

    A purge does not wait for the shared store: what is there is proved before it is served. Receipts do not name it.
    """

    def __init__(
        self,
        settings: Sequence[DownstreamSettings],
        journal: Journal,
        *,
        purge: PurgeSettings,
        freshness: FreshnessSettings,
        metrics: Metrics,
        cluster: ClusterSettings | None = None,
        cluster_facts: Shared | None = None,
        shared: SharedStore | None = None,
    ) -> None:
        """
        Make the queues. `cluster`: the settings of the cluster, if there is one.

        `cluster_facts` has the cluster's outbox. The outbox here is then the reserve: its lines come due if the
        cluster's cannot be reached. `shared` is the shared store.

        Raises:
            ConfigError: a token file cannot be read.
        """
        self._outbox = Outbox(journal)
        self._purge = purge
        self._freshness = freshness
        self._metrics = metrics
        self._nodes_wait_s = cluster.wait_s if cluster is not None else 0.0
        self._turn_s = cluster.lease_s * TURN_LEASES if cluster is not None else 0.0
        self._http = PurgeHttp()
        self._shared = cluster_facts.outbox if cluster_facts is not None else None
        self._reserve = [self._queue_of(item) for item in settings] if self._shared is not None else []
        # Purges go to these. They come last, so that the metrics are theirs.
        self._queues = [
            self._queue_of(item) if self._shared is None else self._shared_queue_of(item, self._shared)
            for item in settings
        ]
        self._behind = [self._queue_of_store(shared)] if shared is not None else []

    def _queue_of(self, settings: DownstreamSettings) -> TargetQueue:
        adapter = adapter_of(settings)
        return TargetQueue(
            settings,
            adapter,
            self._outbox,
            partial(self._http.send, adapter),
            held_s=self._held_s,
            again_after_s=self._again_after_s(settings),
            metrics=self._metrics,
            limiter=limiter_of(settings),
        )

    def _queue_of_store(self, shared: SharedStore) -> TargetQueue:
        """Make the queue of deletions. No second round: an edge deletes what it was writing when the purge came."""
        deletions = StoreDeletions(shared, retry_max_s=self._purge.retry_max_s)
        return TargetQueue(
            deletions,
            deletions,
            self._outbox,
            deletions.send,
            held_s=self._held_s,
            again_after_s=0.0,
            metrics=self._metrics,
        )

    def _shared_queue_of(self, settings: DownstreamSettings, shared: SharedOutbox) -> SharedQueue:
        adapter = adapter_of(settings)
        return SharedQueue(
            settings,
            adapter,
            shared,
            partial(self._http.send, adapter),
            held_s=self._held_s,
            again_after_s=self._again_after_s(settings),
            metrics=self._metrics,
            make_limiter=lambda: limiter_of(settings),
            turn_s=self._turn_s,
        )

    @property
    def _held_s(self) -> float:
        expand_s = (1 + WAITS_MAX) * self._purge.expand_timeout_s
        return self._purge.drain_s + expand_s + HELD_MARGIN_S + self._nodes_wait_s

    def _again_after_s(self, settings: DownstreamSettings) -> float:
        again_after_s = self._freshness.settle_s if settings.again_after_s is None else settings.again_after_s
        # Counted from the end of the drain: until then an old answer may still leave us.
        return again_after_s + (self._purge.drain_s if again_after_s else 0.0)

    async def start(self, *, is_outbox_lost: bool = False) -> None:
        """Continue what the last run left. `is_outbox_lost`: the journal was damaged, and the outbox with it."""
        names = [queue.name for queue in self._queues]
        if is_outbox_lost and names:
            log.critical(
                "the outbox is lost with the damaged journal: purges that %s had not confirmed will not be repeated; "
                "purge everything there",
                ", ".join(names),
            )
        dropped = await self._outbox.take_up([queue.name for queue in (*self._queues, *self._behind)])
        if dropped:
            log.warning("%d purges were dropped from the outbox: their caches are not configured any more", dropped)
        if self._shared is not None and self._queues:
            self._shared.watch(self._hear)
        for queue in (*self._reserve, *self._queues, *self._behind):
            await queue.start()

    def _hear(self) -> None:
        for queue in self._queues:
            if isinstance(queue, SharedQueue):
                queue.hear()

    async def close(self) -> None:
        """Stop sending. The outbox has the rest."""
        await asyncio.gather(*(queue.close() for queue in (*self._reserve, *self._queues, *self._behind)))
        await self._http.aclose()

    def lines(self, keys: Sequence[str], *, entry: str | None, is_part: bool = False) -> list[OutboxLine]:
        """
        Make the lines that the journal records together with this purge, so that no crash loses them.

        `is_part`: the entry has other keys, which stay. It is named only to caches that cannot be told single keys.
        """
        return [line for queue in self._queues for line in queue.lines(_subjects(queue, keys, entry, is_part=is_part))]

    def lines_behind(self, keys: Sequence[str] | None) -> list[OutboxLine]:
        """As `lines`, for the shared store: this node deletes there. None: a purge of everything."""
        subjects = [EVERYTHING] if keys is None else [Subject(key) for key in dict.fromkeys(keys)]
        return [line for queue in self._behind for line in queue.lines(subjects)]

    async def purge(
        self,
        keys: Sequence[str],
        *,
        entry: str | None,
        seq: int,
        number: int | None = None,
        is_part: bool = False,
    ) -> tuple[DownstreamState, ...]:
        """
        Release what was recorded for these keys up to purge `seq`, and wait for each cache, at most its `wait_s`.

        `seq` is the purge's number here. `number` is that in the log of the cluster, whose outbox goes by it.
        """
        for queue in self._behind:
            queue.release(_subjects(queue, keys, entry, is_part=is_part), seq)
        seq = seq if number is None else number
        calls = (queue.send(_subjects(queue, keys, entry, is_part=is_part), seq) for queue in self._queues)
        return tuple(await asyncio.gather(*calls))

    async def drop_unknown(self) -> None:
        """Delete old lines of the cluster's outbox for caches that are configured here no more."""
        if self._shared is not None:
            await self._shared.take_up([queue.name for queue in self._queues])

    async def waiting(self, keys: Sequence[str], *, entry: str) -> frozenset[str]:
        """Return those of an entry's keys whose last purge has not been confirmed by every cache in front."""
        if not self._queues:
            return frozenset()
        waiting = await self._outbox.waiting(keys, entry)
        if self._shared is not None:
            try:
                waiting |= await self._shared.waiting(keys, entry)
            except LogUnavailable:
                return frozenset(keys)
        return frozenset(keys) if Subject(entry, is_entry=True) in waiting else frozenset(item.name for item in waiting)

    def lines_for_all(self) -> list[OutboxLine]:
        """As `lines`, for a purge of everything."""
        return [line for queue in self._queues for line in queue.lines([EVERYTHING])]

    async def purge_all(self, seq: int, number: int | None = None) -> tuple[DownstreamState, ...]:
        """As `purge`, for a purge of everything. A cache that cannot be told to forget everything is skipped."""
        for queue in self._behind:
            queue.release([EVERYTHING], seq)
        seq = seq if number is None else number
        return tuple(await asyncio.gather(*(queue.send([EVERYTHING], seq) for queue in self._queues)))

    def told_later(self, detail: str) -> tuple[DownstreamState, ...]:
        """Return the states of a purge that the caches are told of later."""
        return tuple(queue.told_later(detail) for queue in self._queues)

    def as_json(self) -> list[dict[str, Any]]:
        """Show the state of each cache, for the status page."""
        return [
            {
                "name": queue.name,
                "kind": queue.kind,
                "waiting": queue.figures.lines,
                "oldest_s": round(queue.oldest_age_s, 1),
                "last_failure": queue.last_failure,
            }
            for queue in (*self._queues, *self._behind)
        ]


async def try_cache_in_front(settings: DownstreamSettings) -> str | None:
    """Purge a key that no picture has. Returns why the cache did not confirm it, None if it did. Raises ConfigError."""
    http = PurgeHttp()
    try:
        verdict = await http.send(adapter_of(settings), [Subject(PROBE_KEY)], timeout_s=settings.timeout_s)
    finally:
        await http.aclose()
    return None if verdict.result is CallResult.DONE else verdict.detail or str(verdict.result)


def adapter_of(settings: DownstreamSettings) -> Adapter:
    """
    Make the adapter of the configured kind.

    Raises:
        ConfigError: the token, or its file, is missing or not valid.
    """
    token = _token(settings)
    if settings.kind == "varnish":
        assert settings.url is not None, "the configuration was checked"
        return Varnish(settings.url, token)
    if settings.kind == "fastly":
        assert settings.service_id is not None, "the configuration was checked"
        return Fastly(settings.service_id, token, url=settings.url)
    if settings.kind == "cloudflare":
        assert settings.zone_id is not None, "the configuration was checked"
        return Cloudflare(settings.zone_id, token, url=settings.url)
    return Template(settings, token)


def limiter_of(settings: DownstreamSettings) -> AsyncLimiter | None:
    """Make the rate limit that the target documents: for a burst of calls, and for a rate after it."""
    if settings.kind != "cloudflare":
        return None
    per_s, burst = CLOUDFLARE_RATES[settings.plan]
    return AsyncLimiter(burst, burst / per_s)


def _token(settings: DownstreamSettings) -> Callable[[], str | None]:
    if settings.token_file is not None:
        source = TokenSource.file(settings.token_file)
    elif settings.token is not None:
        source = TokenSource.literal(settings.token.get_secret_value())
    else:
        source = TokenSource.none()
    return lambda: next(iter(source.tokens()), None)


def _subjects(queue: TargetQueue, keys: Iterable[str], entry: str | None, *, is_part: bool) -> list[Subject]:
    """
    List the keys, and the entry unless these are only a part of its keys.

    A CDN may hold answers from before we knew their entry: these have the tag of the key only. It may also hold answers
    of keys that we do not know any more: these are found by the tag of the entry.
    """
    found = [Subject(key) for key in dict.fromkeys(keys)]
    if entry is None or (is_part and queue.takes_keys):
        return found
    return [*found, Subject(entry, is_entry=True)]
