"""Faults in render processes: each one costs its own job, and the pool is complete again afterwards."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import socket
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgproxy.config.sections import LimitsSettings, RenderSettings
from imgproxy.errors import (
    DecodeFailed,
    DrawingTooComplex,
    NotAnImage,
    RenderCrashed,
    RenderOutOfMemory,
    RenderTimeout,
    TooManyPixels,
)
from imgproxy.params.plan import Format, Output, Px, RenderPlan, Resize
from imgproxy.workers import channel
from imgproxy.workers.pool import RenderPool
from imgproxy.workers.process import ProcessStartError, RenderProcess, child_environment
from tests.support import heif, images
from tests.support.workers import LONG, SMALL, Observer, job, pool_of, until

if TYPE_CHECKING:
    from imgproxy.workers.channel import Message

# Its processes are new: what they do before and after a job is what these tests are about.
new_pool = partial(pool_of, process_class=RenderProcess)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo on disk."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(images.cached_photo())
    return path


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_crash_costs_only_its_own_job(photo: Path, death: signal.Signals) -> None:
    """A process that dies fails its own job. The jobs of other processes, and those that wait, are done."""
    ear = Observer()
    async with new_pool(ear, processes=2) as pool:
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


async def test_idle_processes_that_die_are_replaced(photo: Path) -> None:
    """Processes that die without a job are replaced, and the next job is done."""
    async with new_pool(processes=2) as pool:
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        await until(lambda pool: pool.restarts == 2 and len(pool.pids) == 2, pool)
        assert (await pool.render(job(photo, SMALL))).rendered[0].width_px == 64


async def test_signals_to_the_group_do_not_reach_renders(photo: Path) -> None:
    """A render process ignores Ctrl-C and SIGTERM: the edge ends it."""
    async with new_pool() as pool:
        running = asyncio.create_task(pool.render(job(photo, SMALL)))
        for pid in pool.pids:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        assert (await running).rendered[0].width_px == 64
        assert pool.restarts == 0


async def test_a_render_that_needs_too_much_memory_is_ended(tmp_path: Path) -> None:
    """A process above render.memory_bytes ends itself. The error has both figures, and the next job is done."""
    original = tmp_path / "large.png"
    original.write_bytes(images.png_bomb(7000, 7000))
    ear = Observer()
    async with new_pool(ear, memory_bytes=100_000_000) as pool:
        plan = RenderPlan(resize=Resize(width=Px(7000)), rotation=30.0, is_pivot=True, output=Output(format=Format.PNG))
        with pytest.raises(RenderOutOfMemory) as caught:
            await pool.render(job(original, plan))
        assert caught.value.limit_bytes == 100_000_000
        assert caught.value.used_bytes > 100_000_000
        await until(lambda pool: pool.restarts == 1 and pool.pids, pool)
        original.write_bytes(images.cached_photo())
        assert (await pool.render(job(original, SMALL))).rendered[0].width_px == 64
    assert ear.ends[0] == "out_of_memory"


async def test_a_heic_that_needs_too_much_memory_is_ended(tmp_path: Path) -> None:
    """The memory of a HEIC is watched while it is decoded, too: 500 tiles of 256 x 256 are 33 megapixels."""
    original = tmp_path / "large.heic"
    tile = heif.rgb(heif.picture(256, 256)).hidden()
    whole = heif.grid(20, 25, 25 * 256, 20 * 256, tuple(range(2, 502))).having(heif.nclx())
    original.write_bytes(heif.write(whole, *(tile for _ in range(500))))
    async with new_pool(memory_bytes=100_000_000) as pool:
        with pytest.raises(RenderOutOfMemory):
            await pool.render(job(original, SMALL))
        original.write_bytes(heif.write(heif.rgb(heif.picture())))
        assert (await pool.render(job(original, SMALL))).rendered[0].width_px == 64


async def test_render_processes_end_when_the_edge_is_killed(tmp_path: Path) -> None:
    """After kill -9 of the edge, idle and busy render processes end."""
    original = tmp_path / "photo.jpg"
    original.write_bytes(images.cached_photo())
    program = textwrap.dedent(
        f"""
        import asyncio
        from pathlib import Path
        from imgproxy.config.sections import LimitsSettings, RenderSettings
        from imgproxy.workers.pool import RenderPool
        from tests.support.workers import LONG, Observer, job
        async def main():
            pool = RenderPool(RenderSettings(processes=2), LimitsSettings(), observer=Observer())
            await pool.start()
            asyncio.create_task(pool.render(job(Path({str(original)!r}), LONG)))
            while not pool.busy:
                await asyncio.sleep(0)
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
    """Whether a process exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_render_processes_inherit_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither settings of the edge nor switches of libvips reach a render process through the environment."""
    monkeypatch.setenv("IMGPROXY_ORIGIN__TOKEN", "secret")
    monkeypatch.setenv("VIPS_UNLIMITED", "1")
    monkeypatch.setenv("LD_PRELOAD", "")
    found = child_environment()
    assert "secret" not in found.values()
    assert "VIPS_UNLIMITED" not in found
    assert found["VIPS_CONCURRENCY"] == "1"
    assert "LD_PRELOAD" in found


