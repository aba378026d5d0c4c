"""Rows under load: hits while renders use every core, and ten times as many renders as the machine can make."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from benchmarks.bench import Bench, fetch_all, keys
from benchmarks.client import Engine, Request, Sample, urgent
from benchmarks.photos import Photos
from benchmarks.renders import processes_of, query
from benchmarks.rows import Result, Row
from benchmarks.servers import BenchError
from benchmarks.stats import paired_ratios, percentile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.servers import Product

PROBES = {"hit": 100.0, "health": 20.0, "metrics": 5.0}  # a second
OVERLOAD = 10.0


def _probes(product: Product, hit_target: str, seconds: float) -> list[Request]:
    """Return requests on a timetable, as a site has them: hits, health checks of a balancer, reads of the metrics."""
    targets = {"hit": hit_target, "health": "/-/health", "metrics": "/-/metrics"}
    headers = {"metrics": product.admin_headers}
    return [
        Request(product.url + targets[kind], headers.get(kind, {}), kind=kind, due_s=number / rate)
        for kind, rate in PROBES.items()
        for number in range(int(seconds * rate))
    ]


def _hits(product: Product, hit_target: str, seconds: float) -> list[Request]:
    """Return only the hits among the probes."""
    return [one for one in _probes(product, hit_target, seconds) if one.kind == "hit"]


def _p99_ms(samples: Sequence[Sample], kind: str) -> float:
    found = [sample for sample in samples if sample.request.kind == kind]
    bad = [sample.status for sample in found if sample.status != 200]
    if bad:
        raise BenchError(f"{kind}: {len(bad)} of {len(found)} answers were {sorted(set(bad))}")
    return percentile([sample.latency_s for sample in found], 99) * 1e3


def measure_saturated(bench: Bench, result: Result) -> None:
    """Measure p99 of hits, health and metrics: idle, then with every render process busy and a queue before each."""
    seconds = bench.scaled(8, 4)
    with bench.origin() as origin, bench.product(origin.url) as product:
        several = keys("saturated", Photos.SIX)
        hit_target = _a_hit(product, next(several))
        idle: dict[str, list[float]] = {kind: [] for kind in PROBES}
        busy: dict[str, list[float]] = {kind: [] for kind in PROBES}
        renders = []
        for number in range(bench.rounds + 1):
            with urgent(), Engine() as engine:
                quiet = engine.open(_probes(product, hit_target, seconds))
            with Renders(product, several, 4 * processes_of(product)) as background, urgent(), Engine() as engine:
                loaded = engine.open(_probes(product, hit_target, seconds))
            if number == 0:
                continue  # connections, caches and the interpreter's own warm-up
            for kind in PROBES:
                idle[kind].append(_p99_ms(quiet, kind))
                busy[kind].append(_p99_ms(loaded, kind))
            renders.append(background.done / background.seconds)
    result.figure("renders meanwhile", "1/s", renders)
    for kind in PROBES:
        result.figure(f"{kind}: p99 idle", "ms", idle[kind])
        result.figure(f"{kind}: p99 while renders saturate", "ms", busy[kind])
        ratio = result.figure(f"{kind}: p99 busy / idle", "x", paired_ratios(busy[kind], idle[kind]))
        result.at_most(ratio.name, ratio.spread.median, 5.0)
    result.notes.append(
        f"{PROBES} probes a second on a timetable, {seconds} s a round, latency from when each was due; the prober has "
        "a higher priority than every server. Background: cold JPEGs of 6 MP over four connections a render process."
    )


def _a_hit(product: Product, key: str) -> str:
    target = f"/{key}?w=620&q=75"
    fetch_all([product.url + target] * 3, connections=1)
    return target


class Renders(threading.Thread):
    """Cold renders in the background until the block ends. Then `done` and `seconds` say how many, in what time."""

    def __init__(self, product: Product, several: Iterator[str], connections: int) -> None:
        super().__init__(name="renders", daemon=True)
        self._product = product
        self._several = several
        self._connections = connections
        self._is_over = threading.Event()
        self.done = 0
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self.start()
        self._is_over.wait(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self.join()

    def run(self) -> None:
        """Keep one request on each connection."""
        started_at = time.monotonic()
        with Engine() as engine:
            samples = engine.closed(self._requests(), self._connections)
        self.done = sum(sample.status == 200 for sample in samples)
        self.seconds = time.monotonic() - started_at

    def _requests(self) -> Iterator[Request]:
        while not self._is_over.is_set():
            yield Request(f"{self._product.url}/{next(self._several)}?{query('jpeg')}")


# --- overload -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offered:
    """The answers of an open run. `shed` are 503s, `other` are neither 200 nor 503, `probes` are the hits beside it."""

    accepted: list[Sample]
    shed: list[Sample]
    other: list[Sample]
    probes: list[Sample]


def measure_overload(bench: Bench, result: Result) -> None:
    """Measure the capacity in a closed run, then offer ten times that on a timetable. The same hits run beside both."""
    seconds = bench.scaled(10, 5)
    goodput, shed_share, fetched, memory = [], [], [], []
    capacity_rates, unloaded_ms, accepted_ms, idle_ms, busy_ms, shed_ms = [], [], [], [], [], []
    headers_right, others, hits_lost, retry_after = [], 0, 0, set()
    with bench.origin() as origin, bench.product(origin.url) as product:
        several = keys("overload", Photos.SIX)
        hit_target = _a_hit(product, next(several))
        processes = processes_of(product)
        for number in range(bench.rounds + 1):
            unloaded = _closed(product, several, seconds, processes)
            with Renders(product, several, 4 * processes) as capacity, urgent(), Engine() as engine:
                engine.open(_hits(product, hit_target, seconds))
            capacity_rate = capacity.done / capacity.seconds
            before_bytes = product.resident_bytes()
            with urgent(), Engine() as engine:
                quiet = engine.open(_hits(product, hit_target, seconds))
            load = _offer(product, number, hit_target, capacity_rate * OVERLOAD, seconds)
            if number == 0:
                continue
            capacity_rates.append(capacity_rate)
            end_at = _begin(load) + seconds
            goodput.append(sum(one.last_at <= end_at for one in load.accepted) / seconds)
            unloaded_ms.append(percentile([one.latency_s for one in unloaded], 99) * 1e3)
            accepted_ms.append(percentile([one.latency_s for one in load.accepted], 99) * 1e3)
            idle_ms.append(_p99_ms(quiet, "hit"))
            busy_ms.append(percentile([one.latency_s for one in load.probes], 99) * 1e3)
            hits_lost += sum(one.status != 200 for one in load.probes)
            fetched.append(origin.fetches(f"{_prefix(number)}/") / max(1, len(load.accepted)))
            memory.append(product.resident_bytes() / before_bytes)
            shed_share.append(len(load.shed) / (len(load.shed) + len(load.accepted)))
            if load.shed:
                shed_ms.append(percentile([one.latency_s for one in load.shed], 99) * 1e3)
            headers_right.append(_well_shed(load.shed))
            retry_after |= {one.headers.get("retry-after", "") for one in load.shed}
            others += len(load.other)
    good = paired_ratios(goodput, capacity_rates)
    tail = paired_ratios(accepted_ms, unloaded_ms)
    hit_ratio = paired_ratios(busy_ms, idle_ms)
    result.figure("capacity", "1/s", capacity_rates)
    result.figure("goodput at ten times that", "1/s", goodput)
    result.figure("unloaded p99 (one request a render process)", "ms", unloaded_ms)
    result.figure("p99 of what is accepted", "ms", accepted_ms)
    result.figure("share shed", "", shed_share)
    if shed_ms:
        result.figure("p99 of a 503", "ms", shed_ms)
    result.figure("hit: p99 idle", "ms", idle_ms)
    result.figure("hit: p99 in overload", "ms", busy_ms)
    goals = (
        (result.at_least, result.figure("goodput / capacity", "x", good), 0.9),
        (result.at_most, result.figure("p99 of accepted / unloaded p99", "x", tail), 2.0),
        (result.at_most, result.figure("hit: p99 in overload / idle", "x", hit_ratio), 5.0),
        (result.at_most, result.figure("fetches of the origin / accepted", "x", fetched), 1.1),
        (result.at_most, result.figure("resident memory after / before", "x", memory), 1.25),
        (result.at_least, result.figure("503s with Retry-After and no-store", "", headers_right), 1.0),
    )
    for want, figure, bound in goals:
        want(figure.name, figure.spread.median, bound)
    result.at_most("hits not answered with 200", float(hits_lost), 0, "")
    result.at_most("answers that are neither 200 nor 503", float(others), 0, "")
    result.at_least("different Retry-After values", float(len(retry_after)), 2, "")
    result.notes.append(
        f"Cold JPEGs of 6 MP, each of another key; capacity with {4 * processes} connections, then {OVERLOAD:g} times "
        f"that for {seconds} s with Poisson arrivals; {PROBES['hit']:g} hits a second beside both. Latency from when "
        "each was due; "
        "goodput counts what was answered within that time."
    )


def _closed(product: Product, several: Iterator[str], seconds: float, connections: int) -> list[Sample]:
    with Engine() as engine:
        samples = engine.closed_until(
            (Request(f"{product.url}/{key}?{query('jpeg')}") for key in several), connections, seconds
        )
    return [sample for sample in samples if sample.status == 200]


def _offer(product: Product, number: int, hit_target: str, rate: float, seconds: float) -> Offered:
    rng = random.Random(number)
    requests, due_s = [], 0.0
    several = keys(_prefix(number), Photos.SIX)
    while (due_s := due_s + rng.expovariate(rate)) < seconds:
        requests.append(Request(f"{product.url}/{next(several)}?{query('jpeg')}", kind="render", due_s=due_s))
    with urgent(), Engine() as engine:
        samples = engine.open(requests + _hits(product, hit_target, seconds))
    renders = [sample for sample in samples if sample.request.kind == "render"]
    return Offered(
        accepted=[sample for sample in renders if sample.status == 200],
        shed=[sample for sample in renders if sample.status == 503],
        other=[sample for sample in renders if sample.status not in (200, 503)],
        probes=[sample for sample in samples if sample.request.kind == "hit"],
    )


def _prefix(number: int) -> str:
    return f"offered/{number}"


def _begin(load: Offered) -> float:
    return min(sample.due_at - sample.request.due_s for sample in load.accepted)


def _well_shed(shed: Sequence[Sample]) -> float:
    """Return the share of 503s that have a Retry-After and no-store."""
    right = [
        sample
        for sample in shed
        if sample.headers.get("retry-after", "").isdigit() and "no-store" in sample.headers.get("cache-control", "")
    ]
    return len(right) / len(shed) if shed else 0.0


ROWS = (
    Row("saturated", "Hits, health and metrics while renders saturate every core", measure_saturated),
    Row("overload", "Ten times the capacity offered", measure_overload),
)
