"""
A soak: a real edge and a real library under a small, steady load for half an hour: `make soak [SECONDS=1800]`.

Twelve visitors ask once a second each: hits, new sizes, conditional requests. Every two seconds a picture is replaced
and its entry purged; the library reports the edit by webhook, too. Originals are revalidated after 15 s. A render
process is killed every 20 s. Four clients read a large original slowly. For a thirtieth of the time the disk is full:
once early, because pools of threads and connections are filled by it, and once in the middle. The cache directory is a
small tmpfs for this, which needs root; the result says if it was left out.

Goals: no answer is from before a purge that was acknowledged when the request was sent. Memory, descriptors and threads
of the edge and its render processes, in the last thirtieth of the time, are at most 10 % above those after a sixth of
it (5 of 30 minutes). So is the journal, apart from the half kilobyte that each purge leaves for a year. Every answer is
200, 304, or 503 because the disk is full or the machine busy. The log has no traceback.

A picture shows its generation: the red and the green of its left half. The exit status is 0 if every goal is met.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
from PIL import Image

from benchmarks import accounting, machine
from benchmarks.servers import Library, Product, free_port, imgproxy_command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

RESULTS = Path(__file__).resolve().parent / "results" / "soak.json"
SECONDS = 1800.0
MB = 1_000_000
KEYS = tuple(f"soak/{number}.jpg" for number in range(24))
LARGE = "soak/large.png"  # for slow readers
QUERIES = ("w=80&fm=jpg", "w=80&fm=webp", "w=120&fm=png", "w=64&fm=avif")
VISITORS, SLOW_READERS = 12, 4
DISK_BYTES = 160 * MB
GROWTH_MAX = 1.1
JOURNAL_BYTES_A_PURGE = 512
FULL = ", disk full"
# Also a busy machine makes the edge refuse renders (503), or acknowledge a purge as pending (202).
STATUSES = ("GET 200", "GET 304", "GET 503", "purge 200", "purge 202", "purge 503")
EXPECTED = {"killed", "slow readers", *STATUSES, *(status + FULL for status in STATUSES)}
NO_SMALL_DISK = "left out: a small disk needs root, and the right to mount"


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the edge and its render processes hold, `at_s` seconds after the start of the run."""

    at_s: float
    edge_resident_mb: float
    render_resident_mb: float
    descriptors: int
    threads: int
    journal_bytes: int
    purges: int


@dataclass(slots=True)
class Picture:
    """A picture of the library. `acknowledged`: no request sent from now on may get an older generation."""

    key: str
    entry: str
    written: int = 0
    acknowledged: int = 0
    seen: tuple[str, str, int] | None = None  # target, entity tag and generation of a late answer


