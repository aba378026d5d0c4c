"""The writer of answers: heads, bodies, 304, parts, HEAD, answers shared among waiters, and refusals."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from imgproxy.cache.entry import Tier
from imgproxy.cache.purge_event import PurgeEvent
from imgproxy.delivery.originals import State
from imgproxy.delivery.refusals import Refusal
from imgproxy.delivery.request import Outcome
from imgproxy.edge.connections import LimitedServer, Limits
from imgproxy.edge.descriptors import Descriptors
from imgproxy.edge.errors import UnsatisfiableRange
from imgproxy.edge.exchange import Exchange, PlainAnswer, Served
from imgproxy.edge.images import client_of, is_plain_request
from imgproxy.edge.request_ids import REQUEST_ID
from imgproxy.edge.respond import Responder
from imgproxy.edge.waiters import Waiters
from imgproxy.errors import (
    BadParameter,
    BadSignature,
    DecodeFailed,
    ImgproxyError,
    NotFound,
    OriginStatus,
    OriginTimeout,
    Overloaded,
    Revoked,
)
from imgproxy.failpoints import Failpoints
from imgproxy.params.negotiate import ClientHeaders
from imgproxy.purge.answers import Answers
from imgproxy.purge.tags import key_tag
from imgproxy.telemetry.metrics import Metrics
from tests.support.answers import (
    BODY,
    ETAG,
    HASHED,
    KEY,
    delivered,
    not_modified,
    passed_on,
    settings,
    variant,
    wanted,
)
from tests.support.site import Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from imgproxy.delivery.request import Delivered
    from imgproxy.params.request import ImageRequest

TARGET = f"/{KEY}?w=50"


class Desk:
    """A server whose every answer is the given one, and a client."""

    def __init__(self, answer: Delivered, request: ImageRequest) -> None:
        self.answer = answer
        self.wanted = request
        self.metrics = Metrics()
        self.waiters = Waiters()
        self.answers = Answers(PurgeEvent())
        self.plain: list[PlainAnswer] = []
        self.served: list[Served] = []
        self._ids = itertools.count(1)
        self.waits_for = 1  # so many requests come in before the first is answered
        self._all_here = asyncio.Event()
        self.url = ""
        self.session: aiohttp.ClientSession
        self.responder = Responder(
            settings(),
            self.answers,
            self.waiters,
            Descriptors(1024),
            metrics=self.metrics,
            failpoints=Failpoints(),
            entry_of=lambda _key: None,
            on_plain=self.plain.append,
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        request[REQUEST_ID] = f"id-{next(self._ids)}"
        client = client_of(request.headers)
        is_plain = is_plain_request(request, self.wanted)
        waiter = self.waiters.enter(request, client.accept) if is_plain else None
        if len(self.waiters) >= self.waits_for or waiter is None:
            self._all_here.set()
        await self._all_here.wait()
        try:
            exchange = Exchange(request, self.wanted, client, time.monotonic(), is_plain, waiter)
            served = await self.responder.image(exchange, self.answer)
        except ImgproxyError as error:
            served = self.responder.refuse(request.method, self.wanted, error, None, time.monotonic())
        finally:
            if waiter is not None:
                self.waiters.leave(waiter)
        self.served.append(served)
        return served.response

    async def send(self, method: str = "GET", **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, self.url, headers=named) as response:
            return Reply(response.status, response.headers, await response.read())

    def hits(self, tier: Tier) -> float:
        """How many answers were counted as coming from this tier."""
        list(self.metrics.registry.collect())
        return self.metrics.registry.get_sample_value("imgproxy_cache_hits_total", {"tier": tier}) or 0.0


@asynccontextmanager
async def serving(handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Serve on connections like the edge's, which can be cut. Yield a URL."""
    limits = Limits(settings().server, Descriptors(1024), Metrics())
    runner = web.ServerRunner(LimitedServer(handle, limits), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}{TARGET}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def desk(answer: Delivered, **request: Any) -> AsyncIterator[Desk]:
    found = Desk(answer, wanted(**request))
    async with serving(found.handle) as url, aiohttp.ClientSession() as session:
        found.url, found.session = url, session
        yield found


# --- whole answers -------------------------------------------------------------------------------------------------


