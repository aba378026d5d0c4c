"""
Scores of encoded photos: SSIMULACRA2, SSIM of luma, bits per pixel, CPU; and where two curves have the same score.

SSIMULACRA2 (Cloudinary): 90 is visually lossless, 70 high quality, 50 medium. It is computed by the package
`ssimulacra2` (`pip install --group bench`), which needs 1.3 s a megapixel.
"""

from __future__ import annotations

import io
import itertools

import numpy as np
import pyvips
from ssimulacra2 import compute_ssimulacra2

from benchmarks.machine import ROOT
from benchmarks.ssim import ssim
from imgproxy.params.plan import Format

WIDTHS_PX = (480, 768, 1200, 1600)
PER_WIDTH = 6  # pictures of one width
FORMATS = (Format.JPEG, Format.WEBP, Format.AVIF)
LUMA = (0.299, 0.587, 0.114)


def load(folder, per_width=PER_WIDTH):
    """Return (width, picture) of photos at every width that they have: those of the folder first, then the demo's."""
    paths = [*sorted(folder.iterdir()), *sorted((ROOT / "src/imgproxy/demo/photos").rglob("*.jpg"))]
    found = []
    for path in paths:
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp"):
            continue
        stored = pyvips.Image.new_from_file(str(path))
        for width_px in WIDTHS_PX:
            if stored.width < width_px or sum(item[0] == width_px for item in found) == per_width:
                continue
            image = pyvips.Image.thumbnail(str(path), width_px, height=10_000, export_profile="srgb")
            image = image.colourspace("srgb")
            found.append((width_px, (image.extract_band(0, n=3) if image.bands > 3 else image).copy_memory()))
    return found


def as_png(image):
    """Return a picture as an uncompressed PNG in memory, which the metric can read."""
    return io.BytesIO(image.pngsave_buffer(compression=0, keep=0))


def measure(photos, encode_one):
    """Return the means of score, SSIM, bits per pixel and ms per megapixel: within each width, then over widths."""
    by_width = {}
    for width_px, image in photos:
        data, spent_ms = encode_one(image)
        decoded = pyvips.Image.new_from_buffer(data, "").colourspace("srgb")
        decoded = decoded.extract_band(0, n=3) if decoded.bands > 3 else decoded
        score = compute_ssimulacra2(as_png(image), as_png(decoded))
        pairs = [np.dot(item.numpy().astype(np.float64), LUMA) for item in (image, decoded)]
        px = image.width * image.height
        figures = (score, ssim(*pairs), len(data) * 8 / px, spent_ms / px * 1e6)
        by_width.setdefault(width_px, []).append(figures)
    means = {width_px: np.mean(rows, axis=0) for width_px, rows in by_width.items()}
    score, likeness, bits, spent = np.mean(list(means.values()), axis=0)
    return {
        "ssimulacra2": round(float(score), 2),
        "ssim": round(float(likeness), 5),
        "bits_per_px": round(float(bits), 4),
        "ms_per_mp": round(float(spent), 1),
        "by_width": {width_px: round(float(row[0]), 2) for width_px, row in means.items()},
    }


def quality_at(curve, score, metric="ssimulacra2"):
    """Return the quality at which a curve has this score, linear between measured points."""
    points = sorted((quality, figure[metric]) for quality, figure in curve.items())
    for (q0, s0), (q1, s1) in itertools.pairwise(points):
        if s0 <= score <= s1:
            return q0 + (q1 - q0) * (score - s0) / ((s1 - s0) or 1)
    return points[0][0] if score < points[0][1] else points[-1][0]


def at(curve, quality, name):
    """Return a figure at a quality, linear between measured points."""
    return float(np.interp(quality, list(curve), [figure[name] for figure in curve.values()]))
