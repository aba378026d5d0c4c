"""
Makes the sample photos of `imgproxy demo` again. The pictures are in the repository, so nothing else needs this.

    pip download --no-deps --dest wheels scikit-image==0.26.0
    .venv/bin/python -m tools.photos.make_photos --wheel wheels/scikit_image-0.26.0-*.whl

It needs pillow and numpy, which are development dependencies. `harbour` (with `silhouettes`) and `graphics` paint three
of the pictures. The fourth one is read from the wheel; nothing is installed. PROVENANCE.txt names their authors.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image

import imgproxy.demo
from tools.photos.graphics import RADAR_FRAMES, draw_radar, draw_weather_symbol
from tools.photos.harbour import paint_harbour

PHOTOS = Path(imgproxy.demo.__file__).parent / "photos"
ASTRONAUT = "skimage/data/astronaut.png"
ASTRONAUT_SHA256 = "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"

# Display P3, adapted to D50, as ICC profiles store it (SMPTE EG 432-1 primaries, Bradford adaptation)
P3_RED, P3_GREEN, P3_BLUE = (0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)
D50 = (0.9642, 1.0, 0.8249)
D65_TO_D50 = (1.047882, 0.022919, -0.050201, 0.029587, 0.990479, -0.017059, -0.009232, 0.015076, 0.751678)
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # IEC 61966-2-1, as a parametric curve of type 3


@dataclass(frozen=True, slots=True)
class Credit:
    """The author and the credit line of a picture. They are written as EXIF, IPTC and XMP."""

    caption: str
    creator: str
    credit: str
    rights: str


def main() -> None:
    """Write the four pictures and print their sizes."""
    parser = argparse.ArgumentParser(description="Make the sample photos of the demo again.")
    parser.add_argument("--wheel", type=Path, required=True, help="scikit_image-0.26.0-*.whl, for the portrait")
    parser.add_argument("--folder", type=Path, default=PHOTOS, help="where to write them")
    options = parser.parse_args()
    folder: Path = options.folder
    made = (make_portrait(folder, options.wheel), make_harbour(folder), make_symbol(folder), make_radar(folder))
    for path in made:
        print(f"{path.stat().st_size:>9,} bytes  {path.relative_to(folder)}")  # noqa: T201 - the output of a script


def make_harbour(folder: Path) -> Path:
    """Make the photo with 24 megapixels, Display P3, credit, GPS position and a serial number."""
    credit = Credit(
        caption="The harbour at dusk, seen from the jetty",
        creator="imgproxy authors",
        credit="imgproxy/CC0",
        rights="CC0 1.0: no rights reserved",
    )
    exif = _exif(credit)
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.BodySerialNumber] = "SERIAL-0042"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:03:14 18:41:07"
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(
        {1: "N", 2: (54.0, 10.0, 33.0), 3: "E", 4: (7.0, 53.0, 32.0)}  # a public quay
    )
    path = _place(folder, "2026/03/14/harbour-at-dusk.jpg")
    paint_harbour(6000, 4000).save(
        path,
        quality=82,
        optimize=True,
        icc_profile=display_p3_profile(),
        exif=exif,
        xmp=_xmp(credit),
        extra=_iptc(credit),
    )
    return path


def make_portrait(folder: Path, wheel: Path) -> Path:
    """Make the portrait by NASA: cut to 3:4, stored on its side with Orientation 6, as a phone does."""
    with zipfile.ZipFile(wheel) as archive:
        source = archive.read(ASTRONAUT)
    if hashlib.sha256(source).hexdigest() != ASTRONAUT_SHA256:
        raise SystemExit(f"{ASTRONAUT} in {wheel.name} is not the file whose provenance was checked")
    credit = Credit(
        caption="Eileen Collins, the first woman to command a Space Shuttle",
        creator="NASA",
        credit="NASA",
        rights="Public domain",
    )
    exif = _exif(credit)
    exif[ExifTags.Base.Orientation] = 6
    upright = Image.open(io.BytesIO(source)).convert("RGB").crop((20, 0, 404, 512))
    path = _place(folder, "2026/03/14/eileen-collins.jpg")
    # A quarter turn to the left. Orientation 6 tells the viewer to turn it back.
    upright.transpose(Image.Transpose.ROTATE_90).save(
        path, quality=92, subsampling=0, optimize=True, exif=exif, xmp=_xmp(credit), extra=_iptc(credit)
    )
    return path


def make_symbol(folder: Path) -> Path:
    """Make the weather symbol, a PNG with transparency."""
    path = _place(folder, "graphics/sun-and-showers.png")
    draw_weather_symbol(1600, 1200).save(path, optimize=True)
    return path


def make_radar(folder: Path) -> Path:
    """Make the rain radar, a GIF of 24 frames; the last one stays longer."""
    frames = draw_radar(640, 480)
    palette = frames[RADAR_FRAMES // 2].quantize(16, dither=Image.Dither.NONE)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    path = _place(folder, "2026/03/15/rain-radar.gif")
    durations_ms = [120] * (RADAR_FRAMES - 1) + [600]
    indexed[0].save(path, save_all=True, append_images=indexed[1:], duration=durations_ms, loop=0, optimize=True)
    return path


def _place(folder: Path, key: str) -> Path:
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


# --- metadata ----------------------------------------------------------------------------------------------------


def _exif(credit: Credit) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = credit.caption
    exif[ExifTags.Base.Artist] = credit.creator
    exif[ExifTags.Base.Copyright] = credit.rights
    return exif


def _xmp(credit: Credit) -> bytes:
    """An XMP packet with Dublin Core's creator, rights and description, and Photoshop's Credit (ISO 16684-1)."""
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
 photoshop:Credit="{credit.credit}">
<dc:creator><rdf:Seq><rdf:li>{credit.creator}</rdf:li></rdf:Seq></dc:creator>
<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">{credit.rights}</rdf:li></rdf:Alt></dc:rights>
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{credit.caption}</rdf:li></rdf:Alt></dc:description>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>""".encode()


