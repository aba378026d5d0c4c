"""Content Credentials: what they cost a variant of a signed original, and what a picture without them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from benchmarks import accounting
from benchmarks.bench import Bench, fetch_all, keys
from benchmarks.client import get
from benchmarks.hits import settled
from benchmarks.photos import Photos
from benchmarks.renders import FM, QUALITY, WIDTH_PX
from benchmarks.rows import Result, Row
from benchmarks.servers import BenchError
from benchmarks.stats import paired_ratios, spread
from tests.support.credentials import CAPTURE, camera, newsroom, sign

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from benchmarks.client import Sample
    from benchmarks.servers import Origin, Product

SIGNED = "signed.jpg"
FORMATS = ("jpeg", "png", "webp", "avif")
MODES = ("strip", "remote", "embed")
HEADER = "x-imgproxy-credentials"
EXPECTED = {"strip": None, "remote": "linked", "embed": "embedded"}
# A page asks for several sizes of a picture: the manifest of the original is read for the first one.
WIDTHS_PX = (WIDTH_PX, 600, 400, 200)
# Photos without credentials, and the format that they are rendered to.
UNSIGNED = ((Photos.SIX, "jpeg"), (Photos.SMALL, "webp"))
PAIRS = 3
PUBLIC_URL = "https://images.example.org"
_LINK = re.compile(rf"<{re.escape(PUBLIC_URL)}(/[^>]+)>")


def measure(bench: Bench, result: Result) -> None:
    """Compare the modes on signed photos, then the modes on photos without credentials."""
    identity = bench.new_folder("certificates")
    identity.mkdir()
    with (
        bench.origin() as origin,
        _product(bench, origin, identity, "strip") as strip,
        _product(bench, origin, identity, "remote") as remote,
        _product(bench, origin, identity, "embed") as embed,
    ):
        products = dict(zip(MODES, (strip, remote, embed), strict=True))
        original_bytes = _sign_photo(bench.photos)
        (origin.www / SIGNED).symlink_to(bench.photos.path(SIGNED))
        several = keys("signed", SIGNED)
        for form in FORMATS:
            _signed(bench, result, products, several, form)
        _manifests(bench, result, remote, several)
    _unsigned(bench, result, identity)
    result.notes.insert(
        0,
        f"Signed with certificates of the tests (ES256, no timestamp). The manifest in the original has "
        f"{original_bytes:,} bytes and no thumbnail; a camera's thumbnail is added to every embedded manifest.",
    )


def _product(bench: Bench, origin: Origin, folder: Path, mode: str) -> AbstractContextManager[Product]:
    certificate, key = newsroom().write(folder)
    sections: dict[str, Mapping[str, object]] = {
        "content_credentials": {
            "mode": mode,
            "certificate_file": str(certificate),
            "key_file": str(key),
            "public_url": PUBLIC_URL,
            "timeout_s": 60,
        }
    }
    return bench.product(origin.url, sections=sections, name=f"imgproxy-{mode}")


def _sign_photo(photos: Photos) -> int:
    """Sign the photo of 6 MP as a camera does. Return how many bytes longer it is."""
    plain = photos.path(Photos.SIX).read_bytes()
    created = {"actions": [{"action": "c2pa.created", "digitalSourceType": CAPTURE}]}
    assertions = [{"label": "c2pa.actions.v2", "data": created}]
    signed = sign(plain, "image/jpeg", camera(), title=SIGNED, generator="Camera", assertions=assertions)
    photos.path(SIGNED).write_bytes(signed)
    return len(signed) - len(plain)


def _signed(bench: Bench, result: Result, products: Mapping[str, Product], several: Iterator[str], form: str) -> None:
    """Render widths of new keys, one request at a time, the modes by turns; originals are on disk already."""
    count = bench.scaled(4, 2)
    used: dict[str, list[float]] = {mode: [] for mode in MODES}
    signing: dict[str, list[float]] = {mode: [] for mode in MODES}
    sizes: dict[str, list[float]] = {mode: [] for mode in MODES}
    for number in range(bench.rounds + 1):
        chosen = [next(several) for _ in range(count)]
        for product in products.values():
            fetch_all([f"{product.url}/{key}?fm=json" for key in chosen], connections=1)
        before = {mode: (_cpu_s(product), _signing_cpu_s(product)) for mode, product in products.items()}
        seen: dict[str, int] = dict.fromkeys(MODES, 0)
        for key in chosen:
            for width_px in WIDTHS_PX:
                for mode, product in products.items():
                    url = f"{product.url}/{key}?w={width_px}&q={QUALITY}&fm={FM.get(form, form)}"
                    seen[mode] += _fetch(url, EXPECTED[mode]).size_bytes
        if not number:
            continue  # it starts the builders
        variants = count * len(WIDTHS_PX)
        for mode, product in products.items():
            used[mode].append((_cpu_s(product) - before[mode][0]) / variants * 1e3)
            signing[mode].append((_signing_cpu_s(product) - before[mode][1]) / variants * 1e3)
            sizes[mode].append(seen[mode] / variants)
    name = form.upper()
    for mode in MODES:
        result.figure(f"{name}, {mode}: CPU a variant", "ms", used[mode])
        result.figure(f"{name}, {mode}: bytes a variant", "B", sizes[mode])
    for mode in MODES[1:]:
        added = [size - plain for size, plain in zip(sizes[mode], sizes["strip"], strict=True)]
        figure = result.figure(f"{name}, {mode}: bytes added", "B", added)
        result.figure(f"{name}, {mode}: CPU of builder and signer a variant", "ms", signing[mode])
        result.figure(f"{name}, {mode} / strip, by CPU", "x", paired_ratios(used[mode], used["strip"]))
        more_ms = spread(signing[mode]).median
        bench.say(f"{name}, {mode}: {figure.spread.median:,.0f} bytes added, {more_ms:.1f} ms of builder and signer")


def _fetch(url: str, expected: str | None) -> Sample:
    answer = get(url)
    if answer.status != 200 or answer.headers.get(HEADER) != expected:
        raise BenchError(f"{url}: {answer.status}, {HEADER} {answer.headers.get(HEADER)}, expected {expected}")
    return answer


def _manifests(bench: Bench, result: Result, product: Product, several: Iterator[str]) -> None:
    """Ask for the manifests of linked variants, each for the first time."""
    used, sizes = [], []
    for _ in range(bench.rounds):
        chosen = [next(several) for _ in range(bench.scaled(8, 3))]
        links = []
        for key in chosen:
            answer = _fetch(f"{product.url}/{key}?w={WIDTH_PX}&q={QUALITY}&fm=jpg", "linked")
            found = _LINK.match(answer.headers["link"])
            if found is None:
                raise BenchError(f"no manifest is linked: {answer.headers['link']}")
            links.append(product.url + found[1])
        before_s = _cpu_s(product)
        samples = fetch_all(links, connections=1)
        used.append((_cpu_s(product) - before_s) / len(links) * 1e3)
        sizes.append(sum(sample.size_bytes for sample in samples) / len(links))
    result.figure("manifest, made on demand: CPU", "ms", used)
    result.figure("manifest: bytes", "B", sizes)


def _unsigned(bench: Bench, result: Result, identity: Path) -> None:
    """
    Compare photos without credentials: fetch and render, and hits; alternately, one request at a time.

    Two servers with the same settings differ by about one per cent, so there are several pairs of them.
    """
    pairs = [Comparison(bench, photo, form) for _ in range(PAIRS) for photo, form in UNSIGNED]
    hits: list[float] = []
    for pair in range(PAIRS):
        with (
            bench.origin() as origin,
            _product(bench, origin, identity, "strip") as off,
            _product(bench, origin, identity, "embed") as on,
        ):
            for comparison in pairs[pair * len(UNSIGNED) : (pair + 1) * len(UNSIGNED)]:
                comparison.run(off, on)
            hits += _hits(bench, off, on)
    for number, (photo, form) in enumerate(UNSIGNED):
        of_form = pairs[number :: len(UNSIGNED)]
        name = f"{form.upper()} of {'6' if photo == Photos.SIX else '1.4'} MP without credentials, cold"
        off_ms = [value for each in of_form for value in each.off_ms]
        on_ms = [value for each in of_form for value in each.on_ms]
        result.figure(f"{name}: CPU, strip", "ms", off_ms)
        result.figure(f"{name}: CPU, embed", "ms", on_ms)
        ratio = result.figure(f"{name}: embed / strip, by CPU", "x", paired_ratios(on_ms, off_ms))
        result.at_most(ratio.name, ratio.spread.median, 1.01)
    ratio = result.figure("hit without credentials: embed / strip, by CPU", "x", hits)
    result.at_most(ratio.name, ratio.spread.median, 1.01)
    result.notes.append(
        f"Without credentials: {PAIRS} pairs of servers, {bench.rounds} rounds each, one request at a time, the modes "
        "by turns: with each key, and with each 50 hits."
    )


class Comparison:
    """Fetches and renders of one photo in one format by a pair of servers. The first round does not count."""

    def __init__(self, bench: Bench, photo: str, form: str) -> None:
        self._bench = bench
        self._query = f"w={WIDTH_PX}&q={QUALITY}&fm={FM[form]}"
        self._keys = keys("unsigned", photo)
        self.off_ms: list[float] = []
        self.on_ms: list[float] = []

    def run(self, off: Product, on: Product) -> None:
        """Run all rounds."""
        count = self._bench.scaled(24, 6)
        for number in range(self._bench.rounds + 1):
            turns = (off, on) if number % 2 else (on, off)
            before = {product.pid: _cpu_s(product) for product in turns}
            for _ in range(count):
                key = next(self._keys)
                for product in turns:
                    _fetch(f"{product.url}/{key}?{self._query}", None)
            if number:
                self.off_ms.append((_cpu_s(off) - before[off.pid]) / count * 1e3)
                self.on_ms.append((_cpu_s(on) - before[on.pid]) / count * 1e3)


def _hits(bench: Bench, off: Product, on: Product) -> list[float]:
    """Return the ratios of the CPU of hits, round by round. The first round does not count."""
    target = f"/{next(keys('hit', Photos.SMALL))}?w={WIDTH_PX}&q={QUALITY}&fm=webp"
    settled(off, target)
    settled(on, target)
    ratios = []
    for number in range(bench.rounds + 1):
        before = [accounting.thread_cpu_s(product.pid) for product in (off, on)]
        for turn in range(bench.scaled(40, 10)):
            for product in (off, on) if turn % 2 else (on, off):
                fetch_all([product.url + target] * 50, connections=1)
        used = [accounting.thread_cpu_s(product.pid) - s for product, s in zip((off, on), before, strict=True)]
        if number:
            ratios.append(used[1] / used[0])
    return ratios


def _signing_cpu_s(product: Product) -> float:
    """Return the same of the builder and the signer alone."""
    found = (pid for pid in accounting.children(product.pid) if "imgproxy.manifests" in _command(pid))
    return sum(map(accounting.thread_cpu_s, found))


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _cpu_s(product: Product) -> float:
    """Return the CPU seconds of all living threads of the edge and its processes, to the nanosecond."""
    return sum(accounting.thread_cpu_s(pid) for pid in accounting.tree(product.pid))


ROWS = (Row("credentials", "Content Credentials: modes on signed photos, and on photos without credentials", measure),)
