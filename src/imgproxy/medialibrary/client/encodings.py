"""
Content-Encoding undone (RFC 9110 section 8.4.1), for bodies that a proxy encoded although `identity` was asked for.

Pure, and in bounded pieces: a little that is encoded can stand for a lot.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PIECE_BYTES: Final = 1024 * 1024
# zlib's "window bits": 15 is the largest window; 16 more mean gzip's frame, a minus none.
_WINDOW: Final = zlib.MAX_WBITS
_DEFLATE: Final = 8
# One member may follow another (RFC 1952 section 2.2).
_GZIP_MAGIC: Final = b"\x1f\x8b"


class EncodingError(Exception):
    """A body that is not what its Content-Encoding says, or one that is not known; the message says which."""


class Decoder:
    """Undoes the encodings that a header names, the last of them first."""

    def __init__(self, encodings: str | None) -> None:
        """Raises EncodingError for one that is not known."""
        names = [name.strip().lower() for name in (encodings or "").split(",")]
        try:
            self._steps = [_STEPS[name]() for name in reversed(names) if name not in {"", "identity"}]
        except KeyError as exc:
            raise EncodingError("UnknownEncoding") from exc

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes of the body, and give what they mean. Raises EncodingError where they mean nothing."""
        pieces: Iterable[bytes] = (data,)
        for step in self._steps:
            pieces = step.feed_all(pieces)
        yield from pieces

    def end(self) -> None:
        """Hear that this was all. Raises EncodingError where there should be more."""
        if not all(step.is_whole for step in self._steps):
            raise EncodingError("CutOff")


class _Inflater:
    def __init__(self, window: Callable[[bytes], int]) -> None:
        self._window = window  # by the first bytes
        self._inflate: zlib._Decompress | None = None

    @property
    def is_whole(self) -> bool:
        return self._inflate is not None and self._inflate.eof

    def feed_all(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            yield from self._feed(piece)

    def _feed(self, data: bytes) -> Iterator[bytes]:
        is_more = False
        while data or is_more:
            if self.is_whole and not data.startswith(_GZIP_MAGIC):
                return  # what lies behind the last member is nobody's
            if self._inflate is None or self._inflate.eof:
                self._inflate = zlib.decompressobj(self._window(data))
            try:
                piece = self._inflate.decompress(data, PIECE_BYTES)
            except zlib.error as exc:
                raise EncodingError("NotWhatItSays") from exc
            if piece:
                yield piece
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
            is_more = len(piece) == PIECE_BYTES and not self._inflate.eof


def _gzip() -> _Inflater:
    return _Inflater(lambda _: 16 + _WINDOW)


def _deflate() -> _Inflater:
    # In zlib's frame, as it should be, or in none, as some send it.
    return _Inflater(lambda data: _WINDOW if data[0] & 0x0F == _DEFLATE else -_WINDOW)


_STEPS: Final = {"gzip": _gzip, "x-gzip": _gzip, "deflate": _deflate}
