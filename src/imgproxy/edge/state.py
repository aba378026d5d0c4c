"""The state of the service: whether this node is ready, why not, and the figures of `/-/status`."""

from __future__ import annotations

import math
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from imgproxy import __version__
from imgproxy.telemetry import metric_table as table

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.admission.policy import Admission
    from imgproxy.cache.cache import Cache
    from imgproxy.delivery.origin_health import OriginHealth
    from imgproxy.delivery.originals import Originals
    from imgproxy.delivery.settling import Settling
    from imgproxy.delivery.variants import Variants
    from imgproxy.edge.descriptors import Descriptors
    from imgproxy.purge.downstream.targets import Downstreams
    from imgproxy.purge.service import PurgeService
    from imgproxy.telemetry.logs import LineHandler
    from imgproxy.telemetry.metrics import Metrics
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
        origin: str,
        metrics: Metrics,
        cluster: Callable[[], dict[str, Any]] | None = None,
        readiness: Callable[[], dict[str, Any]] | None = None,
        shared_store: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        """
        Take the parts.

        `origin` is the URL of the Media Library. `cluster` and `readiness` return what a node says of its cluster, for
        the status and for everybody. `shared_store` returns whether the store works. None: there is none.
        """
        self._cache = cache
        self._originals = originals
        self._variants = variants
        self._admission = admission
        self._settling = settling
        self._pool = pool
        self._purges = purges
        self._downstreams = downstreams
        self._health = health
        self._origin = urlsplit(origin).netloc.rpartition("@")[2]  # without a user and a password
        self._metrics = metrics
        self._cluster = cluster
        self._readiness = readiness
        self._shared_store = shared_store
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
        return [reason for reason, holds in self._reasons().items() if holds]

    def _reasons(self) -> dict[str, bool]:
        return {
            "draining": self.is_draining,
            "cache_not_writable": not self._takes_new_files(),
            "disk_full": self._is_disk_full(),
            "purges_unrecorded": self._cache.epochs.closed > 0,
            "render_processes_do_not_start": self._pool.cannot_start,
        }

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
            **({"shared_store": self._shared_store()} if self._shared_store is not None else {}),
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

    def _free_bytes(self) -> float:
        try:
            disk = os.statvfs(self._cache.store.directory)
        except OSError:
            return math.nan
        return disk.f_bavail * disk.f_frsize

    def _watch(self) -> None:
        """Declare the gauges whose values are read when the metrics page is made."""
        cache, pool, watch = self._cache, self._pool, self._metrics.watch
        watch(table.DISK_BYTES, lambda: cache.store.ledger.used_bytes)
        watch(table.DISK_MAX_BYTES, lambda: cache.settings.max_bytes)
        watch(table.DISK_FREE_BYTES, self._free_bytes)
        watch(table.MEMORY_MAX_BYTES, lambda: cache.settings.hot_max_bytes)
        watch(table.DISK_FILES, lambda: len(cache.store.ledger))
        watch(table.MEMORY_BYTES, lambda: cache.hot.used_bytes)
        watch(table.EVICTED_FILES, lambda: cache.housekeeping.evicted_files)
        watch(table.JOURNAL_DAMAGED, lambda: cache.is_journal_damaged)
        watch(table.RENDER_PROCESSES, lambda: pool.processes)
        watch(table.RENDER_BUSY, lambda: pool.busy)
        watch(table.RENDER_RESIDENT, lambda: sum(map(resident_bytes, pool.pids)))
        watch(table.RENDER_WAITING, lambda: pool.waiting)
        watch(table.RENDER_RESTARTS, lambda: pool.restarts)
        self._metrics.watch_info(table.BUILD, lambda: (__version__, pool.libvips_version, platform.python_version()))
        self._metrics.watch_each(table.NOT_READY, self._reasons)
        watch(table.FETCHES_UNDER_WAY, lambda: self._originals.under_way)
        watch(table.PURGES_PENDING, self._pending)
        watch(table.OLDEST_UNPROVED, lambda: self._originals.oldest_unproved_s)
        watch(table.PURGES_UNRECORDED, lambda: cache.epochs.closed)
        self._metrics.watch_each(table.ORIGIN_TOKEN_DEAD, lambda: {self._origin: self._health.is_token_dead})
        self._metrics.watch_each(table.ORIGIN_DOWN, lambda: {self._origin: self._health.is_down})


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process; 0 if it has ended. Source: proc_pid_statm(5)."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def watch_process(metrics: Metrics, lines: LineHandler | None, descriptors: Descriptors) -> None:
    """Watch what the process has: lines of its log, file descriptors."""
    metrics.watch(table.LOG_LINES_DROPPED, lambda: lines.dropped if lines is not None else 0)
    metrics.watch(table.DESCRIPTORS_REFUSED, lambda: descriptors.refused)
