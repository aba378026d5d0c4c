"""The walk over the boxes of ISO base media files."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from imgproxy.render import boxes
from tests.support.heif import box


def test_boxes_are_found_by_their_path() -> None:
    """Of boxes in boxes the first one of each type is followed; what is not there is None."""
    data = box(b"ftyp", b"avis") + box(b"moov", box(b"trak", box(b"tkhd", b"one")), box(b"trak", box(b"tkhd", b"two")))
    assert boxes.find(data, b"moov", b"trak", b"tkhd") == b"one"
    assert boxes.find(data, b"moov", b"mdia", b"tkhd") is None
    assert [kind for kind, _ in boxes.contents(data)] == [b"ftyp", b"moov"]


def test_sizes_of_eight_bytes_and_to_the_end() -> None:
    """A size of 1 means that the size follows in eight bytes; 0 means up to the end."""
    data = struct.pack(">I4sQ", 1, b"free", 19) + b"abc" + struct.pack(">I4s", 0, b"mdat") + b"defg"
    assert list(boxes.contents(data)) == [(b"free", b"abc"), (b"mdat", b"defg")]


def test_boxes_in_boxes_without_end() -> None:
    """A file of a box type that holds itself ten thousand times is walked as far as the path goes."""
    data = b""
    for _ in range(10_000):
        data = struct.pack(">I4s", 8 + len(data), b"moov") + data
    assert boxes.find(data, b"moov", b"moov", b"trak") is None


@given(st.binary(max_size=200))
def test_any_bytes_are_boxes_in_order_or_nothing(data: bytes) -> None:
    """Whatever the sizes say, the walk goes forward, and no content ends behind the data."""
    ends = [end for _, _, end in boxes.walk(data)]
    assert ends == sorted(ends)
    assert all(end <= len(data) for end in ends)
