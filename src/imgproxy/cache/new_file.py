"""A new file in a directory that may have to be made first, and that an eviction may take away meanwhile."""

from __future__ import annotations

import os


def open_new_file(path: str, *, has_directory: bool) -> int:
    """
    Make an empty file and return a descriptor to write to.

    Where the directory is hardly there yet it is made first: to try the file in vain costs as much as to make it.

    Raises:
        OSError: the disk refuses.
    """
    for _ in range(2):  # an eviction may take the empty directory away once, hardly twice
        if not has_directory:
            _make(os.path.dirname(path))
        try:
            return _opened(path)
        except FileNotFoundError:
            has_directory = False
    _make(os.path.dirname(path))
    return _opened(path)


def _opened(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _make(directory: str) -> None:
    try:
        os.mkdir(directory)
    except FileExistsError:
        pass
    except FileNotFoundError:
        os.makedirs(directory, exist_ok=True)
