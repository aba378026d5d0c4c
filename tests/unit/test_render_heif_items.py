"""The texts in a HEIF file's list of items."""

from __future__ import annotations

import struct

import pytest

from imgproxy.render.heif_items import make_ascii
from tests.support.heif import box, full_box


def entry(version: int, text: bytes) -> bytes:
    """An item with a type and texts; version 3 has a number of four bytes."""
    number = struct.pack(">IH" if version == 3 else ">HH", 0x80, 0)
    return full_box(b"infe", number, text, version=version)


def file_of(listing: bytes) -> bytes:
    """A file whose list of items is this box; there are other boxes around it."""
    meta = full_box(b"meta", full_box(b"pitm", b"\0\1"), listing, full_box(b"iref", b"\xff"))
    return box(b"ftyp", b"heic\xff") + meta + box(b"mdat", b"infe\xff\xff")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("list_version", [0, 1])
def test_bytes_that_are_not_ascii_become_question_marks(version: int, list_version: int) -> None:
    """Only the texts of the list change: no number, no other box, no length."""
    count = b"\0\2" if list_version == 0 else b"\0\0\0\2"
    wrong = entry(version, b"mime\0appl\xff\x80\0"), entry(version, b"\xe9xif\0")
    right = entry(version, b"mime\0appl??\0"), entry(version, b"?xif\0")
    found = make_ascii(file_of(full_box(b"iinf", count, *wrong, version=list_version)))
    assert found == file_of(full_box(b"iinf", count, *right, version=list_version))


def test_a_size_of_eight_bytes_and_a_size_to_the_end() -> None:
    """Both other forms of a box's size are understood."""
    body = b"\0\0\0\0" + b"\0\1" + entry(2, b"\xffime")
    long = struct.pack(">I4sQ", 1, b"iinf", 16 + len(body)) + body
    assert b"?ime" in make_ascii(file_of(long))
    to_the_end = struct.pack(">I4sI", 0, b"meta", 0) + struct.pack(">I4s", 0, b"iinf") + body
    assert b"?ime" in make_ascii(box(b"ftyp", b"heic") + to_the_end)


def test_a_file_without_such_bytes_is_not_copied() -> None:
    """The same object comes back, also for files that are no HEIF."""
    for data in (file_of(full_box(b"iinf", b"\0\1", entry(2, b"hvc1\0"))), b"", b"\0" * 100, b"\0\0\0\1meta"):
        assert make_ascii(data) is data
