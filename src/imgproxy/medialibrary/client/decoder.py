"""
Decodes the Content-Encoding of a body.

A proxy may apply one although the request asks for `identity` (RFC 9110 section 8.4.1). aiohttp can decode it too, but
it accepts a gzip body that is cut off, and it works on the event loop.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# A short encoded body can stand for a long one, so it is decoded in pieces of this size at most.
PIECE_BYTES: Final = 1024 * 1024
_ENCODINGS: Final = {"gzip", "x-gzip", "deflate"}
# With 32 added to the window size, zlib detects whether the frame is gzip or zlib (zlib manual, inflateInit2).
_WINDOW: Final = zlib.MAX_WBITS + 32


class EncodingError(Exception):
    """The body is not what its Content-Encoding says, or the encoding is unknown. The message says which."""


class Decoder:
    """Decodes one body."""

    def __init__(self, encoding: str | None) -> None:
        """Take the value of the header. Raises EncodingError for an unknown encoding."""
        name = (encoding or "identity").strip().lower()
        if name not in _ENCODINGS and name not in {"identity", ""}:
            raise EncodingError("UnknownEncoding")
        self._inflate = zlib.decompressobj(_WINDOW) if name in _ENCODINGS else None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode bytes of the body. Raises EncodingError."""
        if self._inflate is None:
            yield data
            return
        piece = b""
        while data or (len(piece) == PIECE_BYTES and not self._inflate.eof):
            if self._inflate.eof:
                self._inflate = zlib.decompressobj(_WINDOW)  # another gzip member (RFC 1952 section 2.2)
            try:
                piece = self._inflate.decompress(data, PIECE_BYTES)
            except zlib.error as exc:
                raise EncodingError("NotWhatItSays") from exc
            if piece:
                yield piece
            data = self._inflate.unconsumed_tail or self._inflate.unused_data

    def end(self) -> None:
        """Check that the body was whole. Raises EncodingError."""
        if self._inflate is not None and not self._inflate.eof:
            raise EncodingError("CutOff")
