"""
A comparison of encoder settings, and of what `q` means in each format: bytes, distance, milliseconds.

    python -m benchmarks.encoders --photos DIR [--out benchmarks/results] [--quick]
    python -m benchmarks.encoders --photos DIR --compare [--peer NAME=URL [--peer-pid NAME=PID]]

It takes every picture in DIR at 800 px width, and writes `encoders.md` (tables), `encoders.svg` (distance over bytes)
and `encoders.json` (the figures). Milliseconds are CPU time of one thread, medians of three runs.

The distance is DSSIM: 1/SSIM - 1 of L*a*b* planes over five scales, as in kornelski/dssim, here in NumPy. 0 means
equal, 0.001 hardly visible, 0.01 plainly visible. The calibration finds, for each `q` of a JPEG, the quality at which
another encoder has the same distance. What the product's `q` means is measured by SSIMULACRA2, in `quality.py`.

`--compare` compares servers at equal SSIMULACRA2 and SSIM instead: imgproxy, ipx, thumbor, and every `--peer` (see
benchmarks/README.md), over the photos of DIR and the demo's (`comparison.py`). It writes `equal-quality.md` (tables),
`equal-quality.svg` (curves) and `equal-quality.json`. It needs the packages of the group `bench`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

os.environ["VIPS_CONCURRENCY"] = "1"

import numpy as np
import pyvips

from benchmarks.bench import read_peers

WIDTH_PX = 800
SLOW_S = 0.5  # slower encodings are timed once: their times differ little
QUALITIES = (10, 20, 30, 40, 45, 50, 60, 70, 75, 80, 85, 90, 95, 98)

# Five scales with equal weights. The usual weights (Wang, Simoncelli, Bovik 2003) are for a viewing distance at which
# the finest detail hardly counts. Pages are read from nearer.
SCALES = 5


# --- distance -------------------------------------------------------------------------------------------------


def to_lab(rgb):
    """Return the L*a*b* planes of H x W x 3 sRGB bytes, each scaled to about 0-1."""
    v = rgb.astype(np.float64) / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = linear @ matrix.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    lab = np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)
    return lab / np.array([100.0, 220.0, 220.0]) + np.array([0.0, 0.5, 0.5])


def blur(plane):
    """Blur with a Gaussian of sigma 1.5 and 11 taps; return the valid part only."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    rows = sum(taps[i] * plane[i : plane.shape[0] - 10 + i] for i in range(11))
    return sum(taps[i] * rows[:, i : rows.shape[1] - 10 + i] for i in range(11))


def ssim(a, b):
    """Return the mean structural similarity of two planes of 0-1."""
    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


def halve(plane):
    """Halve a plane by the mean of 2 x 2 pixels."""
    h, w = plane.shape[0] // 2 * 2, plane.shape[1] // 2 * 2
    return (plane[:h:2, :w:2] + plane[1:h:2, :w:2] + plane[:h:2, 1:w:2] + plane[1:h:2, 1:w:2]) / 4


def dssim(original, other):
    """Return the DSSIM of two H x W x 3 sRGB pictures."""
    a, b = to_lab(original), to_lab(other)
    total = 0.0
    for band, band_weight in zip(range(3), (0.8, 0.1, 0.1), strict=True):
        x, y = a[..., band], b[..., band]
        for _ in range(SCALES):
            total += band_weight * ssim(x, y) / SCALES
            x, y = halve(x), halve(y)
    return max(0.0, 1 / total - 1)


# --- encoders -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Setting:
    """A saver of libvips and its options."""

    name: str
    saver: str
    options: dict

    def encode(self, image, quality):
        options = dict(self.options)
        if quality is not None:
            options["Q"] = quality
        return getattr(image, self.saver)(keep=0, **options)


AV1 = {"compression": "av1", "bitdepth": 8, "subsample_mode": "on"}
JPEG = Setting(
    "JPEG", "jpegsave_buffer", {"optimize_coding": True, "interlace": True, "quant_table": 3, "subsample_mode": "on"}
)
WEBP = Setting("WebP", "webpsave_buffer", {"effort": 2})
AVIF = Setting("AVIF", "heifsave_buffer", AV1 | {"effort": 1})
AVIF_FAST = Setting("AVIF, effort 0", "heifsave_buffer", AV1 | {"effort": 0})


