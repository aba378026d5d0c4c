"""
Single flight: requests that want the same thing at the same time share one piece of work.

The work runs in a task of its own, not in the task of the first caller. So it goes on when the first caller is
cancelled, and it is cancelled when the last one is.
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
    task: asyncio.Task[None] = field(init=False)
    # One future for each caller, in the order of arrival; a caller that is cancelled cancels only its own.
    waiters: dict[asyncio.Future[Result], None] = field(default_factory=dict)
    is_kept: bool = False  # it goes on without waiters


class Flights(Generic[Result]):
    """The pieces of work that run now, by name."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[Result]] = {}
        self._running: dict[asyncio.Task[None], _Flight[Result]] = {}  # also detached flights, for close

    async def join(self, name: Hashable, start: Callable[[], Coroutine[Any, Any, Result]]) -> tuple[Result, bool]:
        """
        Wait for the flight of this name. Start it with `start()` if there is none.

        Returns the result, and whether the flight ran already. Raises what the work raises.
        """
        flight = self._flights.get(name)
        joined = flight is not None
        if flight is None:
            flight = self._begin(name, start)
        # `asyncio.shield` would do the same, but takes twice as long to wait and to be woken.
        waiter: asyncio.Future[Result] = flight.task.get_loop().create_future()
        flight.waiters[waiter] = None
        try:
            return await waiter, joined
        finally:
            del flight.waiters[waiter]
            if not flight.waiters and not flight.is_kept and not flight.task.done():
                self._remove(name, flight)
                flight.task.cancel()

    def launch(self, name: Hashable, start: Callable[[], Coroutine[Any, Any, Result]]) -> None:
        """Start the flight of this name, or find it. It is then not cancelled when its waiters are."""
        flight = self._flights.get(name)
        if flight is None:
            flight = self._begin(name, start)
        flight.is_kept = True

    async def ended(self, name: Hashable) -> None:
        """Wait until the flight of this name has ended, with a result or an error. Return at once if there is none."""
        flight = self._flights.get(name)
        if flight is not None:
            await asyncio.wait([flight.task])

    def detach(self, name: Hashable) -> None:
        """Forget the name. The flight goes on for its waiters; the next caller starts a new one."""
        self._flights.pop(name, None)

    def detach_where(self, matches: Callable[[Hashable], bool]) -> None:
        """Detach every flight whose name matches."""
        for name in [name for name in self._flights if matches(name)]:
            self.detach(name)

    async def close(self) -> None:
        """Cancel all flights, also the detached ones, and wait until they have ended."""
        running = dict(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        # A task that is cancelled before it begins does neither itself.
        self._flights.clear()
        for flight in running.values():
            _tell(flight, None)

    def __contains__(self, name: Hashable) -> bool:
        """Whether there is a flight of this name to join."""
        return name in self._flights

    def __len__(self) -> int:
        return len(self._flights)

    def _begin(self, name: Hashable, start: Callable[[], Coroutine[Any, Any, Result]]) -> _Flight[Result]:
        flight: _Flight[Result] = _Flight()
        flight.task = asyncio.get_running_loop().create_task(self._run(name, flight, start))
        self._flights[name] = flight
        self._running[flight.task] = flight
        flight.task.add_done_callback(self._running.pop)
        return flight

    async def _run(
        self, name: Hashable, flight: _Flight[Result], start: Callable[[], Coroutine[Any, Any, Result]]
    ) -> None:
        """
        Do the work and tell the waiters how it ended.

        Not by a callback at the task's end: that would wake them a turn of the loop later. An error without a waiter is
        nobody's.
        """
        try:
            result = await start()
        except Exception as error:
            self._remove(name, flight)
            _tell(flight, error)
        except BaseException:
            self._remove(name, flight)
            _tell(flight, None)
            raise
        else:
            self._remove(name, flight)
            for waiter in flight.waiters:
                if not waiter.done():
                    waiter.set_result(result)

    def _remove(self, name: Hashable, flight: _Flight[Result]) -> None:
        if self._flights.get(name) is flight:
            del self._flights[name]


def _tell(flight: _Flight[Any], error: Exception | None) -> None:
    """Raise the error in all callers that still wait; None cancels them."""
    for waiter in flight.waiters:
        if waiter.done():
            continue
        if error is None:
            waiter.cancel()
        else:
            waiter.set_exception(error)
