"""
What `q` means in each format: SSIMULACRA2, SSIM, bytes and CPU over the photos, from 480 to 1600 px.

    python -m benchmarks.quality --photos DIR [--out benchmarks/results] [--check | --compare [--peer NAME=URL]]

It takes every picture in DIR and the demo's JPEGs, at each width that is not wider than the picture. It encodes them
by the product's own settings for a range of encoder qualities, and writes `quality.json` and `quality.md`: for each
`q` of a JPEG, the WebP and AVIF qualities with the same mean SSIMULACRA2. They are EQUAL_QUALITY in
`imgproxy.render.encoders`.
`--check` measures the product's `q` instead: the mean SSIMULACRA2 of each format at the same `q`.
`--compare` starts imgproxy, ipx and thumbor, and takes any `--peer` (see benchmarks/README.md). It asks each for the
same pictures at several qualities, and writes `equal-quality.md` and `.json`: bytes and CPU of each format, at the
SSIMULACRA2 and the SSIM that imgproxy has at q=75.

SSIMULACRA2 (Cloudinary): 90 is visually lossless, 70 high quality, 50 medium. It is computed by the package
`ssimulacra2` (`pip install --group bench`), which needs 1.3 s a megapixel.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

os.environ["VIPS_CONCURRENCY"] = "1"

import numpy as np
import pyvips
from ssimulacra2 import compute_ssimulacra2

from benchmarks import peers
from benchmarks.bench import Bench, read_peers
from benchmarks.client import get
from benchmarks.encoders import machine, ssim
from benchmarks.photos import Photos
from benchmarks.servers import BenchError
from imgproxy.params.plan import Format
from imgproxy.render import encoders

ROOT = Path(__file__).resolve().parent.parent
WIDTHS_PX = (480, 768, 1200, 1600)
PER_WIDTH = 6  # pictures of one width
FORMATS = (Format.JPEG, Format.WEBP, Format.AVIF)
GRIDS = {
    Format.JPEG: (10, 20, 30, 45, 60, 75, 85, 90, 95, 100),
    Format.WEBP: (1, 10, 25, 40, 55, 65, 75, 85, 92, 100),
    Format.AVIF: (5, 20, 35, 45, 52, 60, 68, 78, 88, 97),
}


def load(folder):
    """Return (width, picture) of every photo at every width that it has."""
    paths = [*sorted(folder.iterdir()), *sorted((ROOT / "src/imgproxy/demo/photos").rglob("*.jpg"))]
    found = []
    for path in paths:
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp"):
            continue
        stored = pyvips.Image.new_from_file(str(path))
        for width_px in WIDTHS_PX:
            if stored.width < width_px or sum(item[0] == width_px for item in found) == PER_WIDTH:
                continue
            image = pyvips.Image.thumbnail(str(path), width_px, height=10_000, export_profile="srgb")
            image = image.colourspace("srgb")
            found.append((width_px, (image.extract_band(0, n=3) if image.bands > 3 else image).copy_memory()))
    return found


def as_png(image):
    """Return a picture as an uncompressed PNG in memory, which the metric can read."""
    return io.BytesIO(image.pngsave_buffer(compression=0, keep=0))


def encode(image, form, quality):
    """Encode by the product's settings with the encoder's own quality; return the bytes and the CPU milliseconds."""
    options = dict(encoders.SETTINGS[form])
    if form is Format.JPEG:
        options |= {"interlace": True, "subsample_mode": "on"}
    if form is Format.AVIF:
        options["effort"] = encoders.avif_effort(image.width * image.height)
    saver = {Format.JPEG: "jpegsave_buffer", Format.WEBP: "webpsave_buffer", Format.AVIF: "heifsave_buffer"}[form]
    started = time.process_time()
    data = getattr(image, saver)(Q=quality, keep=0, **options)
    return data, (time.process_time() - started) * 1000


def measure(photos, encode_one):
    """Return the means of score, SSIM, bits per pixel and ms per megapixel: within each width, then over widths."""
    by_width = {}
    for width_px, image in photos:
        data, spent_ms = encode_one(image)
        decoded = pyvips.Image.new_from_buffer(data, "").colourspace("srgb")
        decoded = decoded.extract_band(0, n=3) if decoded.bands > 3 else decoded
        score = compute_ssimulacra2(as_png(image), as_png(decoded))
        pairs = [np.dot(item.numpy().astype(np.float64), (0.299, 0.587, 0.114)) / 255 for item in (image, decoded)]
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


def calibrate(photos):
    """Measure the curves; return them, and a row (q, WebP quality, AVIF quality) for each measured `q`."""
    curves = {}
    for form, grid in GRIDS.items():
        for quality in grid:
            figure = measure(photos, lambda image, form=form, quality=quality: encode(image, form, quality))
            curves.setdefault(form, {})[quality] = figure
            print(form, quality, figure, flush=True)
    rows = []
    for q, figure in curves[Format.JPEG].items():
        others = [quality_at(curves[form], figure["ssimulacra2"]) for form in FORMATS[1:]]
        rows.append((q, *others))
    return curves, rows


def markdown(curves, rows, count):
    """Write the table of equal quality."""
    lines = [
        "# Equal quality",
        "",
        f"`python -m benchmarks.quality --photos DIR`, {time.strftime('%Y-%m-%d')}, {count} pictures of",
        f"{WIDTHS_PX[0]} to {WIDTHS_PX[-1]} px. {machine()}. Bits per pixel and CPU milliseconds per megapixel",
        "at the same mean SSIMULACRA2.",
        "",
        "| q | SSIMULACRA2 | JPEG: SSIM, bits, ms | WebP: q, SSIM, bits, ms | AVIF: q, SSIM, bits, ms |",
        "|---|---|---|---|---|",
    ]
    for q, webp, avif in rows:
        cells = []
        for form, quality in zip(FORMATS, (q, webp, avif), strict=True):
            ssim_at, bits, spent = (at(curves[form], quality, name) for name in ("ssim", "bits_per_px", "ms_per_mp"))
            own = "" if form is Format.JPEG else f"{quality:.1f}, "
            cells.append(f"{own}{ssim_at:.4f}, {bits:.3f}, {spent:.0f}")
        lines.append(f"| {q} | {curves[Format.JPEG][q]['ssimulacra2']:.1f} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def check(photos, qualities=(45, 60, 75, 85)):
    """Print what the product's `q` gives in each format."""
    for q in qualities:
        found = {}
        for form in FORMATS:
            number = encoders.encoder_quality(q, form)
            found[form] = measure(photos, lambda image, form=form, number=number: encode(image, form, number))
        scores = [figure["ssimulacra2"] for figure in found.values()]
        print(f"q={q} spread {max(scores) - min(scores):.2f}", flush=True)
        for form, figure in found.items():
            print(f"    {form:5} {figure}", flush=True)


