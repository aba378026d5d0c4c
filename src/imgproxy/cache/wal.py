"""
Whether the end of an SQLite write-ahead log was damaged.

SQLite ends reading at the first frame with a wrong checksum, without an error. So one damaged byte silently undoes all
transactions after it, and purges among them. Therefore this module reads the log before SQLite opens it. Frames after
a wrong checksum, with the salts of the log's header, were written and will not be read: the tail is damaged.

After a power cut this may be a transaction that was never acknowledged. The two cases cannot be told apart, and the
answer to both is the same: every original is revalidated before it is used.

Source: https://sqlite.org/fileformat2.html#walformat
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_HEADER = struct.Struct(">8I")  # magic, version, page size, checkpoint number, salt 1, salt 2, checksum 1, checksum 2
_FRAME = struct.Struct(">6I")  # page, size of the database after a commit, salt 1, salt 2, checksum 1, checksum 2
_MAGIC = 0x377F0682  # with the last bit set, checksums are of big-endian words
_MASK = 0xFFFFFFFF


def has_damaged_tail(path: Path) -> bool:
    """Whether the log has frames that were written and that SQLite will not read. False if there is no log."""
    try:
        log = path.read_bytes()
    except OSError:
        return False
    if len(log) < _HEADER.size:
        return False  # empty: SQLite writes the header first
    magic, _, page_bytes, _, salt_1, salt_2, *header_sum = _HEADER.unpack_from(log)
    order = ">" if magic & 1 else "<"
    if magic & ~1 != _MAGIC or list(_checksum(log[:24], order, 0, 0)) != header_sum:
        return any(log)  # all zeros: its first write never reached the disk
    return _has_frame_after_damage(log, page_bytes, order, (salt_1, salt_2), (header_sum[0], header_sum[1]))


def _has_frame_after_damage(
    log: bytes, page_bytes: int, order: str, salts: tuple[int, int], header_sum: tuple[int, int]
) -> bool:
    is_damaged = False
    sum_1, sum_2 = header_sum
    frame_bytes = _FRAME.size + page_bytes
    for start in range(_HEADER.size, len(log) - _FRAME.size + 1, frame_bytes):
        _, _, *frame_salts, found_1, found_2 = _FRAME.unpack_from(log, start)
        if is_damaged or tuple(frame_salts) != salts:
            if is_damaged and tuple(frame_salts) == salts:
                return True
            is_damaged = True  # or from before the log was last restarted: the frames after it tell
            continue
        frame = log[start : start + frame_bytes]
        sum_1, sum_2 = _checksum(frame[:8], order, sum_1, sum_2)
        sum_1, sum_2 = _checksum(frame[_FRAME.size :], order, sum_1, sum_2)
        if len(frame) < frame_bytes or (sum_1, sum_2) != (found_1, found_2):
            return True
    return False


def _checksum(data: bytes, order: str, sum_1: int, sum_2: int) -> tuple[int, int]:
    """SQLite's running checksum over pairs of 32-bit words."""
    words = struct.unpack(f"{order}{len(data) // 4}I", data[: len(data) // 4 * 4])
    for even, odd in zip(words[::2], words[1::2], strict=False):
        sum_1 = (sum_1 + even + sum_2) & _MASK
        sum_2 = (sum_2 + odd + sum_1) & _MASK
    return sum_1, sum_2
