"""
Servers compared at equal quality: bytes and CPU of each format, as a table and as curves.

imgproxy, ipx, thumbor and every `--peer` get the same pictures over HTTP, and are asked for each at several qualities.
The tables have bytes and CPU at the SSIMULACRA2, and at the SSIM, that imgproxy has at q=75. `benchmarks/encoders.py
--compare` runs it.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from pathlib import Path

from benchmarks import peers, plots
from benchmarks.bench import Bench
from benchmarks.client import get
from benchmarks.photos import Photos
from benchmarks.scores import FORMATS, at, load, measure, quality_at
from benchmarks.servers import BenchError

COMPARED_AT = (45, 60, 75, 85, 95)
COMPARED_PER_WIDTH = 4
COMPARED_TO_PX = 768  # the widest pictures: the AVIFs of the peers take 5 s a megapixel
ENOUGH_CPU_S, TURNS_MAX = 1.5, 5


def ask(contestant, form, q, photos):
    """
    Return the figures of one contestant at one q, as `measure` does; the CPU is of whole renders from a PNG.

    The pictures are asked for until the CPU is ENOUGH_CPU_S, as it is counted in ticks of 10 ms.
    """
    total_px = sum(image.width * image.height for _, image in photos)
    used_s = contestant.cpu_s() if contestant.cpu_s else float("nan")
    bodies, spent_ms = [], float("nan")
    for turn in range(1, TURNS_MAX + 1):
        answers = [_fetch(contestant, form, q, number, width_px) for number, (width_px, _) in enumerate(photos)]
        bodies = bodies or answers
        spent_s = contestant.cpu_s() - used_s if contestant.cpu_s else float("nan")
        spent_ms = spent_s * 1000 / turn
        if not spent_s < ENOUGH_CPU_S:
            break
    left = iter(bodies)
    figure = measure(photos, lambda _: (next(left), 0.0))
    return figure | {"ms_per_mp": round(spent_ms / total_px * 1e6, 1)}


def _fetch(contestant, form, q, number, width_px):
    answer = get(contestant.at(f"{number}.png", form.value, width_px, q))
    if answer.status != 200 or answer.headers.get("content-type") != f"image/{form.value}":
        raise BenchError(f"{answer.status} {answer.headers.get('content-type')}")
    return answer.body


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
                    _fetch(one, form, COMPARED_AT[0], 0, photos[0][0])  # what is only done once is not counted
                    curve = {q: ask(one, form, q, photos) for q in COMPARED_AT}
                except BenchError as error:
                    notes.append(f"{one.name} has no {form.value.upper()}: {error}")
                    continue
                found.setdefault(form.value, {})[one.name] = curve
                print(form.value, one.name, curve, flush=True)
    return found, notes


def markdown(found, notes, count, machine):
    """Write bytes and CPU at the quality of imgproxy's q=75, and the curves."""
    lines = [
        "# Bytes and CPU at equal quality",
        "",
        f"`python -m benchmarks.encoders --photos DIR --compare`, {count} pictures of up to",
    ]
    lines += [f"{COMPARED_TO_PX} px, {time.strftime('%Y-%m-%d')}. {machine}.", ""]
    lines += ["CPU is of a whole render from a PNG, fetched over HTTP, with what the server does beside encoding.", ""]
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
    return "\n".join([*lines, "", "![SSIMULACRA2 over bits per pixel](equal-quality.svg)", ""])


def plot(found):
    """Draw SSIMULACRA2 over bits per pixel and over CPU, a panel for each format, a line for each server."""
    panels = []
    for form, servers in found.items():
        for figure, across in (("bits_per_px", "bits per pixel"), ("ms_per_mp", "CPU ms per megapixel")):
            lines = {
                name: [(point[figure], point["ssimulacra2"]) for point in curve.values()]
                for name, curve in servers.items()
            }
            panels.append(plots.Panel(f"{form.upper()}: SSIMULACRA2 over {across}", lines))
    return plots.panels(panels)


def run(folder, out, compared, machine):
    """Compare all servers over the photos of a folder and the demo's, and write the results."""
    photos = [item for item in load(folder, COMPARED_PER_WIDTH) if item[0] <= COMPARED_TO_PX]
    with tempfile.TemporaryDirectory() as name:
        found, notes = compare(photos, compared, Path(name))
    text = markdown(found, notes, len(photos), machine)
    out.mkdir(parents=True, exist_ok=True)
    (out / "equal-quality.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (out / "equal-quality.svg").write_text(plot(found), encoding="utf-8")
    (out / "equal-quality.md").write_text(text, encoding="utf-8")
    return text
