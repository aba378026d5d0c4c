"""300 identical requests at once for a new picture: one fetch, one render, and all are answered together."""

from __future__ import annotations

from benchmarks.bench import Bench, fetch_all, keys
from benchmarks.client import Engine, Request, urgent
from benchmarks.photos import Photos
from benchmarks.renders import query
from benchmarks.rows import Result, Row
from benchmarks.stats import percentile

WAITERS = 300
FEW = 10


def measure(bench: Bench, result: Result) -> None:
    """Send bursts over open connections, each for a new key."""
    rounds = bench.rounds * 2
    fetches, renders, answered = [], [], []
    extra: dict[int, dict[str, list[float]]] = {many: {"median": [], "p99": [], "last": []} for many in (WAITERS, FEW)}
    with bench.origin() as origin, bench.product(origin.url) as product:
        several = keys("stampede", Photos.SIX)
        fetch_all([f"{product.url}/{next(several)}?{query('jpeg')}" for _ in range(4)], connections=2)
        for _ in range(rounds):
            for many, found in extra.items():
                key = next(several)
                rendered = product.metric("imgproxy_renders_total")
                with urgent(), Engine() as engine:
                    samples = engine.burst([Request(f"{product.url}/{key}?{query('jpeg')}") for _ in range(many)])
                renders.append(product.metric("imgproxy_renders_total") - rendered)
                fetches.append(float(origin.fetches(key)))
                answered.append(sum(sample.status == 200 for sample in samples) / many)
                leader, *waiters = sorted(sample.first_s for sample in samples)
                found["median"].append((percentile(waiters, 50) - leader) * 1e3)
                found["p99"].append((percentile(waiters, 99) - leader) * 1e3)
                found["last"].append((waiters[-1] - leader) * 1e3)
    for many, found in extra.items():
        for name, values in found.items():
            result.figure(f"{many} at once: {name} waiter after the first answer", "ms", values)
    result.figure("fetches a burst (nginx's log)", "", fetches)
    result.figure("renders a burst (imgproxy_renders)", "", renders)
    result.notes.append(
        f"JPEG of 6 MP, 800 px, cold; {rounds} bursts of {WAITERS} and of {FEW} over open connections. Latency: "
        f"first byte of a waiter after the first byte of the first answer; the last of {WAITERS} waits for "
        f"{WAITERS - 1} bodies to be written by one core."
    )
    result.at_most("fetches, most in a burst", max(fetches), 1, "")
    result.at_most("renders, most in a burst", max(renders), 1, "")
    result.at_least("answered with 200", min(answered), 1.0, "")
    for many in extra:
        name = f"{many} at once: median waiter after the first answer"
        figure = next(item for item in result.figures if item.name == name)
        result.at_most(name, figure.spread.median, 5.0, "ms")


ROWS = (Row("stampede", "300 identical cold requests at once: one fetch, one render", measure),)
