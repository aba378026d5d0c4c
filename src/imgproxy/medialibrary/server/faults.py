"""Deliberate faults, for tests and demos: late answers and failed answers."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from imgproxy.medialibrary.server.problems import named


@dataclass(slots=True)
class Faults:
    """The latency and the share of failures of all answers. Both may change while the library runs."""

    latency_ms: float = 0.0
    fail_rate: float = 0.0

    async def delay_or_fail(self) -> None:
        """
        Wait `latency_ms`, then fail with the probability `fail_rate`.

        Raises:
            Problem: 503.
        """
        if self.latency_ms > 0:
            await asyncio.sleep(self.latency_ms / 1000)
        if self.fail_rate > 0 and random.random() < self.fail_rate:
            raise named(503, "ServiceUnavailable", "This answer failed on purpose")
