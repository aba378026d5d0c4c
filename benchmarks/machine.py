"""What the figures were taken on: the machine, the versions, the commit."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 1 << 20


def describe() -> dict[str, Any]:
    """The machine and the versions of everything that takes part."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: _package(name) for name in ("aiohttp", "uvloop", "pyvips", "pyvips-binary", "httpx")},
        "nginx": _output("nginx", "-v"),
        "wrk": _output("wrk", "-v").partition("Copyright")[0].strip(),
        "node": _output("node", "--version"),
        "commit": commit(),
    }


def fill_page_cache(folder: Path) -> str:
    """
    Fill the page cache, as it is full on any server that has been up for a while; what that changed, in words.

    A virtual machine gets memory from its host page by page as it is first touched, and may give back what has been
    free for some seconds: then a file written costs ten times the CPU, and what is measured is the host. Memory that
    the page cache holds is reused instead. A hole is read, which fills the cache and no disk.
    """
    fresh_ms = _write_ms(folder / "fresh")
    with (folder / "hole").open("wb+", buffering=0) as hole:
        size_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        hole.truncate(size_bytes)
        buffer = bytearray(MEGABYTE)
        while hole.readinto(buffer):
            pass
    reused_ms = _write_ms(folder / "reused")
    return f"To write a megabyte took {fresh_ms:.2f} ms of CPU, and {reused_ms:.2f} once the page cache was full."


def _write_ms(path: Path) -> float:
    """CPU milliseconds that a megabyte of a new file takes, of 64; the file stays, as its memory would be free."""
    data = os.urandom(MEGABYTE)
    began_s = time.process_time()
    with path.open("wb", buffering=0) as file:
        for _ in range(64):
            file.write(data)
    return (time.process_time() - began_s) * 1e3 / 64


def commit() -> str:
    """The commit of the work tree, with a + where files of the product differ from it."""
    found = _output("git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD")
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--", "src")
    return found + ("+" if changed else "")


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _package(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "not installed"
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0] if (done.stdout + done.stderr).strip() else ""
