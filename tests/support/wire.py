"""A raw connection to the edge, for tests that decide themselves when which bytes are sent and read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.site import Site

REQUEST = "GET {target} HTTP/1.1\r\nHost: edge\r\n{more}\r\n"
READ_S = 20


class Wire:
    """A raw connection to the edge."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, here: Site, limit: int = 2**24) -> Wire:
        """Connect. The client reads no more than about `limit` bytes ahead."""
        host, port = here.edge.url.removeprefix("http://").split(":")
        return cls(*await asyncio.open_connection(host, int(port), limit=limit))

    def ask(self, target: str, more: str = "") -> None:
        """Send a GET request; `more` are whole header lines."""
        self.writer.write(REQUEST.format(target=target, more=more).encode())

    async def read_head(self) -> bytes:
        """Read the head of an answer."""
        async with asyncio.timeout(READ_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def read_answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read an answer: status, headers and body."""
        lines = (await self.read_head()).decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        body = await self.reader.readexactly(int(headers.get("Content-Length", "0")))
        return int(lines[0].split()[1]), headers, body

    async def close(self) -> None:
        """Close the connection."""
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)
