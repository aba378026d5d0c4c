"""What an encoded body stands for, wherever it is cut; and bodies that are not what they say."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgproxy.medialibrary.client.decoder import PIECE_BYTES, Decoder, EncodingError

BODY = bytes(range(256)) * 40
ENCODED = {
    None: BODY,
    "": BODY,
    "Identity": BODY,
    "gzip": gzip.compress(BODY),
    " X-GZip ": gzip.compress(BODY),
    "deflate": zlib.compress(BODY),
}


def decoded(encoding: str | None, *parts: bytes) -> bytes:
    decoder = Decoder(encoding)
    found = b"".join(piece for part in parts for piece in decoder.feed(part))
    decoder.end()
    return found


@pytest.mark.parametrize("encoding", ENCODED)
@given(cut=st.integers(0, 400))
def test_bodies_are_decoded_wherever_they_are_cut(encoding: str | None, cut: int) -> None:
    """The network cuts a body anywhere."""
    body = ENCODED[encoding]

    assert decoded(encoding, body[:cut], body[cut:]) == BODY


@given(cut=st.integers(0, 60))
def test_gzip_members_follow_one_another(cut: int) -> None:
    """Some servers make a member of each write (RFC 1952 section 2.2)."""
    body = gzip.compress(b"one, ") + gzip.compress(b"two")

    assert decoded("gzip", body[:cut], body[cut:]) == b"one, two"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_a_body_that_is_cut_off_is_an_error(encoding: str, kept: int) -> None:
    """A part of a picture is not the picture."""
    with pytest.raises(EncodingError, match="CutOff"):
        decoded(encoding, ENCODED[encoding][:kept])


def test_a_body_that_is_not_what_it_says_is_an_error() -> None:
    """Also behind a good beginning, and behind a good end."""
    for body in (b"hello", ENCODED["gzip"][:-8] + bytes(8), ENCODED["gzip"] + b"more"):
        with pytest.raises(EncodingError, match="NotWhatItSays"):
            decoded("gzip", body)


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip"])
def test_an_unknown_encoding_is_an_error(encoding: str) -> None:
    """Bytes that mean something else are not taken for the picture."""
    with pytest.raises(EncodingError, match="UnknownEncoding"):
        Decoder(encoding)


def test_a_short_body_that_stands_for_a_long_one_comes_in_pieces() -> None:
    """Memory stays bounded; nothing is lost where a piece is exactly full."""
    for size_bytes in (PIECE_BYTES - 1, PIECE_BYTES, 5 * PIECE_BYTES + 7):
        decoder = Decoder("gzip")
        pieces = list(decoder.feed(gzip.compress(bytes(size_bytes))))
        decoder.end()
        assert max(map(len, pieces)) <= PIECE_BYTES
        assert b"".join(pieces) == bytes(size_bytes)
