"""
The edge: every part of the service put together, its start and its end, and the one handler of all requests.

Start: cache (the journal is replayed) -> render processes -> purges left over -> the port opens.
End: the port closes -> requests in flight finish -> the rest stops in reverse.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from imgproxy import __version__, logs
from imgproxy.background import Background
from imgproxy.cache.cache import Cache
from imgproxy.cache.purge_event import PurgeEvent
from imgproxy.cache.staging import Landings, enough_landings
from imgproxy.config.load import Settings, secret_lines, signing_tokens, webhook_secrets
from imgproxy.delivery.delivery import Delivery, Outcome
from imgproxy.delivery.origin_health import OriginHealth
from imgproxy.delivery.originals import Originals
from imgproxy.delivery.variants import Renders
from imgproxy.delivery.warming import Warming
from imgproxy.edge.admin import AdminRoutes
from imgproxy.edge.fast import server as fastpath
from imgproxy.edge.fast.memo import AnswerMemo, memo_bytes
from imgproxy.edge.fast.refusals import TurningAway
from imgproxy.edge.images import ImageRoute, Served
from imgproxy.edge.problems import problem_response
from imgproxy.edge.state import ServiceState
from imgproxy.errors import ImgproxyError, Overloaded
from imgproxy.failpoints import Failpoints
from imgproxy.medialibrary import MediaLibraryClient, TokenSource
from imgproxy.metrics import Counting, Metrics
from imgproxy.purge.answers import Answers
from imgproxy.purge.downstream.targets import Downstreams
from imgproxy.purge.entry_keys import EntryKeys
from imgproxy.purge.service import PurgeService
from imgproxy.purge.webhooks import Webhooks
from imgproxy.workers.capacity import usable_cores
from imgproxy.workers.pool import RenderPool

if TYPE_CHECKING:
    from types import TracebackType

    from imgproxy.config.sections import OriginSettings

log = logging.getLogger(__name__)
access_log = logging.getLogger("imgproxy.access")

# Pairs of an outcome and a status are a few dozen.
COUNTERS_MAX = 128
# No entry has this id; asking for it needs the token and names no picture.
PROBE_ENTRY = "imgproxy-probe"


def library_client(settings: OriginSettings) -> MediaLibraryClient:
    """
    The client of the configured Media Library.

    Raises:
        ConfigError: the token's file cannot be read.
    """
    if settings.token_file is not None:
        secret_lines(None, settings.token_file, name="[origin] token_file")
        token = TokenSource.file(settings.token_file)
    else:
        token = TokenSource.literal(settings.token.get_secret_value()) if settings.token else TokenSource.none()
    return MediaLibraryClient(settings.url, token=token, api_version=settings.api_version, timeout_s=settings.timeout_s)


class Edge:
    """The service. `async with Edge(settings) as edge:` serves at `edge.url` until the block ends."""

    def __init__(self, settings: Settings, *, failpoints: Failpoints | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        failpoints = failpoints or Failpoints()
        self.answers = Answers()
        self.cache = Cache(settings.cache, purged=PurgeEvent())
        self.library = library_client(settings.origin)
        self.health = OriginHealth(lambda: self.library.get_entries(ids=(PROBE_ENTRY,)))
        self.landings = Landings(
            enough_landings(settings.render.processes or usable_cores()), settings.cache.landing_bytes
        )
        self.originals = Originals(
            self.cache,
            self.library,
            self.health,
            freshness=settings.freshness,
            limits=settings.limits,
            metrics=self.metrics,
            failpoints=failpoints,
            fetches_max=settings.origin.fetches_max,
            fetch_queue_max=settings.origin.fetch_queue_max,
            landings=self.landings,
        )
        self.pool = RenderPool(
            settings.render,
            settings.limits,
            observer=RenderObserver(self.metrics),
            inherited=self.landings.descriptors,
        )
        self.renders = Renders(
            self.cache,
            self.originals,
            self.pool,
            self.metrics,
            failpoints,
            refusal_ttl_s=settings.freshness.error_ttl_s,
        )
        self.delivery = Delivery(self.cache, self.originals, self.renders, self.metrics, failpoints)
        self.entries = EntryKeys(self.cache, self.library)
        self.downstreams = Downstreams(
            settings.downstream,
            self.cache.journal,
            purge=settings.purge,
            freshness=settings.freshness,
            metrics=self.metrics,
        )
        self.purges = PurgeService(
            self.cache,
            self.entries,
            self.originals,
            self.answers,
            settings=settings.purge,
            freshness=settings.freshness,
            metrics=self.metrics,
            downstream=self.downstreams,
        )
        self.originals.purge_with(self.purges.purge_keys)
        self.entries.purge_with(self.purges.purge_keys)
        self.warming = Warming(settings, self.cache, self.originals, self.renders)
        self.background = Background("edge")
        self.webhooks = Webhooks(
            webhook_secrets(settings.webhook),
            self.purges,
            self.entries,
            self.cache.journal,
            self.metrics,
            created=self._warm_created,
        )
        self.state = ServiceState(
            self.cache,
            originals=self.originals,
            renders=self.renders,
            pool=self.pool,
            purges=self.purges,
            downstreams=self.downstreams,
            health=self.health,
            metrics=self.metrics,
        )
        self.admin = AdminRoutes(
            settings,
            admin_tokens=secret_lines(settings.admin.token, settings.admin.token_file, name="[admin] token_file"),
            purges=self.purges,
            webhooks=self.webhooks,
            entries=self.entries,
            warming=self.warming,
            state=self.state,
            metrics=self.metrics,
        )
        self.memo = AnswerMemo(self.cache, memo_bytes(settings.cache.hot_max_bytes))
        self.entries.watch(self.memo.forget)
        self.images = ImageRoute(
            settings,
            signing_tokens=signing_tokens(settings.signing),
            delivery=self.delivery,
            originals=self.originals,
            answers=self.answers,
            metrics=self.metrics,
            failpoints=failpoints,
            memo=self.memo,
            entry_of=self.entries.entry_of,
            has_downstream=bool(settings.downstream),
        )
        # To look a counter up by its labels takes longer than to count.
        self._counters = lru_cache(COUNTERS_MAX)(self._counters_of)
        self._admin_work: set[asyncio.Future[web.StreamResponse]] = set()
        self._stack = AsyncExitStack()
        self._runner: web.ServerRunner | None = None

    # --- life --------------------------------------------------------------------------------------------------

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
        self._stack.callback(self.landings.close)
        self._stack.push_async_callback(self.library.aclose)
        await self.cache.start(is_housekeeping=False)
        self._stack.push_async_callback(self.cache.close)
        await self.pool.start()
        self._stack.push_async_callback(self.pool.close, 0.0)
        await self.entries.start()
        await self.downstreams.start(is_outbox_lost=self.cache.is_journal_damaged)
        self._stack.push_async_callback(self.downstreams.close)
        await self.purges.start()
        self._stack.push_async_callback(self.purges.close)
        self._stack.push_async_callback(self.originals.close)
        self._stack.push_async_callback(self.background.close)
        self._stack.push_async_callback(self.renders.close)
        self._stack.push_async_callback(self.delivery.background.close)
        self.metrics.build.info({"version": __version__, "libvips": self.pool.libvips_version})
        self._runner = web.ServerRunner(
            self._server(),
            shutdown_timeout=self.settings.server.shutdown_timeout_s,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.settings.server.host, self.settings.server.port, backlog=1024)
        await site.start()
        self.cache.housekeeping.start()
        log.info("listening on %s, libvips %s", self.url, self.pool.libvips_version)

    def _server(self) -> web.Server:
        """The server, with the fast path where this aiohttp allows it."""
        options: dict[str, Any] = {
            "access_log": None,
            "max_line_size": 64 * 1024,
            "max_field_size": 32 * 1024,
            "auto_decompress": False,  # a webhook's signature is over the bytes as they came
            "handler_cancellation": True,  # who leaves gives up what nobody else waits for
        }
        if not fastpath.is_supported():
            log.warning("this version of aiohttp has no place for the fast path; hits go the usual way")
            return web.Server(self._handle, **options)
        turning_away = TurningAway(self.images, self.delivery, self.memo, self.settings.freshness)
        loggers = {"all": self._log_quick, "misses": self._log_quick_error, "errors": self._log_quick_error}
        on_answer = loggers.get(self.settings.log.access)
        server = fastpath.FastServer(
            self._handle, self.memo, turning_away, self.metrics.tally, on_answer, self._on_bad_request, **options
        )
        self.answers.ask_for_late(server.unfinished)
        return server

    async def stop(self) -> None:
        """Stop accepting, finish what is in flight within `shutdown_timeout_s`, close everything."""
        self.state.is_draining = True
        if self._runner is not None:
            await self._finish_connections(self._runner)
            self._runner = None
        await self._stack.aclose()

    async def _finish_connections(self, runner: web.ServerRunner) -> None:
        """
        Let requests in flight finish until the deadline, then end their connections.

        aiohttp's own deadline is taken twice: once for the handler, and once more for its cancellation.
        """
        server = runner.server
        if isinstance(server, fastpath.FastServer):
            server.is_draining = True
        cleanup = asyncio.ensure_future(runner.cleanup())
        await asyncio.wait((cleanup,), timeout=self.settings.server.shutdown_timeout_s)
        if not cleanup.done() and server is not None:
            log.warning("shutdown_timeout_s is over: %d connections are closed", len(server.connections))
            for connection in server.connections:
                connection.force_close()
                if connection.transport is not None:
                    connection.transport.abort()
        await cleanup

    @property
    def url(self) -> str:
        """Where the edge listens, with the port it really got."""
        assert self._runner is not None, "the edge is started"
        host, port = self._runner.addresses[0][:2]
        host = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 for display, nothing binds here
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def _warm_created(self, entry: str, keys: tuple[str, ...]) -> None:
        """A picture was created: make its variants now, where that is wanted."""
        if self.warming.is_on_create:
            log.info("warming new entry %s", entry)
            self.background.begin(self._warm, keys)

    async def _warm(self, keys: tuple[str, ...]) -> None:
        await self.warming.warm(keys)

    # --- requests ----------------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Every request: admin routes by their path, everything else is an image."""
        target = origin_form(request.raw_path)
        started_s = time.perf_counter()
        if request.method == "PURGE" or AdminRoutes.covers(target.split("?", 1)[0]):
            # What an operator or a webhook asked for goes on when they hang up.
            work = asyncio.ensure_future(self._handle_admin(request, target, started_s))
            self._admin_work.add(work)
            work.add_done_callback(self._admin_work.discard)
            return await asyncio.shield(work)
        self.metrics.in_flight.inc()
        try:
            served = await self.images.handle(request, target)
        except (asyncio.CancelledError, ConnectionError):
            self._log(request, target, 499, started_s, Served(web.Response(), Outcome.ERROR, code="client_left"))
            raise
        except Exception:
            log.exception("an image request failed")
            response = problem_response(ImgproxyError(), freshness=self.settings.freshness)
            served = Served(response, Outcome.ERROR, 0, ImgproxyError.code)
        finally:
            self.metrics.in_flight.dec()
        self._count(served, started_s)
        self._log(request, target, served.response.status, started_s, served)
        return served.response

    async def _handle_admin(self, request: web.BaseRequest, target: str, started_s: float) -> web.StreamResponse:
        code = None
        try:
            if request.method == "PURGE" and not AdminRoutes.covers(target.split("?", 1)[0]):
                response = await self.admin.purge_key(request, target)
            else:
                response = await self.admin.handle(request, target)
        except ImgproxyError as error:
            code = error.code
            response = problem_response(error, freshness=self.settings.freshness)
            response.headers["Cache-Control"] = "no-store"
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            log.exception("an admin request failed")
            code = ImgproxyError.code
            response = problem_response(ImgproxyError(), freshness=self.settings.freshness)
        self._log(request, target, response.status, started_s, Served(response, Outcome.PASS, code=code))
        return response

    def _on_bad_request(self, request: web.BaseRequest, error: ImgproxyError) -> web.StreamResponse:
        """Answer, count and log what could not be read as a request."""
        response = problem_response(error, freshness=self.settings.freshness)
        served = Served(response, Outcome.ERROR, 0, error.code)
        self._count(served, time.perf_counter())
        self._log(request, "-", response.status, time.perf_counter(), served)
        return response

    def _log_quick_error(self, connection: fastpath.FastHandler, target: str, status: int, sent_bytes: int) -> None:
        """Log an answer of the fast path that is no hit."""
        if status >= 400:
            self._log_quick(connection, target, status, sent_bytes)

    def _log_quick(self, connection: fastpath.FastHandler, target: str, status: int, sent_bytes: int) -> None:
        """Log an answer of the fast path."""
        peer = connection.peername
        is_shed = status == Overloaded.status
        facts: dict[str, object] = {
            "method": "GET",
            "target": target,
            "status": status,
            "outcome": str(Outcome.ERROR if is_shed else Outcome.HIT),
            "bytes": 0 if is_shed else sent_bytes,
            "client": peer[0] if peer else None,
        }
        if is_shed:
            facts["code"] = Overloaded.code
        logs.access(access_log, "GET %s %d", (target, status), facts)

    def _count(self, served: Served, started_s: float) -> None:
        count_request, observe_s = self._counters(served.outcome, served.response.status)
        note = self.metrics.tally.note
        note(count_request)
        note(observe_s, time.perf_counter() - started_s)
        note(self.metrics.sent_bytes.inc, served.sent_bytes)

    def _counters_of(self, outcome: Outcome, status: int) -> Counting:
        metrics = self.metrics
        return metrics.requests.labels(outcome, str(status)).inc, metrics.request_duration_s.labels(outcome).observe

    def _log(self, request: web.BaseRequest, target: str, status: int, started_s: float, served: Served) -> None:
        wanted = self.settings.log.access
        if wanted == "none" or (wanted == "errors" and status < 400):
            return
        facts: dict[str, object] = {
            "method": request.method,
            "target": target,
            "status": status,
            "outcome": str(served.outcome),
            "ms": round((time.perf_counter() - started_s) * 1000, 2),
            "bytes": served.sent_bytes,
            "client": request.remote,
        }
        if served.code is not None:
            facts["code"] = served.code
        logs.access(access_log, "%s %s %d", (request.method, target, status), facts)


class RenderObserver:
    """Puts what the render pool tells into the metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # As above: lanes are four, outcomes a dozen.
        self._renders = lru_cache(COUNTERS_MAX)(metrics.renders.labels)
        self._peak_bytes = 0

    def job_ended(self, lane: str, outcome: str, *, queue_s: float, render_s: float, peak_bytes: int) -> None:
        """Count a job."""
        del queue_s, render_s
        self._metrics.tally.note(self._renders(lane, outcome).inc)
        if peak_bytes > self._peak_bytes:
            self._peak_bytes = peak_bytes
            self._metrics.render_peak_bytes.set(peak_bytes)

    def process_ended(self, reason: str) -> None:
        """Count a process that ended."""
        self._metrics.render_process_ends.labels(reason=reason).inc()


def origin_form(raw_target: str) -> str:
    """Path and query of a request target; an absolute-form target (RFC 9112 3.2.2) loses scheme and host."""
    if raw_target.startswith("/"):
        return raw_target
    _, separator, rest = raw_target.partition("://")
    if not separator:
        return raw_target
    authority = re.match(r"[^/?#]*", rest)
    path = rest[authority.end() :] if authority else ""
    return path if path.startswith("/") else f"/{path}"
