"""Content Credentials: what they cost a variant of a signed original, and what a picture without them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from benchmarks import accounting
from benchmarks.bench import Bench, fetch_all, keys
from benchmarks.client import get
from benchmarks.hits import Contestant, compete, settled
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
        _unsigned(bench, result, strip, embed)
    core = bench.server_core
    with (
        bench.origin() as origin,
        _product(bench, origin, identity, "strip", core) as strip,
        _product(bench, origin, identity, "embed", core) as embed,
    ):
        _hits(bench, result, strip, embed)
    result.notes.insert(
        0,
        f"Signed with certificates of the tests (ES256, no timestamp). The manifest in the original has "
        f"{original_bytes:,} bytes and no thumbnail; a camera's thumbnail is added to every embedded manifest.",
    )


def _product(
    bench: Bench, origin: Origin, folder: Path, mode: str, core: int | None = None
) -> AbstractContextManager[Product]:
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
    return bench.product(origin.url, sections=sections, core=core, name=f"imgproxy-{mode}")


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


def _unsigned(bench: Bench, result: Result, off: Product, on: Product) -> None:
    """Fetch and render photos without credentials, alternately with the mode off and on, one request at a time."""
    for photo, form in ((Photos.SIX, "jpeg"), (Photos.SMALL, "webp")):
        several = keys("unsigned", photo)
        name = f"{form.upper()} of {'6' if photo == Photos.SIX else '1.4'} MP without credentials, cold"
        count = bench.scaled(24, 6)
        used: dict[str, list[float]] = {"off": [], "on": []}
        for number in range(3 * bench.rounds + 1):
            turns = (("off", off), ("on", on)) if number % 2 else (("on", on), ("off", off))
            before = {mode: _cpu_s(product) for mode, product in turns}
            for _ in range(count):
                key = next(several)
                for _, product in turns:
                    _fetch(f"{product.url}/{key}?w={WIDTH_PX}&q={QUALITY}&fm={FM[form]}", None)
            if number:
                for mode, product in turns:
                    used[mode].append((_cpu_s(product) - before[mode]) / count * 1e3)
        result.figure(f"{name}: CPU, strip", "ms", used["off"])
        result.figure(f"{name}: CPU, embed", "ms", used["on"])
        ratio = result.figure(f"{name}: embed / strip, by CPU", "x", paired_ratios(used["on"], used["off"]))
        result.at_most(ratio.name, ratio.spread.median, 1.01)
    result.notes.append(
        f"Without credentials: {3 * bench.rounds} rounds of {count} fetches and renders, one at a time, the modes by "
        "turns with each key."
    )


def _hits(bench: Bench, result: Result, off: Product, on: Product) -> None:
    """Compare hits of a photo without credentials."""
    target = f"/{next(keys('hit', Photos.SMALL))}?w={WIDTH_PX}&q={QUALITY}&fm=webp"
    settled(off, target)
    settled(on, target)
    contestants = [
        Contestant("hit without credentials, strip", off.pid, off.url + target),
        Contestant("hit without credentials, embed", on.pid, on.url + target),
    ]
    compete(bench, result, contestants)
    ratios = paired_ratios(contestants[1].cpu_us, contestants[0].cpu_us)
    ratio = result.figure("hit without credentials: embed / strip, by CPU", "x", ratios)
    result.at_most(ratio.name, ratio.spread.median, 1.01)


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
