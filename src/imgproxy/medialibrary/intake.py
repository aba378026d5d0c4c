"""
The body of an answer on its way to its file: every byte counted, hashed and written, or an error.

It may land in memory first, from where it can be used without being read again; then it is written past the page cache.
CPU for 8 MB, copied into page cache that the kernel has at hand 2.5 ms, that it must first get from a hypervisor 16,
written past it 0.9. A picture that is rendered as it comes is seldom read from its file afterwards.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

import urllib3

from imgproxy.digest import ContentHasher
from imgproxy.medialibrary.errors import TooLarge, UnexpectedAnswer
from imgproxy.medialibrary.models import HEAD_BYTES, ServedImage
from imgproxy.medialibrary.wire import READ_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproxy.medialibrary.models import Landing
    from imgproxy.medialibrary.wire import Answer, Lifeline

DECODED_AT_ONCE_BYTES: Final = 128 * 1024
# What has landed is written whenever there is so much of it: the disk is waited for while more comes.
WRITE_BYTES: Final = 4 * 1024 * 1024
# Past the page cache a file is written in whole pages. Elsewhere than on Linux there is no such way.
PAGE_BYTES: Final = 4096
_DIRECT: Final = getattr(os, "O_DIRECT", 0)

StrPath: TypeAlias = "str | os.PathLike[str]"


def image(
    answer: Answer,
    lifeline: Lifeline,
    *,
    where: str,
    destination: StrPath,
    landing: Landing | None,
    max_bytes: int | None,
    view: memoryview,
) -> ServedImage:
    """
    Take in the body of an answer: into its file, and into `landing` where it fits; `view` is memory to pass through.

    Raises:
        TooLarge, UnexpectedAnswer, WireError, or OSError from the disk. No file is left.
    """
    is_modified, is_landed = answer.status != 304, False
    size_bytes, digest, head = 0, None, b""
    if is_modified:
        announced = answer.length
        if max_bytes is not None and announced is not None and announced > max_bytes:
            raise TooLarge(limit_bytes=max_bytes, size_bytes=announced, where=where)
        room = _room(answer, landing)
        is_landed = room is not None
        with _File(destination, lifeline, is_direct=is_landed) as descriptor:
            if room is None:
                size_bytes, digest, head = _copied(answer, descriptor, where, max_bytes, view)
            else:
                size_bytes, digest, head = _landed(answer, descriptor, room)
    else:
        answer.read()
    return ServedImage(
        is_modified=is_modified,
        content_type=_text(answer, "content-type"),
        etag=_text(answer, "etag"),
        last_modified=_text(answer, "last-modified"),
        size_bytes=size_bytes,
        digest=digest,
        head=head,
        is_landed=is_landed,
    )


class _File:
    """The file of a body, open to be written from its begin, in a `with` block; an error inside removes it."""

    def __init__(self, path: StrPath, lifeline: Lifeline, *, is_direct: bool) -> None:
        self._path = path
        self._lifeline = lifeline
        self._is_direct = is_direct
        self._descriptor = -1

    def __enter__(self) -> int:
        self._lifeline.has_file = True
        try:
            self._descriptor = self._open()
            if os.fstat(self._descriptor).st_size:
                # Not always: ext4 sends what was emptied to the disk as it is closed (ext4(5), auto_da_alloc).
                os.truncate(self._descriptor, 0)
            self._lifeline.raise_if_cut()  # whoever cut it may have looked for the file before it was there
        except BaseException:
            self._give_up()
            raise
        return self._descriptor

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            self._give_up()
            return
        try:
            os.close(self._descriptor)
        except OSError:  # some file systems say only now that they have no room
            remove(self._path)
            raise

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(self._path, flags | (_DIRECT if self._is_direct else 0), 0o644)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
        return os.open(self._path, flags, 0o644)  # this file system has no way past the page cache

    def _give_up(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        remove(self._path)


def remove(path: StrPath) -> None:
    """Remove a file that may be gone, or that a broken disk keeps: it is nobody's."""
    with suppress(OSError):
        os.unlink(path)