# --- comparison -----------------------------------------------------------------------------------------------

COMPARED_AT = (45, 60, 75, 85, 95)
COMPARED_TO_PX = 768  # the widest pictures: the AVIFs of the peers take 5 s a megapixel


def ask(contestant, form, q, photos):
    """Return the figures of one contestant at one q, as `measure` does; the CPU is of whole renders from a PNG."""
    used_s = contestant.cpu_s() if contestant.cpu_s else 0.0
    answers = {}
    for number, (width_px, _) in enumerate(photos):
        answer = get(contestant.at(f"{number}.png", form.value, width_px, q))
        if answer.status != 200 or answer.headers.get("content-type") != f"image/{form.value}":
            raise BenchError(f"{answer.status} {answer.headers.get('content-type')}")
        answers[number] = answer.body
    spent_ms = (contestant.cpu_s() - used_s) * 1000 if contestant.cpu_s else float("nan")
    bodies = iter(answers.values())
    figure = measure(photos, lambda _: (next(bodies), 0.0))
    return figure | {"ms_per_mp": round(spent_ms / sum(image.width * image.height for _, image in photos) * 1e6, 1)}


def compare(photos, compared, folder):
    """Return the curves of every contestant: {format: {name: {q: figures}}}."""
    pictures = folder / "photos"
    pictures.mkdir()
    for number, (_, image) in enumerate(photos):
        image.pngsave(str(pictures / f"{number}.png"), compression=1, keep=0)
    bench = Bench(folder, Photos(pictures, ()), is_quick=True, rounds=1, memory_renders=0, peers=compared)
    found = {}
    notes = []
    with contextlib.ExitStack() as stack:
        contestants = [one for one in peers.start(bench, notes, stack) if not one.is_baseline]
        for form in FORMATS:
            for one in contestants:
                try:
                    curve = {q: ask(one, form, q, photos) for q in COMPARED_AT}
                except BenchError as error:
                    notes.append(f"{one.name} has no {form.value.upper()}: {error}")
                    continue
                found.setdefault(form.value, {})[one.name] = curve
                print(form.value, one.name, curve, flush=True)
    return found, notes


