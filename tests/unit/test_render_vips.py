"""Which versions of libvips a render process starts with."""

from __future__ import annotations

import pytest

from imgproxy.render import vips


@pytest.mark.parametrize("found", ["8.15.0", "8.18.7", "9.0.0", "10.1.2", vips.version()])
def test_a_version_that_can_write_variants_is_taken(found: str) -> None:
    """So is the one that is installed here."""
    assert vips.version_problem(found) is None


@pytest.mark.parametrize("found", ["8.14.1", "8.9.2", "7.42.3"])
def test_an_older_one_is_refused_with_what_to_do(found: str) -> None:
    """With it, every picture would be answered as damaged."""
    problem = vips.version_problem(found)

    assert problem is not None
    assert found in problem
    assert "8.15" in problem
    assert "pyvips-binary" in problem