def candidates():
    """Return the settings to compare, by format."""
    jpeg = {"optimize_coding": True, "interlace": True}
    avif = {"compression": "av1", "bitdepth": 8}
    return {
        "JPEG": [
            Setting("baseline, no optimisation", "jpegsave_buffer", {}),
            Setting("baseline, optimised tables", "jpegsave_buffer", {"optimize_coding": True}),
            Setting("progressive", "jpegsave_buffer", jpeg),
            Setting("progressive, trellis", "jpegsave_buffer", jpeg | {"trellis_quant": True}),
            Setting("progressive, quant table 3", "jpegsave_buffer", jpeg | {"quant_table": 3}),
            Setting(
                "progressive, trellis, overshoot, table 3",
                "jpegsave_buffer",
                jpeg | {"trellis_quant": True, "overshoot_deringing": True, "quant_table": 3},
            ),
            Setting(
                "progressive, all of mozjpeg",
                "jpegsave_buffer",
                jpeg | {"trellis_quant": True, "overshoot_deringing": True, "quant_table": 3, "optimize_scans": True},
            ),
        ],
        "WebP": [Setting(f"effort {n}", "webpsave_buffer", {"effort": n}) for n in range(7)]
        + [
            Setting("effort 4, smart subsample", "webpsave_buffer", {"effort": 4, "smart_subsample": True}),
            Setting("effort 4, preset photo", "webpsave_buffer", {"effort": 4, "preset": "photo"}),
            Setting("effort 4, smart deblock", "webpsave_buffer", {"effort": 4, "smart_deblock": True}),
        ],
        "AVIF": [Setting(f"effort {n}", "heifsave_buffer", avif | {"effort": n}) for n in range(5)]
        + [
            Setting("effort 2, 10 bit", "heifsave_buffer", avif | {"effort": 2, "bitdepth": 10}),
            Setting("effort 2, 4:4:4", "heifsave_buffer", avif | {"effort": 2, "subsample_mode": "off"}),
            Setting("effort 2, tune=iq", "heifsave_buffer", avif | {"effort": 2, "tune": "iq"}),
            Setting("effort 2, tune=ssim", "heifsave_buffer", avif | {"effort": 2, "tune": "ssim"}),
        ],
        "PNG": [
            Setting("compression 6", "pngsave_buffer", {"compression": 6}),
            Setting("compression 6, all filters", "pngsave_buffer", {"compression": 6, "filter": "all"}),
            Setting("compression 9, all filters", "pngsave_buffer", {"compression": 9, "filter": "all"}),
            Setting("compression 3, all filters", "pngsave_buffer", {"compression": 3, "filter": "all"}),
        ],
        "PNG8": [
            Setting(f"palette, effort {n}", "pngsave_buffer", {"palette": True, "effort": n}) for n in (1, 4, 7, 10)
        ],
        "GIF": [Setting(f"effort {n}", "gifsave_buffer", {"effort": n}) for n in (1, 4, 7, 10)],
    }


LOSSY_AT = {"JPEG": (75,), "WebP": (75,), "AVIF": (50,), "PNG": (None,), "PNG8": (None,), "GIF": (None,)}


@dataclass(frozen=True)
class Figure:
    """One setting over all photos: bits per pixel, mean DSSIM, milliseconds per megapixel."""

    bits_per_px: float
    distance: float
    ms_per_mp: float


def measure(setting, quality, photos, runs=3):
    """Encode every photo and compare it with its pixels."""
    bits, distances, times = [], [], []
    for image, pixels in photos:
        data, spent = b"", []
        for _ in range(runs):
            started = time.process_time()
            data = setting.encode(image, quality)
            spent.append(time.process_time() - started)
            if spent[-1] > SLOW_S:
                break
        decoded = pyvips.Image.new_from_buffer(data, "").colourspace("srgb")
        decoded = decoded.extract_band(0, n=3) if decoded.bands > 3 else decoded
        megapixels = image.width * image.height / 1e6
        bits.append(len(data) * 8 / 1e6 / megapixels)
        distances.append(dssim(pixels, decoded.cast("uchar").numpy()))
        times.append(statistics.median(spent) * 1000 / megapixels)
    return Figure(statistics.mean(bits), statistics.mean(distances), statistics.mean(times))


