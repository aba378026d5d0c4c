"""
Purge a thousand entries while readers ask: `python -m benchmarks.purge_under_load [--entries N] [--seconds S]`.

A second process requests hits and misses without a pause. Half of the entries are revoked, half are edited, and each is
purged by its own call. An answer is old if its request was sent after the acknowledgement of its entry's purge, and it
has the picture of before. Goal: no old answer in at least 100,000 requests. Both processes use the machine's monotonic
clock.

Before that, without load, entries with a thousand variants each are purged one by one. The next purge begins when the
files of the one before are deleted. Goal: p99 below 50 ms.

At last, many purges are sent at the same moment: see `purge_storm.py`. Goals: all are acknowledged with 200, the p99 of
hits on another picture is at most 5 times that without purges, and a purge among a thousand takes at most 1.5 times the
CPU of a purge among ten.

The exit status is 0 if every goal is met.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import numpy as np
from PIL import Image

from benchmarks import machine, purge_storm
from benchmarks.cache_scale import free_port, imgproxy, write
from imgproxy.cache.entry import OriginalFacts, VariantFacts, key_hash
from imgproxy.cache.framed import trailer
from imgproxy.digest import digest_of
from imgproxy.medialibrary.server import AccessToken, EmbeddedLibrary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from multiprocessing.synchronize import Event

RESULTS = Path(__file__).resolve().parent / "results"
ADMIN = {"Authorization": "Bearer bench"}
WIDTHS_PX = (40, 60, 80)
ENTRIES = 1_000
GIVE_UP_S = 900.0
READERS = 16
MISS_SHARE = 0.01
PURGE_GOAL_MS = 50.0
REQUESTS_GOAL = 100_000
LARGE_ENTRIES = 100
LARGE_VARIANTS = 1_000
BODY = b"v" * 400


@dataclass(frozen=True)
class Asked:
    """One answer. Times are seconds of the monotonic clock."""

    entry: int
    sent_at_s: float
    status: int
    is_hit: bool
    is_old: bool  # an edited entry: it has the bytes of before; a revoked entry: it has any bytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=ENTRIES)
    parser.add_argument("--seconds", type=float, default=90.0, help="of load; the purges are spread over its middle")
    parser.add_argument("--requests", type=int, default=REQUESTS_GOAL, help="how many the goal asks for")
    parser.add_argument("--only-storm", action="store_true", help="measure the storms alone")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="imgproxy-purge-"))
    try:
        if options.only_storm:
            return asyncio.run(run_storm(work))
        return asyncio.run(run(work, options.entries, options.seconds, options.requests))
    finally:
        shutil.rmtree(work, ignore_errors=True)


async def run(work: Path, entries: int, seconds: float, requests_goal: int) -> int:
    unloaded_ms = await without_load(work / "unloaded")
    loaded_ms, asked, acknowledged_s = await under_load(work / "loaded", entries, seconds)
    storm = await measure_storm(work)
    old = [item for item in asked if item.is_old and item.sent_at_s > acknowledged_s.get(item.entry, float("inf"))]
    first_s, last_s = min(acknowledged_s.values()), max(acknowledged_s.values())
    p99_ms = percentile(unloaded_ms, 99)
    rows = [
        ("old answers after an acknowledgement", f"{len(old)} of {len(asked):,}", not old, "0"),
        ("requests", f"{len(asked):,}", len(asked) >= requests_goal, f"{requests_goal:,}"),
        (
            f"purge of {LARGE_VARIANTS:,} variants, unloaded: p50, p99",
            f"{percentile(unloaded_ms, 50):.1f}, {p99_ms:.1f} ms",
            p99_ms < PURGE_GOAL_MS,
            f"p99 < {PURGE_GOAL_MS:.0f} ms",
        ),
        *purge_storm.rows_of(storm),
    ]
    show(rows)
    rates = {
        "before": hit_rate(asked, 0, first_s),
        "during": hit_rate(asked, first_s, last_s),
        "after": hit_rate(asked, last_s, float("inf")),
    }
    print(f"      purge under load: p50 {percentile(loaded_ms, 50):.1f} ms, p99 {percentile(loaded_ms, 99):.1f} ms")
    print("      hit rate of pictures still there: " + ", ".join(f"{name} {rate:.1%}" for name, rate in rates.items()))
    result = {
        "machine": machine.describe(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "entries": entries,
        "requests": len(asked),
        "statuses": {str(status): sum(item.status == status for item in asked) for status in {a.status for a in asked}},
        "old": len(old),
        "unloaded_ms": {"p50": percentile(unloaded_ms, 50), "p99": p99_ms},
        "loaded_ms": {"p50": percentile(loaded_ms, 50), "p99": percentile(loaded_ms, 99)},
        "hit_rate": rates,
        "storm": storm,
        "goals": {name: is_met for name, _, is_met, _ in rows},
    }
    if entries >= ENTRIES:  # a smaller run is a trial
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "purge-under-load.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return 0 if all(is_met for _, _, is_met, _ in rows) else 1


async def run_storm(work: Path) -> int:
    """Measure the storms, and put them into the results of the last whole run."""
    storm = await measure_storm(work)
    rows = purge_storm.rows_of(storm)
    show(rows)
    path = RESULTS / "purge-under-load.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "storm": storm}, indent=2) + "\n", "utf-8")
    return 0 if all(is_met for _, _, is_met, _ in rows) else 1


async def measure_storm(work: Path) -> dict[str, Any]:
    """Return the figures of the storms, with the machine and the time: they may be newer than the rest."""
    found = await purge_storm.measure(work / "storm", Edge, partial(fill, variants=2), picture(0, is_edited=False))
    return {"at": datetime.now(UTC).isoformat(timespec="seconds"), "commit": machine.describe()["commit"], **found}


def show(rows: list[tuple[str, str, bool, str]]) -> None:
    """Print each row: name, value, whether the goal is met, and the goal."""
    for name, value, is_met, goal in rows:
        print(f"{'ok  ' if is_met else 'MISS'}  {name:50} {value:>20}   (goal: {goal})")


def percentile(values: list[float], which: int) -> float:
    return statistics.quantiles(values, n=100)[which - 1]


def hit_rate(asked: list[Asked], since_s: float, until_s: float) -> float:
    """Return the share of answers with a picture that came from the cache."""
    chosen = [item for item in asked if since_s <= item.sent_at_s < until_s and item.status == 200]
    return sum(item.is_hit for item in chosen) / len(chosen) if chosen else float("nan")


# --- the service ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def site(work: Path, keys: list[str]) -> AsyncIterator[tuple[EmbeddedLibrary, dict[str, str], Edge]]:
    """Run a library with these pictures. Yield it, the ids of its entries, and an edge that is not started yet."""
    for number, key in enumerate(keys):
        path = work / "photos" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, is_edited=False))
    library = EmbeddedLibrary(work / "photos", tokens=[AccessToken("bench")], scan_interval_s=3600)
    async with library:
        ids = {entry.asset.key: entry.id for entry in library.store.all_entries()}
        yield library, ids, Edge(work, library.url)


def picture(number: int, *, is_edited: bool) -> bytes:
    """Return a small picture that differs from all others."""
    pixels = np.random.default_rng(2 * number + is_edited).integers(0, 256, (60, 80, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return out.getvalue()


class Edge:
    """`imgproxy serve` in a process of its own."""

    def __init__(self, work: Path, origin: str) -> None:
        self.cache_dir = work / "cache"
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._environment = {
            "IMGPROXY_SERVER__PORT": str(self._port),
            "IMGPROXY_ORIGIN__URL": origin,
            "IMGPROXY_ORIGIN__TOKEN": "bench",
            "IMGPROXY_ADMIN__TOKEN": "bench",
            "IMGPROXY_CACHE__DIR": str(self.cache_dir),
            "IMGPROXY_CACHE__MIN_FREE_BYTES": "0",
            "IMGPROXY_LOG__ACCESS": "none",
            "IMGPROXY_LOG__LEVEL": "error",
        }
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            imgproxy(), "serve", env={**os.environ, **self._environment}, stdout=asyncio.subprocess.DEVNULL
        )
        async with aiohttp.ClientSession() as session, asyncio.timeout(60):
            while True:
                try:
                    async with session.get(f"{self.url}/-/health"):
                        return self
                except aiohttp.ClientError:
                    await asyncio.sleep(0.02)

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), 30)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


async def purge(session: aiohttp.ClientSession, edge: Edge, entry: str) -> tuple[float, int]:
    """Purge an entry. Return the milliseconds that it took, and how many variants were purged."""
    started_s = time.monotonic()
    async with session.post(f"{edge.url}/-/purge/entries/{entry}", headers=ADMIN) as answer:
        receipt = await answer.json()
        assert answer.status == 200, receipt
    return (time.monotonic() - started_s) * 1000, int(receipt["variants"])


# --- without load --------------------------------------------------------------------------------------------------


async def without_load(work: Path) -> list[float]:
    """Return the milliseconds of each purge of an entry with a thousand variants on disk, one after the other."""
    keys = [f"large/{number}.jpg" for number in range(LARGE_ENTRIES)]
    async with site(work, keys) as (_, ids, edge):
        async with edge:
            pass  # makes the journal
        with sqlite3.connect(edge.cache_dir / "journal.sqlite") as database:
            (journal_id,) = database.execute("SELECT value FROM facts WHERE name = 'journal_id'").fetchone()
        database.close()
        for key in keys:
            await asyncio.to_thread(fill, edge.cache_dir, key, journal_id)
        async with edge, aiohttp.ClientSession() as session:
            while not await is_scanned(session, edge):
                await asyncio.sleep(0.05)
            durations_ms = []
            for key in keys:
                duration_ms, variants = await purge(session, edge, ids[key])
                assert variants == LARGE_VARIANTS, f"{variants} variants were there"
                durations_ms.append(duration_ms)
                # Wait for the clean-up, so that it does not slow down the next purge.
                while os.listdir(edge.cache_dir / "trash"):
                    await asyncio.sleep(0.01)
            return durations_ms


async def is_scanned(session: aiohttp.ClientSession, edge: Edge) -> bool:
    async with session.get(f"{edge.url}/-/status", headers=ADMIN) as answer:
        return bool((await answer.json())["cache"]["is_scanned"])


def fill(cache_dir: Path, key: str, journal_id: str, variants: int = LARGE_VARIANTS) -> None:
    """Write a key with many variants into a cache directory, as the service leaves them."""
    hashed, now_s = key_hash(key), time.time()
    where = cache_dir / "keys" / hashed[:2] / hashed
    where.mkdir(parents=True)
    original = digest_of(BODY)
    body_digest = bytes.fromhex(original)
    facts = OriginalFacts(key, original, len(BODY), "image/jpeg", '"e"', None, journal_id, 0, now_s, now_s)
    write(where / "facts", trailer(facts, body_bytes=0, body_digest=bytes.fromhex(digest_of(b""))))
    write(where / "original", BODY)
    for number in range(variants):
        plan = f"{number:032x}"
        about = VariantFacts(key, plan, original, "image/webp", len(BODY), body_digest.hex(), 10, 10)
        write(where / f"v-{plan}", BODY + trailer(about, body_bytes=len(BODY), body_digest=body_digest))


# --- under load ----------------------------------------------------------------------------------------------------


async def under_load(work: Path, entries: int, seconds: float) -> tuple[list[float], list[Asked], dict[int, float]]:
    """Return the milliseconds of the purges, every answer, and when each entry's purge was acknowledged."""
    keys = [f"load/{number}.jpg" for number in range(entries)]
    async with site(work, keys) as (library, ids, edge), edge, aiohttp.ClientSession() as session:
        before = await warm(session, edge, keys)
        context = multiprocessing.get_context("spawn")
        pipe, child_pipe = context.Pipe()
        is_over = context.Event()
        load = context.Process(target=read_on, args=(edge.url, keys, before, is_over, child_pipe), daemon=True)
        load.start()
        child_pipe.close()
        try:
            await asyncio.to_thread(pipe.recv)  # it has begun
            began_s = time.monotonic()
            await asyncio.sleep(seconds * 0.1)
            durations_ms, acknowledged_s = [], {}
            pause_s = seconds * 0.6 / entries
            for number, key in enumerate(keys):
                due_s = time.monotonic() + pause_s
                if number % 2:
                    await library.mark_invalid(ids[key])
                else:
                    await asyncio.to_thread((work / "photos" / key).write_bytes, picture(number, is_edited=True))
                duration_ms, _ = await purge(session, edge, ids[key])
                acknowledged_s[number] = time.monotonic()
                durations_ms.append(duration_ms)
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            # Purges may take longer than planned. The load goes on after the last one in any case.
            await asyncio.sleep(max(seconds * 0.1, began_s + seconds - time.monotonic()))
            is_over.set()
            asked = await asyncio.to_thread(pipe.recv)
        finally:
            is_over.set()
            await asyncio.to_thread(load.join, 30)
            if load.is_alive():
                load.kill()
        return durations_ms, asked, acknowledged_s


