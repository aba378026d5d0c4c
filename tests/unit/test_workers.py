"""The pool: queue, lanes, deadlines, cancelling, recycling and closing, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imgproxy.config.sections import LimitsSettings, RenderSettings
from imgproxy.digest import digest_of
from imgproxy.errors import DecodeFailed, NotAnImage, Overloaded, RenderCrashed, RenderTimeout, TooManyPixels
from imgproxy.params.plan import Format, Output, Px, RenderPlan, Resize
from imgproxy.workers.job import Lane, Rendered
from imgproxy.workers.pool import RenderPool
from tests.support import images
from tests.support.workers import LONG, SMALL, Observer, job, pool_of, until


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo on disk."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(images.cached_photo())
    return path


async def test_a_job_reports_what_was_made(photo: Path) -> None:
    """A report names every variant's file, size, type and digest, in the targets' order."""
    ear = Observer()
    async with pool_of(ear) as pool:
        wide = RenderPlan(resize=Resize(width=Px(128)), output=Output(format=Format.WEBP))
        report = await pool.render(job(photo, SMALL, wide))
    small, large = report.rendered
    assert (small.content_type, small.width_px, small.height_px) == ("image/jpeg", 64, 48)
    assert (large.content_type, large.width_px, large.height_px) == ("image/webp", 128, 96)
    for rendered in report.rendered:
        data = Path(rendered.path).read_bytes()
        assert len(data) == rendered.size_bytes
        assert digest_of(data) == rendered.digest
    assert ear.peak_bytes > 10_000_000
    assert report.render_s > 0


async def test_variants_are_announced_as_they_are_done(photo: Path) -> None:
    """on_rendered hears of each file while the others are still being made; the largest first."""
    announced: list[tuple[int, bool]] = []

    def on_rendered(index: int, rendered: Rendered, queue_s: float) -> None:
        announced.append((index, os.path.exists(rendered.path)))

    async with pool_of() as pool:
        wide = RenderPlan(resize=Resize(width=Px(320)), output=Output(format=Format.JPEG))
        await pool.render(job(photo, SMALL, wide), on_rendered=on_rendered)
    assert announced == [(1, True), (0, True)]


async def test_facts_about_the_pool(photo: Path) -> None:
    """The pool knows its processes, what they do, and the libvips they have loaded."""
    async with pool_of(processes=2) as pool:
        assert (pool.processes, len(pool.pids), pool.busy, pool.waiting, pool.restarts) == (2, 2, 0, 0, 0)
        assert pool.libvips_version.split(".")[0] == "8"
    assert pool.pids == ()


async def test_render_processes_give_way_to_the_edge() -> None:
    """They are less urgent, in the session within which that counts, and out of reach of its terminal's signals."""
    least_urgent = 19
    async with pool_of(processes=2) as pool:
        for pid in pool.pids:
            assert os.getpriority(os.PRIO_PROCESS, pid) == min(os.getpriority(os.PRIO_PROCESS, 0) + 10, least_urgent)
            assert os.getsid(pid) == os.getsid(0)
            assert os.getpgid(pid) == pid


def test_the_edge_never_loads_libvips() -> None:
    """Importing the pool, and what it needs, does not bring pyvips into the process that serves requests."""
    code = "import imgproxy.workers.pool, sys; sys.exit('pyvips' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"<html>not found</html>", NotAnImage),
        (b"", NotAnImage),
        (images.cached_photo()[:2000], DecodeFailed),
        (images.png_header(100_000, 100_000), TooManyPixels),
    ],
    ids=["html", "empty", "truncated", "bomb"],
)
async def test_refusals_are_our_errors_and_leave_no_file(tmp_path: Path, data: bytes, error: type[Exception]) -> None:
    """What cannot be rendered raises its own error, and nothing stays behind."""
    original = tmp_path / "original"
    original.write_bytes(data)
    async with pool_of() as pool:
        with pytest.raises(error):
            await pool.render(job(original, SMALL))
        assert pool.restarts == 0
    assert sorted(os.listdir(tmp_path)) == ["original"]


async def test_too_many_pixels_says_both_numbers(tmp_path: Path) -> None:
    """The refusal names the picture's pixels and the limit."""
    original = tmp_path / "original"
    original.write_bytes(images.png_header(100_000, 100_000))
    async with pool_of() as pool:
        with pytest.raises(TooManyPixels) as caught:
            await pool.render(job(original, SMALL))
    assert (caught.value.pixels, caught.value.limit_px) == (10_000_000_000, 128_000_000)


