"""
Pictures for tests: made here, with known pixels, in every format that is loaded.

Everything is NumPy and Pillow, so that what the tests expect does not come from the library under test. Arrays are
H x W x bands, uint8 unless a name says otherwise.
"""

from __future__ import annotations

import functools
import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pyvips
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Floats = NDArray[np.float64]


# --- pixels ---------------------------------------------------------------------------------------------------


def photo(width: int = 320, height: int = 240, seed: int = 1) -> Pixels:
    """Something like a photo: soft gradients, a few hard edges, a little noise; every corner differs."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x, y = x / width, y / height
    red = 0.5 + 0.4 * np.sin(3 * x + 1.5 * y)
    green = 0.2 + 0.6 * x * (1 - 0.5 * y)
    blue = 0.8 - 0.6 * y + 0.1 * np.cos(9 * x * y)
    found = np.stack([red, green, blue], axis=-1)
    found[(x - 0.3) ** 2 + (y - 0.6) ** 2 < 0.02] = (0.9, 0.8, 0.1)
    found[(abs(x - 0.75) < 0.08) & (abs(y - 0.3) < 0.15)] = (0.1, 0.15, 0.5)
    found += np.random.default_rng(seed).normal(0, 0.01, found.shape)
    pixels: Pixels = (np.clip(found, 0, 1) * 255).round().astype(np.uint8)
    return pixels


def quarters(width: int = 64, height: int = 48) -> Pixels:
    """Red, green, blue and white quarters, clockwise from the top left: no two orientations look alike."""
    found = np.zeros((height, width, 3), np.uint8)
    found[: height // 2, : width // 2] = (220, 30, 30)
    found[: height // 2, width // 2 :] = (30, 200, 30)
    found[height // 2 :, width // 2 :] = (30, 30, 220)
    found[height // 2 :, : width // 2] = (250, 250, 250)
    return found


def with_alpha(pixels: Pixels) -> Pixels:
    """Add alpha: opaque on the left, half on the right, nothing in a disc whose hidden colour is garish."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    alpha = np.where(x < width / 2, 255, 128).astype(np.uint8)
    hole = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (min(width, height) / 4) ** 2
    found = np.dstack([pixels, alpha])
    found[hole] = (255, 0, 255, 0)
    return found


# --- files ----------------------------------------------------------------------------------------------------


def encode(pixels: NDArray[Any], kind: str, mode: str | None = None, **options: Any) -> bytes:
    """Encode with Pillow. `kind` is Pillow's format name."""
    out = io.BytesIO()
    image = Image.fromarray(pixels) if mode is None else Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
    image.save(out, kind, **options)
    return out.getvalue()


def jpeg(pixels: Pixels, quality: int = 95, **options: Any) -> bytes:
    """A JPEG without chroma subsampling."""
    return encode(pixels, "JPEG", quality=quality, subsampling=0, **options)


def png(pixels: NDArray[Any], **options: Any) -> bytes:
    """A PNG, lossless."""
    return encode(pixels, "PNG", **options)


def exif(orientation: int) -> bytes:
    """An EXIF block with an orientation alone."""
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


def animation(kind: str, frames: list[Pixels], durations_ms: list[int], loop: int = 0) -> bytes:
    """An animated GIF or WebP (lossless)."""
    out = io.BytesIO()
    images = [Image.fromarray(frame) for frame in frames]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {"optimize": False}
    images[0].save(
        out, kind, save_all=True, append_images=images[1:], duration=durations_ms, loop=loop, disposal=1, **options
    ) if kind == "GIF" else images[0].save(
        out, kind, save_all=True, append_images=images[1:], duration=durations_ms, loop=loop, **options
    )
    return out.getvalue()


def decode(data: bytes) -> NDArray[Any]:
    """The pixels of an encoded picture, by Pillow, orientation and profile ignored."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        if image.mode == "P":
            return np.asarray(image.convert("RGBA" if "transparency" in image.info else "RGB"))
        return np.asarray(image)


def vips_profile(name: str) -> bytes:
    """One of the profiles that libvips carries: srgb, p3 (display P3), cmyk (a press)."""
    return bytes(pyvips.Operation.call("profile_load", name))


# --- hostile files --------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises these dimensions; hardly any data follows."""
    return _png_chunks(width, height, b"\x78\x9c\x63\x00\x00\x00\x01\x00\x01")


def png_bomb(width: int, height: int) -> bytes:
    """A complete 8-bit grey PNG of zeros: a few kilobytes a hundred megapixels."""
    import zlib

    packer = zlib.compressobj(9)
    row = bytes(width + 1)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return _png_chunks(width, height, body, color=0)