def target_of(key: str, width_px: int) -> str:
    return f"/{key}?w={width_px}"


async def warm(session: aiohttp.ClientSession, edge: Edge, keys: list[str]) -> dict[str, bytes]:
    """Have every variant made once. Return the digest of each, by request target."""
    found: dict[str, bytes] = {}
    gate = asyncio.Semaphore(8)

    async def one(target: str) -> None:
        async with gate, session.get(edge.url + target) as answer:
            assert answer.status == 200, answer.status
            found[target] = hashlib.sha256(await answer.read()).digest()

    await asyncio.gather(*(one(target_of(key, width_px)) for key in keys for width_px in WIDTHS_PX))
    return found


def read_on(url: str, keys: list[str], before: dict[str, bytes], is_over: Event, pipe: Any) -> None:
    """Run the load, in a process of its own."""
    asyncio.run(_read_on(url, keys, before, is_over, pipe))


async def _read_on(url: str, keys: list[str], before: dict[str, bytes], is_over: Event, pipe: Any) -> None:
    asked: list[Asked] = []
    give_up_s = time.monotonic() + GIVE_UP_S
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=READERS)) as session:

        async def reader(seed: int) -> None:
            chosen = random.Random(seed)
            while not is_over.is_set() and time.monotonic() < give_up_s:
                number = chosen.randrange(len(keys))
                is_new_size = chosen.random() < MISS_SHARE
                width_px = chosen.randrange(100, 400) if is_new_size else chosen.choice(WIDTHS_PX)
                target = target_of(keys[number], width_px)
                asked.append(await ask(session, url, target, before.get(target), number=number))

        pipe.send("begun")
        await asyncio.gather(*(reader(seed) for seed in range(READERS)))
    pipe.send(asked)


async def ask(session: aiohttp.ClientSession, url: str, target: str, before: bytes | None, *, number: int) -> Asked:
    sent_at_s = time.monotonic()
    async with session.get(url + target) as answer:
        body = await answer.read()
        is_hit = "hit" in answer.headers.get("Cache-Status", "")
        status = answer.status
    is_revoked_kind = number % 2 == 1
    is_old = status == 200 and (is_revoked_kind or hashlib.sha256(body).digest() == before)
    return Asked(number, sent_at_s, status, is_hit, is_old)


if __name__ == "__main__":
    sys.exit(main())
