"""Waiters: which requests take an answer that another request writes, and when such an answer counts as sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web
from multidict import CIMultiDict

from imgproxy.cache.entry import Tier
from imgproxy.cache.purge_event import Purged, PurgeEvent
from imgproxy.delivery.request import Outcome
from imgproxy.edge.request_ids import REQUEST_ID
from imgproxy.edge.waiters import WRITTEN_AT_ONCE_MAX, Waiter, Waiters, Written
from imgproxy.params.negotiate import AcceptClass
from imgproxy.purge.answers import Answers, Sending
from tests.support.answers import delivered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TARGET = "/a.jpg?w=50"
BODY = b"picture"
MADE = delivered(Outcome.MISS, tier=Tier.ORIGIN)


class FakeTransport:
    """A connection and its transport. It keeps what is written; `unsent_bytes` of that are still in this process."""

    def __init__(self, *, unsent_bytes: int = 0, is_closed: bool = False) -> None:
        self.written: list[bytes] = []
        self.unsent_bytes = unsent_bytes
        self.is_closed = is_closed
        self.is_cut = False

    def is_closing(self) -> bool:
        return self.is_closed

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.written += parts

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def cut(self) -> None:
        self.is_cut = True


class FakeWriter:
    """The writer of a request. `drain` raises `error`, if one is set."""

    def __init__(self) -> None:
        self.drains = 0
        self.error: Exception | None = None

    async def drain(self) -> None:
        self.drains += 1
        if self.error is not None:
            raise self.error


@dataclass
class FakeRequest:
    """As much of a request as waiters look at."""

    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    version: HttpVersion = HttpVersion11
    keep_alive: bool = True
    raw_path: str = TARGET
    accept: AcceptClass = AcceptClass.LEGACY
    transport: FakeTransport | None = field(default_factory=FakeTransport)

    @property
    def protocol(self) -> FakeTransport | None:
        return self.transport

    writer: FakeWriter = field(default_factory=FakeWriter)

    def __post_init__(self) -> None:
        self.headers = CIMultiDict(self.headers)

    def __getitem__(self, name: object) -> str:
        assert name is REQUEST_ID
        return "an-id"


def enter(waiters: Waiters, request: FakeRequest) -> Waiter | None:
    return waiters.enter(cast("web.BaseRequest", request), request.accept)


def entered(waiters: Waiters, request: FakeRequest) -> Waiter:
    waiter = enter(waiters, request)
    assert waiter is not None
    return waiter


def answers_and_sending() -> tuple[Answers, PurgeEvent, Callable[[Callable[[], None]], Sending]]:
    event = PurgeEvent()
    answers = Answers(event)
    return answers, event, lambda cut: answers.sending(("hash",), cut)


def write(waiter: Waiter) -> bool:
    return waiter.write(b"head", BODY, MADE, answers_and_sending()[2])


@pytest.mark.parametrize(
    ("request_", "is_waiter"),
    [
        (FakeRequest(), True),
        (FakeRequest(accept=AcceptClass.WEBP), True),
        (FakeRequest(method="HEAD"), False),
        (FakeRequest(headers={"If-None-Match": '"e"'}), False),
        (FakeRequest(headers={"If-Match": '"e"'}), False),
        (FakeRequest(version=HttpVersion10), False),
        (FakeRequest(keep_alive=False), False),
    ],
    ids=["plain", "accept", "head", "condition", "if-match", "http-1.0", "last-of-its-connection"],
)
def test_only_a_plain_request_waits_for_the_answer_of_another(request_: FakeRequest, is_waiter: bool) -> None:
    """Other requests get a head of their own, or none."""
    waiters = Waiters()

    assert (enter(waiters, request_) is not None) is is_waiter
    assert len(waiters) == is_waiter


def test_waiters_are_found_by_target_and_accept_class_in_the_order_in_which_they_came() -> None:
    """Another target or another class is another answer."""
    waiters = Waiters()
    first = entered(waiters, FakeRequest(accept=AcceptClass.WEBP))
    entered(waiters, FakeRequest(accept=AcceptClass.AVIF))
    entered(waiters, FakeRequest(raw_path="/b.jpg", accept=AcceptClass.WEBP))
    second = entered(waiters, FakeRequest(accept=AcceptClass.WEBP))

    assert waiters.unanswered((TARGET, AcceptClass.WEBP)) == [first, second]
    assert waiters.unanswered(("/c.jpg", AcceptClass.WEBP)) == []


def test_a_waiter_with_an_answer_or_that_has_left_is_not_answered_again() -> None:
    """What is left are those that still wait."""
    waiters = Waiters()
    answered, left, waits = (entered(waiters, FakeRequest()) for _ in range(3))
    write(answered)
    waiters.leave(left)

    assert waiters.unanswered((TARGET, AcceptClass.LEGACY)) == [waits]
    for waiter in (answered, left, waits):
        waiters.leave(waiter)
    assert len(waiters) == 0


def test_so_many_waiters_are_answered_at_once() -> None:
    """Other requests wait while the answers are written, so there is a limit."""
    waiters = Waiters()
    for _ in range(WRITTEN_AT_ONCE_MAX + 5):
        enter(waiters, FakeRequest())

    assert len(waiters.unanswered((TARGET, AcceptClass.LEGACY))) == WRITTEN_AT_ONCE_MAX


def test_an_answer_is_given_to_the_transport_whole() -> None:
    """Head, the id of its own request, and body at once; the waiter knows what it came to."""
    request = FakeRequest()
    waiter = entered(Waiters(), request)

    is_written = write(waiter)

    assert is_written
    assert request.transport is not None
    assert request.transport.written == [b"head", b"X-Request-Id: an-id\r\n", b"\r\n", BODY]
    assert (waiter.delivered, waiter.sent_bytes, waiter.is_sent) == (MADE, len(BODY), True)


@pytest.mark.parametrize("transport", [None, FakeTransport(is_closed=True)], ids=["none", "closing"])
def test_nothing_is_written_to_a_client_that_left(transport: FakeTransport | None) -> None:
    """The waiter stays without an answer."""
    waiter = entered(Waiters(), FakeRequest(transport=transport))

    assert not write(waiter)
    assert waiter.delivered is None


async def test_an_answer_that_is_still_in_this_process_can_be_cut_by_a_purge() -> None:
    """It counts as under way until its request leaves; a purge closes its connection."""
    answers, event, sending = answers_and_sending()
    waiters, transport = Waiters(), FakeTransport(unsent_bytes=1)
    waiter = entered(waiters, FakeRequest(transport=transport))
    waiter.write(b"head", BODY, MADE, sending)
    event.publish(Purged("hash", "a.jpg"))
    cut = await answers.drain(["hash"], 0.0)
    waiters.leave(waiter)
    event.publish(Purged("hash", "a.jpg"))

    assert not waiter.is_sent
    assert (cut, transport.is_cut) == (1, True)
    assert await answers.drain(["hash"], 0.0) == 0


async def test_an_answer_that_the_kernel_has_is_not_under_way() -> None:
    """A purge does not wait for it."""
    answers, event, sending = answers_and_sending()
    waiter = entered(Waiters(), FakeRequest())
    waiter.write(b"head", BODY, MADE, sending)
    event.publish(Purged("hash", "a.jpg"))

    assert await answers.drain(["hash"], 0.0) == 0


@pytest.mark.parametrize(("unsent_bytes", "drains"), [(0, 0), (1, 1)])
async def test_a_waiter_waits_for_the_kernel_only_if_it_must(unsent_bytes: int, drains: int) -> None:
    """`served` returns at once if the kernel had everything as it was written."""
    request = FakeRequest(transport=FakeTransport(unsent_bytes=unsent_bytes))
    waiter = entered(Waiters(), request)
    write(waiter)
    served = await waiter.served()

    assert (served.outcome, served.sent_bytes, served.delivered) == (Outcome.MISS, len(BODY), MADE)
    assert request.writer.drains == drains


async def test_a_client_that_leaves_before_its_answer_is_sent_is_an_error() -> None:
    """The request is then logged as one whose client left."""
    request = FakeRequest(transport=FakeTransport(unsent_bytes=1))
    request.writer.error = ConnectionResetError()
    waiter = entered(Waiters(), request)
    write(waiter)

    with pytest.raises(ConnectionError):
        await waiter.served()


async def test_a_written_answer_writes_nothing_more() -> None:
    """Aiohttp prepares and ends it like any answer, and finds nothing to do; the connection stays open."""
    response = Written()

    assert await response.prepare(cast("web.BaseRequest", SimpleNamespace())) is None
    await response.write_eof(b"more")
    assert response.keep_alive
