"""
A line: a TCP relay between one edge and what it needs, which a test can cut, hold, swallow and half-close.

It takes no time of its own: a delay is `hold`, then `release`, so tests need no sleep. It runs on the event loop of the
test. So what blocks the loop stops the line as well: call programs, for example PostgreSQL's, by `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHUNK_BYTES = 65_536
PATIENCE_S = 30.0


class Way(StrEnum):
    """A direction of a line, as the edge sees it."""

    FORTH = "forth"  # from the edge to the other side: statements, requests
    BACK = "back"  # to the edge: results, answers


@dataclass(eq=False, slots=True)
class _Call:
    """One connection: the edge's end, and the other side's."""

    edge: asyncio.StreamWriter
    other: asyncio.StreamWriter

    def receiver(self, way: Way) -> asyncio.StreamWriter:
        """Return who gets the bytes of this way."""
        return self.other if way is Way.FORTH else self.edge

    def close(self) -> None:
        """End it, after what was sent."""
        self.edge.close()
        self.other.close()

    def reset(self) -> None:
        """End it by a reset, on both sides."""
        reset(self.edge)
        reset(self.other)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by a reset: socket(7), to linger for 0 s."""
    found: socket.socket | None = writer.get_extra_info("socket")
    if found is not None and found.fileno() >= 0:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Line:
    """
    A relay to a port of the loopback. Whole: bytes pass. What a test does to it counts until the test mends it.

        cut()            connections end by a reset, new ones too
        swallow()        bytes vanish, connections stay open: a network that drops packets, nobody is told
        mend()           as before; connections that were swallowed are reset, because they have lost bytes
        hold(way)        bytes of this way stop here, in all connections, also new ones
        release(way)     they go on, in order
        half_close(way)  the receiver of this way reads the end of the stream, in each open connection; the other
                         way goes on
        lead_to(port)    new connections go there
    """

    def __init__(self, port: int) -> None:
        self._upstream_port = port
        self._is_cut = False
        self._is_swallowing = False
        self._gates = {way: asyncio.Event() for way in Way}
        self._held = {way: asyncio.Event() for way in Way}
        for gate in self._gates.values():
            gate.set()
        self._calls: set[_Call] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.accepted = 0

    # --- what a test does --------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Reset every connection, and each new one."""
        self._is_cut = True
        self._reset()

    def swallow(self) -> None:
        """Let bytes vanish, both ways. Connections stay open, and new ones are taken."""
        self._is_swallowing = True

    def mend(self) -> None:
        """Undo `cut`, `swallow` and every `hold`."""
        if self._is_swallowing:
            self._reset()
        self._is_cut = self._is_swallowing = False
        for way in Way:
            self.release(way)

    def hold(self, way: Way) -> None:
        """Stop the bytes of this way from now on."""
        self._held[way].clear()
        self._gates[way].clear()

    def release(self, way: Way) -> None:
        """Let the bytes of this way go on."""
        self._gates[way].set()

    async def arrived(self, way: Way) -> None:
        """Wait until bytes of this way are held."""
        async with asyncio.timeout(PATIENCE_S):
            await self._held[way].wait()

    def half_close(self, way: Way) -> int:
        """End this way of each connection that is open now. Return how many there are."""
        for call in self._calls:
            with suppress(OSError, RuntimeError):
                call.receiver(way).write_eof()
        return len(self._calls)

    def lead_to(self, port: int) -> None:
        """Lead new connections to another port. Those that are open stay as they are."""
        self._upstream_port = port

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._calls)

    # --- the relay ---------------------------------------------------------------------------------------------

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of the edge."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        try:
            if self._is_cut:
                raise ConnectionRefusedError
            other_reader, other = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except (OSError, asyncio.CancelledError):
            reset(writer)
            return
        call = _Call(writer, other)
        self._calls.add(call)
        try:
            if self._is_cut:  # meanwhile
                raise ConnectionResetError
            await asyncio.gather(self._pass(reader, call, Way.FORTH), self._pass(other_reader, call, Way.BACK))
            call.close()
        except (OSError, asyncio.CancelledError):
            call.reset()
        finally:
            self._calls.discard(call)

    async def _pass(self, source: asyncio.StreamReader, call: _Call, way: Way) -> None:
        """Pass the bytes of one way until its sender ends it."""
        receiver = call.receiver(way)
        while data := await source.read(CHUNK_BYTES):
            if not self._gates[way].is_set():
                self._held[way].set()
                await self._gates[way].wait()
            if self._is_swallowing:
                continue
            with suppress(RuntimeError):  # this way was half-closed: nobody can get the bytes
                receiver.write(data)
                await receiver.drain()
        await self._gates[way].wait()
        if not self._is_swallowing:
            with suppress(OSError, RuntimeError):
                receiver.write_eof()

    def _reset(self) -> None:
        for call in self._calls:
            call.reset()

    async def close(self) -> None:
        """End every connection."""
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def line_to(port: int) -> AsyncIterator[Line]:
    """Run a line to a port of the loopback. Its own port is `Line.port`, and stays the same."""
    line = Line(port)
    server = await asyncio.start_server(line.accept, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        await line.close()
