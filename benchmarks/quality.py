"""
What `q` means in each format: SSIMULACRA2, SSIM, bytes and CPU over the photos, from 480 to 1600 px.

    python -m benchmarks.quality --photos DIR [--out benchmarks/results] [--check] [--earlier FILE]

It takes every picture in DIR and the demo's JPEGs, at each width that is not wider than the picture. It encodes them
by the product's own settings for a range of encoder qualities, and writes `quality.json` and `quality.md`: for each
`q` of a JPEG, the WebP and AVIF qualities with the same mean SSIMULACRA2. They are EQUAL_QUALITY in
`imgproxy.render.encoders`.
With `--earlier`, the `quality.json` of a run over other photos, it takes the mean of both runs.
`--check` measures the product's `q` instead: the mean SSIMULACRA2 of each format at the same `q`.
The scores are those of `scores.py`. How servers compare at equal quality is measured by `encoders.py --compare`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ["VIPS_CONCURRENCY"] = "1"

from benchmarks.encoders import machine
from benchmarks.machine import ROOT
from benchmarks.scores import FORMATS, PER_WIDTH, WIDTHS_PX, at, load, measure, quality_at
from imgproxy.params.plan import Format
from imgproxy.render import encoders

GRIDS = {
    Format.JPEG: (10, 20, 30, 45, 60, 75, 85, 90, 95, 100),
    Format.WEBP: (1, 10, 25, 40, 55, 65, 75, 85, 92, 100),
    Format.AVIF: (5, 20, 35, 45, 52, 60, 68, 78, 88, 97),
}


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


def measure_curves(photos):
    """Return the figures of every format at every quality of its grid: {format: {quality: figures}}."""
    curves = {}
    for form, grid in GRIDS.items():
        for quality in grid:
            figure = measure(photos, lambda image, form=form, quality=quality: encode(image, form, quality))
            curves.setdefault(form, {})[quality] = figure
            print(form, quality, figure, flush=True)
    return curves


def mean_of(curves, earlier):
    """Return the mean of two runs over different photos: each counts as much as the other."""
    names = ("ssimulacra2", "ssim", "bits_per_px", "ms_per_mp")
    return {
        form: {
            quality: {name: (figure[name] + earlier[form.value][str(quality)][name]) / 2 for name in names}
            for quality, figure in curve.items()
        }
        for form, curve in curves.items()
    }


def find_rows(curves):
    """Return a row (q, WebP quality, AVIF quality) for each measured quality of a JPEG."""
    return [
        (q, *(quality_at(curves[form], figure["ssimulacra2"]) for form in FORMATS[1:]))
        for q, figure in curves[Format.JPEG].items()
    ]


def markdown(curves, rows, count, *, is_mean):
    """Write the table of equal quality."""
    lines = [
        "# Equal quality",
        "",
        f"`python -m benchmarks.quality --photos DIR`, {time.strftime('%Y-%m-%d')}, {count} pictures of",
        f"{WIDTHS_PX[0]} to {WIDTHS_PX[-1]} px{', the mean of two runs over different photos' if is_mean else ''}.",
        f"{machine()}.",
        "Bits per pixel and CPU milliseconds per megapixel at the same mean SSIMULACRA2.",
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


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    arguments.add_argument("--photos", type=Path, required=True, help="folder of photos")
    arguments.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments.add_argument("--check", action="store_true", help="measure the product's q instead")
    arguments.add_argument("--per-width", type=int, default=PER_WIDTH, help="pictures of each width")
    arguments.add_argument("--earlier", type=Path, help="quality.json of a run over other photos")
    chosen = arguments.parse_args()
    photos = load(chosen.photos, chosen.per_width)
    if chosen.check:
        check(photos)
        return
    curves, count = measure_curves(photos), len(photos)
    if chosen.earlier is not None:
        earlier = json.loads(chosen.earlier.read_text(encoding="utf-8"))
        curves, count = mean_of(curves, earlier["curves"]), count + earlier["pictures"]
    rows = find_rows(curves)
    document = {"machine": machine(), "pictures": count, "curves": curves, "equal_quality": rows}
    (chosen.out / "quality.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (chosen.out / "quality.md").write_text(
        markdown(curves, rows, count, is_mean=chosen.earlier is not None), encoding="utf-8"
    )
    print((chosen.out / "quality.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
