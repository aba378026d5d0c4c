"""An overload of an edge whose admission has a clock that stands."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from imgproxy.admission.policy import BURST_S, CALM_S, LONG_WAIT_JOBS
from imgproxy.config.sections import RenderSettings
from tests.support.processes import stopped
from tests.support.site import KEY, Site, jpeg, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.clock import StandingClock

QUEUE = [f"queue/{number}.jpg" for number in range(LONG_WAIT_JOBS + 2)]
# Requests that wait in a test are not refused because the machine is slow.
PATIENT = RenderSettings(processes=1, timeout_s=60, queue_timeout_s=60)
PICTURES = {KEY: jpeg(200)} | dict.fromkeys(("third.jpg", "fourth.jpg", *QUEUE), jpeg(100))


@contextlib.asynccontextmanager
async def overloaded(
    here: Site, clock: StandingClock, *also: str, sign_by: Callable[[str], str] = str
) -> AsyncIterator[None]:
    """Let the queue be long for too long: an overload while the block runs. The targets `also` wait in the queue."""
    admission = here.edge.admission
    targets = [*(sign_by(f"/{name}?w=10") for name in QUEUE), *also]
    await asyncio.gather(*(here.get(sign_by(f"/{name}")) for name in QUEUE))
    for _ in range(20):
        admission.fetch_ended(0.0)  # however slow this machine was
    with stopped(*here.edge.pool.pids):
        waiting = [asyncio.create_task(here.get(target)) for target in targets]
        await until(lambda: here.edge.variants.under_way == len(targets))
        clock.now_s += 2 * BURST_S
        assert admission.refuses("a new picture", "its plan")
        try:
            yield
        finally:
            clock.now_s += 2 * CALM_S
    assert {reply.status for reply in await asyncio.gather(*waiting)} == {200}
