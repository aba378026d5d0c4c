"""Rows of what a cluster costs an edge: a hit, a second at rest, and a start after a long absence."""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import TYPE_CHECKING

from benchmarks import accounting
from benchmarks.edges import await_current, edges, postgres, spent_s, transactions
from benchmarks.hits import ACCEPT, BODY_BYTES, Contestant, settled, target_near
from benchmarks.instructions import HITS, Counted, has_valgrind
from benchmarks.rows import Result, Row
from benchmarks.servers import Product
from benchmarks.stats import paired_ratios

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.bench import Bench
    from benchmarks.rows import Figure

HIT_RATIO = 1.02
COUNTED_ROUNDS = 3
MISSED = 100_000
START_S = 2.0
REST_COUNTS = (1, 3, 5)
# Old purges of entries with one key each, of another run.
_MISS = """
INSERT INTO imgproxy.line (number, run, kind, entry, written_at, change)
SELECT head.number + n, 'another run', 'purge', 'entry-' || n, clock_timestamp() - interval '1 hour',
    jsonb_build_object('keys', jsonb_build_array('2026/03/14/picture-' || head.number + n || '.jpeg'),
    'reason', 'revoke', 'entry', 'entry-' || n, 'is_pending', false, 'settle_s', 30.0,
    'expanded', jsonb_build_array('2026/03/14/picture-' || head.number + n || '.jpeg'))
FROM imgproxy.head, generate_series(1, {count}) AS n;
UPDATE imgproxy.head SET number = number + {count};
"""


def measure_cluster_hit(bench: Bench, result: Result) -> None:
    """
    Compare a hit at an edge of a cluster with one at an edge alone: by CPU, and by instructions.

    By CPU, in turns on one core. Two processes of the same program differ by some per cent, so each round has two new
    ones. On a busy machine the error of the ratio is still larger than its bound. So the goal is of the instructions,
    where they can be counted.
    """
    off_us, on_us = [], []
    with bench.origin() as origin, postgres() as server:
        cluster = {"node": "a", "database_url": server.url(server.new_database())}
        for number in range(bench.rounds):
            with contextlib.ExitStack() as stack:
                started = {}
                for name in ("off", "on") if number % 2 else ("on", "off"):
                    sections = {"cluster": cluster} if name == "on" else None
                    product = bench.product(
                        origin.url, sections=sections, core=bench.server_core, name=f"cluster-{name}"
                    )
                    started[name] = stack.enter_context(product)
                await_current(started["on"])
                target = target_near(started["off"], BODY_BYTES)
                for product in started.values():
                    settled(product, target)
                used_us = _shoot_in_turns(bench, started, target)
            off_us.append(used_us["off"])
            on_us.append(used_us["on"])
        by_instructions = _count_instructions(bench, result, origin.url, cluster, target)
    result.figure("cluster off: CPU an answer", "µs", off_us)
    result.figure("cluster on: CPU an answer", "µs", on_us)
    by_cpu = result.figure("hit: cluster on / off, by CPU", "x", paired_ratios(on_us, off_us))
    goal = by_instructions or by_cpu
    result.at_most(goal.name, goal.spread.median, HIT_RATIO)
    result.notes.append(
        f"By CPU: {bench.rounds} rounds, each with two new processes on core {bench.server_core}, and wrk on core "
        f"{bench.load_core}: off, on, on, off. All threads of the edge count, so its renewals do, too. PostgreSQL not."
    )


def _count_instructions(
    bench: Bench, result: Result, origin_url: str, cluster: Mapping[str, object], target: str
) -> Figure | None:
    """Count those of a hit, with and without a cluster. Return the ratio; None: there is no valgrind here."""
    if not has_valgrind():
        result.notes.append("Instructions were not counted: valgrind is not installed.")
        return None
    counts: dict[str, list[float]] = {"off": [], "on": []}
    for _ in range(COUNTED_ROUNDS):
        for name, found in counts.items():
            # No renewal comes in between: in valgrind a hit takes fifty times as long, and a second does not.
            sections = {"cluster": {**cluster, "lease_s": 300}} if name == "on" else None
            with Counted(bench.new_folder(f"counted-{name}"), origin_url, sections=sections, name=name) as product:
                if name == "on":
                    await_current(product)
                settled(product, target)
                found.append(product.instructions(target, ACCEPT))
    for name, found in counts.items():
        result.figure(f"cluster {name}: instructions of a hit", "", found)
    result.notes.append(
        f"Instructions: {COUNTED_ROUNDS} rounds, each with two new processes in callgrind, {HITS} hits over one "
        "connection, less those of the same time without hits. Those of the kernel and of renewals are not in it: see "
        "cluster-rest."
    )
    return result.figure("hit: cluster on / off, by instructions", "x", paired_ratios(counts["on"], counts["off"]))