def _copied(
    answer: Answer, descriptor: int, where: str, max_bytes: int | None, view: memoryview
) -> tuple[int, str, bytes]:
    """Size, digest and head of a body of any length, which goes to the file piece by piece."""
    size_bytes, hasher, head = 0, ContentHasher(), b""
    for piece in pieces(answer, view, where):
        size_bytes += len(piece)
        if max_bytes is not None and size_bytes > max_bytes:
            raise TooLarge(limit_bytes=max_bytes, where=where)
        if len(head) < HEAD_BYTES:
            head += piece[: HEAD_BYTES - len(head)]
        hasher.update(piece)
        written = os.write(descriptor, piece)
        while written < len(piece):  # a disk that has room for a part takes that, and refuses the rest
            written += os.write(descriptor, piece[written:])
    return size_bytes, hasher.hexdigest(), head


def pieces(answer: Answer, view: memoryview, where: str) -> Iterator[memoryview | bytes]:
    """The body, decoded where a proxy encoded it all the same; a piece is good until the next is asked for."""
    encoding = answer.headers.get("content-encoding")
    if not encoding:
        while count := answer.receive(view):
            yield view[:count]
        return
    decoder = urllib3.HTTPResponse(answer, headers={"content-encoding": encoding}, preload_content=False)
    try:
        yield from filter(None, decoder.stream(DECODED_AT_ONCE_BYTES, decode_content=True))
    except urllib3.exceptions.DecodeError as exc:
        raise UnexpectedAnswer(message=type(exc).__name__, where=where) from exc


# --- landed -------------------------------------------------------------------------------------------------------


def _room(answer: Answer, landing: Landing | None) -> memoryview | None:
    """Memory for this body, in whole pages; None where it has none, does not fit, or its length is not known."""
    if landing is None or not answer.length or answer.length > landing.size_max_bytes:
        return None
    return None if answer.headers.get("content-encoding") else landing.room(answer.length)


def _landed(answer: Answer, descriptor: int, room: memoryview) -> tuple[int, str, bytes]:
    """Size, digest and head of a body that is received in its place, and written from there."""
    assert answer.length is not None, "only a body of announced length lands"
    hasher, body = ContentHasher(), room[: answer.length]
    size_bytes = written = 0
    while count := answer.receive(body[size_bytes : size_bytes + READ_BYTES]):
        hasher.update(body[size_bytes : size_bytes + count])
        size_bytes += count
        if size_bytes - written >= WRITE_BYTES:
            written = _write_out(descriptor, room, written, size_bytes // PAGE_BYTES * PAGE_BYTES)
    if written < size_bytes:
        end = _write_out(descriptor, room, written, -(-size_bytes // PAGE_BYTES) * PAGE_BYTES)
        if end > size_bytes:
            os.ftruncate(descriptor, size_bytes)
    return size_bytes, hasher.hexdigest(), bytes(body[:HEAD_BYTES])


def _write_out(descriptor: int, room: memoryview, begin: int, end: int) -> int:
    """Write these bytes to their place in the file, and return their end."""
    while begin < end:
        try:
            begin += os.pwrite(descriptor, room[begin:end], begin)
        except OSError as exc:
            if exc.errno != errno.EINVAL or not _is_no_longer_direct(descriptor):
                raise
    return end


def _is_no_longer_direct(descriptor: int) -> bool:
    """Turn to the page cache, where a file system takes other pieces past it than pages; False if that was it."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if not flags & _DIRECT:
        return False
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
    return True


def _text(answer: Answer, name: str) -> str | None:
    """A header that can be sent back: with no carriage return in it (RFC 9112 section 2.2)."""
    value = answer.headers.get(name)
    return None if value is None else " ".join(value.split())
