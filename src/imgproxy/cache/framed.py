"""
The file format of the cache: bytes first, then a record about them, then a fixed trailer.

    body | record (JSON, UTF-8) | magic 8 | body length u64 | record length u32 | body digest 16 | trailer digest 16

The body comes first: so the kernel can send it from offset 0, and libvips can write it before its record is known. The
trailer's digest covers the record and the lengths. The body's digest covers the body. A file that is short, torn,
foreign or of another version fails one of these checks, and counts as a miss.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic_core import to_json

if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = b"imgpxy\x00\x01"  # the last byte is the format's version
DIGEST_BYTES = 16
_TRAILER = struct.Struct(f">8sQI{DIGEST_BYTES}s")
TRAILER_BYTES = _TRAILER.size + DIGEST_BYTES
# One read of the end of a file gets trailer and record. A record has about 400 bytes.
TAIL_BYTES = 4096

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Frame:
    """The end of a valid file: the length of its body, the body's digest (16 bytes), and its record as JSON."""

    body_bytes: int
    body_digest: bytes
    record: bytes

    def read_as(self, record_class: Callable[..., Record]) -> Record | None:
        """Turn the record into its dataclass. None if its fields are not those of this version."""
        try:
            values: dict[str, Any] = json.loads(self.record)
            return record_class(**values)
        except (ValueError, TypeError):
            return None


@lru_cache
def _names(record_class: Any) -> tuple[str, ...]:
    return tuple(item.name for item in fields(record_class))


def digest_of(data: bytes | memoryview) -> bytes:
    """BLAKE2b-128 of a record. The digest of a body is BLAKE3: see imgproxy.digest."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def trailer(record: Any, *, body_bytes: int, body_digest: bytes) -> bytes:
    """Build the bytes that follow a body of this length and digest: the record (a dataclass), then the trailer."""
    record_class: Any = type(record)
    # pydantic_core takes a quarter of the time that json takes.
    text = to_json({name: getattr(record, name) for name in _names(record_class)})
    fixed = _TRAILER.pack(MAGIC, body_bytes, len(text), body_digest)
    return text + fixed + digest_of(text + fixed)


def read_frame(descriptor: int) -> Frame | None:
    """Read and check the end of an open file. None if it is not a whole file of this format. The body is not read."""
    size_bytes = os.fstat(descriptor).st_size
    if size_bytes < TRAILER_BYTES:
        return None
    start = max(0, size_bytes - TAIL_BYTES)
    tail = os.pread(descriptor, TAIL_BYTES, start)
    return parse_tail(tail, file_bytes=size_bytes)


def parse_tail(tail: bytes, *, file_bytes: int) -> Frame | None:
    """Check the last bytes of a file of `file_bytes`. None if they do not end a whole file of this format."""
    if len(tail) < TRAILER_BYTES:
        return None
    fixed, check = tail[-TRAILER_BYTES:-DIGEST_BYTES], tail[-DIGEST_BYTES:]
    magic, body_bytes, record_bytes, body_digest = _TRAILER.unpack(fixed)
    if magic != MAGIC or body_bytes + record_bytes + TRAILER_BYTES != file_bytes:
        return None
    if record_bytes + TRAILER_BYTES > len(tail):
        return None
    record = tail[-TRAILER_BYTES - record_bytes : -TRAILER_BYTES]
    if digest_of(record + fixed) != check:
        return None
    return Frame(body_bytes, body_digest, record)
