"""
Run a cache of a million variants: `python -m benchmarks.cache_scale [--variants N] [--dir DIR]`.

Goals: the first request is answered within 2 s of the start of the process, while the scan goes on. A lookup costs at
most 1.5 times what it costs with a thousand variants. The index takes less than 300 bytes of memory per variant.
Neither the scan nor an eviction delays a hit by more than 50 ms. The files are small: only their number matters here.
The exit status is 0 if every goal is met.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import hashlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import machine
from imgproxy.cache.cache import Cache
from imgproxy.cache.entry import OriginalFacts, Provenance, VariantFacts, key_hash
from imgproxy.cache.framed import trailer
from imgproxy.cli.serve import SWITCH_S
from imgproxy.config.sections import CacheSettings
from imgproxy.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).resolve().parent / "results"
VARIANTS = 1_000_000
VARIANTS_A_KEY = 20
BODY = b"v" * 200
ORIGINAL = b"\xff\xd8\xff\xe0" + b"o" * 96
LOOKUPS = 1_000
ROUNDS = 7
PICTURE_KEY = "scale/picture.png"

FIRST_ANSWER_GOAL_S = 2.0
LOOKUP_RATIO_GOAL = 1.5
INDEX_GOAL_BYTES = 300
STALL_GOAL_S = 0.05
START_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=VARIANTS)
    parser.add_argument("--dir", type=Path, help="where the files are written; a temporary directory by default")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(asyncio.run(measure(options.measure))))
        return 0
    work = Path(tempfile.mkdtemp(prefix="imgproxy-scale-", dir=options.dir))
    try:
        return run(work, options.variants)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(work: Path, variants: int) -> int:
    asyncio.run(build(work / "small", 1_000))
    started_s = time.perf_counter()
    asyncio.run(build(work / "large", variants))
    print(f"{variants:,} variants written in {time.perf_counter() - started_s:.0f} s", flush=True)
    small = measured(work / "small")
    large = measured(work / "large")
    first_answer_s = first_answer(work / "large", work)
    ratio = large["lookup_us"] / small["lookup_us"]
    stall_s = max(large["scan_stall_s"], large["eviction_stall_s"])
    rows = [
        (
            "first answer after the start of the process",
            f"{first_answer_s:.2f} s",
            first_answer_s <= FIRST_ANSWER_GOAL_S,
            f"{FIRST_ANSWER_GOAL_S} s",
        ),
        (
            f"a disk lookup at {variants:,} against {small['variants']:,}",
            f"{large['lookup_us']:.0f} / {small['lookup_us']:.0f} us",
            ratio <= LOOKUP_RATIO_GOAL,
            f"x {LOOKUP_RATIO_GOAL}",
        ),
        (
            "index memory a variant",
            f"{large['index_bytes']:.0f} bytes",
            large["index_bytes"] < INDEX_GOAL_BYTES,
            f"{INDEX_GOAL_BYTES} bytes",
        ),
        (
            "index memory a variant, each one checked and used",
            f"{large['full_index_bytes']:.0f} bytes",
            large["full_index_bytes"] < INDEX_GOAL_BYTES,
            f"{INDEX_GOAL_BYTES} bytes",
        ),
        (
            "longest wait of a hit during scan and eviction",
            f"{stall_s * 1000:.0f} ms",
            stall_s <= STALL_GOAL_S,
            f"{STALL_GOAL_S * 1000:.0f} ms",
        ),
    ]
    for name, value, is_met, goal in rows:
        print(f"{'ok  ' if is_met else 'MISS'}  {name:55} {value:>18}   (goal: {goal})")
    print(f"      a process that does nothing waited for up to {large['noise_s'] * 1000:.0f} ms on this machine")
    print(f"      scan {large['scan_s']:.1f} s, first lookup of a name {large['first_touch_us']:.0f} us")
    result = {
        "machine": machine.describe(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "variants": variants,
        "first_answer_s": first_answer_s,
        "small": small,
        "large": large,
        "goals": {name: is_met for name, _, is_met, _ in rows},
    }
    if variants >= VARIANTS:  # a smaller run is a trial
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "cache-scale.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return 0 if all(is_met for _, _, is_met, _ in rows) else 1


# --- the files -----------------------------------------------------------------------------------------------------


async def build(directory: Path, variants: int) -> None:
    """Write a cache directory as the service leaves it, but without the service."""
    cache = Cache(CacheSettings(dir=directory, min_free_bytes=0))
    await cache.start()
    journal_id = cache.epochs.journal_id
    await cache.close()
    original = digest_of(ORIGINAL)
    body_digest = bytes.fromhex(digest_of(BODY))
    now_s = time.time()
    for number in range(-(-variants // VARIANTS_A_KEY)):
        key = key_of(number)
        hashed = key_hash(key)
        where = directory / "keys" / hashed[:2] / hashed
        where.mkdir(parents=True)
        facts = OriginalFacts(key, original, len(ORIGINAL), "image/jpeg", '"e"', None, journal_id, 0, now_s, now_s)
        write(where / "facts", trailer(facts, body_bytes=0, body_digest=bytes.fromhex(digest_of(b""))))
        write(where / "original", ORIGINAL)
        for index in range(min(VARIANTS_A_KEY, variants - number * VARIANTS_A_KEY)):
            plan = plan_of(index)
            about = VariantFacts(key, plan, original, "image/webp", len(BODY), body_digest.hex(), 10, 10)
            write(where / f"v-{plan}", BODY + trailer(about, body_bytes=len(BODY), body_digest=body_digest))


def key_of(number: int) -> str:
    return f"2026/{number % 365:03}/picture-{number}.jpg"


def plan_of(index: int) -> str:
    return hashlib.sha256(str(index).encode()).hexdigest()[:32]


def write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(descriptor, data)
    os.close(descriptor)


# --- one process that measures -------------------------------------------------------------------------------------


def measured(directory: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.cache_scale", "--measure", str(directory)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=900, cwd=machine.ROOT)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


async def measure(directory: Path) -> dict[str, float]:
    """Open the cache in this process, scan, look up and evict, and measure times and memory."""
    cache = Cache(CacheSettings(dir=directory, min_free_bytes=0, hot_max_bytes=0))
    before_bytes = resident_bytes()
    gc.freeze()  # the service does this and the next line, too
    sys.setswitchinterval(SWITCH_S)
    quiet_until_s = time.perf_counter() + 2
    noise_s = await longest_wait(lambda: time.perf_counter() > quiet_until_s)
    started_s = time.perf_counter()
    await cache.start()
    scan_stall_s = await longest_wait(lambda: cache.housekeeping.is_scanned)
    scan_s = time.perf_counter() - started_s
    await asyncio.sleep(0.1)
    ledger = cache.store.ledger
    files = len(ledger)
    index_bytes = (resident_bytes() - before_bytes) / max(1, files)
    first_touch_us, lookup_us = await lookups(cache, files)
    for number, (name, _) in enumerate(ledger.oldest(files)):
        ledger.verify(name, 1)
        ledger.touch(name)
        if number % 50_000 == 0:
            ledger.take_touched()  # housekeeping does this every 30 s
    ledger.take_touched()
    full_index_bytes = (resident_bytes() - before_bytes) / max(1, files)
    evicted_before = cache.housekeeping.evicted_files
    object.__setattr__(cache.settings, "max_bytes", int(ledger.used_bytes * 0.9))
    cache.housekeeping.after_commit()
    eviction_stall_s = await longest_wait(lambda: not cache.housekeeping._is_evicting)  # noqa: SLF001
    evicted = cache.housekeeping.evicted_files - evicted_before
    await cache.close()
    return {
        "variants": files,
        "scan_s": scan_s,
        "noise_s": noise_s,
        "scan_stall_s": scan_stall_s,
        "index_bytes": index_bytes,
        "full_index_bytes": full_index_bytes,
        "first_touch_us": first_touch_us,
        "lookup_us": lookup_us,
        "eviction_stall_s": eviction_stall_s,
        "evicted": evicted,
    }


async def longest_wait(is_over: Any) -> float:
    """Return the longest time, in seconds, for which the event loop was not free."""
    longest_s = 0.0
    while not is_over():
        before_s = time.perf_counter()
        await asyncio.sleep(0.001)
        longest_s = max(longest_s, time.perf_counter() - before_s - 0.001)
    return longest_s


async def lookups(cache: Cache, files: int) -> tuple[float, float]:
    """Return microseconds per lookup on disk: in the first round, and the median of the later rounds."""
    keys = max(1, files // (VARIANTS_A_KEY + 1))
    chosen = random.Random(1)
    names = [
        (key_hash(key_of(chosen.randrange(keys))), plan_of(chosen.randrange(VARIANTS_A_KEY))) for _ in range(LOOKUPS)
    ]
    rounds = []
    for _ in range(ROUNDS):
        started_s = time.perf_counter()
        found = 0
        for hashed, plan in names:
            facts = cache.facts(hashed)
            if facts is not None:
                found += await cache.find(Provenance(hashed, facts.digest, ((hashed, facts.seq),)), plan) is not None
        rounds.append((time.perf_counter() - started_s) / LOOKUPS * 1e6)
        assert found > LOOKUPS * 0.9, f"only {found} of {LOOKUPS} were found"
    return rounds[0], statistics.median(rounds[1:])


def resident_bytes() -> int:
    """Return the resident size after free memory was returned to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- the first answer ----------------------------------------------------------------------------------------------


