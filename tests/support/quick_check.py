"""`imgproxy check` without the processes that try libvips and OpenCV: most tests of it are of another line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from imgproxy.cli.findings import Finding


@pytest.fixture
def no_libraries_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `check` try neither library. Each try takes a process and 0.3 s of CPU."""
    from imgproxy.cli import check_machine  # not at the top: every run of pytest would import the command line

    async def try_nothing() -> list[Finding]:
        return []

    monkeypatch.setattr(check_machine, "try_libvips", try_nothing)
    monkeypatch.setattr(check_machine, "try_detector", try_nothing)
