"""This edge as a node of a cluster: what is made for it, and what it says of itself."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from imgproxy.background import Background
from imgproxy.cluster.engine import open_engine
from imgproxy.cluster.node import ClusterNode, Parts
from imgproxy.config.secrets import database_url
from imgproxy.delivery.share import Share
from imgproxy.telemetry import metric_table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from imgproxy.cache.cache import Cache
    from imgproxy.cluster.clock import Clock
    from imgproxy.cluster.engine import Engine
    from imgproxy.cluster.log import PurgeLog
    from imgproxy.config.settings import Settings
    from imgproxy.delivery.originals import Originals
    from imgproxy.failpoints import Failpoints
    from imgproxy.purge.answers import Answers
    from imgproxy.telemetry.metrics import Metrics

# A call of the database that takes longer than this share of a lease has failed.
TIMEOUT_SHARE = 0.6


class AnswersUnderWay:
    """The answers that are being sent, and the proofs that they need to go on while the node is fenced."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._proofs = Background("proof of a picture that is being sent")
        self._proving: set[str] = set()
        self.originals: Originals | None = None  # it is made later

    def key_hashes(self) -> Collection[str]:
        """The keys whose bytes are being sent."""
        return self._answers.key_hashes()

    def prove(self, key_hash: str) -> None:
        """Ask the origin about a key, in the background. Do nothing if it is being asked."""
        if key_hash not in self._proving and self.originals is not None:
            self._proving.add(key_hash)
            self._proofs.begin(self._prove, key_hash, self.originals)

    async def _prove(self, key_hash: str, originals: Originals) -> None:
        try:
            await originals.prove(key_hash)
        finally:
            self._proving.discard(key_hash)

    def cut_unless(self, may_go_on: Callable[[str], bool]) -> int:
        """Cut the answers that hold bytes of a key that may not go on."""
        return self._answers.cut_unless(may_go_on)

    async def close(self) -> None:
        """Cancel the proofs under way."""
        await self._proofs.close()


def node_name(settings: Settings) -> str:
    """Return the name of this node: the configured one, or that of the host."""
    return settings.cluster.node or platform.node() or "edge"


def engine_of(settings: Settings, run: str) -> Engine | None:
    """
    Return the engine of the configured database, without a connection. None: this edge is alone.

    `run` is the name of this run of the edge. Raises ConfigError.
    """
    url = database_url(settings.cluster)
    if url is None:
        return None
    timeout_s = settings.cluster.lease_s * TIMEOUT_SHARE
    return open_engine(url, node=node_name(settings), run=run, timeout_s=timeout_s)


def make_node(
    purge_log: PurgeLog,
    run: str,
    settings: Settings,
    cache: Cache,
    *,
    answers: Answers,
    under_way: AnswersUnderWay,
    failpoints: Failpoints,
    metrics: Metrics,
    clock: Clock | None,
    on_keys: Callable[[str, Sequence[str]], None],
) -> ClusterNode:
    """Make the node, and the gauges of its state."""
    drain_s = settings.purge.drain_s

    async def drain(hashes: Collection[str] | None) -> None:
        await (answers.drain_all(drain_s) if hashes is None else answers.drain(hashes, drain_s))

    parts = Parts(cache, drain, under_way, failpoints, settings.freshness.revalidate_after_s + 1, on_keys)
    node = ClusterNode(purge_log, settings.cluster, parts, name=node_name(settings), run=run, clock=clock)
    watch = metrics.watch
    watch(metric_table.CLUSTER_CURRENT, lambda: node.is_current)
    watch(metric_table.CLUSTER_LAG_LINES, lambda: node.lag_lines)
    watch(metric_table.CLUSTER_RENEWALS, lambda: node.renewals)
    watch(metric_table.CLUSTER_FENCED, lambda: node.fenced_s)
    watch(metric_table.CLUSTER_MEMBERS, lambda: node.members)
    watch(metric_table.CLUSTER_PURGES_WAITING, lambda: node.waiting)
    return node


def turns_of_fetches(node: ClusterNode | None, fetches_max: int) -> Share | None:
    """Return the turns of fetches of a node that takes only its share while it is fenced. None: it always takes all."""
    if node is None or not node.is_proving:
        return None
    return Share(lambda: fetches_max if node.is_current else node.share_of(fetches_max))


def readiness_json(node: ClusterNode, settings: Settings) -> dict[str, Any]:
    """
    Return what `/-/ready` says of a node.

    A fenced node stays in the balancer: it serves what the origin proves. If the database is down, all nodes are
    fenced, and would leave together.
    """
    found: dict[str, Any] = {"fenced": not node.is_current, "why": node.cause}
    if node.namesake:
        found["warning"] = "another node has the same name"
    if not node.is_proving:
        # A node that serves unproved pictures notices a takedown at the next revalidation at the latest.
        bound_s = settings.freshness.revalidate_after_s
        found["unproved_for_s"] = bound_s if found["fenced"] else 0
    return found


def status_json(node: ClusterNode, settings: Settings) -> dict[str, Any]:
    """Return what `/-/status` says of a node and of the others."""
    return {
        **readiness_json(node, settings),
        "name": node.name,
        "when_fenced": settings.cluster.when_fenced,
        "lag_lines": node.lag_lines,
        "fenced_s": round(node.fenced_s, 1),
        "purges_waiting": node.waiting,
        "database": node.outage.as_json(),
        "nodes": node.nodes_json(),
    }
