"""The pages of a TIFF, on bytes made by hand."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import pytest

from imgproxy.render.lab_tiff import as_rgb_file
from imgproxy.render.tiff import PHOTOMETRIC, read_pages
from tests.support import tagged

if TYPE_CHECKING:
    from pathlib import Path

BITS = 258
LAB, RGB = 8, 2


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "form"), [(tagged.SHORT, "H"), (tagged.LONG, "I")])
def test_a_lab_page_is_declared_as_rgb_in_either_order_and_type(
    tmp_path: Path, order: str, kind: int, form: str
) -> None:
    """The colour space becomes RGB whether it is a SHORT or a LONG; no other byte changes."""
    path = tmp_path / "lab.tif"
    bits = (BITS, tagged.SHORT, 3, struct.pack(f"{order}3H", 8, 8, 8))

    def file_of(space: int) -> bytes:
        return tagged.block(order, [bits, (PHOTOMETRIC, kind, 1, struct.pack(order + form, space))])

    path.write_bytes(file_of(LAB))
    assert as_rgb_file(str(path), 0) == file_of(RGB)
    path.write_bytes(file_of(RGB))
    assert as_rgb_file(str(path), 0) is None


@pytest.mark.parametrize("following", [0, 8, 0x7FFFFFFF])
def test_a_chain_of_pages_ends(following: int) -> None:
    """The next directory may be none, the same one, or behind the end: there is one page."""
    entry = struct.pack("<HHII", PHOTOMETRIC, tagged.SHORT, 1, RGB)
    data = b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", following)
    assert [page.first(PHOTOMETRIC) for page in read_pages(io.BytesIO(data))] == [RGB]


def test_two_pages_are_read_in_the_order_of_the_chain() -> None:
    """The second directory may lie before the first one."""
    second = struct.pack("<HHHIII", 1, PHOTOMETRIC, tagged.SHORT, 1, LAB, 0)
    first = struct.pack("<HHHIII", 1, PHOTOMETRIC, tagged.SHORT, 1, RGB, 8)
    data = b"II*\0" + struct.pack("<I", 8 + len(second)) + second + first
    assert [page.first(PHOTOMETRIC) for page in read_pages(io.BytesIO(data))] == [RGB, LAB]