def load_photos(folder, limit=None):
    """Load every picture of a folder at WIDTH_PX, with its pixels."""
    found = []
    for path in sorted(Path(folder).iterdir())[:limit]:
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp"):
            continue
        image = pyvips.Image.thumbnail(str(path), WIDTH_PX, height=WIDTH_PX, size="down").colourspace("srgb")
        image = (image.extract_band(0, n=3) if image.bands > 3 else image).copy_memory()
        found.append((image, image.numpy()))
    return found


def equal_quality(curve, distance, lowest=1, highest=100):
    """Return the quality at which a curve has this distance. Curves fall, and are linear between their points."""
    points = sorted(curve.items())
    for (q0, d0), (q1, d1) in itertools.pairwise(points):
        if d1 <= distance <= d0:
            return q0 + (q1 - q0) * (d0 - distance) / (d0 - d1 or 1)
    return lowest if distance > points[0][1] else highest


# --- report ---------------------------------------------------------------------------------------------------


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    arguments.add_argument("--photos", required=True, help="folder of photos")
    arguments.add_argument("--out", default=str(Path(__file__).parent / "results"))
    arguments.add_argument("--curves-only", action="store_true", help="do not compare settings")
    arguments.add_argument("--quick", action="store_true", help="two photos, one run, fewer qualities")
    arguments.add_argument("--compare", action="store_true", help="compare servers at equal quality instead")
    arguments.add_argument("--peer", action="append", default=[], metavar="NAME=URL", help="see benchmarks/README.md")
    arguments.add_argument("--peer-pid", action="append", default=[], metavar="NAME=PID", help="its process")
    chosen = arguments.parse_args()
    if chosen.compare:
        compare(chosen)
        return
    photos = load_photos(chosen.photos, 2 if chosen.quick else None)
    runs = 1 if chosen.quick else 3
    qualities = (30, 50, 75, 90) if chosen.quick else QUALITIES

    tables = {}
    for family, settings in (candidates() if not chosen.curves_only else {}).items():
        for quality in LOSSY_AT[family]:
            for setting in settings:
                figure = measure(setting, quality, photos, runs)
                tables.setdefault(family, []).append((setting.name, quality, figure))
                print(f"{family:5} {setting.name:42} q={quality} {figure}", flush=True)

    grids = {
        JPEG: qualities,
        WEBP: (2, *range(5, 101, 10 if chosen.quick else 5)),
        AVIF: tuple(range(4, 101, 12 if chosen.quick else 6)),
        AVIF_FAST: tuple(range(4, 101, 12 if chosen.quick else 6)),
    }
    curves = {s.name: {q: measure(s, q, photos, 1) for q in grid} for s, grid in grids.items()}
    distances = {name: {q: f.distance for q, f in curve.items()} for name, curve in curves.items()}
    calibration = {
        q: {
            name: round(equal_quality(distances[name], distances["JPEG"][q]))
            for name in ("WebP", "AVIF", "AVIF, effort 0")
        }
        for q in qualities
    }
    out = Path(chosen.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "encoders.md").write_text(markdown(tables, curves, calibration, len(photos)))
    (out / "encoders.svg").write_text(plot(curves))
    (out / "encoders.json").write_text(as_json(tables, curves, calibration))
    print((out / "encoders.md").read_text())


def compare(chosen):
    """Compare servers, and print the tables."""
    from benchmarks import comparison  # noqa: PLC0415 - it needs the group `bench`

    compared = read_peers(chosen.peer, chosen.peer_pid)
    print(comparison.run(Path(chosen.photos), Path(chosen.out), compared, machine()))