async def test_a_render_past_its_time_is_stopped_and_the_pool_goes_on(photo: Path) -> None:
    """A render that takes too long raises RenderTimeout; the next job is done by a fresh process."""
    heard = Observer()
    async with pool_of(heard, timeout_s=1.0) as pool:
        with pytest.raises(RenderTimeout) as caught:
            await pool.render(job(photo, LONG))
        assert caught.value.limit_s == 1.0
        assert caught.value.elapsed_s >= 1.0
        await until(lambda pool: pool.restarts == 1 and pool.pids, pool)
        assert (await pool.render(job(photo, SMALL))).rendered[0].width_px == 64
    assert heard.ends[0] == "timeout"
    assert heard.jobs == [(Lane.VISITOR, "render_timeout"), (Lane.VISITOR, "ok")]
    assert not photo.with_name("a0.tmp").read_bytes().startswith(b"\0")


async def test_a_full_lane_refuses_at_once(photo: Path) -> None:
    """With the processes busy and the queue full, one more job is refused before any work, with a time to return."""
    heard = Observer()
    async with pool_of(heard, queue_max=1) as pool:
        running = asyncio.create_task(pool.render(job(photo, LONG)))
        await until(lambda pool: pool.busy == 1, pool)
        waiting = asyncio.create_task(pool.render(job(photo, SMALL, name="b")))
        await until(lambda pool: pool.waiting == 1, pool)
        with pytest.raises(Overloaded) as caught:
            await pool.render(job(photo, SMALL, name="c"))
        assert caught.value.retry_after_s is not None
        assert 1 <= caught.value.retry_after_s <= 30
        running.cancel()
        assert (await waiting).rendered[0].width_px == 64
        with pytest.raises(asyncio.CancelledError):
            await running
    assert heard.jobs[0] == (Lane.VISITOR, "overloaded")


async def test_a_job_that_waits_too_long_is_refused(photo: Path) -> None:
    """A job that no process takes in time is refused instead of being done too late."""
    async with pool_of(queue_timeout_s=0.1) as pool:
        running = asyncio.create_task(pool.render(job(photo, LONG)))
        await until(lambda pool: pool.busy == 1, pool)
        with pytest.raises(Overloaded):
            await pool.render(job(photo, SMALL, name="b"))
        assert pool.waiting == 0
        running.cancel()


async def test_a_lane_that_lost_its_process_goes_on_beside_an_idle_one(photo: Path) -> None:
    """What waited for the lane's share does not wait for the new process."""
    async with pool_of(processes=2) as pool:
        running = asyncio.create_task(pool.render(job(photo, LONG), lane=Lane.BACKGROUND))
        await until(lambda pool: pool.busy == 1, pool)
        waiting = asyncio.create_task(pool.render(job(photo, SMALL, name="b"), lane=Lane.BACKGROUND))
        await until(lambda pool: pool.waiting == 1, pool)
        (busy,) = pool._running
        pool._supervisor._is_wanted = lambda: False  # no new process comes
        os.kill(busy.pid, signal.SIGKILL)
        assert (await waiting).rendered
        with pytest.raises(RenderCrashed):
            await running


async def test_cancelling_a_waiting_job_takes_it_out_of_the_queue(photo: Path) -> None:
    """A job whose caller left while it waited is never begun."""
    heard = Observer()
    async with pool_of(heard) as pool:
        running = asyncio.create_task(pool.render(job(photo, LONG)))
        await until(lambda pool: pool.busy == 1, pool)
        waiting = asyncio.create_task(pool.render(job(photo, SMALL, name="b")))
        await until(lambda pool: pool.waiting == 1, pool)
        waiting.cancel()
        await until(lambda pool: pool.waiting == 0, pool)
        running.cancel()
        await until(lambda pool: pool.busy == 0 and pool.pids, pool)
    assert not photo.with_name("b0.tmp").exists()
    assert heard.jobs[0] == (Lane.VISITOR, "cancelled")


async def test_cancelling_a_long_render_ends_its_process_and_leaves_no_file(photo: Path) -> None:
    """Nobody waits for it any more: after a short grace its process is ended, and its file is gone."""
    heard = Observer()
    async with pool_of(heard, abandon_grace_s=0.05) as pool:
        running = asyncio.create_task(pool.render(job(photo, LONG)))
        await until(lambda pool: pool.busy == 1, pool)
        running.cancel()
        await until(lambda pool: pool.restarts == 1 and pool.pids, pool)
        assert (await pool.render(job(photo, SMALL, name="b"))).rendered
    assert heard.ends[0] == "abandoned"
    assert not photo.with_name("a0.tmp").exists()


async def test_cancelling_a_short_render_costs_no_process(photo: Path) -> None:
    """A render that ends within the grace keeps its process, so leaving clients cannot wear the pool out."""
    heard = Observer()
    async with pool_of(heard, abandon_grace_s=60.0) as pool:
        before = pool.pids
        for _ in range(5):
            running = asyncio.create_task(pool.render(job(photo, SMALL)))
            await asyncio.sleep(0)
            assert pool.busy == 1
            running.cancel()
            await until(lambda pool: pool.busy == 0, pool)
        assert pool.pids == before
        assert pool.restarts == 0
    assert not photo.with_name("a0.tmp").exists()
    assert heard.jobs == [(Lane.VISITOR, "cancelled")] * 5


