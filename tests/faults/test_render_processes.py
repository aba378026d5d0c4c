"""Bad luck in render processes: each costs the job it has, never the pool, and the pool is whole again at once."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import socket
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from imgproxy.config.sections import LimitsSettings, RenderSettings
from imgproxy.errors import DecodeFailed, NotAnImage, RenderCrashed, RenderOutOfMemory, TooManyPixels
from imgproxy.params.plan import Format, Output, Px, RenderPlan, Resize
from imgproxy.workers import channel
from imgproxy.workers.pool import RenderPool
from imgproxy.workers.process import RenderProcess, child_environment
from tests.support import images
from tests.support.workers import LONG, SMALL, Observer, job, pool_of, until

if TYPE_CHECKING:
    from pathlib import Path

    from imgproxy.workers.channel import Message


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo on disk."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(images.cached_photo())
    return path


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_crash_costs_only_its_own_job(photo: Path, death: signal.Signals) -> None:
    """A process that dies fails the job it has; the job beside it and those that wait are done."""
    ear = Observer()
    async with pool_of(ear, processes=2) as pool:
        hurt = asyncio.create_task(pool.render(job(photo, LONG, name="hurt")))
        await until(lambda pool: pool.busy == 1, pool)
        victim = pool.pids[0]
        others = [asyncio.create_task(pool.render(job(photo, SMALL, name=str(n)))) for n in range(6)]
        os.kill(victim, death)
        with pytest.raises(RenderCrashed):
            await hurt
        for report in await asyncio.gather(*others):
            assert report.rendered[0].width_px == 64
        await until(lambda pool: len(pool.pids) == 2, pool)
        assert victim not in pool.pids
        assert pool.restarts == 1
    assert ear.ends[0] == "crashed"
    assert not photo.with_name("hurt0.tmp").exists()


async def test_the_death_of_an_idle_process_is_not_noticed(photo: Path) -> None:
    """Processes that die while they wait are replaced; jobs that come then are done."""
    async with pool_of(processes=2) as pool:
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        await until(lambda pool: pool.restarts == 2 and len(pool.pids) == 2, pool)
        assert (await pool.render(job(photo, SMALL))).rendered[0].width_px == 64


async def test_signals_to_the_group_do_not_reach_renders(photo: Path) -> None:
    """A terminal's Ctrl-C and a supervisor's SIGTERM leave the end of render processes to the edge."""
    async with pool_of() as pool:
        running = asyncio.create_task(pool.render(job(photo, SMALL)))
        for pid in pool.pids:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        assert (await running).rendered[0].width_px == 64
        assert pool.restarts == 0


async def test_a_render_that_needs_too_much_memory_is_ended(tmp_path: Path) -> None:
    """Past render.memory_bytes the process ends itself; the error has both numbers, and the next job is done."""
    original = tmp_path / "large.png"
    original.write_bytes(images.png_bomb(7000, 7000))
    ear = Observer()
    async with pool_of(ear, memory_bytes=100_000_000) as pool:
        plan = RenderPlan(resize=Resize(width=Px(7000)), rotation=30.0, is_pivot=True, output=Output(format=Format.PNG))
        with pytest.raises(RenderOutOfMemory) as caught:
            await pool.render(job(original, plan))
        assert caught.value.limit_bytes == 100_000_000
        assert caught.value.used_bytes > 100_000_000
        await until(lambda pool: pool.restarts == 1 and pool.pids, pool)
        original.write_bytes(images.cached_photo())
        assert (await pool.render(job(original, SMALL))).rendered[0].width_px == 64
    assert ear.ends[0] == "out_of_memory"


async def test_render_processes_end_when_the_edge_is_killed(tmp_path: Path) -> None:
    """kill -9 of the edge leaves no render process behind, neither an idle nor a busy one."""
    original = tmp_path / "photo.jpg"
    original.write_bytes(images.cached_photo())
    program = textwrap.dedent(
        f"""
        import asyncio
        from pathlib import Path
        from imgproxy.config.sections import LimitsSettings, RenderSettings
        from imgproxy.workers.pool import RenderPool
        from tests.support.workers import LONG, job
        async def main():
            pool = RenderPool(RenderSettings(processes=2), LimitsSettings())
            await pool.start()
            asyncio.create_task(pool.render(job(Path({str(original)!r}), LONG)))
            await asyncio.sleep(0.1)
            print(*pool.pids, flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
        """
    )
    edge = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    try:
        assert edge.stdout is not None
        pids = [int(word) for word in edge.stdout.readline().split()]
        assert len(pids) == 2
        edge.kill()
        edge.wait()
        async with asyncio.timeout(20):
            while any(is_running(pid) for pid in pids):
                await asyncio.sleep(0.01)
    finally:
        edge.kill()
        edge.wait()
        assert edge.stdout is not None
        edge.stdout.close()


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_render_processes_inherit_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither our own settings nor switches of libvips reach a render process through the environment."""
    monkeypatch.setenv("IMGPROXY_ORIGIN__TOKEN", "secret")
    monkeypatch.setenv("VIPS_UNLIMITED", "1")
    monkeypatch.setenv("LD_PRELOAD", "")
    found = child_environment()
    assert "secret" not in found.values()
    assert "VIPS_UNLIMITED" not in found
    assert found["VIPS_CONCURRENCY"] == "1"
    assert "LD_PRELOAD" in found


# Planes of pixels that are freed while small things made in between stay: prints the resident size before and after.
_PLANES_AND_PINS = """
from imgproxy.render.child import Memory

memory = Memory()
first = b"." * 3_000_000
del first
before_bytes = memory.resident_bytes()
planes, pins = [], []
for _ in range(30):
    planes.append(b"." * 3_000_000)
    pins.append(b"." * 10_000)
planes.clear()
print(memory.resident_bytes() - before_bytes)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is proven are settings of glibc's allocator")
def test_the_memory_of_large_pictures_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ninety megabytes of pixels leave nothing behind, whatever small was made meanwhile: glibc alone keeps them all."""
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    command = [sys.executable, "-P", "-c", _PLANES_AND_PINS]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=child_environment())
    assert int(done.stdout) < 10_000_000


