"""
The edge: makes all parts of the service, starts them, and ends them.

Start: cache (the journal is replayed) -> the node joins its cluster -> render processes -> purges left over -> the port
opens.
End: not ready -> the port closes -> requests under way finish -> the parts are closed in reverse order.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Self

from imgproxy import __version__
from imgproxy.admission.policy import Admission
from imgproxy.cache.cache import Cache
from imgproxy.cache.purge_event import PurgeEvent
from imgproxy.config.secrets import secret_lines, signing_tokens, webhook_secrets
from imgproxy.delivery.batching import Batches
from imgproxy.delivery.delivery import Delivery
from imgproxy.delivery.fallback import Fallback
from imgproxy.delivery.fetching import Fetching
from imgproxy.delivery.origin_health import OriginHealth
from imgproxy.delivery.originals import Originals
from imgproxy.delivery.refusals import Refusals
from imgproxy.delivery.settling import Settling
from imgproxy.delivery.variants import Variants
from imgproxy.delivery.warming import Warming
from imgproxy.edge import sharing
from imgproxy.edge.access import AccessLog
from imgproxy.edge.admin import AdminRoutes
from imgproxy.edge.cluster import AnswersUnderWay, engine_of, make_node, readiness_json, status_json, turns_of_fetches
from imgproxy.edge.connections import Limits
from imgproxy.edge.descriptors import Descriptors, limit_of_process
from imgproxy.edge.fast.memo import AnswerMemo, memo_bytes
from imgproxy.edge.fast.refusals import FastRefusals
from imgproxy.edge.fast.server import FastPath
from imgproxy.edge.handler import HOST, Handler
from imgproxy.edge.images import ImageRoute
from imgproxy.edge.origin import library_client, probe
from imgproxy.edge.pages import Pages
from imgproxy.edge.playground import Playground, PlaygroundParts
from imgproxy.edge.respond import Responder
from imgproxy.edge.server import Server
from imgproxy.edge.state import ServiceState, watch_process
from imgproxy.edge.waiters import Waiters
from imgproxy.failpoints import Failpoints
from imgproxy.metrics import Metrics
from imgproxy.purge.answers import Answers
from imgproxy.purge.downstream.targets import Downstreams
from imgproxy.purge.entry_keys import EntryKeys
from imgproxy.purge.service import PurgeService
from imgproxy.purge.updates import Updates
from imgproxy.purge.webhooks import Webhooks
from imgproxy.workers.extras import find_detector
from imgproxy.workers.pool import RenderPool

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from imgproxy.cluster.clock import Clock
    from imgproxy.cluster.log import PurgeLog
    from imgproxy.config.settings import Settings
    from imgproxy.logs import LineHandler

log = logging.getLogger(__name__)


class Edge:
    """
    The service. `async with Edge(settings) as edge:` serves at `edge.url` until the block ends.

    `lines` is the handler of all log lines, if it is ours. `playground` has the files of the page at `/-/playground`;
    None for no such page. `admission_clock`, `purge_log` (of the cluster) and `cluster_clock` (of its leases) replace
    the usual ones.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        failpoints: Failpoints | None = None,
        lines: LineHandler | None = None,
        admission_clock: Callable[[], float] | None = None,
        playground: PlaygroundParts | None = None,
        purge_log: PurgeLog | None = None,
        cluster_clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self.pages = Pages(has_playground=playground is not None)
        self._lines = lines
        self.metrics = Metrics()
        failpoints = failpoints or Failpoints()
        refusals = Refusals()
        self.run = secrets.token_hex(8)
        # What the nodes of a cluster share besides the log is in here, too.
        self.engine = engine_of(settings, self.run) if purge_log is None else None
        if self.engine is not None:
            purge_log = self.engine.log
        self._compose_storage_and_purge(settings, failpoints, purge_log, cluster_clock)
        self._compose_originals(settings, failpoints, refusals, admission_clock)
        self._compose_delivery(settings, failpoints, refusals)
        self._compose_http(settings, failpoints, self._compose_admin(settings, playground))
        self._stack = AsyncExitStack()

    # --- composition: each part is given those before it ---

    def _compose_storage_and_purge(
        self, settings: Settings, failpoints: Failpoints, purge_log: PurgeLog | None, cluster_clock: Clock | None
    ) -> None:
        self.cache = Cache(settings.cache, purged=PurgeEvent())
        self.shared = sharing.open_shared(settings, self.cache, self.metrics)
        self.library = library_client(settings.origin)
        self.memo = AnswerMemo(self.cache, memo_bytes(settings.cache.hot_max_bytes))
        shared_keys = sharing.shared_keys_of(self.engine, self.cache)
        self.entries = EntryKeys(self.cache, self.library, on_known=self.memo.forget, shared=shared_keys)
        self.answers = Answers(self.cache.purged, self.cache.purged_all)
        self.under_way = AnswersUnderWay(self.answers)
        self.node = None
        if purge_log is not None:
            self.node = make_node(
                purge_log,
                self.run,
                settings,
                self.cache,
                answers=self.answers,
                under_way=self.under_way,
                failpoints=failpoints,
                metrics=self.metrics,
                clock=cluster_clock,
                on_keys=self.entries.note,
            )
        self.cluster_facts = sharing.shared_by(self.engine, self.node)
        # None: the edge is alone, or serves what it has while it is cut off.
        self.fence = self.node.fence if self.node is not None and self.node.is_proving else None
        self.downstreams = Downstreams(
            settings.downstream,
            self.cache.journal,
            purge=settings.purge,
            freshness=settings.freshness,
            metrics=self.metrics,
            cluster=settings.cluster if self.node is not None else None,
            cluster_facts=self.cluster_facts,
            shared=self.shared,
        )
        self.purges = PurgeService(
            self.cache,
            self.entries,
            self.answers,
            settings=settings.purge,
            freshness=settings.freshness,
            metrics=self.metrics,
            downstream=self.downstreams,
            nodes=self.node,
            nodes_wait_s=settings.cluster.wait_s,
            shared=self.cluster_facts,
        )
        self.upkeep = sharing.upkeep_of(self.cluster_facts, shared_keys, self.purges, self.downstreams, settings)

    def _compose_originals(
        self,
        settings: Settings,
        failpoints: Failpoints,
        refusals: Refusals,
        admission_clock: Callable[[], float] | None,
    ) -> None:
        self.health = OriginHealth(lambda: probe(self.library))
        self.detector = find_detector()
        face_model = self.detector.model if self.detector is not None else ""
        self.pool = RenderPool(settings.render, settings.limits, observer=self.metrics, face_model=face_model)
        self.admission = Admission(
            settings.render,
            self.pool.processes,
            on_refused=lambda rule: self.metrics.refused.labels(rule=rule).inc(),
            now=admission_clock,
            fetch_queue_max=settings.origin.fetch_queue_max,
        )
        self.known = sharing.known_originals_of(self.cluster_facts, self.cache, self.entries, settings)
        fetching = Fetching(
            self.cache,
            self.library,
            self.health,
            refusals,
            purge=self.purges.purge_found,
            admission=self.admission,
            source_max_bytes=settings.limits.source_bytes,
            negative_ttl_s=settings.freshness.negative_ttl_s,
            metrics=self.metrics,
            failpoints=failpoints,
            fetches_max=settings.origin.fetches_max,
            shared=self.shared,
            fence=self.fence,
            turns=turns_of_fetches(self.node, settings.origin.fetches_max),
            on_proved=self.known.note,
        )
        self.originals = Originals(
            self.cache,
            fetching,
            refusals,
            freshness=settings.freshness,
            shared=self.shared,
            fence=self.fence,
        )
        self.under_way.originals = self.originals
        self.updates = Updates(
            self.cache,
            self.entries,
            self.purges,
            self.originals,
            known=self.known,
            downstream=self.downstreams,
            settings=settings.purge,
            freshness=settings.freshness,
            metrics=self.metrics,
        )
        self.settling = Settling(
            self.cache,
            self.originals,
            settle_s=settings.freshness.settle_s,
            retry_max_s=settings.purge.retry_max_s,
        )

    def _compose_delivery(self, settings: Settings, failpoints: Failpoints, refusals: Refusals) -> None:
        fallback = Fallback(self.cache)
        self.variants = Variants(
            self.cache,
            self.originals,
            Batches(self.cache.store, self.pool, self.admission),
            fallback=fallback,
            refusals=refusals,
            metrics=self.metrics,
            failpoints=failpoints,
            refusal_ttl_s=settings.freshness.error_ttl_s,
            shared=self.shared,
        )
        self.delivery = Delivery(
            self.cache,
            self.originals,
            self.variants,
            fallback=fallback,
            admission=self.admission,
            metrics=self.metrics,
            failpoints=failpoints,
            fence=self.fence,
        )
        self.warming = Warming(
            self.cache,
            self.originals,
            self.variants,
            warm=settings.warm,
            url=settings.url,
            render=settings.render,
            finds_faces=self.detector is not None,
        )

    def _compose_admin(self, settings: Settings, playground: PlaygroundParts | None) -> AdminRoutes:
        self.webhooks = Webhooks(
            webhook_secrets(settings.webhook),
            self.purges,
            self.updates,
            sharing.deliveries_of(self.cluster_facts, self.cache, settings),
            self.metrics,
            created=self.warming.warm_created,
        )
        self.state = ServiceState(
            self.cache,
            originals=self.originals,
            variants=self.variants,
            pool=self.pool,
            admission=self.admission,
            purges=self.purges,
            settling=self.settling,
            downstreams=self.downstreams,
            health=self.health,
            metrics=self.metrics,
            cluster=None if self.node is None else partial(status_json, self.node, settings),
            readiness=None if self.node is None else partial(readiness_json, self.node, settings),
        )
        return AdminRoutes(
            settings,
            admin_tokens=secret_lines(settings.admin.token, settings.admin.token_file, name="[admin] token_file"),
            purges=self.purges,
            webhooks=self.webhooks,
            warming=self.warming,
            state=self.state,
            metrics=self.metrics,
            more={} if playground is None else Playground(playground, settings, self.entries, self.detector).routes(),
        )

    def _compose_http(self, settings: Settings, failpoints: Failpoints, admin: AdminRoutes) -> None:
        waiters = Waiters()
        self.descriptors = Descriptors(limit_of_process())
        responder = Responder(
            settings,
            self.answers,
            waiters,
            self.descriptors,
            metrics=self.metrics,
            failpoints=failpoints,
            entry_of=self.entries.entry_of,
            on_plain=self.memo.put,
        )
        self.images = ImageRoute(
            settings,
            signing_tokens=signing_tokens(settings.signing),
            delivery=self.delivery,
            originals=self.originals,
            responder=responder,
            waiters=waiters,
            metrics=self.metrics,
            finds_faces=self.detector is not None,
            shares_answers=self.fence.shares_answers if self.fence is not None else None,
        )
        self.access = AccessLog(settings.log, self._lines)
        watch_process(self.metrics, self._lines, self.descriptors)
        self.limits = Limits(settings.server, self.descriptors, self.metrics)
        handler = Handler(self.images, admin, self.access, settings, self.metrics, pages=self.pages)
        path = FastPath(
            memo=self.memo,
            refusals=FastRefusals(self.images, self.delivery, self.admission, settings),
            answers=self.answers,
            tally=self.metrics.tally,
            on_answer=self.access.write_fast if self.access.wants_errors else None,
            on_bad_request=handler.answer_unreadable,
            is_host=HOST.fullmatch,
        )
        if self.fence is not None:
            path = replace(path, lease=self.fence.lease, now_s=self.fence.now_s)
        self.server = Server(handler.handle, path, self.limits, settings.server)

    # --- life ---

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def _start(self) -> None:
        closing = self._stack.push_async_callback
        closing(self.library.aclose)
        await self.cache.start(is_housekeeping=False)
        closing(self.cache.close)
        if self.shared is not None:
            self.shared.start()
            closing(self.shared.close)
        if self.node is not None:
            if self.engine is not None:
                closing(self.engine.close)
            await self.node.start()
            closing(self.node.close)
        closing(self.under_way.close)
        await self.pool.start()
        closing(self.pool.close, 0.0)
        await self.entries.start()
        await self.downstreams.start(is_outbox_lost=self.cache.is_journal_damaged)
        closing(self.downstreams.close)
        await self.purges.start()
        closing(self.purges.close)
        if self.upkeep is not None:
            self.upkeep.start()
            closing(self.upkeep.close)
        closing(self.known.close)
        await self.settling.start()
        closing(self.settling.close)
        closing(self.originals.close)
        closing(self.warming.close)
        closing(self.variants.close)
        closing(self.delivery.background.close)
        self.metrics.build.info({"version": __version__, "libvips": self.pool.libvips_version})
        self.limits.start()
        closing(self.limits.close)
        await self.server.start()
        self.cache.housekeeping.start()
        log.info("listening on %s, libvips %s", self.url, self.pool.libvips_version)

    async def stop(self) -> None:
        """Be not ready for `shutdown_delay_s`, close the port, finish requests, then close all parts."""
        self.state.is_draining = True
        await asyncio.sleep(self.settings.server.shutdown_delay_s)
        await self.server.stop()
        await self._stack.aclose()

    @property
    def url(self) -> str:
        """The URL of the edge, with the port that it got."""
        return self.server.url
