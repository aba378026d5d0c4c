"""Rows of many edges: what an edge with an empty disk spends, with and without the shared store."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bench import Bench, fetch_all, keys
from benchmarks.photos import Photos
from benchmarks.renders import QUALITY, WIDTH_PX
from benchmarks.rows import Result, Row
from benchmarks.servers import BenchError, Product, Server, free_port
from benchmarks.stats import paired_ratios

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCESS, SECRET, BUCKET = "bench-access", "bench-secret", "pictures"
# The first answer of an edge with an empty disk costs it at most this share of what it costs without the store.
BOUND = 0.25
WRITTEN_WITHIN_S = 60.0


class Gateway(Server):
    """versitygw over a folder, as S3. `settings` are the section of an edge that uses it."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("versitygw") or shutil.which("versitygw", path=str(Path.home() / "go" / "bin"))
        if program is None:
            raise BenchError("versitygw is not installed: go install github.com/versity/versitygw/cmd/versitygw@v1.8.0")
        (folder / "root" / BUCKET).mkdir(parents=True)
        (folder / "meta").mkdir()
        port = free_port()
        words = ["--port", f"127.0.0.1:{port}", "--access", ACCESS, "--secret", SECRET, "--quiet", "--keep-alive"]
        words += ["posix", "--sidecar", str(folder / "meta"), str(folder / "root")]
        super().__init__("versitygw", [program, *words], url=f"http://127.0.0.1:{port}", log=folder / "log")

    @property
    def settings(self) -> Mapping[str, object]:
        """Return the section `[shared_store]`."""
        return {
            "url": f"s3://{BUCKET}",
            "endpoint": self.url,
            "allow_http": True,
            "region": "us-east-1",
            "access_key_id": ACCESS,
            "secret_key": SECRET,
            # The machine is busy, and a slow answer of the gateway is no miss here.
            "read_timeout_s": 20.0,
        }


def measure_empty_disk(bench: Bench, result: Result) -> None:
    """Compare the first answers of edges with an empty disk: the store has everything, or there is no store."""
    several = keys("shared", Photos.SIX)
    targets = [f"/{next(several)}?w={WIDTH_PX}&q={QUALITY}&fm=jpg" for _ in range(bench.scaled(60, 20))]
    with_ms, without_ms, with_first_ms, without_first_ms = [], [], [], []
    with bench.origin() as origin, Gateway(bench.new_folder("s3")) as gateway:
        sections = {"shared_store": gateway.settings}
        with bench.product(origin.url, sections=sections, name="first") as first:
            fetch_all([first.url + target for target in targets], connections=4)
            _await_written(first)
        for _ in range(bench.rounds):
            with bench.product(origin.url, sections=sections, name="with-store") as product:
                used_ms, first_ms = _answer_all(product, targets)
                if product.metric("imgproxy_renders_total"):
                    raise BenchError("an edge rendered what the store has")
            with_ms.append(used_ms)
            with_first_ms.append(first_ms)
            with bench.product(origin.url, name="without-store") as product:
                used_ms, first_ms = _answer_all(product, targets)
            without_ms.append(used_ms)
            without_first_ms.append(first_ms)
    result.figure("empty disk, with the store: a first answer, CPU", "ms", with_ms)
    result.figure("empty disk, without a store: a first answer, CPU", "ms", without_ms)
    result.figure("empty disk, with the store: a first answer", "ms", with_first_ms)
    result.figure("empty disk, without a store: a first answer", "ms", without_first_ms)
    ratio = result.figure("shared store on / off, by CPU", "x", paired_ratios(with_ms, without_ms))
    result.at_most(ratio.name, ratio.spread.median, BOUND)
    result.notes.append(
        f"{len(targets)} pictures of 6 MP, {WIDTH_PX} px, JPEG, one request after the other; CPU of the edge and its "
        "render processes. With the store: a read of the facts, a conditional request to the origin, a read of the "
        "variant. Without: a fetch and a render. The gateway is versitygw on this machine; its CPU is not counted."
    )


def _answer_all(product: Product, targets: list[str]) -> tuple[float, float]:
    """Send these requests one after the other. Return the CPU and the time of an answer, in milliseconds."""
    used_s = product.cpu_s()
    samples = fetch_all([product.url + target for target in targets], connections=1)
    spent_s = product.cpu_s() - used_s
    scale = 1e3 / len(targets)
    return spent_s * scale, sum(sample.latency_s for sample in samples) * scale


def _await_written(product: Product) -> None:
    """Wait until the store has everything."""
    end_at = time.monotonic() + WRITTEN_WITHIN_S
    while product.metric("imgproxy_shared_store_queue"):
        if time.monotonic() > end_at:
            raise BenchError("the edge does not get its objects into the store")
        time.sleep(0.05)
    os.sync()  # files of the gateway must not be written to the disk during the rounds


ROWS = (
    Row(
        "empty-disk",
        "First answers of an edge with an empty disk, with and without the shared store",
        measure_empty_disk,
    ),
)