async def test_a_process_that_talks_nonsense_is_ended() -> None:
    """Messages that no sound render process would send, a pickle among them, end the process that sent them."""
    heard: list[Message] = []
    for payload in (b"cos\nsystem\n(S'true'\ntR.", b"{}", b'{"done": 0, "rendered": {}}', b"[1]"):
        killed: list[bool] = []
        process = RenderProcess(lambda _, message: heard.append(message), lambda *_: None)
        process.kill = lambda killed=killed: killed.append(True)  # type: ignore[method-assign, misc]
        process.data_received(channel.frame(payload))
        assert killed == [True], payload
    process = RenderProcess(lambda _, message: heard.append(message), lambda *_: None)
    process.kill = lambda: killed.append(True)  # type: ignore[method-assign]
    process.data_received((2**31).to_bytes(4, "big"))
    assert len(killed) == 2
    assert heard == []


def test_frames_survive_any_cut() -> None:
    """The receiving side of a render process puts a frame together however its bytes arrive."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(channel.frame(b"x" * 70_000)[:3])
        ours.sendall(channel.frame(b"x" * 70_000)[3:])
        ours.close()
        assert channel.receive(theirs) == b"x" * 70_000
        assert channel.receive(theirs) is None


async def test_hostile_pictures_are_refused_or_rendered_but_never_fatal(tmp_path: Path) -> None:
    """Every hostile picture ends in an answer of ours, and a good one afterwards is rendered by the same pool."""
    good = tmp_path / "good.jpg"
    good.write_bytes(images.cached_photo())
    jpeg, png = images.cached_photo(), images.png(images.photo(64, 48))
    hostile = {
        "bomb.png": images.png_header(60_000, 60_000),
        "wide.png": images.png_header(2_000_000_000, 1),
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": png[: len(png) // 2],
        "header.jpg": jpeg[:20],
        "polyglot.jpg": jpeg + b"<script>alert(1)</script>" + png,
        "pdf.jpg": b"%PDF-1.4\n" + jpeg,
        "svg-in-gif": b"GIF89a<svg xmlns='http://www.w3.org/2000/svg'/>",
        "elf": b"\x7fELF" + bytes(100),
        "magick": b"push graphic-context\nviewbox 0 0 640 480\nimage over 0,0 0,0 '|id'\npop graphic-context",
        "vips": b"\x08\xf2\xa6\xb6" + bytes(100),
        "ppm": b"P6 100 100 255\n" + bytes(30_000),
        "zeros.jpg": b"\xff\xd8\xff" + bytes(1000),
        "noise.jpg": jpeg[:600] + os.urandom(4000),
    }
    async with pool_of() as pool:
        outcomes = {}
        for name, data in hostile.items():
            path = tmp_path / name
            path.write_bytes(data)
            try:
                report = await pool.render(job(path, SMALL))
                outcomes[name] = report.rendered[0].content_type
            except (NotAnImage, DecodeFailed, TooManyPixels) as error:
                outcomes[name] = error.code
        assert (await pool.render(job(good, SMALL))).rendered[0].width_px == 64
        assert pool.restarts == 0
    assert outcomes["bomb.png"] == "too_many_pixels"
    assert outcomes["polyglot.jpg"] == "image/jpeg"
    for name in ("pdf.jpg", "elf", "magick", "vips", "ppm"):
        assert outcomes[name] == "not_an_image", name
    for name in ("cut.jpg", "cut.png", "header.jpg", "zeros.jpg", "svg-in-gif"):
        assert outcomes[name] == "decode_failed", name


async def test_a_gif_of_countless_frames_gives_its_first(tmp_path: Path) -> None:
    """A GIF with far more frames than the limit is answered with its first frame, in bounded time and memory."""
    original = tmp_path / "endless.gif"
    original.write_bytes(images.gif_of_many_frames(200_000))
    async with pool_of() as pool:
        report = await pool.render(job(original, RenderPlan(output=Output(format=Format.GIF))))
    assert report.rendered[0].is_first_frame_only
    assert report.rendered[0].frames == 1
    assert report.peak_bytes < 600_000_000


async def test_what_a_truncated_picture_has_can_be_served(tmp_path: Path) -> None:
    """With allow_truncated the upper part is rendered where, without it, the picture is refused."""
    original = tmp_path / "cut.jpg"
    original.write_bytes(images.cached_photo()[:-4000])
    async with pool_of(allow_truncated=True) as pool:
        assert (await pool.render(job(original, SMALL))).rendered[0].height_px == 48


async def test_a_pool_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where render processes cannot even begin, start() raises and leaves none."""
    from imgproxy.workers.process import ProcessStartError

    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = RenderPool(RenderSettings(processes=2), LimitsSettings())
    with pytest.raises(ProcessStartError):
        await pool.start()
    assert pool.pids == ()


