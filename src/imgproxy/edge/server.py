"""The HTTP server: it opens the port, with the fast path if aiohttp allows it, and ends the connections at a stop."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web

from imgproxy.edge.connections import Connection, LimitedServer, limit_options
from imgproxy.edge.fast.server import FastServer, is_supported
from imgproxy.edge.handler import MAX_FIELD_BYTES, MAX_LINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgproxy.config.sections import ServerSettings
    from imgproxy.edge.connections import Limits
    from imgproxy.edge.fast.server import FastPath

log = logging.getLogger(__name__)

# Connections that the kernel keeps until they are accepted.
BACKLOG = 1024


class Server:
    """Serves HTTP at the configured address."""

    def __init__(
        self,
        handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        path: FastPath,
        limits: Limits,
        settings: ServerSettings,
    ) -> None:
        self._handle = handle
        self._path = path
        self._limits = limits
        self._settings = settings
        self._runner: web.ServerRunner | None = None
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        """Open the port."""
        settings = self._settings
        self._runner = web.ServerRunner(self._make(), shutdown_timeout=settings.shutdown_timeout_s)
        await self._runner.setup()
        assert self._runner.server is not None
        loop = asyncio.get_running_loop()
        # Not an aiohttp site: it does not say which sockets it has, and `_close_port` needs them.
        self._listener = await loop.create_server(self._runner.server, settings.host, settings.port, backlog=BACKLOG)

    def _make(self) -> web.Server:
        """Make the server, with the fast path if this version of aiohttp supports it."""
        options: dict[str, Any] = {
            "access_log": None,
            "max_line_size": MAX_LINE_BYTES,
            "max_field_size": MAX_FIELD_BYTES,
            "auto_decompress": False,  # the signature of a webhook is over the bytes as they came
            "handler_cancellation": True,  # when a client leaves, work for it alone ends
            **limit_options(self._settings),
        }
        if not is_supported():
            log.warning("this version of aiohttp does not allow the fast path; hits go the usual way")
            return LimitedServer(self._handle, self._limits, **options)
        return FastServer(self._handle, self._limits, self._path, **options)

    async def leave(self) -> None:
        """
        Keep the port open for `shutdown_delay_s`, and end each connection with its next answer.

        Kubernetes sends no new connections then, but leaves those that are open. Their clients come back over new
        ones, which go to other nodes.
        """
        if self._runner is not None and isinstance(self._runner.server, LimitedServer):
            self._runner.server.is_leaving = True
        await asyncio.sleep(self._settings.shutdown_delay_s)

    async def stop(self) -> None:
        """
        Close the port, let requests under way finish until the deadline, then close their connections.

        aiohttp would wait for its deadline twice: once for the handler, and once more for its cancellation.
        """
        if self._runner is None:
            return
        server = self._runner.server
        if isinstance(server, FastServer):
            server.is_draining = True
        await self._close_port()
        cleanup = asyncio.ensure_future(self._runner.cleanup())
        await asyncio.wait((cleanup,), timeout=self._settings.shutdown_timeout_s)
        if not cleanup.done() and server is not None:
            log.warning("shutdown_timeout_s is over: %d connections are closed", len(server.connections))
            for connection in server.connections:
                connection.force_close()
                if isinstance(connection, Connection):
                    connection.cut()  # it may have bytes for a client that does not read
        await cleanup
        self._runner = None

    async def _close_port(self) -> None:
        """
        Accept no more connections, then close the port.

        In between asyncio makes the transports of those that it has just accepted. After the port is closed it cannot,
        and such a connection would never be closed (seen with Python 3.11).
        """
        if self._listener is None:
            return
        for listening in self._listener.sockets:
            asyncio.get_running_loop().remove_reader(listening)
        await asyncio.sleep(0)
        self._listener.close()
        self._listener = None

    @property
    def url(self) -> str:
        """The URL of the server, with the port that it got."""
        assert self._listener is not None, "the server is started"
        host, port = self._listener.sockets[0].getsockname()[:2]
        host = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 for display, nothing binds here
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
