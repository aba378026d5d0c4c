"""Lanes: which of the waiting jobs is next."""

import asyncio
from collections.abc import Iterator

import pytest

from imgproxy.render.job import Lane, RenderJob, RenderTarget
from imgproxy.render.lanes import Lanes
from imgproxy.render.ticket import Ticket
from tests.unit.test_stand_ins import plan


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop whose futures nobody waits for."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


def waiting(loop: asyncio.AbstractEventLoop, *lanes: Lane, size: int = 4) -> Lanes:
    """Jobs that came in this order."""
    found = Lanes(size)
    for lane in lanes:
        job = RenderJob("original", (RenderTarget(plan(100), "x"),))
        found.add(Ticket(job, lane, loop.create_future(), None, queued_at=0.0))
    return found


def served(lanes: Lanes) -> list[Lane]:
    """The lanes in the order in which an only process takes from them."""
    order = []
    while (ticket := lanes.next()) is not None:
        order.append(ticket.lane)
    return order


def test_visitors_go_before_animations_and_background_work(loop: asyncio.AbstractEventLoop) -> None:
    """Whoever came first."""
    lanes = waiting(loop, Lane.BACKGROUND, Lane.ANIMATION, Lane.VISITOR, Lane.VISITOR)

    assert served(lanes) == [Lane.VISITOR, Lane.VISITOR, Lane.ANIMATION, Lane.BACKGROUND]


def test_stand_ins_have_every_second_turn_while_visitors_wait(loop: asyncio.AbstractEventLoop) -> None:
    """However many of them come, a visitor's own picture is not held up by more than one at a time."""
    lanes = waiting(loop, *[Lane.VISITOR] * 2, *[Lane.STAND_IN] * 4)

    assert served(lanes) == [
        Lane.STAND_IN,
        Lane.VISITOR,
        Lane.STAND_IN,
        Lane.VISITOR,
        Lane.STAND_IN,
        Lane.STAND_IN,
    ]


@pytest.mark.parametrize("lane", [Lane.STAND_IN, Lane.ANIMATION, Lane.BACKGROUND])
def test_only_visitors_may_hold_every_process(loop: asyncio.AbstractEventLoop, lane: Lane) -> None:
    """One process is left to those who wait for a picture of their own."""
    lanes = waiting(loop, *[lane] * 3, size=2)
    assert lanes.next() is not None
    lanes.begun(lane)

    assert lanes.next() is None
    lanes.ended(lane)
    assert lanes.next() is not None
    assert lanes.free(Lane.VISITOR, 2) == 2
    assert lanes.free(lane, 2) == 0