def compared_markdown(found, notes, count):
    """Write bytes and CPU at the quality of imgproxy's q=75, and the curves."""
    lines = ["# Bytes and CPU at equal quality", "", f"`python -m benchmarks.quality --compare`, {count} pictures,"]
    lines += [f"{time.strftime('%Y-%m-%d')}. {machine()}. CPU is of a whole render from a PNG, fetched over HTTP.", ""]
    lines += [f"- {note}" for note in notes]
    for metric in ("ssimulacra2", "ssim"):
        lines += ["", f"## At the {metric} of imgproxy's q=75", ""]
        lines += ["| format | server | q | bits/px | CPU ms/MP |", "|---|---|---|---|---|"]
        for form, servers in found.items():
            goal = servers[peers.OURS][75][metric]
            for name, curve in servers.items():
                q = quality_at(curve, goal, metric)
                bits, spent = (at(curve, q, figure) for figure in ("bits_per_px", "ms_per_mp"))
                lines.append(f"| {form} {goal:.4g} | {name.replace('|', '/')} | {q:.0f} | {bits:.3f} | {spent:.0f} |")
    lines += ["", "## Curves", "", "SSIMULACRA2 and bits per pixel at each q.", ""]
    lines += ["| format | server | " + " | ".join(map(str, COMPARED_AT)) + " |", "|---" * (2 + len(COMPARED_AT)) + "|"]
    for form, servers in found.items():
        for name, curve in servers.items():
            cells = [f"{curve[q]['ssimulacra2']:.1f}, {curve[q]['bits_per_px']:.3f}" for q in COMPARED_AT]
            lines.append(f"| {form} | {name.replace('|', '/')} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    arguments.add_argument("--photos", type=Path, required=True, help="folder of photos")
    arguments.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments.add_argument("--check", action="store_true", help="measure the product's q instead")
    arguments.add_argument("--compare", action="store_true", help="compare with peers at equal quality")
    arguments.add_argument("--peer", action="append", default=[], metavar="NAME=URL", help="see benchmarks/README.md")
    arguments.add_argument("--peer-pid", action="append", default=[], metavar="NAME=PID", help="its process")
    chosen = arguments.parse_args()
    compared = read_peers(chosen.peer, chosen.peer_pid)
    photos = load(chosen.photos)
    if chosen.compare:
        with tempfile.TemporaryDirectory() as name:
            photos = [item for item in photos if item[0] <= COMPARED_TO_PX]
            found, notes = compare(photos, compared, Path(name))
        (chosen.out / "equal-quality.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        text = compared_markdown(found, notes, len(photos))
        (chosen.out / "equal-quality.md").write_text(text, encoding="utf-8")
        print(text)
        return
    if chosen.check:
        check(photos)
        return
    curves, rows = calibrate(photos)
    document = {"machine": machine(), "pictures": len(photos), "curves": curves, "equal_quality": rows}
    (chosen.out / "quality.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (chosen.out / "quality.md").write_text(markdown(curves, rows, len(photos)), encoding="utf-8")
    print((chosen.out / "quality.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
