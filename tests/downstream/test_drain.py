"""`imgproxy serve` in real processes that get SIGTERM while requests come: none is refused, cut or lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from operator import lt
from typing import TYPE_CHECKING

import pytest

from tests.support.balancers import HAPROXY_CFG, Kind, balancer
from tests.support.frontends import free_port
from tests.support.site import KEY, Site, poll, site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.slow

START_S = 60
# HAProxy asks once a second. A busy machine needs more than that.
DELAY_S = 4
CLIENTS = 8
# So many requests come after the signal, at least, before anybody notices that the node leaves.
LATE = 60


class Serve:
    """`imgproxy serve` on a port that stays its own."""

    def __init__(self, here: Site, folder: Path) -> None:
        self.port = free_port()
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("IMGPROXY_")},
            "IMGPROXY_SERVER__PORT": str(self.port),
            "IMGPROXY_SERVER__SHUTDOWN_DELAY_S": str(DELAY_S),
            "IMGPROXY_ORIGIN__URL": here.library.url,
            "IMGPROXY_ORIGIN__TOKEN": "library-token",
            "IMGPROXY_CACHE__DIR": str(folder),
            "IMGPROXY_CACHE__MIN_FREE_BYTES": "0",
            "IMGPROXY_RENDER__PROCESSES": "1",
            "IMGPROXY_LOG__ACCESS": "none",
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "imgproxy", "serve", env=self._environment, stderr=asyncio.subprocess.DEVNULL
        )
        await poll(lambda: once(self.port, "/-/ready"), lambda found: found == 200)

    def terminate(self) -> None:
        """Send SIGTERM."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Wait for its end. Returns its exit code."""
        assert self._process is not None
        async with asyncio.timeout(START_S):
            return await self._process.wait()

    async def kill(self) -> None:
        """End it, however it is."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Connection:
    """A client that tries nothing twice. It keeps its connection for as long as the server does."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the server has kept the connection after the last answer."""
        return self._streams is not None

    async def get(self, target: str) -> int | str:
        """Ask for a target. Returns the status of a whole answer, or why there is none."""
        try:
            return await self._get(target)
        except (OSError, EOFError) as error:
            await self.close()
            return repr(error)

    async def _get(self, target: str) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(f"GET {target} HTTP/1.1\r\nHost: images.example.com\r\n\r\n".encode())
        status, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(field.split(": ", 1) for field in fields if field)
        await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            await self.close()
        return int(status.split()[1])

    async def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            (_, writer), self._streams = self._streams, None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def once(port: int, target: str) -> int | str:
    """Ask for a target over a connection of its own."""
    connection = Connection(port)
    found = await connection.get(target)
    await connection.close()
    return found


@asynccontextmanager
async def serving(tmp_path: Path, count: int) -> AsyncIterator[list[Serve]]:
    """Start a library and so many nodes."""
    async with site(tmp_path) as here, AsyncExitStack() as stack:
        found = [Serve(here, tmp_path / f"node-{number}") for number in range(count)]
        for node in found:
            stack.push_async_callback(node.kill)
            await node.start()
        yield found


async def test_no_request_is_refused_where_the_node_is_taken_away_as_kubernetes_does(tmp_path: Path) -> None:
    """
    New connections come until the balancer notices; those that are open are left open, and the node itself ends them.

    Hits and misses, by clients that try nothing twice. At the end the process exits with 0.
    """
    async with serving(tmp_path, 1) as (node,):
        answers: Counter[int | str] = Counter()
        late: Counter[int | str] = Counter()
        is_noticed = asyncio.Event()
        is_leaving = False

        def count(found: int | str) -> None:
            answers[found] += 1
            if is_leaving:
                late[found] += 1

        async def open_new(number: int) -> None:
            while not is_noticed.is_set():
                count(await once(node.port, f"/{KEY}?w={10 + number}"))

        async def stay(number: int) -> None:
            connection = Connection(node.port)
            width = 20
            while width == 20 or connection.is_open:
                width += 1
                count(await connection.get(f"/{KEY}?w={10 + number if number % 2 else width}"))

        clients = [asyncio.create_task(each(number)) for number in range(CLIENTS) for each in (open_new, stay)]
        await poll(lambda: asyncio.sleep(0, answers[200]), lambda found: found > LATE)
        node.terminate()
        is_leaving = True
        await poll(lambda: asyncio.sleep(0, late.total()), lambda found: found > LATE)
        assert await once(node.port, "/-/ready") == 503
        is_noticed.set()
        await asyncio.gather(*clients)
        code = await node.ended()

    assert answers.keys() == {200}, answers
    assert late[200] > LATE
    assert code == 0


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
async def test_a_rolling_restart_by_sigterm_refuses_no_request(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Two processes end and start again, one after the other, behind the shipped configuration.

    HAProxy asks /-/ready, and here it may try nothing twice. Open-source nginx cannot ask: it asks the other node.
    """
    if kind == "haproxy":
        text = HAPROXY_CFG.read_text()
        for line in ("retries 2", "option redispatch 1", "retry-on conn-failure empty-response"):
            assert line in text
            text = text.replace(line, "retries 0" if line == "retries 2" else "")
        changed = tmp_path / "changed.cfg"
        changed.write_text(text)
        monkeypatch.setattr("tests.support.balancers.HAPROXY_CFG", changed)
    async with serving(tmp_path, 2) as both, balancer(kind, tmp_path / kind, [node.port for node in both]) as front:
        port = int(front.url.rpartition(":")[2])
        answers: Counter[int | str] = Counter()
        is_over = asyncio.Event()

        async def keep_asking(number: int) -> None:
            connection = Connection(port)
            while not is_over.is_set():
                answers[await connection.get(f"/{KEY}?w={10 + number}")] += 1
            await connection.close()

        clients = [asyncio.create_task(keep_asking(number)) for number in range(CLIENTS)]
        for node in both:
            before = answers[200]
            await poll(lambda: asyncio.sleep(0, answers[200]), partial(lt, before + LATE))
            node.terminate()
            assert await node.ended() == 0
            await node.start()
            if kind == "haproxy":
                await asyncio.sleep(4)  # two good checks, until HAProxy uses it again
        is_over.set()
        await asyncio.gather(*clients)

    assert answers.keys() == {200}, answers
    assert answers[200] > LATE
