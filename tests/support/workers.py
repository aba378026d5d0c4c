"""A pool of real render processes for a test, and jobs for it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from imgproxy.config.sections import LimitsSettings, RenderSettings
from imgproxy.params.plan import Format, Output, Px, RenderPlan, Resize
from imgproxy.workers.job import Lane, RenderJob, RenderTarget
from imgproxy.workers.pool import ABANDON_GRACE_S, RenderPool
from tests.support.kept_processes import KeptProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from imgproxy.workers.process import RenderProcess

SMALL = RenderPlan(resize=Resize(width=Px(64)), output=Output(format=Format.JPEG))
# Seconds of work on any machine: enlarge to 49 megapixels and press into AVIF.
LONG = RenderPlan(resize=Resize(width=Px(7000)), output=Output(format=Format.AVIF))


@dataclass
class Observer:
    """An observer that keeps what it hears."""

    jobs: list[tuple[Lane, str]] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    peak_bytes: int = 0

    def job_ended(self, lane: Lane, outcome: str, peak_bytes: int) -> None:
        self.peak_bytes = max(self.peak_bytes, peak_bytes)
        self.jobs.append((lane, outcome))

    def process_ended(self, reason: str) -> None:
        self.ends.append(reason)


@contextlib.asynccontextmanager
async def pool_of(
    ear: Observer | None = None,
    *,
    abandon_grace_s: float = ABANDON_GRACE_S,
    process_class: type[RenderProcess] = KeptProcess,
    **settings: Any,
) -> AsyncIterator[RenderPool]:
    """A pool that is started and, at the end, closed."""
    chosen = RenderSettings(**({"processes": 1} | settings))
    pool = RenderPool(
        chosen,
        LimitsSettings(),
        observer=ear or Observer(),
        abandon_grace_s=abandon_grace_s,
        process_class=process_class,
    )
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close(0)


def job(original: Path, *plans: RenderPlan, name: str = "a") -> Callable[[], RenderJob]:
    """What builds a job whose targets lie beside the original."""
    targets = tuple(RenderTarget(plan, str(original.with_name(f"{name}{n}.tmp"))) for n, plan in enumerate(plans))
    return lambda: RenderJob(str(original), targets)


async def until(condition: Callable[[RenderPool], object], pool: RenderPool) -> None:
    """Let the loop run until a fact about the pool holds."""
    async with asyncio.timeout(20):
        while not condition(pool):
            await asyncio.sleep(0.005)
