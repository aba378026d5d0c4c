"""
The writer of all answers to image requests: head, 304, body, part of a file, answer for all waiters, error.

Between the check that no purge has come and the first byte for the transport, nothing is awaited.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from aiohttp import web

from imgproxy.cache.entry import Tier
from imgproxy.cache.reading import read_at_once
from imgproxy.delivery.origin_health import cause_of
from imgproxy.delivery.request import Outcome
from imgproxy.edge import request_ids
from imgproxy.edge.errors import PreconditionFailed, UnsatisfiableRange
from imgproxy.edge.exchange import Exchange, PlainAnswer, Served
from imgproxy.edge.headers import (
    RangeNotSatisfiable,
    cache_status,
    etag_matches,
    head_bytes,
    http_date,
    is_in_304,
    may_answer,
    requested_range,
    server_timing,
)
from imgproxy.edge.heads import ImageHeads
from imgproxy.edge.problems import problem_response
from imgproxy.errors import OriginError
from imgproxy.failpoints import Failpoints, Point

if TYPE_CHECKING:
    from collections.abc import Callable

    from multidict import CIMultiDictProxy

    from imgproxy.cache.entry import Variant
    from imgproxy.config.settings import Settings
    from imgproxy.delivery.refusals import Refusal
    from imgproxy.delivery.request import Delivered
    from imgproxy.edge.connections import Connection
    from imgproxy.edge.descriptors import Descriptors
    from imgproxy.edge.headers import ByteRange
    from imgproxy.edge.waiters import Waiter, Waiters
    from imgproxy.errors import ImgproxyError
    from imgproxy.params.request import ImageRequest
    from imgproxy.purge.answers import Answers, Sending
    from imgproxy.telemetry.metrics import Metrics

# At most this much of a file is in memory for each client.
CHUNK_BYTES = 64 * 1024


class Responder:
    """Writes answers. `on_plain` is called with answers that the fast path may repeat."""

    def __init__(
        self,
        settings: Settings,
        answers: Answers,
        waiters: Waiters,
        descriptors: Descriptors,
        *,
        metrics: Metrics,
        failpoints: Failpoints,
        entry_of: Callable[[str], str | None],
        on_plain: Callable[[PlainAnswer], object],
        manifest_link: Callable[[str, str], str] | None = None,
    ) -> None:
        self._settings = settings
        self._freshness = settings.freshness
        self._answers = answers
        self._waiters = waiters
        self._descriptors = descriptors
        self._hits = {tier: metrics.hits.labels(tier).inc for tier in Tier}
        self._failpoints = failpoints
        self._on_plain = on_plain
        self._heads = ImageHeads(
            settings, entry_of=entry_of, has_downstream=bool(settings.downstream), manifest_link=manifest_link
        )

    async def image(self, exchange: Exchange, delivered: Delivered) -> Served:
        """
        Send what was delivered: whole, in part, or as 304.

        Raises:
            PreconditionFailed: by If-Match. Only now is it known that there would be an answer (RFC 9110 13.2.1).
        """
        waiter = exchange.waiter
        if waiter is not None and waiter.delivered is not None:  # another request has written the answer
            return await waiter.served()
        asked = exchange.request.headers
        if "If-Match" in asked and not may_answer(", ".join(asked.getall("If-Match")), etag=delivered.etag):
            raise PreconditionFailed
        at_most_s = self._heads.at_most_s(exchange.wanted, delivered, time.time())
        headers = self._heads.of(exchange.wanted, delivered, exchange.started_s, at_most_s)
        variant = delivered.variant
        # `*` matches any picture that exists. That is known only now (RFC 9110 13.1.2).
        if variant is None or _has_copy(asked, delivered.etag):
            return await self._send_not_modified(exchange, delivered, headers)
        if variant.body is not None:
            is_plain = exchange.is_plain and at_most_s is None and _is_repeatable(delivered, variant)
            return await self._send_body(exchange, delivered, headers, variant, is_plain=is_plain)
        return await self._send_file(exchange, delivered, headers, variant)

    async def _send_not_modified(self, exchange: Exchange, delivered: Delivered, headers: dict[str, str]) -> Served:
        kept = {name: value for name, value in headers.items() if is_in_304(name)}
        response = web.Response(status=304, headers=_with_id(exchange.request, kept))
        await response.prepare(exchange.request)
        await response.write_eof()
        return Served(response, delivered.outcome, delivered=delivered)

    async def _send_body(
        self, exchange: Exchange, delivered: Delivered, headers: dict[str, str], variant: Variant, *, is_plain: bool
    ) -> Served:
        """Send a body from memory. `is_plain`: every request for this target gets this answer."""
        assert variant.body is not None
        self._hits[delivered.tier]()
        request, waiter, body = exchange.request, exchange.waiter, variant.body
        if is_plain:
            self._on_plain(self._plain_answer(exchange, delivered, variant, headers))
            if waiter is not None:
                self._write_to_waiters(waiter, delivered, headers, body)
                return await waiter.served()
        response = web.Response(body=body, headers=_with_id(request, headers))
        with self._answers.sending(_hashes(delivered), _cutter(request)):
            await response.prepare(request)
            await response.write_eof()
            # An answer is sent when the kernel has it: bytes that are still in this process could leave after a purge.
            await request.writer.drain()
        return Served(response, delivered.outcome, _sent(request, len(body)), delivered=delivered)

    def _plain_answer(
        self, exchange: Exchange, delivered: Delivered, variant: Variant, headers: dict[str, str]
    ) -> PlainAnswer:
        facts = delivered.original.facts
        return PlainAnswer(
            target=exchange.request.raw_path,
            accept=exchange.client.accept,
            variant=variant,
            original=facts,
            etag=delivered.etag,
            headers=headers,
            fresh_until_s=facts.validated_at_s + self._freshness.revalidate_after_s,
        )

    def _write_to_waiters(self, waiter: Waiter, delivered: Delivered, headers: dict[str, str], body: bytes) -> None:
        """Write the answer to the request that has it first, then to all other requests that wait for it."""
        hashed = delivered.original.key_hash

        def sending(cut: Callable[[], None]) -> Sending:
            return self._answers.sending((hashed,), cut)

        now_s = time.time()
        headers = headers | {"Content-Length": str(len(body)), "Date": http_date(int(now_s))}
        if not waiter.write(head_bytes("200 OK", headers), body, delivered, sending):
            raise ConnectionResetError("the client left")
        others = self._waiters.unanswered(waiter.name) if delivered.outcome is Outcome.MISS else []
        if not others:
            return
        delivered = replace(delivered, is_collapsed=True)
        headers["Cache-Status"] = self._heads.cache_status(delivered, now_s)
        headers["Server-Timing"] = server_timing(None, delivered.timings)
        head = head_bytes("200 OK", headers)
        written = sum(other.write(head, body, delivered, sending) for other in others)
        self._hits[delivered.tier](written)

    async def _send_file(
        self, exchange: Exchange, delivered: Delivered, headers: dict[str, str], variant: Variant
    ) -> Served:
        """Stream a large variant or an original from its file. A part is sent of an original only."""
        assert variant.path is not None
        request, size_bytes = exchange.request, variant.facts.size_bytes
        status, start, count = 200, 0, size_bytes
        if delivered.outcome is Outcome.PASS:
            headers["Accept-Ranges"] = "bytes"
            part = self._part(request, delivered.etag, size_bytes)
            if part is not None:
                status, start, count = 206, part.start, part.count
                headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size_bytes}"
        descriptor = self._descriptors.open_to_send(str(variant.path))
        try:
            response = web.StreamResponse(status=status, headers=_with_id(request, headers))
            response.content_length = count
            with self._answers.sending(_hashes(delivered), _cutter(request)):
                await response.prepare(request)
                if request.method != "HEAD":
                    await self._stream(response, descriptor, start, count, exchange.wanted.key)
                await response.write_eof()
                await request.writer.drain()
        finally:
            os.close(descriptor)
        return Served(response, delivered.outcome, _sent(request, count), delivered=delivered)

    def _part(self, request: web.BaseRequest, etag: str, size_bytes: int) -> ByteRange | None:
        """Return the range that is asked for, or None for the whole file. Only GET has a range (RFC 9110 14.2)."""
        if request.method != "GET":
            return None
        try:
            return requested_range(request.headers, size_bytes=size_bytes, etag=etag)
        except RangeNotSatisfiable:
            raise UnsatisfiableRange(size_bytes) from None

    async def _stream(self, response: web.StreamResponse, descriptor: int, start: int, count: int, key: str) -> None:
        """Send bytes of an open file. Bytes that are not in the page cache are read by a thread."""
        sent = 0
        while sent < count:
            chunk_bytes, offset = min(CHUNK_BYTES, count - sent), start + sent
            try:
                chunk = read_at_once(descriptor, chunk_bytes, offset)
            except BlockingIOError:
                chunk = await asyncio.to_thread(os.pread, descriptor, chunk_bytes, offset)
            if not chunk:
                raise ConnectionResetError("a cached file is shorter than it was")
            await response.write(chunk)
            sent += len(chunk)
            await self._failpoints.reach(Point.MID_RESPONSE, key)

    # --- errors ---

    def refuse(
        self, method: str, wanted: ImageRequest | None, error: ImgproxyError, refusal: Refusal | None, started_s: float
    ) -> Served:
        """Answer with an error. `refusal`: the remembered one of the key. `wanted`: None if the URL is not valid."""
        response = problem_response(
            error,
            self._settings,
            negative_ttl_s=refusal.ttl_s if refusal is not None else None,
            is_head=method == "HEAD",
        )
        is_remembered = refusal is not None and refusal.since_s < started_s
        is_asked = refusal is not None or isinstance(error, OriginError)
        response.headers["Cache-Status"] = cache_status(
            is_hit=is_remembered,
            fwd="uri-miss" if is_asked else None,
            fwd_status=getattr(error, "origin_status", error.status if refusal is not None else None),
            ttl_s=refusal.ttl_s if refusal is not None else None,
            detail=error.code,
        )
        response.headers["Server-Timing"] = server_timing(time.monotonic() - started_s, None)
        if isinstance(error, UnsatisfiableRange):
            response.headers["Content-Range"] = f"bytes */{error.size_bytes}"
        if wanted is not None:
            response.headers.update(self._heads.tags(wanted.key))
            if wanted.vary:
                response.headers["Vary"] = ", ".join(wanted.vary)
        cause = cause_of(error) if isinstance(error, OriginError) and error.status >= 500 else None
        return Served(response, Outcome.ERROR, 0, error.code, cause)


def _is_repeatable(delivered: Delivered, variant: Variant) -> bool:
    """Whether this answer stays right while its original is fresh. A watermark has a freshness of its own: then not."""
    return delivered.outcome in (Outcome.HIT, Outcome.MISS) and len(variant.proofs) == 1


def _has_copy(asked: CIMultiDictProxy[str], etag: str) -> bool:
    return "If-None-Match" in asked and etag_matches(", ".join(asked.getall("If-None-Match")), etag)


def _with_id(request: web.BaseRequest, headers: dict[str, str]) -> dict[str, str]:
    return headers | {request_ids.HEADER: request[request_ids.REQUEST_ID]}


def _sent(request: web.BaseRequest, size_bytes: int) -> int:
    return 0 if request.method == "HEAD" else size_bytes


def _hashes(delivered: Delivered) -> tuple[str, ...]:
    """Return the hashes of the keys whose bytes an answer has: the picture's, and its watermark's."""
    return tuple(hashed for hashed, _ in delivered.proofs)


def _cutter(request: web.BaseRequest) -> Callable[[], None]:
    """Return a function that closes the request's connection, also in the middle of its answer."""
    return cast("Connection", request.protocol).cut
