"""
Run the benchmark: `python -m benchmarks [--only hot,render] [--quick] [--photos DIR]`.

The exit status is 0 if every goal was met, 1 if one was missed or could not be measured, and 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks import (
    avif,
    cluster,
    content_credentials,
    hits,
    machine,
    memory,
    peers,
    photos,
    pressure,
    purge_cluster,
    purge_hits,
    renders,
    report,
    rest,
    srcset,
    stampede,
)
from benchmarks.accounting import Load
from benchmarks.bench import Bench, read_peers
from benchmarks.rows import Result, Row

ROWS: tuple[Row, ...] = (
    *hits.ROWS,
    *renders.ROWS,
    *srcset.ROWS,
    *stampede.ROWS,
    *avif.ROWS,
    *pressure.ROWS,
    *memory.ROWS,
    *content_credentials.ROWS,
    *cluster.ROWS,
    *purge_cluster.ROWS,
    *purge_hits.ROWS,
    *rest.ROWS,
    *peers.ROWS,
)

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> int:
    """Measure the wanted rows, write the results, and print which goals were missed."""
    options = _options()
    names = [row.name for row in ROWS]
    wanted = options.only.split(",") if options.only else names
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        print(f"no such row: {', '.join(unknown)}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    try:
        compared = read_peers(options.peer, options.peer_pid)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="imgproxy-bench-", dir=options.work))
    os.environ["VIPS_CONCURRENCY"] = "1"
    # SystemExit leaves every `with` on the stack, so a run that is terminated ends its servers, too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        bench = Bench(
            folder=folder,
            photos=photos.prepare(options.photos, folder / "photos"),
            is_quick=options.quick,
            rounds=options.rounds or (3 if options.quick else 7),
            memory_renders=options.renders or (1_000 if options.quick else 20_000),
            peers=compared,
        )
        rows = [_measure(bench, row) for row in ROWS if row.name in wanted]
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    out = options.out or (RESULTS / "quick" if options.quick else RESULTS)
    day = dt.datetime.now(tz=dt.UTC).strftime("%Y-%m-%d")
    table = report.write(out, day, machine.describe(), [row for row, _ in rows])
    missed = [f"{result.name}: {goal}" for _, result in rows for goal in result.goals if not goal.is_met]
    print(f"\n{table}")
    for line in missed:
        print(f"MISSED  {line}")
    print(f"{sum(len(result.goals) for _, result in rows) - len(missed)} goals met, {len(missed)} missed")
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", help=f"rows, by commas: {','.join(row.name for row in ROWS)}")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds; results go to results/quick")
    parser.add_argument("--photos", type=Path, help="folder with a JPEG of about 6 MP and one of about 24 MP")
    parser.add_argument("--rounds", type=int, help="rounds of each contestant (7; 3 with --quick)")
    parser.add_argument("--renders", type=int, help="renders of the memory row (20,000; 1,000 with --quick)")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="another server to compare with; the URL with {origin} {key} {width} {quality} {format}",
    )
    parser.add_argument(
        "--peer-pid", action="append", default=[], metavar="NAME=PID", help="its process: its CPU is measured, too"
    )
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--work", type=Path, help="folder for caches and logs while it runs (the system's)")
    parser.add_argument("--keep", action="store_true", help="do not delete that folder")
    return parser.parse_args()


def _measure(bench: Bench, row: Row) -> tuple[dict[str, Any], Result]:
    """Measure one row. An error is a missed goal, with the reason; the other rows still run."""
    print(f"{row.name}: {row.title}", file=sys.stderr, flush=True)
    result = Result(row.name, row.title)
    started_at, before = time.monotonic(), Load.now()
    when = dt.datetime.now(tz=dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    try:
        row.measure(bench, result)
    except Exception as error:
        traceback.print_exc()
        result.notes.append(f"Could not be measured: {error}")
        result.at_least("the row could be measured", None, 1.0)
    took_s = time.monotonic() - started_at
    neighbours = Load.now().neighbours_since(before) / (took_s * len(bench.cores))
    gc.collect()
    run = f"{when}, {took_s:.0f} s, commit {machine.commit()}; other processes took {neighbours:.0%} of the machine"
    _print(result, run)
    return result.as_json() | {"run": run, "neighbours_share": neighbours, "is_quick": bench.is_quick}, result


def _print(result: Result, run: str) -> None:
    for item in result.figures:
        found = item.spread
        print(f"    {item.name:58} {found.median:12,.3f} ± {found.mad:.3g} {item.unit}", file=sys.stderr)
    for goal in result.goals:
        print(f"    {'met   ' if goal.is_met else 'MISSED'} {goal}", file=sys.stderr)
    print(f"    {run}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
