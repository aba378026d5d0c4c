"""The pictures that are rendered: a photo of 6 MP, one of 24 MP, and smaller ones made from them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyvips

from benchmarks.machine import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DEMO_24MP = ROOT / "src/imgproxy/demo/photos/2026/03/14/harbour-at-dusk.jpg"
DEMO_ANIMATION = ROOT / "src/imgproxy/demo/photos/2026/03/15/rain-radar.gif"
SHEET_PX = (6000, 4000)
TILE_LEAST_PX = 250_000
SIX_MP = (4_500_000, 8_000_000)
TWENTY_FOUR_MP = (20_000_000, 30_000_000)


@dataclass(frozen=True, slots=True)
class Photos:
    """Files in one folder. Their names are the last part of keys."""

    folder: Path
    notes: tuple[str, ...]

    SIX = "six.jpg"
    TWENTY_FOUR = "twentyfour.jpg"
    DRAWING = "drawing.jpg"  # 24 MP, but a drawing: a fifth of a photo's bytes per pixel, in Display P3
    SMALL = "small.jpg"  # 1400 px: cheap to render, for rows that only need many variants
    ALPHA = "alpha.png"
    ANIMATION = "radar.gif"

    def path(self, name: str) -> Path:
        """Return the path of a photo."""
        return self.folder / name


def prepare(given: Path | None, folder: Path) -> Photos:
    """
    Collect the photos, from JPEGs of these sizes in the folder `given` if it has them.

    Without a JPEG of 24 MP, the PNG photos of the folder are laid out on a sheet of that size, which has the detail and
    the bytes per pixel of a camera's picture. Without PNGs, the demo's drawing is used. Without a JPEG of 6 MP, it is
    made from the 24 MP picture, at quality 90.
    """
    folder.mkdir(parents=True)
    notes = []
    shutil.copyfile(DEMO_24MP, folder / Photos.DRAWING)
    big = _find(given, TWENTY_FOUR_MP)
    sheet = _sheet(given) if big is None else None
    if sheet is not None:
        image, count = sheet
        image.jpegsave(str(folder / Photos.TWENTY_FOUR), Q=90, keep="none")
        size_bytes = (folder / Photos.TWENTY_FOUR).stat().st_size
        notes.append(f"24 MP: a sheet of {count} photos, each many times, quality 90, {size_bytes:,} bytes")
    else:
        shutil.copyfile(big or DEMO_24MP, folder / Photos.TWENTY_FOUR)
        notes.append(f"24 MP: {_describe(big or DEMO_24MP)}")
    big = folder / Photos.TWENTY_FOUR
    six = _find(given, SIX_MP)
    if six is not None:
        shutil.copyfile(six, folder / Photos.SIX)
        notes.append(f"6 MP: {_describe(six)}")
    else:
        pyvips.Image.thumbnail(str(big), 2725).jpegsave(str(folder / Photos.SIX), Q=90, keep="none")
        notes.append("6 MP: the 24 MP photo at 2,725 px, quality 90")
    source = str(folder / Photos.SIX)
    pyvips.Image.thumbnail(source, 1400).jpegsave(str(folder / Photos.SMALL), Q=85, keep="none")
    picture = pyvips.Image.thumbnail(source, 1200)
    mask = (pyvips.Image.xyz(picture.width, picture.height)[0] * (255 / picture.width)).cast("uchar")
    picture.bandjoin(mask).pngsave(str(folder / Photos.ALPHA), compression=6)
    shutil.copyfile(DEMO_ANIMATION, folder / Photos.ANIMATION)
    return Photos(folder, tuple(notes))


def _find(folder: Path | None, pixels: tuple[int, int]) -> Path | None:
    for path in sorted(folder.rglob("*.jp*g")) if folder is not None else []:
        image = pyvips.Image.new_from_file(str(path))
        if pixels[0] <= image.width * image.height <= pixels[1]:
            return path
    return None


def _sheet(folder: Path | None) -> tuple[pyvips.Image, int] | None:
    """Return a sheet of the PNG photos of a folder, and how many there are; None without photos."""
    tiles = []
    for path in sorted(folder.rglob("*.png")) if folder is not None else []:
        image = pyvips.Image.new_from_file(str(path))
        if image.bands == 3 and image.width * image.height >= TILE_LEAST_PX:
            tiles.append(image if image.width >= image.height else image.rot90())
    if not tiles:
        return None
    width, height = min(tile.width for tile in tiles), min(tile.height for tile in tiles)
    tiles = [tile.crop(0, 0, width, height).copy_memory() for tile in tiles]
    across, down = -(-SHEET_PX[0] // width), -(-SHEET_PX[1] // height)
    laid = [tiles[(number + number // across) % len(tiles)] for number in range(across * down)]
    laid = [tile.fliphor() if number % 3 == 1 else tile for number, tile in enumerate(laid)]
    return pyvips.Image.arrayjoin(laid, across=across).crop(0, 0, *SHEET_PX), len(tiles)


def _describe(path: Path) -> str:
    image = pyvips.Image.new_from_file(str(path))
    return f"{path.name}, {image.width} x {image.height}, {path.stat().st_size:,} bytes"
