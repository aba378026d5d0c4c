"""A small file system for a test, and a way to fill it to the last byte."""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MS_RDONLY, MS_REMOUNT = 1, 32  # mount(2)
MNT_DETACH = 2  # umount2(2)


@contextmanager
def small_disk(directory: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a tmpfs of this size on the directory; skips where mounting is not allowed."""
    directory.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or _mount(directory, 0, f"size={size_bytes}") != 0:
        pytest.skip("a small disk needs a mount, and this process may not mount")
    try:
        yield directory
    finally:
        _libc().umount2(os.fsencode(directory), MNT_DETACH)


def make_read_only(directory: Path, *, is_read_only: bool = True) -> None:
    """Remount a small disk read-only, or writable again; a file open for writing makes the kernel refuse."""
    flags = MS_REMOUNT | (MS_RDONLY if is_read_only else 0)
    if _mount(directory, flags, "") != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def fill(directory: Path) -> Path:
    """Fill the file system to the last byte; removing the returned file gives the space back."""
    filler = directory / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        for size_bytes in (1 << 20, 4096, 1):
            while True:
                try:
                    if os.write(descriptor, b"\0" * size_bytes) < size_bytes:
                        break
                except OSError:
                    break
    finally:
        os.close(descriptor)
    return filler


def use_up_inodes(directory: Path) -> None:
    """Leave a small disk all its space, and room for not one more file."""
    disk = os.statvfs(directory)
    if _mount(directory, MS_REMOUNT, f"nr_inodes={disk.f_files - disk.f_ffree}") != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mount(directory: Path, flags: int, options: str) -> int:
    code: int = _libc().mount(b"tmpfs", os.fsencode(directory), b"tmpfs", flags, options.encode())
    return code
