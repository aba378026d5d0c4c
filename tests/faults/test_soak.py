"""The soak of `benchmarks/soak.py`, for 90 seconds. Memory and the journal need half an hour: `make soak`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.soak import soak, started

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
async def test_ninety_seconds_of_faults_under_load(tmp_path: Path) -> None:
    """No answer is from before a purge, nothing fails but on the full disk, and no descriptor or thread is leaked."""
    result = await soak(tmp_path, 90)

    counts, early, late = result["counts"], result["after_a_sixth"], result["at_the_end"]
    unmet = {name for name, is_met in result["goals"].items() if not is_met}
    assert unmet <= {"edge_resident_mb", "render_resident_mb", "threads", "journal_bytes"}, result
    assert late["threads"] <= early["threads"] + 10, "pools of threads may not have been full"
    assert min(counts[name] for name in ("GET 200", "GET 304", "purge 200", "killed", "slow readers")) > 0


@pytest.mark.slow
async def test_an_answer_from_before_a_purge_is_noticed(tmp_path: Path) -> None:
    """The control: answers of the generation that is there are old as soon as a later one counts as acknowledged."""
    (tmp_path / "cache").mkdir()
    async with started(tmp_path, tmp_path / "cache") as run:
        await run.visit()
        assert not run.old
        for picture in run.pictures:
            picture.acknowledged = 1
        await run.visit()
        assert len(run.old) == 1
        for _ in range(40):
            await run.purge()
        assert run.counts["purge 200"] == 40
        run.old.clear()
        run.pictures = [picture for picture in run.pictures if picture.written]
        for _ in range(10):
            await run.visit()
        assert not run.old
