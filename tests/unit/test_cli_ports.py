"""The next free port, for commands that people start by hand."""

from __future__ import annotations

import asyncio

import pytest

from imgproxy.cli.ports import LAST_PORT, first_free_port

HOST = "127.0.0.1"


async def test_a_free_port_is_taken_as_it_is_and_then_the_next_one() -> None:
    """While a server listens on the port, a higher one is returned; then the port itself again."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), HOST, 0)
    port: int = server.sockets[0].getsockname()[1]

    assert port < await first_free_port(HOST, port) <= LAST_PORT
    server.close()
    await server.wait_closed()
    assert await first_free_port(HOST, port) == port


async def test_a_port_that_is_meant_for_another_server_is_left_out() -> None:
    """Two servers that are about to start want the same port."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), HOST, 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()

    assert await first_free_port(HOST, port, but=(port,)) > port


async def test_zero_leaves_the_choice_to_the_system() -> None:
    """No port is tried."""
    assert await first_free_port(HOST, 0) == 0


async def test_there_is_no_port_after_the_last_one() -> None:
    """Then listening has failed, with the words of the system."""
    with pytest.raises(OSError, match="in use"):
        await first_free_port(HOST, LAST_PORT, but=(LAST_PORT,))
