"""The main job through the whole service: the bundled 24-megapixel photo, compared with libvips' own result."""

import io
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image

from tests.support.site import site

KEY = "2026/03/14/harbour-at-dusk.jpg"
PHOTO = Path(__file__).parents[2] / "src" / "imgproxy" / "demo" / "photos" / KEY
WIDTH = 800


def own_result() -> np.ndarray:
    """libvips' thumbnail of the photo, 800 wide, converted from its Display P3 profile to sRGB."""
    image = pyvips.Image.thumbnail(str(PHOTO), WIDTH, height=10_000_000, export_profile="srgb")
    return np.asarray(image.numpy()[:, :, :3], dtype=np.float64)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [("image/avif,image/webp,*/*", "image/avif"), ("image/webp,*/*", "image/webp"), ("*/*", "image/jpeg")],
)
async def test_24_megapixels_are_rendered_like_libvips_and_cached(tmp_path: Path, accept: str, kind: str) -> None:
    """AVIF, WebP or JPEG by Accept; on average within 3 of 255 of libvips' result before encoding; the second is a hit."""
    async with site(tmp_path, pictures={KEY: PHOTO.read_bytes()}) as here:
        first = await here.get(f"/{KEY}?w={WIDTH}&auto=format", Accept=accept)
        second = await here.get(f"/{KEY}?w={WIDTH}&auto=format", Accept=accept)

    assert (first.status, first.headers["Content-Type"]) == (200, kind)
    assert first.cache_status.endswith("stored")
    assert second.cache_status.startswith("imgproxy; hit;")
    assert second.body == first.body
    expected = own_result()
    found = np.asarray(Image.open(io.BytesIO(first.body)).convert("RGB"), dtype=np.float64)
    assert found.shape == expected.shape == (533, WIDTH, 3)
    assert np.abs(found - expected).mean() < 3.0
