"""Turns: how many calls of the keys API run at a time, and how long a call waits for its turn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from imgproxy.medialibrary.errors import OriginTimeout
from imgproxy.purge.turns import WAITS_MAX, Turns
from tests.support.jumping_loop import JumpingLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine

SILENCE_S = 5.0
CALLS_MAX = 4


def run(story: Coroutine[None, None, list[float | None]]) -> list[float | None]:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(story)


async def storm(calls: int, call_s: float, *, is_answered: bool = True) -> list[float | None]:
    """Begin so many calls at once. Return after how many seconds each ended; None for those that had no turn."""
    turns, loop = Turns(CALLS_MAX), asyncio.get_running_loop()
    began_s, running = loop.time(), 0

    async def one() -> float | None:
        nonlocal running
        try:
            async with turns.turn(SILENCE_S):
                running += 1
                assert running <= CALLS_MAX
                await asyncio.sleep(call_s)
                running -= 1
                if is_answered:
                    turns.answered()
        except OriginTimeout:
            return None
        return loop.time() - began_s

    return await asyncio.gather(*(one() for _ in range(calls)))


def test_calls_run_a_few_at_a_time_in_the_order_in_which_they_came() -> None:
    """While the API answers, each call gets its turn, also if that takes longer than the API may be silent."""
    ended_s = run(storm(40, 1.0))

    assert ended_s == [1.0 + number // CALLS_MAX for number in range(40)]


def test_nobody_waits_for_an_api_that_answers_no_one() -> None:
    """Those who wait give up when the time is over in which the first calls had no answer."""
    ended_s = run(storm(1_000, SILENCE_S + 1, is_answered=False))

    assert ended_s[:CALLS_MAX] == [SILENCE_S + 1] * CALLS_MAX
    assert set(ended_s[CALLS_MAX:]) == {None}


def test_the_wait_for_a_slow_api_is_bounded() -> None:
    """An API that answers a call now and then keeps nobody for ever."""
    ended_s = [end_s for end_s in run(storm(1_000, SILENCE_S - 1)) if end_s is not None]

    assert CALLS_MAX < len(ended_s) < 1_000
    assert max(ended_s) <= WAITS_MAX * SILENCE_S + SILENCE_S - 1


def test_a_call_that_is_cancelled_while_it_waits_gives_its_turn_back() -> None:
    """All turns are free again in the end."""

    async def story() -> list[float | None]:
        turns = Turns(1)
        async with turns.turn(SILENCE_S):
            waiting = [asyncio.create_task(turns.turn(SILENCE_S).__aenter__()) for _ in range(3)]
            await asyncio.sleep(0)
            for task in waiting[:2]:
                task.cancel()
            await asyncio.gather(*waiting[:2], return_exceptions=True)
            waiting[2].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        async with turns.turn(SILENCE_S):
            return [0.0]

    assert run(story()) == [0.0]
