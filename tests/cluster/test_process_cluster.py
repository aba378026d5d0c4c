"""The support of the fault tests: its lines do what they say, and its visitors find old bytes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from imgproxy.failpoints import Step
from tests.support.line import Way, line_to
from tests.support.process_cluster import process_cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.line import Line
    from tests.support.postgres import PostgresServer


class Echo:
    """A server that sends back what it gets, and notes it; at the end of a stream it says `bye`."""

    def __init__(self) -> None:
        self.got = b""
        self.ended = asyncio.Event()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while data := await reader.read(100):
                self.got += data
                writer.write(data)
            self.ended.set()
            writer.write(b"bye")
        except OSError:
            self.ended.set()
        finally:
            writer.close()


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[Echo, Line, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Run one behind a line, with a connection that has been used."""
    here = Echo()
    async with (
        asyncio.timeout(20),
        await asyncio.start_server(here.accept, "127.0.0.1", 0) as server,
        line_to(server.sockets[0].getsockname()[1]) as line,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        yield here, line, reader, writer
        writer.close()


async def test_a_cut_line_resets_connections_and_new_ones() -> None:
    """It carries bytes again when it is mended."""
    async with echo() as (here, line, reader, _):
        line.cut()
        with pytest.raises(ConnectionResetError):
            assert await reader.read() == b"reset"
        await here.ended.wait()
        refused, refused_writer = await asyncio.open_connection("127.0.0.1", line.port)
        with pytest.raises(ConnectionResetError):
            assert await refused.read() == b"reset"
        refused_writer.close()
        line.mend()
        mended, writer = await asyncio.open_connection("127.0.0.1", line.port)
        writer.write(b"x")
        assert await mended.readexactly(1) == b"x"
        writer.close()


async def test_a_held_line_passes_its_bytes_later() -> None:
    """Of one way only: what the edge sends has arrived, and the answer is held."""
    async with echo() as (here, line, reader, writer):
        line.hold(Way.BACK)
        writer.write(b"one")
        await line.arrived(Way.BACK)
        assert here.got == b"helloone"
        line.release(Way.BACK)
        assert await reader.readexactly(3) == b"one"


async def test_a_half_closed_line_ends_one_way() -> None:
    """The other side reads the end of the stream, and can still answer."""
    async with echo() as (here, line, reader, _):
        assert line.half_close(Way.FORTH) == 1
        assert await reader.read() == b"bye"
        assert here.ended.is_set()
    async with echo() as (here, line, reader, writer):
        line.half_close(Way.BACK)
        assert await reader.read() == b""
        writer.write(b"more")
        while here.got != b"hellomore":
            await asyncio.sleep(0)


async def test_a_swallowed_line_tells_nobody() -> None:
    """Bytes vanish and the connection stays open, until the line is mended."""
    async with echo() as (here, line, reader, writer):
        line.swallow()
        writer.write(b"gone")
        await writer.drain()
        other_reader, other = await asyncio.open_connection("127.0.0.1", line.port)
        other.write(b"gone, too")
        while line.open < 2:
            await asyncio.sleep(0)
        line.mend()
        for each in (reader, other_reader):
            with pytest.raises(ConnectionResetError):
                assert await each.read() == b"reset"
        assert here.got == b"hello"
        other.close()


async def test_visitors_find_old_bytes(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """A node is held while it applies a purge, and the test takes it as acknowledged: the control."""
    a_long_lease = {"lease_s": 60.0, "wait_s": 60.0}
    async with (
        process_cluster(tmp_path, postgres_server, names=("a", "b"), cluster=a_long_lease) as here,
        here.visitors() as visitors,
    ):
        a, b = here.nodes
        await b.hold(Step.BEFORE_APPLY)
        await here.put(30)
        purge = asyncio.create_task(a.purge(here.entry))
        await b.arrived(Step.BEFORE_APPLY)

        visitors.promise_now()
        await visitors.round(b)

        found = visitors.old()
        assert {answer.door for answer in found} >= {"b"}
        visitors.promises.clear()
        await b.release(Step.BEFORE_APPLY)
        visitors.promise(await purge)
        await visitors.round()
        assert visitors.old() == []
