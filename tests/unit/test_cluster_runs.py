"""Which runs over a cache directory have certainly ended: those that held the very lock that this run holds."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from imgproxy.cache import directory
from imgproxy.cache.runs import ENDED_MAX, Runs
from imgproxy.cache.spreading import Spreading
from tests.support.cache import opened

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from imgproxy.cache.cache import Cache


async def begin(cache: Cache, run: str) -> tuple[str, ...]:
    """Begin a run over an open cache, as a node does at its start. Return the runs that have ended."""
    return await Spreading(cache.journal).begin_run(run, cache.store.lock_name())


async def run_once(at: Path, run: str) -> tuple[str, ...]:
    """Begin a run and end it, without a word to anybody. Return the runs that had ended before."""
    async with opened(at) as cache:
        return await begin(cache, run)


async def test_the_run_before_over_the_same_lock_has_ended(tmp_path: Path) -> None:
    """The kernel has given its lock to this run. A first run knows of none."""
    assert await run_once(tmp_path, "first") == ()
    assert await run_once(tmp_path, "second") == ("first",)
    assert await run_once(tmp_path, "third") == ("first", "second")


async def test_runs_that_have_ended_are_named_for_a_while(tmp_path: Path) -> None:
    """Also if those in between have not reached the log. But not for ever."""
    names = [f"run-{number}" for number in range(ENDED_MAX + 3)]
    for name in names:
        ended = await run_once(tmp_path, name)
    assert ended == tuple(names[2:-1])


async def test_a_run_over_a_copy_does_not_take_the_first_one_for_ended(tmp_path: Path) -> None:
    """The run over the first directory lives. What had ended before the copy was made has ended there, too."""
    first, copy = tmp_path / "first", tmp_path / "copy"
    await run_once(first, "dead")
    async with opened(first) as cache:
        assert await begin(cache, "alive") == ("dead",)
        shutil.copytree(first, copy)
        assert await run_once(copy, "other") == ("dead",)
        assert await run_once(copy, "another") == ("dead", "other")


async def test_a_run_over_a_new_lock_does_not_take_the_first_one_for_ended(tmp_path: Path) -> None:
    """Somebody has deleted the file of the lock while its process lives. The kernel gives its inode to nobody."""
    async with opened(tmp_path) as cache:
        await begin(cache, "alive")
        (tmp_path / "journal.lock").unlink()
        assert await run_once(tmp_path, "other") == ()


async def test_after_a_restart_of_the_machine_nothing_is_certain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be another machine, and the first one may hang."""
    (tmp_path / "boot_id").write_text("another\n", "ascii")
    await run_once(tmp_path / "cache", "first")
    monkeypatch.setattr(directory, "_BOOT_ID", tmp_path / "boot_id")
    assert await run_once(tmp_path / "cache", "second") == ()


async def test_without_a_name_of_the_kernel_nothing_is_certain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems that are not Linux."""
    monkeypatch.setattr(directory, "_BOOT_ID", tmp_path / "none")
    await run_once(tmp_path / "cache", "first")
    assert await run_once(tmp_path / "cache", "second") == ()


async def test_what_another_program_wrote_says_nothing(tmp_path: Path) -> None:
    """Nor does a later version of this one, if it writes something else."""
    for text in ("", "[]", '{"run": "first"}', '{"run": "first", "lock": null, "ended": null}'):
        async with opened(tmp_path) as cache:
            await cache.journal.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", [("cluster_runs", text)])
            assert await begin(cache, "second") == ()


def test_a_run_is_never_its_own_past() -> None:
    """Whatever the journal says."""
    assert Runs("a", "lock", ("b", "a")).followed_by("a", "lock") == Runs("a", "lock", ("b",))


async def test_the_name_of_a_lock_is_that_of_its_file(tmp_path: Path) -> None:
    """There is none without an open cache."""
    async with opened(tmp_path) as cache:
        found = os.stat(tmp_path / "journal.lock")
        name = cache.store.lock_name()
        assert name is not None
        assert name.split()[1:] == [str(found.st_dev), str(found.st_ino)]
    assert cache.store.lock_name() is None
