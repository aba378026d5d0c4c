"""The answer of fm=json: it describes the source in imgix's form, without GPS and serial numbers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from imgproxy.render.face_windows import faces_in
from imgproxy.render.metadata import exif_text, is_private
from imgproxy.render.tagging import PROFILE_FIELD

if TYPE_CHECKING:
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

# Fields per EXIF directory. IFD 0 (the picture) is listed under "TIFF", IFD 2 (the camera) under "Exif", as by imgix.
_SHOWN_MAX: Final = 100
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
        "Depth": _DEPTHS.get(header.format, 8),
        "ColorModel": _MODELS.get(header.interpretation, "RGB"),
        "Output": {},
    }
    if source.has_alpha:
        document["HasAlpha"] = True
    dpi_x, dpi_y = header.xres * _MM_PER_INCH, header.yres * _MM_PER_INCH
    if dpi_x > _MM_PER_INCH * 1.001:  # libvips gives 1 pixel per millimetre if the file has no resolution
        document |= {"DPIWidth": round(dpi_x), "DPIHeight": round(dpi_y)}
    document |= {"Exif": _exif(header, 2), "TIFF": _exif(header, 0)}
    profile = source.field(PROFILE_FIELD)
    if profile is not None and (name := profile_name(bytes(profile))):
        document["ProfileName"] = name
    if source.kind.value == "image/jpeg":
        document["JFIF"] = {"IsProgressive": bool(source.field("jpeg-multiscan"))}
    if source.is_animation:
        document["Output"] = {"Frames": source.pages}
        stored = source.field("delay")
        document["GIF" if source.kind.value == "image/gif" else "WebP"] = {
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


def _exif(header: Any, ifd: int) -> dict[str, int | float | str]:
    prefix = f"exif-ifd{ifd}-"
    names = [name for name in header.get_fields() if name.startswith(prefix)]
    shown = [name for name in names if not is_private(name) or name.endswith("Orientation")][:_SHOWN_MAX]
    return {name.removeprefix(prefix): _number(exif_text(header, name)) for name in shown}


def _number(text: str) -> int | float | str:
    """Read a value in libvips' form, "72/1 (72, Rational, …". A fraction becomes a number."""
    text = text.split(" (", 1)[0]
    try:
        if "/" in text:
            above, below = text.split("/")
            return round(int(above) / int(below), 6)
        return int(text)
    except (ValueError, ZeroDivisionError):
        return text[:200]


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
            return tag[12 : 12 + length].split(b"\0")[0].decode("ascii", "replace")
        if tag[:4] == b"mluc":
            length, start = int.from_bytes(tag[20:24], "big"), int.from_bytes(tag[24:28], "big")
            return tag[start : start + length].decode("utf-16-be", "replace").split("\0")[0]
    return ""
