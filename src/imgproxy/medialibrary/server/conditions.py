"""
Conditional and range requests. Pure.

Sources: RFC 9110 sections 13.1 (If-None-Match, If-Modified-Since, If-Range), 13.2.2 (precedence), 14.1.2 (byte ranges).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from imgproxy.medialibrary.moments import http_moment

_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*\Z", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `first` to `last`, both included."""

    first: int
    last: int

    @property
    def length_bytes(self) -> int:
        """The number of bytes."""
        return self.last - self.first + 1


class Unsatisfiable(Exception):
    """The range has no byte of the picture: 416."""


def http_date(mtime_ns: int) -> str:
    """Return a file's modification time as an HTTP date: GMT, whole seconds."""
    return format_datetime(datetime.fromtimestamp(mtime_ns // 1_000_000_000, UTC), usegmt=True)


def is_not_modified(etag: str, last_modified: str, *, if_none_match: str | None, if_modified_since: str | None) -> bool:
    """Return whether the answer is 304. If-Modified-Since counts only without If-None-Match."""
    if if_none_match is not None:
        tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
        return if_none_match.strip() == "*" or etag in tags
    since = http_moment(if_modified_since)
    modified = http_moment(last_modified)
    return since is not None and modified is not None and modified <= since


def byte_range(
    size_bytes: int, etag: str, last_modified: str, *, range_header: str | None, if_range: str | None
) -> ByteRange | None:
    """
    Return the requested range, or None to send the whole picture.

    The whole picture is sent for several ranges, for another unit than bytes, and for an If-Range that does not match.
    RFC 9110 section 14.2 lets a server ignore Range.

    Raises:
        Unsatisfiable: if the range has no byte of the picture.
    """
    match = _RANGE.match(range_header or "")
    if match is None or (if_range is not None and if_range.strip() not in {etag, last_modified}):
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:  # the last n bytes
        if int(last) == 0 or size_bytes == 0:
            raise Unsatisfiable
        return ByteRange(max(0, size_bytes - int(last)), size_bytes - 1)
    if last and int(last) < int(first):
        return None
    if int(first) >= size_bytes:
        raise Unsatisfiable
    return ByteRange(int(first), min(int(last), size_bytes - 1) if last else size_bytes - 1)
