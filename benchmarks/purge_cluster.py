"""Rows of purges in a cluster: until they are acknowledged, with one, three and five edges."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from benchmarks.edges import Admin, await_deleted, edges, postgres, spent_s, transactions
from benchmarks.rows import Result, Row
from benchmarks.servers import BenchError
from benchmarks.stats import paired_ratios, percentile

if TYPE_CHECKING:
    from benchmarks.bench import Bench

COUNTS = (1, 3, 5)
VARIANTS = 1_000
COST_COUNTS = (1, 2, 4, 8)
# Fastly's average for a purge in its whole network, and what five edges may take of it at most.
P99_MS = 150.0
TIMES_ONE = 4.0


def measure_acknowledgement(bench: Bench, result: Result) -> None:
    """Purge keys that each edge has with a thousand variants, in turns at clusters of one, three and five edges."""
    keys = [f"purge/{number}.jpg" for number in range(bench.scaled(100, 20))]
    took_ms: dict[int, list[float]] = {count: [] for count in COUNTS}
    with postgres() as server, contextlib.ExitStack() as stack:
        clusters = {}
        for count in COUNTS:
            bench.say(f"{count} edges with {len(keys)} keys of {VARIANTS} variants")
            made = edges(bench, server, count, "http://127.0.0.1:9", filled=keys, variants=VARIANTS)
            clusters[count] = stack.enter_context(made)
        admins = {count: stack.enter_context(Admin(found.first)) for count, found in clusters.items()}
        for key in keys:
            for count, found in clusters.items():
                took_s, receipt = admins[count].purge(key)
                states = [node["state"] for node in receipt["nodes"]]
                if receipt["variants"] != VARIANTS or states != ["applied"] * count:
                    raise BenchError(f"the purge was another one: {receipt}")
                took_ms[count].append(took_s * 1e3)
                await_deleted(found.products)
    for count in COUNTS:
        result.figure(f"{count} edges: acknowledgement", "ms", took_ms[count])
        result.figure(f"{count} edges: acknowledgement, p99", "ms", [percentile(took_ms[count], 99)])
    for count in COUNTS[1:]:
        result.figure(f"{count} edges / 1, purge by purge", "x", paired_ratios(took_ms[count], took_ms[1]))
    most = COUNTS[-1]
    p99_ms, one_p99_ms = (percentile(took_ms[count], 99) for count in (most, 1))
    result.at_most(f"{most} edges: acknowledgement, p99", p99_ms, P99_MS, "ms")
    result.at_most(f"{most} edges / 1: acknowledgement, p99", p99_ms / one_p99_ms, TIMES_ONE)
    result.notes.append(
        f"{len(keys)} purges of a key over HTTP at each of three clusters, in turns, one at a time. Each edge has the "
        f"key with {VARIANTS} variants on its disk. All edges, each with its render processes, and PostgreSQL (fsync "
        "on) share this machine and one disk."
    )


def measure_cost(bench: Bench, result: Result) -> None:
    """Count the transactions of the database and the CPU of a purge of nothing, one cluster after the other."""
    purges = bench.scaled(200, 30)
    with postgres() as server:
        for count in COST_COUNTS:
            with edges(bench, server, count, "http://127.0.0.1:9") as found, Admin(found.first) as admin:
                admin.purge("first.jpg")
                time.sleep(5)  # what follows a start
                before, used_s = transactions(server, found.database), spent_s(server, found.products)
                began_s = time.monotonic()
                for number in range(purges):
                    admin.purge(f"nothing/{number}.jpg")
                took_s = time.monotonic() - began_s
                time.sleep(2)  # receipts, and the counters of the database
                done, after_s = transactions(server, found.database) - before, spent_s(server, found.products)
            result.figure(f"{count} edges: transactions a purge", "", [done / purges])
            result.figure(f"{count} edges: a purge", "ms", [took_s * 1e3 / purges])
            for who in ("an edge", "PostgreSQL"):
                per = count if who == "an edge" else 1
                used_ms = (after_s[who] - used_s[who]) * 1e3 / purges / per
                result.figure(f"{count} edges: CPU of {who} for a purge", "ms", [used_ms])
    result.notes.append(
        f"{purges} purges of keys that nobody has, one at a time, at one edge. What edges do at rest is counted, too. "
        "PostgreSQL counts a transaction for each notification that a session gets, besides those of statements."
    )


ROWS = (
    Row("purge-cost", "Transactions and CPU of a purge, with 1, 2, 4 and 8 edges", measure_cost),
    Row(
        "acknowledge",
        "A purge of 1,000 variants an edge over HTTP, until it is acknowledged, with 1, 3 and 5 edges",
        measure_acknowledgement,
    ),
)
