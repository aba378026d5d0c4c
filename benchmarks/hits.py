"""
Rows of hits: from memory, from disk, not modified; on one core, compared with nginx with the same bytes and headers.

Two ratios are taken, and a goal must hold for both. By the clock: answers per second. By CPU: answers per CPU second of
the answering process, which does not depend on the load generator or on other processes. wrk needs about as much CPU
for an answer as nginx, so the clock alone would make imgproxy look better than it is.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from benchmarks import accounting, wrk
from benchmarks.bench import Bench, fetch_all, keys
from benchmarks.client import get
from benchmarks.photos import Photos
from benchmarks.rows import Result, Row
from benchmarks.servers import BenchError, Nginx
from benchmarks.stats import paired_ratios, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from benchmarks.client import Sample
    from benchmarks.servers import Product

BODY_BYTES = 46_000
# The Accept header of Chrome for an <img>, without AVIF: the answer is WebP, and negotiation takes part.
ACCEPT = {"Accept": "image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"}

# nginx makes these itself. All other headers are copied from the product's answer.
OWN_HEADERS = frozenset(
    {"content-type", "content-length", "date", "server", "etag", "last-modified", "connection", "accept-ranges"}
)


class Contestant:
    """One contestant of a hit row: what wrk requests, and the process whose CPU counts."""

    def __init__(
        self, name: str, pid: int, url: str, headers: Mapping[str, str] | None = None, targets: Path | None = None
    ) -> None:
        self.name, self.pid, self.url, self.headers, self.targets = name, pid, url, headers, targets
        self.rates: list[float] = []
        self.cpu_us: list[float] = []
        self.p50_ms: list[float] = []
        self.p99_ms: list[float] = []

    def shoot(self, bench: Bench, seconds: float, *, is_warm_up: bool = False) -> None:
        """Run wrk for one round."""
        before_s = accounting.thread_cpu_s(self.pid)
        shot = wrk.shoot(self.url, seconds=seconds, core=bench.load_core, headers=self.headers, targets=self.targets)
        used_s = accounting.thread_cpu_s(self.pid) - before_s
        if is_warm_up:
            return
        self.rates.append(shot.rate)
        self.cpu_us.append(used_s / shot.requests * 1e6)
        self.p50_ms.append(shot.p50_s * 1e3)
        self.p99_ms.append(shot.p99_s * 1e3)

    def report(self, result: Result) -> None:
        """Add the figures to the row."""
        result.figure(f"{self.name}: rate", "1/s", self.rates)
        result.figure(f"{self.name}: CPU an answer", "µs", self.cpu_us)
        result.figure(f"{self.name}: p50", "ms", self.p50_ms)
        result.figure(f"{self.name}: p99", "ms", self.p99_ms)


def compete(bench: Bench, result: Result, contestants: list[Contestant]) -> None:
    """Warm up, then run each contestant once per round, in turns."""
    seconds = 2 if bench.is_quick else 4
    for contestant in contestants:
        contestant.shoot(bench, 1, is_warm_up=True)
    for number in range(bench.rounds):
        for contestant in contestants[number % 2 :] + contestants[: number % 2]:
            contestant.shoot(bench, seconds)
    for contestant in contestants:
        contestant.report(result)
    result.notes.append(
        f"wrk, one thread, {wrk.CONNECTIONS} connections, core {bench.load_core}; servers one at a time on core "
        f"{bench.server_core}; {bench.rounds} rounds of {seconds} s in turns."
    )


def judge(result: Result, what: str, ours: Contestant, reference: Contestant, bound: float) -> None:
    """Add the two ratios and their goals."""
    by_clock = result.figure(
        f"{what} / {reference.name}, by the clock", "x", paired_ratios(ours.rates, reference.rates)
    )
    by_cpu = result.figure(f"{what} / {reference.name}, by CPU", "x", paired_ratios(reference.cpu_us, ours.cpu_us))
    result.at_least(f"{by_clock.name}", by_clock.spread.median, bound)
    result.at_least(f"{by_cpu.name}", by_cpu.spread.median, bound)


def size_near(ask: Callable[[int], int], wanted_bytes: int, low_px: int, high_px: int) -> int:
    """Return the width between two widths whose picture is nearest to a size in bytes. Sizes must grow with widths."""
    while high_px - low_px > 4:
        middle_px = (low_px + high_px) // 2
        if ask(middle_px) < wanted_bytes:
            low_px = middle_px
        else:
            high_px = middle_px
    return high_px


def measure_hot(bench: Bench, result: Result) -> None:
    """Compare a hit from memory with nginx, and a 304 with the hit."""
    quiet: dict[str, dict[str, object]] = {"log": {"access": "none"}}
    core = bench.server_core
    with bench.origin() as origin, bench.product(origin.url, sections=quiet, core=core) as product:
        target = target_near(product, BODY_BYTES)
        hit = settled(product, target)
        with Nginx(bench.new_folder("nginx"), _locations(hit.headers, "/hit"), core=core) as nginx:
            (nginx.www / "hit").write_bytes(hit.body)
            if get(nginx.url + "/hit").body != hit.body:
                raise BenchError("nginx does not serve the same bytes")
            etag = {"If-None-Match": hit.headers["etag"], **ACCEPT}
            ours = Contestant("imgproxy hit", product.pid, product.url + target, ACCEPT)
            unmodified = Contestant("imgproxy 304", product.pid, product.url + target, etag)
            reference = Contestant("nginx static", nginx.worker_pid, f"{nginx.url}/hit", ACCEPT)
            compete(bench, result, [ours, reference, unmodified])
    result.facts["body_bytes"] = len(hit.body)
    result.facts["headers"] = len(hit.headers)
    result.notes.append(
        f"{len(hit.body):,} bytes, {len(hit.headers)} headers, the same in nginx (open_file_cache, sendfile, "
        "no access log); WebP negotiated by Accept."
    )
    judge(result, "hit", ours, reference, 0.40)
    tail = result.figure("hit: p99 / p50", "x", paired_ratios(ours.p99_ms, ours.p50_ms))
    result.at_most(tail.name, tail.spread.median, 3.0)
    result.figure("nginx static: p99 / p50", "x", paired_ratios(reference.p99_ms, reference.p50_ms))
    judge(result, "304", unmodified, ours, 1.0)


def measure_log(bench: Bench, result: Result) -> None:
    """Compare a hit that gets a line in the access log with one that does not. All threads of the edge count."""
    quiet: dict[str, dict[str, object]] = {"log": {"access": "none"}}
    logging: dict[str, dict[str, object]] = {"log": {"access": "all", "format": "json"}}
    core = bench.server_core
    with (
        bench.origin() as origin,
        bench.product(origin.url, sections=quiet, core=core) as product,
        bench.product(origin.url, sections=logging, core=core, name="imgproxy-logging") as talkative,
    ):
        target = target_near(product, BODY_BYTES)
        settled(product, target)
        settled(talkative, target)
        off = Contestant("access log off", product.pid, product.url + target, ACCEPT)
        on = Contestant("access log on", talkative.pid, talkative.url + target, ACCEPT)
        compete(bench, result, [off, on])
        lines = talkative.metric("imgproxy_log_lines_dropped_total")
    result.notes.append("JSON lines, written to a file. Off and on are two servers on the same core.")
    by_cpu = result.figure("hit: log on / off, by CPU", "x", paired_ratios(on.cpu_us, off.cpu_us))
    result.at_most(by_cpu.name, by_cpu.spread.median, 1.25)
    result.at_most("lines that were dropped", lines, 0)


def target_near(product: Product, wanted_bytes: int) -> str:
    """Return the target of a variant with about this many bytes."""
    start = f"/hot/{Photos.SIX}?auto=format&q=75&w="

    def ask(width_px: int) -> int:
        return get(f"{product.url}{start}{width_px}", ACCEPT).size_bytes

    return f"{start}{size_near(ask, wanted_bytes, 400, 1200)}"


def settled(product: Product, target: str) -> Sample:
    """Request until the answer is a hit. From then on every answer is one."""
    for _ in range(20):
        answer = get(product.url + target, ACCEPT)
        if answer.status == 200 and "; hit" in answer.headers.get("cache-status", ""):
            return answer
        time.sleep(0.1)
    raise BenchError(f"no hit for {target}: {answer.status} {answer.headers}")


def _locations(headers: Mapping[str, str], path: str) -> str:
    """Return nginx locations with the product's headers."""
    lines = [f"default_type {headers['content-type']};"]
    lines += [f'add_header {name} "{value}";' for name, value in headers.items() if name not in OWN_HEADERS]
    return f"location {path} {{ {' '.join(lines)} }}"


