"""
What tests may do to a running library: hold its answers at named points, and count what it was asked.

A test holds a point, makes its request, awaits `arrived`, does what must happen in between, and releases: every
interleaving without a sleep. In production there is no probe.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Literal

Point = Literal["headers", "body"]


class Probe:
    """
    Gates and counters of one library.

    Points of serve-image. `headers`: the picture is chosen and open, its validity decided, and nothing is sent; what
    is released later is still the picture as it was then. `body`: headers and about half of the bytes are sent.
    """

    def __init__(self) -> None:
        self._gates: dict[Point, asyncio.Event] = {}
        self._arrivals: Counter[Point] = Counter()
        self._arrived = asyncio.Condition()
        self._counts: Counter[tuple[str, str]] = Counter()

    def hold(self, point: Point) -> None:
        """Make every request wait at this point from now on; `arrived` counts from here."""
        self._gates[point] = asyncio.Event()
        self._arrivals[point] = 0

    def release(self, point: Point) -> None:
        """Let those that wait at this point go on, and hold no more."""
        gate = self._gates.pop(point, None)
        if gate is not None:
            gate.set()

    async def arrived(self, point: Point, count: int = 1) -> None:
        """Wait until `count` requests have come to the held point."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self._arrivals[point] >= count)

    def count(self, endpoint: str, key: str | None = None) -> int:
        """
        Return how often an endpoint was asked, for one key or entry id or for all.

        Endpoints: getEntry, patchEntry, getEntries, incomingDocumentReferences, incomingMediaReferences, serveImage,
        usageLog, keys.
        """
        if key is not None:
            return self._counts[endpoint, key]
        return sum(times for (name, _), times in self._counts.items() if name == endpoint)

    def reset(self) -> None:
        """Count from zero."""
        self._counts.clear()

    def saw(self, endpoint: str, key: str) -> None:
        """Called by the server for each request, before anything else."""
        self._counts[endpoint, key] += 1

    async def pass_(self, point: Point) -> None:
        """Called by the server at each point."""
        gate = self._gates.get(point)
        if gate is None:
            return
        async with self._arrived:
            self._arrivals[point] += 1
            self._arrived.notify_all()
        await gate.wait()