def _iptc(credit: Credit) -> bytes:
    """A JPEG APP13 segment with IPTC-IIM By-line, Credit, Copyright Notice and Caption (IIM 4.2, record 2)."""
    records = b""
    for dataset, text in ((80, credit.creator), (110, credit.credit), (116, credit.rights), (120, credit.caption)):
        value = text.encode()
        records += struct.pack(">BBBH", 0x1C, 2, dataset, len(value)) + value
    resource = b"8BIM" + struct.pack(">H2xI", 0x0404, len(records)) + records + b"\0" * (len(records) % 2)
    payload = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(payload) + 2) + payload


def display_p3_profile() -> bytes:
    """Return a minimal ICC profile for Display P3. It is our own work (ICC.1:2010, sections 8.3 and 10)."""
    curve = b"para" + struct.pack(">4xH2x", 3) + b"".join(_fixed(value) for value in SRGB_CURVE)
    tags: list[tuple[bytes, bytes]] = [
        (b"desc", _text("Display P3")),
        (b"cprt", _text("CC0 1.0")),
        (b"wtpt", _xyz(D50)),
        (b"chad", b"sf32" + bytes(4) + b"".join(_fixed(value) for value in D65_TO_D50)),
        (b"rXYZ", _xyz(P3_RED)),
        (b"gXYZ", _xyz(P3_GREEN)),
        (b"bXYZ", _xyz(P3_BLUE)),
    ]
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags:
        padded = data + bytes(-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += padded
    header = struct.pack(">I4sI4s4s4s", offset + len(body), bytes(4), 0x04200000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H4s", 2026, 3, 14, 0, 0, 0, b"acsp") + bytes(28) + b"".join(map(_fixed, D50))
    return header.ljust(128, b"\0") + table + body


def _fixed(value: float) -> bytes:
    """An s15Fixed16Number."""
    return struct.pack(">i", round(value * 65536))


def _xyz(value: tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, value))


def _text(value: str) -> bytes:
    """A multiLocalizedUnicodeType with one English record."""
    data = value.encode("utf-16-be")
    return b"mluc" + struct.pack(">4xII2s2sII", 1, 12, b"en", b"US", len(data), 28) + data


if __name__ == "__main__":
    main()