@dataclass(slots=True)
class Soak:
    """A run: the servers, and what has been counted."""

    product: Product
    photos: Path
    cache: Path
    session: aiohttp.ClientSession
    pictures: list[Picture]
    chosen: random.Random = field(default_factory=lambda: random.Random(22))
    began_s: float = field(default_factory=time.monotonic)
    counts: Counter[str] = field(default_factory=Counter)
    old: list[str] = field(default_factory=list)
    samples: list[Sizes] = field(default_factory=list)
    during: str = ""  # FULL while the disk is full

    # --- the load ---

    async def visit(self) -> None:
        """Ask for a picture, and look at the generation of the answer."""
        picture, kind = self.chosen.choice(self.pictures), self.chosen.random()
        target, headers = f"/{picture.key}?{self.chosen.choice(QUERIES)}", {}
        generations: dict[int, int] = {}
        if kind < 0.1:
            target = f"/{picture.key}?w={self.chosen.randrange(40, 500)}&fm={self.chosen.choice(('jpg', 'webp'))}"
        elif kind < 0.3 and picture.seen is not None:
            target, tag, generations[304] = picture.seen
            headers["If-None-Match"] = tag
        least, during = picture.acknowledged, self.during
        async with self.session.get(self.product.url + target, headers=headers) as answer:
            body = await answer.read()
        self.counts[f"GET {answer.status}{during or self.during}"] += 1
        if answer.status == 200:
            generations[200] = generation_of(body)
            picture.seen = (target, answer.headers["ETag"], generations[200])
        if generations.get(answer.status, least) < least:
            self.old.append(f"{answer.status} {target}: {generations[answer.status]}, acknowledged {least}")

    async def purge(self) -> None:
        """Replace a picture, and purge its entry. It counts as purged when the answer is 200."""
        picture = self.chosen.choice(self.pictures)
        await asyncio.to_thread(write_picture, self.photos / picture.key, picture.written + 1)
        picture.written += 1
        during, where = self.during, f"{self.product.url}/-/purge/entries/{picture.entry}"
        async with self.session.post(where, headers=self.product.admin_headers) as answer:
            await answer.read()
        self.counts[f"purge {answer.status}{during or self.during}"] += 1
        if answer.status == 200:
            picture.acknowledged = picture.written

    async def kill(self) -> None:
        """Kill a render process."""
        with suppress(ProcessLookupError, IndexError):
            os.kill(self.chosen.choice(self.product.render_pids), signal.SIGKILL)
            self.counts["killed"] += 1

    async def read_slowly(self) -> None:
        """Ask for the large original, read a little of it each second, and leave."""
        host, port = self.product.url.removeprefix("http://").split(":")
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=client, limit=32_768)
        try:
            writer.write(f"GET /{LARGE} HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n".encode())
            for _ in range(20):
                await reader.read(16_384)
                await asyncio.sleep(1)
        finally:
            writer.transport.abort()
        self.counts["slow readers"] += 1

    async def fill_disk(self, start_s: float, end_s: float) -> None:
        """Keep the disk full between these times, whatever the edge deletes meanwhile."""
        await asyncio.sleep(self.began_s + start_s - time.monotonic())
        filler, self.during = self.cache / "filler", FULL
        while time.monotonic() - self.began_s < end_s:
            await asyncio.to_thread(fill, filler)
            await asyncio.sleep(0.2)
        filler.unlink()
        self.during = ""

    async def sample(self) -> None:
        """Read the sizes of the edge and its render processes."""
        async with self.session.get(f"{self.product.url}/-/status", headers=self.product.admin_headers) as answer:
            status = await answer.json()
        pids = accounting.tree(self.product.pid)
        files = (self.cache / "journal.sqlite", self.cache / "journal.sqlite-wal")
        self.samples.append(
            Sizes(
                at_s=round(time.monotonic() - self.began_s, 1),
                edge_resident_mb=accounting.resident_bytes(pids[0]) / MB,
                render_resident_mb=sum(accounting.resident_bytes(pid) for pid in pids[1:]) / MB,
                descriptors=sum(accounting.descriptors(pid) for pid in pids),
                threads=sum(accounting.threads(pid) for pid in pids),
                journal_bytes=sum(file.stat().st_size for file in files if file.exists()),
                purges=status["purge"]["seq"],
            )
        )

    async def run(self, seconds: float, *, is_small_disk: bool) -> None:
        """Run the load for so long."""
        again = [(self.visit, 1.0)] * VISITORS + [(self.read_slowly, 1.0)] * SLOW_READERS
        again += [(self.purge, 2.0), (self.kill, 20.0), (self.sample, min(2.0, seconds / 300))]
        await asyncio.gather(*(self.visit() for _ in range(VISITORS)))  # each visitor has a connection from now on
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._repeat(work, pause_s)) for work, pause_s in again]
            if is_small_disk:
                for start_s in (seconds / 15, seconds / 2):
                    await self.fill_disk(start_s, start_s + seconds / 30)
            await asyncio.sleep(self.began_s + seconds - time.monotonic())
            for task in tasks:
                task.cancel()

    async def _repeat(self, work: Callable[[], Awaitable[None]], pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s * self.chosen.uniform(0.8, 1.2))
            try:
                await work()
            except (aiohttp.ClientError, OSError) as error:
                self.counts[type(error).__name__] += 1


