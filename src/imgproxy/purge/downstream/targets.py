"""
The caches in front, purged after us: each has a lane of its own, and all share the outbox.

A purge writes its lines into the journal together with its own record (`lines`), and lets them go when no answer with
old bytes is under way any more (`purge`). What the receipt does not see done is done later, by itself.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from imgproxy.cache.outbox import Outbox, OutboxLine, Subject
from imgproxy.medialibrary import TokenSource
from imgproxy.purge.downstream.calls import Adapter, PurgeHttp
from imgproxy.purge.downstream.queue import Lane, TokenBucket
from imgproxy.purge.downstream.template import Template
from imgproxy.purge.downstream.vendors import Cloudflare, Fastly, Varnish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from imgproxy.cache.journal import Journal
    from imgproxy.config.downstream import DownstreamSettings
    from imgproxy.config.sections import FreshnessSettings, PurgeSettings
    from imgproxy.metrics import Metrics
    from imgproxy.purge.receipt import DownstreamState

log = logging.getLogger(__name__)

# Calls a second and burst of an account, by its plan. Source:
# https://developers.cloudflare.com/cache/how-to/purge-cache/ (tag purges, as of July 2026).
CLOUDFLARE_RATES = {
    "free": (5 / 60, 25),
    "pro": (5.0, 25),
    "business": (10.0, 50),
    "enterprise": (50.0, 500),
}
# Beyond the drain and the keys API: a purge that has not released its lines by then was cut short by a crash.
HELD_MARGIN_S = 5.0


class Downstreams:
    """Every configured cache in front; with none configured it does nothing."""

    def __init__(
        self,
        settings: Sequence[DownstreamSettings],
        journal: Journal,
        *,
        purge: PurgeSettings,
        freshness: FreshnessSettings,
        metrics: Metrics,
    ) -> None:
        self._settings = tuple(settings)
        self._outbox = Outbox(journal)
        self._purge = purge
        self._freshness = freshness
        self._metrics = metrics
        # Made here, so that a token file that cannot be read is said before anything starts.
        self._adapters = [(item, adapter_of(item)) for item in self._settings]
        self._lanes: list[Lane] = []
        self._http: PurgeHttp | None = None

    async def start(self, *, is_outbox_lost: bool = False) -> None:
        """Take up what the last run left; `is_outbox_lost` says that the journal was damaged, so the outbox too."""
        if is_outbox_lost and self._settings:
            log.critical(
                "the outbox is lost with the damaged journal: purges that %s had not confirmed will not be repeated; "
                "purge everything there",
                ", ".join(item.label for item in self._settings),
            )
        dropped = await self._outbox.take_up(item.label for item in self._settings)
        if dropped:
            log.warning("%d purges of caches that are not configured any more were dropped from the outbox", dropped)
        if not self._settings:
            return
        self._http = PurgeHttp()
        for item, adapter in self._adapters:
            again_after_s = self._freshness.settle_s if item.again_after_s is None else item.again_after_s
            # Counted from the end of the drain: only then the last old answer has left us.
            again_after_s += self._purge.drain_s if again_after_s else 0.0
            bucket = TokenBucket(*CLOUDFLARE_RATES[item.plan]) if item.kind == "cloudflare" else None
            lane = Lane(
                item,
                adapter,
                self._outbox,
                self._http,
                held_s=self._purge.drain_s + self._purge.expand_timeout_s + HELD_MARGIN_S,
                again_after_s=again_after_s,
                metrics=self._metrics,
                bucket=bucket,
            )
            await lane.start()
            self._lanes.append(lane)

    async def close(self) -> None:
        """Stop sending; the outbox has the rest."""
        await asyncio.gather(*(lane.close() for lane in self._lanes))
        if self._http is not None:
            await self._http.aclose()

    def lines(self, keys: Sequence[str], *, entry: str | None) -> list[OutboxLine]:
        """What the journal has to keep together with the record of this purge."""
        subjects = _subjects(keys, entry)
        return [line for lane in self._lanes for line in lane.lines(subjects)]

    async def purge(self, keys: Sequence[str], *, entry: str | None, seq: int) -> tuple[DownstreamState, ...]:
        """Let go what was recorded for these keys up to purge `seq`, and wait for each cache as long as it is worth."""
        subjects = _subjects(keys, entry)
        return tuple(await asyncio.gather(*(lane.send(subjects, seq) for lane in self._lanes)))

    def as_json(self) -> list[dict[str, Any]]:
        """How each cache in front stands, for the status page."""
        return [
            {
                "name": lane.name,
                "kind": lane.kind,
                "waiting": lane.figures.lines,
                "oldest_s": round(lane.oldest_age_s, 1),
                "last_failure": lane.last_failure,
            }
            for lane in self._lanes
        ]


def adapter_of(settings: DownstreamSettings) -> Adapter:
    """
    The adapter of a configured kind.

    Raises:
        ConfigError: the token, or its file, is none.
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


def _token(settings: DownstreamSettings) -> Callable[[], str | None]:
    if settings.token_file is not None:
        source = TokenSource.file(settings.token_file)
    elif settings.token is not None:
        source = TokenSource.literal(settings.token.get_secret_value())
    else:
        source = TokenSource.none()
    return lambda: next(iter(source.tokens()), None)


def _subjects(keys: Iterable[str], entry: str | None) -> list[Subject]:
    """
    Keys always, the entry additionally.

    An answer that a CDN took before its entry was known to us carries the tag of its key alone; one whose key is not
    known to us any more may still carry the tag of its entry.
    """
    found = [Subject(key) for key in dict.fromkeys(keys)]
    return [*found, Subject(entry, is_entry=True)] if entry is not None else found
