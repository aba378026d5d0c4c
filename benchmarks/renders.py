"""Rows of renders, compared with the same libvips calls in a bare loop: original on disk, and fetched."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyvips

from benchmarks import bare
from benchmarks.bench import Bench, fetch_all, keys
from benchmarks.client import get
from benchmarks.photos import Photos
from benchmarks.rows import Result, Row
from benchmarks.servers import BenchError, Library, Product
from benchmarks.stats import between, paired_ratios

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH_PX = 800
QUALITY = 75
# For each render process: one picture is rendered, the next one waits, and one is on its way. With fewer, processes are
# sometimes idle, and a bare loop never is.
CONNECTIONS = 3
# At the begin and at the end of a round some processes are idle. In a round of this length that is 1 %.
ROUND_S = 5.0
FORMATS = ("jpeg", "webp", "avif")
PHOTOS = (Photos.SIX, Photos.TWENTY_FOUR)
# Levels of 255, on average. WebPs of the sheet of photos differ by 3.6, pictures shifted by one pixel by 10 and more.
DIFFERENCE_MOST = 5.0
# The names of the formats in URLs.
FM = {"jpeg": "jpg", "webp": "webp", "avif": "avif"}


def query(form: str) -> str:
    """Return the URL parameters of these rows."""
    return f"w={WIDTH_PX}&q={QUALITY}&fm={FM[form]}"


def measure_render(bench: Bench, result: Result) -> None:
    """Measure renders of originals that are on disk already."""
    _measure(bench, result, is_cold=False, bound=0.95)


def measure_cold(bench: Bench, result: Result) -> None:
    """Measure renders of originals that have to be fetched."""
    _measure(bench, result, is_cold=True, bound=0.90)
    _from_library(bench, result)


def _measure(bench: Bench, result: Result, *, is_cold: bool, bound: float) -> None:
    with (
        bench.origin() as origin,
        bench.product(origin.url) as product,
        bare.Workers(processes_of(product)) as workers,
    ):
        for photo in PHOTOS:
            several = keys("cold" if is_cold else "warm", photo)
            for form in FORMATS:
                race = Race(bench, product, workers, several, is_cold)
                race.run(result, photo, form, bound)
        result.notes.append(
            f"{WIDTH_PX} px, q={QUALITY}; {workers.count} render processes against as many bare loops of the same "
            f"calls; {CONNECTIONS * workers.count} connections; {bench.rounds} rounds, each "
            "against the mean of the bare loop's turns before and after it. "
            + (
                "Originals from nginx as the origin, fetched within the request."
                if is_cold
                else "Originals on disk, and in page cache."
            )
        )
    result.notes += bench.photos.notes


@dataclass(frozen=True, slots=True)
class Race:
    """The product against the bare loops. `several` are keys that were never requested."""

    bench: Bench
    product: Product
    workers: bare.Workers
    several: Iterator[str]
    is_cold: bool

    def run(self, result: Result, photo: str, form: str, bound: float) -> None:
        """Run all rounds of one photo in one format, and add the goals."""
        name = f"{form.upper()} of {'6' if photo == Photos.SIX else '24'} MP"
        path = self.bench.photos.path(photo)
        result.facts[f"largest difference of pictures, {name}"] = _difference(
            self.product, next(self.several), path, form
        )
        took_s, _ = self.workers.run(path, WIDTH_PX, form, QUALITY, 2 * self.workers.count)
        seconds = 1.2 if self.bench.is_quick else ROUND_S
        count = max(2, round(seconds / (took_s / (2 * self.workers.count)) / self.workers.count)) * self.workers.count
        bare_rates, rates, bare_cpu_ms, cpu_ms, writing_cpu_ms = [], [], [], [], []
        folder = self.bench.new_folder("written")
        folder.mkdir()

        def bare_turn() -> None:
            took_s, used_s = self.workers.run(path, WIDTH_PX, form, QUALITY, count)
            bare_rates.append(count / took_s)
            bare_cpu_ms.append(used_s * 1e3)

        for number in range(self.bench.rounds + 1):
            urls = [f"{self.product.url}/{next(self.several)}" for _ in range(count)]
            if not self.is_cold:
                fetch_all(urls, connections=4)
            if number:
                bare_turn()
            ours_s, ours_used_s = _render_all(
                self.product, [f"{url}?{query(form)}" for url in urls], CONNECTIONS * self.workers.count
            )
            if self.is_cold and number:
                writing_cpu_ms.append(self.workers.run(path, WIDTH_PX, form, QUALITY, count, folder)[1] * 1e3)
                os.sync()  # its files must not be written to the disk during the next turn
            if number == 0:
                continue  # a warm-up of both
            rates.append(count / ours_s)
            cpu_ms.append(ours_used_s / count * 1e3)
        bare_turn()
        result.figure(f"{name}: imgproxy", "1/s", rates)
        result.figure(f"{name}: bare loop", "1/s", bare_rates)
        result.figure(f"{name}: imgproxy, CPU", "ms", cpu_ms)
        result.figure(f"{name}: bare loop, CPU", "ms", bare_cpu_ms)
        for how, ratios in (
            ("by the clock", paired_ratios(rates, between(bare_rates))),
            ("by CPU", paired_ratios(between(bare_cpu_ms), cpu_ms)),
        ):
            ratio = result.figure(f"{name}: imgproxy / bare loop, {how}", "x", ratios)
            result.at_least(ratio.name, ratio.spread.median, bound)
        if self.is_cold:
            writing = "bare loop that writes the original first"
            result.figure(f"{name}: {writing}, CPU", "ms", writing_cpu_ms)
            result.figure(f"{name}: imgproxy / {writing}, by CPU", "x", paired_ratios(writing_cpu_ms, cpu_ms))


def _render_all(product: Product, urls: list[str], connections: int) -> tuple[float, float]:
    """Send these requests. Return the seconds, and the CPU seconds of the whole product."""
    used_s = product.cpu_s()
    started_at = time.monotonic()
    samples = fetch_all(urls, connections=connections)
    if any("; hit" in sample.headers.get("cache-status", "") for sample in samples):
        raise BenchError("a hit among renders")
    return max(sample.last_at for sample in samples) - started_at, product.cpu_s() - used_s


def _difference(product: Product, key: str, path: object, form: str) -> int:
    """
    Return the largest difference of a pixel between the product's picture and the bare loop's.

    The bare loop scales to whole pixels, so hard edges may differ by half a pixel. The mean difference must be small.

    Raises:
        BenchError: the pictures differ in size, or by more than DIFFERENCE_MOST on average.
    """
    ours = get(f"{product.url}/{key}?{query(form)}")
    if ours.status != 200:
        raise BenchError(f"{ours.status} for {form}: {ours.body[:300]!r}")
    pixels = [
        pyvips.Image.new_from_buffer(data, "").numpy().astype(np.int16)
        for data in (ours.body, bare.render(str(path), WIDTH_PX, form, QUALITY))
    ]
    if pixels[0].shape != pixels[1].shape:
        raise BenchError(f"the bare loop makes {pixels[1].shape}, imgproxy {pixels[0].shape}")
    differences = np.abs(pixels[0] - pixels[1])
    if differences.mean() > DIFFERENCE_MOST:
        raise BenchError(
            f"the bare loop makes another picture: its pixels differ by {differences.mean():.1f} on average"
        )
    return int(differences.max())


def processes_of(product: Product) -> int:
    """Return how many render processes the product has."""
    return len(product.render_pids)


def _from_library(bench: Bench, result: Result) -> None:
    """Measure the same with the embedded library as the origin: Python on the same cores, so without a goal."""
    each = bench.scaled(40, 16)
    pictures = bench.new_folder("pictures")
    pictures.mkdir()
    names = [f"{number:04d}.jpg" for number in range(each * bench.rounds)]
    for name in names:
        (pictures / name).hardlink_to(bench.photos.path(Photos.SIX))
    rates = []
    with Library(pictures, bench.new_folder("library")) as library, bench.product(library.url) as product:
        for number in range(bench.rounds):
            urls = [f"{product.url}/{name}?{query('jpeg')}" for name in names[number * each : (number + 1) * each]]
            took_s, _ = _render_all(product, urls, CONNECTIONS * processes_of(product))
            rates.append(each / took_s)
    result.figure("JPEG of 6 MP: imgproxy, original from `imgproxy library`", "1/s", rates)


ROWS = (
    Row("render", "Render, original on disk, compared with the same libvips calls in a bare loop", measure_render),
    Row("cold", "Fetch and render, compared with the same libvips calls in a bare loop", measure_cold),
)
