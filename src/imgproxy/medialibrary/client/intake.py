"""
The body of an answer on its way to its file: every byte counted, hashed and written, or an error.

It may land in memory first, from where it can be used without being read again; then it is written past the page cache.
CPU for 8 MB, copied into page cache that the kernel has at hand 2.5 ms, that it must first get from a hypervisor 16,
written past it 0.9. A picture that is rendered as it comes is seldom read from its file afterwards.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, ParamSpec, TypeAlias, TypeVar

from imgproxy.digest import ContentHasher, digest_of
from imgproxy.medialibrary.client.encodings import Decoder, EncodingError
from imgproxy.medialibrary.client.wire import WireError
from imgproxy.medialibrary.errors import TooLarge, UnexpectedAnswer
from imgproxy.medialibrary.models import HEAD_BYTES, ServedImage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Future, ThreadPoolExecutor

    from imgproxy.medialibrary.client.wire import Answer
    from imgproxy.medialibrary.models import Landing

# Past the page cache a file is written in whole pages. Elsewhere than on Linux there is no such way.
PAGE_BYTES: Final = 4096
# What comes in pieces goes to a thread when there is so much of it: for less the way there would be most of the work.
PART_BYTES: Final = 256 * 1024
_DIRECT: Final = getattr(os, "O_DIRECT", 0)

StrPath: TypeAlias = "str | os.PathLike[str]"
P = ParamSpec("P")
T = TypeVar("T")


def room(answer: Answer, landing: Landing | None) -> memoryview | None:
    """
    Give memory for a picture; None for what is none, does not fit, is encoded, or has no known length.

    Raises:
        OSError: the landing is closed.
    """
    if answer.status != 200 or landing is None or not answer.length or answer.length > landing.size_max_bytes:
        return None
    is_encoded = (answer.header("content-encoding") or "identity").lower() != "identity"
    return None if is_encoded else landing.room(answer.length)


async def image(
    answer: Answer,
    *,
    where: str,
    destination: StrPath,
    landing: Landing | None,
    max_bytes: int | None,
    threads: ThreadPoolExecutor,
) -> ServedImage:
    """
    Take in the body of an answer: into its file, and into `landing` where it was given room there.

    It is hashed and written in threads: the disk may be slow, and the loop has others to serve.

    Raises:
        TooLarge, UnexpectedAnswer, WireError, or OSError from the disk. No file is left; where this is cancelled
        while a thread is at the disk, as soon as that is through.
    """
    is_modified = answer.status != 304
    size_bytes, digest, head = 0, None, b""
    if is_modified:
        if max_bytes is not None and answer.length is not None and answer.length > max_bytes:
            raise TooLarge(limit_bytes=max_bytes, size_bytes=answer.length, where=where)
        if answer.body is not None and landing is not None:
            size_bytes, digest, head = await _landed(answer, answer.body, landing, destination, _Work(threads))
        else:
            size_bytes, digest, head = await _copied(answer, destination, where, max_bytes, _Work(threads))
    return ServedImage(
        is_modified=is_modified,
        content_type=_text(answer, "content-type"),
        etag=_text(answer, "etag"),
        last_modified=_text(answer, "last-modified"),
        size_bytes=size_bytes,
        digest=digest,
        head=head,
        is_landed=answer.body is not None,
    )


def remove(path: StrPath) -> None:
    """Remove a file that may be gone, or that a broken disk keeps: it is nobody's."""
    with suppress(OSError):
        os.unlink(path)


class _Work:
    """Calls in threads, one after the other. One that was given up goes on, as a disk cannot be interrupted."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._last: Future[object] | None = None

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Call it in a thread.

        Raises:
            WireError: the client was closed.
        """
        try:
            work = self._threads.submit(function, *args, **kwargs)
        except RuntimeError:
            raise WireError("Closed") from None
        self._last = work  # type: ignore[assignment] # whatever it returns, it is an object
        return await asyncio.wrap_future(work)

    def then(self, end: Callable[[], None]) -> None:
        """Call it as soon as the last call is through: by its thread, if it was given up, else here and now."""
        if self._last is not None:
            self._last.add_done_callback(lambda _: end())
        else:
            end()


# --- landed -------------------------------------------------------------------------------------------------------


async def _landed(
    answer: Answer, body: memoryview, landing: Landing, destination: StrPath, work: _Work
) -> tuple[int, str, bytes]:
    """Size, digest and head of a body that is received in its place, and written from there."""
    await answer.connection.arrival()
    loop = asyncio.get_running_loop()

    def end() -> None:
        remove(destination)
        with suppress(RuntimeError):  # the loop is closed: then nobody is left to use it
            loop.call_soon_threadsafe(landing.give_back)

    try:
        digest = await work.call(_hashed_and_written, body, destination)
    except asyncio.CancelledError:
        landing.borrow()  # whoever fetched into it gives it back now, while the thread may still read it
        work.then(end)
        raise
    try:
        answer.connection.raise_if_more_came()
    except WireError:
        remove(destination)
        raise
    return len(body), digest, bytes(body[:HEAD_BYTES])