def first_answer(directory: Path, work: Path) -> float:
    """Return the seconds from the start of the process to a hit on disk. A run before it makes the variant."""
    folder = work / "photos"
    (folder / PICTURE_KEY).parent.mkdir(parents=True)
    shutil.copy(machine.ROOT / "src/imgproxy/demo/photos/graphics/sun-and-showers.png", folder / PICTURE_KEY)
    with library(folder) as origin:
        environment = {
            "IMGPROXY_SERVER__PORT": str(port := free_port()),
            "IMGPROXY_ORIGIN__URL": origin,
            "IMGPROXY_ORIGIN__TOKEN": "bench",
            "IMGPROXY_CACHE__DIR": str(directory),
            "IMGPROXY_CACHE__MIN_FREE_BYTES": "0",
            "IMGPROXY_LOG__ACCESS": "none",
        }
        with edge(environment):
            until_answered(port)
        with edge(environment) as started_s:
            until_answered(port)
            return time.perf_counter() - started_s


@contextmanager
def library(folder: Path) -> Iterator[str]:
    port = free_port()
    with process([imgproxy(), "library", str(folder), "--port", str(port), "--token", "bench"], {}):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def edge(environment: dict[str, str]) -> Iterator[float]:
    started_s = time.perf_counter()
    with process([imgproxy(), "serve"], environment):
        yield started_s


def imgproxy() -> str:
    return str(Path(sys.executable).parent / "imgproxy")


@contextmanager
def process(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    running = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        running.terminate()
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def until_answered(port: int) -> None:
    url = f"http://127.0.0.1:{port}/{PICTURE_KEY}?w=40"
    give_up_at = time.perf_counter() + START_S
    while time.perf_counter() < give_up_at:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.005)
    raise TimeoutError(f"no answer from {url} in {START_S} s")


if __name__ == "__main__":
    sys.exit(main())