async def test_a_variant_in_memory_is_sent_whole() -> None:
    """Body, length and tag; it is counted by its tier and may be repeated by the fast path."""
    async with desk(delivered()) as here:
        reply = await here.send()

        assert (reply.status, reply.body) == (200, BODY)
        assert (reply.headers["Content-Length"], reply.headers["ETag"]) == (str(len(BODY)), ETAG)
        assert here.served[0].outcome is Outcome.HIT
        assert here.served[0].sent_bytes == len(BODY)
        assert [(plain.target, plain.etag) for plain in here.plain] == [(TARGET, ETAG)]
        assert here.hits(Tier.MEMORY) == 1


async def test_a_variant_in_a_file_is_sent_whole(tmp_path: Path) -> None:
    """The trailer behind the variant's bytes is not sent."""
    path = tmp_path / "variant"
    path.write_bytes(BODY + b"trailer")
    answer = delivered(found=variant(body=None, path=str(path), size_bytes=len(BODY)), tier=Tier.DISK)
    async with desk(answer) as here:
        reply = await here.send()

        assert (reply.status, reply.body) == (200, BODY)
        assert "Accept-Ranges" not in reply.headers
        assert here.plain == []


async def test_a_file_that_is_gone_is_told_to_the_caller(tmp_path: Path) -> None:
    """Nothing has been sent yet, so delivery can start over."""
    found = variant(body=None, path=str(tmp_path / "gone"))
    here = Desk(delivered(found=found), wanted())
    raised: list[Exception] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            exchange = Exchange(request, here.wanted, ClientHeaders(), time.monotonic(), False, None)
            await here.responder.image(exchange, here.answer)
        except FileNotFoundError as error:
            raised.append(error)
        return web.Response(status=200)

    async with (
        serving(handle) as url,
        aiohttp.ClientSession() as session,
        session.get(url) as response,
    ):
        assert response.status == 200

    assert len(raised) == 1


@pytest.mark.parametrize("is_in_memory", [True, False], ids=["memory", "file"])
async def test_head_has_the_headers_of_get_and_no_body(tmp_path: Path, is_in_memory: bool) -> None:
    """The length is that of the body which GET would send."""
    answer = delivered() if is_in_memory else passed_on(tmp_path / "original")
    async with desk(answer) as here:
        got, head = await here.send("GET"), await here.send("HEAD")

        assert (head.status, head.body) == (200, b"")
        for name in ("Content-Length", "Content-Type", "ETag", "Cache-Control"):
            assert head.headers[name] == got.headers[name]
        assert here.served[1].sent_bytes == 0


@pytest.mark.parametrize(
    ("answer", "request_", "is_plain"),
    [
        (delivered(), {}, True),
        (delivered(Outcome.MISS, tier=Tier.ORIGIN), {}, True),
        (delivered(), {"vary": ("Accept",)}, True),
        (delivered(), {"vary": ("Accept", "Save-Data")}, False),
        (delivered(), {"expires_at_s": 4_000_000_000}, False),
        (delivered(is_interim=True), {}, False),
        (delivered(found=variant(is_mark_missing=True)), {}, False),
        (delivered(Outcome.STALE, state=State.STALE), {}, False),
        (delivered(Outcome.REVALIDATED, state=State.REVALIDATED), {}, False),
    ],
    ids=["hit", "miss", "accept", "client-hint", "expires", "interim", "no-watermark", "stale", "revalidated"],
)
async def test_only_an_answer_that_is_the_same_for_all_is_repeated(
    answer: Delivered, request_: dict[str, Any], is_plain: bool
) -> None:
    """The fast path is told of an answer only if target and Accept class decide it, and its usual lifetime holds."""
    async with desk(answer, **request_) as here:
        await here.send()

        assert (len(here.plain) == 1) is is_plain


# --- 304 -----------------------------------------------------------------------------------------------------------


async def test_a_304_repeats_what_caches_need_and_says_nothing_about_the_body() -> None:
    """RFC 9110 15.4.5."""
    async with desk(not_modified(), vary=("Accept",), download_name="a.jpg") as here:
        reply = await here.send(If_None_Match=ETAG)

        assert (reply.status, reply.body) == (304, b"")
        assert reply.headers["ETag"] == ETAG
        assert reply.headers["Vary"] == "Accept"
        assert reply.headers["xkey"] == key_tag(HASHED)
        assert reply.headers["Cache-Control"] == "public, max-age=300, must-revalidate"
        assert reply.cache_status.endswith("detail=not-modified")
        assert {"Content-Type", "Content-Length", "Content-Disposition", "Accept-Ranges"}.isdisjoint(reply.headers)
        assert here.served[0].sent_bytes == 0


