"""
Comparison with peers: ipx (npm) and thumbor (PyPI), started here in pinned versions, and any server given by a URL.

They are installed once, into `.peers` beside this file. A peer that cannot be installed is skipped, and the row says
so. Every contestant has all cores: ipx as one process with libvips' threads, thumbor and imgproxy with a process per
core.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyvips

from benchmarks import accounting
from benchmarks.bench import Bench, Peer, keys
from benchmarks.client import Engine, Request, get
from benchmarks.photos import Photos
from benchmarks.renders import FM, QUALITY, WIDTH_PX, query
from benchmarks.rows import Result, Row
from benchmarks.servers import BenchError, Server, free_port
from benchmarks.stats import paired_ratios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.servers import Product

HERE = Path(__file__).resolve().parent
INSTALLED = HERE / ".peers"
PINNED = HERE / "peers"
INSTALL_TIMEOUT_S = 600

CONTENT_TYPES = {"jpeg": "image/jpeg", "webp": "image/webp", "avif": "image/avif"}
CONNECTIONS = 4
# Originals fetched before a round: more than are rendered in its three seconds.
STOCK = 250
OURS = "imgproxy"
OURS_BASELINE = "imgproxy, baseline JPEG"

THUMBOR_CONF = """
LOADER = "{loader}"
FILE_LOADER_ROOT_PATH = "{photos}"
STORAGE = "thumbor.storages.no_storage"
RESULT_STORAGE = {result_storage}
RESULT_STORAGE_FILE_STORAGE_ROOT_PATH = "{folder}/results"
RESULT_STORAGE_STORES_UNSAFE = True
ALLOW_UNSAFE_URL = True
HTTP_LOADER_MAX_BODY_SIZE = 104857600
"""


@dataclass(slots=True)
class Contestant:
    """A server in the comparison, and how its URLs look. Names may be any: ours are known by `is_ours`."""

    name: str
    local: Callable[[str, str], str] | None = None  # (photo, format) -> URL, a fresh render each time
    remote: Callable[[str, str], str] | None = None  # the same, but it fetches the original within the request
    again: Callable[[str, str], str] | None = None  # the same URL every time
    prepare: Callable[[str], None] | None = None  # (photo): what `local` needs, before the clock runs
    at: Callable[[str, str, int, int], str] | None = None  # (photo, format, width, q) -> URL of a fresh render, fetched
    cpu_s: Callable[[], float] | None = None  # CPU seconds of its processes so far, if they are known
    is_ours: bool = False
    is_baseline: bool = False  # ours with jpg-progressive=false: for JPEG alone


def measure(bench: Bench, result: Result) -> None:
    """Measure each row in turns between all contestants that have it."""
    with contextlib.ExitStack() as stack:
        contestants = start(bench, result.notes, stack)
        for row, kind, photo, form in (
            *((f"{form.upper()} of 6 MP", "local", Photos.SIX, form) for form in FM),
            ("JPEG of 24 MP", "local", Photos.TWENTY_FOUR, "jpeg"),
            ("JPEG of 6 MP, fetched over HTTP", "remote", Photos.SIX, "jpeg"),
            ("the same URL again", "again", Photos.SIX, "jpeg"),
        ):
            _row(bench, result, contestants, (row, kind, photo, form))
    result.notes.append(
        f"{WIDTH_PX} px, q={QUALITY} on each peer's own scale, {CONNECTIONS} connections, {bench.rounds} rounds in "
        "turns. imgproxy gets another key for each render and writes every result to its cache; the peers "
        "keep nothing, except "
        "for `the same URL again`: there thumbor has its result storage; ipx has no cache and renders again. "
        "imgproxy's render processes run at nice 10, so other processes slow it down first. JPEG like for like: "
        "progressive, imgproxy's default, against a peer whose answer is progressive, and with `jpg-progressive=false` "
        "against one whose answer is baseline."
    )
    if bench.peers:
        result.notes.append("A --peer fetches the original within the request in all rows but `the same URL again`.")


def start(bench: Bench, notes: list[str], stack: contextlib.ExitStack) -> list[Contestant]:
    """Start an origin, imgproxy and the peers, until the stack is closed. A note says why a peer was skipped."""
    origin = stack.enter_context(bench.origin())
    product = stack.enter_context(bench.product(origin.url))
    contestants = [_ours(product), _ours(product, "&jpg-progressive=false")]
    for name, begin in (("ipx", _ipx), ("thumbor", _thumbor)):
        try:
            contestants.append(begin(bench, origin.url, stack))
        except (BenchError, OSError, subprocess.SubprocessError) as error:
            notes.append(f"SKIPPED: {name} could not be installed or started: {str(error)[-300:]}")
            bench.say(notes[-1])
    return contestants + [_templated(number, peer, origin.url) for number, peer in enumerate(bench.peers)]


@dataclass(slots=True)
class Racer:
    """A contestant in one row, with its rates so far. `is_baseline`: its answer is a baseline JPEG."""

    name: str
    address: Callable[[str, str], str]
    is_baseline: bool
    prepare: Callable[[str], None] | None
    cpu_s: Callable[[], float] | None
    is_ours: bool
    rates: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)  # for each answer, one value a round


def _row(bench: Bench, result: Result, contestants: list[Contestant], row: tuple[str, str, str, str]) -> None:
    name, _, photo, form = row
    racing = [racer for contestant in contestants if (racer := _enter(contestant, result, row)) is not None]
    ours = {racer.is_baseline: racer for racer in racing if racer.is_ours}
    peers = [racer for racer in racing if not racer.is_ours]
    if not any(peer.is_baseline for peer in peers):
        racing = [racer for racer in racing if not (racer.is_ours and racer.is_baseline)]
    seconds = 1.5 if bench.is_quick else 3.0
    for number in range(bench.rounds + 1):
        for racer in racing:
            if racer.prepare is not None:
                racer.prepare(photo)
            rate, cpu_ms = _rate(racer, photo, form, seconds)
            if number > 0:
                racer.rates.append(rate)
                racer.cpu_ms += [] if cpu_ms is None else [cpu_ms]
    for racer in racing:
        result.figure(f"{name}: {racer.name}", "1/s", racer.rates)
        if racer.cpu_ms:
            result.figure(f"{name}: {racer.name}, CPU", "ms", racer.cpu_ms)
    for peer in peers:
        alike = ours.get(peer.is_baseline, ours[False])
        ratio = result.figure(f"{name}: {alike.name} / {peer.name}", "x", paired_ratios(alike.rates, peer.rates))
        result.at_least(ratio.name, ratio.spread.median, 1.0)
        if alike is not ours[False]:
            unlike = paired_ratios(ours[False].rates, peer.rates)
            result.figure(f"{name}: {OURS} (progressive) / {peer.name} (baseline)", "x", unlike)


def _enter(contestant: Contestant, result: Result, row: tuple[str, str, str, str]) -> Racer | None:
    """Return the contestant as a racer of this row, or None if it does not have the row."""
    name, kind, photo, form = row
    address = getattr(contestant, kind)
    if address is None or (contestant.is_baseline and form != "jpeg"):
        return None
    answer = get(address(photo, form))
    if answer.status == 200 and answer.headers.get("content-type", "").startswith(CONTENT_TYPES[form]):
        is_baseline = form == "jpeg" and not _is_progressive(answer.body)
        prepare = contestant.prepare if kind == "local" else None
        return Racer(contestant.name, address, is_baseline, prepare, contestant.cpu_s, contestant.is_ours)
    if contestant.is_ours:
        raise BenchError(f"{answer.status} {answer.headers.get('content-type')} for {address(photo, form)}")
    result.notes.append(f"{contestant.name} does not have {name}: {answer.status} {answer.body[:80]!r}")
    return None


def _is_progressive(body: bytes) -> bool:
    """Whether a JPEG is progressive."""
    image = pyvips.Image.new_from_buffer(body, "")
    return bool(image.get_typeof("jpeg-multiscan") and image.get("jpeg-multiscan"))


def _rate(racer: Racer, photo: str, form: str, seconds: float) -> tuple[float, float | None]:
    """Return the answers a second, and the CPU milliseconds of each answer (None if its processes are unknown)."""

    def requests() -> Iterator[Request]:
        while True:
            yield Request(racer.address(photo, form))

    with Engine() as engine:
        used_s = racer.cpu_s() if racer.cpu_s else 0.0
        started_at = time.monotonic()
        samples = engine.closed_until(requests(), CONNECTIONS, seconds)
    bad = [sample for sample in samples if sample.status != 200]
    if bad:
        raise BenchError(f"{bad[0].status} for {bad[0].request.url}: {bad[0].body[:200]!r}")
    cpu_ms = (racer.cpu_s() - used_s) * 1e3 / len(samples) if racer.cpu_s else None
    return len(samples) / (max(sample.last_at for sample in samples) - started_at), cpu_ms


# --- the contestants ------------------------------------------------------------------------------------------------


def _ours(product: Product, more: str = "") -> Contestant:
    """imgproxy. `local` requests keys whose originals `prepare` has fetched: more than a round uses."""
    url = product.url
    prefix = "baseline" if more else "peers"
    fresh = {photo: keys(prefix, photo) for photo in (Photos.SIX, Photos.TWENTY_FOUR)}
    numbers = itertools.count()
    stock: dict[str, list[str]] = {photo: [] for photo in fresh}

    def prepare(photo: str) -> None:
        missing = [next(fresh[photo]) for _ in range(STOCK - len(stock[photo]))]
        with Engine() as engine:
            engine.closed([Request(f"{url}/{key}") for key in missing], CONNECTIONS)
        stock[photo] += missing

    def local(photo: str, form: str) -> str:
        if not stock[photo]:
            prepare(photo)
        return f"{url}/{stock[photo].pop()}?{query(form)}{more}"

    return Contestant(
        OURS_BASELINE if more else OURS,
        local=local,
        remote=lambda photo, form: f"{url}/{next(fresh[photo])}?{query(form)}{more}",
        again=lambda photo, form: f"{url}/again/{photo}?{query(form)}{more}",
        prepare=prepare,
        at=lambda photo, form, width, q: f"{url}/at/{next(numbers)}/{photo}?w={width}&q={q}&fm={FM[form]}{more}",
        cpu_s=product.cpu_s,
        is_ours=True,
        is_baseline=bool(more),
    )


def _ipx(bench: Bench, origin_url: str, stack: contextlib.ExitStack) -> Contestant:
    folder = _install_ipx(bench)
    port = free_port()
    log = bench.new_folder("ipx.log")
    server = Server(
        "ipx",
        ["node", str(folder / "node_modules/ipx/bin/ipx.mjs"), "serve", "--host", "127.0.0.1", "--port", str(port)],
        url=f"http://127.0.0.1:{port}",
        log=log,
        environment={
            "IPX_FS_DIR": str(bench.photos.folder),
            "IPX_HTTP_DOMAINS": "127.0.0.1",
            "NODE_ENV": "production",
        },
    )
    url = stack.enter_context(server).url
    cpu_s = server.cpu_s

    def at(photo: str, form: str, width: int, q: int) -> str:
        return f"{url}/w_{width},q_{q},f_{form}/{photo}"

    def local(photo: str, form: str) -> str:
        return at(photo, form, WIDTH_PX, QUALITY)

    def remote(photo: str, form: str) -> str:
        return local(f"{origin_url}/r/{photo}", form)

    return Contestant(
        "ipx",
        local,
        remote=remote,
        again=local,
        at=lambda photo, form, width, q: at(f"{origin_url}/r/{photo}", form, width, q),
        cpu_s=cpu_s,
    )


def _thumbor(bench: Bench, origin_url: str, stack: contextlib.ExitStack) -> Contestant:
    program = _install_thumbor(bench)
    servers: dict[str, Server] = {}
    for kind, loader, result_storage in (
        ("local", "thumbor.loaders.file_loader", None),
        ("remote", "thumbor.loaders.http_loader", None),
        ("again", "thumbor.loaders.file_loader", "thumbor.result_storages.file_storage"),
    ):
        folder = bench.new_folder("thumbor")
        folder.mkdir()
        conf = folder / "thumbor.conf"
        conf.write_text(
            THUMBOR_CONF.format(
                loader=loader, photos=bench.photos.folder, folder=folder, result_storage=repr(result_storage)
            ),
            encoding="utf-8",
        )
        port = free_port()
        command = [str(program), "-i", "127.0.0.1", "-p", str(port), "-c", str(conf), "-l", "error"]
        server = Server(
            "thumbor",
            [*command, "--processes", str(len(bench.cores))],
            url=f"http://127.0.0.1:{port}",
            log=folder / "log",
            ready_path="/healthcheck",
        )
        servers[kind] = stack.enter_context(server)

    def at(kind: str, source: str, form: str, width: int = WIDTH_PX, q: int = QUALITY) -> str:
        return f"{servers[kind].url}/unsafe/{width}x0/filters:quality({q}):format({form})/{source}"

    def cpu_s() -> float:
        return sum(server.cpu_s() for server in servers.values())

    return Contestant(
        "thumbor",
        local=lambda photo, form: at("local", photo, form),
        remote=lambda photo, form: at("remote", f"{origin_url}/r/{photo}", form),
        again=lambda photo, form: at("again", photo, form),
        at=lambda photo, form, width, q: at("remote", f"{origin_url}/r/{photo}", form, width, q),
        cpu_s=cpu_s,
    )


def _templated(number: int, peer: Peer, origin_url: str) -> Contestant:
    """A server that runs already. With {key} in its URL each render gets another key."""
    fresh = {photo: keys(f"peer{number}", photo) for photo in (Photos.SIX, Photos.TWENTY_FOUR)}
    pid = peer.pid

    numbers = itertools.count()

    def address(key: str, form: str, width: int = WIDTH_PX, q: int = QUALITY) -> str:
        return peer.url.format(origin=origin_url, key=key, width=width, quality=q, format=form)

    def render(photo: str, form: str) -> str:
        return address(next(fresh[photo]), form)

    cpu_s = None if pid is None else partial(accounting.tree_cpu_s, pid)
    return Contestant(
        peer.name,
        local=render,
        remote=render,
        again=address,
        at=lambda photo, form, width, q: address(f"at{number}/{next(numbers)}/{photo}", form, width, q),
        cpu_s=cpu_s,
    )


# --- installing -----------------------------------------------------------------------------------------------------


def _install_ipx(bench: Bench) -> Path:
    folder = INSTALLED / "ipx"
    lock = PINNED / "package-lock.json"
    if not _is_current(folder, lock):
        if shutil.which("npm") is None:
            raise BenchError("npm is not installed")
        bench.say("installing ipx, as pinned in benchmarks/peers/package-lock.json")
        _fresh(folder)
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(PINNED / name, folder / name)
        _run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], folder)
        _mark(folder, lock)
    return folder


def _install_thumbor(bench: Bench) -> Path:
    folder = INSTALLED / "thumbor"
    lock = PINNED / "thumbor.lock"
    if not _is_current(folder, lock):
        bench.say("installing thumbor, as pinned in benchmarks/peers/thumbor.lock")
        _fresh(folder)
        _run([sys.executable, "-m", "venv", str(folder)], folder)
        pip = [str(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        _run([*pip, "-r", str(lock)], folder)
        _mark(folder, lock)
    return folder / "bin/thumbor"


def _is_current(folder: Path, lock: Path) -> bool:
    mark = folder / "installed-from"
    return mark.exists() and mark.read_bytes() == lock.read_bytes()


def _mark(folder: Path, lock: Path) -> None:
    (folder / "installed-from").write_bytes(lock.read_bytes())


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command[:3])}: {done.stderr[-300:]}")


ROWS = (Row("peers", "Compared with ipx, thumbor and each --peer", measure),)
