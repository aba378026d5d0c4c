"""The reader of EXIF and TIFF tags, on bytes made by hand."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgproxy.render import exif
from imgproxy.render.exif import ARTIST, COPYRIGHT, Tags
from tests.support import tagged

ORDERS = ["<", ">"]
FNUMBER, LENS = 0x829D, 0xA434


def read(block: bytes, *picture: int, camera: tuple[int, ...] = (), max_bytes: int = 1000) -> Tags:
    return exif.read_block(block, dict.fromkeys(picture, max_bytes), dict.fromkeys(camera, max_bytes))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("head", [b"", b"Exif\0\0", b"Exif\0\xff"])
def test_values_are_read_in_both_orders(order: str, head: bytes, *, big: bool) -> None:
    """Texts are the bytes of the file, in either byte order, in TIFF and BigTIFF, short or long, with or without a head."""
    block = tagged.block(
        order,
        [tagged.text(ARTIST, b"J\xe9\0"), tagged.text(COPYRIGHT, b"(c) dpa (picture alliance)\0 \0")],
        [
            (FNUMBER, tagged.RATIONAL, 1, struct.pack(f"{order}II", 28, 10)),
            tagged.text(LENS, "ü".encode(), tagged.UTF8),
        ],
        big=big,
    )
    found = read(head + block, ARTIST, COPYRIGHT, camera=(FNUMBER, LENS))
    assert found.picture[ARTIST].text_bytes == b"J\xe9\0"
    assert found.picture[COPYRIGHT].text_bytes == b"(c) dpa (picture alliance)\0 \0"
    assert found.camera[FNUMBER].numbers() == (2.8,)
    assert found.camera[LENS].text_bytes == "ü".encode()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("kind", "form", "values", "want"),
    [
        (1, "3B", (1, 2, 3), (1, 2, 3)),
        (3, "H", (258,), (258,)),
        (4, "I", (70000,), (70000,)),
        (5, "4I", (1, 3, 72, 1), (0.333333, 72)),
        (6, "b", (-1,), (-1,)),
        (8, "h", (-300,), (-300,)),
        (9, "i", (-70000,), (-70000,)),
        (10, "2i", (-1, 2), (-0.5,)),
        (11, "f", (1.5,), (1.5,)),
        (12, "d", (-2.25,), (-2.25,)),
        (16, "Q", (1 << 40,), (1 << 40,)),
        (5, "2I", (1, 0), ()),
        (11, "f", (float("nan"),), ()),
        (12, "d", (float("inf"),), ()),
    ],
)
def test_numbers_of_every_type(order: str, kind: int, form: str, values: tuple[float, ...], want: object) -> None:
    """Each type of TIFF is read; a fraction is its quotient; what is not finite counts as nothing."""
    data = struct.pack(order + form, *values)
    count = len(data) // {1: 1, 3: 2, 4: 4, 5: 8, 6: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}[kind]
    found = read(tagged.block(order, [(1, kind, count, data)]), 1)
    assert found.picture[1].numbers() == want
    assert not found.picture[1].is_text


def entry_at(block: bytes, tag: int) -> int:
    """Where an entry lies in a little-endian block whose tag occurs once."""
    return block.index(struct.pack("<H", tag))


@pytest.mark.parametrize(
    ("count", "offset"),
    [(20, 4000), (20, 0xFFFFFFFF), (0xFFFFFFFF, 26), (4000, 26), (0, 26), (20, 39)],
)
def test_a_value_that_is_not_in_the_file_is_missing(count: int, offset: int) -> None:
    """An offset behind the end, a huge count, or a value that goes over the end is no value. Other tags are read."""
    block = bytearray(tagged.block("<", [tagged.text(ARTIST, b"x" * 20), tagged.text(COPYRIGHT, b"dpa\0")]))
    struct.pack_into("<II", block, entry_at(bytes(block), ARTIST) + 4, count, offset)
    found = read(bytes(block), ARTIST, COPYRIGHT)
    assert ARTIST not in found.picture
    assert found.picture[COPYRIGHT].text_bytes == b"dpa\0"


@pytest.mark.parametrize("at", [0, 8, 9, 60, 0x7FFFFFFF, 0xFFFFFFFF])
def test_pointers_that_lead_anywhere_end(at: int) -> None:
    """The Exif IFD may be said to lie at IFD 0, at the header, or behind the end: what was asked for is read once."""
    block = tagged.block(
        "<", [(tagged.EXIF_IFD, tagged.LONG, 1, struct.pack("<I", at)), tagged.text(ARTIST, b"Jane\0")]
    )
    found = read(block, ARTIST, camera=(FNUMBER, ARTIST))
    assert found.picture[ARTIST].text_bytes == b"Jane\0"
    assert FNUMBER not in found.camera


def test_entries_and_bytes_are_limited() -> None:
    """Of 60,000 announced entries those in the file are read, at most 4,096; of a long value the first bytes."""
    block = bytearray(tagged.block("<", [tagged.text(ARTIST, b"x" * 50)]))
    struct.pack_into("<H", block, 8, 60_000)
    assert read(bytes(block), ARTIST, max_bytes=10).picture[ARTIST].data == b"x" * 10
    many = tagged.block("<", [tagged.text(n, b"ab") for n in range(1, 5000)])
    assert sorted(read(many, *range(5000)).picture) == list(range(1, 4097))


def test_the_first_of_equal_tags_counts() -> None:
    """Two artists: the first one is the artist."""
    block = tagged.block("<", [tagged.text(ARTIST, b"Ada\0"), tagged.text(ARTIST, b"Bob\0")])
    assert read(block, ARTIST).picture[ARTIST].data == b"Ada\0"


@pytest.mark.parametrize("data", [b"", b"II", b"II*\0", b"MM\0*\0\0\0", b"II+\0\x08\0\0\0", b"PK\3\4" + bytes(30)])
def test_what_is_no_tiff_has_no_tags(data: bytes) -> None:
    """Anything else, or a header alone, has no tags."""
    assert read(data, ARTIST) == Tags()


@pytest.mark.parametrize(
    ("data", "want"),
    [
        (b"ASCII\0\0\0Berlin (dpa)\0", "Berlin (dpa)"),
        (bytes(8) + b"caf\xe9", "café"),
        (b"UNICODE\0" + "Ž".encode("utf-16-be"), "Ž"),
        (b"JIS\0\0\0\0\0abc", ""),
        (b"ASC", ""),
    ],
)
def test_comments_name_their_encoding(data: bytes, want: str) -> None:
    """The first eight bytes of a UserComment say how the others are to be read."""
    block = tagged.block(">", [], [tagged.text(exif.USER_COMMENT, data, tagged.UNDEFINED)])
    assert exif.read_comment(read(block, camera=(exif.USER_COMMENT,)).camera[exif.USER_COMMENT]) == want


HEADS = st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0\x10" + bytes(7), b""])


@given(HEADS, st.binary(max_size=300))
def test_any_bytes_are_tags_or_nothing(head: bytes, data: bytes) -> None:
    """Damaged blocks raise no error, and no value is longer than allowed."""
    wanted = dict.fromkeys(range(0x10000), 50)
    found = exif.read_file(io.BytesIO(head + data), wanted, wanted)
    for value in (*found.picture.values(), *found.camera.values()):
        assert len(value.data) <= 50
        value.numbers()
        exif.read_comment(value)


@given(st.data())
def test_a_block_with_any_bytes_changed_is_tags_or_nothing(data: st.DataObject) -> None:
    """A whole block, of which a few bytes were changed, raises no error."""
    block = bytearray(
        tagged.block(
            data.draw(st.sampled_from(ORDERS)),
            [tagged.text(ARTIST, b"Jane Doe\0"), tagged.text(COPYRIGHT, b"A\0B\0")],
            [(FNUMBER, tagged.RATIONAL, 1, bytes(8)), tagged.text(exif.USER_COMMENT, b"UNICODE\0abc", 7)],
            big=data.draw(st.booleans()),
        )
    )
    for _ in range(data.draw(st.integers(1, 6))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    found = read(bytes(block), ARTIST, COPYRIGHT, camera=(FNUMBER, exif.USER_COMMENT))
    for value in (*found.picture.values(), *found.camera.values()):
        value.numbers()
        exif.read_comment(value)