async def test_a_star_matches_every_picture_that_exists() -> None:
    """RFC 9110 13.1.2: the variant is there, so the answer is 304."""
    async with desk(delivered()) as here:
        reply = await here.send(If_None_Match=" * ")

        assert (reply.status, reply.body) == (304, b"")


# --- parts ---------------------------------------------------------------------------------------------------------

PART = (206, BODY[10:20], f"bytes 10-19/{len(BODY)}")
WHOLE = (200, BODY, None)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, WHOLE),
        ({"Range": "bytes=10-19"}, PART),
        ({"Range": "bytes=10-19", "If_Range": ETAG}, PART),
        ({"Range": "bytes=10-19", "If_Range": '"other"'}, WHOLE),
        ({"Range": "bytes=10-19", "If_Range": f"W/{ETAG}"}, WHOLE),
        ({"Range": "bytes=10-19", "If_Range": formatdate(0, usegmt=True)}, WHOLE),
        ({"Range": "bytes=10-19", "If_Range": formatdate(4e9, usegmt=True)}, WHOLE),
        ({"Range": "bytes=90-"}, (206, BODY[90:], f"bytes 90-99/{len(BODY)}")),
        ({"Range": "bytes=-5"}, (206, BODY[-5:], f"bytes 95-99/{len(BODY)}")),
        ({"Range": "bytes=0-1,5-6"}, WHOLE),
        ({"Range": "items=0-1"}, WHOLE),
    ],
    ids=["none", "range", "same", "other", "weak", "past", "future", "from", "last", "several", "unit"],
)
async def test_an_original_is_sent_in_part_if_the_client_has_this_very_version(
    tmp_path: Path, headers: dict[str, str], expected: tuple[int, bytes, str | None]
) -> None:
    """A date in If-Range proves nothing, so it gets the whole (RFC 9110 13.1.5)."""
    async with desk(passed_on(tmp_path / "original")) as here:
        reply = await here.send(**headers)

        assert (reply.status, reply.body, reply.headers.get("Content-Range")) == expected
        assert reply.headers["Accept-Ranges"] == "bytes"
        assert reply.headers["Content-Length"] == str(len(reply.body))


async def test_a_range_behind_the_end_is_416_with_the_size(tmp_path: Path) -> None:
    """RFC 9110 15.5.17."""
    async with desk(passed_on(tmp_path / "original")) as here:
        reply = await here.send(Range="bytes=100-")

        assert (reply.status, reply.headers["Content-Range"]) == (416, "bytes */100")


async def test_a_variant_is_never_sent_in_part() -> None:
    """Range is ignored: a variant is small, and may be rendered anew between two parts."""
    async with desk(delivered()) as here:
        reply = await here.send(Range="bytes=10-19")

        assert (reply.status, reply.body) == (200, BODY)


async def test_head_has_no_part(tmp_path: Path) -> None:
    """Range is defined for GET alone (RFC 9110 14.2)."""
    async with desk(passed_on(tmp_path / "original")) as here:
        reply = await here.send("HEAD", Range="bytes=10-19")

        assert (reply.status, reply.headers["Content-Length"]) == (200, str(len(BODY)))


# --- shared answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outcome", "is_shared"), [(Outcome.MISS, True), (Outcome.HIT, False)])
async def test_one_miss_is_written_to_all_that_wait_for_it(outcome: Outcome, is_shared: bool) -> None:
    """The first request has the usual head; the others are marked as collapsed and have no total time."""
    tier = Tier.ORIGIN if is_shared else Tier.MEMORY
    async with desk(delivered(outcome, tier=tier)) as here:
        here.waits_for = 3
        replies = await asyncio.gather(*(here.send() for _ in range(3)))
        collapsed = [reply for reply in replies if "collapsed" in reply.cache_status]

        assert [(reply.status, reply.body) for reply in replies] == [(200, BODY)] * 3
        assert len(collapsed) == (2 if is_shared else 0)
        assert all("total" not in reply.headers["Server-Timing"] for reply in collapsed)
        assert len(here.plain) == (1 if is_shared else 3)
        assert [(served.outcome, served.sent_bytes) for served in here.served] == [(outcome, len(BODY))] * 3
        assert here.hits(tier) == 3
        assert len(here.waiters) == 0


