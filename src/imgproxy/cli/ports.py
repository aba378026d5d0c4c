"""Ports for commands that people start by hand: if one is in use, the next free one is taken."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container

TRIES: Final = 100
LAST_PORT: Final = 65_535


async def first_free_port(host: str, wanted: int, *, but: Container[int] = ()) -> int:
    """
    Return the first port from `wanted` on that is free and not in `but`. 0 stays 0: the system chooses.

    Another program may still take it before the caller does. Then listening fails, and says so.

    Raises:
        OSError: none of `TRIES` ports is free, or this process may not listen on them.
    """
    if wanted == 0:
        return 0
    for port in range(wanted, min(wanted + TRIES, LAST_PORT + 1)):
        if port not in but and await _is_free(host, port):
            return port
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


async def _is_free(host: str, port: int) -> bool:
    """Listen for a moment, as a server will. Only so is it known: who may listen differs between systems."""
    try:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), host, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    server.close()
    await server.wait_closed()
    return True
