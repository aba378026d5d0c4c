"""
Reads the colours out of the sequence header of an AV1 bitstream. Pure.

An AVIF whose container has no colour box is described there. Source: AV1 Bitstream & Decoding Process Specification,
sections 5.3 (OBU), 5.5.1 (sequence header) and 5.5.2 (colour config).
"""

from __future__ import annotations

from dataclasses import dataclass

_SEQUENCE_HEADER = 1
_UNSPECIFIED = 2


@dataclass(frozen=True, slots=True)
class ColourConfig:
    """Code points of ITU-T H.273, whether there is only luma, and whether it is in full range."""

    primaries: int
    transfer: int
    is_grey: bool
    is_full_range: bool


class _Bits:
    """Reads bits from the highest of the first byte on. Raises IndexError at the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self, count: int) -> int:
        value = 0
        for _ in range(count):
            value = value << 1 | self._data[self._at >> 3] >> (7 - (self._at & 7)) & 1
            self._at += 1
        return value


def read_colour_config(data: bytes) -> ColourConfig | None:
    """
    Return the colours of the first sequence header in the first bytes of a bitstream.

    None if there is none, or if it has timing information, which stills do not have. Raises IndexError if the data ends
    too early.
    """
    at = 0
    while True:
        head = data[at]
        at += 1 + (head >> 2 & 1)
        size, shift = 0, 0
        while head & 2:
            byte = data[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            return _read_sequence_header(_Bits(data[at:]))
        if not head & 2:  # without a size it reaches to the end
            return None
        at += size


def _read_sequence_header(bits: _Bits) -> ColourConfig | None:
    profile = bits.read(3)
    bits.read(1)
    is_reduced = bool(bits.read(1))
    if is_reduced:
        bits.read(5)
    elif bits.read(1):  # timing information
        return None
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    bits.read(width_bits + height_bits)
    if not is_reduced and bits.read(1):  # frame numbers
        bits.read(7)
    bits.read(3)
    if not is_reduced:
        _skip_tools(bits)
    bits.read(3)
    return _read_colours(bits, profile)


def _skip_operating_points(bits: _Bits) -> None:
    has_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read(1)
        if has_delay and bits.read(1):
            bits.read(4)


def _skip_tools(bits: _Bits) -> None:
    bits.read(4)
    has_order = bits.read(1)
    if has_order:
        bits.read(2)
    may_be_screen_content = bool(bits.read(1) or bits.read(1))
    if may_be_screen_content and not bits.read(1):
        bits.read(1)
    if has_order:
        bits.read(3)


def _read_colours(bits: _Bits, profile: int) -> ColourConfig:
    if bits.read(1) and profile == 2:
        bits.read(1)
    is_grey = profile != 1 and bool(bits.read(1))
    primaries = transfer = matrix = _UNSPECIFIED
    if bits.read(1):
        primaries, transfer, matrix = bits.read(8), bits.read(8), bits.read(8)
    is_full = (not is_grey and (primaries, transfer, matrix) == (1, 13, 0)) or bool(bits.read(1))
    return ColourConfig(primaries, transfer, is_grey, is_full)