# --- refusals ------------------------------------------------------------------------------------------------------


def refuse(
    error: ImgproxyError, *, refusal: Refusal | None = None, started_s: float = 100.0, request: ImageRequest | None
) -> Served:
    """Refuse a request that began at `started_s` of the monotonic clock."""
    return Desk(delivered(), wanted()).responder.refuse("GET", request, error, refusal, started_s)


def refusal_of(error: ImgproxyError, *, since_s: float) -> Refusal:
    """A refusal that holds for 25 s more, and half a second for a slow machine."""
    return Refusal(error, since_s, time.monotonic() + 25.5)


@pytest.mark.parametrize(
    ("error", "refusal", "expected"),
    [
        (BadParameter("w", "0", "a number"), None, "imgproxy; detail=bad_parameter"),
        (BadSignature(), None, "imgproxy; detail=bad_signature"),
        (DecodeFailed(), None, "imgproxy; detail=decode_failed"),
        (Overloaded(), None, "imgproxy; detail=overloaded"),
        (OriginTimeout(5), None, "imgproxy; fwd=uri-miss; detail=origin_timeout"),
        (OriginStatus(500), None, "imgproxy; fwd=uri-miss; fwd-status=500; detail=origin_status"),
        (
            NotFound(),
            refusal_of(NotFound(), since_s=150),
            "imgproxy; fwd=uri-miss; fwd-status=404; ttl=25; detail=not_found",
        ),
        (Revoked(), refusal_of(Revoked(), since_s=50), "imgproxy; hit; ttl=25; detail=revoked"),
    ],
    ids=["parameter", "signature", "picture", "overload", "timeout", "status", "new-404", "remembered-403"],
)
def test_a_refusal_says_whether_the_origin_was_asked(
    error: ImgproxyError, refusal: Refusal | None, expected: str
) -> None:
    """A refusal that is older than the request is a hit; one that this request brought has the origin's status."""
    if refusal is not None:
        refusal = Refusal(error, refusal.since_s, time.monotonic() + 25.5)
    served = refuse(error, refusal=refusal, request=wanted())

    assert served.response.headers["Cache-Status"] == expected
    assert (served.response.status, served.code, served.outcome) == (error.status, error.code, Outcome.ERROR)


def test_a_refused_picture_is_tagged_and_varies_like_the_picture() -> None:
    """A purge of the key must reach a cached 404, too."""
    headers = refuse(NotFound(), request=wanted(vary=("Accept",))).response.headers

    assert headers["xkey"] == key_tag(HASHED)
    assert headers["Vary"] == "Accept"


def test_a_url_that_could_not_be_read_has_no_key() -> None:
    """So there is nothing to tag."""
    served = refuse(BadParameter("w", "0", "a number"), request=None)

    assert "xkey" not in served.response.headers


@pytest.mark.parametrize(
    ("error", "is_remembered", "expected"),
    [
        (NotFound(), True, "public, max-age=25"),
        (NotFound(), False, "public, max-age=30"),
        (DecodeFailed(), False, "public, max-age=60"),
        (Overloaded(), False, "no-store"),
        (OriginTimeout(5), False, "no-store"),
    ],
    ids=["remembered-404", "404", "picture", "overload", "timeout"],
)
def test_a_refusal_is_kept_no_longer_than_it_holds(error: ImgproxyError, is_remembered: bool, expected: str) -> None:
    """What may be over in a second is not stored by anyone."""
    refusal = refusal_of(error, since_s=50) if is_remembered else None

    assert refuse(error, refusal=refusal, request=wanted()).response.headers["Cache-Control"] == expected


def test_an_unsatisfiable_range_names_the_size() -> None:
    """RFC 9110 14.4."""
    assert refuse(UnsatisfiableRange(100), request=wanted()).response.headers["Content-Range"] == "bytes */100"
