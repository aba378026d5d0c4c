"""CONTRIBUTING.md: its map is that of the tree, and its recipes name files that exist."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tools.module_map import PAGE, REPOSITORY, SOURCE, with_map

if TYPE_CHECKING:
    from pathlib import Path

TEXT = PAGE.read_text("utf-8")


def test_the_map_has_every_module() -> None:
    """The map is what `python -m tools.module_map` writes."""
    assert with_map(TEXT) == TEXT, "run: python -m tools.module_map"


def test_a_page_without_markers_is_refused() -> None:
    """Without the marker lines nothing is replaced."""
    with pytest.raises(ValueError, match="needs the lines"):
        with_map("# Some page")


def test_every_file_that_is_named_exists() -> None:
    """Each path in backquotes is in the repository or in `src/imgproxy`."""
    named = re.findall(r"`([\w./]+(?:\.py|\.md|\.toml|/))`", TEXT)
    assert len(named) > 15
    bases: tuple[Path, ...] = (REPOSITORY, SOURCE)
    assert [name for name in named if not any((base / name).exists() for base in bases)] == []
