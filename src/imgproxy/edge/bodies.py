"""The bodies of admin requests and webhooks. Reading has a limit in size and in time."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from aiohttp.web_protocol import PayloadAccessError, RequestPayloadError

from imgproxy.errors import BadPurge, PayloadTooLarge, RequestTooSlow

if TYPE_CHECKING:
    from aiohttp import web

# A body must arrive within this time. It has a few kilobytes.
BODY_S = 30.0


async def read_body(request: web.BaseRequest, max_bytes: int) -> bytes:
    """
    Read the request's body.

    Raises:
        PayloadTooLarge: it is longer than `max_bytes`; no more than that is read.
        RequestTooSlow: it did not arrive within `BODY_S`.
        BadPurge: it ended too early.
    """
    if request.content_length is not None and request.content_length > max_bytes:
        raise PayloadTooLarge(max_bytes)
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # RFC 9110 10.1.1
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > max_bytes:
                    raise PayloadTooLarge(max_bytes)
    except TimeoutError:
        raise RequestTooSlow(BODY_S) from None
    except (PayloadAccessError, RequestPayloadError):
        raise BadPurge("The body cannot be read.") from None
    return bytes(body)


async def read_json(request: web.BaseRequest, max_bytes: int) -> Any:
    """
    Read the request's body as JSON. Its Content-Type does not matter.

    Raises:
        BadPurge: it is not JSON.
        PayloadTooLarge: it is longer than `max_bytes`.
    """
    try:
        return json.loads(await read_body(request, max_bytes))
    except (ValueError, RecursionError):
        raise BadPurge("The body is not JSON.") from None
