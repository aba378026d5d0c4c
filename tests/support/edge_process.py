"""An edge in a process of its own, for tests that kill it. Its failpoints are used through pipes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from imgproxy.config.sections import FreshnessSettings
    from imgproxy.failpoints import Point
    from imgproxy.medialibrary.server import EmbeddedLibrary

ROOT = Path(__file__).parents[2]
START_S = 120


class EdgeProcess:
    """An edge process: `async with` starts it, and kills it at the end."""

    def __init__(self, library: EmbeddedLibrary, cache_dir: Path, freshness: FreshnessSettings, **more: str) -> None:
        self._environment = {
            "IMGPROXY_SERVER__PORT": "0",
            "IMGPROXY_ORIGIN__URL": library.url,
            "IMGPROXY_ORIGIN__TOKEN": library.token,
            "IMGPROXY_ADMIN__TOKEN": "admin-token",
            "IMGPROXY_CACHE__DIR": str(cache_dir),
            "IMGPROXY_CACHE__MIN_FREE_BYTES": "0",
            "IMGPROXY_RENDER__PROCESSES": "1",
            "IMGPROXY_PURGE__DRAIN_S": "0.05",
            "IMGPROXY_FRESHNESS__SETTLE_S": str(freshness.settle_s),
            "IMGPROXY_FRESHNESS__REVALIDATE_AFTER_S": str(freshness.revalidate_after_s),
            "IMGPROXY_FRESHNESS__STALE_IF_ERROR_S": str(freshness.stale_if_error_s),
            "IMGPROXY_LOG__ACCESS": "none",
            **more,
        }
        self._process: asyncio.subprocess.Process | None = None
        self._log = cache_dir.parent / f"edge-{os.urandom(3).hex()}.log"
        self.url = ""

    async def __aenter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.support.crashing_edge",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **self._environment},
            )
        try:
            self.url = await self._answer("url")
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    @property
    def pid(self) -> int:
        """Return its id."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """Return what it has logged so far."""
        return self._log.read_text("utf-8")

    async def kill(self) -> None:
        """Kill it, and wait until it has ended."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await self.gone()

    async def gone(self) -> int:
        """Wait until it has ended, and return its status."""
        assert self._process is not None
        async with asyncio.timeout(START_S):
            status = await self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        return status

    async def hold(self, point: Point) -> None:
        """Hold every request that reaches this failpoint."""
        await self._ask(f"hold {point}")

    async def release(self, point: Point) -> None:
        """Let the held requests go on."""
        await self._ask(f"release {point}")

    async def arrived(self, point: Point, count: int) -> None:
        """Wait until so many requests are held there."""
        await self._ask(f"arrived {point} {count}", answer=f"arrived {point}")

    async def die(self, step: str, when: str) -> None:
        """Let it kill itself before or after the next call of this step; see crashing_edge.py."""
        await self._ask(f"die {step} {when}")

    async def _ask(self, text: str, answer: str = "done") -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())
        await self._answer(answer)

    async def _answer(self, word: str) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(START_S):
            line = (await self._process.stdout.readline()).decode().strip()
        assert line.startswith(word), f"expected {word!r}, got {line!r}: {self.log}"
        return line[len(word) :].strip()
