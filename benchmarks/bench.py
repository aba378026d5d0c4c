"""What every row gets: the photos, the size of the run, the cores, a folder to work in, and servers that are ready."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.client import Engine, Request, Sample
from benchmarks.servers import BenchError, Origin, Product

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.photos import Photos


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare with that runs already: any name, the template of its URLs, and perhaps its process."""

    name: str
    url: str
    pid: int | None = None


def read_peers(peers: Sequence[str], pids: Sequence[str]) -> list[Peer]:
    """
    Read the values of `--peer NAME=URL` and `--peer-pid NAME=PID`. A name may hold anything, also "=".

    Raises ValueError if a value has another form, or a process belongs to no peer.
    """
    processes: dict[str, int] = {}
    for value in pids:
        name, _, pid = value.rpartition("=")
        processes[name] = int(pid)
    found = []
    for value in peers:
        match = re.fullmatch(r"(.*?)=(https?://.*)", value, re.DOTALL)
        if match is None:
            raise ValueError(f"--peer {value}: expected NAME=URL, with a URL of http or https")
        found.append(Peer(match[1], match[2], processes.pop(match[1], None)))
    if processes:
        raise ValueError(f"--peer-pid of no peer: {', '.join(processes)}")
    return found


@dataclass(slots=True)
class Bench:
    """One run of the benchmark."""

    folder: Path
    photos: Photos
    is_quick: bool
    rounds: int
    memory_renders: int
    peers: list[Peer] = field(default_factory=list)
    _made: int = 0

    @property
    def cores(self) -> list[int]:
        """Return the cores that this run may use."""
        return sorted(os.sched_getaffinity(0))

    @property
    def server_core(self) -> int | None:
        """Return the core of a server that is measured on one core; None on a machine with one core."""
        return self.cores[0] if len(self.cores) > 1 else None

    @property
    def load_core(self) -> int | None:
        """Return the core of wrk; None on a machine with one core."""
        return self.cores[-1] if len(self.cores) > 1 else None

    def scaled(self, count: int, quick: int) -> int:
        """Return `count` in a full run and `quick` in a quick run."""
        return quick if self.is_quick else count

    def new_folder(self, name: str) -> Path:
        """Return a new path in the working folder. The folder is not made."""
        self._made += 1
        return self.folder / f"{self._made:03d}-{name}"

    def say(self, text: str) -> None:
        """Print a line of progress."""
        print(f"    {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def origin(self) -> Iterator[Origin]:
        """Run nginx as serve-image, with the photos."""
        with Origin(self.new_folder("origin")) as origin:
            for picture in self.photos.folder.iterdir():
                (origin.www / picture.name).symlink_to(picture)
            yield origin

    @contextlib.contextmanager
    def product(
        self,
        origin_url: str,
        *,
        sections: Mapping[str, Mapping[str, object]] | None = None,
        core: int | None = None,
        name: str = "imgproxy",
    ) -> Iterator[Product]:
        """Run the product with an empty cache."""
        with Product(self.new_folder(name), origin_url, sections=sections, core=core, name=name) as product:
            yield product


def fetch_all(
    urls: Iterable[str], *, connections: int, headers: Mapping[str, str] | None = None, keep_bodies: bool = False
) -> list[Sample]:
    """
    Get every URL over `connections`, and return the samples.

    Raises:
        BenchError: an answer is not a 200.
    """
    with Engine(keep_bodies=keep_bodies) as engine:
        samples = engine.closed([Request(url, headers or {}) for url in urls], connections)
    for sample in samples:
        if sample.status != 200:
            raise BenchError(f"{sample.status} for {sample.request.url}: {sample.body[:300]!r}")
    return samples


def keys(prefix: str, photo: str) -> Iterator[str]:
    """Yield new keys of one photo, without end. With another prefix they are other keys."""
    number = 0
    while True:
        number += 1
        yield f"{prefix}/{number:06d}/{photo}"
