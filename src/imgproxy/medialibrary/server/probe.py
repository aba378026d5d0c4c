"""
A probe in a running library, for tests: it holds answers at named points and counts requests.

A test calls `hold`, sends its request, awaits `arrived`, does what must happen in between, and calls `release`. So it
can produce any order of events without a sleep. In production there is no probe.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Literal

Point = Literal["headers", "body"]


class Probe:
    """
    The points and the counters of one library.

    serve-image has two points. At `headers`, the library has checked the entry and opened the picture, and has sent
    nothing; later changes do not affect this answer. At `body`, it has sent the headers and about half of the bytes.
    """

    def __init__(self) -> None:
        self._gates: dict[Point, asyncio.Event] = {}
        self._arrivals: Counter[Point] = Counter()
        self._arrived = asyncio.Condition()
        self._counts: Counter[tuple[str, str]] = Counter()

    def hold(self, point: Point) -> None:
        """Make every request wait at this point from now on. `arrived` counts from zero."""
        self._gates[point] = asyncio.Event()
        self._arrivals[point] = 0

    def release(self, point: Point) -> None:
        """Let the waiting requests go on, and stop holding this point."""
        gate = self._gates.pop(point, None)
        if gate is not None:
            gate.set()

    async def arrived(self, point: Point, count: int = 1) -> None:
        """Wait until `count` requests have reached the held point."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self._arrivals[point] >= count)

    def count(self, endpoint: str, key: str | None = None) -> int:
        """
        Return the number of requests to an endpoint, for one key or entry id, or for all.

        Endpoints: getEntry, patchEntry, getEntries, incomingDocumentReferences, incomingMediaReferences, serveImage,
        usageLog, keys.
        """
        if key is not None:
            return self._counts[endpoint, key]
        return sum(times for (name, _), times in self._counts.items() if name == endpoint)

    def reset(self) -> None:
        """Set all counters to zero."""
        self._counts.clear()

    def count_request(self, endpoint: str, key: str) -> None:
        """Count one request. The server calls this before it does anything else."""
        self._counts[endpoint, key] += 1

    async def wait_at(self, point: Point) -> None:
        """Wait while this point is held. The server calls this at each point."""
        gate = self._gates.get(point)
        if gate is None:
            return
        async with self._arrived:
            self._arrivals[point] += 1
            self._arrived.notify_all()
        await gate.wait()
