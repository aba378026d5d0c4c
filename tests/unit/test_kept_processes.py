"""Render processes that outlive their edge."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from imgproxy.config.sections import LimitsSettings, RenderSettings
from imgproxy.workers.pool import RenderPool
from tests.support.images import cached_photo
from tests.support.kept_processes import KeptProcess
from tests.support.workers import LONG, SMALL, Observer, job, until


@asynccontextmanager
async def pool_of_kept(ear: Observer | None = None, **settings: Any) -> AsyncIterator[RenderPool]:
    """A pool of one process. Its limit of memory is that of no other test, so no other test's process is taken."""
    chosen = RenderSettings(**({"processes": 1, "memory_bytes": 1_234_000_000} | settings))
    pool = RenderPool(chosen, LimitsSettings(), observer=ear or Observer(), process_class=KeptProcess)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close(0)


async def pid_of_next(**settings: Any) -> int:
    """Return the id of the process that the next pool has."""
    async with pool_of_kept(**settings) as pool:
        return pool.pids[0]


async def test_the_next_pool_has_the_same_process_and_it_works(tmp_path: Path) -> None:
    """It is idle between them, and reports to the pool that has it."""
    (tmp_path / "a.jpg").write_bytes(cached_photo())
    async with pool_of_kept() as pool:
        pids, version = pool.pids, pool.libvips_version
        await pool.render(job(tmp_path / "a.jpg", SMALL))
    ear = Observer()
    async with pool_of_kept(ear) as pool:
        assert (pool.pids, pool.libvips_version) == (pids, version)
        await pool.render(job(tmp_path / "a.jpg", SMALL, name="b"))
    assert [outcome for _, outcome in ear.jobs] == ["ok"]
    assert not ear.ends


async def test_a_process_that_was_killed_or_is_busy_is_not_kept(tmp_path: Path) -> None:
    """The pool replaces one that is killed, and kills one that has a job when it is closed."""
    (tmp_path / "a.jpg").write_bytes(cached_photo())
    ear = Observer()
    async with pool_of_kept(ear) as pool:
        first = pool.pids[0]
        pool._idle[0].kill()  # as the kernel does when memory is short
        await until(lambda pool: pool.restarts == 1 and pool.pids, pool)
        second = pool.pids[0]
        begun = asyncio.create_task(pool.render(job(tmp_path / "a.jpg", LONG)))
        await until(lambda pool: pool.busy, pool)
    await asyncio.gather(begun, return_exceptions=True)
    assert ear.ends == ["crashed", "closed"]
    assert len({first, second, await pid_of_next()}) == 3


async def test_other_limits_need_another_process() -> None:
    """A process is told its limits when it starts."""
    pid = await pid_of_next()
    assert await pid_of_next(drawing_cpu_s=2.0) != pid
    assert await pid_of_next() == pid


async def test_a_process_that_has_grown_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next pool would replace it soon."""
    monkeypatch.setattr("tests.support.kept_processes.KEPT_BYTES", 20_000_000)  # less than an idle process has
    (tmp_path / "a.jpg").write_bytes(cached_photo())
    async with pool_of_kept() as pool:
        (pid,) = pool.pids
        await pool.render(job(tmp_path / "a.jpg", SMALL))
    assert await pid_of_next() != pid
