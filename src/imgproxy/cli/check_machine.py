"""
What `imgproxy check` finds out about this machine: cache directory, disk, port, descriptors, memory, libvips, extras.

Shared memory is not tried: the edge and its render processes exchange pixels by files of the cache and by sockets.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgproxy.cache.journal_versions import NewerJournal, refuse_newer
from imgproxy.cli.findings import Finding, Level
from imgproxy.cli.observing import asked_for, missing
from imgproxy.cli.process import descriptors_max
from imgproxy.workers.capacity import memory_limit_bytes, usable_cores
from imgproxy.workers.extras import find_detector, find_heic, has_telemetry

if TYPE_CHECKING:
    from imgproxy.config.sections import CacheSettings, RenderSettings, ServerSettings
    from imgproxy.config.settings import Settings

# Below this limit a busy edge refuses connections. docs/deployment.md asks for more.
DESCRIPTORS_LEAST: Final = 4_096
# What an edge takes besides its variants in memory, and a render process with a usual photo. Source: the memory row
# of the benchmark, rounded up.
EDGE_BYTES: Final = 150_000_000
RENDER_BYTES: Final = 200_000_000


async def try_machine(settings: Settings) -> list[Finding]:
    """Try everything that needs no network."""
    return [
        *try_cache(settings.cache),
        *try_disk(settings.cache),
        *await try_port(settings.server),
        *try_descriptors(),
        *try_memory(settings.cache, settings.render),
        *await try_libvips(),
        *try_heic(),
        *await try_detector(),
        *try_telemetry(),
    ]


def try_cache(settings: CacheSettings) -> list[Finding]:
    """Write a temporary file into the directory, or into its nearest parent that exists."""
    directory = settings.dir
    existing = _existing(directory)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        text = f"[cache] dir = {directory}: cannot be written ({error.strerror}: {existing})"
        return [Finding("cache", Level.BROKEN, text)]
    try:
        refuse_newer(directory / "journal.sqlite")
    except NewerJournal as error:
        return [Finding("cache", Level.BROKEN, f"[cache] dir = {directory}: {error}")]
    return [Finding("cache", Level.GOOD, f"the cache directory {directory} can be written")]


def _existing(directory: Path) -> Path:
    return next((item for item in (directory, *directory.absolute().parents) if os.path.lexists(item)), Path("/"))


def try_disk(settings: CacheSettings) -> list[Finding]:
    """Compare the space that is left with what the cache may take."""
    try:
        disk = os.statvfs(_existing(settings.dir))
    except OSError:
        return []  # then the directory cannot be written either, which has a line of its own
    size_bytes, free_bytes = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    if size_bytes < settings.max_bytes:
        text = (
            f"[cache] max_bytes = {gigabytes(settings.max_bytes)}: the disk of {settings.dir} has "
            f"{gigabytes(size_bytes)}; the cache is kept smaller, so that min_free_bytes stay free"
        )
        return [Finding("disk", Level.NOTICE, text)]
    if free_bytes < settings.min_free_bytes:
        text = (
            f"[cache] min_free_bytes = {gigabytes(settings.min_free_bytes)}: the disk of {settings.dir} has "
            f"{gigabytes(free_bytes)} free; files are evicted until that much is free"
        )
        return [Finding("disk", Level.NOTICE, text)]
    return [Finding("disk", Level.GOOD, f"the disk has {gigabytes(free_bytes)} free of {gigabytes(size_bytes)}")]


async def try_port(settings: ServerSettings) -> list[Finding]:
    """Listen for a moment. A taken port is no fault: a service may be running with this configuration."""
    where = f"{settings.host}:{settings.port}"
    try:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), settings.host, settings.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return [Finding("port", Level.NOTICE, f"[server] {where} is in use, maybe by a running edge")]
        return [Finding("port", Level.BROKEN, f"[server] cannot listen on {where}: {error.strerror or error}")]
    server.close()
    await server.wait_closed()
    return [Finding("port", Level.GOOD, f"{where} is free")]


def try_descriptors() -> list[Finding]:
    """Compare the limit of file descriptors, to which `serve` raises its own, with what a busy edge needs."""
    limit = descriptors_max()
    if limit is None or limit >= DESCRIPTORS_LEAST:
        return [Finding("descriptors", Level.GOOD, f"file descriptors: {'no limit' if limit is None else limit}")]
    text = f"file descriptors: at most {limit}; expected {DESCRIPTORS_LEAST} or more (systemd: LimitNOFILE=)"
    return [Finding("descriptors", Level.NOTICE, text)]


def try_memory(cache: CacheSettings, render: RenderSettings) -> list[Finding]:
    """Compare the memory limit of the cgroup with what the edge and its render processes take."""
    cores = usable_cores()
    processes = render.processes or cores
    needed_bytes = EDGE_BYTES + cache.hot_max_bytes + processes * RENDER_BYTES
    limit_bytes = memory_limit_bytes()
    has = f"{cores} cores, {processes} render processes"
    if limit_bytes is None:
        return [Finding("memory", Level.GOOD, f"{has}, no memory limit; usual need {gigabytes(needed_bytes)}")]
    if limit_bytes < needed_bytes:
        text = (
            f"{has}, a memory limit of {gigabytes(limit_bytes)}: usual photos need {gigabytes(needed_bytes)}; "
            "lower [render] processes or [cache] hot_max_bytes, or raise the limit"
        )
        return [Finding("memory", Level.NOTICE, text)]
    text = f"{has}, a memory limit of {gigabytes(limit_bytes)}; usual need {gigabytes(needed_bytes)}"
    return [Finding("memory", Level.GOOD, text)]


async def try_libvips() -> list[Finding]:
    """Write and read a picture in each format, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "imgproxy.render.probe",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await process.communicate()
    if process.returncode != 0:
        return [Finding("libvips", Level.BROKEN, f"libvips does not work: {_last_line(said)}")]
    found = json.loads(out)
    findings = [
        Finding("libvips", Level.BROKEN, f"libvips {found['libvips']} lacks a format, {line}")
        for line in found["missing"]
    ] or [Finding("libvips", Level.GOOD, f"libvips {found['libvips']} reads and writes every format")]
    if not found["has_fonts"]:
        text = "no font is installed: text in SVG files is drawn as boxes (Debian: fonts-dejavu-core)"
        findings.append(Finding("fonts", Level.NOTICE, text))
    return findings


