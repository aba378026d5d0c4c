"""wrk, the closed-loop load generator of the hit rows: one thread on a core of its own."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.servers import BenchError, pinned

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONNECTIONS = 64

_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}

# For each request, picks a random URL of a list. The sequence is the same in every run.
_SCRIPT = """
local urls = {}
for line in io.lines("%s") do urls[#urls + 1] = line end
math.randomseed(20)
request = function() return wrk.format("GET", urls[math.random(#urls)]) end
"""


@dataclass(frozen=True, slots=True)
class Shot:
    """The result of one run of wrk."""

    requests: int
    rate: float  # requests a second
    p50_s: float
    p99_s: float


def shoot(
    url: str, *, seconds: float, core: int | None, headers: Mapping[str, str] | None = None, targets: Path | None = None
) -> Shot:
    """
    Load `url` over 64 connections. With `targets`, a file of paths, each request is for a random one.

    Raises:
        BenchError: wrk failed, or an answer was an error.
    """
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--latency", "--timeout", "20s"]
    for name, value in (headers or {}).items():
        command += ["-H", f"{name}: {value}"]
    if targets is not None:
        script = targets.with_suffix(".lua")
        script.write_text(_SCRIPT % targets, encoding="utf-8")
        command += ["-s", str(script)]
    done = subprocess.run(
        [*pinned(core), *command, url], capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    if done.returncode or "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise BenchError(f"wrk of {url}: {done.stdout[-400:]} {done.stderr[-200:]}")
    return Shot(
        requests=int(_find(r"(\d+) requests in", done.stdout)),
        rate=float(_find(r"Requests/sec:\s+([\d.]+)", done.stdout)),
        p50_s=_seconds(_find(r"\n\s+50%\s+(\S+)", done.stdout)),
        p99_s=_seconds(_find(r"\n\s+99%\s+(\S+)", done.stdout)),
    )


def _find(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise BenchError(f"wrk printed nothing that matches {pattern}: {text[-400:]}")
    return match.group(1)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if match is None:
        raise BenchError(f"wrk printed a time that cannot be read: {text}")
    return float(match.group(1)) * _UNITS_S[match.group(2)]