# --- the site ---


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small tmpfs on the folder. Yield whether it could be mounted."""
    folder.mkdir(parents=True)
    options = ("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder))
    is_mounted = os.geteuid() == 0 and subprocess.run(("mount", *options), check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(("umount", "--lazy", str(folder)), check=True)


@asynccontextmanager
async def started(work: Path, cache: Path) -> AsyncIterator[Soak]:
    """Start the library and the edge, each as a process."""
    photos, state, port = work / "photos", work / "library", free_port()
    for key in KEYS:
        write_picture(photos / key, 0)
    Image.effect_noise((2000, 2000), 90).convert("RGB").save(photos / LARGE, compress_level=1)
    webhook = ("--webhook-url", f"http://127.0.0.1:{port}/-/webhooks/livingdocs", "--webhook-secret", "soak-secret")
    sections: dict[str, dict[str, object]] = {
        "server": {"port": port},
        "cache": {"dir": str(cache), "max_bytes": 24 * MB, "hot_max_bytes": 4 * MB, "min_free_bytes": 8 * MB},
        "freshness": {"revalidate_after_s": 15, "settle_s": 10},
        "render": {"processes": 2},
        "webhook": {"secrets": ["soak-secret"]},
    }
    with Library(photos, state, *webhook) as library, Product(work / "edge", library.url, sections=sections) as product:
        pictures = await asyncio.to_thread(listed, photos, state)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            yield Soak(product, photos, cache, session, pictures)


def listed(photos: Path, state: Path) -> list[Picture]:
    """Return the pictures that are replaced in the run, with the ids of their entries."""
    command = imgproxy_command("library", str(photos), "--state", str(state), "--list", "--json")
    rows = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return [Picture(row["key"], row["id"]) for row in rows if row["key"] in KEYS]


def write_picture(path: Path, generation: int) -> None:
    """Write a picture in one step: its left half shows the generation, its right half is noise."""
    pixels = np.random.default_rng(generation).integers(0, 256, (900, 1200, 3), np.uint8)
    pixels[:, :600] = (generation // 16 * 16 + 8, generation % 16 * 16 + 8, 128)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}")
    Image.fromarray(pixels).save(new, "JPEG", quality=85)
    os.replace(new, path)


def generation_of(body: bytes) -> int:
    """Return the generation that a variant shows. Encoders change a colour by less than 8."""
    picture = Image.open(io.BytesIO(body)).convert("RGB")
    red, green, _ = np.asarray(picture)[picture.height // 2, picture.width // 4]
    return int(red) // 16 * 16 + int(green) // 16


def fill(path: Path) -> None:
    """Append to the file until the disk is full."""
    with open(path, "ab", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


# --- the result ---


async def soak(work: Path, seconds: float) -> dict[str, Any]:
    """Run it, and return the figures and whether each goal is met."""
    with small_disk(work / "cache") as is_small_disk:
        async with started(work, work / "cache") as run:
            cpu_s = accounting.tree_cpu_s(os.getpid())
            await run.run(seconds, is_small_disk=is_small_disk)
            cpu_s = accounting.tree_cpu_s(os.getpid()) - cpu_s
            async with run.session.get(f"{run.product.url}/-/ready") as answer:
                is_ready = answer.status == 200
            log = (run.product.folder / "edge.log").read_text("utf-8", errors="replace")
    early = figures(run.samples, seconds / 6, seconds / 6 + seconds / 30)
    late = figures(run.samples, seconds * 29 / 30, seconds)
    # What a purge leaves in the journal for a year, its receipt, is no leak.
    kept_bytes = JOURNAL_BYTES_A_PURGE * (late.pop("purges") - early.pop("purges"))
    goals = {
        name: late[name] - (kept_bytes if name == "journal_bytes" else 0) <= GROWTH_MAX * early[name] for name in early
    }
    goals |= {
        "no old answer": not run.old,
        "no other answers": set(run.counts) <= EXPECTED,
        "no traceback in the log": "Traceback" not in log,
        "ready at the end": is_ready,
    }
    return {
        "machine": machine.describe(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "full_disk": f"twice for {seconds / 30:.0f} s" if is_small_disk else NO_SMALL_DISK,
        "cpu_share": round(cpu_s / seconds, 3),
        "counts": dict(sorted(run.counts.items())),
        "old": run.old[:20],
        "after_a_sixth": early,
        "at_the_end": late,
        "goals": goals,
        "samples": [asdict(item) for item in run.samples[:: max(1, len(run.samples) // 60)]],
    }


def figures(samples: list[Sizes], since_s: float, until_s: float) -> dict[str, float]:
    """Return the medians of what was sampled between these times."""
    rows = [asdict(item) for item in samples if since_s <= item.at_s <= until_s]
    return {name: round(median(row[name] for row in rows), 1) for name in rows[0] if name != "at_s"}


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    seconds = parser.parse_args().seconds
    work = Path(tempfile.mkdtemp(prefix="imgproxy-soak-"))
    try:
        result = asyncio.run(soak(work, seconds))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps({name: value for name, value in result.items() if name != "samples"}, indent=2))
    if seconds >= SECONDS:  # a shorter run is a trial
        RESULTS.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return 0 if all(result["goals"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
