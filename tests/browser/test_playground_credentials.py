"""The playground shows Content Credentials: the chain of the original, and what the result has."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from imgproxy.config.credentials import ContentCredentialsSettings
from imgproxy.demo.playground import files
from imgproxy.edge.playground import ListedPicture, PlaygroundParts
from tests.support.browser import chromium_or_skip, wait_for_picture
from tests.support.credentials import authority, newsroom, signed_source, unsigned_source
from tests.support.site import ADMIN, KEY, site

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.slow  # a browser and an edge

AXE = Path(__file__).parents[1] / "clients" / "node_modules" / "axe-core" / "axe.min.js"
TOKEN = ADMIN["Authorization"].removeprefix("Bearer ")
PUBLIC = "https://images.example"
PLAIN = "2026/03/14/plain.jpg"
TIMEOUT_MS = 120_000
VIOLATIONS = (
    "axe.run('.stage').then(({violations}) => violations.map(({id, nodes}) => [id, nodes.map(({html}) => html)]))"
)


async def pictures(search: str, count: int) -> Sequence[ListedPicture]:
    """What the page offers."""
    del search, count
    return [ListedPicture("signed", KEY), ListedPicture("plain", PLAIN)]


def look(edge: str) -> dict[str, Any]:
    """Open the playground, in dark on a small screen, and read what it says of both pictures."""
    with chromium_or_skip() as browser:
        page = browser.new_context(viewport={"width": 360, "height": 900}, color_scheme="dark").new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(f"{edge}/-/playground#token={TOKEN}")
        wait_for_picture(page)
        summary = page.locator("#original-facts .credentials summary")
        found: dict[str, Any] = {
            "original": summary.inner_text(),
            "is_open": page.locator(".credentials ol").is_visible(),
        }
        summary.focus()
        page.keyboard.press("Enter")
        found["chain"] = page.locator(".credentials ol li").all_inner_texts()
        result = page.locator("#result-facts .wide").last.locator("dd")
        found |= {
            "result": result.inner_text(),
            "link": result.locator("a").evaluate_all("all => all.map((a) => a.href)"),
        }
        if AXE.exists():
            page.evaluate(AXE.read_text("utf-8"))
            found["violations"] = page.evaluate(VIOLATIONS)
        found["fits"] = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.get_by_role("button", name="plain.jpg").click()
        page.wait_for_selector(f"#original-image[alt='Original of {PLAIN}']")
        page.locator("#result-facts .wide", has_text="none").wait_for()  # the result is loaded a little later
        found["plain"] = [page.locator(f"#{which}-facts .wide").last.inner_text() for which in ("original", "result")]
        return found


@pytest.mark.parametrize(("mode", "words"), [("embed", "embedded"), ("remote", "linked: its manifest")])
async def test_the_page_shows_the_credentials_of_original_and_result(tmp_path: Path, mode: Any, words: str) -> None:
    """A line that opens by keyboard has each generation; the result says what it has, and links to its manifest."""
    certificate, key = newsroom().write(tmp_path)
    anchors = tmp_path / "anchors.pem"
    anchors.write_text(authority().anchor)
    settings = ContentCredentialsSettings(
        mode=mode,
        certificate_file=certificate,
        key_file=key,
        trust_anchors_file=anchors,
        public_url=PUBLIC,
        timeout_s=60,
    )
    originals = {KEY: signed_source(parents=1), PLAIN: unsigned_source()}
    playground = PlaygroundParts(files(), pictures=pictures)
    async with site(tmp_path, pictures=originals, content_credentials=settings, playground=playground) as here:
        found = await asyncio.to_thread(look, here.edge.url)
        targets = [link.removeprefix(PUBLIC) for link in found.pop("link")]
        manifests = [(await here.get(target)).headers["Content-Type"] for target in targets]

    assert found.pop("violations", []) == []
    assert found == {
        "original": "valid and trusted; signed by Test Newsroom, Test Newsroom Ltd",
        "is_open": False,
        "chain": [
            "Edit 1; signed by Test Newsroom, Test Newsroom Ltd; Test Editor 1.0; opened, adjustedColor",
            "DSC_0001; signed by Test Camera, Test Camera Ltd; Test Camera 1.0; created (digitalCapture)",
        ],
        "result": words,
        "fits": True,
        "plain": ["credentials\nnone", "credentials\nnone"],
    }
    assert manifests == (["application/c2pa"] if mode == "remote" else [])
