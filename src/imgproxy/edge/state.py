"""The state of the service: ready or why not, and the figures of `/-/status`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from imgproxy import __version__

if TYPE_CHECKING:
    from imgproxy.cache.cache import Cache
    from imgproxy.metrics import Metrics
    from imgproxy.origin_health import OriginHealth
    from imgproxy.originals import Originals
    from imgproxy.purge.downstream import Downstreams
    from imgproxy.purge.service import PurgeService
    from imgproxy.render.pool import RenderPool
    from imgproxy.renders import Renders


class ServiceState:
    """Reads the parts of a running service."""

    def __init__(
        self,
        cache: Cache,
        *,
        originals: Originals,
        renders: Renders,
        pool: RenderPool,
        purges: PurgeService,
        downstreams: Downstreams,
        health: OriginHealth,
        metrics: Metrics,
    ) -> None:
        self._cache = cache
        self._originals = originals
        self._renders = renders
        self._pool = pool
        self._purges = purges
        self._downstreams = downstreams
        self._health = health
        self._metrics = metrics
        self._started_s = time.monotonic()
        self.is_draining = False
        self._watch()

    def not_ready(self) -> list[str]:
        """Why no more requests should be sent here; empty when they may be."""
        reasons = {
            "draining": self.is_draining,
            "origin_token_dead": self._health.is_token_dead,
            "render_queue_full": self._pool.is_saturated,
            "cache_not_writable": not os.access(self._cache.store.keys_dir, os.W_OK | os.X_OK),
            "disk_full": self._is_disk_full(),
        }
        return [reason for reason, holds in reasons.items() if holds]

    def as_json(self) -> dict[str, Any]:
        """The figures of the moment."""
        ledger = self._cache.store.ledger
        return {
            "version": __version__,
            "libvips": self._pool.libvips_version,
            "uptime_s": round(time.monotonic() - self._started_s, 1),
            "ready": not self.not_ready(),
            "reasons": self.not_ready(),
            "cache": {
                "disk_bytes": ledger.used_bytes,
                "disk_files": len(ledger),
                "disk_max_bytes": self._cache.settings.max_bytes,
                "memory_bytes": self._cache.hot.used_bytes,
                "memory_variants": len(self._cache.hot),
                "is_scanned": self._cache.housekeeping.is_scanned,
                "evicted_files": self._cache.housekeeping.evicted_files,
                "journal_was_damaged": self._cache.is_journal_damaged,
            },
            "render": {
                "processes": self._pool.processes,
                "busy": self._pool.busy,
                "waiting": self._pool.waiting,
                "restarts": self._pool.restarts,
            },
            "origin": {"token_dead": self._health.is_token_dead, "down": self._health.is_down},
            "purge": {"seq": self._cache.epochs.seq, "pending": self._purges.pending},
            "downstream": self._downstreams.as_json(),
            "under_way": {"fetches": self._originals.under_way, "renders": self._renders.under_way},
        }

    def _is_disk_full(self) -> bool:
        """Less than a twentieth of the floor is left: eviction does not keep up, or others fill the disk."""
        disk = os.statvfs(self._cache.store.directory)
        return disk.f_bavail * disk.f_frsize < self._cache.settings.min_free_bytes / 20

    def _watch(self) -> None:
        """Declare the gauges that are read when the metrics page is."""
        cache, pool, watch = self._cache, self._pool, self._metrics.watch
        watch(
            "imgproxy_cache_disk_bytes",
            "bytes of originals and variants on disk",
            lambda: cache.store.ledger.used_bytes,
        )
        watch("imgproxy_cache_disk_files", "originals and variants on disk", lambda: len(cache.store.ledger))
        watch("imgproxy_cache_memory_bytes", "bytes of variants in memory", lambda: cache.hot.used_bytes)
        watch("imgproxy_cache_evicted_files", "files evicted since the start", lambda: cache.housekeeping.evicted_files)
        watch("imgproxy_journal_damaged", "1 if the journal was damaged at start", lambda: cache.is_journal_damaged)
        watch("imgproxy_render_processes", "render processes kept", lambda: pool.processes)
        watch("imgproxy_render_busy", "render processes with a job", lambda: pool.busy)
        watch("imgproxy_render_waiting", "render jobs waiting", lambda: pool.waiting)
        watch("imgproxy_render_restarts", "render processes replaced since the start", lambda: pool.restarts)
        watch("imgproxy_fetches_under_way", "fetches and revalidations", lambda: self._originals.under_way)
        watch("imgproxy_purges_pending", "expansions and checks still to come", lambda: self._purges.pending)
        watch(
            "imgproxy_oldest_unproved_original_seconds",
            "since the oldest proof that an answer relied on and that could not be renewed yet; 0: none",
            lambda: self._originals.oldest_unproved_s,
        )
        watch("imgproxy_purges_unrecorded", "keys closed until the disk takes their purge", lambda: cache.epochs.closed)
        watch("imgproxy_origin_token_dead", "1 if the origin refuses our token", lambda: self._health.is_token_dead)
        watch("imgproxy_origin_down", "1 if the origin could not be reached last", lambda: self._health.is_down)
