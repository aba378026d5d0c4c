"""
The disk: a directory per key, holding one original, its facts and the variants made from it.

    journal.lock                      held while a process uses the directory: two would not know of each other's purges
    keys/<h2>/<hash>/facts            an OriginalFacts record; without it nothing in the directory counts
                     original         the origin's bytes, untouched, for libvips to read by path
                     v-<plan digest>  a variant: body, record, trailer (see framed.py)
                     t-<run>-<n>      being written by this run; of another run, an orphan
    trash/<n>                         directories renamed away by a purge; deleting them is clean-up, not the purge

Every file appears by rename within its directory. Nothing here is fsynced: a torn file fails its checksum and is a
miss. What must survive a crash is in the journal.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import os
import secrets
from collections import OrderedDict, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgproxy.cache.entry import OriginalFacts, VariantFacts, key_hash
from imgproxy.cache.framed import digest_of, read_frame, trailer, write_all
from imgproxy.cache.ledger import Ledger, name_of_file, original_name, variant_name
from imgproxy.cache.new_file import open_new_file
from imgproxy.cache.reading import SeenFile, read_at_once, stamp_of
from imgproxy.cache.refused import as_cache_unavailable

if TYPE_CHECKING:
    from imgproxy.cache.reading import FileStamp, StrPath

log = logging.getLogger(__name__)

# Facts kept in memory: about 700 bytes each, so that a disk hit reads one file and not two.
FACTS_IN_MEMORY = 50_000
# As many keys are on their way to their first facts at most; a stranger may ask for any number of others.
FACTLESS_IN_MEMORY = 4_096
_NO_BODY: Final = digest_of(b"")


@dataclass(frozen=True, slots=True)
class Detached:
    """
    A key's directory after its purge: no longer reachable, still to be deleted.

    The figures are the ledger's; a directory with files that it does not know yet, early after a start, has none.
    """

    key_hash: str
    path: Path
    variants: int | None = None
    size_bytes: int = 0


class CacheStore:
    """Files of one cache directory. Not thread-safe: the event loop is its only user; other threads get paths."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keys_dir = directory / "keys"
        self.trash_dir = directory / "trash"
        # Paths are put together as text: to do it by pathlib takes longer than what most calls here do with the file.
        self._keys = str(self.keys_dir)
        self.ledger = Ledger()
        # Distinguishes this run's temporary files from those a crash left behind.
        self.run_id = secrets.token_hex(4)
        self._numbers = itertools.count()
        # Files being written, by key: their directory must stay, even while it is empty.
        self._being_written: defaultdict[str, set[str]] = defaultdict(set)
        self._lock: int | None = None
        # The least recently read or written first; a look at it alone (`known_facts`) does not count.
        self._facts: OrderedDict[str, OriginalFacts] = OrderedDict()
        # Keys that were looked for on disk and have no facts there: a miss asks three times before it makes them.
        self._factless: set[str] = set()

    def open(self) -> None:
        """
        Make the directories, and take hold of them for this process.

        Raises:
            CacheUnavailable: the directory cannot be made or written, or another process uses it.
        """
        with as_cache_unavailable:
            for path in (self.keys_dir, self.trash_dir):
                path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            probe = self.directory / f".probe-{self.run_id}"
            probe.write_bytes(b"")
            probe.unlink()

    def _take_lock(self) -> None:
        """A purge reaches the memory of one process. The kernel lets go of the lock when that ends, however it does."""
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

    def close(self) -> None:
        """Let go of the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def key_dir(self, hashed: str) -> Path:
        """The directory of a key, which may not exist."""
        return Path(f"{self._keys}/{hashed[:2]}/{hashed}")

    def _path(self, hashed: str, name: str) -> str:
        """A file in the directory of a key."""
        return f"{self._keys}/{hashed[:2]}/{hashed}/{name}"

    def temp_name(self, hashed: str) -> str:
        """
        The name of a file that is about to be written in the key's directory, which is there. `discard` it in the end.

        Who writes the file makes it, too: to do so here and now would cost a miss as much as to name it.
        """
        path = self._path(hashed, f"t-{self.run_id}-{next(self._numbers)}")
        self._being_written[hashed].add(path)
        return path

    def temp_path(self, hashed: str) -> str:
        """
        A new, empty file to be written in the key's directory, which is made where missing. `discard` it in the end.

        Raises:
            CacheUnavailable: the directory or the file cannot be made.
        """
        temp, descriptor = self._new_file(hashed, has_directory=hashed in self._facts)
        os.close(descriptor)
        return temp

    def _new_file(self, hashed: str, *, has_directory: bool) -> tuple[str, int]:
        """As `temp_path`, with a descriptor to write to."""
        path = self.temp_name(hashed)
        try:
            with as_cache_unavailable:
                return path, open_new_file(path, has_directory=has_directory)
        except BaseException:
            self.discard(path)
            raise

    def is_being_written(self, hashed: str) -> bool:
        """Whether this run is writing a file in the key's directory."""
        return hashed in self._being_written

    # --- originals ---------------------------------------------------------------------------------------------

    def facts(self, hashed: str) -> OriginalFacts | None:
        """The facts of a key's original, from memory or disk; None where there are none, or no valid ones."""
        if (known := self._facts.get(hashed)) is not None:
            self._facts.move_to_end(hashed)
            return known
        if hashed in self._factless:
            return None
        found = self._read_facts(hashed)
        if found is not None:
            self._keep_facts(hashed, found)
        return found

    def _keep_facts(self, hashed: str, facts: OriginalFacts) -> None:
        self._factless.discard(hashed)
        self._facts[hashed] = facts
        self._facts.move_to_end(hashed)
        if len(self._facts) > FACTS_IN_MEMORY:
            self._facts.popitem(last=False)

    def _read_facts(self, hashed: str) -> OriginalFacts | None:
        try:
            descriptor = os.open(self._path(hashed, "facts"), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if len(self._factless) >= FACTLESS_IN_MEMORY:
                self._factless.clear()
            self._factless.add(hashed)
            return None
        except OSError:
            return None
        try:
            frame = read_frame(descriptor)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        facts = frame.read_as(OriginalFacts) if frame is not None else None
        return facts if facts is not None and key_hash(facts.key) == hashed else None

    def commit_facts(self, facts: OriginalFacts) -> None:
        """
        Make these the facts of the key's original.

        Raises:
            CacheUnavailable: the disk refuses.
        """
        hashed = key_hash(facts.key)
        temp, descriptor = self._new_file(hashed, has_directory=True)
        try:
            with as_cache_unavailable:
                try:
                    write_all(descriptor, trailer(facts, body_bytes=0, body_digest=_NO_BODY))
                finally:
                    os.close(descriptor)
                self._put_in_place(hashed, temp, "facts")
        except BaseException:
            self.discard(temp)
            raise
        self._keep_facts(hashed, facts)

    def hold_facts(self, facts: OriginalFacts) -> None:
        """Make these the facts of the key's original for this run alone; a disk that is full does not matter here."""
        self._keep_facts(key_hash(facts.key), facts)

    def commit_original(self, temp: StrPath, facts: OriginalFacts) -> None:
        """
        Make a downloaded file the key's original: the bytes first, then the facts that vouch for them.

        Raises:
            CacheUnavailable: the disk refuses, or a purge took the directory away.
        """
        hashed = key_hash(facts.key)
        with as_cache_unavailable:
            self._put_in_place(hashed, temp, "original")
        self.ledger.add(original_name(hashed), facts.size_bytes, is_verified=True)
        self.commit_facts(facts)

    def name_of_original(self, hashed: str) -> str:
        """Where a key's original is, if it is."""
        return self._path(hashed, "original")

    def original_path(self, facts: OriginalFacts) -> str | None:
        """The original's file, where it is there in its full length; whether its bytes are right is `verify`'s word."""
        hashed = key_hash(facts.key)
        path = self._path(hashed, "original")
        try:
            size_bytes = os.stat(path).st_size
        except OSError:
            size_bytes = -1
        if size_bytes != facts.size_bytes:
            self.ledger.remove(original_name(hashed))
            return None
        self.ledger.touch(original_name(hashed))
        return path

    def is_original_verified(self, hashed: str) -> bool:
        """Whether this run knows the original's bytes to match their facts."""
        return self.ledger.is_verified(original_name(hashed))

    def settle_original(self, facts: OriginalFacts, *, is_intact: bool) -> None:
        """Note the result of `matches_digest` for the original; a damaged one is removed."""
        hashed = key_hash(facts.key)
        if is_intact:
            self.ledger.verify(original_name(hashed), facts.size_bytes)
            return
        self.ledger.remove(original_name(hashed))
        with suppress(OSError):
            os.unlink(self._path(hashed, "original"))

    # --- variants ----------------------------------------------------------------------------------------------

    def variant_path(self, hashed: str, plan: str) -> str:
        """Where a variant is, if it is."""
        return self._path(hashed, f"v-{plan}")

    def open_variant(self, hashed: str, plan: str, original: str) -> tuple[VariantFacts, int] | None:
        """
        A variant of this original on disk: its facts and an open descriptor, which the caller closes; or None.

        The record and the length are checked here; the body's checksum is the caller's business (`is_verified`).
        """
        try:
            descriptor = os.open(self._path(hashed, f"v-{plan}"), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.ledger.remove(variant_name(hashed, plan))
            return None
        try:
            frame = read_frame(descriptor)
        except OSError:
            frame = None
        facts = frame.read_as(VariantFacts) if frame is not None else None
        is_ours = facts is not None and frame is not None and facts.size_bytes == frame.body_bytes
        if not is_ours or facts is None or facts.original != original or facts.plan != plan:
            os.close(descriptor)
            return None
        self.ledger.touch(variant_name(hashed, plan))
        return facts, descriptor

    def seen(self, hashed: str, plan: str, stamp: FileStamp, body_bytes: int) -> SeenFile:
        """What `read_unchanged` needs to know a variant's file again."""
        return SeenFile(self._path(hashed, f"v-{plan}"), variant_name(hashed, plan), stamp, body_bytes)

    def read_unchanged(self, file: SeenFile) -> bytes | bytearray | None:
        """The body of a variant whose file is still as it was; None if it is not, or is not in the page cache."""
        try:
            descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if stamp_of(os.fstat(descriptor)) != file.stamp:
                return None
            body = read_at_once(descriptor, file.body_bytes)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        self.ledger.touch(file.name)
        return body

    def known_facts(self, hashed: str) -> OriginalFacts | None:
        """The facts of a key's original that this run has in memory."""
        return self._facts.get(hashed)

    def is_variant_verified(self, hashed: str, plan: str) -> bool:
        """Whether this run has seen the variant's checksum hold."""
        return self.ledger.is_verified(variant_name(hashed, plan))

    def settle_variant(self, hashed: str, facts: VariantFacts, *, is_intact: bool) -> None:
        """Note the result of checking a variant's body; a damaged one is removed."""
        if is_intact:
            self.ledger.verify(variant_name(hashed, facts.plan), facts.size_bytes)
            return
        self.ledger.remove(variant_name(hashed, facts.plan))
        with suppress(OSError):
            os.unlink(self._path(hashed, f"v-{facts.plan}"))

    def seal_variant(self, temp: StrPath, facts: VariantFacts, *, with_body: bool = False) -> bytes | None:
        """
        Append record and trailer to a rendered file; return its body where that is wanted.

        Raises:
            CacheUnavailable: the disk refuses, or a purge took the directory away.
        """
        end = trailer(facts, body_bytes=facts.size_bytes, body_digest=bytes.fromhex(facts.digest))
        with as_cache_unavailable:
            descriptor = os.open(temp, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            try:
                # It was written just now, and so is in the page cache.
                body = os.pread(descriptor, facts.size_bytes, 0) if with_body else None
                if body is not None and len(body) != facts.size_bytes:
                    raise OSError(errno.EIO, "a rendered file is shorter than it was said to be")
                write_all(descriptor, end)
            finally:
                os.close(descriptor)
        return body

    def commit_variant(self, temp: StrPath, facts: VariantFacts) -> str:
        """
        Give a sealed file its name; from then on it is found.

        Raises:
            CacheUnavailable: the disk refuses, or a purge took the directory away.
        """
        hashed = key_hash(facts.key)
        with as_cache_unavailable:
            path = self._put_in_place(hashed, temp, f"v-{facts.plan}")
        self.ledger.add(variant_name(hashed, facts.plan), facts.size_bytes, is_verified=True)
        return path

    def _put_in_place(self, hashed: str, temp: StrPath, name: str) -> str:
        """Rename a file over whatever has its name, if need be a directory that somebody else made."""
        path = self._path(hashed, name)
        try:
            os.rename(temp, path)
        except IsADirectoryError:
            os.rename(path, self.trash_dir / f"foreign-{self.run_id}-{next(self._numbers)}")
            os.rename(temp, path)
        self._is_written(hashed, temp)
        return path

    def _is_written(self, hashed: str, temp: StrPath) -> bool:
        """A temporary file is one no more; whether none is left in its directory."""
        being_written = self._being_written.get(hashed)
        if being_written is not None:
            being_written.discard(os.fspath(temp))
            if being_written:
                return False
            del self._being_written[hashed]
        return True

    # --- purge -------------------------------------------------------------------------------------------------

    def detach(self, hashed: str) -> Detached | None:
        """
        Take a key's directory out of reach in one rename, whatever it holds; None if there is none.

        Raises:
            CacheUnavailable: it is there and cannot be renamed.
        """
        self._facts.pop(hashed, None)
        target = self.trash_dir / f"{hashed}-{self.run_id}-{next(self._numbers)}"
        source = self.key_dir(hashed)
        with as_cache_unavailable:
            try:
                os.rename(source, target)
            except FileNotFoundError:
                # "Not found" may also mean the trash, which somebody emptied too thoroughly.
                if not os.path.lexists(source):
                    return None
                self.trash_dir.mkdir(parents=True, exist_ok=True)
                os.rename(source, target)
        return self._take_off_ledger(hashed, target)

    def _take_off_ledger(self, hashed: str, target: Path) -> Detached:
        """Do it at once: by the time the files are deleted, new ones may have taken these names."""
        try:
            file_names = os.listdir(target)
        except OSError:
            log.warning("the files of a purged key cannot be listed; they stay in the ledger until evicted")
            return Detached(hashed, target)
        names = [name for file_name in file_names if (name := name_of_file(hashed, file_name)) is not None]
        is_known = all(name in self.ledger for name in names)
        size_bytes = sum(self.ledger.remove(name) for name in names)
        variants = sum(file_name.startswith("v-") for file_name in file_names)
        return Detached(hashed, target, variants, size_bytes) if is_known else Detached(hashed, target)

    def discard(self, temp: StrPath) -> None:
        """
        Remove a temporary file, and its directory where nothing is, or is about to be, in it; all may be gone.

        One that was put in place is no temporary file any more: nothing is done.
        """
        directory = os.path.dirname(temp)
        hashed = os.path.basename(directory)
        if os.fspath(temp) not in self._being_written.get(hashed, ()):
            return
        is_last = self._is_written(hashed, temp)
        with suppress(OSError):
            os.unlink(temp)
        if is_last:
            with suppress(OSError):
                os.rmdir(directory)
