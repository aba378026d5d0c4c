"""Reads that do not wait for a disk."""

import os
from pathlib import Path

import pytest

from imgproxy.cache.reading import read_at_once, stamp_of


def opened(path: Path, data: bytes) -> int:
    path.write_bytes(data)
    return os.open(path, os.O_RDONLY)


def test_what_is_in_the_page_cache_is_read(tmp_path: Path) -> None:
    """A file that was written just now is there; no more is read than was asked for."""
    descriptor = opened(tmp_path / "file", b"0123456789" * 5000)
    try:
        assert read_at_once(descriptor, 50_000) == b"0123456789" * 5000
        assert read_at_once(descriptor, 15) == b"012345678901234"
        assert read_at_once(descriptor, 5, 49_990) == b"01234"
    finally:
        os.close(descriptor)


def test_a_short_file_gives_what_it_has(tmp_path: Path) -> None:
    """The end of a file is no reason to wait."""
    descriptor = opened(tmp_path / "file", b"0123")
    try:
        assert read_at_once(descriptor, 10) == b"0123"
        assert read_at_once(descriptor, 10, 3) == b"3"
    finally:
        os.close(descriptor)


def evicted(path: Path) -> int:
    """Open a file of a megabyte that the system was asked to drop from the page cache; it may not have done so."""
    descriptor = opened(path, bytes(1_000_000))
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return descriptor


def test_what_is_not_in_the_page_cache_is_not_waited_for(tmp_path: Path) -> None:
    """A read that would wait says so, and the loop can let a thread do it."""
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
    # A file of its own for each try: even a read that does not wait has the system fetch what it did not find.
    for number in range(10):
        descriptor = evicted(tmp_path / f"file-{number}")
        try:
            if len(read_at_once(descriptor, 1_000_000)) == 1_000_000:
                continue  # this one was not dropped
        except BlockingIOError:
            return
        finally:
            os.close(descriptor)
    pytest.fail("ten files that were dropped from the page cache were read without a word")


def test_a_file_system_without_such_reads_is_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags that no kernel knows stand for a file system that does not know this one."""
    monkeypatch.setattr("imgproxy.cache.reading._NOWAIT", 0x4000)
    descriptor = opened(tmp_path / "file", b"0123")
    try:
        assert read_at_once(descriptor, 4) == b"0123"
    finally:
        os.close(descriptor)


def test_every_change_of_a_file_changes_its_stamp(tmp_path: Path) -> None:
    """Also one of the same length that sets the time back."""
    path = tmp_path / "file"
    path.write_bytes(b"before")
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock for this ticks every few milliseconds
        path.write_bytes(b"behind")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert stamp_of(path.stat()) != stamp_of(before)
