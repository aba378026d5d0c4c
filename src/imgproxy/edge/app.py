"""
The edge: composes HTTP around the parts of the service, starts them, and ends them.

Start: cache (the journal is replayed) -> the node joins its cluster -> render processes -> purges left over -> the port
opens.
End: not ready -> the port closes -> requests under way finish -> the parts are closed in reverse order.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Self

from imgproxy.config.secrets import secret_lines, signing_tokens, webhook_secrets
from imgproxy.edge import sharing
from imgproxy.edge.access import AccessLog
from imgproxy.edge.admin import AdminRoutes
from imgproxy.edge.cluster import readiness_json, status_json
from imgproxy.edge.connections import Limits
from imgproxy.edge.descriptors import Descriptors, limit_of_process
from imgproxy.edge.fast.refusals import FastRefusals
from imgproxy.edge.fast.server import FastPath
from imgproxy.edge.handler import HOST, Handler
from imgproxy.edge.images import ImageRoute
from imgproxy.edge.loop_delay import LoopDelay
from imgproxy.edge.pages import Pages
from imgproxy.edge.parts import Parts
from imgproxy.edge.playground import Playground, PlaygroundParts
from imgproxy.edge.respond import Responder
from imgproxy.edge.server import Server
from imgproxy.edge.state import ServiceState, watch_process
from imgproxy.edge.waiters import Waiters
from imgproxy.failpoints import Failpoints
from imgproxy.purge.webhooks import Webhooks
from imgproxy.workers.process import RenderProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from imgproxy.cluster.clock import Clock
    from imgproxy.cluster.log import PurgeLog
    from imgproxy.config.settings import Settings
    from imgproxy.telemetry.logs import LineHandler

log = logging.getLogger(__name__)


class Edge(Parts):
    """
    The service. `async with Edge(settings) as edge:` serves at `edge.url` until the block ends.

    `lines` is the handler of all log lines, if it is ours. `playground` has the files of the page at `/-/playground`;
    None for no such page. The other arguments are those of Parts.
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
        process_class: type[RenderProcess] = RenderProcess,
    ) -> None:
        super().__init__(
            settings,
            failpoints,
            admission_clock=admission_clock,
            purge_log=purge_log,
            cluster_clock=cluster_clock,
            process_class=process_class,
        )
        self.pages = Pages(has_playground=playground is not None)
        self._lines = lines
        self._compose_http(settings, failpoints or Failpoints(), self._compose_admin(settings, playground))
        self._stack = AsyncExitStack()

    # --- composition, continued: HTTP around the parts ---

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
            origin=settings.origin.url,
            metrics=self.metrics,
            cluster=None if self.node is None else partial(status_json, self.node, settings),
            readiness=None if self.node is None else partial(readiness_json, self.node, settings),
            shared_store=None if self.shared is None else self.shared.as_json,
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
            manifest_link=None if self.credentials_service is None else self.credentials_service.link,
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
        self.access = AccessLog(settings, self._lines)
        watch_process(self.metrics, self._lines, self.descriptors)
        self.limits = Limits(settings.server, self.descriptors, self.metrics)
        handler = Handler(self.images, admin, self.access, settings, self.metrics, pages=self.pages)
        path = FastPath(
            memo=self.memo,
            refusals=FastRefusals(self.images, self.delivery, self.admission, settings),
            answers=self.answers,
            tally=self.metrics.tally,
            access=self.access,
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
        if self.credentials_service is not None and self.credentials is not None:
            closing(self.credentials_service.close)  # before it starts: it may fail with one process running
            await self.credentials_service.start()
            closing(self.credentials.close)
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
        for watched in (self.limits, LoopDelay(self.metrics.loop_delay_s.observe)):
            watched.start()
            closing(watched.close)
        await self.server.start()
        self.cache.housekeeping.start()
        log.info("listening on %s, libvips %s", self.url, self.pool.libvips_version)

    async def stop(self) -> None:
        """Be not ready for `shutdown_delay_s`, close the port, finish requests, then close all parts."""
        self.state.is_draining = True
        await self.server.leave()
        await self.server.stop()
        await self._stack.aclose()

    @property
    def url(self) -> str:
        """The URL of the edge, with the port that it got."""
        return self.server.url
