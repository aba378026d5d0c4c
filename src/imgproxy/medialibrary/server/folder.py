"""
Reads the folder of pictures: which files it has, and their facts.

A changed fingerprint (size, modification time, inode) means changed bytes. The reverse is not quite true: two writes
within one tick of the file system's clock can leave the same fingerprint. So a file that was modified less than
`RACY_NS` ago is also hashed. Git has the same rule (Documentation/technical/racy-git).
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgproxy.medialibrary.server.keys import key_problem, path_of
from imgproxy.medialibrary.server.pictures import sniff
from imgproxy.medialibrary.server.state import FileFacts, Fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RACY_NS: Final = 2_000_000_000
READ_BYTES: Final = 1024 * 1024
DIGEST_BYTES: Final = 16
EXTENSIONS: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".gif", ".webp", ".avif", ".heic", ".heif", ".tif", ".tiff", ".svg", ".svgz"}
)


@dataclass(frozen=True, slots=True)
class Walk:
    """The picture files of a folder by key, and a warning for each file that is skipped."""

    files: Mapping[str, Fingerprint]
    warnings: tuple[str, ...]


def walk(folder: str) -> Walk:
    """
    List the picture files of a folder and its subfolders. Hidden files and folders are left out.

    A symbolic link counts if its target is a file inside the folder. Linked folders are not entered.
    """
    files: dict[str, Fingerprint] = {}
    warnings: list[str] = []
    root = os.path.realpath(folder)
    for entry in _files(root):
        key = os.path.relpath(entry.path, root).replace(os.sep, "/")
        problem = key_problem(key)
        if problem is not None:
            warnings.append(f"{key!a}: skipped, its name cannot be a key ({problem})")
            continue
        if entry.is_symlink() and path_of(root, key) is None:
            warnings.append(f"{key}: skipped, it links to something outside the folder")
            continue
        try:
            files[key] = fingerprint_of(entry.stat())
        except OSError:
            continue  # deleted since it was listed
    return Walk(files, tuple(warnings))


def _files(root: str) -> Iterator[os.DirEntry[str]]:
    pending = [root]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            continue  # deleted, or not readable
        for entry in listed:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                yield entry


def fingerprint_of(stat: os.stat_result) -> Fingerprint:
    """Return the fingerprint of a file by its stat."""
    return Fingerprint(stat.st_size, stat.st_mtime_ns, stat.st_ino)


def current_fingerprint(folder: str, key: str) -> Fingerprint | None:
    """Return the current fingerprint of a key's file; None if there is no such file."""
    path = path_of(folder, key)
    try:
        return None if path is None else fingerprint_of(os.stat(path))
    except OSError:
        return None


def is_settled(fingerprint: Fingerprint, now_ns: int) -> bool:
    """Return whether the file was modified long enough ago for its fingerprint to be trusted."""
    return fingerprint.mtime_ns < now_ns - RACY_NS


def read_facts(folder: str, key: str, *, is_hashed: bool) -> FileFacts | None:
    """Read the facts of a key's file, with its digest if asked or if not settled. None if it cannot be opened."""
    path = path_of(folder, key)
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            fd = file.fileno()
            now_ns = time.time_ns()
            fingerprint = fingerprint_of(os.fstat(fd))
            settled = is_settled(fingerprint, now_ns)
            return FileFacts(
                key=key,
                fingerprint=fingerprint,
                picture=sniff(lambda offset, length: os.pread(fd, length, offset)),
                digest=digest_of(fd) if is_hashed or not settled else "",
                is_settled=settled,
            )
    except OSError:
        return None


def digest_of(fd: int) -> str:
    """Return the BLAKE2b hash (128 bits, hex) of an open file."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    offset = 0
    while data := os.pread(fd, READ_BYTES, offset):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()
