"""
Reads that do not wait for a disk, checks that do, and stamps that tell whether a file is still the one checked.

The event loop reads small files itself where they are in the page cache: a thread would cost more than the read. What
is not there would hold every connection up, so such a read says so instead (`RWF_NOWAIT`, preadv2(2), Linux 4.14).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from imgproxy.digest import matches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import stat_result

# Device, inode, length in bytes, and the times of the last change of content and of inode, in nanoseconds. A file that
# is replaced or written to has another stamp: the last of these cannot be set back.
FileStamp: TypeAlias = tuple[int, int, int, int, int]
StrPath: TypeAlias = "str | os.PathLike[str]"

_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)
# What is checked is read so much at once, and hashed while it is still in the processor's cache.
_CHECK_BYTES: Final = 128 * 1024
# What a file system, or a kernel, says that has no such reads.
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def stamp_of(status: stat_result) -> FileStamp:
    """The stamp of a file, from `os.fstat`."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A variant's file whose checksum held: its path, its name in the ledger, its stamp, and how long its body is."""

    path: str
    name: bytes
    stamp: FileStamp
    body_bytes: int


def read_at_once(descriptor: int, count: int, start: int = 0) -> bytes | bytearray:
    """
    `count` bytes of a file from `start` on, fewer where it is shorter; an array that nobody else has.

    Where the system knows no such reads the page cache is trusted to have them.

    Raises:
        BlockingIOError: they are not, or not all, in the page cache.
        OSError: the file cannot be read.
    """
    if not _NOWAIT:
        return os.pread(descriptor, count, start)
    buffer = bytearray(count)
    try:
        got = os.preadv(descriptor, [buffer], start, _NOWAIT)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return os.pread(descriptor, count, start)
    if got < count and start + got < os.fstat(descriptor).st_size:
        raise BlockingIOError(errno.EAGAIN, "not all of it is in the page cache")
    del buffer[got:]
    return buffer


def matches_digest(path: StrPath, digest: str, size_bytes: int) -> bool:
    """Whether a file has so many bytes, and the first of them have this digest. Reads it all: call it in a thread."""
    try:
        with open(path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size < size_bytes:
                return False
            return matches(digest, lambda: _first_bytes(file.fileno(), size_bytes))
    except OSError:
        return False


def _first_bytes(descriptor: int, size_bytes: int) -> Iterator[bytes]:
    offset = 0
    while chunk := os.pread(descriptor, min(size_bytes - offset, _CHECK_BYTES), offset):
        offset += len(chunk)
        yield chunk
