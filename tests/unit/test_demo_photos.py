"""The bundled sample photos are what PROVENANCE.txt and the demo's URLs say they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pyvips

import imgproxy

PHOTOS = Path(imgproxy.__file__).parent / "demo" / "photos"
HARBOUR = "2026/03/14/harbour-at-dusk.jpg"
PORTRAIT = "2026/03/14/eileen-collins.jpg"
SYMBOL = "graphics/sun-and-showers.png"
RADAR = "2026/03/15/rain-radar.gif"
PICTURES = {HARBOUR, PORTRAIT, SYMBOL, RADAR}
NEEDS_PROVENANCE = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".avif", ".tif", ".svg"}


def _load(key: str, **options: object) -> pyvips.Image:
    return pyvips.Image.new_from_file(str(PHOTOS / key), **options)


def _mean_rgb(image: pyvips.Image, left: int, top: int) -> list[float]:
    spot = image.crop(left, top, 30, 30)
    return [spot[band].avg() for band in range(3)]


def test_provenance_names_every_picture_and_no_other() -> None:
    """Each picture has an entry in PROVENANCE.txt, and each entry a picture."""
    shipped = {path.relative_to(PHOTOS).as_posix() for path in PHOTOS.rglob("*") if path.suffix in NEEDS_PROVENANCE}
    text = (PHOTOS / "PROVENANCE.txt").read_text()
    assert shipped == set(re.findall(r"^(\S+\.(?:jpg|png|gif))  ", text, re.MULTILINE))
    assert shipped == PICTURES


def test_photos_stay_small_enough_to_ship() -> None:
    """All four together stay under 5 MB, and the large one under 3 MB."""
    sizes = {key: (PHOTOS / key).stat().st_size for key in PICTURES}
    assert sum(sizes.values()) < 5_000_000
    assert sizes[HARBOUR] < 3_000_000


@pytest.mark.parametrize("key", sorted(PICTURES))
def test_each_photo_decodes_to_the_last_pixel(key: str) -> None:
    """libvips reads each picture completely, with every warning treated as an error."""
    image = _load(key, fail_on="warning", access="sequential")
    assert image.avg() > 0


def test_harbour_has_24_megapixels_in_a_wide_gamut() -> None:
    """The large JPEG carries a Display P3 profile that a conversion to sRGB really uses."""
    image = _load(HARBOUR)
    assert (image.width, image.height, image.bands) == (6000, 4000, 3)
    spot = image.crop(3200, 2000, 200, 60)  # the orange above the hills
    converted = spot.icc_transform("srgb", embedded=True)
    stored, shown = spot.stats(), converted.stats()
    assert shown(4, 1)[0] - stored(4, 1)[0] > 5  # more red in sRGB's numbers: the colour lies further out
    assert shown(4, 2)[0] < stored(4, 2)[0]


def test_harbour_carries_credit_and_secrets() -> None:
    """The metadata has something to keep (credit, rights) and something to remove (GPS, serial number)."""
    image = _load(HARBOUR)
    assert "imgproxy authors" in image.get("exif-ifd0-Artist")
    assert b"imgproxy/CC0" in image.get("iptc-data")
    assert b'photoshop:Credit="imgproxy/CC0"' in image.get("xmp-data")
    assert "SERIAL-0042" in image.get("exif-ifd2-BodySerialNumber")
    assert "54/1" in image.get("exif-ifd3-GPSLatitude")


def test_portrait_stands_upright_only_after_its_orientation_is_applied() -> None:
    """Stored on its side with Orientation 6; upright, the suit is on the left and the visor at the bottom right."""
    image = _load(PORTRAIT)
    assert (image.width, image.height, image.get("orientation")) == (512, 384, 6)
    upright = image.autorot()
    assert (upright.width, upright.height) == (384, 512)
    assert _mean_rgb(upright, 80, 270) == pytest.approx([226, 109, 69], abs=4)  # the orange suit
    assert _mean_rgb(upright, 290, 450) == pytest.approx([0, 0, 0], abs=2)  # the black visor


def test_symbol_is_transparent_opaque_and_everything_between() -> None:
    """The PNG has an alpha channel with nothing, everything, and soft glows in between."""
    image = _load(SYMBOL)
    assert (image.width, image.height, image.bands) == (1600, 1200, 4)
    levels = image[3].hist_find()
    used = [level for level in range(256) if levels(level, 0)[0] > 0]
    assert used[0] == 0
    assert used[-1] == 255
    assert len(used) > 150
    assert image(0, 0)[3] == 0
    assert image(800, 700)[3] == 255  # the cloud


def test_radar_is_an_endless_animation_of_24_different_frames() -> None:
    """The GIF has 24 frames, no two alike, its delays, and an endless loop."""
    image = _load(RADAR, n=-1)
    assert (image.width, image.get("page-height"), image.get("n-pages"), image.get("loop")) == (640, 480, 24, 0)
    assert image.get("delay") == [120] * 23 + [600]
    frames = {bytes(image.crop(0, 480 * number, 640, 480).write_to_memory()) for number in range(24)}
    assert len(frames) == 24
