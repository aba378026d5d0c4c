"""Single flight."""

import asyncio
import gc

import pytest

from imgproxy.flights import Flights


async def test_waiters_share_one_piece_of_work() -> None:
    """However many join, the work is done once, and all get its result."""
    flights: Flights[int] = Flights()
    gate = asyncio.Event()
    runs = 0

    async def work() -> int:
        nonlocal runs
        runs += 1
        await gate.wait()
        return 7

    waiters = [asyncio.create_task(flights.join("k", work)) for _ in range(300)]
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(*waiters)

    assert runs == 1
    assert [value for value, _ in results] == [7] * 300
    assert sum(joined for _, joined in results) == 299
    assert len(flights) == 0


async def test_a_cancelled_leader_does_not_cancel_the_others() -> None:
    """When the first caller is cancelled, the callers that joined still get the result."""
    flights: Flights[str] = Flights()
    gate = asyncio.Event()

    async def work() -> str:
        await gate.wait()
        return "done"

    leader = asyncio.create_task(flights.join("k", work))
    await asyncio.sleep(0)
    follower = asyncio.create_task(flights.join("k", work))
    await asyncio.sleep(0)
    leader.cancel()
    await asyncio.sleep(0)
    gate.set()

    assert await follower == ("done", True)


async def test_work_nobody_waits_for_is_cancelled() -> None:
    """When the last waiter is cancelled, so is the work; the next caller starts a new flight."""
    flights: Flights[str] = Flights()
    cancelled = asyncio.Event()

    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "never"

    waiter = asyncio.create_task(flights.join("k", work))
    await asyncio.sleep(0)
    waiter.cancel()
    await cancelled.wait()

    async def again() -> str:
        return "again"

    assert await flights.join("k", again) == ("again", False)


async def test_a_failure_reaches_every_waiter_and_is_not_remembered() -> None:
    """Every waiter gets the error; the next call tries again."""
    flights: Flights[int] = Flights()

    async def fail() -> int:
        await asyncio.sleep(0)
        raise ValueError

    results = await asyncio.gather(flights.join("k", fail), flights.join("k", fail), return_exceptions=True)

    async def succeed() -> int:
        return 1

    assert [type(result) for result in results] == [ValueError, ValueError]
    assert await flights.join("k", succeed) == (1, False)


async def test_after_detach_a_new_caller_starts_a_new_flight() -> None:
    """A detached flight gives its result to its own waiters only."""
    flights: Flights[str] = Flights()
    gate = asyncio.Event()

    async def old() -> str:
        await gate.wait()
        return "old"

    async def new() -> str:
        return "new"

    first = asyncio.create_task(flights.join(("k", 1), old))
    await asyncio.sleep(0)
    flights.detach_where(lambda name: isinstance(name, tuple) and name[0] == "k")

    assert await flights.join(("k", 1), new) == ("new", False)
    gate.set()
    assert await first == ("old", False)


async def test_a_launched_flight_goes_on_without_waiters() -> None:
    """A caller that joins a launched flight and is cancelled does not cancel it."""
    flights: Flights[int] = Flights()
    gate = asyncio.Event()

    async def work() -> int:
        await gate.wait()
        return 3

    flights.launch("k", work)
    visitor = asyncio.create_task(flights.join("k", work))
    await asyncio.sleep(0)
    visitor.cancel()
    with pytest.raises(asyncio.CancelledError):
        await visitor
    another = asyncio.create_task(flights.join("k", work))
    await asyncio.sleep(0)
    gate.set()

    assert await another == (3, True)


async def test_waiters_hear_of_a_result_before_the_task_has_ended() -> None:
    """The work wakes them itself, in the next turn of the loop; the end of its task would do so a turn later."""
    flights: Flights[int] = Flights()
    happened: list[str] = []

    async def work() -> int:
        loop = asyncio.get_running_loop()
        happened.append("made")
        loop.call_soon(loop.call_soon, happened.append, "two turns later")
        return 1

    await flights.join("k", work)
    happened.append("heard")
    await asyncio.sleep(0)

    assert happened == ["made", "heard", "two turns later"]


async def test_ended_waits_for_a_flight_however_it_ends() -> None:
    """A failed flight has ended, too; a name without a flight needs no wait."""
    flights: Flights[int] = Flights()
    gate = asyncio.Event()

    async def fail() -> int:
        await gate.wait()
        raise ValueError

    flights.launch("k", fail)
    ended = asyncio.create_task(flights.ended("k"))
    await asyncio.sleep(0)
    assert not ended.done()
    gate.set()
    await ended
    await flights.ended("other")

    assert len(flights) == 0


async def test_an_error_that_nobody_waits_for_is_not_reported() -> None:
    """A launched flight that fails without a waiter leaves no error for asyncio to log."""
    flights: Flights[int] = Flights()
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def fail() -> int:
        raise ValueError

    flights.launch("k", fail)
    await flights.ended("k")
    await asyncio.sleep(0)
    gc.collect()

    assert not reported


async def test_close_cancels_every_flight_also_a_detached_one() -> None:
    """The waiters are cancelled, and nothing is under way afterwards."""
    flights: Flights[int] = Flights()

    async def work() -> int:
        await asyncio.Event().wait()
        return 1

    waiters = [asyncio.create_task(flights.join(name, work)) for name in ("a", "b")]
    await asyncio.sleep(0)
    flights.detach("a")
    await flights.close()
    await asyncio.wait(waiters)

    assert all(waiter.cancelled() for waiter in waiters)
    assert len(flights) == 0
