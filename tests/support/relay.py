"""A TCP relay that can hold what one side sends: a slow network between the edge and a cache in front, without a sleep."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Relay:
    """Passes bytes to a port; `hold` stops the answers on their way back, and `arrived` tells that one is stopped."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._open = asyncio.Event()
        self._open.set()
        self._stopped = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def hold(self) -> None:
        """Stop every answer from now on."""
        self._stopped.clear()
        self._open.clear()

    def release(self) -> None:
        """Let them go on."""
        self._open.set()

    async def arrived(self) -> None:
        """Wait until bytes of an answer are held."""
        async with asyncio.timeout(20):
            await self._stopped.wait()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, both ways."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pump(reader, forth, None), self._pump(back, writer, self._open))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event | None) -> None:
        try:
            while data := await source.read(65536):
                if gate is not None and not gate.is_set():
                    self._stopped.set()
                    await gate.wait()
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()

    async def close(self) -> None:
        """End every connection."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def relay(upstream_port: int) -> AsyncIterator[Relay]:
    """Run one."""
    running = Relay(upstream_port)
    server = await asyncio.start_server(running.accept, "127.0.0.1", 0)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        running.release()
        server.close()
        await running.close()
