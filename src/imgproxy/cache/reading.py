"""
Reads that never wait for the disk, checks of a file's digest, and stamps that tell whether a file has changed.

The event loop reads a small file itself if it is in the page cache: a thread costs more than the read. If it is not
there, a read would make every connection wait for the disk. `RWF_NOWAIT` makes such a read fail instead (preadv2(2),
Linux 4.14). Every hit from disk depends on it.
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
# was replaced or written to has another stamp: no program can set the time of the inode back.
FileStamp: TypeAlias = tuple[int, int, int, int, int]
StrPath: TypeAlias = "str | os.PathLike[str]"

_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)
# A check reads this much at once: small enough to be hashed while it is in the processor's cache.
_CHECK_BYTES: Final = 128 * 1024
# The errors of a file system or kernel without RWF_NOWAIT.
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def stamp_of(status: stat_result) -> FileStamp:
    """The stamp of a file, from `os.fstat`."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A variant's file whose checksum was right. `name` is its name in the ledger."""

    path: str
    name: bytes
    stamp: FileStamp
    body_bytes: int


def read_at_once(descriptor: int, count: int, start: int = 0, *, flags: int = _NOWAIT) -> bytes | bytearray:
    """
    Read `count` bytes of a file from `start`, or fewer if the file ends before.

    `flags` are those of preadv2(2). A system without RWF_NOWAIT may wait for the disk.

    Raises:
        BlockingIOError: not all of the bytes are in the page cache.
        OSError: the file cannot be read.
    """
    if not flags:
        return os.pread(descriptor, count, start)
    buffer = bytearray(count)
    try:
        got = os.preadv(descriptor, [buffer], start, flags)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return os.pread(descriptor, count, start)
    if got < count and start + got < os.fstat(descriptor).st_size:
        raise BlockingIOError(errno.EAGAIN, "not all of it is in the page cache")
    del buffer[got:]
    return buffer


def matches_digest(path: StrPath, digest: str, size_bytes: int) -> bool:
    """Whether the first `size_bytes` of a file have this digest. Reads all of them: call it in a thread."""
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