def measure_disk(bench: Bench, result: Result) -> None:
    """Compare hits while memory holds a tenth of the variants with nginx over the same files."""
    count = bench.scaled(400, 120)
    core = bench.server_core
    hot_bytes = count * BODY_BYTES // 10
    # No access log, as in the row of hot hits and in nginx.
    sections: dict[str, dict[str, object]] = {"cache": {"hot_max_bytes": hot_bytes}, "log": {"access": "none"}}
    with bench.origin() as origin, bench.product(origin.url, sections=sections, core=core) as product:

        def ask(width_px: int) -> int:
            return get(f"{product.url}/probe/{Photos.SMALL}?fm=webp&q=75&w={width_px}").size_bytes

        width_px = size_near(ask, BODY_BYTES, 400, 1400)
        several = keys("disk", Photos.SMALL)
        per_key = 10
        targets = [
            f"/{key}?fm=webp&q=75&w={width_px - per_key // 2 + step}"
            for key in (next(several) for _ in range(math.ceil(count / per_key)))
            for step in range(per_key)
        ][:count]
        bench.say(f"making {count} variants")
        samples = fetch_all((product.url + target for target in targets), connections=2, keep_bodies=True)
        bodies = {sample.request.url.removeprefix(product.url): sample.body for sample in samples}
        hit = get(product.url + targets[0])
        with Nginx(bench.new_folder("nginx"), _locations(hit.headers, "/"), core=core) as nginx:
            ours_list, nginx_list = nginx.folder / "ours.txt", nginx.folder / "nginx.txt"
            for number, target in enumerate(targets):
                (nginx.www / f"{number}.webp").write_bytes(bodies[target])
            ours_list.write_text("\n".join(targets) + "\n", encoding="utf-8")
            nginx_list.write_text("\n".join(f"/{number}.webp" for number in range(count)) + "\n", encoding="utf-8")
            ours = Contestant("imgproxy disk hit", product.pid, product.url, targets=ours_list)
            reference = Contestant("nginx static", nginx.worker_pid, nginx.url, targets=nginx_list)
            before = {tier: product.metric("imgproxy_cache_hits_total", tier=tier) for tier in ("memory", "disk")}
            compete(bench, result, [ours, reference])
            after = {tier: product.metric("imgproxy_cache_hits_total", tier=tier) for tier in ("memory", "disk")}
        hits = {tier: after[tier] - before[tier] for tier in before}
    share = hits["disk"] / max(1.0, sum(hits.values()))
    result.facts |= {"variants": count, "bytes": sum(map(len, bodies.values())), "hot_max_bytes": hot_bytes}
    result.figure("share of hits that came from disk", "x", [share])
    result.notes.append(
        f"{count} variants of {spread([len(body) for body in bodies.values()]).median:,.0f} bytes, requested at "
        f"random; memory holds {hot_bytes:,} bytes. The files are in the page cache, for both."
    )
    judge(result, "disk hit", ours, reference, 0.20)
    result.at_least("share of hits from disk (else the row measures memory)", share, 0.8)


ROWS = (
    Row("hot", "Hot hit, 46 kB, one core, and 304, compared with nginx static with one worker", measure_hot),
    Row("log", "Hot hit with its line in the access log, compared with one without", measure_log),
    Row("disk", "Disk hit, working set ten times the hot tier, compared with nginx static", measure_disk),
)