# Frees planes of pixels while small blocks made in between stay. Prints by how much the resident size has grown.
_PLANES_AND_PINS = """
from imgproxy.render.child import resident_bytes

first = b"." * 3_000_000
del first
before_bytes = resident_bytes()
planes, pins = [], []
for _ in range(30):
    planes.append(b"." * 3_000_000)
    pins.append(b"." * 10_000)
planes.clear()
print(resident_bytes() - before_bytes)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are for glibc's allocator")
def test_the_memory_of_large_pictures_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ninety megabytes of pixels are returned although small blocks stay between them. glibc's defaults keep them all."""
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    command = [sys.executable, "-P", "-c", _PLANES_AND_PINS]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=child_environment())
    assert int(done.stdout) < 10_000_000


async def test_a_process_that_sends_an_invalid_message_is_killed() -> None:
    """An invalid message, a pickle for example, ends the process that sent it."""
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


def test_a_frame_arrives_in_parts() -> None:
    """A render process puts a frame together from the parts that arrive."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(channel.frame(b"x" * 70_000)[:3])
        ours.sendall(channel.frame(b"x" * 70_000)[3:])
        ours.close()
        assert channel.receive(theirs) == b"x" * 70_000
        assert channel.receive(theirs) is None


async def test_hostile_pictures_are_refused_or_rendered_but_never_fatal(tmp_path: Path) -> None:
    """Every hostile picture is rendered or refused with an error, and the same processes render a good one afterwards."""
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
    async with new_pool() as pool:
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


async def test_what_a_process_writes_to_standard_error_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also its last words. Its standard error is a pipe to the edge: a reader of the log that stalls stops no render."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(images.cached_photo()[:300])
    async with new_pool() as pool:
        pid = pool.pids[0]
        with pytest.raises(DecodeFailed):
            await pool.render(job(broken, SMALL))

        def is_logged(_: object) -> bool:
            lines = [record.getMessage() for record in caplog.records]  # several words may come at once
            return any(line.startswith(f"render process {pid}: ") and "render: decode_failed" in line for line in lines)

        await until(is_logged, pool)
    words = "import os; os.write(2, b'last words'); os._exit(1)"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", words, stderr=asyncio.subprocess.PIPE)
    process = RenderProcess(lambda *_: None, lambda *_: None)
    process.connection_lost(None)
    await process._watch(child)

    assert f"render process {child.pid}: last words" in caplog.text


@pytest.mark.parametrize("has_fonts", [True, False])
async def test_missing_fonts_are_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, *, has_fonts: bool
) -> None:
    """Where fontconfig finds no font, the log says it once, and what to install; else it says nothing."""
    if has_fonts and not any(Path("/usr/share/fonts").rglob("*.ttf")):
        pytest.skip("needs a font of the system, such as Debian's fonts-dejavu-core")
    if not has_fonts:
        (tmp_path / "fonts.conf").write_text(f"<fontconfig><dir>{tmp_path}</dir></fontconfig>")
        monkeypatch.setenv("FONTCONFIG_FILE", str(tmp_path / "fonts.conf"))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(images.cached_photo()[:300])
    async with new_pool(processes=2) as pool:
        jobs = [pool.render(job(broken, SMALL)) for _ in range(2)]
        assert all(isinstance(each, DecodeFailed) for each in await asyncio.gather(*jobs, return_exceptions=True))
        # Each process has written about its job now, and before that about fonts.
        await until(lambda _: caplog.text.count("render: decode_failed") == 2, pool)
    assert caplog.text.count("fontconfig finds no font") == (not has_fonts)


async def test_a_gif_of_too_many_frames_gives_its_first(tmp_path: Path) -> None:
    """A GIF with far more frames than the limit gives its first frame, in limited memory."""
    original = tmp_path / "endless.gif"
    original.write_bytes(images.gif_of_many_frames(200_000))
    ear = Observer()
    async with new_pool(ear) as pool:
        report = await pool.render(job(original, RenderPlan(output=Output(format=Format.GIF))))
    assert report.rendered[0].is_first_frame_only
    assert report.rendered[0].frames == 1
    assert ear.peak_bytes < 600_000_000


async def test_a_drawing_that_takes_too_much_cpu_is_ended(photo: Path) -> None:
    """A drawing that no count refuses is ended at render.drawing_cpu_s, with both figures; the next job is done."""
    slow = photo.with_name("slow.svg")
    gradient = '<radialGradient id="g"><stop stop-color="red"/><stop offset="1"/></radialGradient>'
    rows = '<rect width="800" height="800" fill="url(#g)"/>' * 4000
    slow.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="800" height="800">{gradient}{rows}</svg>')
    ear = Observer()
    async with new_pool(ear, drawing_cpu_s=0.3) as pool:
        with pytest.raises(RenderTimeout) as caught:
            await pool.render(job(slow, SMALL, RenderPlan(resize=Resize(width=Px(1600)), output=SMALL.output)))
        assert caught.value.limit_s == 0.3
        assert caught.value.elapsed_s > 0.3
        assert (await pool.render(job(photo, SMALL))).rendered[0].width_px == 64
    assert ear.ends[0] == "timeout"


async def test_a_refused_drawing_costs_no_process(photo: Path) -> None:
    """A refusal by count crosses to the edge with its number, and the process goes on."""
    bomb = photo.with_name("bomb.svg")
    bomb.write_text("<svg xmlns='http://www.w3.org/2000/svg'><text>" + "word " * 100_000 + "</text></svg>")
    async with new_pool() as pool:
        with pytest.raises(DrawingTooComplex, match="4000 characters in one text"):
            await pool.render(job(bomb, SMALL))
        assert (await pool.render(job(photo, SMALL))).rendered[0].width_px == 64
        assert pool.restarts == 0


async def test_a_truncated_picture_can_be_served(tmp_path: Path) -> None:
    """With allow_truncated the part that is there is rendered; without it the picture is refused."""
    original = tmp_path / "cut.jpg"
    original.write_bytes(images.cached_photo()[:-4000])
    async with new_pool(allow_truncated=True) as pool:
        assert (await pool.render(job(original, SMALL))).rendered[0].height_px == 48


async def test_a_pool_that_cannot_start_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """If render processes cannot start, `start` raises and leaves no process."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = RenderPool(RenderSettings(processes=2), LimitsSettings(), observer=Observer())
    with pytest.raises(ProcessStartError):
        await pool.start()
    assert pool.pids == ()