def cores_of(pid: int) -> list[set[int]]:
    """The cores on which each thread of a process may run."""
    return [os.sched_getaffinity(int(thread)) for thread in os.listdir(f"/proc/{pid}/task")]


@pytest.mark.skipif(platform.system() != "Linux", reason="cores can be chosen on Linux alone")
async def test_each_process_has_a_core_of_its_own_and_its_successor_gets_it(photo: Path) -> None:
    """As many processes as cores divide them, with all threads; of one that dies the core is the next one's."""
    all_cores = os.sched_getaffinity(0)
    async with pool_of(processes=len(all_cores)) as pool:
        await asyncio.gather(*(pool.render(job(photo, SMALL, name=str(core))) for core in all_cores))
        for pid in pool.pids:
            assert all(cores == cores_of(pid)[0] and len(cores) == 1 for cores in cores_of(pid))
        assert set().union(*(cores_of(pid)[0] for pid in pool.pids)) == all_cores
        os.kill(pool.pids[0], signal.SIGKILL)
        await until(lambda pool: pool.restarts == 1 and len(pool.pids) == len(all_cores), pool)
        assert set().union(*(cores_of(pid)[0] for pid in pool.pids)) == all_cores


async def test_processes_that_are_not_as_many_as_cores_run_anywhere(photo: Path) -> None:
    """To bind them would leave cores without work."""
    async with pool_of(processes=len(os.sched_getaffinity(0)) + 1) as pool:
        await pool.render(job(photo, SMALL))
        for pid in pool.pids:
            assert cores_of(pid)[0] == os.sched_getaffinity(0)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="one core")
async def test_a_process_whose_core_is_taken_goes_elsewhere(photo: Path) -> None:
    """Another program that takes a whole core does not starve the render process that is bound to it."""
    all_cores = os.sched_getaffinity(0)
    async with pool_of(processes=len(all_cores)) as pool:
        victim = pool.pids[0]
        (core,) = cores_of(victim)[0]
        taking = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile os.getppid() == {os.getpid()}: pass"
        taker = subprocess.Popen([sys.executable, "-c", taking])  # noqa: ASYNC220
        try:
            jobs = [asyncio.create_task(pool.render(job(photo, LONG, name=str(n)))) for n in range(4 * len(all_cores))]
            await until(lambda _: all(cores == all_cores for cores in cores_of(victim)), pool)
        finally:
            taker.kill()
            taker.wait()
        for running in jobs:
            running.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
