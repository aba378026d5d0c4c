"""The pictures that are rendered: a 6 MP and a 24 MP photo, and small ones made from them."""

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
SIX_MP = (4_500_000, 8_000_000)
TWENTY_FOUR_MP = (20_000_000, 30_000_000)


@dataclass(frozen=True, slots=True)
class Photos:
    """Files in one folder, by the names that are used as the last part of keys."""

    folder: Path
    notes: tuple[str, ...]

    SIX = "six.jpg"
    TWENTY_FOUR = "twentyfour.jpg"
    SMALL = "small.jpg"  # 1400 px: cheap to render, for rows that need many variants and measure none
    ALPHA = "alpha.png"
    ANIMATION = "radar.gif"

    def path(self, name: str) -> Path:
        """The file."""
        return self.folder / name


def prepare(given: Path | None, folder: Path) -> Photos:
    """
    Collect the photos: from the folder `given` where it has JPEGs of these sizes, else from the product's own.

    The bundled photo is 24 MP; the 6 MP one is then made from it, at quality 90.
    """
    folder.mkdir(parents=True)
    notes = []
    big = _find(given, TWENTY_FOUR_MP) or DEMO_24MP
    notes.append(f"24 MP: {_describe(big)}")
    shutil.copyfile(big, folder / Photos.TWENTY_FOUR)
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


def _describe(path: Path) -> str:
    image = pyvips.Image.new_from_file(str(path))
    return f"{path.name}, {image.width} x {image.height}, {path.stat().st_size:,} bytes"
