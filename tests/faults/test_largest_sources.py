"""Originals of as many pixels as are allowed: each is rendered within the limits of a process, or refused in words."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import pyvips

from imgproxy.config.sections import LimitsSettings, RenderSettings
from imgproxy.errors import RenderOutOfMemory, TooManyPixels
from imgproxy.workers.process import RenderProcess
from tests.support import heif, images
from tests.support.workers import SMALL, Observer, job, pool_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Its processes are new: how much memory one has had is what these tests are about.
new_pool = partial(pool_of, process_class=RenderProcess)
# 12,800 x 10,000 pixels; the longest WebP is 16,383 wide.
WIDTH, HEIGHT = 12_800, 10_000
WEBP = (16_383, 7_812)


def scene(width: int = WIDTH, height: int = HEIGHT) -> Any:
    """A picture that is quick to encode: two gradients, and a third plane of both."""
    place = pyvips.Image.xyz(width, height)
    across, down = place[0] * (255 / width), place[1] * (255 / height)
    return across.bandjoin([down, (across + down) / 2]).cast("uchar").copy(interpretation="srgb")


def tiled_heic() -> bytes:
    """A HEIC of 500 tiles of 512 x 512, as iPhones write them."""
    luma = heif.picture(512, 512)[..., 0]
    tile = heif.coded([luma, luma[::2, ::2], luma[::2, ::2]], "420").hidden()
    whole = heif.grid(20, 25, WIDTH, HEIGHT, tuple(range(2, 502))).having(heif.nclx(matrix=heif.BT601))
    return heif.write(whole, *(tile for _ in range(500)))


FITTING: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: scene().jpegsave_buffer(Q=50),
    "progressive JPEG": lambda: scene().jpegsave_buffer(Q=50, interlace=True, subsample_mode="off"),
    "interlaced PNG": lambda: scene().pngsave_buffer(interlace=True, compression=1),
    "TIFF": lambda: scene().tiffsave_buffer(compression="deflate", tile=True),
    "WebP": lambda: scene(*WEBP).webpsave_buffer(Q=50, effort=0),
    "GIF": lambda: images.encode(bytes_of_grey(), "GIF"),
    "HEIC": tiled_heic,
}


def bytes_of_grey() -> Any:
    """One plane, H x W."""
    return scene()[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", FITTING)
async def test_the_largest_originals_are_rendered(tmp_path: Path, name: str) -> None:
    """An original at the limit of pixels is rendered by a process with the default limit of memory, on any machine."""
    original = tmp_path / "original"
    original.write_bytes(FITTING[name]())
    ear = Observer()
    async with new_pool(ear, timeout_s=120) as pool:
        report = await pool.render(job(original, SMALL))
        assert report.rendered[0].width_px == 64
        assert pool.restarts == 0
    assert ear.peak_bytes < RenderSettings().memory_bytes


@pytest.mark.slow
async def test_an_avif_that_is_too_large_for_the_memory_is_refused(tmp_path: Path) -> None:
    """An AVIF at the limit of pixels needs more memory than a process may use: refused, and the next one is made."""
    original = tmp_path / "original"
    original.write_bytes(scene().heifsave_buffer(compression="av1", effort=0, Q=30))
    async with new_pool(timeout_s=120, queue_timeout_s=30) as pool:
        with pytest.raises(RenderOutOfMemory):
            await pool.render(job(original, SMALL))
        original.write_bytes(images.cached_photo())
        assert (await pool.render(job(original, SMALL))).rendered[0].width_px == 64


async def test_one_row_more_is_refused(tmp_path: Path) -> None:
    """One row above the limit is refused before anything is decoded; Sony's 61 megapixels are far below it."""
    assert WIDTH * HEIGHT == LimitsSettings().source_pixels > 9504 * 6336
    original = tmp_path / "original"
    original.write_bytes(images.png_header(WIDTH, HEIGHT + 1))
    async with new_pool() as pool:
        with pytest.raises(TooManyPixels):
            await pool.render(job(original, SMALL))
