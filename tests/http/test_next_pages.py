"""docs/clients.md: Next.js itself builds the pages, and the pictures of the built pages are fetched from a running edge."""

from __future__ import annotations

import asyncio
import html
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.http.test_clients import jpeg
from tests.http.test_clients_page import CLIENTS, EXAMPLES, KEY, TOKEN, check_srcset, entries, fetch, start, width_of

if TYPE_CHECKING:
    from pathlib import Path

LADDER_PX = [320, 640, 960, 1280, 1920]
NEXT = CLIENTS / "next" / "node_modules"
LAYOUT = """
export default function Layout({ children }) {
  return <html lang="en"><body>{children}</body></html>;
}
"""
# Where the page says that each example belongs.
FILES = {
    "app/page.jsx": "next-page",
    "app/images.js": "images",
    "app/Picture.jsx": "react",
    "app/gallery/page.jsx": "next-image",
    "image-loader.js": "next-loader",
    "next.config.mjs": "next-config",
}


async def build(folder: Path) -> dict[str, str]:
    """Let Next.js build the pages. Returns the first `<img>` of each page by its name."""
    node = shutil.which("node")
    if node is None or not NEXT.is_dir():
        pytest.skip("Next.js is not installed: npm ci --prefix tests/clients/next")
    for path, example in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(EXAMPLES[example][1], "utf-8")
    (folder / "app" / "layout.jsx").write_text(LAYOUT, "utf-8")
    (folder / "package.json").write_text('{"name": "pages", "private": true, "type": "module"}', "utf-8")
    (folder / "node_modules").symlink_to(NEXT)
    process = await asyncio.create_subprocess_exec(
        node, str(NEXT / "next" / "dist" / "bin" / "next"), "build", "--webpack",  # the other bundler refuses the link
        cwd=folder,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "IMGPROXY_SIGNING_TOKEN": TOKEN, "NEXT_TELEMETRY_DISABLED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode == 0, said.decode()
    pages = folder / ".next" / "server" / "app"
    found = {
        name: re.search(r"<img[^>]*>", (pages / f"{name}.html").read_text("utf-8")) for name in ("index", "gallery")
    }
    return {name: html.unescape(match[0]) for name, match in found.items() if match}


@pytest.mark.slow
async def test_next_js_builds_the_pages_and_their_pictures_come(tmp_path: Path) -> None:
    """The server component signs; `next/image` does not. Each URL of both is a picture of the width that it announces."""
    images = await build(tmp_path)
    photo = jpeg(2000, 1333)

    async with start(tmp_path / "signed", photo, is_signed=True) as here:
        (src,) = re.findall(r' src="([^"]+)"', images["index"])
        assert width_of(await fetch(here, src)) == 960
        await check_srcset(here, images["index"], LADDER_PX)
        assert (await here.get(f"/{KEY}?w=640")).status == 403
    async with start(tmp_path / "unsigned", photo) as here:
        assert {width for _, width in entries(images["gallery"])} == set(LADDER_PX)
        await check_srcset(here, images["gallery"], LADDER_PX)
