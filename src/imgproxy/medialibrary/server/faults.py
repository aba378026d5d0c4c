"""Being a bad origin on purpose: answers that come late, answers that fail."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from imgproxy.medialibrary.server.problems import named


@dataclass(slots=True)
class Faults:
    """What goes wrong from now on; may be changed while the library runs."""

    latency_ms: float = 0.0
    fail_rate: float = 0.0

    async def strike(self) -> None:
        """
        Be late, then fail with the chosen probability.

        Raises:
            Problem: 503.
        """
        if self.latency_ms > 0:
            await asyncio.sleep(self.latency_ms / 1000)
        if self.fail_rate > 0 and random.random() < self.fail_rate:
            raise named(503, "ServiceUnavailable", "This answer failed on purpose")
