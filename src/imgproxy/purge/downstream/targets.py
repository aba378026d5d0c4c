"""
The caches in front, each with a queue of its own. All queues share the outbox.

A purge writes its lines into the journal together with its own record (`lines`). When all answers with old bytes have
ended, it releases them (`purge`). What a cache does not confirm in time is tried again until it does.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from aiolimiter import AsyncLimiter

from imgproxy.cache.outbox import EVERYTHING, Outbox, OutboxLine, Subject
from imgproxy.medialibrary.client.tokens import TokenSource
from imgproxy.purge.downstream.calls import Adapter, PurgeHttp
from imgproxy.purge.downstream.queue import TargetQueue
from imgproxy.purge.downstream.template import Template
from imgproxy.purge.downstream.vendors import Cloudflare, Fastly, Varnish
from imgproxy.purge.turns import WAITS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from imgproxy.cache.journal import Journal
    from imgproxy.config.downstream import DownstreamSettings
    from imgproxy.config.sections import FreshnessSettings, PurgeSettings
    from imgproxy.metrics import Metrics
    from imgproxy.purge.receipts import DownstreamState

log = logging.getLogger(__name__)

# Calls per second and burst of an account, by its plan. Source:
# https://developers.cloudflare.com/cache/how-to/purge-cache/ (tag purges, as of July 2026).
CLOUDFLARE_RATES = {
    "free": (5 / 60, 25),
    "pro": (5.0, 25),
    "business": (10.0, 50),
    "enterprise": (50.0, 500),
}
# Added to the time that drain and keys API may take. A purge that has not released its lines by then has crashed.
HELD_MARGIN_S = 5.0


class Downstreams:
    """All configured caches in front. With none configured it does nothing."""

    def __init__(
        self,
        settings: Sequence[DownstreamSettings],
        journal: Journal,
        *,
        purge: PurgeSettings,
        freshness: FreshnessSettings,
        metrics: Metrics,
        nodes_wait_s: float = 0.0,
    ) -> None:
        """
        Make the queues. `nodes_wait_s`: a purge waits at most this long for the other nodes of a cluster.

        Raises:
            ConfigError: a token file cannot be read.
        """
        self._outbox = Outbox(journal)
        self._purge = purge
        self._freshness = freshness
        self._metrics = metrics
        self._nodes_wait_s = nodes_wait_s
        self._http = PurgeHttp()
        self._queues = [self._queue_of(item) for item in settings]

    def _queue_of(self, settings: DownstreamSettings) -> TargetQueue:
        again_after_s = self._freshness.settle_s if settings.again_after_s is None else settings.again_after_s
        # Counted from the end of the drain: until then an old answer may still leave us.
        again_after_s += self._purge.drain_s if again_after_s else 0.0
        return TargetQueue(
            settings,
            adapter_of(settings),
            self._outbox,
            self._http,
            held_s=self._purge.drain_s
            + (1 + WAITS_MAX) * self._purge.expand_timeout_s
            + HELD_MARGIN_S
            + self._nodes_wait_s,
            again_after_s=again_after_s,
            metrics=self._metrics,
            limiter=limiter_of(settings),
        )

    async def start(self, *, is_outbox_lost: bool = False) -> None:
        """Continue what the last run left. `is_outbox_lost`: the journal was damaged, and the outbox with it."""
        names = [queue.name for queue in self._queues]
        if is_outbox_lost and names:
            log.critical(
                "the outbox is lost with the damaged journal: purges that %s had not confirmed will not be repeated; "
                "purge everything there",
                ", ".join(names),
            )
        dropped = await self._outbox.take_up(names)
        if dropped:
            log.warning("%d purges were dropped from the outbox: their caches are not configured any more", dropped)
        for queue in self._queues:
            await queue.start()

    async def close(self) -> None:
        """Stop sending. The outbox has the rest."""
        await asyncio.gather(*(queue.close() for queue in self._queues))
        await self._http.aclose()

    def lines(self, keys: Sequence[str], *, entry: str | None, is_part: bool = False) -> list[OutboxLine]:
        """
        Make the lines that the journal records together with this purge, so that no crash loses them.

        `is_part`: the entry has other keys, which stay. It is named only to caches that cannot be told single keys.
        """
        return [line for queue in self._queues for line in queue.lines(_subjects(queue, keys, entry, is_part=is_part))]

    async def purge(
        self, keys: Sequence[str], *, entry: str | None, seq: int, is_part: bool = False
    ) -> tuple[DownstreamState, ...]:
        """Release what was recorded for these keys up to purge `seq`, and wait for each cache, at most its `wait_s`."""
        calls = (queue.send(_subjects(queue, keys, entry, is_part=is_part), seq) for queue in self._queues)
        return tuple(await asyncio.gather(*calls))

    async def waiting(self, keys: Sequence[str], *, entry: str) -> frozenset[str]:
        """Return those of an entry's keys whose last purge has not been confirmed by every cache in front."""
        if not self._queues:
            return frozenset()
        waiting = await self._outbox.waiting(keys, entry)
        return frozenset(keys) if Subject(entry, is_entry=True) in waiting else frozenset(item.name for item in waiting)

    def lines_for_all(self) -> list[OutboxLine]:
        """As `lines`, for a purge of everything."""
        return [line for queue in self._queues for line in queue.lines([EVERYTHING])]

    async def purge_all(self, seq: int) -> tuple[DownstreamState, ...]:
        """As `purge`, for a purge of everything. A cache that cannot be told to forget everything is skipped."""
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
            for queue in self._queues
        ]


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
