"""
A TCP relay between the edge and a cache in front, for races without a sleep.

It can hold what the edge sends, as a slow network does, and end connections at the moment when they are used again.
"""

from __future__ import annotations

import asyncio
import socket
import struct
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
        self._clients: set[asyncio.StreamWriter] = set()
        self._ending: set[asyncio.StreamWriter] = set()
        self._is_reset = False
        self.ended = 0
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

    def end_at_next_request(self, *, is_reset: bool) -> None:
        """
        End each connection that is open now when the next request comes over it, and count it in `ended`.

        So does a server whose idle time ends just then. The client sees a FIN, or a reset.
        """
        self._ending, self._is_reset = set(self._clients), is_reset

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
        self._clients.add(writer)
        await asyncio.gather(self._pump(reader, forth, None, writer), self._pump(back, writer, self._open, writer))
        self._clients.discard(writer)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        gate: asyncio.Event | None,
        client: asyncio.StreamWriter,
    ) -> None:
        try:
            while data := await source.read(65536):
                if gate is None and client in self._ending:
                    self._end(client)
                    break
                if gate is not None and not gate.is_set():
                    self._stopped.set()
                    await gate.wait()
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()

    def _end(self, client: asyncio.StreamWriter) -> None:
        self.ended += 1
        if self._is_reset:  # socket(7): to linger for 0 s is to send a reset
            linger = struct.pack("ii", 1, 0)
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.close()

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
