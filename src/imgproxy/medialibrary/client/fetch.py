"""
Fetches originals from serve-image into files.

The event loop sends and receives; threads decode, hash and write, so that a slow disk does not stop the loop.

CPU of the bare loop over ours, row `cold`, JPEG (`python -m benchmarks --only cold --rounds 5`): 0.98-1.01 for 6 MP and
0.96 for 24 MP. A client of our own with shared memory had 0.86 and 0.90-0.96, in turns on the same busy machine.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from imgproxy.medialibrary.client.image_file import PART_BYTES, ImageFile
from imgproxy.medialibrary.errors import TooLarge
from imgproxy.medialibrary.models import ServedImage

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from imgproxy.medialibrary.client.connections import Response
    from imgproxy.medialibrary.client.image_file import StrPath
    from imgproxy.medialibrary.client.transport import Call, Transport


class ImageFetcher:
    """
    Fetches the images of one library.

    Its connections are its own: fetches that take long do not hold up the calls of a purge.
    """

    def __init__(self, transport: Transport, *, max_connections: int) -> None:
        self._transport = transport
        self._connections = transport.connections(max_connections, part_bytes=PART_BYTES)
        # A disk that hangs holds a thread for each file, also of fetches that were cancelled.
        self._threads = ThreadPoolExecutor(max_connections, thread_name_prefix="original")

    def fetch(self, call: Call, destination: StrPath, max_bytes: int | None) -> Coroutine[Any, Any, ServedImage]:
        """
        Fetch an image into its file, in as many tries as the transport allows.

        Cancelling ends the connection at once. On failure no file is left. If a thread is still writing to it, it is
        removed when the thread has finished.

        Raises:
            MediaLibraryError: what the answer means, or that none came in time.
            OSError: from the disk.
            ValueError: a validator holds a line break or a NUL.
        """
        take = partial(self._image, call, destination, max_bytes)
        return self._transport.send(call, self._connections, take)

    async def aclose(self) -> None:
        """Close every connection, for good. A fetch that waits for its answer or body fails."""
        await self._connections.aclose()
        self._threads.shutdown(wait=False)

    async def _image(self, call: Call, destination: StrPath, max_bytes: int | None, response: Response) -> ServedImage:
        size_bytes, digest, head = 0, None, b""
        if response.status != 304:
            announced = response.content_length
            if max_bytes is not None and announced is not None and announced > max_bytes:
                raise TooLarge(limit_bytes=max_bytes, size_bytes=announced, where=call.where)
            encoding = response.headers.get("Content-Encoding")
            file = ImageFile(destination, encoding, self._threads, max_bytes=max_bytes, call=call)
            try:
                # A task of its own: each part of the body wakes this task alone, not the whole chain of its callers.
                digest = await asyncio.create_task(file.receive(response))
            except BaseException:
                file.discard()
                raise
            size_bytes, head = file.size_bytes, file.head
        return ServedImage(
            is_modified=response.status != 304,
            content_type=_text(response, "Content-Type"),
            etag=_text(response, "ETag"),
            last_modified=_text(response, "Last-Modified"),
            size_bytes=size_bytes,
            digest=digest,
            head=head,
        )


def _text(response: Response, name: str) -> str | None:
    """Return a header as one line of valid Unicode; aiohttp keeps bytes that are not UTF-8 as surrogates."""
    value = response.headers.get(name)
    return None if value is None else " ".join(value.encode(errors="surrogateescape").decode(errors="replace").split())
