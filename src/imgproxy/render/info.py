"""
The answer of fm=json: it describes the source in imgix's form, without GPS and serial numbers.

EXIF is read from the bytes of the file, and only tags that `exif_names` has are shown.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from imgproxy.render import exif_names
from imgproxy.render.exif import COPYRIGHT, USER_COMMENT, read_comment
from imgproxy.render.face_windows import faces_in
from imgproxy.render.tagging import PROFILE_FIELD
from imgproxy.render.text import decode_text, one_line
from imgproxy.render.text_blocks import read_exif
from imgproxy.render.xmp import has_position
from imgproxy.workers.sniff import SourceKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproxy.render.directories import Value
    from imgproxy.render.recipe import Recipe
    from imgproxy.render.source import Source

# All other interpretations of libvips are RGB.
_MODELS: Final = {
    "b-w": "Gray",
    "grey16": "Gray",
    "cmyk": "CMYK",
    "lab": "Lab",
    "labs": "Lab",
}
_DEPTHS: Final = {"uchar": 8, "char": 8, "ushort": 16, "short": 16, "uint": 32, "int": 32, "float": 32, "double": 64}

# Bytes and numbers of a value that are shown.
_VALUE_MAX_BYTES: Final = 8_000
_NUMBERS_MAX: Final = 16

_ANIMATED: Final = {
    SourceKind.GIF: "GIF",
    SourceKind.WEBP: "WebP",
    SourceKind.PNG: "PNG",
    SourceKind.AVIF: "AVIF",
}
_MM_PER_INCH: Final = 25.4


def describe(source: Source, recipe: Recipe) -> bytes:
    """Return the JSON document: stored size, orientation, colour, resolution, EXIF, frames, and faces if asked for."""
    header = source.header
    document: dict[str, Any] = {
        "Content-Type": source.kind.value,
        "Content-Length": str(source.size_bytes),
        "PixelWidth": source.width_px,
        "PixelHeight": source.height_px,
        "Orientation": source.orientation,
        "Depth": _depth(source),
        "ColorModel": _MODELS.get(header.interpretation, "RGB"),
        "Output": {},
    }
    if source.has_alpha:
        document["HasAlpha"] = True
    dpi_x, dpi_y = header.xres * _MM_PER_INCH, header.yres * _MM_PER_INCH
    if dpi_x > _MM_PER_INCH * 1.001:  # libvips gives 1 pixel per millimetre if the file has no resolution
        document |= {"DPIWidth": round(dpi_x), "DPIHeight": round(dpi_y)}
    document |= _exif(source)
    profile = source.field(PROFILE_FIELD)
    if profile is not None and (name := profile_name(bytes(profile))):
        document["ProfileName"] = name
    if source.kind.value == "image/jpeg":
        document["JFIF"] = {"IsProgressive": bool(source.field("jpeg-multiscan"))}
    if source.is_animation:
        document["Output"] = {"Frames": source.pages}
        stored = source.field("delay") if source.reader is None else source.reader.delays_ms
        document[_ANIMATED[source.kind]] = {
            "DelayTime": source.delays_ms[0] / 1000,
            "UnclampedDelayTime": int(stored[0]) / 1000 if stored else 0.0,
            "LoopCount": source.loop,
        }
    if recipe.plan.output.has_faces:
        document["Faces"] = _faces(recipe)
    return json.dumps({k: v for k, v in document.items() if v not in ({}, None) or k == "Output"}).encode()


def _faces(recipe: Recipe) -> list[dict[str, Any]]:
    """Describe the faces in imgix's form: pixels of the upright picture, and the confidence in per cent."""
    boxes = faces_in(recipe.target.faces, recipe.upright)
    return [
        {
            "bounds": {"x": round(at.left), "y": round(at.top), "width": round(at.width), "height": round(at.height)},
            "confidence": round(100 * face.confidence),
        }
        for face, at in zip(recipe.target.faces, boxes, strict=True)
    ]


def _depth(source: Source) -> int:
    """Return the bits of a sample. libvips has the 10 and 12 bits of HEIF in a field of its own."""
    stated = source.field("bits-per-sample") if source.kind in (SourceKind.AVIF, SourceKind.HEIC) else None
    return int(stated or _DEPTHS.get(source.header.format, 8))


def _exif(source: Source) -> dict[str, dict[str, Any]]:
    """Return the tags that may be shown: IFD 0 (the picture) is called "TIFF", as imgix does it."""
    tables = exif_names.PICTURE, exif_names.CAMERA
    tags = read_exif(source, *(dict.fromkeys(table, _VALUE_MAX_BYTES) for table in tables))
    return {"Exif": _name(tags.camera, exif_names.CAMERA), "TIFF": _name(tags.picture, exif_names.PICTURE)}


def _name(tags: Mapping[int, Value], names: Mapping[int, str]) -> dict[str, Any]:
    shown = {names[tag]: _show(tag, value) for tag, value in tags.items()}
    return {
        name: value
        for name, value in shown.items()
        if value not in (None, "") and not (isinstance(value, str) and has_position(value))
    }


def _show(tag: int, value: Value) -> int | float | str | list[int | float] | None:
    """Return a value for JSON. A text ends at the first NUL; of the two parts of a copyright, all is shown."""
    if tag in exif_names.XP_TEXTS:
        return one_line(value.data.decode("utf-16-le", "replace").partition("\0")[0])
    if tag == USER_COMMENT:
        return one_line(read_comment(value))
    if value.is_text or tag in exif_names.VERSIONS:
        data = value.text_bytes
        return one_line(decode_text(data if tag == COPYRIGHT else data.partition(b"\0")[0]))
    numbers = value.numbers()
    if len(numbers) > _NUMBERS_MAX:
        return None
    return numbers[0] if len(numbers) == 1 else list(numbers) or None


def profile_name(profile: bytes) -> str:
    """Return the description in an ICC profile. Source: ICC.1:2022 7.3 (tag table), 10.15 (mluc); ICC.1:2001 6.5.17."""
    count = int.from_bytes(profile[128:132], "big")
    for n in range(min(count, 100)):
        entry = profile[132 + 12 * n : 144 + 12 * n]
        if entry[:4] != b"desc":
            continue
        at, size = int.from_bytes(entry[4:8], "big"), int.from_bytes(entry[8:12], "big")
        tag = profile[at : at + min(size, 1000)]
        if tag[:4] == b"desc":
            length = int.from_bytes(tag[8:12], "big")
            return one_line(decode_text(tag[12 : 12 + length].split(b"\0")[0]))
        if tag[:4] == b"mluc":
            length, start = int.from_bytes(tag[20:24], "big"), int.from_bytes(tag[24:28], "big")
            return one_line(tag[start : start + length].decode("utf-16-be", "replace").split("\0")[0])
    return ""