def _hashed_and_written(body: memoryview, destination: StrPath) -> str:
    """Write a file, past the page cache where possible, and return its digest. Blocks; on failure no file is left."""
    try:
        descriptor = _opened(destination, _DIRECT)
        try:
            end = _write(descriptor, body, 0, len(body) // PAGE_BYTES * PAGE_BYTES)
            if end < len(body):
                # The last part of a page goes by the page cache: to write it whole and then cut the file to its length
                # has the kernel read that page back from the disk (0.6 ms instead of 0.4 for 0.8 MB).
                _turn_to_page_cache(descriptor)
                _write(descriptor, body, end, len(body))
        finally:
            os.close(descriptor)  # some file systems say only now that they have no room
    except BaseException:
        remove(destination)
        raise
    return digest_of(body)


def _opened(path: StrPath, more_flags: int = 0) -> int:
    """Open a file to be written from its begin."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | more_flags, 0o644)
    except OSError as exc:
        if exc.errno != errno.EINVAL or not more_flags:
            raise
        descriptor = os.open(path, flags, 0o644)  # this file system has no way past the page cache
    try:
        if os.fstat(descriptor).st_size:
            # Not always: ext4 sends what was emptied to the disk as it is closed (ext4(5), auto_da_alloc).
            os.truncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write(descriptor: int, body: memoryview, begin: int, end: int) -> int:
    """Write these bytes to their place in the file, and return their end."""
    while begin < end:
        try:
            begin += os.pwrite(descriptor, body[begin:end], begin)
        except OSError as exc:
            # Some file systems take other pieces past the page cache than pages.
            if exc.errno != errno.EINVAL or not _turn_to_page_cache(descriptor):
                raise
    return end


def _turn_to_page_cache(descriptor: int) -> bool:
    """Write by the page cache from here on; whether that is new."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if not flags & _DIRECT:
        return False
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
    return True


# --- in pieces ----------------------------------------------------------------------------------------------------


async def _copied(
    answer: Answer, destination: StrPath, where: str, max_bytes: int | None, work: _Work
) -> tuple[int, str, bytes]:
    """Size, digest and head of a body of any length, which goes to the file piece by piece."""
    try:
        file = _File(destination, Decoder(answer.header("content-encoding")), where, max_bytes)
        try:
            async for part in _parts(answer):
                await work.call(file.write, part)
            digest = await work.call(file.end)
            answer.connection.raise_if_more_came()
        except BaseException:
            work.then(file.give_up)
            raise
    except EncodingError as exc:
        raise UnexpectedAnswer(message=str(exc), where=where) from exc
    return file.size_bytes, digest, file.head


async def _parts(answer: Answer) -> AsyncIterator[bytes]:
    """A body that comes in pieces, in larger ones."""
    part = b""
    async for piece in answer.pieces():
        part += piece
        if len(part) >= PART_BYTES:
            yield part
            part = b""
    if part:
        yield part


class _File:
    """A file that is decoded, hashed and written a part at a time, each in whatever thread. Its methods block."""

    def __init__(self, path: StrPath, decoder: Decoder, where: str, max_bytes: int | None) -> None:
        self.size_bytes = 0
        self.head = b""
        self._path = path
        self._decoder = decoder
        self._where = where
        self._max_bytes = max_bytes
        self._descriptor = -1
        self._hasher = ContentHasher()

    def write(self, part: bytes) -> None:
        """Write what these bytes mean behind what is there. Raises TooLarge, EncodingError, OSError."""
        if self._descriptor < 0:
            self._descriptor = _opened(self._path)
        for piece in self._decoder.feed(part):
            self.size_bytes += len(piece)
            if self._max_bytes is not None and self.size_bytes > self._max_bytes:
                raise TooLarge(limit_bytes=self._max_bytes, where=self._where)
            if len(self.head) < HEAD_BYTES:
                self.head += piece[: HEAD_BYTES - len(self.head)]
            self._hasher.update(piece)
            written = os.write(self._descriptor, piece)
            while written < len(piece):  # a disk that has room for a part takes that, and refuses the rest
                written += os.write(self._descriptor, piece[written:])

    def end(self) -> str:
        """Close it, and return the digest of what is in it. Raises EncodingError, OSError."""
        self.write(b"")  # it is a file also where nothing came
        self._decoder.end()
        self._close()
        return self._hasher.hexdigest()

    def give_up(self) -> None:
        """Remove it."""
        with suppress(OSError):
            self._close()
        remove(self._path)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _text(answer: Answer, name: str) -> str | None:
    """A header that can be sent back: with no carriage return in it (RFC 9112 section 2.2)."""
    value = answer.header(name)
    return None if value is None else " ".join(value.split())
