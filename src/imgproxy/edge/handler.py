"""The handler of all requests: route by path, then count and log."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from aiohttp import web

from imgproxy.delivery.request import Outcome
from imgproxy.edge.admin import AdminRoutes
from imgproxy.edge.problems import problem_response
from imgproxy.edge.respond import Served
from imgproxy.errors import ImgproxyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.config.sections import FreshnessSettings
    from imgproxy.edge.access import AccessLog
    from imgproxy.edge.images import ImageRoute
    from imgproxy.metrics import Metrics

log = logging.getLogger(__name__)

# There are a few dozen pairs of an outcome and a status.
COUNTERS_MAX = 128


class Handler:
    """Handles requests that the fast path did not answer."""

    def __init__(
        self,
        images: ImageRoute,
        admin: AdminRoutes,
        access: AccessLog,
        freshness: FreshnessSettings,
        metrics: Metrics,
    ) -> None:
        self._images = images
        self._admin = admin
        self._access = access
        self._freshness = freshness
        self._metrics = metrics
        # A look-up of a counter by its labels takes longer than counting.
        self._counters = lru_cache(COUNTERS_MAX)(self._counters_of)
        self._admin_work: set[asyncio.Future[web.StreamResponse]] = set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request: an admin request by its method or path; every other one is for an image."""
        target = origin_form(request.raw_path)
        started_s = time.perf_counter()
        if request.method == "PURGE" or AdminRoutes.covers(target.split("?", 1)[0]):
            # An admin request goes on if its client leaves.
            work = asyncio.ensure_future(self._handle_admin(request, target, started_s))
            self._admin_work.add(work)
            work.add_done_callback(self._admin_work.discard)
            return await asyncio.shield(work)
        self._metrics.in_flight.inc()
        try:
            served = await self._images.handle(request, target)
        except (asyncio.CancelledError, ConnectionError):
            left = Served(web.Response(status=499), Outcome.ERROR, code="client_left")
            self._access.write(request, target, started_s, left)
            raise
        except Exception:
            log.exception("an image request failed")
            served = self._failed()
        finally:
            self._metrics.in_flight.dec()
        self._count(served, started_s)
        self._access.write(request, target, started_s, served)
        return served.response

    async def _handle_admin(self, request: web.BaseRequest, target: str, started_s: float) -> web.StreamResponse:
        try:
            if request.method == "PURGE" and not AdminRoutes.covers(target.split("?", 1)[0]):
                response = await self._admin.purge_key(request, target)
            else:
                response = await self._admin.handle(request, target)
            served = Served(response, Outcome.PASS)
        except ImgproxyError as error:
            response = problem_response(error, freshness=self._freshness)
            response.headers["Cache-Control"] = "no-store"
            served = Served(response, Outcome.PASS, code=error.code)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            log.exception("an admin request failed")
            served = self._failed()
        if not request.content.is_eof():
            # The rest of the body is read and thrown away for a while, then the connection is closed (RFC 9112 9.6).
            served.response.force_close()
        self._access.write(request, target, started_s, served)
        return served.response

    def refuse_unreadable(self, request: web.BaseRequest, error: ImgproxyError) -> web.StreamResponse:
        """Answer bytes that could not be read as a request. Count and log them."""
        served = Served(problem_response(error, freshness=self._freshness), Outcome.ERROR, code=error.code)
        started_s = time.perf_counter()
        self._count(served, started_s)
        self._access.write(request, "-", started_s, served)
        return served.response

    def _failed(self) -> Served:
        response = problem_response(ImgproxyError(), freshness=self._freshness)
        return Served(response, Outcome.ERROR, code=ImgproxyError.code)

    def _count(self, served: Served, started_s: float) -> None:
        count_request, observe_s = self._counters(served.outcome, served.response.status)
        count_request()
        observe_s(time.perf_counter() - started_s)
        self._metrics.sent_bytes.inc(served.sent_bytes)

    def _counters_of(self, outcome: Outcome, status: int) -> tuple[Callable[[], None], Callable[[float], None]]:
        metrics = self._metrics
        return metrics.requests.labels(outcome, str(status)).inc, metrics.request_duration_s.labels(outcome).observe


def origin_form(raw_target: str) -> str:
    """Return path and query of a request target. An absolute-form target (RFC 9112 3.2.2) loses scheme and host."""
    if raw_target.startswith("/"):
        return raw_target
    _, separator, rest = raw_target.partition("://")
    if not separator:
        return raw_target
    authority = re.match(r"[^/?#]*", rest)
    path = rest[authority.end() :] if authority else ""
    return path if path.startswith("/") else f"/{path}"
