"""The gate before the origin: who may pass, who waits, and what happens to those who leave."""

from __future__ import annotations

import asyncio

import pytest

from imgproxy.admission.fetch_gate import FetchGate
from imgproxy.errors import Overloaded


async def turns(count: int = 3) -> None:
    """Let whatever is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def entered(gate: FetchGate, count: int) -> list[asyncio.Task[None]]:
    """So many at the gate, in order; the tasks of those that passed are done."""
    tasks = [asyncio.create_task(gate.enter()) for _ in range(count)]
    await turns()
    return tasks


async def test_so_many_pass_and_the_others_wait_in_order() -> None:
    """Each that leaves lets in who has waited longest."""
    gate = FetchGate(2, 10)
    tasks = await entered(gate, 4)
    assert [task.done() for task in tasks] == [True, True, False, False]
    assert len(gate) == 4

    gate.leave()
    await turns()

    assert [task.done() for task in tasks] == [True, True, True, False]
    gate.leave()
    await turns()
    assert tasks[3].done()


async def test_more_than_may_wait_are_refused() -> None:
    """Who finds the queue full is told so at once."""
    gate = FetchGate(1, 1)
    tasks = await entered(gate, 2)
    with pytest.raises(Overloaded):
        await gate.enter()
    gate.leave()
    await tasks[1]


async def test_the_gate_opens_as_wide_as_is_of_use() -> None:
    """Nobody passes while fetches are of no use; a look lets them in as soon as they are again."""
    limit = 0
    gate = FetchGate(2, 10)
    gate.narrow_to(lambda: limit)
    tasks = await entered(gate, 4)
    assert not any(task.done() for task in tasks)

    limit = 1
    gate.look()
    await turns()
    assert [task.done() for task in tasks] == [True, False, False, False]

    limit = 100
    gate.look()
    await turns()
    assert [task.done() for task in tasks] == [True, True, False, False]
    for _ in range(2):
        gate.leave()
    await asyncio.gather(*tasks)


async def test_who_comes_may_be_what_opens_it() -> None:
    """A limit that counts who is at the gate is asked again with each that comes, for all that wait."""
    gate = FetchGate(10, 10)
    gate.narrow_to(lambda: 2 if len(gate) == 3 else 0)
    tasks = await entered(gate, 3)
    assert [task.done() for task in tasks] == [True, True, False]
    tasks[2].cancel()


async def test_who_gives_up_waiting_takes_nobodys_turn() -> None:
    """Neither before its turn nor in the very moment in which it comes."""
    gate = FetchGate(1, 10)
    tasks = await entered(gate, 4)
    tasks[1].cancel()
    await turns()
    assert len(gate) == 3

    gate.leave()  # the turn of the third ...
    tasks[2].cancel()  # ... which leaves before it hears of it
    await turns()

    assert tasks[1].cancelled()
    assert tasks[2].cancelled()
    assert tasks[3].done()
    assert not tasks[3].cancelled()
    assert len(gate) == 1


async def test_one_given_up_in_the_moment_of_the_look_is_passed_over() -> None:
    """A waiter that was cancelled and has not run yet does not keep the next one waiting."""
    gate = FetchGate(1, 10)
    tasks = await entered(gate, 3)
    tasks[1].cancel()
    gate.leave()
    await turns()
    assert tasks[1].cancelled()
    assert tasks[2].done()
    assert len(gate) == 1
