"""What an encoded body means, however it is cut; and what means nothing."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgproxy.medialibrary.client.encodings import PIECE_BYTES, Decoder, EncodingError

BODY = bytes(range(256)) * 40
RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
ENCODED = {
    None: BODY,
    "": BODY,
    "identity": BODY,
    "gzip": gzip.compress(BODY),
    "X-GZip": gzip.compress(BODY),
    "deflate": zlib.compress(BODY),
    " deflate ": RAW.compress(BODY) + RAW.flush(),
    "gzip, gzip": gzip.compress(gzip.compress(BODY)),
    "deflate, identity, gzip": gzip.compress(zlib.compress(BODY)),
}


def decoded(encoding: str | None, *parts: bytes) -> bytes:
    decoder = Decoder(encoding)
    found = b"".join(piece for part in parts for piece in decoder.feed(part))
    decoder.end()
    return found


@pytest.mark.parametrize("encoding", ENCODED)
@given(cut=st.integers(0, 400))
def test_bodies_are_decoded_wherever_they_are_cut(encoding: str | None, cut: int) -> None:
    """In the order in which the encodings were applied, the last one first."""
    body = ENCODED[encoding]

    assert decoded(encoding, body[:cut], body[cut:]) == BODY


def test_members_follow_one_another_and_what_is_no_member_is_left_out() -> None:
    """As gzip(1) does it; some servers fill up with zeros."""
    assert decoded("gzip", gzip.compress(b"one, ") + gzip.compress(b"two") + bytes(100)) == b"one, two"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip"])
@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_body_that_is_cut_off_is_an_error(encoding: str, kept: int) -> None:
    """A part of a picture is not the picture."""
    with pytest.raises(EncodingError, match="CutOff"):
        decoded(encoding, ENCODED[encoding][:kept])


def test_nothing_at_all_is_no_encoded_body() -> None:
    """Where something was announced as encoded, at least its frame comes."""
    with pytest.raises(EncodingError, match="CutOff"):
        decoded("gzip")


def test_what_is_not_what_it_says_is_an_error() -> None:
    """Also behind a good beginning."""
    for body in (b"hello", ENCODED["gzip"][:-8] + bytes(8)):
        with pytest.raises(EncodingError, match="NotWhatItSays"):
            decoded("gzip", body)


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, br"])
def test_what_is_not_known_is_an_error(encoding: str) -> None:
    """Bytes that mean something else are not taken for the picture."""
    with pytest.raises(EncodingError, match="UnknownEncoding"):
        Decoder(encoding)


def test_a_little_that_stands_for_a_lot_comes_in_pieces() -> None:
    """Whoever takes them may stop at any, and nothing is lost where a piece is exactly full."""
    for size_bytes in (PIECE_BYTES - 1, PIECE_BYTES, 5 * PIECE_BYTES + 7):
        pieces = list(Decoder("gzip").feed(gzip.compress(bytes(size_bytes))))
        assert max(map(len, pieces)) <= PIECE_BYTES
        assert b"".join(pieces) == bytes(size_bytes)
