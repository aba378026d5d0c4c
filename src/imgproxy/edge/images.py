"""The image route: verify, parse, deliver, answer."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from aiohttp import web

from imgproxy.cache.entry import Tier, key_hash
from imgproxy.cache.reading import read_at_once
from imgproxy.delivery.delivery import Delivered, Delivery, Outcome
from imgproxy.edge.headers import (
    RangeNotSatisfiable,
    cache_status,
    current_tag,
    requested_range,
    server_timing,
    tag_headers,
    tags,
)
from imgproxy.edge.image_headers import ImageHeaders
from imgproxy.edge.problems import problem_response
from imgproxy.edge.waiters import Waiter, Waiters, Written
from imgproxy.errors import BadSignature, Expired, ImgproxyError, MethodNotAllowed, OriginError, UnsatisfiableRange
from imgproxy.failpoints import Failpoints, Point
from imgproxy.params.negotiate import AcceptClass, ClientHeaders, accept_class
from imgproxy.params.plan import Format, ImageRequest, Metadata, RenderPlan
from imgproxy.params.request import RequestReader
from imgproxy.params.signature import verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.http_parser import RawRequestMessage

    from imgproxy.cache.entry import Variant
    from imgproxy.config.load import Settings
    from imgproxy.delivery.delivery import ClientHas
    from imgproxy.delivery.originals import Originals
    from imgproxy.edge.fast.memo import AnswerMemo, PreparedAnswer
    from imgproxy.metrics import Metrics
    from imgproxy.purge.answers import Answers, Sending

ALLOWED_METHODS = "GET, HEAD, PURGE"
CHUNK_BYTES = 256 * 1024
# Parsed requests that are remembered: those in hand are read more than once, and such as the memo does not take (a
# variant that depends on a client hint) are asked for again. About 1.3 kB each.
PLANS_MAX = 1024
# A longer target is read anew each time: those of pages are a tenth of this, and memory must not be a stranger's.
REMEMBERED_CHARS = 1024
_ACCEPT_OF_CLASS = {
    AcceptClass.AVIF: "image/avif,image/webp",
    AcceptClass.WEBP: "image/webp",
    AcceptClass.LEGACY: None,
}


@dataclass(frozen=True, slots=True)
class Served:
    """What an image request came to, for the log and the metrics."""

    response: web.StreamResponse
    outcome: Outcome
    sent_bytes: int = 0
    code: str | None = None
    key: str | None = None


class ImageRoute:
    """Answers GET and HEAD of image URLs."""

    def __init__(
        self,
        settings: Settings,
        *,
        signing_tokens: tuple[str, ...],
        delivery: Delivery,
        originals: Originals,
        answers: Answers,
        metrics: Metrics,
        failpoints: Failpoints,
        memo: AnswerMemo,
        entry_of: Callable[[str], str | None],
        has_downstream: bool,
    ) -> None:
        self._settings = settings
        self._tokens = signing_tokens
        self._reader = RequestReader(
            settings.url, mount_prefix=settings.signing.mount_prefix, metadata=Metadata(settings.render.metadata)
        )
        self._delivery = delivery
        self._originals = originals
        self._answers = answers
        self._tally = metrics.tally
        self._hits = {tier: metrics.hits.labels(tier).inc for tier in Tier}
        self._failpoints = failpoints
        self._memo = memo
        self._entry_of = entry_of
        self._plan = lru_cache(PLANS_MAX)(self._reader.read)
        self._waiters = Waiters()
        self._headers = ImageHeaders(settings, entry_of=entry_of, has_downstream=has_downstream)

    async def handle(self, request: web.BaseRequest, target: str) -> Served:
        """Answer an image request; `target` is its raw path and query. Errors become problem details here."""
        started_s = time.monotonic()
        wanted = waiter = None
        try:
            wanted = self.read(request, target)
            if _is_for_all(request, wanted):
                waiter = self._waiters.enter(request)
            return await self._delivery.answer(
                wanted.key,
                wanted.plan,
                lambda delivered: self._begin(request, wanted, delivered, started_s, waiter),
                client_has=_conditions(request),
                interim=self._interim(request, wanted, target),
            )
        except BaseException as error:
            if wanted is not None and waiter is not None and waiter.outcome is not None:
                # Its answer was written before its turn came; if it left then, it did not give up.
                if isinstance(error, asyncio.CancelledError) and not waiter.is_sent:
                    raise
                return await _written(wanted, waiter, waiter.outcome)
            if isinstance(error, ImgproxyError):
                return self._refuse(request, wanted, error, started_s)
            raise
        finally:
            if waiter is not None:
                self._waiters.leave(waiter)

    def read(self, request: web.BaseRequest | RawRequestMessage, target: str) -> ImageRequest:
        """The request as a plan. Raises BadSignature, Expired, BadUrl, BadParameter, UriTooLong, MethodNotAllowed."""
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(request.method, ALLOWED_METHODS)
        signing = self._settings.signing
        if signing.required and not verify(
            target,
            self._tokens,
            mount_prefix=signing.mount_prefix,
            allow_decoded_path=signing.allow_decoded_path,
        ):
            raise BadSignature
        client = _client(request)
        is_short = len(target) <= REMEMBERED_CHARS
        wanted = self._plan(target, client) if is_short else self._reader.read(target, client, is_remembered=False)
        if wanted.expires_at_s is not None and wanted.expires_at_s <= time.time():
            raise Expired
        return wanted

    def _interim(
        self, request: web.BaseRequest, wanted: ImageRequest, target: str
    ) -> Callable[[], RenderPlan | None] | None:
        """What to answer with while an AVIF that was negotiated is being made, if that is configured."""
        is_avif = wanted.plan is not None and wanted.plan.output.format is Format.AVIF and "Accept" in wanted.vary
        if not is_avif or self._settings.render.avif != "upgrade":
            return None
        client = replace(_client(request), accept=_ACCEPT_OF_CLASS[AcceptClass.WEBP])
        return lambda: self._plan(target, client).plan

    # --- answers -----------------------------------------------------------------------------------------------

    async def _begin(
        self,
        request: web.BaseRequest,
        wanted: ImageRequest,
        delivered: Delivered,
        started_s: float,
        waiter: Waiter | None,
    ) -> Served:
        """Send the answer. Nothing is awaited before its first byte is handed to the transport."""
        if waiter is not None and waiter.outcome is not None:
            return await _written(wanted, waiter, waiter.outcome)
        headers = self._headers.of(wanted, delivered, started_s)
        variant = delivered.variant
        # `*` matches whatever there is; that there is something is known only now (RFC 9110 13.1.2).
        if variant is None or request.headers.get("If-None-Match", "").strip() == "*":
            for name in ("Content-Type", "Content-Disposition", "Accept-Ranges"):
                headers.pop(name, None)
            response: web.StreamResponse = web.Response(status=304, headers=headers)
            await response.prepare(request)
            await response.write_eof()
            return Served(response, delivered.outcome, 0, key=wanted.key)
        if variant.body is not None:
            return await self._send_body(request, wanted, delivered, headers, variant.body, waiter)
        return await self._send_file(request, wanted, delivered, headers, variant)

    async def _send_body(  # noqa: PLR0917 - all of one request
        self,
        request: web.BaseRequest,
        wanted: ImageRequest,
        delivered: Delivered,
        headers: dict[str, str],
        body: bytes,
        waiter: Waiter | None,
    ) -> Served:
        self._tally.note(self._hits[delivered.tier])
        prepared = self._remember(request, wanted, delivered, headers)
        if prepared is not None and waiter is not None:
            self._write_to_all(prepared, delivered, headers, body, waiter)
            return await _written(wanted, waiter, delivered.outcome)
        response = web.Response(body=body, headers=headers)
        with self._answers.sending(_hashes(delivered), _cutter(request)):
            await response.prepare(request)
            await response.write_eof()
            # Sent means that the kernel has it all: what waits in this process could still be sent after a purge.
            await request.writer.drain()
        return Served(response, delivered.outcome, _sent(request, len(body)), key=wanted.key)

    def _write_to_all(
        self, prepared: PreparedAnswer, delivered: Delivered, headers: dict[str, str], body: bytes, waiter: Waiter
    ) -> None:
        """Write an answer to who has it first, and then to all who wait for the same; the epoch was looked at now."""

        def sending(cut: Callable[[], None]) -> Sending:
            return self._answers.sending((prepared.key_hash,), cut)

        now_s = time.time()
        date = self._memo.date(now_s)
        head = prepared.head_with(date, status=headers["Cache-Status"], timing=headers["Server-Timing"])
        if not waiter.write((head, body), len(body), delivered.outcome, sending):
            raise ConnectionResetError("the client left")
        others = self._waiters.unanswered(waiter.name) if delivered.outcome is Outcome.MISS else []
        if not others:
            return
        # One piece for all, to the byte: so a waiter costs little more than the system's part in it.
        status = self._headers.cache_status(replace(delivered, is_collapsed=True), now_s)
        timing = server_timing(None, delivered.timings)
        whole = prepared.head_with(date, status=status, timing=timing) + body
        written = sum(other.write((whole,), len(body), Outcome.MISS, sending) for other in others)
        self._tally.note(self._hits[delivered.tier], written)

    def _remember(
        self, request: web.BaseRequest, wanted: ImageRequest, delivered: Delivered, headers: dict[str, str]
    ) -> PreparedAnswer | None:
        """Prepare this answer for the next who asks the same, where it depends on nothing but target and Accept."""
        is_usual = (
            delivered.outcome in (Outcome.HIT, Outcome.MISS) and self._headers.at_most_s(wanted, delivered, 0.0) is None
        )
        # A watermark has a freshness of its own, which only the usual way looks at.
        if not (is_usual and _is_for_all(request, wanted)) or delivered.variant is None or delivered.variant.also:
            return None
        return self._memo.put(
            request.raw_path,
            accept_class(request.headers.get("Accept")),
            delivered.variant,
            facts=delivered.original.facts,
            etag=delivered.etag,
            headers=headers,
            fresh_until_s=delivered.original.facts.validated_at_s + self._settings.freshness.revalidate_after_s,
        )

    async def _send_file(
        self,
        request: web.BaseRequest,
        wanted: ImageRequest,
        delivered: Delivered,
        headers: dict[str, str],
        variant: Variant,
    ) -> Served:
        """Stream a large variant, or an original, from its file; originals also in part."""
        assert variant.path is not None
        size_bytes = variant.facts.size_bytes
        status, start, count = 200, 0, size_bytes
        if delivered.outcome is Outcome.PASS:
            headers["Accept-Ranges"] = "bytes"
            try:
                # Range is defined for GET alone (RFC 9110 14.2).
                part = requested_range(
                    request.headers.get("Range") if request.method == "GET" else None,
                    request.headers.get("If-Range"),
                    size_bytes=size_bytes,
                    etag=delivered.etag,
                )
            except RangeNotSatisfiable:
                raise UnsatisfiableRange(size_bytes) from None
            if part is not None:
                status, start, count = 206, part.start, part.count
                headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size_bytes}"
        descriptor = os.open(variant.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            response = web.StreamResponse(status=status, headers=headers)
            response.content_length = count
            with self._answers.sending(_hashes(delivered), _cutter(request)):
                await response.prepare(request)
                if request.method != "HEAD":
                    await self._stream(response, descriptor, start, count, wanted.key)
                await response.write_eof()
                await request.writer.drain()
        finally:
            os.close(descriptor)
        return Served(response, delivered.outcome, _sent(request, count), key=wanted.key)

    async def _stream(self, response: web.StreamResponse, descriptor: int, start: int, count: int, key: str) -> None:
        """Send bytes of an open file. A thread reads what is not in the page cache: for the rest it would cost more."""
        sent = 0
        while sent < count:
            wanted_bytes, offset = min(CHUNK_BYTES, count - sent), start + sent
            try:
                chunk = read_at_once(descriptor, wanted_bytes, offset)
            except BlockingIOError:
                chunk = await asyncio.to_thread(os.pread, descriptor, wanted_bytes, offset)
            if not chunk:
                raise ConnectionResetError("a cached file is shorter than it was")
            await response.write(chunk)
            sent += len(chunk)
            await self._failpoints.reach(Point.MID_RESPONSE, key)

    def _refuse(
        self, request: web.BaseRequest, wanted: ImageRequest | None, error: ImgproxyError, started_s: float
    ) -> Served:
        negative = self._originals.negative(wanted.key) if wanted is not None else None
        response = problem_response(
            error,
            freshness=self._settings.freshness,
            negative_ttl_s=negative.ttl_s if negative is not None else None,
            is_head=request.method == "HEAD",
        )
        is_remembered = negative is not None and negative.since_s < started_s
        is_asked = negative is not None or isinstance(error, OriginError)
        response.headers["Cache-Status"] = cache_status(
            is_hit=is_remembered,
            fwd="uri-miss" if is_asked else None,
            fwd_status=getattr(error, "origin_status", error.status if negative is not None else None),
            ttl_s=negative.ttl_s if negative is not None else None,
            detail=error.code,
        )
        response.headers["Server-Timing"] = server_timing(time.monotonic() - started_s, None)
        if isinstance(error, UnsatisfiableRange):
            response.headers["Content-Range"] = f"bytes */{error.size_bytes}"
        if wanted is not None:
            found = tags(key_hash(wanted.key), self._entry_of(wanted.key))
            response.headers.update(tag_headers(self._settings.tags.headers, found))
            if wanted.vary:
                response.headers["Vary"] = ", ".join(wanted.vary)
        return Served(response, Outcome.ERROR, 0, error.code, wanted.key if wanted else None)


def _is_for_all(request: web.BaseRequest, wanted: ImageRequest) -> bool:
    """Whether the answer is that of everyone who asks for this target with this class of Accept."""
    is_short = len(request.raw_path) <= REMEMBERED_CHARS
    varies_as_usual = all(name == "Accept" for name in wanted.vary)
    return is_short and request.method == "GET" and wanted.expires_at_s is None and varies_as_usual


async def _written(wanted: ImageRequest, waiter: Waiter, outcome: Outcome) -> Served:
    """What an answer came to that was written already, when it has been sent."""
    await waiter.sent()
    return Served(Written(), outcome, waiter.sent_bytes, key=wanted.key)


def _sent(request: web.BaseRequest, size_bytes: int) -> int:
    """The bytes of a body that really went out."""
    return 0 if request.method == "HEAD" else size_bytes


def _hashes(delivered: Delivered) -> tuple[str, ...]:
    """The keys whose bytes an answer holds: the picture's, and its watermark's."""
    also = delivered.variant.also if delivered.variant is not None else ()
    return (delivered.original.key_hash, *(hashed for hashed, _ in also))


def _client(request: web.BaseRequest | RawRequestMessage) -> ClientHeaders:
    """The headers that a rendering may depend on; of Accept its class alone, in words that mean just that class."""
    headers = request.headers
    return ClientHeaders(
        accept=_ACCEPT_OF_CLASS[accept_class(headers.get("Accept"))],
        save_data=headers.get("Save-Data"),
        dpr=headers.get("Sec-CH-DPR", headers.get("DPR")),
        width=headers.get("Sec-CH-Width", headers.get("Width")),
    )


def _conditions(request: web.BaseRequest) -> ClientHas | None:
    """Return a check of a variant's entity tag against the client's copy; None for a client that names no copy."""
    if_none_match = request.headers.get("If-None-Match")
    if if_none_match is None or if_none_match.strip() == "*":
        return None
    return lambda etag: current_tag(if_none_match, etag=etag)


def _cutter(request: web.BaseRequest) -> Callable[[], None]:
    """Close the request's connection in the middle of its answer."""

    def cut() -> None:
        if request.transport is not None:
            request.transport.abort()

    return cut
