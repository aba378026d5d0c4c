"""The image route: verify the signature, parse the URL, deliver, respond."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from imgproxy.credentials.service import manifest_in
from imgproxy.delivery.request import Outcome, Request
from imgproxy.edge.errors import MethodNotAllowed
from imgproxy.edge.exchange import Exchange, Served
from imgproxy.edge.headers import SERVER, current_tag
from imgproxy.errors import BadSignature, Expired, ImgproxyError
from imgproxy.params.negotiate import AcceptClass, ClientHeaders, read_headers
from imgproxy.params.plan import Format, Metadata
from imgproxy.params.request import ImageRequest, RequestReader
from imgproxy.params.signature import verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from multidict import CIMultiDictProxy

    from imgproxy.config.settings import Settings
    from imgproxy.delivery.delivery import Delivery
    from imgproxy.delivery.originals import Originals
    from imgproxy.delivery.request import ClientHas
    from imgproxy.edge.respond import Responder
    from imgproxy.edge.waiters import Waiter, Waiters
    from imgproxy.params.plan import RenderPlan
    from imgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# Longer targets are not kept in memory, which strangers must not fill. The targets of pages have a tenth of this.
TARGET_MAX_CHARS = 1024
ALLOWED_METHODS = "GET, HEAD, OPTIONS, PURGE"
OPTIONS_HEADERS = {"Allow": ALLOWED_METHODS, "Access-Control-Allow-Origin": "*", **SERVER}
# For a browser that asks before it sends a request of another site (Fetch, "CORS-preflight fetch"). No header of an
# image request can do harm, so every one is allowed.
PREFLIGHT_HEADERS = OPTIONS_HEADERS | {
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Max-Age": "86400",
}


class ImageRoute:
    """Answers GET, HEAD and OPTIONS of image URLs."""

    def __init__(
        self,
        settings: Settings,
        *,
        signing_tokens: tuple[str, ...],
        delivery: Delivery,
        originals: Originals,
        responder: Responder,
        waiters: Waiters,
        metrics: Metrics,
        finds_faces: bool = False,
        shares_answers: Callable[[], bool] | None = None,
    ) -> None:
        """`shares_answers` says whether a request may get an answer that was begun for another one. None: always."""
        self._settings = settings
        self._tokens = signing_tokens
        self._reader = request_reader(settings, finds_faces=finds_faces)
        self._delivery = delivery
        self._originals = originals
        self._responder = responder
        self._waiters = waiters
        self._metrics = metrics
        self._shares_answers = shares_answers

    async def handle(self, request: web.BaseRequest, target: str) -> Served:
        """Answer an image request. `target` is its raw path and query. Errors become problem details."""
        started_s = time.monotonic()
        if request.method == "OPTIONS":
            is_preflight = "Access-Control-Request-Method" in request.headers
            headers = PREFLIGHT_HEADERS if is_preflight else OPTIONS_HEADERS
            return Served(web.Response(status=204, headers=headers), Outcome.PASS)
        client = client_of(request.headers)
        wanted = None
        try:
            wanted = self.read(request.method, target, client)
            return await self._answer(request, target, wanted, client, started_s)
        except ImgproxyError as error:
            refusal = self._originals.refusal(wanted.key) if wanted is not None else None
            return self._responder.refuse(request.method, wanted, error, refusal, started_s)

    async def _answer(
        self, request: web.BaseRequest, target: str, wanted: ImageRequest, client: ClientHeaders, started_s: float
    ) -> Served:
        asked = Request(
            key=wanted.key,
            plan=wanted.plan,
            client_has=_client_has(request),
            interim=self._interim(target, wanted, client),
            manifest_of=wanted.manifest_of,
        )
        is_plain = is_plain_request(request, wanted)
        is_shared = is_plain and (self._shares_answers is None or self._shares_answers())
        waiter = self._waiters.enter(request, client.accept) if is_shared else None
        exchange = Exchange(request, wanted, client, started_s, is_plain, waiter)
        try:
            return await self._delivery.answer(asked, partial(self._responder.image, exchange))
        except (Exception, asyncio.CancelledError) as error:
            if waiter is None or waiter.delivered is None:
                raise
            return await self._after_answer(waiter, error)
        finally:
            if waiter is not None:
                self._waiters.leave(waiter)

    async def _after_answer(self, waiter: Waiter, error: BaseException) -> Served:
        """
        Deal with an error after another request has written this answer. The answer is valid.

        A client may leave when it has its whole answer, and a purge or a refusal may come meanwhile: both are usual.
        Any other error is a bug, and is logged and counted.
        """
        if isinstance(error, asyncio.CancelledError):
            if not waiter.is_sent:
                raise error
        elif not isinstance(error, ImgproxyError | ConnectionError):
            log.error("a request failed after its answer was written", exc_info=error)
            self._metrics.failed_after_answer.inc()
        return await waiter.served()

    def read(self, method: str, target: str, client: ClientHeaders) -> ImageRequest:
        """Read the request. Raises BadSignature, Expired, BadUrl, BadParameter, UriTooLong, MethodNotAllowed."""
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed(method, ALLOWED_METHODS)
        signing = self._settings.signing
        if signing.required and not verify(
            target, self._tokens, mount_prefix=signing.mount_prefix, allow_decoded_path=signing.allow_decoded_path
        ):
            raise BadSignature
        path = target.partition("?")[0]
        manifest = manifest_in(path)
        if manifest is not None:
            picture, name = manifest
            return replace(self._read(picture, client), plan=None, manifest_of=name)
        wanted = self._read(target, client)
        if wanted.expires_at_s is not None and wanted.expires_at_s <= time.time():
            raise Expired
        return wanted

    def _interim(
        self, target: str, wanted: ImageRequest, client: ClientHeaders
    ) -> Callable[[], RenderPlan | None] | None:
        """Return what gives the plan of the interim variant, if a negotiated AVIF may have one."""
        is_avif = wanted.plan is not None and wanted.plan.output.format is Format.AVIF and "Accept" in wanted.vary
        if not is_avif or self._settings.render.avif != "upgrade":
            return None
        webp_client = replace(client, accept=AcceptClass.WEBP)
        return lambda: self._read(target, webp_client).plan

    def _read(self, target: str, client: ClientHeaders) -> ImageRequest:
        return self._reader.read(target, client, is_remembered=len(target) <= TARGET_MAX_CHARS)


def request_reader(settings: Settings, *, finds_faces: bool) -> RequestReader:
    """Return what reads the URLs of images with these settings."""
    return RequestReader(
        settings.url,
        mount_prefix=settings.signing.mount_prefix,
        metadata=Metadata(settings.render.metadata),
        finds_faces=finds_faces,
    )


def client_of(headers: CIMultiDictProxy[str]) -> ClientHeaders:
    """Return what the headers of a request mean for its picture. Several lines of Accept are one list."""
    return read_headers(
        ", ".join(headers.getall("Accept", ())),
        save_data=headers.get("Save-Data"),
        dpr=headers.get("Sec-CH-DPR", headers.get("DPR")),
        width=headers.get("Sec-CH-Width", headers.get("Width")),
    )


def is_plain_request(request: web.BaseRequest, wanted: ImageRequest) -> bool:
    """Whether the answer depends only on the target and the Accept class, and the target may be kept in memory."""
    is_short = len(request.raw_path) <= TARGET_MAX_CHARS
    varies_as_usual = all(name == "Accept" for name in wanted.vary)
    return is_short and request.method == "GET" and wanted.expires_at_s is None and varies_as_usual


def _client_has(request: web.BaseRequest) -> ClientHas | None:
    """
    Return a check of a variant's entity tag against the client's copy; None if the client names no copy.

    None with If-Match, too: that is evaluated first (RFC 9110 13.2.2), against the tag of the variant itself.
    """
    headers = request.headers
    if "If-None-Match" not in headers or "If-Match" in headers:
        return None
    if_none_match = ", ".join(headers.getall("If-None-Match"))
    if if_none_match.strip() == "*":
        return None
    return lambda etag: current_tag(if_none_match, etag=etag)
