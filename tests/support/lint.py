"""What httplint, the rules of REDbot, says about an exchange with the edge, byte for byte as it was on the wire."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from httplint import HttpRequestLinter, HttpResponseLinter
from httplint.note import levels

from tests.support.wire import READ_S, Wire

if TYPE_CHECKING:
    from collections.abc import Iterable

    from httplint.note import Note

    from tests.support.site import Site

USUAL = ("Host: edge", "User-Agent: test")


async def linted(here: Site, method: str, target: str, *lines: str, body: bytes = b"") -> tuple[int, list[Note]]:
    """Send a request with these header lines. Return the status of the answer, and every note about it."""
    length = (f"Content-Length: {len(body)}",) if body else ()
    sent = [line.partition(": ")[::2] for line in (*USUAL, *lines, *length)]
    wire = await Wire.to(here)
    wire.writer.write(f"{method} {target} HTTP/1.1\r\n".encode())
    wire.writer.write("".join(f"{name}: {value}\r\n" for name, value in sent).encode() + b"\r\n" + body)
    first, *fields = (await wire.read_head()).rstrip(b"\r\n").split(b"\r\n")
    version, status, phrase = first.split(b" ", 2)
    received = [(name, value) for name, _, value in (line.partition(b": ") for line in fields)]
    length_bytes = next((int(value) for name, value in received if name.lower() == b"content-length"), 0)
    async with asyncio.timeout(READ_S):
        has_body = method != "HEAD" and status not in (b"204", b"304")
        content = await wire.reader.readexactly(length_bytes if has_body else 0)
    await wire.close()

    request = HttpRequestLinter()
    request.process_request_topline(method.encode(), target.encode(), b"HTTP/1.1")
    request.process_headers([(name.encode(), value.encode()) for name, value in sent])
    request.feed_content(body)
    request.finish_content(complete=True)
    response = HttpResponseLinter(_related=request)
    response.is_head_response = method == "HEAD"
    response.process_response_topline(version, status, phrase)
    response.process_headers(received)
    response.feed_content(content)
    response.finish_content(complete=True)
    return int(status), list(response.notes)


def complaints(notes: Iterable[Note]) -> dict[str, str]:
    """Return the bad notes and the warnings: their kind, and their summary."""
    return {
        type(note).__name__: f"{note.level.value}: {note.summary}"
        for note in notes
        if note.level in (levels.BAD, levels.WARN)
    }
