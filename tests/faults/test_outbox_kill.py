"""`kill -9` of the service while a cache in front has not confirmed a purge: the next run sends it."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.support.cdn import Told, cdn, fastly
from tests.support.frontends import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ADMIN = {"Authorization": "Bearer admin"}
KEYS = [f"2026/{number}.jpg" for number in range(300)]


@asynccontextmanager
async def served(tmp_path: Path, port: int, cdn_url: str) -> "AsyncIterator[asyncio.subprocess.Process]":
    """Run `imgproxy serve` as a process, killed at the end. Purges of keys need no Media Library."""
    config = tmp_path / "imgproxy.toml"
    config.write_text(
        f'[server]\nport = {port}\n[origin]\nurl = "http://127.0.0.1:9"\n[admin]\ntoken = "admin"\n'
        f'[cache]\ndir = "{tmp_path}/cache"\nmin_free_bytes = 0\n[render]\nprocesses = 1\n'
        f'[[downstream]]\nkind = "fastly"\nurl = "{cdn_url}"\nservice_id = "SU1Z0isxPaozGVKXdv0eY"\n'
        'token = "fastly-token"\nwait_s = 0.1\nagain_after_s = 3600\n'
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", "imgproxy.cli", "serve", "-c", str(config)),
        cwd=tmp_path,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(40):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    assert process.returncode is None, "the service ended"
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                break
        yield process
    finally:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["refused", "in the call"])
async def test_a_killed_service_purges_the_cdn_after_its_restart(tmp_path: Path, moment: str) -> None:
    """Every purged key is in the calls of the next run."""
    port = free_port()
    async with cdn() as server, aiohttp.ClientSession() as session:
        if moment == "refused":
            server.answer = lambda asked: Told(503)
        else:
            server.gate.clear()
        async with served(tmp_path, port, server.url) as process:
            url = f"http://127.0.0.1:{port}/-/purge/keys"
            async with session.post(url, json={"keys": KEYS}, headers=ADMIN) as response:
                assert response.status == 202
                assert (await response.json())["downstream"][0]["state"] == "pending"
            await server.arrived(1)
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
        server.answer = fastly
        server.gate.set()
        server.asked.clear()
        async with served(tmp_path, port, server.url):
            await server.arrived(2)

        told = [tag for asked in server.asked for tag in asked.json()["surrogate_keys"]]
        assert len(told) == len(set(told)) == len(KEYS)
