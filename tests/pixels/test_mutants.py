"""
Damaged files of every format, through a whole edge: none gives a 5xx, hangs, or ends a render process.

To add a format, add a seed: a small valid file with as many parts of its format as can be.
"""

from __future__ import annotations

import asyncio
import io
import random
import zlib
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import numpy as np
import pytest
import pyvips
from PIL import Image
from pydantic import SecretStr

from imgproxy.config.origin import OriginSettings
from imgproxy.config.sections import CacheSettings, LogSettings, RenderSettings, ServerSettings
from imgproxy.config.settings import Settings
from imgproxy.edge.app import Edge
from imgproxy.render import credit
from tests.support import containers, images, tagged
from tests.support.scripted_origin import Request, origin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MUTANTS: Final = 6_000
AT_ONCE: Final = 4
PIXELS: Final = images.photo(48, 32)
ALPHA: Final = images.with_alpha(PIXELS)

EXIF_ENTRIES: Final = [
    tagged.text(0x010E, "Berlin (dpa) - Der Bürgermeister\0".encode("cp1252")),
    tagged.text(0x013B, b"Jos\xe9 M\xfcller\0"),
    tagged.text(0x8298, b"Jane Doe\0John Roe\0"),
]
CAMERA_ENTRIES: Final = [
    (0x829A, tagged.RATIONAL, 1, b"\0\0\0\1\0\0\0\4"),
    tagged.text(0x9286, b"UNICODE\0\0A\0B", tagged.UNDEFINED),
    tagged.text(0x927C, b"MAKERNOTE" * 4, tagged.UNDEFINED),
]
XMP: Final = credit.as_xmp(credit.Credit(creators=("Zoë Ž",), copyright_notice="© Zoë", licensor_urls=("https://a.b",)))
IIM: Final = tagged.iim((1, 90, b"\x1b%G"), (2, 80, b"Jane"), (2, 116, b"\xa9 dpa"), (2, 25, b"geo:lat=4"))

SVG: Final = b"""<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 60 40">
<style>.a { fill: #c33; stroke: rgb(0 0 0 / 50%) }</style><defs><linearGradient id="g"><stop offset="0.2" stop-color="red"/>
<stop offset="1" stop-color="#00f"/></linearGradient><clipPath id="c"><circle cx="30" cy="20" r="18"/></clipPath></defs>
<g clip-path="url(#c)" transform="rotate(10 30 20)"><rect class="a" width="60" height="40" rx="4"/>
<path d="M5 5C10 40 50-10 55 35z" style="fill:url(#g);opacity:.5"/></g><text x="5" y="20" font-size="9">Z\xc3\xbcri</text></svg>"""


def made(kind: str, mode: str = "RGB", **options: object) -> bytes:
    """The picture in a format and mode of Pillow."""
    out = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(out, kind, **options)
    return out.getvalue()


def vips(saver: str, pixels: NDArray[Any], **options: object) -> bytes:
    """Pixels in a format, by a saver of libvips: for kinds that Pillow does not write."""
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="b-w" if pixels.ndim == 2 else "srgb")
    return bytes(getattr(image, f"{saver}_buffer")(**options))


