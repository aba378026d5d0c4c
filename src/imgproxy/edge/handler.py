"""The handler of all requests: check what holds for each of them, route by path, then count and log."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import BadHttpMethod, BadStatusLine, LineTooLong

from imgproxy.delivery.request import Outcome
from imgproxy.edge.access import span_facts
from imgproxy.edge.errors import HeadersTooLarge, NotHttp, Unsupported, VersionNotSupported
from imgproxy.edge.exchange import Served
from imgproxy.edge.pages import PAGE_PATHS, Pages
from imgproxy.edge.problems import problem_response
from imgproxy.edge.request_ids import HEADER, REQUEST_ID
from imgproxy.errors import BadUrl, ImgproxyError, UriTooLong
from imgproxy.telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.config.settings import Settings
    from imgproxy.edge.access import AccessLog
    from imgproxy.edge.admin import AdminRoutes
    from imgproxy.edge.images import ImageRoute
    from imgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# There are a few dozen pairs of an outcome and a status.
COUNTERS_MAX = 128
# Every answer of an admin route is about this moment, and for the operator.
ADMIN_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
# Larger than any `url.max_url_chars`. The two differ, as the parser's error tells only the limit that was passed.
MAX_LINE_BYTES: Final = 128 * 1024
MAX_FIELD_BYTES: Final = 32 * 1024
# A name, an IPv4 or IPv6 address, and a port; nothing at all where the target has no host (RFC 9110 7.2).
HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(?::[0-9]*)?")
# The first line of a request, as it is in the text of a parser's error: on a line of its own, so found in linear time.
_FIRST_LINE: Final = re.compile(r"\n *b['\"]([!#$%&'*+.^_`|~0-9A-Za-z-]+) \S+ HTTP/(\d\.\d)\b")


class Handler:
    """Handles requests that the fast path did not answer."""

    def __init__(
        self,
        images: ImageRoute,
        admin: AdminRoutes,
        access: AccessLog,
        settings: Settings,
        metrics: Metrics,
        *,
        pages: Pages,
    ) -> None:
        self._images = images
        self._admin = admin
        self._pages = pages
        self._access = access
        self._settings = settings
        self._metrics = metrics
        # A look-up of a counter by its labels takes longer than counting.
        self._counters = lru_cache(COUNTERS_MAX)(self._counters_of)
        self._admin_work: set[asyncio.Future[web.StreamResponse]] = set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request: an admin request by its method or path, or one for a page; every other is for an image."""
        request[REQUEST_ID] = self._access.ids.of(request.headers)
        with traces.request(request.method, request.headers):
            return await self._handle(request)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            self._check(request)
            target = origin_form(request.raw_path)
        except ImgproxyError as error:
            return self._refuse(request, error)
        started_s = time.perf_counter()
        path = target.split("?", 1)[0]
        if path in PAGE_PATHS and request.method != "PURGE":
            return self._answer_page(request, target, path, started_s)
        if request.method == "PURGE" or is_admin(target):
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
            self._note(request, target, started_s, left)
            raise
        except Exception:
            log.exception("an image request failed")
            served = self._failed()
        finally:
            self._metrics.in_flight.dec()
        self._count(served, started_s)
        return self._end(request, target, started_s, served)

    def _answer_page(self, request: web.BaseRequest, target: str, path: str, started_s: float) -> web.StreamResponse:
        """Answer a request for a page. It is logged, and not counted: it is neither an image nor a purge."""
        try:
            served = Served(self._pages.answer(request, path), Outcome.PASS)
        except ImgproxyError as error:
            served = Served(problem_response(error, self._settings), Outcome.PASS, code=error.code)
        return self._end(request, target, started_s, served)

    async def _handle_admin(self, request: web.BaseRequest, target: str, started_s: float) -> web.StreamResponse:
        try:
            if request.method == "PURGE" and not is_admin(target):
                response = await self._admin.purge_key(request, target)
            else:
                response = await self._admin.handle(request, target)
            served = Served(response, Outcome.PASS)
        except ImgproxyError as error:
            response = problem_response(error, self._settings)
            served = Served(response, Outcome.PASS, code=error.code)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            log.exception("an admin request failed")
            served = self._failed()
        if not request.content.is_eof():
            # The rest of the body is read and thrown away for a while, then the connection is closed (RFC 9112 9.6).
            served.response.force_close()
        served.response.headers.update(ADMIN_HEADERS)
        return self._end(request, target, started_s, served)

    def _check(self, request: web.BaseRequest) -> None:
        """
        Check what holds for every request.

        Raises:
            VersionNotSupported, Unsupported: another version of HTTP, an unknown transfer coding.
            BadUrl, NotHttp: no valid Host; a fragment in the target; HTTP/1.0 with a Transfer-Encoding. A proxy in
                front may read such a request in another way (RFC 9112 3.2, 6.1).
        """
        headers = request.headers
        if request.version not in (HttpVersion10, HttpVersion11):
            raise VersionNotSupported
        if not HOST.fullmatch(headers.get("Host", "")):
            raise BadUrl("Host: expected a name or an address, and a port if it is not the usual one.")
        if "#" in request.raw_path:
            raise BadUrl("The URL has a fragment. Expected: `%23` for a `#` in a path or a value.")
        if "Transfer-Encoding" in headers:
            if request.version == HttpVersion10:
                raise NotHttp
            if ", ".join(headers.getall("Transfer-Encoding")).lower() != "chunked":
                raise Unsupported

    def answer_unreadable(self, request: web.BaseRequest, error: BaseException | None) -> web.StreamResponse:
        """Answer bytes that the parser could not read as a request. They are not repeated: they may hold a token."""
        request[REQUEST_ID] = self._access.ids.of(request.headers)
        return self._refuse(request, self._meaning(error))

    def _meaning(self, error: BaseException | None) -> ImgproxyError:
        """Return the meaning of the parser's error. It is in the error's type, limit and text."""
        text = str(error)
        if isinstance(error, LineTooLong):
            is_target = error.args[1] == MAX_LINE_BYTES
            return UriTooLong(self._settings.url.max_url_chars) if is_target else HeadersTooLarge()
        if "Too many headers" in text:
            return HeadersTooLarge()
        found = _FIRST_LINE.search(text)
        if found is not None and (isinstance(error, BadHttpMethod) or "Invalid method" in text):
            return Unsupported()
        if found is not None and isinstance(error, BadStatusLine) and found[2] not in ("1.0", "1.1"):
            return VersionNotSupported()
        return NotHttp()

    def _refuse(self, request: web.BaseRequest, error: ImgproxyError) -> web.StreamResponse:
        """
        Answer a request that is not handled, and close its connection. Count and log it.

        No cache may store the answer: it is about this request, not about its URL.
        """
        request._cache["version"] = HttpVersion11  # noqa: SLF001 the status line repeats it, and it may be HTTP/2.0
        served = Served(problem_response(error, self._settings), Outcome.ERROR, code=error.code)
        started_s = time.perf_counter()
        self._count(served, started_s)
        served.response.headers["Cache-Control"] = "no-store"
        served.response.force_close()
        return self._end(request, "-", started_s, served)

    def _end(self, request: web.BaseRequest, target: str, started_s: float, served: Served) -> web.StreamResponse:
        """Log the answer of a request, and give it the request's id if its head is not sent yet."""
        if not served.response.prepared:
            served.response.headers[HEADER] = request[REQUEST_ID]
        self._note(request, target, started_s, served)
        return served.response

    def _note(self, request: web.BaseRequest, target: str, started_s: float, served: Served) -> None:
        """Note an answer in the access log, and in the span of its request."""
        self._access.write(request, target, started_s, served)
        if traces.is_on():
            traces.note(span_facts(request, target, served), is_error=served.response.status >= 500)

    def _failed(self) -> Served:
        response = problem_response(ImgproxyError(), self._settings)
        return Served(response, Outcome.ERROR, code=ImgproxyError.code)

    def _count(self, served: Served, started_s: float) -> None:
        count_request, observe_s = self._counters(served.outcome, served.response.status)
        count_request()
        observe_s(time.perf_counter() - started_s)
        if served.sent_bytes:
            self._metrics.sent(served.content_type, served.sent_bytes)

    def _counters_of(self, outcome: Outcome, status: int) -> tuple[Callable[[], None], Callable[[float], None]]:
        metrics = self._metrics
        return metrics.requests.labels(outcome, str(status)).inc, metrics.request_duration_s.labels(outcome).observe


def is_admin(target: str) -> bool:
    """Whether a raw target is an admin route and not an image."""
    path = target.split("?", 1)[0]
    return path.startswith(("/-/", "/api/v1/")) or path == "/-"


def origin_form(raw_target: str) -> str:
    """
    Return path and query of a request target. An absolute-form target (RFC 9112 3.2.2) loses scheme and host.

    Raises:
        BadUrl: it is not an http URL, or has a user's name (RFC 9110 4.2.4).
    """
    if raw_target.startswith("/"):
        return raw_target
    scheme, separator, rest = raw_target.partition("://")
    if not separator:
        return raw_target
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    if scheme.lower() not in ("http", "https") or not HOST.fullmatch(authority):
        raise BadUrl("The URL of the request: expected http://HOST/KEY, without a user.")
    path = rest[len(authority) :]
    return path if path.startswith("/") else f"/{path}"
