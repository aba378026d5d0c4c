"""
serve-image: sends the bytes of a picture if its entries allow it.

The ETag is a digest of the bytes. It is kept in memory by fingerprint. If the file changes while it is sent, the
connection is closed before the last byte, so that no client takes a mixture of old and new bytes for a whole picture.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from imgproxy.medialibrary.server.conditions import ByteRange, Unsatisfiable, byte_range, http_date, is_not_modified
from imgproxy.medialibrary.server.folder import digest_of, fingerprint_of, is_settled
from imgproxy.medialibrary.server.keys import path_of
from imgproxy.medialibrary.server.pictures import sniff
from imgproxy.medialibrary.server.problems import blocked_image, named, no_image

if TYPE_CHECKING:
    from imgproxy.medialibrary.server.probe import Point, Probe
    from imgproxy.medialibrary.server.state import Fingerprint
    from imgproxy.medialibrary.server.store import LibraryStore

CHUNK_BYTES: Final = 256 * 1024
DIGESTS_MAX: Final = 20_000


@dataclass(frozen=True, slots=True)
class OpenPicture:
    """An open file of a picture, and the headers that describe it. The caller must close `fd`."""

    fd: int
    fingerprint: Fingerprint
    etag: str
    last_modified: str
    mime_type: str


class ImageServer:
    """Answers serve-image from the folder of a store."""

    def __init__(self, store: LibraryStore, probe: Probe | None = None) -> None:
        self._store = store
        self._probe = probe
        self._known: OrderedDict[tuple[str, Fingerprint], tuple[str, str]] = OrderedDict()

    async def answer(self, request: web.Request, key: str) -> web.StreamResponse:
        """
        Send the picture with this key, or the requested range of it.

        Raises:
            Problem: 403 if an entry of the key is revoked or invalid, 404 if there is no such picture, 416 if the range
                has no byte of it.
        """
        picture = await asyncio.to_thread(self._open, key)
        try:
            return await self._send(request, picture)
        finally:
            os.close(picture.fd)

    async def _send(self, request: web.Request, picture: OpenPicture) -> web.StreamResponse:
        size_bytes = picture.fingerprint.size_bytes
        headers = {
            "ETag": picture.etag,
            "Last-Modified": picture.last_modified,
            "Content-Type": picture.mime_type,
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, no-cache",
            "X-Content-Type-Options": "nosniff",
        }
        if is_not_modified(
            picture.etag,
            picture.last_modified,
            if_none_match=request.headers.get("If-None-Match"),
            if_modified_since=request.headers.get("If-Modified-Since"),
        ):
            await self._wait_at("headers")
            return web.Response(status=304, headers=headers)
        try:
            part = byte_range(
                size_bytes,
                picture.etag,
                picture.last_modified,
                range_header=request.headers.get("Range") if request.method == "GET" else None,
                if_range=request.headers.get("If-Range"),
            )
        except Unsatisfiable:
            span = f"bytes */{size_bytes}"
            raise named(
                416, "RangeNotSatisfiable", "The range has no byte of this picture", content_range=span
            ) from None
        response = web.StreamResponse(status=200 if part is None else 206, headers=headers)
        sent = part or ByteRange(0, size_bytes - 1)
        response.content_length = sent.length_bytes
        if part is not None:
            response.headers["Content-Range"] = f"bytes {part.first}-{part.last}/{size_bytes}"
        await self._wait_at("headers")
        await response.prepare(request)
        if request.method != "HEAD":
            await self._send_bytes(request, response, picture, sent)
        return response

    async def _send_bytes(
        self, request: web.Request, response: web.StreamResponse, picture: OpenPicture, part: ByteRange
    ) -> None:
        position, end = part.first, part.last + 1
        middle = part.first + part.length_bytes // 2
        while position < end:
            # With a probe, a chunk ends at the middle, where a test can hold the answer.
            stop = min(position + CHUNK_BYTES, middle if self._probe is not None and position < middle else end)
            data = await asyncio.to_thread(os.pread, picture.fd, stop - position, position)
            is_changed = stop == end and fingerprint_of(os.fstat(picture.fd)) != picture.fingerprint
            if len(data) != stop - position or is_changed:
                if request.transport is not None:
                    request.transport.abort()
                return
            await response.write(data)
            position = stop
            if position == middle:
                await self._wait_at("body")

    def _open(self, key: str) -> OpenPicture:
        may_serve = self._store.may_serve(key)
        if may_serve is None:
            raise no_image()
        if not may_serve:
            raise blocked_image()
        path = path_of(self._store.folder, key)
        if path is None:
            raise no_image()
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            raise no_image() from None
        try:
            fingerprint = fingerprint_of(os.fstat(fd))
            etag, mime_type = self._facts(key, fingerprint, fd)
        except BaseException:
            os.close(fd)
            raise
        return OpenPicture(fd, fingerprint, etag, http_date(fingerprint.mtime_ns), mime_type)

    def _facts(self, key: str, fingerprint: Fingerprint, fd: int) -> tuple[str, str]:
        known = self._known.get((key, fingerprint))
        if known is not None:
            return known
        now_ns = time.time_ns()
        picture = sniff(lambda offset, length: os.pread(fd, length, offset))
        facts = (f'"{digest_of(fd)}"', picture.mime_type if picture else "application/octet-stream")
        if is_settled(fingerprint, now_ns):
            self._known[key, fingerprint] = facts
            if len(self._known) > DIGESTS_MAX:
                self._known.popitem(last=False)
        return facts

    async def _wait_at(self, point: Point) -> None:
        if self._probe is not None:
            await self._probe.wait_at(point)
