"""`imgproxy serve` as a process before an embedded library, for tests of what only a process has."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Protocol

import aiohttp

from tests.support.frontends import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path
    from typing import IO

START_S = 120


class Library(Protocol):
    """A Media Library that runs."""

    @property
    def url(self) -> str: ...

    @property
    def token(self) -> str: ...


@asynccontextmanager
async def served(
    library: Library,
    folder: Path,
    *,
    stderr: int | IO[bytes],
    before: Sequence[str] = (),
    config: str = "",
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Yield the process and its URL. It is killed at the end. `before`: words before the command, such as a wrapper."""
    port = free_port()
    file = folder / "imgproxy.toml"
    file.write_text(
        f"[server]\nport = {port}\nshutdown_timeout_s = 5\n[origin]\nurl = '{library.url}'\ntoken = '{library.token}'\n"
        f"[admin]\ntoken = 'admin-token'\n[cache]\ndir = '{folder}/served'\nmin_free_bytes = 0\n"
        f"[render]\nprocesses = 1\n{config}"
    )
    process = await asyncio.create_subprocess_exec(
        *before,
        sys.executable,
        *("-P", "-m", "imgproxy.cli", "serve", "-c", str(file)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=stderr,
    )
    try:
        await _listening(process, port)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _listening(process: asyncio.subprocess.Process, port: int) -> None:
    async with asyncio.timeout(START_S), aiohttp.ClientSession() as session:
        while True:
            assert process.returncode is None, "the service ended as it started"
            with suppress(aiohttp.ClientError):
                await session.get(f"http://127.0.0.1:{port}/-/health")
                return
            await asyncio.sleep(0.05)
