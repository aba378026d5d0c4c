"""docs/clients.md: each example of the page is run, and what it asks for is fetched from a running edge."""

from __future__ import annotations

import asyncio
import html
import io
import json
import re
import shutil
import sys
import tomllib
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from pydantic import SecretStr

from imgproxy.config.sections import SigningSettings
from imgproxy.config.url import UrlSettings
from imgproxy.params.signature import sign
from tests.http.test_clients import jpeg
from tests.support.site import Reply, Site, site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "clients.md").read_text("utf-8")
CLIENTS = REPOSITORY / "tests" / "clients"
ORIGIN = "https://images.example.com"
KEY = "2026/03/14/harbour.jpg"
SOURCE_PX = (2000, 1333)
TOKEN = "a-token-of-the-page"
AVIF = "image/avif,image/webp,image/*"

# Name of each example -> (language of its fence, code).
EXAMPLES: dict[str, tuple[str, str]] = {
    name: (language, code)
    for name, language, code in re.findall(
        r"^<!-- example: (\S+) -->\n```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    )
}
BY_NODE = {
    "images", "js-core", "imgix-core-js", "unpic", "react", "next-page", "next-loader", "vue", "nuxt", "nuxt-page",
    "blurhash-fetch", "blurhash-draw",
}  # fmt: skip
BY_NEXT = {"next-config", "next-image"}  # with more of the page: tests/http/test_next_pages.py
BY_OTHERS = {"ladder", "html", "php", "python-imgix", "python"}


@pytest.fixture(scope="module")
def photo() -> bytes:
    """A picture larger than every width of the page but those of Next.js for large screens."""
    return jpeg(*SOURCE_PX)


def start(tmp_path: Path, photo: bytes, *, is_signed: bool = False, **sections: Any) -> Any:
    """Start an edge with the picture of the page."""
    if is_signed:
        sections["signing"] = SigningSettings(tokens=(SecretStr(TOKEN),), required=True)
    return site(tmp_path, pictures={KEY: photo}, **sections)


async def run(*command: str, cwd: Path) -> str:
    """Run a program with the page's token, and return what it prints."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "IMGPROXY_SIGNING_TOKEN": TOKEN},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()


async def run_node(tmp_path: Path, origin: str) -> dict[str, Any]:
    """Run all examples in JavaScript. Skips, and says how to get them, where they cannot run."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("the JavaScript of docs/clients.md needs Node.js 20.11 or later, and there is no `node` here")
    if not (CLIENTS / "node_modules" / "esbuild").is_dir():
        pytest.skip("the npm clients are not installed: npm ci --prefix tests/clients")
    folder = tmp_path / "page"
    folder.mkdir()
    for name in BY_NODE:
        language, code = EXAMPLES[name]
        (folder / f"{name}.{language}").write_text(code, "utf-8")
    return dict(json.loads(await run(node, "page.mjs", str(folder), origin, cwd=CLIENTS)))


async def fetch(here: Site, url: str) -> Reply:
    """GET a URL of the page as a browser with AVIF."""
    assert url.startswith(ORIGIN), url
    reply = await here.get(url.removeprefix(ORIGIN), Accept=AVIF)
    assert reply.status == 200, (url, reply.status, reply.body[:300])
    return reply


def width_of(reply: Reply) -> int:
    """The width of the picture in an answer."""
    return int(Image.open(io.BytesIO(reply.body)).width)


def entries(srcset: str) -> list[tuple[str, int]]:
    """The URLs of a srcset with their widths."""
    return [(url, int(width)) for url, width in re.findall(r"(https://\S+) (\d+)w", srcset)]


async def check_srcset(here: Site, srcset: str, widths: Iterable[int]) -> None:
    """Each entry is a picture of the width that it announces, in a format of the browser."""
    found = entries(srcset)
    assert [width for _, width in found] == list(widths)
    for url, width in found:
        reply = await fetch(here, url)
        assert width_of(reply) == width
        assert reply.headers["Content-Type"] in {"image/avif", "image/webp"}


def test_each_example_is_run_by_a_test() -> None:
    """A new example of the page needs a test. A block without a name is no example in a programming language."""
    assert set(EXAMPLES) == BY_NODE | BY_NEXT | BY_OTHERS
    assert len(re.findall(r"^```\w+$", PAGE, re.MULTILINE)) == len(EXAMPLES)


async def test_the_clients_of_imgix_sign_and_get_each_width(tmp_path: Path, photo: bytes) -> None:
    """@imgix/js-core, its predecessor, and the module that the other examples use; React, Next.js and Vue show them."""
    async with start(tmp_path, photo, is_signed=True) as here, signing_proxy(here) as origin:
        made = await run_node(tmp_path, origin)
        for name in ("js-core", "imgix-core-js"):
            assert width_of(await fetch(here, made[name]["src"])) == 640
            await check_srcset(here, made[name]["srcset"], (320, 640, 1280))
        assert width_of(await fetch(here, made["images"]["src"])) == 960
        await check_srcset(here, made["images"]["srcset"], made["widths"])
        for markup in (made["react"], made["vue"]):
            source = html.unescape(markup)
            assert f'src="{made["images"]["src"]}"' in source
            assert entries(source) == entries(made["images"]["srcset"])
            assert 'width="1280"' in source


@asynccontextmanager
async def signing_proxy(here: Site) -> AsyncIterator[str]:
    """A server for the example that fetches a BlurHash: it sends what the edge answers to a signed URL."""
    reply = await here.get(sign(f"/{KEY}?fm=blurhash", TOKEN))
    assert reply.status == 200

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + reply.body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_the_clients_that_do_not_sign(tmp_path: Path, photo: bytes) -> None:
    """unpic, the loader of Next.js with all its default widths, and Nuxt Image; the placeholder is drawn."""
    async with start(tmp_path, photo) as here:
        made = await run_node(tmp_path, here.edge.url)
        assert width_of(await fetch(here, made["unpic"]["src"])) == 640
        for url, width in entries(made["unpic"]["srcset"]):
            assert width_of(await fetch(here, url)) == width
        for width, url in made["loader"]:
            assert width_of(await fetch(here, url)) == min(width, SOURCE_PX[0])
        assert entries(made["nuxt"]["srcset"])
        for url, width in entries(made["nuxt"]["srcset"]):
            assert width_of(await fetch(here, url)) == width

        assert (await here.get(f"/{KEY}?fm=blurhash")).body.decode() == made["hash"]
        assert 20 <= len(made["hash"]) <= 40
        assert made["drawn"][3] == 255
        assert any(made["drawn"][:3])


async def test_the_html_preloads_what_it_shows(tmp_path: Path, photo: bytes) -> None:
    """The same srcset and sizes in both elements, and the ratio of the picture."""
    code = html.unescape(EXAMPLES["html"][1])
    link, img = re.findall(r"<(?:link|img)[^>]*>", code)
    attributes = [dict(re.findall(r'([\w-]+)="([^"]*)"', element)) for element in (link, img)]
    assert entries(attributes[0]["imagesrcset"]) == entries(attributes[1]["srcset"])
    assert attributes[0]["imagesizes"] == attributes[1]["sizes"]
    async with start(tmp_path, photo) as here:
        await check_srcset(here, attributes[1]["srcset"], (640, 1280))
        largest = Image.open(io.BytesIO((await fetch(here, entries(attributes[1]["srcset"])[-1][0])).body))
        assert largest.size == (int(attributes[1]["width"]), int(attributes[1]["height"]))


async def test_php_signs(tmp_path: Path, photo: bytes) -> None:
    """Each width of its srcset, from an edge that requires signatures."""
    php = shutil.which("php")
    if php is None:
        pytest.skip("the PHP of docs/clients.md needs php (Debian: apt-get install php-cli)")
    (tmp_path / "page.php").write_text(EXAMPLES["php"][1], "utf-8")
    async with start(tmp_path, photo, is_signed=True) as here:
        await check_srcset(here, await run(php, "page.php", cwd=tmp_path), (320, 640, 1280))


@pytest.mark.parametrize("name", ["python", "python-imgix"])
async def test_python_signs(name: str, tmp_path: Path, photo: bytes) -> None:
    """With the client of imgix, and without a library."""
    (tmp_path / "page.py").write_text(EXAMPLES[name][1] + "\nprint(src)\nprint(globals().get('srcset', ''))\n", "utf-8")
    src, srcset = (await run(sys.executable, "page.py", cwd=tmp_path)).split("\n", 1)
    async with start(tmp_path, photo, is_signed=True) as here:
        assert width_of(await fetch(here, src)) == 640
        if name == "python-imgix":
            await check_srcset(here, srcset, (320, 640, 1280))


async def test_the_ladder_raises_a_width_and_matches_the_module(tmp_path: Path, photo: bytes) -> None:
    """`w=600` gets 640, as the page says; what is wider than the last step gets that; the module has the same widths."""
    url = UrlSettings(**tomllib.loads(EXAMPLES["ladder"][1])["url"])
    (listed,) = re.findall(r"WIDTHS = (\[.*\])", EXAMPLES["images"][1])
    assert json.loads(listed) == list(url.width_ladder_px)
    async with start(tmp_path, photo, url=url) as here:
        for asked, width in ((600, 640), (640, 640), (1950, 1920)):
            assert width_of(await here.get(f"/{KEY}?w={asked}")) == width


async def test_density_and_client_hints(tmp_path: Path, photo: bytes) -> None:
    """`dpr=2` has twice the pixels; a hint counts where `ch` allows it, and the answer varies by it."""
    async with start(tmp_path, photo) as here:
        assert width_of(await here.get(f"/{KEY}?w=200&dpr=2")) == 400
        hinted = await here.get(f"/{KEY}?w=200&ch=width,dpr", Sec_CH_DPR="3")
        assert width_of(hinted) == 600
        assert "dpr" in hinted.headers["Vary"].lower()
        assert width_of(await here.get(f"/{KEY}?w=200", Sec_CH_DPR="3")) == 200
        best, saving = [await here.get(f"/{KEY}?w=200&ch=save-data", Save_Data=value) for value in ("", "on")]
        assert len(saving.body) < len(best.body)