def _png_chunks(width: int, height: int, body: bytes, color: int = 2) -> bytes:
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def gif_of_many_frames(count: int) -> bytes:
    """A GIF of `count` frames of 8 x 8 pixels; nineteen bytes a frame."""
    head = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x02\x06\x84\x8f\xa9\xcb\xed\x0f\x00"
    return head + frame * count + b"\x3b"


# --- distances ------------------------------------------------------------------------------------------------


def mean_difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The mean absolute difference, in levels of 0-255."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).mean())


def largest_difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The largest absolute difference of any value."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())


def ssim(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The mean structural similarity of two pictures' luma (Wang et al. 2004: sigma 1.5, 11 taps)."""
    x, y = _luma(a), _luma(b)
    mean_x, mean_y = _soften(x), _soften(y)
    var_x, var_y = _soften(x * x) - mean_x**2, _soften(y * y) - mean_y**2
    covariance = _soften(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def _luma(pixels: NDArray[Any]) -> Floats:
    values = pixels.astype(np.float64)
    return values if values.ndim == 2 else values[..., :3] @ np.array([0.299, 0.587, 0.114])


def _soften(plane: Floats) -> Floats:
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    rows = sum(taps[i] * plane[i : plane.shape[0] - 10 + i] for i in range(11))
    found: Floats = sum(taps[i] * rows[:, i : rows.shape[1] - 10 + i] for i in range(11))
    return found


def delta_e_2000(first: NDArray[Any], second: NDArray[Any]) -> Floats:
    """CIEDE2000 of two arrays of 8-bit sRGB, per pixel. Source: Sharma, Wu, Dalal (2005), equations 2 to 22."""
    l1, a1, b1 = np.moveaxis(to_lab(first), -1, 0)
    l2, a2, b2 = np.moveaxis(to_lab(second), -1, 0)
    return ciede2000((l1, a1, b1), (l2, a2, b2))


def ciede2000(first: Any, second: Any) -> Floats:
    """CIEDE2000 of two colours given as L*, a*, b* (numbers or arrays)."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    c_mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(c_mean**7 / (c_mean**7 + 25.0**7)))
    a1p, a2p = (1 + g) * a1, (1 + g) * a2
    c1, c2 = np.hypot(a1p, b1), np.hypot(a2p, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1p)) % 360, np.degrees(np.arctan2(b2, a2p)) % 360
    dh = np.where(np.abs(h2 - h1) <= 180, h2 - h1, np.where(h2 > h1, h2 - h1 - 360, h2 - h1 + 360))
    dh = np.where(c1 * c2 == 0, 0, dh)
    d_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(dh / 2))
    l_mean, cp = (l1 + l2) / 2, (c1 + c2) / 2
    total = h1 + h2
    h_mean = np.where(np.abs(h1 - h2) <= 180, total / 2, np.where(total < 360, total / 2 + 180, total / 2 - 180))
    h_mean = np.where(c1 * c2 == 0, total, h_mean)
    t = (
        1
        - 0.17 * np.cos(np.radians(h_mean - 30))
        + 0.24 * np.cos(np.radians(2 * h_mean))
        + 0.32 * np.cos(np.radians(3 * h_mean + 6))
        - 0.20 * np.cos(np.radians(4 * h_mean - 63))
    )
    s_l = 1 + 0.015 * (l_mean - 50) ** 2 / np.sqrt(20 + (l_mean - 50) ** 2)
    s_c, s_h = 1 + 0.045 * cp, 1 + 0.015 * cp * t
    rotation = -np.sin(np.radians(60 * np.exp(-(((h_mean - 275) / 25) ** 2)))) * 2 * np.sqrt(cp**7 / (cp**7 + 25.0**7))
    x, y, z = (l2 - l1) / s_l, (c2 - c1) / s_c, d_hue / s_h
    found: Floats = np.sqrt(np.maximum(0, x**2 + y**2 + z**2 + rotation * y * z))
    return found


def to_lab(pixels: NDArray[Any]) -> Floats:
    """CIE L*a*b* (D65) of 8-bit sRGB."""
    v = pixels.astype(np.float64) / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = linear @ matrix.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    found: Floats = np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1
    )
    return found


@functools.cache
def cached_photo() -> bytes:
    """The photo as a JPEG of 640 x 480, for tests that only need some picture."""
    return jpeg(photo(640, 480))