def _shoot_in_turns(bench: Bench, started: Mapping[str, Product], target: str) -> dict[str, float]:
    """Return the CPU of an answer of each, in microseconds: the mean over turns in opposite orders."""
    contestants = {name: Contestant(name, each.pid, each.url + target, ACCEPT) for name, each in started.items()}
    for contestant in contestants.values():
        contestant.shoot(bench, 1, is_warm_up=True)
    for name in ("off", "on", "on", "off"):
        contestants[name].shoot(bench, bench.scaled(3, 2))
    return {name: statistics.mean(contestant.cpu_us) for name, contestant in contestants.items()}


def measure_rest(bench: Bench, result: Result) -> None:
    """Count the statements and the CPU of clusters in which nothing happens."""
    seconds = bench.scaled(40, 15)
    with postgres() as server:
        for count in REST_COUNTS:
            with edges(bench, server, count, "http://127.0.0.1:9") as found:
                time.sleep(5)  # what follows a start
                before, used_s = transactions(server, found.database), spent_s(server, found.products)
                began_s = time.monotonic()
                time.sleep(seconds)
                took_s = time.monotonic() - began_s
                statements = transactions(server, found.database) - before
                after_s = spent_s(server, found.products)
            a_node = took_s * count
            result.figure(f"{count} edges at rest: transactions an edge", "1/s", [statements / a_node])
            for who in ("an edge", "PostgreSQL"):
                result.figure(
                    f"{count} edges at rest: CPU of {who}, for an edge",
                    "ms/s",
                    [(after_s[who] - used_s[who]) * 1e3 / a_node],
                )
    result.notes.append(
        f"{seconds} s each, lease 5 s. Each statement is a transaction of its own, so pg_stat_database counts them."
    )


def measure_replay(bench: Bench, result: Result) -> None:
    """
    Start an edge that has missed many purges, and one that has missed none, in turns.

    Most of a start is the loading of modules and the start of the render processes, whatever was missed. On a machine
    with other work that takes several times as long as alone. So the goals are of the CPU of the whole start, and of
    the time that the replay adds to it.
    """
    missed = bench.scaled(MISSED, 10_000)
    with_s, without_s, with_cpu_s, without_cpu_s = [], [], [], []
    with postgres() as server:
        for _ in range(bench.rounds):
            database = server.new_database()
            sections = {"cluster": {"node": "a", "database_url": server.url(database)}}
            product = Product(bench.new_folder("edge"), "http://127.0.0.1:9", sections=sections)
            _start(product)
            for count, times_s, cpu_s in ((0, without_s, without_cpu_s), (missed, with_s, with_cpu_s)):
                if count:
                    server.sql(_MISS.format(count=count), database=database)
                    server.sql("VACUUM ANALYZE imgproxy.line", database=database)
                    server.sql("CHECKPOINT", database=database)
                took_s, used_s = _start(product)
                times_s.append(took_s)
                cpu_s.append(used_s)
    what = f"start with {missed} purges to replay"
    result.figure(what, "s", with_s)
    result.figure("start with none", "s", without_s)
    added = result.figure("what the replay adds", "s", _differences(with_s, without_s))
    cpu = result.figure(f"{what}, CPU of the edge", "s", with_cpu_s)
    result.figure("start with none, CPU of the edge", "s", without_cpu_s)
    result.figure("what the replay adds, CPU of the edge", "s", _differences(with_cpu_s, without_cpu_s))
    ratio = result.figure("start with purges / with none", "x", paired_ratios(with_s, without_s))
    result.at_most(added.name, added.spread.median, START_S, "s")
    result.at_most("start with purges to replay, CPU of the edge", cpu.spread.median, START_S, "s")
    result.facts["purges"] = missed
    result.notes.append(
        f"From the start of the process until it may answer from its cache. The purges are of {missed} entries with "
        f"one key each, an hour old; the edge has none of the pictures. Starts in turns ({ratio.spread.count} each). "
        "Most of a start has nothing to do with the purges: modules are loaded, render processes start. So the goals "
        "are of the CPU of the main process, and of the time that the replay adds."
    )


def _differences(some: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(some, others, strict=True)]


def _start(product: Product) -> tuple[float, float]:
    """Start an edge and stop it. Return the seconds until it was current, and the CPU seconds of its main process."""
    began_s = time.monotonic()
    with product:
        await_current(product)
        took_s = time.monotonic() - began_s
        used_s = accounting.cpu_s(product.pid, with_reaped=False)
    return took_s, used_s


ROWS = (
    Row("cluster-hit", "Hot hit at an edge of a cluster, compared with an edge alone", measure_cluster_hit),
    Row("cluster-rest", "Statements and CPU of a second in which nothing happens, with 1, 3 and 5 edges", measure_rest),
    Row(
        "replay",
        "Start of an edge that has missed 100,000 purges, compared with one that has missed none",
        measure_replay,
    ),
)