def machine():
    """Describe the machine."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    libvips = ".".join(str(pyvips.version(n)) for n in range(3))
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, libvips {libvips}"


def bits_at(curve, quality):
    """Return the bits per pixel at a quality, linear between the measured ones."""
    return float(np.interp(quality, list(curve), [figure.bits_per_px for figure in curve.values()]))


def markdown(tables, curves, calibration, count):
    qualities = list(calibration)
    lines = [
        "# Encoders",
        "",
        f"`python -m benchmarks.encoders --photos DIR`, {time.strftime('%Y-%m-%d')}, {count} photos at {WIDTH_PX} px.",
        f"{machine()}. Bits per pixel, DSSIM (lower is nearer), CPU milliseconds per megapixel.",
        "",
    ]
    for family, rows in tables.items():
        lines += [f"## {family}", "", "| setting | q | bits/px | DSSIM | ms/MP |", "|---|---|---|---|---|"]
        lines += [
            f"| {name} | {'' if q is None else q} | {f.bits_per_px:.3f} | {f.distance:.5f} | {f.ms_per_mp:.0f} |"
            for name, q, f in rows
        ]
        lines.append("")
    lines += [
        "## Equal quality",
        "",
        "The `q` of a JPEG, its DSSIM, and the `q` of WebP and AVIF that give it, too.",
        "",
    ]
    lines += ["| q | DSSIM | bits/px | " + " | ".join(f"{name} | bits/px" for name in calibration[qualities[0]]) + " |"]
    lines += ["|" + "---|" * (3 + 2 * len(calibration[qualities[0]]))]
    for q, others in calibration.items():
        figure = curves["JPEG"][q]
        cells = [f"{n} | {bits_at(curves[name], n):.3f}" for name, n in others.items()]
        lines.append(f"| {q} | {figure.distance:.5f} | {figure.bits_per_px:.3f} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "![Distance over bytes](encoders.svg)", ""])


def as_json(tables, curves, calibration):
    document = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "tables": {family: [{"setting": n, "q": q, **vars(f)} for n, q, f in rows] for family, rows in tables.items()},
        "curves": {name: {q: vars(f) for q, f in curve.items()} for name, curve in curves.items()},
        "calibration": calibration,
    }
    return json.dumps(document, indent=1) + "\n"


def plot(curves):
    """Draw the distance over bits per pixel, both logarithmic, one line for each format."""
    width, height, left, bottom = 720, 440, 70, 50
    xs = [f.bits_per_px for c in curves.values() for f in c.values()]
    ys = [f.distance for c in curves.values() for f in c.values()]
    x0, x1, y0, y1 = (np.log10(v) for v in (min(xs), max(xs), min(ys), max(ys)))

    def place(x, y):
        across = left + (np.log10(x) - x0) / (x1 - x0) * (width - left - 20)
        return across, height - bottom - (np.log10(y) - y0) / (y1 - y0) * (height - bottom - 20)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<style>text { font-size: 12px }</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{width / 2}" y="{height - 10}" text-anchor="middle">bits per pixel (logarithmic)</text>',
        f'<text x="16" y="{height / 2}" transform="rotate(-90 16 {height / 2})" text-anchor="middle">DSSIM</text>',
    ]
    for tick in (0.1, 0.2, 0.5, 1, 2, 5):
        if min(xs) <= tick <= max(xs):
            x, _ = place(tick, min(ys))
            parts.append(f'<path d="M{x:.1f} 20V{height - bottom}" stroke="#ddd"/>')
            parts.append(f'<text x="{x:.1f}" y="{height - bottom + 16}" text-anchor="middle">{tick}</text>')
    for tick in (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1):
        if min(ys) <= tick <= max(ys):
            _, y = place(min(xs), tick)
            parts.append(f'<path d="M{left} {y:.1f}H{width - 20}" stroke="#ddd"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
    for (name, curve), color in zip(curves.items(), ("#c0392b", "#2471a3", "#1e8449", "#7dcea0"), strict=False):
        points = [place(f.bits_per_px, f.distance) for f in curve.values()]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in points]
        row = 40 + 18 * len([part for part in parts if part.startswith("<polyline")])
        parts.append(f'<text x="{width - 140}" y="{row}" fill="{color}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    main()
