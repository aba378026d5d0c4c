"""
Pictures of the playground at three widths, for the README and docs: `python -m tools.playground_pictures [FOLDER]`.

They show the demo with a crop and a focal point, in Chromium. The photos are those of the demo (CC0).
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from PIL import Image

from tools.browser import chromium, demo_running, find_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER: Final = Path(__file__).parents[1] / "docs" / "images"
PORT: Final = 18_080
TIMEOUT_MS: Final = 60_000
WEBP_QUALITY: Final = 82


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture: the size of the window in CSS pixels, and the scheme of colours."""

    width_px: int
    height_px: int
    scheme: Literal["light", "dark"]


SHOTS: Final = (Shot(1280, 960, "light"), Shot(768, 1180, "dark"), Shot(360, 1240, "light"))


def main() -> None:
    """Write the pictures."""
    path = find_chromium()
    if path is None:
        sys.exit("no Chromium is installed (Debian: apt-get install chromium)")
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with demo_running(PORT) as url, chromium(path) as browser:
        for shot in SHOTS:
            png = take(browser, url, shot)
            Image.open(io.BytesIO(png)).save(
                folder / f"playground-{shot.width_px}.webp", quality=WEBP_QUALITY, method=6
            )


def take(browser: Browser, url: str, shot: Shot) -> bytes:
    """Return a PNG of the page with a crop and a focal point."""
    context = browser.new_context(viewport={"width": shot.width_px, "height": shot.height_px}, color_scheme=shot.scheme)
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#overlay:not([hidden])")
    _drag(page, (0.26, 0.34), (0.74, 0.82))
    page.click("#tool-focus")
    _drag(page, (0.45, 0.6), (0.45, 0.6))
    page.wait_for_function("() => /fp-x/.test(document.getElementById('url').value)")
    page.wait_for_selector("#result:not([aria-busy]) #result-image:not([hidden])")
    page.wait_for_function("() => [...document.images].every((each) => each.hidden || each.complete)")
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
    png = page.screenshot(animations="disabled")
    context.close()
    return png


def _drag(page: Page, begin: tuple[float, float], end: tuple[float, float]) -> None:
    """Press, move and release the mouse on the original; places are parts of it. Equal ones are a click."""
    page.locator("#overlay").scroll_into_view_if_needed()
    box = page.locator("#overlay").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + begin[0] * box["width"], box["y"] + begin[1] * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + end[0] * box["width"], box["y"] + end[1] * box["height"])
    page.mouse.up()


if __name__ == "__main__":
    main()
