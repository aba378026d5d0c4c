"""The body of serve-image as a stream: every byte counted, or an error; never a body that only looks whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproxy.medialibrary.errors import OriginUnavailable, TooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx


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
