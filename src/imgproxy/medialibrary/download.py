"""The body of serve-image: every byte counted, hashed and written, or an error; never a file that only looks whole."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, BinaryIO

from imgproxy.medialibrary.errors import OriginUnavailable, TooLarge
from imgproxy.medialibrary.models import ServedImage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx

DIGEST_BYTES = 16
FLUSH_BYTES = 256 * 1024  # written and hashed at once, in a thread: a slow disk must not stop the event loop


def announced_bytes(response: httpx.Response) -> int | None:
    """Return the Content-Length, or None where there is none that can be trusted."""
    text = response.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


async def checked_chunks(response: httpx.Response, *, max_bytes: int | None, where: str) -> AsyncIterator[bytes]:
    """
    Give the chunks of the body, and fail where it is too large, too short or too long.

    Raises:
        TooLarge: before the first chunk where the length was announced, else as soon as it is passed.
        OriginUnavailable: if the body does not have exactly the announced length.
    """
    announced = announced_bytes(response)
    if max_bytes is not None and announced is not None and announced > max_bytes:
        raise TooLarge(limit_bytes=max_bytes, size_bytes=announced, where=where)
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if max_bytes is not None and size > max_bytes:
            raise TooLarge(limit_bytes=max_bytes, where=where)
        if announced is not None and response.num_bytes_downloaded >= announced and _has_surplus(response):
            raise OriginUnavailable(message=f"more than the announced {announced} bytes came", where=where)
        yield chunk
    if announced is not None and response.num_bytes_downloaded != announced:
        came = response.num_bytes_downloaded
        raise OriginUnavailable(message=f"{came} of {announced} announced bytes came", where=where)


async def write_image(response: httpx.Response, destination: Path, *, max_bytes: int | None, where: str) -> ServedImage:
    """
    Write the body to `destination` and return its facts; on any failure the file is removed again.

    The digest is BLAKE2b of 128 bits over the bytes as written. Raises as `checked_chunks` does, and OSError from
    the disk.
    """
    sink = await asyncio.to_thread(_Sink, destination)
    pending = bytearray()
    try:
        async for chunk in checked_chunks(response, max_bytes=max_bytes, where=where):
            pending += chunk
            if len(pending) >= FLUSH_BYTES:
                await asyncio.to_thread(sink.take, bytes(pending))
                pending.clear()
        await asyncio.to_thread(sink.finish, bytes(pending))
    except BaseException:
        sink.discard()
        raise
    return ServedImage(
        is_modified=True,
        content_type=response.headers.get("content-type"),
        etag=response.headers.get("etag"),
        last_modified=response.headers.get("last-modified"),
        size_bytes=sink.size_bytes,
        digest=sink.digest,
    )


class _Sink:
    """A file being written, and the hash of what is in it. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("wb")
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self.size_bytes = 0

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def take(self, data: bytes) -> None:
        self._hash.update(data)
        self._file.write(data)
        self.size_bytes += len(data)

    def finish(self, data: bytes) -> None:
        self.take(data)
        self._file.close()

    def discard(self) -> None:
        # A write that a cancelled call left in its thread either ends before this close or fails after it.
        try:
            self._file.close()
        finally:
            self._path.unlink(missing_ok=True)


def _has_surplus(response: httpx.Response) -> bool:
    """
    Whether bytes after the announced length have come on the same connection.

    h11 keeps them as the beginning of a next answer, which would then be given to another call; neither httpx nor
    httpcore tells. Their innards are therefore looked at with care: whatever is not as expected means False.
    """
    stream: object = response.stream
    for name in ("_stream", "_httpcore_stream", "_stream", "_connection", "_h11_state"):
        stream = getattr(stream, name, None)
    trailing = getattr(stream, "trailing_data", None)
    return bool(trailing and trailing[0])