async def test_visitors_pass_background_work(photo: Path) -> None:
    """Jobs are begun in the order of their lanes, and background work never holds every process."""
    order: list[str] = []

    async def run(name: str, lane: Lane) -> None:
        await pool.render(job(photo, SMALL, name=name), lane=lane)
        order.append(name)

    async with pool_of() as pool:
        running = asyncio.create_task(pool.render(job(photo, LONG)))
        await until(lambda pool: pool.busy == 1, pool)
        tasks = [asyncio.create_task(run(f"back{n}", Lane.BACKGROUND)) for n in range(2)]
        await until(lambda pool: pool.waiting == 2, pool)
        tasks.append(asyncio.create_task(run("visitor", Lane.VISITOR)))
        await until(lambda pool: pool.waiting == 3, pool)
        running.cancel()
        await asyncio.gather(*tasks)
    assert order == ["visitor", "back0", "back1"]


async def test_background_work_leaves_a_process_to_visitors(photo: Path) -> None:
    """With two processes, two background jobs take one; a visitor's job begins at once."""
    async with pool_of(processes=2) as pool:
        back = [
            asyncio.create_task(pool.render(job(photo, LONG, name=f"back{n}"), lane=Lane.BACKGROUND)) for n in range(2)
        ]
        await until(lambda pool: pool.busy == 1 and pool.waiting == 1, pool)
        waits_s: list[float] = []
        await pool.render(job(photo, SMALL), on_rendered=lambda _index, _rendered, wait_s: waits_s.append(wait_s))
        assert waits_s[0] < 1
        for task in back:
            task.cancel()
        await asyncio.gather(*back, return_exceptions=True)


async def test_a_process_that_has_grown_is_replaced(tmp_path: Path) -> None:
    """A process larger than recycle_bytes after a job is exchanged for a fresh one; the job is not hurt."""
    heard = Observer()
    original = tmp_path / "large.png"
    original.write_bytes(images.png(images.photo(1200, 900)))
    # Below the least that may be configured, and below what an idle process has: how much libvips leaves is chance.
    chosen = RenderSettings(processes=1, timeout_s=120).model_copy(update={"recycle_bytes": 20_000_000})
    pool = RenderPool(chosen, LimitsSettings(), observer=heard)
    await pool.start()
    plan = RenderPlan(resize=Resize(width=Px(2400)), flip="v", output=Output(format=Format.WEBP))
    try:
        for n in range(2):
            assert (await pool.render(job(original, plan, name=str(n)))).rendered[0].width_px == 2400
    finally:
        await pool.close(5)
    assert "recycled" in heard.ends
    assert {outcome for _, outcome in heard.jobs} == {"ok"}


async def test_closing_lets_jobs_finish(photo: Path) -> None:
    """close() waits for the jobs in hand, and refuses new ones."""
    async with pool_of() as pool:
        tasks = [asyncio.create_task(pool.render(job(photo, SMALL, name=str(n)))) for n in range(4)]
        await until(lambda pool: pool.busy == 1, pool)
        closing = asyncio.create_task(pool.close(20))
        await until(lambda pool: not pool._is_open, pool)
        with pytest.raises(Overloaded):
            await pool.render(job(photo, SMALL, name="late"))
        reports = await asyncio.gather(*tasks)
        await closing
    assert [report.rendered[0].width_px for report in reports] == [64] * 4


async def test_closing_in_time_ends_what_is_too_slow(photo: Path) -> None:
    """Jobs that are not done when the time is up raise Overloaded, and no process is left."""
    async with pool_of() as pool:
        running = asyncio.create_task(pool.render(job(photo, LONG)))
        waiting = asyncio.create_task(pool.render(job(photo, SMALL, name="b")))
        await until(lambda pool: pool.busy == 1 and pool.waiting == 1, pool)
        pids = pool.pids
        await pool.close(0.05)
        for task in (running, waiting):
            with pytest.raises(Overloaded):
                await task
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


async def test_closing_starts_no_process_for_what_still_waits(photo: Path) -> None:
    """Jobs that wait as the pool closes are refused, and a process that is ended then is not replaced for them."""
    async with pool_of() as pool:
        tasks = [
            asyncio.create_task(pool.render(job(photo, plan, name=name))) for plan, name in ((LONG, "a"), (SMALL, "b"))
        ]
        await until(lambda pool: pool.busy == 1 and pool.waiting == 1, pool)
        await pool.close(0)

        assert [type(item) for item in await asyncio.gather(*tasks, return_exceptions=True)] == [Overloaded, Overloaded]
        assert pool.waiting == 0
        assert pool.restarts == 0
