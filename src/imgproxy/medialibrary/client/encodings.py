"""
Undoes a Content-Encoding that a proxy applied although `identity` was asked for (RFC 9110 section 8.4.1).

aiohttp can undo it too, but takes a gzip body that is cut off for a whole one, and works on the event loop.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# A short encoded body can stand for a long one, so it is decoded in pieces of this size at most.
PIECE_BYTES: Final = 1024 * 1024
_ENCODINGS: Final = {"gzip", "x-gzip", "deflate"}
# 32 more than the window's size lets zlib tell gzip's frame from its own (zlib manual, inflateInit2).
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
        """Take bytes of the body, and give what they stand for. Raises EncodingError."""
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
