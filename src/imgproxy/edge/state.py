"""The state of the service: whether this node is ready, why not, and the figures of `/-/status`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from imgproxy import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.admission.policy import Admission
    from imgproxy.cache.cache import Cache
    from imgproxy.delivery.origin_health import OriginHealth
    from imgproxy.delivery.originals import Originals
    from imgproxy.delivery.settling import Settling
    from imgproxy.delivery.variants import Variants
    from imgproxy.metrics import Metrics
    from imgproxy.purge.downstream.targets import Downstreams
    from imgproxy.purge.service import PurgeService
    from imgproxy.workers.pool import RenderPool

# A disk with less free space than both of these is full, also if `min_free_bytes` is smaller.
FREE_LEAST_BYTES = 16_000_000
FREE_LEAST_SHARE = 0.005


class ServiceState:
    """Reads the state of a running service from its parts."""

    def __init__(
        self,
        cache: Cache,
        *,
        originals: Originals,
        variants: Variants,
        pool: RenderPool,
        admission: Admission,
        settling: Settling,
        purges: PurgeService,
        downstreams: Downstreams,
        health: OriginHealth,
        metrics: Metrics,
        cluster: Callable[[], dict[str, Any]] | None = None,
        readiness: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        """`cluster` and `readiness` say what a node says of its cluster, for the status and for everybody."""
        self._cache = cache
        self._originals = originals
        self._variants = variants
        self._admission = admission
        self._settling = settling
        self._pool = pool
        self._purges = purges
        self._downstreams = downstreams
        self._health = health
        self._metrics = metrics
        self._cluster = cluster
        self._readiness = readiness
        self._started_s = time.monotonic()
        self.is_draining = False
        self._watch()

    def not_ready(self) -> list[str]:
        """
        Return why this node cannot answer requests that another node could; empty if it is ready.

        A fault of another service is not a reason, nor is the load, nor the fence of a cluster: all nodes have it. They
        would leave the load balancer together, with every picture that they have cached. docs/operation.md has the
        whole list.
        """
        reasons = {
            "draining": self.is_draining,
            "cache_not_writable": not self._takes_new_files(),
            "disk_full": self._is_disk_full(),
            "purges_unrecorded": self._cache.epochs.closed > 0,
            "render_processes_do_not_start": self._pool.cannot_start,
        }
        return [reason for reason, holds in reasons.items() if holds]

    def readiness_json(self) -> dict[str, Any]:
        """Return what `/-/ready` says."""
        reasons = self.not_ready()
        found = {"status": "ready" if not reasons else "not ready", "reasons": reasons}
        return found | (self._readiness() if self._readiness is not None else {})

    def as_json(self) -> dict[str, Any]:
        """Return the current figures."""
        ledger, reasons = self._cache.store.ledger, self.not_ready()
        return {
            "version": __version__,
            "libvips": self._pool.libvips_version,
            "uptime_s": round(time.monotonic() - self._started_s, 1),
            "ready": not reasons,
            "reasons": reasons,
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
                "queue_full": self._admission.is_full,
            },
            "origin": {
                "token_dead": self._health.is_token_dead,
                "down": self._health.is_down,
                "cause": self._health.cause,
                "down_s": round(self._health.down_s, 1),
            },
            "purge": {"seq": self._cache.epochs.seq, "pending": self._pending()},
            "downstream": self._downstreams.as_json(),
            "under_way": {"fetches": self._originals.under_way, "renders": self._variants.under_way},
            **({"cluster": self._cluster()} if self._cluster is not None else {}),
        }

    def _pending(self) -> int:
        return self._purges.pending + self._settling.pending

    def _takes_new_files(self) -> bool:
        """Whether a file can be made. Only a try shows wrong permissions, a read-only disk or a lack of inodes."""
        store = self._cache.store
        probe = store.keys_dir / f".ready-{store.run_id}"
        try:
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
            probe.unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def _is_disk_full(self) -> bool:
        """Whether less space is left than a twentieth of `min_free_bytes`, or than a few files need."""
        try:
            disk = os.statvfs(self._cache.store.directory)
        except OSError:
            return False  # then the disk takes no new files either, which is a reason of its own
        size_bytes, free_bytes = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        needed_bytes = min(FREE_LEAST_BYTES, size_bytes * FREE_LEAST_SHARE)
        return free_bytes < max(self._cache.settings.min_free_bytes / 20, needed_bytes)

    def _watch(self) -> None:
        """Declare the gauges whose values are read when the metrics page is made."""
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
        watch("imgproxy_render_waiting", "jobs waiting for a render process", lambda: pool.waiting)
        watch("imgproxy_render_restarts", "render processes replaced since the start", lambda: pool.restarts)
        watch("imgproxy_fetches_under_way", "fetches and revalidations", lambda: self._originals.under_way)
        watch("imgproxy_purges_pending", "expansions and checks still to come", self._pending)
        watch(
            "imgproxy_oldest_unproved_original_seconds",
            "since the oldest proof that an answer relied on and that could not be renewed yet; 0: none",
            lambda: self._originals.oldest_unproved_s,
        )
        watch("imgproxy_purges_unrecorded", "keys closed until the disk takes their purge", lambda: cache.epochs.closed)
        watch("imgproxy_origin_token_dead", "1 if the origin refuses our token", lambda: self._health.is_token_dead)
        watch("imgproxy_origin_down", "1 if the origin could not be reached last", lambda: self._health.is_down)
