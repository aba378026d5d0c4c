"""
The cache directory: a directory for each key, holding one original, its facts, and the variants made from it.

    journal.lock                      locked while a process uses the directory
    journal.sqlite                    the journal, see journal.py
    keys/<h2>/<hash>/facts            an OriginalFacts record; without it nothing in the directory counts
                     original         the origin's bytes; libvips reads them by path
                     v-<plan digest>  a variant: body, record, trailer (framed.py)
                     t-<run>-<n>      a temporary file of this run; one of another run is deleted at start
    trash/<n>                         directories that a purge renamed away; they are deleted later (trash.py)

Every file gets its name by a rename within its directory. No file here is fsynced: a torn file fails its checksum and
is a miss. What must survive a crash is in the journal.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import secrets
from collections import OrderedDict, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgproxy.cache.entry import OriginalFacts, key_hash
from imgproxy.cache.framed import digest_of, read_frame, trailer

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from imgproxy.cache.reading import StrPath

# Facts kept in memory, about 700 bytes each: with them a disk hit reads one file instead of two.
FACTS_IN_MEMORY = 50_000
_NO_BODY: Final = digest_of(b"")
# Linux makes a new one each time that it starts.
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
# A directory for a new file is made this often: an eviction may delete it, still empty, before the file is in it.
MAKE_DIRECTORY_TRIES = 2


class CacheDirectory:
    """
    The lock, the paths, the temporary files and the facts of one cache directory.

    Not thread-safe: only the event loop uses it. Other threads get paths.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keys_dir = directory / "keys"
        self.trash_dir = directory / "trash"
        # Paths are put together as text: pathlib takes longer than most calls here take for the file itself.
        self._keys = str(self.keys_dir)
        # Tells this run's temporary files from those that a crash left.
        self.run_id = secrets.token_hex(4)
        self._numbers = itertools.count()
        # Temporary files by key hash: their directory must stay, even while it is empty.
        self._being_written: defaultdict[str, set[str]] = defaultdict(set)
        self._lock: int | None = None
        # The least recently used first. `known_facts` does not count as a use.
        self._facts: OrderedDict[str, OriginalFacts] = OrderedDict()

    def open(self) -> None:
        """
        Make the directories, and lock them for this process.

        Raises:
            OSError: the directory cannot be made or written, or another process uses it.
        """
        for path in (self.keys_dir, self.trash_dir):
            path.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        probe = self.directory / f".probe-{self.run_id}"
        probe.write_bytes(b"")
        probe.unlink()

    def _take_lock(self) -> None:
        """
        Refuse a second process: a purge empties the memory of its own process only.

        The kernel releases the lock when the process ends, also when it is killed.
        """
        descriptor = os.open(self.directory / "journal.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OSError(errno.EBUSY, "another imgproxy is using this directory") from None
        except BaseException:
            os.close(descriptor)
            raise
        self._lock = descriptor

    def lock_name(self) -> str | None:
        """
        Return a name of the lock that this process holds: kernel, device and file. None: it is not known.

        As long as a process holds it, no other lock has this name. Sources: random(4) of boot_id, inode(7).
        """
        if self._lock is None:
            return None
        try:
            kernel = _BOOT_ID.read_text("ascii").strip()
        except OSError:
            return None
        found = os.fstat(self._lock)
        return f"{kernel} {found.st_dev} {found.st_ino}"

    def close(self) -> None:
        """Release the lock. Nothing of this run is served any more: the next one relies on that (runs.py)."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- paths -------------------------------------------------------------------------------------------------

    def key_dir(self, hashed: str) -> Path:
        """The directory of a key. It may not exist."""
        return Path(f"{self._keys}/{hashed[:2]}/{hashed}")

    def path(self, hashed: str, name: str) -> str:
        """The path of a file in the directory of a key. It may not exist."""
        return f"{self._keys}/{hashed[:2]}/{hashed}/{name}"

    def trash_path(self, name: str) -> Path:
        """A new path in the trash, for something of this name."""
        return self.trash_dir / f"{name}-{self.run_id}-{next(self._numbers)}"

    # --- temporary files ---------------------------------------------------------------------------------------

    def temp_name(self, hashed: str) -> str:
        """
        The path of a temporary file that the caller will create, in the key's directory, which exists.

        The caller puts it in place or discards it.
        """
        path = self.path(hashed, f"t-{self.run_id}-{next(self._numbers)}")
        self._being_written[hashed].add(path)
        return path

    def temp_path(self, hashed: str) -> str:
        """
        Create an empty temporary file in the key's directory, and the directory where it is missing.

        The caller puts it in place or discards it.

        Raises:
            OSError: the directory or the file cannot be made.
        """
        path = self.temp_name(hashed)
        try:
            _make_file(path)
        except BaseException:
            self.discard(path)
            raise
        return path

    def put_in_place(self, hashed: str, temp: StrPath, name: str) -> str:
        """
        Rename a temporary file to its final name, over an older file. Return the path.

        A directory of that name, which is not from this service, is moved to the trash. Raises OSError.
        """
        path = self.path(hashed, name)
        try:
            os.rename(temp, path)
        except IsADirectoryError:
            os.rename(path, self.trash_path("foreign"))
            os.rename(temp, path)
        self._end_writing(hashed, temp)
        return path

    def discard(self, temp: StrPath) -> None:
        """
        Delete a temporary file, and its directory if that is empty and no other file is about to be written there.

        Do nothing for a file that was put in place or discarded before.
        """
        directory = os.path.dirname(temp)
        hashed = os.path.basename(directory)
        if os.fspath(temp) not in self._being_written.get(hashed, ()):
            return
        is_last = self._end_writing(hashed, temp)
        with suppress(OSError):
            os.unlink(temp)
        if is_last:
            with suppress(OSError):
                os.rmdir(directory)

    def is_being_written(self, hashed: str) -> bool:
        """Whether this run has a temporary file in the key's directory."""
        return hashed in self._being_written

    def _end_writing(self, hashed: str, temp: StrPath) -> bool:
        """Forget a temporary file. Return whether it was the last one of its key."""
        being_written = self._being_written.get(hashed)
        if being_written is not None:
            being_written.discard(os.fspath(temp))
            if being_written:
                return False
            del self._being_written[hashed]
        return True

    # --- facts -------------------------------------------------------------------------------------------------

    def facts(self, hashed: str) -> OriginalFacts | None:
        """The facts of a key's original, from memory or disk. None where they are missing or not valid."""
        if (known := self._facts.get(hashed)) is not None:
            self._facts.move_to_end(hashed)
            return known
        found = self._read_facts(hashed)
        if found is not None:
            self.hold_facts(found)
        return found

    def known_facts(self, hashed: str) -> OriginalFacts | None:
        """The facts of a key's original, if they are in memory."""
        return self._facts.get(hashed)

    @property
    def keys_in_memory(self) -> AbstractSet[str]:
        """The hashes of the keys whose facts are in memory."""
        return self._facts.keys()

    def hold_facts(self, facts: OriginalFacts) -> None:
        """Make these the facts of the key's original, in memory only: a restart forgets them."""
        hashed = key_hash(facts.key)
        self._facts[hashed] = facts
        self._facts.move_to_end(hashed)
        if len(self._facts) > FACTS_IN_MEMORY:
            self._facts.popitem(last=False)

    def commit_facts(self, facts: OriginalFacts) -> None:
        """
        Make these the facts of the key's original.

        Raises:
            OSError: the disk refuses.
        """
        hashed = key_hash(facts.key)
        temp = self.temp_path(hashed)
        try:
            # Not "wb": ext4 begins to write a truncated file to the disk as soon as it is closed.
            with open(temp, "r+b") as file:
                file.write(trailer(facts, body_bytes=0, body_digest=_NO_BODY))
            self.put_in_place(hashed, temp, "facts")
        except BaseException:
            self.discard(temp)
            raise
        self.hold_facts(facts)

    def _read_facts(self, hashed: str) -> OriginalFacts | None:
        try:
            descriptor = os.open(self.path(hashed, "facts"), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            facts = read_facts(descriptor)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return facts if facts is not None and key_hash(facts.key) == hashed else None


def read_facts(descriptor: int) -> OriginalFacts | None:
    """Read an open file of facts. None if it is not valid. Raises OSError. Any thread may call it."""
    frame = read_frame(descriptor)
    return frame.read_as(OriginalFacts) if frame is not None else None


def _make_file(path: str) -> None:
    for _ in range(MAKE_DIRECTORY_TRIES):
        with suppress(FileNotFoundError):
            _create(path)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
    _create(path)


def _create(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
