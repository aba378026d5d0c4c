"""Seven widths of one photo at once, compared with seven separate renders: CPU and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyvips

from benchmarks.bench import Bench, fetch_all, keys
from benchmarks.client import Engine, Request, Sample
from benchmarks.photos import Photos
from benchmarks.renders import FM, QUALITY
from benchmarks.rows import Result, Row
from benchmarks.servers import BenchError, Product
from benchmarks.ssim import luma, ssim
from benchmarks.stats import paired_ratios
from imgproxy.params.plan import Format, Output
from imgproxy.render.encoders import Encoding, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

# The widths in a srcset of a newsroom's front page.
WIDTHS_PX = (320, 480, 640, 768, 1024, 1366, 1920)
BOUNDS = {"jpeg": 0.45, "webp": 0.65}
Work = Callable[[Product, Iterator[str], str], tuple[list[Sample], float]]

# CPU is read in clock ticks of 10 ms, so there are several keys between two readings.
KEYS_A_ROUND = 3


def measure(bench: Bench, result: Result) -> None:
    """Compare seven at once with seven keys one after the other, of the photo and of the drawing."""
    with bench.origin() as origin, bench.product(origin.url) as product:
        several = keys("srcset", Photos.TWENTY_FOUR)
        before_encoding = _compare_pixels(product, several, result)
        for form, bound in BOUNDS.items():
            name = form.upper()
            race = _race(bench.rounds, product, several, form)
            race.report(result, name)
            ratio = result.figure(f"{name}: CPU at once / separate", "x", paired_ratios(race.together_s, race.apart_s))
            result.at_most(ratio.name, ratio.spread.median, bound)
            # WebP files are further apart than their pixels, so WebP is judged before encoding: see `_compare_pixels`.
            likeness = min(race.likeness.values()) if form == "jpeg" else before_encoding
            where = "" if form == "jpeg" else ", before encoding"
            result.at_least(f"{name}: pictures like the separate ones (SSIM{where})", likeness, 0.99, "")
        drawings = keys("srcset", Photos.DRAWING)
        for form in BOUNDS:
            race = _race(max(2, bench.rounds // 2), product, drawings, form)
            ratios = paired_ratios(race.together_s, race.apart_s)
            result.figure(f"{form.upper()} of the drawing: CPU at once / separate", "x", ratios)
    widths = ", ".join(str(width) for width in WIDTHS_PX)
    result.notes.append(
        f"Widths {widths} px of the 24 MP photo, q={QUALITY}, original on disk; CPU of the render processes alone. "
        "Separate: each width of another key, requested when the one before was answered. The drawing is as large, but "
        "has a fifth of the bytes, so less of a decode to share, and a wide-gamut profile, which costs each width."
    )


@dataclass(slots=True)
class Race:
    """Seconds of seven at once and of seven separate, by round, and the least likeness of each width."""

    together_s: list[float] = field(default_factory=list)
    apart_s: list[float] = field(default_factory=list)
    wall_together_s: list[float] = field(default_factory=list)
    wall_apart_s: list[float] = field(default_factory=list)
    likeness: dict[int, float] = field(default_factory=lambda: dict.fromkeys(WIDTHS_PX, 1.0))

    def report(self, result: Result, name: str) -> None:
        """Add the figures."""
        scale = 1e3 / KEYS_A_ROUND
        result.figure(f"{name}: seven at once, CPU", "ms", [value * scale for value in self.together_s])
        result.figure(f"{name}: seven separate, CPU", "ms", [value * scale for value in self.apart_s])
        result.figure(f"{name}: seven at once, last byte", "ms", [value * 1e3 for value in self.wall_together_s])
        separate = [value * 1e3 for value in self.wall_apart_s]
        result.figure(f"{name}: seven separate, one after another", "ms", separate)
        result.figure(f"{name}: SSIM of a pair, a value a width", "", list(self.likeness.values()))
        result.facts[f"{name}: SSIM by width"] = self.likeness


def _race(rounds: int, product: Product, several: Iterator[str], form: str) -> Race:
    race = Race()
    for _ in range(rounds):
        shared, shared_s, shared_wall_s = _spend(product, _at_once, several, form)
        single, single_s, single_wall_s = _spend(product, _in_turn, several, form)
        race.together_s.append(shared_s)
        race.apart_s.append(single_s)
        race.wall_together_s.append(shared_wall_s)
        race.wall_apart_s.append(single_wall_s)
        for width_px, one, other in zip(WIDTHS_PX, shared, single, strict=False):
            race.likeness[width_px] = min(race.likeness[width_px], ssim(luma(one.body), luma(other.body)))
    return race


def _compare_pixels(product: Product, several: Iterator[str], result: Result) -> float:
    """
    Return the least SSIM of the same pairs as PNG, so before an encoder with losses.

    WebP amplifies small differences: it chooses its segments by the whole picture, and its modes by what was coded
    before. If one sample in a thousand differs by one level, the files are a quarter as far apart as each is from its
    source. A figure shows this.
    """
    together, _ = _at_once(product, several, "png")
    apart, _ = _in_turn(product, several, "png")
    pairs = list(zip(WIDTHS_PX, together, apart, strict=False))
    likeness = {width_px: ssim(luma(one.body), luma(other.body)) for width_px, one, other in pairs}
    result.figure("PNG (before encoding): SSIM of a pair, a value a width", "", list(likeness.values()))
    result.facts["PNG (before encoding): SSIM by width"] = likeness
    nudged = [_as_webp_twice(other.body) for _, _, other in pairs[: len(WIDTHS_PX)]]
    result.figure("WEBP: SSIM of a picture and itself, 1 sample in 1,000 off by 1, a value a width", "", nudged)
    return min(likeness.values())


def _as_webp_twice(picture: bytes) -> float:
    """Return the SSIM of two WebPs: of a picture, and of the same picture with 1 sample in 1,000 off by one."""
    image = pyvips.Image.new_from_buffer(picture, "")
    pixels = image.numpy()
    random = np.random.default_rng(1)
    nudge = (random.random(pixels.shape) < 1e-3) * random.choice([-1, 1], pixels.shape)
    nudged = pyvips.Image.new_from_array(np.clip(pixels + nudge, 0, 255).astype(np.uint8), interpretation="srgb")
    output = Output(format=Format.WEBP, quality=QUALITY)
    one, other = (encode(item, Encoding(Format.WEBP), output, keep=0) for item in (image, nudged))
    return ssim(luma(one), luma(other))


def _spend(product: Product, work: Work, several: Iterator[str], form: str) -> tuple[list[Sample], float, float]:
    """Return the samples, the CPU seconds of the render processes, and the mean seconds of a srcset."""
    used_s = product.render_cpu_s()
    samples, wall_s = work(product, several, form)
    return samples, product.render_cpu_s() - used_s, wall_s


def _urls(product: Product, key: str, form: str) -> list[str]:
    return [f"{product.url}/{key}?w={width}&q={QUALITY}&fm={FM.get(form, form)}" for width in WIDTHS_PX]


def _at_once(product: Product, several: Iterator[str], form: str) -> tuple[list[Sample], float]:
    """Send seven requests on seven connections, when the original is there. Samples are sorted by width."""
    found, walls = [], []
    for _ in range(KEYS_A_ROUND):
        key = next(several)
        fetch_all([f"{product.url}/{key}"], connections=1)
        urls = _urls(product, key, form)
        with Engine(keep_bodies=True) as engine:
            samples = engine.burst([Request(url) for url in urls])
        _check(samples)
        walls.append(max(sample.latency_s for sample in samples))
        found += sorted(samples, key=lambda sample: urls.index(sample.request.url))
    return found, sum(walls) / len(walls)


def _in_turn(product: Product, several: Iterator[str], form: str) -> tuple[list[Sample], float]:
    """Send seven requests for seven keys, one at a time."""
    found, walls = [], []
    for _ in range(KEYS_A_ROUND):
        seven = [next(several) for _ in WIDTHS_PX]
        fetch_all([f"{product.url}/{key}" for key in seven], connections=2)
        urls = [_urls(product, key, form)[number] for number, key in enumerate(seven)]
        samples = fetch_all(urls, connections=1, keep_bodies=True)
        walls.append(sum(sample.latency_s for sample in samples))
        found += samples
    return found, sum(walls) / len(walls)


def _check(samples: Sequence[Sample]) -> None:
    for sample in samples:
        if sample.status != 200:
            raise BenchError(f"{sample.status} for {sample.request.url}: {sample.body[:300]!r}")


ROWS = (Row("srcset", "Seven srcset widths of one 24 MP photo at once, compared with seven separate renders", measure),)
