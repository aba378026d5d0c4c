"""A cold AVIF with `avif = "upgrade"`: WebP is the first answer, a later request gets the AVIF."""

from __future__ import annotations

import time

from benchmarks.bench import Bench, fetch_all, keys
from benchmarks.client import get
from benchmarks.photos import Photos
from benchmarks.renders import PHOTOS
from benchmarks.rows import Result, Row
from benchmarks.servers import BenchError
from benchmarks.stats import paired_ratios

AVIF = {"Accept": "image/avif,image/webp,*/*;q=0.8"}
WEBP = {"Accept": "image/webp,*/*;q=0.8"}
QUERY = "w=800&q=75&auto=format"
WAIT_S = 30.0


def measure(bench: Bench, result: Result) -> None:
    """Send one cold request at a time: with AVIF accepted and without, in turns."""
    sections = {"render": {"avif": "upgrade"}}
    with bench.origin() as origin, bench.product(origin.url, sections=sections) as product:
        for photo in PHOTOS:
            several = keys("avif", photo)
            fetch_all([f"{product.url}/{next(several)}?{QUERY}" for _ in range(4)], connections=2, headers=WEBP)
            firsts: dict[str, list[float]] = {"avif": [], "webp": []}
            upgraded, upgraded_after_s, first_types = 0, [], set()
            for _ in range(bench.rounds * 2):
                key = next(several)
                for name, headers, path in (("webp", WEBP, next(several)), ("avif", AVIF, key)):
                    answer = get(f"{product.url}/{path}?{QUERY}", headers)
                    if answer.status != 200:
                        raise BenchError(f"{answer.status}: {answer.body[:300]!r}")
                    firsts[name].append(answer.first_s * 1e3)
                    if name == "avif":
                        first_types.add(answer.headers.get("content-type", ""))
                began_at = time.monotonic()
                while time.monotonic() - began_at < WAIT_S:
                    again = get(f"{product.url}/{key}?{QUERY}", AVIF)
                    if again.headers.get("content-type") == "image/avif":
                        upgraded += 1
                        upgraded_after_s.append(time.monotonic() - began_at)
                        break
                    time.sleep(0.05)
            name = "6 MP" if photo == Photos.SIX else "24 MP"
            result.figure(f"{name}: first byte, AVIF accepted", "ms", firsts["avif"])
            result.figure(f"{name}: first byte, WebP accepted", "ms", firsts["webp"])
            if upgraded_after_s:
                result.figure(f"{name}: AVIF there after", "s", upgraded_after_s)
            result.facts[f"{name}: types of the first answer"] = sorted(first_types)
            ratio = result.figure(
                f"{name}: AVIF / WebP, first byte", "x", paired_ratios(firsts["avif"], firsts["webp"])
            )
            result.at_most(ratio.name, ratio.spread.median, 1.2)
            result.at_least(f"{name}: the AVIF came for a later request", upgraded / (bench.rounds * 2), 1.0, "")
    result.notes.append(
        '`[render] avif = "upgrade"`, 800 px, q=75, auto=format; cold (fetch, render), one request at a time.'
    )


ROWS = (Row("avif", "AVIF accepted and cold, next to WebP accepted and cold: first byte", measure),)
