"""A disk in memory for the files of tests."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

import pytest

from tests.support.memory_disk import memory_disk, use_memory_disk

if TYPE_CHECKING:
    from pathlib import Path


def test_a_disk_is_used_if_it_is_there_and_has_space(tmp_path: Path) -> None:
    """One that is too small, or is not there, is none."""
    assert memory_disk(tmp_path, free_bytes=1) == tmp_path
    assert memory_disk(tmp_path, free_bytes=1 << 60) is None
    assert memory_disk(tmp_path / "none", free_bytes=1) is None


@pytest.mark.parametrize("flag", [0, os.ST_NOEXEC])
def test_a_disk_that_runs_no_program_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: int) -> None:
    """Tests write programs and run them."""
    found = list(os.statvfs(tmp_path))
    found[8] = flag
    monkeypatch.setattr(os, "statvfs", lambda _folder: os.statvfs_result(found))
    assert memory_disk(tmp_path, free_bytes=1) == (tmp_path if flag == 0 else None)


def test_a_folder_that_the_user_wants_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """TMPDIR wins."""
    before = tempfile.gettempdir()
    monkeypatch.setenv("TMPDIR", "/wanted")
    use_memory_disk()
    assert (os.environ["TMPDIR"], tempfile.gettempdir()) == ("/wanted", before)
