"""The bare loop that the benchmarks compare renders with."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from benchmarks import bare
from tests.support import images

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("form", ["jpeg", "webp", "avif"])
def test_the_bare_loop_makes_each_format(tmp_path: Path, form: str) -> None:
    """It uses the product's own encoders, so it breaks with them; then a test says so, and not a benchmark."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(images.jpeg(images.quarters(64, 48)))
    with Image.open(io.BytesIO(bare.render(str(path), 32, form, 75))) as made:
        assert (made.format or "").lower() == form
        assert made.size == (32, 24)
