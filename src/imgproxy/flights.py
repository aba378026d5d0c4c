"""
Single flight: however many ask for the same thing at the same time, it is made once.

The work runs in a task of its own, not in that of whoever came first: a leader that leaves takes nobody down with it,
and the work is cancelled only when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class _Flight(Generic[Result]):
    task: asyncio.Task[Result] = field(init=False)
    # In the order in which they came; what each waits on is its own, so that one that leaves takes nothing along.
    waiters: dict[asyncio.Future[Result], None] = field(default_factory=dict)
    is_kept: bool = False  # it goes on without waiters


class Flights(Generic[Result]):
    """Work under way, by name."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[Result]] = {}
        self._tasks: set[asyncio.Task[Result]] = set()  # also those of detached flights, for close

    async def join(self, name: Hashable, start: Callable[[], Coroutine[Any, Any, Result]]) -> tuple[Result, bool]:
        """
        Wait for the flight of this name, starting it if there is none.

        Returns its result, and whether this caller joined a flight that was already on. Raises what the work raises.
        """
        flight = self._flights.get(name)
        joined = flight is not None
        if flight is None:
            flight = self._begin(name, start)
        # Not `asyncio.shield`: with its callback for each waiter it takes twice as long to wait and to be woken.
        waiter: asyncio.Future[Result] = flight.task.get_loop().create_future()
        flight.waiters[waiter] = None
        try:
            return await waiter, joined
        finally:
            del flight.waiters[waiter]
            if not flight.waiters and not flight.is_kept and not flight.task.done():
                self._remove(name, flight)
                flight.task.cancel()

    def launch(self, name: Hashable, start: Callable[[], Coroutine[Any, Any, Result]]) -> asyncio.Task[Result]:
        """Start the flight without waiting for it, or find it on its way; it is then not cancelled with its waiters."""
        flight = self._flights.get(name)
        if flight is None:
            flight = self._begin(name, start)
        flight.is_kept = True
        return flight.task

    async def ended(self, name: Hashable) -> None:
        """Wait until the flight of this name, if there is one, has ended, however it does."""
        flight = self._flights.get(name)
        if flight is not None:
            await asyncio.wait([flight.task])

    def detach(self, name: Hashable) -> None:
        """Let the flight end by itself; who asks from now on starts a new one."""
        self._flights.pop(name, None)

    def detach_where(self, matches: Callable[[Hashable], bool]) -> None:
        """Detach every flight whose name matches."""
        for name in [name for name in self._flights if matches(name)]:
            self.detach(name)

    def _begin(self, name: Hashable, start: Callable[[], Coroutine[Any, Any, Result]]) -> _Flight[Result]:
        flight: _Flight[Result] = _Flight()
        flight.task = asyncio.get_running_loop().create_task(self._fly(name, flight, start))
        self._flights[name] = flight
        self._tasks.add(flight.task)
        flight.task.add_done_callback(lambda task: self._land(name, flight, task))
        return flight

    async def _fly(
        self, name: Hashable, flight: _Flight[Result], start: Callable[[], Coroutine[Any, Any, Result]]
    ) -> Result:
        """Do the work, and wake its waiters at once: of the task's end they would hear a turn of the loop later."""
        result = await start()
        self._remove(name, flight)
        for waiter in flight.waiters:
            if not waiter.done():
                waiter.set_result(result)
        return result

    def _land(self, name: Hashable, flight: _Flight[Result], task: asyncio.Task[Result]) -> None:
        """The work has ended: those who wait still wait for an error, or a cancellation."""
        self._remove(name, flight)
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()  # looked at here: everyone may have left
        for waiter in flight.waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.cancel()
            else:
                waiter.set_exception(error)

    def _remove(self, name: Hashable, flight: _Flight[Result]) -> None:
        if self._flights.get(name) is flight:
            del self._flights[name]

    def __contains__(self, name: Hashable) -> bool:
        """Whether a flight of this name is on that can be joined."""
        return name in self._flights

    def __len__(self) -> int:
        return len(self._flights)

    async def close(self) -> None:
        """Cancel what is under way and wait for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
