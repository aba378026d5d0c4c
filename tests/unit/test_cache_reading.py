"""Reads that do not wait for a disk."""

import os
from pathlib import Path

import pytest

from imgproxy.cache.reading import read_at_once, stamp_of


def opened(path: Path, data: bytes) -> int:
    path.write_bytes(data)
    return os.open(path, os.O_RDONLY)


def test_what_is_in_the_page_cache_is_read(tmp_path: Path) -> None:
    """A file that was just written is there. No more is read than was asked for."""
    descriptor = opened(tmp_path / "file", b"0123456789" * 5000)
    try:
        assert read_at_once(descriptor, 50_000) == b"0123456789" * 5000
        assert read_at_once(descriptor, 15) == b"012345678901234"
        assert read_at_once(descriptor, 5, 49_990) == b"01234"
    finally:
        os.close(descriptor)


def test_a_short_file_gives_what_it_has(tmp_path: Path) -> None:
    """A read beyond the end of a file does not fail."""
    descriptor = opened(tmp_path / "file", b"0123")
    try:
        assert read_at_once(descriptor, 10) == b"0123"
        assert read_at_once(descriptor, 10, 3) == b"3"
    finally:
        os.close(descriptor)


def evicted(path: Path) -> int:
    """Open a file of a megabyte, and ask the kernel to drop it from the page cache. The kernel may not do so."""
    descriptor = opened(path, bytes(1_000_000))
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return descriptor


def test_what_is_not_in_the_page_cache_is_not_waited_for(tmp_path: Path) -> None:
    """A read that would wait for the disk raises BlockingIOError."""
    probed = evicted(tmp_path / "probed")
    try:
        os.preadv(probed, [bytearray(1_000_000)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        pass
    except OSError:
        pytest.skip("this file system cannot say whether a read would wait")
    else:
        pytest.skip("this file system keeps its pages")
    finally:
        os.close(probed)
    # Each try has its own file: a refused read makes the kernel fetch what was missing.
    for number in range(10):
        descriptor = evicted(tmp_path / f"file-{number}")
        try:
            if len(read_at_once(descriptor, 1_000_000)) == 1_000_000:
                continue  # this one was not dropped
        except BlockingIOError:
            return
        finally:
            os.close(descriptor)
    pytest.fail("ten files that were dropped from the page cache were read without an error")


def test_a_file_system_without_such_reads_is_read_all_the_same(tmp_path: Path) -> None:
    """A flag that no kernel knows takes the place of RWF_NOWAIT on such a file system."""
    descriptor = opened(tmp_path / "file", b"0123")
    try:
        assert read_at_once(descriptor, 4, flags=0x4000) == b"0123"
    finally:
        os.close(descriptor)


def test_every_change_of_a_file_changes_its_stamp(tmp_path: Path) -> None:
    """A change of the same length, with the time of change set back, is seen."""
    path = tmp_path / "file"
    path.write_bytes(b"before")
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock for this ticks every few milliseconds
        path.write_bytes(b"behind")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert stamp_of(path.stat()) != stamp_of(before)
