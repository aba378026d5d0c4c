"""
Updates of many entries whose pictures did not change: `python -m benchmarks.update_storm [--entries N]`.

An editor changes the captions of 300 entries at once. Livingdocs sends an event for each, and then readers ask for
every size again. The same is done with a purge for each entry, which is what an event of this kind did before. Both are
measured in one run: the CPU of the edge and of its render processes, and the requests and bytes of the origin. Every
picture is of 2 megapixels and has three sizes.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import io
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
from PIL import Image

from benchmarks import accounting
from benchmarks.purge_under_load import ADMIN, Edge
from imgproxy.medialibrary.server import AccessToken, EmbeddedLibrary
from imgproxy.medialibrary.server.probe import Probe

SECRET = "a secret of the benchmark"
WIDTHS_PX = (320, 620, 1024)
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Used:
    """What one way has used: CPU of events and of the readers after them, and what the origin and the renders did."""

    events_cpu_s: float
    readers_cpu_s: float
    acknowledged_s: float
    origin_requests: int
    origin_bytes: int
    renders: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=300)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="imgproxy-updates-"))
    try:
        asyncio.run(run(work, options.entries))
    finally:
        shutil.rmtree(work, ignore_errors=True)


async def run(work: Path, entries: int) -> None:
    os.environ["IMGPROXY_WEBHOOK__SECRETS"] = json.dumps([SECRET])
    os.environ["IMGPROXY_FRESHNESS__SETTLE_S"] = "0"
    keys = [f"{number:04}.jpg" for number in range(entries)]
    for number, key in enumerate(keys):
        path = work / "photos" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    probe = Probe()
    library = EmbeddedLibrary(work / "photos", probe=probe, tokens=[AccessToken("bench")], scan_interval_s=3600)
    async with library:
        ids = [entry.id for entry in library.store.all_entries()]
        edge = Edge(work, library.url)
        async with edge, aiohttp.ClientSession() as session:
            await read(session, edge, keys)
            # First once without a measurement: from then on the keys of each entry are known, as in every day's work.
            await send(session, [(f"{edge.url}/-/purge/entries/{entry}", b"", ADMIN) for entry in ids])
            await read(session, edge, keys)
            purged = await measure(
                session, edge, probe, keys, [(f"{edge.url}/-/purge/entries/{entry}", b"", ADMIN) for entry in ids]
            )
            updated = await measure(session, edge, probe, keys, [event(edge, entry) for entry in ids])
    print(f"{entries} entries, {len(WIDTHS_PX)} sizes each")
    for name, used in (("a purge each", purged), ("an update each", updated)):
        print(
            f"{name:16} CPU {used.events_cpu_s:.2f} s, and {used.readers_cpu_s:.2f} s for the readers; "
            f"acknowledged after {used.acknowledged_s:.2f} s; origin: {used.origin_requests} requests, "
            f"{used.origin_bytes:,} bytes; {used.renders} renders"
        )


def picture(number: int) -> bytes:
    """Return a JPEG of 2 megapixels that differs from all others."""
    pixels = np.random.default_rng(number).integers(0, 256, (29, 43, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((1720, 1160), Image.Resampling.BICUBIC).save(out, "JPEG", quality=85)
    return out.getvalue()


def event(edge: Edge, entry: str) -> tuple[str, bytes, dict[str, str]]:
    """Return the call of a signed event."""
    body = json.dumps({"event": "mediaLibraryEntry.update", "deliveryId": f"d-{entry}", "mediaId": entry}).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return f"{edge.url}/-/webhooks/livingdocs", body, {"x-livingdocs-signature": f"sha256={signature}"}


async def measure(
    session: aiohttp.ClientSession,
    edge: Edge,
    probe: Probe,
    keys: list[str],
    calls: list[tuple[str, bytes, dict[str, str]]],
) -> Used:
    """Send these calls at once, then ask for every size."""
    before = await counters(session, edge)
    requests, cpu_s, began_s = probe.count("serveImage"), accounting.tree_cpu_s(edge.pid), time.monotonic()
    await send(session, calls)
    acknowledged_s = time.monotonic() - began_s
    await asyncio.sleep(2)  # receipts, deleted files and forgotten orders are written a moment later
    events_cpu_s = accounting.tree_cpu_s(edge.pid) - cpu_s
    await read(session, edge, keys)
    readers_cpu_s = accounting.tree_cpu_s(edge.pid) - cpu_s - events_cpu_s
    after = await counters(session, edge)
    return Used(
        events_cpu_s,
        readers_cpu_s,
        acknowledged_s,
        probe.count("serveImage") - requests,
        int(after["imgproxy_origin_bytes_total"] - before["imgproxy_origin_bytes_total"]),
        int(after["imgproxy_renders_total"] - before["imgproxy_renders_total"]),
    )


async def send(session: aiohttp.ClientSession, calls: list[tuple[str, bytes, dict[str, str]]]) -> None:
    """Send all calls at the same moment. Each must be acknowledged as complete."""

    async def one(url: str, body: bytes, headers: dict[str, str]) -> None:
        async with session.post(url, data=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()

    await asyncio.gather(*(one(*call) for call in calls))


async def read(session: aiohttp.ClientSession, edge: Edge, keys: list[str]) -> None:
    """Ask for every size of every picture."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(target: str) -> None:
        while True:
            async with turns, session.get(edge.url + target) as answer:
                await answer.read()
                if answer.status == 200:
                    return
                assert answer.status == 503, answer.status  # more than can be rendered in time
                await asyncio.sleep(0.2)

    await asyncio.gather(*(one(f"/{key}?w={width_px}") for key in keys for width_px in WIDTHS_PX))


async def counters(session: aiohttp.ClientSession, edge: Edge) -> dict[str, float]:
    """Return the edge's counters, each summed over its labels."""
    async with session.get(f"{edge.url}/-/metrics", headers=ADMIN) as answer:
        text = await answer.text()
    found: dict[str, float] = {"imgproxy_origin_bytes_total": 0.0, "imgproxy_renders_total": 0.0}
    for name, value in re.findall(r"^(\w+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE):
        found[name] = found.get(name, 0.0) + float(value)
    return found


if __name__ == "__main__":
    main()
