"""The files of originals and variants: read, commit, and take out of reach. See directory.py for where they are."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgproxy.cache.directory import CacheDirectory
from imgproxy.cache.entry import VariantFacts, key_hash
from imgproxy.cache.framed import read_frame, trailer
from imgproxy.cache.ledger import Ledger, name_of_file, original_name, split_name, variant_name
from imgproxy.cache.reading import SeenFile, read_at_once, stamp_of

if TYPE_CHECKING:
    from pathlib import Path

    from imgproxy.cache.entry import OriginalFacts
    from imgproxy.cache.reading import FileStamp, StrPath

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Detached:
    """
    A key's directory after its purge: no longer reachable, still to be deleted.

    The figures come from the ledger. `variants` is None where the ledger does not know all files yet, early after a
    start.
    """

    path: Path
    variants: int | None = None
    size_bytes: int = 0


class CacheStore(CacheDirectory):
    """The originals and variants of one cache directory. Only the event loop uses it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.ledger = Ledger()

    def path_of(self, name: bytes) -> str:
        """The path of a file by its name in the ledger."""
        hashed, plan = split_name(name)
        return self.variant_path(hashed, plan) if plan else self.path(hashed, "original")

    # --- originals ---------------------------------------------------------------------------------------------

    def commit_original(self, temp: StrPath, facts: OriginalFacts) -> None:
        """
        Make a downloaded file the key's original: first the bytes, then the facts that name their digest.

        Raises:
            OSError: the disk refuses, or a purge took the directory away.
        """
        hashed = key_hash(facts.key)
        self.put_in_place(hashed, temp, "original")
        try:
            self.commit_facts(facts)
        finally:  # its bytes are on the disk, with or without facts
            self.ledger.add(original_name(hashed), facts.size_bytes, is_verified=True)

    def find_original(self, facts: OriginalFacts) -> tuple[str, bool] | None:
        """
        Find the original's file: its path, and whether this run knows that its checksum is right.

        None where it is missing or has another length.
        """
        hashed = key_hash(facts.key)
        path = self.path(hashed, "original")
        try:
            size_bytes = os.stat(path).st_size
        except OSError:
            size_bytes = -1
        if size_bytes != facts.size_bytes:
            self.ledger.remove(original_name(hashed))
            return None
        return path, self.ledger.touch(original_name(hashed))

    def note_checked(self, name: bytes, size_bytes: int, *, is_intact: bool) -> None:
        """Remember that the checksum of a file is right, or delete the damaged file. `name` is that of the ledger."""
        if is_intact:
            self.ledger.verify(name, size_bytes)
            return
        self.ledger.remove(name)
        with suppress(OSError):
            os.unlink(self.path_of(name))

    # --- variants ----------------------------------------------------------------------------------------------

    def variant_path(self, hashed: str, plan: str) -> str:
        """The path of a variant's file. It may not exist."""
        return self.path(hashed, f"v-{plan}")

    def open_variant(self, hashed: str, plan: str, original: str) -> tuple[VariantFacts, int, bool] | None:
        """
        Find a variant of this original on disk: its facts and an open descriptor, which the caller closes.

        The record and the length are checked. The third value tells whether this run knows that the body's checksum is
        right, too.
        """
        try:
            descriptor = os.open(self.variant_path(hashed, plan), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if isinstance(error, FileNotFoundError):  # else it is there, but no descriptor is free, for example
                self.ledger.remove(variant_name(hashed, plan))
            return None
        try:
            frame = read_frame(descriptor)
        except OSError:
            frame = None
        facts = frame.read_as(VariantFacts) if frame is not None else None
        is_whole = facts is not None and frame is not None and facts.size_bytes == frame.body_bytes
        if not is_whole or facts is None or facts.original != original or facts.plan != plan:
            os.close(descriptor)
            return None
        return facts, descriptor, self.ledger.touch(variant_name(hashed, plan))

    def seen(self, hashed: str, plan: str, stamp: FileStamp, body_bytes: int) -> SeenFile:
        """What `read_unchanged` needs to recognise a variant's file."""
        return SeenFile(self.variant_path(hashed, plan), variant_name(hashed, plan), stamp, body_bytes)

    def read_unchanged(self, file: SeenFile) -> bytes | bytearray | None:
        """The body of a variant whose file has not changed. None if it has, or if it is not in the page cache."""
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

    def commit_variant(
        self, temp: StrPath, facts: VariantFacts, *, with_body: bool = False
    ) -> tuple[str, bytes | None]:
        """
        Append record and trailer to a rendered file, and give it the name by which it is found from then on.

        Return the path, and the body if `with_body`.

        Raises:
            OSError: the disk refuses, or a purge took the directory away.
        """
        hashed = key_hash(facts.key)
        end = trailer(facts, body_bytes=facts.size_bytes, body_digest=bytes.fromhex(facts.digest))
        with open(temp, "r+b") as file:
            # The file was written a moment ago, so it is in the page cache.
            body = file.read(facts.size_bytes) if with_body else None
            if body is not None and len(body) != facts.size_bytes:
                raise OSError(errno.EIO, "a rendered file is shorter than its size_bytes")
            file.seek(0, os.SEEK_END)
            file.write(end)
        path = self.put_in_place(hashed, temp, f"v-{facts.plan}")
        self.ledger.add(variant_name(hashed, facts.plan), facts.size_bytes, is_verified=True)
        return path, body

    # --- detach ------------------------------------------------------------------------------------------------

    def detach(self, hashed: str) -> Detached | None:
        """
        Take a key's directory out of reach, in one rename into the trash. None if the directory does not exist.

        Raises:
            OSError: it exists and cannot be renamed.
        """
        self._facts.pop(hashed, None)
        source, target = self.key_dir(hashed), self.trash_path(hashed)
        try:
            os.rename(source, target)
        except FileNotFoundError:
            # The trash itself may be missing, not the source.
            if not os.path.lexists(source):
                return None
            self.trash_dir.mkdir(parents=True, exist_ok=True)
            os.rename(source, target)
        return self._take_off_ledger(hashed, target)

    def detach_all(self) -> Detached:
        """
        Take the directories of all keys out of reach, in one rename into the trash.

        The figures of the result count originals as well.

        Raises:
            OSError: they cannot be renamed, or no new directory can be made.
        """
        self._facts.clear()
        gone = Detached(self.trash_path("all"), len(self.ledger), self.ledger.used_bytes)
        self.ledger.clear()
        self.trash_dir.mkdir(parents=True, exist_ok=True)
        os.rename(self.keys_dir, gone.path)
        self.keys_dir.mkdir()
        return gone

    def detach_orphan(self, hashed: str) -> Detached | None:
        """
        Detach a directory that the scan found without facts. None if it has facts by now, or is being written.

        Raises:
            OSError: it cannot be renamed.
        """
        if self.facts(hashed) is not None or self.is_being_written(hashed):
            return None
        return self.detach(hashed)

    def _take_off_ledger(self, hashed: str, target: Path) -> Detached:
        """Done before the files are deleted: by then new files may have the same names."""
        try:
            file_names = os.listdir(target)
        except OSError:
            log.warning("the files of a purged key cannot be listed; they stay in the ledger until evicted")
            return Detached(target)
        names = [name for file_name in file_names if (name := name_of_file(hashed, file_name)) is not None]
        is_known = all(name in self.ledger for name in names)
        size_bytes = sum(self.ledger.remove(name) for name in names)
        variants = sum(file_name.startswith("v-") for file_name in file_names)
        return Detached(target, variants, size_bytes) if is_known else Detached(target)