def try_heic() -> list[Finding]:
    """Look for the reader of HEIC."""
    version = find_heic()
    if version is None:
        text = "HEIC: no reader is installed (extra `heic`): such a picture is answered with 422"
        return [Finding("heic", Level.NOTICE, text)]
    return [Finding("heic", Level.GOOD, f"HEIC can be read (pi-heif {version})")]


async def try_detector() -> list[Finding]:
    """Try the face detector in a process of its own: OpenCV takes 80 MB, and what it does is not trusted."""
    detector = find_detector()
    if detector is None:
        text = "faces: no detector is installed (extra `faces`): `crop=faces` takes the next word of its list"
        return [Finding("faces", Level.NOTICE, text)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "imgproxy.render.detector", detector.model, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode == 0:
        return [Finding("faces", Level.GOOD, f"the face detector works (YuNet, OpenCV {detector.opencv})")]
    return [Finding("faces", Level.NOTICE, f"the face detector is installed but fails: {_last_line(said)}")]


def try_telemetry() -> list[Finding]:
    """Compare what the environment asks for with the libraries that are installed. Nothing is sent."""
    wanted = asked_for(os.environ)
    if not has_telemetry():
        text = missing(wanted) if wanted else "traces, Sentry: no library is installed (extra `telemetry`)"
        return [Finding("telemetry", Level.NOTICE, text)]
    text = f"{' and '.join(wanted)}: on" if wanted else "traces, Sentry: off; OTEL_* and SENTRY_DSN switch them on"
    return [Finding("telemetry", Level.GOOD, text)]


def _last_line(said: bytes) -> str:
    return said.decode("utf-8", "replace").strip().rpartition("\n")[2]


def gigabytes(size_bytes: int) -> str:
    """Return a size for people: `1.5 GB`."""
    return f"{size_bytes / 1e9:.1f} GB"
