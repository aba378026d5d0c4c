"""
Bytes and CPU of graphics: drawings, charts, screenshots, animations, in the formats that clients get.

    python benchmarks/graphics.py [--graphics DIR] [--before FILE] [--out benchmarks/results]

It renders the demo's graphics, a few that it draws itself, and every PNG, GIF and WebP of DIR, at full and half width,
and a pixel less than full width where there is a palette (then scaling brings many new colours in, and saves nothing):
without a format, as WebP, and with `auto=format` for a client that takes AVIF. It writes `graphics.json`. With
`--before`, the `graphics.json` of an older version, it also writes `graphics.md`, a table of both. To make that file,
run this script with the older version's `src` in PYTHONPATH.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path

os.environ["VIPS_CONCURRENCY"] = "1"

import pyvips

from imgproxy.params.plan import Format, Output, Px, RenderPlan, Resize
from imgproxy.render import pipeline, vips
from imgproxy.workers.job import ProcessLimits, RenderJob, RenderTarget

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "src/imgproxy/demo/photos"
LIMITS = ProcessLimits(memory_bytes=1_500_000_000, source_pixels=60_000_000, frames=256, output_px=8192)
COLOURS = ("#1f4e79", "#2e75b6", "#9dc3e6", "#c55a11", "#f4b183", "#548235", "#a9d18e", "#7f6000", "#ffd966", "#7030a0")


def draw(folder):
    """Draw a chart (with a palette of 16 colours, and in true colour) and a gradient."""
    heights = (120, 200, 180, 260, 310, 280, 350, 400, 380, 420)
    bars = "".join(
        f'<rect x="{60 + 70 * n}" y="{500 - height}" width="50" height="{height}" fill="{colour}"/>'
        f'<circle cx="{85 + 70 * n}" cy="{520}" r="9" fill="{colour}"/>'
        for n, (height, colour) in enumerate(zip(heights, COLOURS, strict=True))
    )
    lines = "".join(f'<path d="M50 {500 - 50 * n}H780" stroke="#bbb"/>' for n in range(10))
    text = f'<svg xmlns="http://www.w3.org/2000/svg" width="800" height="560">{lines}{bars}</svg>'
    chart = pyvips.Image.svgload_buffer(text.encode(), scale=1.5).flatten(background=255)
    chart.pngsave(str(folder / "chart-true-colour.png"))
    chart.pngsave(str(folder / "chart-16-colours.png"), palette=True, bitdepth=4, dither=0)
    chart.gifsave(str(folder / "chart.gif"), dither=0)
    place = pyvips.Image.xyz(800, 600)
    bands = [place[0] * 0.2 + place[1] * 0.1, place[1] * 0.3, 255 - place[0] * 0.25]
    gradient = bands[0].bandjoin(bands[1:]).cast("uchar").copy(interpretation="srgb")
    gradient.pngsave(str(folder / "gradient.png"))


def outputs():
    """Return the outputs to compare, as far as this version of the plan has their fields."""
    names = {field.name for field in dataclasses.fields(Output)}
    chosen = {"is_negotiated": True, "may_be_webp": True}
    return {
        "own format": Output(),
        "WebP": Output(format=Format.WEBP),
        "auto=format (AVIF)": Output(
            format=Format.AVIF, **{key: value for key, value in chosen.items() if key in names}
        ),
    }


def widths(path):
    """Return the full and the half width; of a picture with a palette also a pixel less than the full width."""
    image = pyvips.Image.new_from_file(str(path))
    return [image.width, *([image.width - 1] if image.get_typeof("palette") else []), image.width // 2]


def measure(path, plan, folder):
    """Return the bytes, the content type and the CPU milliseconds of one render."""
    target = folder / "out"
    done = []
    started = time.process_time()
    pipeline.run(RenderJob(str(path), (RenderTarget(plan, str(target)),)), LIMITS, lambda _, item: done.append(item))
    spent_ms = (time.process_time() - started) * 1000
    return {"bytes": done[0].size_bytes, "type": done[0].content_type.split("/")[1], "ms": round(spent_ms, 1)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    arguments.add_argument("--graphics", type=Path, help="folder of more graphics")
    arguments.add_argument("--before", type=Path, help="graphics.json of an older version")
    arguments.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    chosen = arguments.parse_args()
    vips.prepare()
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder)
        files = [*sorted(folder.iterdir()), *sorted(DEMO.rglob("*.gif")), *sorted(DEMO.rglob("*.png"))]
        if chosen.graphics is not None:
            files += sorted(item for item in chosen.graphics.iterdir() if item.suffix in (".png", ".gif", ".webp"))
        for path in files:
            for width_px in widths(path):
                row = {
                    title: measure(path, RenderPlan(resize=Resize(width=Px(width_px)), output=output), folder)
                    for title, output in outputs().items()
                }
                rows[f"{path.name} at {width_px} px"] = {"original": path.stat().st_size} | row
                print(path.name, width_px, row, flush=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "graphics.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if chosen.before is not None:
        before = json.loads(chosen.before.read_text(encoding="utf-8"))
        (chosen.out / "graphics.md").write_text(markdown(before, rows), encoding="utf-8")


def markdown(before, after):
    """Write the table of bytes before and after, with sums of bytes and CPU."""
    titles = list(outputs())
    lines = [
        "# Graphics",
        "",
        f"`python benchmarks/graphics.py --graphics DIR --before FILE`, {time.strftime('%Y-%m-%d')}. Bytes before and",
        "after, and the format after where it is another one. CPU is of the whole render, one run each.",
        "",
        "The charts and the gradient are drawn by the script. rain-radar and sun-and-showers are the demo's, own-photo",
        "is Kodak's photo 23 in 256 colours. The others are screenshots, icons and plots from free software: Go, Rust,",
        "Node.js, Tcl/Tk, libxslt, Adwaita, NetworkX. They are not in this repository.",
        "",
        "| picture | original | " + " | ".join(titles) + " |",
        "|---" * (2 + len(titles)) + "|",
    ]
    for name, row in after.items():
        cells = []
        for title in titles:
            old, new = before[name][title], row[title]
            kind = "" if old["type"] == new["type"] else f" {new['type']}"
            same = old["bytes"] == new["bytes"]
            cells.append(f"{new['bytes']:,}" if same else f"{old['bytes']:,} → {new['bytes']:,}{kind}")
        lines.append(f"| {name} | {row['original']:,} | {' | '.join(cells)} |")
    for label, unit in (("all, bytes", "bytes"), ("all, CPU ms", "ms")):
        sums = [[sum(item[name][title][unit] for name in after) for item in (before, after)] for title in titles]
        lines.append(f"| {label} | | {' | '.join(f'{old:,.0f} → {new:,.0f}' for old, new in sums)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
