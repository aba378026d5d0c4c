"""The bodies of admin requests and webhooks. Reading has limits: in size, in time, and in how many are read at once."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from aiohttp.web_protocol import PayloadAccessError, RequestPayloadError

from imgproxy.edge.errors import PayloadTooLarge, RequestTooSlow, TooManyBodies
from imgproxy.errors import BadPurge

if TYPE_CHECKING:
    from aiohttp import web

# A reader holds at most this many large bodies. Webhooks have a reader of their own: strangers must not keep out the
# operator.
AT_ONCE_MAX = 8
# A body of at most this size is not counted: aiohttp holds as much of each body that nobody reads. Events are smaller.
SMALL_BYTES = 64 * 1024


class BodyReader:
    """Reads bodies of at most `max_bytes`, each within `timeout_s`."""

    def __init__(self, max_bytes: int, timeout_s: float, at_once_max: int = AT_ONCE_MAX) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._free = at_once_max

    async def read(self, request: web.BaseRequest) -> bytes:
        """
        Read the request's body.

        Raises:
            PayloadTooLarge: it is longer than `max_bytes`; no more than that is read.
            TooManyBodies: it is large, and too many large ones are being read.
            RequestTooSlow: it did not arrive within `timeout_s`.
            BadPurge: it ended too early.
        """
        length = request.content_length
        if length is not None and length > self._max_bytes:
            raise PayloadTooLarge(self._max_bytes)
        if length is not None and length <= SMALL_BYTES:
            return await self._read(request)
        if not self._free:
            raise TooManyBodies
        self._free -= 1
        try:
            return await self._read(request)
        finally:
            self._free += 1

    async def _read(self, request: web.BaseRequest) -> bytes:
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # RFC 9110 10.1.1
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > self._max_bytes:
                        raise PayloadTooLarge(self._max_bytes)
        except TimeoutError:
            raise RequestTooSlow(self._timeout_s) from None
        except (PayloadAccessError, RequestPayloadError):
            raise BadPurge("The body cannot be read.") from None
        return bytes(body)

    async def read_json(self, request: web.BaseRequest) -> Any:
        """
        Read the request's body as JSON. Its Content-Type does not matter.

        Raises:
            BadPurge: it is not JSON.
            ImgproxyError: as `read` does.
        """
        try:
            return json.loads(await self.read(request))
        except (ValueError, RecursionError):
            raise BadPurge("The body is not JSON.") from None
