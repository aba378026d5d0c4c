"""What this edge shares with the other nodes of its cluster. Alone, it has parts over its journal instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproxy.cluster.store.objects import open_objects
from imgproxy.cluster.store.shared import SharedStore
from imgproxy.purge.deliveries import LocalDeliveries, SharedDeliveries
from imgproxy.purge.known_originals import CachedOriginals
from imgproxy.purge.shared import Shared
from imgproxy.purge.shared_keys import SharedKeys
from imgproxy.purge.shared_originals import SharedOriginals
from imgproxy.purge.upkeep import Upkeep

if TYPE_CHECKING:
    from imgproxy.cache.cache import Cache
    from imgproxy.cluster.engine import Engine
    from imgproxy.cluster.node import ClusterNode
    from imgproxy.config.settings import Settings
    from imgproxy.purge.deliveries import Deliveries
    from imgproxy.purge.downstream.targets import Downstreams
    from imgproxy.purge.entry_keys import EntryKeys
    from imgproxy.purge.known_originals import KnownOriginals
    from imgproxy.purge.service import PurgeService
    from imgproxy.telemetry.metrics import Metrics


def shared_keys_of(engine: Engine | None, cache: Cache) -> SharedKeys | None:
    """Return the keys that the nodes have seen for each entry. None: this edge is alone."""
    return None if engine is None else SharedKeys(engine.facts, cache.journal)


def shared_by(engine: Engine | None, node: ClusterNode | None) -> Shared | None:
    """Return what the nodes share besides the log. None: this edge is alone."""
    if engine is None or node is None:
        return None
    return Shared(engine.facts, engine.outbox, node.gone_runs, node.applied_by_all)


def deliveries_of(shared: Shared | None, cache: Cache, settings: Settings) -> Deliveries:
    """Return the webhook deliveries that were handled."""
    local = LocalDeliveries(cache.journal)
    return local if shared is None else SharedDeliveries(shared, local, wait_s=settings.cluster.wait_s)


def known_originals_of(shared: Shared | None, cache: Cache, entries: EntryKeys, settings: Settings) -> KnownOriginals:
    """Return where the originals are known from that an event may have changed."""
    settle_s = settings.freshness.settle_s
    if shared is None:
        return CachedOriginals(cache, settle_s=settle_s)
    return SharedOriginals(shared.facts, cache, entries, settle_s=settle_s)


def upkeep_of(
    shared: Shared | None,
    keys: SharedKeys | None,
    purges: PurgeService,
    downstreams: Downstreams,
    settings: Settings,
) -> Upkeep | None:
    """Return the upkeep of what is shared. None: this edge is alone."""
    if shared is None or keys is None:
        return None
    return Upkeep(shared, keys, purges, downstreams, every_s=settings.cluster.lease_s)


def open_shared(settings: Settings, cache: Cache, metrics: Metrics) -> SharedStore | None:
    """Return the shared store, or None if none is configured. Raises ConfigError."""
    if settings.shared_store.url is None:
        return None
    objects = open_objects(settings.shared_store)
    object_max_bytes = settings.limits.source_bytes
    return SharedStore(objects, cache, settings.shared_store, object_max_bytes=object_max_bytes, metrics=metrics)
