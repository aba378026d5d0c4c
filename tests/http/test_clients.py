"""URLs of the clients that pages really use, sent to a running edge byte for byte."""

from __future__ import annotations

import functools
import io
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import imgix
import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from imgproxy.config.sections import SigningSettings
from tests.support.site import Reply, Site, site

if TYPE_CHECKING:
    from collections.abc import Mapping

CLIENTS = Path(__file__).parents[1] / "clients"
HOST = "images.example"
TOKEN = "FOO123bar"
SIGNED: dict[str, Any] = {
    "signing": SigningSettings(tokens=(SecretStr("rotated-out"), SecretStr(TOKEN)), required=True)
}
ACCEPT = "image/webp,image/png,image/*;q=0.8,*/*;q=0.5"
ODD = "ein bild/ä+b (1)'!,~.jpg"
# imgix/js-core, constants DEFAULT_OPTIONS and the loop in targetWidths: 100, times 1.16, even, up to 8192.
SRCSET_WIDTHS_PX = [
    100, 116, 135, 156, 181, 210, 244, 283, 328, 380, 441, 512, 594, 689, 799, 927, 1075, 1247, 1446, 1678, 1946,
    2257, 2619, 3038, 3524, 4087, 4741, 5500, 6380, 7401, 8192,
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Made:
    """What one client made: single URLs, and srcsets as text."""

    urls: Mapping[str, str]
    srcsets: Mapping[str, str]

    def entries(self, name: str) -> list[tuple[str, float]]:
        """The URLs of a srcset with the number of their descriptor: a width, or a pixel ratio."""
        parts = [part.split() for part in self.srcsets[name].replace(",\n", ", ").split(", ")]
        return [(url, float(descriptor[:-1])) for url, descriptor in parts]


@functools.cache
def made_by_node() -> Mapping[str, Made]:
    """Run the npm clients once; skip, and say how to get them, where they are not installed."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("the npm clients need Node.js 20 or later, and there is no `node` here")
    if not (CLIENTS / "node_modules").is_dir():
        pytest.skip("the npm clients are not installed: npm ci --prefix tests/clients")
    ran = subprocess.run(
        [node, "urls.mjs", HOST, TOKEN], cwd=CLIENTS, capture_output=True, text=True, timeout=60, check=True
    )
    return {name: Made(found["urls"], found["srcsets"]) for name, found in json.loads(ran.stdout).items()}


def jpeg(width_px: int, height_px: int) -> bytes:
    """A picture with detail in every part, so that a lower quality makes it smaller."""
    y, x = np.mgrid[0:height_px, 0:width_px]
    noise = np.random.default_rng(1).integers(0, 60, (height_px, width_px))
    bands = np.stack([x * 180 // width_px + noise, y * 180 // height_px + noise, 120 - noise], axis=-1)
    out = io.BytesIO()
    Image.fromarray(bands.astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def logo() -> bytes:
    """A red square."""
    out = io.BytesIO()
    Image.new("RGB", (20, 20), (255, 0, 0)).save(out, "PNG")
    return out.getvalue()


PHOTO = jpeg(1200, 900)
PICTURES = {"photo.jpg": PHOTO, "thin.jpg": jpeg(1600, 80), ODD: jpeg(640, 480), "logo.png": logo()}


async def fetch(here: Site, url: str) -> Reply:
    """GET a client's URL at the edge, path and query as the client wrote them."""
    reply = await here.get(url.removeprefix(f"https://{HOST}"), Accept=ACCEPT)
    assert reply.status == 200, (url, reply.status, reply.body[:300])
    return reply


def picture(reply: Reply) -> Image.Image:
    """The picture in an answer."""
    return Image.open(io.BytesIO(reply.body))


async def sizes(here: Site, made: Made) -> dict[str, tuple[int, int]]:
    """The size of the picture behind each single URL."""
    return {name: picture(await fetch(here, url)).size for name, url in made.urls.items()}


# --- @imgix/js-core --------------------------------------------------------------------------------------------------


async def test_js_core_urls_verify_and_render(tmp_path: Path) -> None:
    """Signed URLs of @imgix/js-core: size, crop, focal point, odd names, base64; the plain one is the original."""
    made = made_by_node()["jsCore"]
    async with site(tmp_path, pictures=PICTURES, **SIGNED) as here:
        assert await sizes(here, made) == {
            "plain": (1200, 900),
            "size": (400, 300),
            "crop": (400, 225),
            "focal": (200, 200),
            "odd": (100, 75),
            "base64": (100, 75),
        }
        assert (await fetch(here, made.urls["plain"])).body == PHOTO
        assert (await fetch(here, made.urls["crop"])).headers["Content-Type"] == "image/webp"
        download = (await fetch(here, made.urls["odd"])).headers["Content-Disposition"]
        assert download.startswith("attachment;")
        assert "a%20b%2B%C3%BC.jpg" in download
        decoded = (await fetch(here, made.urls["base64"])).headers["Content-Disposition"]
        assert "I%20cann%C3%B8t%20%F0%9F%98%B1.jpg" in decoded


async def test_js_core_urls_with_a_changed_character_are_refused(tmp_path: Path) -> None:
    """The same URLs with one parameter changed, or without their signature, are 403."""
    made = made_by_node()["jsCore"]
    async with site(tmp_path, pictures=PICTURES, **SIGNED) as here:
        target = made.urls["size"].removeprefix(f"https://{HOST}")
        assert (await here.get(target.replace("w=400", "w=401"))).status == 403
        assert (await here.get(target.partition("&s=")[0])).status == 403


async def test_all_31_widths_of_a_js_core_srcset(tmp_path: Path) -> None:
    """Each entry of the default srcset, up to 8192, is a picture of exactly the width it announces."""
    made = made_by_node()["jsCore"]
    async with site(tmp_path, pictures=PICTURES, **SIGNED) as here:
        for name in ("widths", "range", "explicit"):
            found = [(picture(await fetch(here, url)).width, width) for url, width in made.entries(name)]
            assert all(actual == announced for actual, announced in found), found
        assert [width for _, width in made.entries("widths")] == SRCSET_WIDTHS_PX


async def test_pixel_ratios_one_to_five_of_a_js_core_srcset(tmp_path: Path) -> None:
    """1x to 5x give one to five times the size, and the lower quality that comes with 5x is honoured."""
    made = made_by_node()["jsCore"]
    async with site(tmp_path, pictures=PICTURES, **SIGNED) as here:
        bytes_at_5x = {}
        for name in ("ratios", "ratiosByHeight", "ratiosFixedQuality"):
            entries = made.entries(name)
            assert [ratio for _, ratio in entries] == [1, 2, 3, 4, 5]
            for url, ratio in entries:
                reply = await fetch(here, url)
                assert picture(reply).size == (120 * ratio, 90 * ratio)
                bytes_at_5x[name] = len(reply.body)
        assert bytes_at_5x["ratios"] < 0.6 * bytes_at_5x["ratiosFixedQuality"]


# --- unpic and Nuxt Image --------------------------------------------------------------------------------------------


async def test_unpic_urls_and_srcsets(tmp_path: Path) -> None:
    """unpic asks for fit=min and auto=format: announced widths, never above the source, as WebP."""
    made = made_by_node()["unpic"]
    async with site(tmp_path, pictures=PICTURES) as here:
        assert await sizes(here, made) == {"size": (400, 300), "format": (400, 300), "again": (400, 300)}
        grey = np.asarray(picture(await fetch(here, made.urls["again"])).convert("RGB"), dtype=int)
        assert np.ptp(grey, axis=2).max() <= 8
        assert (await fetch(here, made.urls["format"])).headers["Content-Type"] == "image/webp"
        for name, source_px in (("constrained", 1200), ("fixed", 1200), ("fullWidth", 1600)):
            for url, width in made.entries(name):
                reply = await fetch(here, url)
                assert reply.headers["Content-Type"] == "image/webp"
                asked = int(parse_qs(urlsplit(url).query)["w"][0])
                assert picture(reply).width == min(asked, source_px)
                assert asked == width or name == "fixed"


async def test_nuxt_image_urls_and_srcsets(tmp_path: Path) -> None:
    """Every fit of @nuxt/image's imgix provider, its densities by size, and its misspelt mark-sclae."""
    made = made_by_node()["nuxt"]
    async with site(tmp_path, pictures=PICTURES) as here:
        assert "mark-sclae" in made.urls["many"]
        assert await sizes(here, made) == {
            "size": (400, 300),
            "many": (90, 68),
            "odd": (100, 50),
            "fill": (300, 300),
            "inside": (300, 225),
            "outside": (300, 300),
            "cover": (300, 300),
            "contain": (300, 300),
            "clamp": (300, 300),
            "clip": (300, 225),
            "fillMax": (300, 300),
        }
        for url, width in made.entries("sizes"):
            assert picture(await fetch(here, url)).width == width
        for url, ratio in made.entries("densities"):
            assert picture(await fetch(here, url)).size == (300 * ratio, 225 * ratio)


# --- imgix (PyPI) ----------------------------------------------------------------------------------------------------


async def test_python_client_urls_and_srcsets(tmp_path: Path) -> None:
    """The official Python client: sorted and signed parameters, all 31 widths, 1x to 5x."""
    builder = imgix.UrlBuilder(HOST, sign_key=TOKEN, include_library_param=True)
    made = Made(
        {
            "size": builder.create_url("/photo.jpg", {"w": 400, "h": 100, "fit": "crop"}),
            "odd": builder.create_url(f"/{ODD}", {"w": 100, "txt64": "I cannøt 😱", "dl": "a+b c/ü"}),
            "rect": builder.create_url("/photo.jpg", {"rect": "center,middle,0.5,0.25", "w": 300}),
        },
        {
            "widths": builder.create_srcset("/thin.jpg"),
            "ratios": builder.create_srcset("/photo.jpg", {"w": 120}),
        },
    )
    async with site(tmp_path, pictures=PICTURES, **SIGNED) as here:
        assert await sizes(here, made) == {"size": (400, 100), "odd": (100, 75), "rect": (300, 113)}
        assert [width for _, width in made.entries("widths")] == SRCSET_WIDTHS_PX
        for url, width in made.entries("widths"):
            assert picture(await fetch(here, url)).width == width
        for url, ratio in made.entries("ratios"):
            assert picture(await fetch(here, url)).size == (120 * ratio, 90 * ratio)


# --- without a client library ----------------------------------------------------------------------------------------


async def test_livingdocs_urls(tmp_path: Path) -> None:
    """Livingdocs signs the bare key, whatever path its image host has, and writes crops as rect or into the path."""
    from imgproxy.params.signature import sign

    signing: dict[str, Any] = {
        "signing": SigningSettings(tokens=(SecretStr(TOKEN),), required=True, mount_prefix="/my-path-prefix")
    }
    async with site(tmp_path, pictures=PICTURES, **signing) as here:
        for target, size in (
            ("/photo.jpg?rect=100%2C0%2C800%2C450&w=400&auto=format", (400, 225)),
            ("/photo.jpg/C=W800,H450,X100,Y0?w=400&auto=format", (400, 225)),
            ("/photo.jpg?auto=format", (1200, 900)),
        ):
            reply = await fetch(here, f"/my-path-prefix{sign(target, TOKEN)}")
            assert picture(reply).size == size
            assert reply.headers["Content-Type"] == "image/webp"


async def test_next_js_loader_urls(tmp_path: Path) -> None:
    """The imgix loader of the Next.js documentation: auto, fit=max, w, q, by URLSearchParams."""
    async with site(tmp_path, pictures=PICTURES) as here:
        for width_px in (640, 1080, 1920):
            reply = await fetch(here, f"/photo.jpg?auto=format&fit=max&w={width_px}&q=50")
            assert picture(reply).width == min(width_px, 1200)
