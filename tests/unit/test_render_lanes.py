"""Lanes: which of the waiting jobs is next."""

import asyncio
from collections.abc import Iterator

import pytest

from imgproxy.config.sections import RenderSettings
from imgproxy.workers.job import Lane, RenderJob, RenderTarget
from imgproxy.workers.lanes import Lanes
from imgproxy.workers.ticket import Ticket
from tests.unit.test_stand_ins import plan


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop whose futures nobody waits for."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


def waiting(loop: asyncio.AbstractEventLoop, *lanes: Lane, size: int = 4) -> Lanes:
    """Jobs that came in this order."""
    found = Lanes(size, RenderSettings())
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


@pytest.mark.parametrize("size", [1, 4])
def test_animations_are_not_held_up_either(loop: asyncio.AbstractEventLoop, size: int) -> None:
    """They are pictures of visitors' own, too; background work can wait."""
    lanes = waiting(loop, *[Lane.STAND_IN] * 3, Lane.ANIMATION, Lane.BACKGROUND, size=size)

    assert served(lanes) == [Lane.STAND_IN, Lane.ANIMATION, Lane.STAND_IN, Lane.STAND_IN, Lane.BACKGROUND]


@pytest.mark.parametrize("size", [1, 3])
def test_as_many_stand_ins_wait_as_there_are_processes(loop: asyncio.AbstractEventLoop, size: int) -> None:
    """However long the queue of visitors is: it is full, or none would come."""
    lanes = waiting(loop, *[Lane.STAND_IN] * (size - 1), *[Lane.VISITOR] * 5, size=size)
    assert lanes.has_room(Lane.STAND_IN, 1000.0)
    lanes.add(Ticket(RenderJob("x", ()), Lane.STAND_IN, loop.create_future(), None, queued_at=0.0))
    lanes.add(Ticket(RenderJob("x", (RenderTarget(plan(1), "x"),)), Lane.STAND_IN, loop.create_future(), None, 0.0))

    assert not lanes.has_room(Lane.STAND_IN, 0.0)


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