def seeds() -> Iterator[tuple[str, bytes]]:
    """A name, and a valid file. Every format that is loaded has some; so have formats that are refused."""
    profile = images.vips_profile("p3")
    exif = {order: tagged.block(order, EXIF_ENTRIES, CAMERA_ENTRIES, [tagged.text(1, b"N\0")]) for order in "<>"}
    app13 = (0xED, b"Photoshop 3.0\0" + tagged.resource(0x404, IIM))
    jpeg = tagged.with_segments(images.jpeg(PIXELS), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP), app13)
    for order in "<>":
        yield f"JPEG with EXIF {order}", tagged.with_exif(jpeg, exif[order])
    yield "JPEG, progressive, with a profile", images.jpeg(PIXELS, progressive=True, icc_profile=profile)
    yield "JPEG in CMYK", made("JPEG", "CMYK")
    yield "JPEG, grey, with restarts", made("JPEG", "L", restart_marker_blocks=2)
    yield (
        "PNG with texts",
        containers.with_chunks(
            made("PNG"),
            (b"gAMA", (45455).to_bytes(4, "big")),
            (b"iCCP", b"p3\0\0" + zlib.compress(profile)),
            (b"pHYs", bytes((0, 0, 11, 19, 0, 0, 11, 19, 1))),
            (b"tEXt", b"Titr\xe9\0Jos\xe9"),
            (b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(b"\niptc\n 9\n" + IIM.hex().encode())),
            (b"iTXt", b"Author\0\1\0de\0\0" + zlib.compress("Zoë".encode())),
            (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
            (b"eXIf", exif[">"]),
        ),
    )
    codes = containers.gama(0.5), containers.chrm(0.31, 0.33, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
    yield "PNG with primaries", containers.with_chunks(made("PNG"), *codes)
    yield "PNG, HLG", containers.with_chunks(made("PNG"), containers.cicp(9, 18))
    yield "PNG with a palette", made("PNG", "P")
    yield "PNG of 16 bits", images.png(PIXELS[..., 0].astype(np.uint16) * 257)
    yield "PNG, interlaced", vips("pngsave", ALPHA, interlace=True)
    yield "GIF", made("GIF", "P", comment=b"Jos\xe9")
    yield "GIF, animated", images.animation("GIF", [PIXELS, PIXELS[::-1], PIXELS[:, ::-1]], [40, 60, 90])
    yield "WebP", images.encode(PIXELS, "WEBP", exif=b"Exif\0\0" + exif["<"], xmp=XMP, icc_profile=profile)
    yield "WebP, lossless, with alpha", vips("webpsave", ALPHA, lossless=True)
    yield "WebP, animated", images.animation("WEBP", [PIXELS, PIXELS[::-1]], [40, 60])
    yield "AVIF", images.encode(PIXELS, "AVIF", exif=b"Exif\0\0" + exif["<"], xmp=XMP, icc_profile=profile)
    yield "AVIF, PQ", containers.with_nclx(containers.avif(PIXELS), 9, 16)
    yield "AVIF of two items", containers.avif_of_items([PIXELS[:16, :16], PIXELS], 1)
    yield "AVIF with alpha", vips("heifsave", ALPHA, compression="av1")
    for order in "<>":
        blocks = [tagged.text(700, XMP, 1), tagged.text(33723, IIM, 7), tagged.text(34377, app13[1][14:], 1)]
        yield f"TIFF with metadata {order}", tagged.tiff(order, [*EXIF_ENTRIES, *blocks], side=24)
    for compression in ("deflate", "jpeg", "packbits"):
        yield f"TIFF, {compression}", vips("tiffsave", PIXELS, compression=compression)
    tiles = {"tile": True, "tile_width": 16, "tile_height": 16, "pyramid": True}
    yield "TIFF, lzw, in tiles", vips("tiffsave", PIXELS, compression="lzw", **tiles)
    yield "TIFF, fax", vips("tiffsave", PIXELS[..., 1], compression="ccittfax4", bitdepth=1)
    yield "TIFF in Lab", made("TIFF", "LAB")
    yield "SVG", SVG
    yield "SVG in UTF-16", SVG.decode().encode("utf-16")
    yield "SVG, packed", zlib.compress(SVG, wbits=31)
    for mode in ("RGB", "RGBA", "P"):
        yield f"BMP, {mode}", made("BMP", mode)
    yield "ICO", made("ICO")


SEEDS: Final = dict(seeds())
REFUSED: Final = frozenset({"ICO"})
BAD: Final = frozenset({"render-crashed", "render-timeout", "render-out-of-memory"})
# What is asked for: decode, metadata, description, other coders, and steps that read the pixels in another order.
QUERIES: Final = (
    "w=24",
    "fm=json",
    "w=24&fm=webp",
    "w=24&fm=jpg",
    "w=20&trim=auto&fm=png",
    "w=16&h=9&fit=crop&fm=avif",
    "fm=gif",
)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change a file in one to four places: bytes, numbers, whole ranges, its end. Heads are hit more often."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(found)) if chance.random() < 0.4 else chance.randrange(min(len(found), 700))
        length = chance.randint(1, 40)
        match chance.randrange(8):
            case 0 | 1:
                found[at] = chance.randrange(256)
            case 2:
                found[at] ^= 1 << chance.randrange(8)
            case 3:
                found[at : at + 4] = chance.choice(
                    (b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\xe9\xfc\xdf\x80")
                )
            case 4:
                del found[at : at + length]
            case 5:
                found[at:at] = chance.randbytes(length)
            case 6:
                found[at:at] = found[at : at + length]
            case _:
                del found[max(at, len(found) // 4) :]
        if not found:
            return b"\0"
    return bytes(found)


def mutants(count: int, seed: str) -> Iterator[tuple[str, bytes]]:
    """Name a mutant by its seed and number, so that a failure can be repeated."""
    names = sorted(SEEDS)
    for number in range(count):
        name = names[number % len(names)]
        yield f"{number} of {name}", mutate(SEEDS[name], random.Random(f"{seed} {number}"))


@dataclass(frozen=True, slots=True)
class Tried:
    """An edge before an origin that sends any bytes as a picture. (The embedded library skips what it cannot read.)"""

    edge: Edge
    session: aiohttp.ClientSession

    async def get(self, target: str) -> tuple[int, str]:
        """Return the status, and the kind of the problem if it is not 200. It takes a minute at most."""
        async with asyncio.timeout(60), self.session.get(self.edge.url + target) as response:
            if response.status == 200:
                await response.read()
                return 200, ""
            return response.status, (await response.json(content_type=None))["type"].rpartition(":")[2]


@asynccontextmanager
async def edge_before(pictures: Sequence[bytes], cache_dir: Path, **render: Any) -> AsyncIterator[Tried]:
    """Start an edge. The key of a picture is its number."""

    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        number = int(request.target.rpartition("/")[2].partition(".")[0])
        head = f'HTTP/1.1 200 OK\r\netag: "{number}"\r\ncontent-length: {len(pictures[number])}\r\n\r\n'
        writer.write(head.encode() + pictures[number])
        await writer.drain()

    async with origin(reply) as server:
        settings = Settings(
            server=ServerSettings(port=0, shutdown_timeout_s=5.0),
            origin=OriginSettings(url=server.url, token=SecretStr("t"), timeout_s=20),
            cache=CacheSettings(dir=cache_dir, min_free_bytes=0),
            render=RenderSettings(timeout_s=20, queue_timeout_s=60, **render),
            log=LogSettings(access="none"),
        )
        async with Edge(settings) as edge, aiohttp.ClientSession() as session:
            yield Tried(edge, session)


async def test_the_seeds_are_whole(tmp_path: Path) -> None:
    """A seed is a picture, or of a format that is refused: a broken seed would make broken mutants of little worth."""
    names = list(SEEDS)
    async with edge_before([SEEDS[name] for name in names], tmp_path, processes=1) as here:
        for number, name in enumerate(names):
            want = (422, "not-an-image") if name in REFUSED else (200, "")
            assert await here.get(f"/{number}.jpg?w=24&fm=png") == want, name
            assert await here.get(f"/{number}.jpg?fm=json") == want, name


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["credit", "all"])
async def test_no_damaged_file_ends_a_render_process(policy: str, tmp_path: Path) -> None:
    """Half of 6,000 mutants under each policy: every answer is 200 or 4xx, in time, and no process is replaced."""
    found = list(mutants(MUTANTS // 2, policy))
    pictures = [*(data for _, data in found), SEEDS["JPEG with EXIF <"]]
    targets = iter([(name, f"/{n}.jpg?{QUERIES[n // 7 % len(QUERIES)]}") for n, (name, _) in enumerate(found)])
    faults: list[str] = []
    answers: Counter[tuple[int, str]] = Counter()

    async def ask(here: Tried) -> None:
        for name, target in targets:
            answer = await here.get(target)
            answers[answer] += 1
            if answer[0] >= 500 or answer[1] in BAD:
                faults.append(f"{name}, {target}: {answer}")

    async with edge_before(pictures, tmp_path, processes=2, metadata=policy) as here:
        await asyncio.gather(*(ask(here) for _ in range(AT_ONCE)))
        assert faults == []
        assert here.edge.pool.restarts == 0
        assert await here.get(f"/{len(found)}.jpg?w=24") == (200, "")
    # Most mutants are damaged, but not all: a test whose every file is refused at once would show nothing.
    assert answers[200, ""] > MUTANTS // 20
    assert answers[422, "decode-failed"] > MUTANTS // 20
