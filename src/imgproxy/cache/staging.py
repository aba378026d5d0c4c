"""
Landings: shared memory in which an original lands, to be rendered from there while it goes to its file.

A picture is rendered as soon as it has come, and soon after perhaps in other sizes; later its variants are there, and
its file is seldom read. So the page cache, which pays for variants, need not take it in. Render processes inherit the
descriptors and open a landing by its path, like any file; nothing is sent or copied.

A landing is used again for other pictures, so it counts who uses it: who fetches into it, who is about to have it
rendered, and each process that reads it. All of that happens on the event loop.
"""

from __future__ import annotations

import logging
import mmap
import os
import time
from contextlib import suppress
from typing import Final

log = logging.getLogger(__name__)

PAGE_BYTES: Final = mmap.PAGESIZE
# So long a picture that has landed is kept for the render that is about to ask for it, whoever else wants the memory.
AWAITED_S: Final = 2.0


def enough_landings(processes: int) -> int:
    """How many let every render process read one while its next is there, with a few to fetch into and look back on."""
    return 2 * processes + 4


class Landing:
    """
    One piece of memory; `path` names it within this process and those that have its `descriptor`, which only reads.

    Raises OSError where the system has no such memory, or would not let it be opened by its path.
    """

    __slots__ = (
        "_file",
        "_memory",
        "_pages",
        "_users",
        "awaited_until_s",
        "descriptor",
        "name",
        "path",
        "size_max_bytes",
    )

    def __init__(self, size_max_bytes: int) -> None:
        self.size_max_bytes = size_max_bytes
        self.name: tuple[str, str] | None = None  # of the original in it: key hash and digest
        self.awaited_until_s = 0.0
        self._users = 0
        self.descriptor = self._file = -1
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._file = os.memfd_create("original")
        os.fchmod(self._file, 0o400)  # who opens it anew only reads
        self.descriptor = os.open(f"/proc/self/fd/{self._file}", os.O_RDONLY | os.O_CLOEXEC)
        self.path = f"/proc/self/fd/{self.descriptor}"
        os.close(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC))  # as a render process will
        os.ftruncate(self._file, self.size_max_bytes)
        self._pages = mmap.mmap(self._file, self.size_max_bytes)
        self._memory = memoryview(self._pages)
        os.ftruncate(self._file, 0)

    def __del__(self) -> None:
        self.close()

    def room(self, size_bytes: int) -> memoryview:
        """
        Make it a file of so many bytes, and return them to be written, with the rest of their last page.

        Memory that was there stays; what is beyond the new end goes back to the system. Raises OSError once closed.
        """
        os.ftruncate(self._file, size_bytes)
        return self._memory[: -(-size_bytes // PAGE_BYTES) * PAGE_BYTES]

    @property
    def is_free(self) -> bool:
        """Whether nobody uses it."""
        return self._users == 0

    def borrow(self) -> None:
        """Use it, until it is given back as often."""
        self._users += 1

    def give_back(self) -> None:
        """Use it no longer."""
        self._users -= 1
        self._empty_if_nobodys()

    def forget(self) -> None:
        """What is in it is not to be found any more; its bytes go as soon as nobody uses them."""
        self.name = None
        self._empty_if_nobodys()

    def close(self) -> None:
        """Let go of it, for good. Memory that somebody still holds on to goes with them."""
        file, self._file, descriptor, self.descriptor = self._file, -1, self.descriptor, -1
        for opened in (file, descriptor):
            if opened >= 0:
                os.close(opened)
        if file >= 0:
            with suppress(BufferError, AttributeError):  # the latter where it was never made whole
                self._memory.release()
                self._pages.close()

    def _empty_if_nobodys(self) -> None:
        if self.name is None and self.is_free and self._file >= 0:
            os.ftruncate(self._file, 0)


class Landings:
    """As many landings of `size_max_bytes` as are asked for; none where the system has no such memory."""

    def __init__(self, count: int, size_max_bytes: int) -> None:
        size_max_bytes = size_max_bytes // PAGE_BYTES * PAGE_BYTES
        # The one that was used longest ago first.
        self._all = _made(count, size_max_bytes) if size_max_bytes else []

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a process must inherit to open them by their paths."""
        return tuple(landing.descriptor for landing in self._all)

    def take(self) -> Landing | None:
        """
        Borrow the one that was used longest ago, what was in it forgotten.

        None where all are in use, or hold what is about to be rendered: what comes now may as well go to its file.
        """
        now_s = time.monotonic()
        for landing in self._all:
            if landing.is_free and landing.awaited_until_s <= now_s:
                landing.name = None  # its memory stays: the next picture takes about as much
                landing.borrow()
                self._is_used(landing)
                return landing
        return None

    def keep(self, landing: Landing, hashed: str, digest: str) -> None:
        """The original with this digest is in it, and a render is about to ask for it."""
        landing.name = (hashed, digest)
        landing.awaited_until_s = time.monotonic() + AWAITED_S
        self._is_used(landing)

    def find(self, hashed: str, digest: str) -> Landing | None:
        """Borrow the landing of this original."""
        landing = next((landing for landing in self._all if landing.name == (hashed, digest)), None)
        if landing is not None:
            landing.awaited_until_s = 0.0
            landing.borrow()
            self._is_used(landing)
        return landing

    def forget(self, hashed: str) -> None:
        """
        Forget the originals of a key.

        What another fetch has taken already is nobody's to find: its bytes last until that fetch's head is here.
        """
        for landing in self._all:
            if landing.name is not None and landing.name[0] == hashed:
                landing.awaited_until_s = 0.0
                landing.forget()

    def close(self) -> None:
        """Let go of all."""
        while self._all:
            self._all.pop().close()

    def _is_used(self, landing: Landing) -> None:
        self._all.remove(landing)
        self._all.append(landing)


def _made(count: int, size_max_bytes: int) -> list[Landing]:
    if not hasattr(os, "memfd_create"):
        return []
    made: list[Landing] = []
    try:
        made.extend(Landing(size_max_bytes) for _ in range(count))
    except OSError as exc:
        log.warning("originals go through the page cache, as no memory can be shared: %s", exc)
        while made:
            made.pop().close()
    return made
