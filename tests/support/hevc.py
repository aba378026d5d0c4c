"""
Writes HEVC pictures by hand: every sample as it is, so that a decoder must return exactly these numbers.

HEVC has blocks of raw samples (PCM). Each block of 16 x 16 is a slice of its own here. So the arithmetic coder starts
anew for each, and what it writes around the samples is always the same bits. Source: ITU-T H.265, sections 7.3 (syntax),
9.3 (arithmetic coder).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK: Final = 16

# (chroma_format_idc, samples of luma per sample of chroma across, down)
CHROMA: Final = {"400": (0, 1, 1), "420": (1, 2, 2), "422": (2, 2, 1), "444": (3, 1, 1)}

_VPS, _SPS, _PPS, _IDR = 32, 33, 34, 19

# The arithmetic coder starts with a range of 510. One bin with an even chance (part_mode is 1) takes 240 of it, the
# terminating bin (pcm_flag is 1) takes 2: the code is 269, in 9 bits.
_BEFORE_SAMPLES: Final = f"{269:09b}"
# It starts again after the samples. end_of_slice_segment_flag is 1, so the code is 509. Its last bit ends the slice.
_AFTER_SAMPLES: Final = f"{509:09b}"


def encode(planes: list[NDArray[Any]], chroma: str = "444", depth: int = 8) -> tuple[bytes, bytes]:
    """
    Return the decoder configuration (`hvcC`) and the coded picture of an item.

    Args:
        planes: luma, then the two chroma planes if there are any: H x W, integers below 2**depth. Luma has even sides.
        chroma: a key of CHROMA.
        depth: bits of a sample.
    """
    idc, across, down = CHROMA[chroma]
    height, width = planes[0].shape
    coded = (-(-width // BLOCK) * BLOCK, -(-height // BLOCK) * BLOCK)
    padded = [_pad(planes[0], *coded), *(_pad(plane, coded[0] // across, coded[1] // down) for plane in planes[1:])]
    cut = ((coded[0] - width) // across, (coded[1] - height) // down)
    sets = [(_VPS, _vps(idc, depth)), (_SPS, _sps(idc, depth, coded, cut)), (_PPS, _pps())]
    blocks = (coded[0] // BLOCK, coded[1] // BLOCK)
    slices = [_slice(padded, n, blocks, (across, down), depth) for n in range(blocks[0] * blocks[1])]
    arrays = b"".join(
        bytes((0x80 | kind, 0, 1)) + len(nal).to_bytes(2, "big") + nal
        for kind, nal in ((kind, _nal(kind, bits)) for kind, bits in sets)
    )
    profile = _to_bytes(_profile(idc, depth))
    config = (
        b"\x01" + profile + bytes((0xF0, 0, 0xFC, 0xFC | idc, 0xF8 | (depth - 8), 0xF8 | (depth - 8), 0, 0, 0x0F, 3))
    )
    return config + arrays, b"".join(len(nal).to_bytes(4, "big") + nal for nal in slices)


def _pad(plane: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    return np.pad(plane, ((0, height - plane.shape[0]), (0, width - plane.shape[1])), mode="edge")


def _ue(value: int) -> str:
    """Exp-Golomb code, section 9.2."""
    bits = f"{value + 1:b}"
    return "0" * (len(bits) - 1) + bits


def _profile(idc: int, depth: int) -> str:
    """profile_tier_level: Main, Main 10 or range extensions; level 6.2."""
    number = 4 if idc != 1 or depth > 10 else 1 if depth == 8 else 2
    fits = "".join("1" if n == number else "0" for n in range(32))
    return f"{number:08b}" + fits + "1001" + "0" * 44 + f"{186:08b}"


def _vps(idc: int, depth: int) -> str:
    bits = "000011" + "000000" + "000" + "1" * 17  # one layer, one sub-layer; 16 reserved bits
    return bits + _profile(idc, depth) + "1" + _ue(0) * 3 + "000000" + _ue(0) + "00"


def _sps(idc: int, depth: int, coded: tuple[int, int], cut: tuple[int, int]) -> str:
    bits = "0000" + "000" + "1" + _profile(idc, depth) + _ue(0) + _ue(idc) + ("0" if idc == 3 else "")
    bits += _ue(coded[0]) + _ue(coded[1])
    bits += "1" + _ue(0) + _ue(cut[0]) + _ue(0) + _ue(cut[1])  # conformance window: left, right, top, bottom
    bits += _ue(depth - 8) * 2 + _ue(0) + "1" + _ue(0) * 3
    bits += _ue(1) + _ue(0) + _ue(0) + _ue(2) + _ue(0) * 2  # blocks of 16, never split; transforms of 4 to 16
    bits += "000"  # no scaling lists, no asymmetric parts, no sample adaptive offset
    bits += (
        "1" + f"{depth - 1:04b}" * 2 + _ue(1) + _ue(0) + "1"
    )  # raw samples, of all bits, in blocks of 16, unfiltered
    return bits + _ue(0) + "0000" + "0"  # no references; no VUI; no extension


def _pps() -> str:
    bits = _ue(0) * 2 + "00" + "000" + "00" + _ue(0) * 3 + "000" + _ue(0) * 2 + "0" * 7
    return bits + "1" + "01" + "00" + _ue(0) + "00"  # the deblocking filter is off


def _slice(planes: list[NDArray[Any]], n: int, blocks: tuple[int, int], ratio: tuple[int, int], depth: int) -> bytes:
    digits = (blocks[0] * blocks[1] - 1).bit_length()
    address = f"{n:0{digits}b}" if n else ""
    head = ("0" if n else "1") + "0" + _ue(0) + address + _ue(2) + _ue(0) + "1"  # a slice of an intra picture
    down, across = divmod(n, blocks[0])
    samples = []
    for number, plane in enumerate(planes):
        width, height = (BLOCK // ratio[0], BLOCK // ratio[1]) if number else (BLOCK, BLOCK)
        samples.append(plane[down * height :, across * width :][:height, :width].ravel())
    values = np.concatenate(samples).astype(np.uint16)
    raw = "".join(f"{value:0{depth}b}" for value in values.tolist())
    return _nal(_IDR, _align(_align(head) + _BEFORE_SAMPLES) + raw + _AFTER_SAMPLES, is_ended=True)


def _align(bits: str) -> str:
    return bits + "0" * (-len(bits) % 8)


def _to_bytes(bits: str) -> bytes:
    return int(_align(bits), 2).to_bytes(len(_align(bits)) // 8, "big")


def _nal(kind: int, bits: str, *, is_ended: bool = False) -> bytes:
    """A NAL unit: its header, and the payload with a 3 after each two zeros that a start code could follow."""
    payload = bytearray((kind << 1, 1))
    zeros = 0
    for byte in _to_bytes(bits if is_ended else bits + "1"):
        if zeros == 2 and byte <= 3:
            payload.append(3)
            zeros = 0
        payload.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(payload)
