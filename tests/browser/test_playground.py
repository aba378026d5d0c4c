"""The playground in a real browser, over the demo as `make demo` runs it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from PIL import Image

from tests.support.browser import chromium_or_skip, wait_for_picture
from tests.support.frontends import free_port
from tools.browser import demo_running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

    Opened = Callable[..., Page]

pytestmark = pytest.mark.slow  # a browser and a demo: together half a minute

AXE = Path(__file__).parents[1] / "clients" / "node_modules" / "axe-core" / "axe.min.js"
# Artefacts of a run: they are looked at, not compared.
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
HARBOUR = "2026/03/14/harbour-at-dusk.jpg"
TIMEOUT_MS = 60_000
TABS = ("url", "explain", "compare", "purge")
# Every violation of the page's policy, from its first moment on.
WATCH_POLICY = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective + " " + event.blockedURI));
"""


@pytest.fixture(scope="module")
def demo(browser: Browser) -> Iterator[str]:
    """The demo in a process of its own, if there is a browser; the URL of its playground, with the token."""
    del browser
    with demo_running(free_port()) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the module."""
    with chromium_or_skip() as started:
        yield started


@pytest.fixture
def open_page(browser: Browser, demo: str) -> Iterator[Opened]:
    """Open the playground in a context of its own, and wait until original and result are there."""
    contexts = []

    def open_it(url: str = demo, *, width: int = 1280, scheme: Any = "light", is_ready: bool = True) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(TIMEOUT_MS)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.add_init_script(WATCH_POLICY)
        page.goto(url)
        if is_ready:
            wait_for_picture(page)
        return page

    yield open_it
    for context in contexts:
        context.close()


def wait_for_url(page: Page, pattern: str) -> str:
    """Wait until the URL that the page shows has a pattern, and its result is there. Returns the URL."""
    page.wait_for_function("pattern => new RegExp(pattern).test(document.getElementById('url').value)", arg=pattern)
    page.wait_for_selector("#result:not([aria-busy])")
    return str(page.input_value("#url"))


def facts(page: Page, which: str = "result") -> dict[str, str]:
    """Return what the page says about original or result."""
    script = "list => Object.fromEntries([...list.children].map((each) => [...each.children].map((part) => part.textContent)))"
    found: dict[str, str] = page.eval_on_selector(f"#{which}-facts", script)
    return found


def picture_at(url: str) -> Image.Image:
    """Fetch a picture without the browser."""
    with urlopen(Request(url, headers={"Accept": "image/webp"})) as answer:
        return Image.open(io.BytesIO(answer.read()))


def test_a_dragged_rectangle_becomes_rect_in_pixels_of_the_original(open_page: Opened) -> None:
    """From the middle to the right end and three quarters down, of 6000 by 4000 pixels."""
    page = open_page()
    box = page.locator("#overlay").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] + 30, box["y"] + box["height"] * 3 / 4, steps=3)
    page.mouse.up()

    url = wait_for_url(page, "rect=")
    x, y, width, height = (int(number) for number in re.findall(r"rect=([\d,]+)", url)[0].split(","))
    assert (x, y, width, height) == pytest.approx((3000, 1000, 3000, 2000), abs=30)
    assert x + width <= 6000
    assert picture_at(url).width / picture_at(url).height == pytest.approx(1.5, abs=0.02)


def test_a_clicked_point_becomes_the_focal_point(open_page: Opened) -> None:
    """With what it needs to have an effect: a box, and the modes of fit and crop."""
    page = open_page()
    page.click("#tool-focus")
    box = page.locator("#overlay").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.75)

    url = wait_for_url(page, "fp-x=")
    point = [float(text) for text in re.findall(r"fp-[xy]=([\d.]+)", url)]
    assert point == pytest.approx([0.25, 0.75], abs=0.01)
    page.click("#tab-explain")
    rows = page.locator("#panel-explain tbody tr", has_text="fp-")
    rows.first.wait_for()
    assert {row.locator(".effect").inner_text() for row in rows.all()} == {"used"}


def test_a_moved_slider_changes_number_url_and_result(open_page: Opened) -> None:
    """A slider and its number are one value; the result says its size, format, time and cache outcome."""
    page = open_page()
    slider = page.locator("#p-q").locator("xpath=preceding-sibling::input")
    slider.fill("20")
    wait_for_url(page, "q=20$")

    assert page.input_value("#p-q") == "20"
    shown = facts(page)
    assert shown["pixels"] == "800 \N{MULTIPLICATION SIGN} 533"
    assert shown["format"] == "avif"
    assert re.fullmatch(r"\d+(\.\d+)? k?B \(\d+ %\)", shown["bytes"])
    assert re.fullmatch(r"[\d.]+ ms, .*render [\d.]+ ms", shown["time"])
    assert shown["cache"].startswith("miss")
    page.fill("#p-q", "21")
    wait_for_url(page, "q=21$")
    page.fill("#p-q", "20")
    wait_for_url(page, "q=20$")
    page.wait_for_function("() => document.getElementById('result-facts').textContent.includes('hit')")


def test_the_copied_url_and_code_give_the_picture(open_page: Opened) -> None:
    """What is in the clipboard is a URL that anybody can fetch; the code names such URLs."""
    page = open_page()
    page.fill("#p-w", "320")
    wait_for_url(page, "w=320&")
    page.click("#copy-url")
    page.wait_for_selector("text=The URL is copied.")
    url = page.evaluate("navigator.clipboard.readText()")

    assert picture_at(url).width == 320
    page.click("text=Copy >> nth=1")
    page.wait_for_selector("text=The code for HTML is copied.")
    code = page.evaluate("navigator.clipboard.readText()").replace("&amp;", "&")
    srcset = re.findall(r"(http\S+) (\d+)w", code)
    assert len(srcset) == 5
    assert [picture_at(each).width for each, _ in srcset[:2]] == [int(width) for _, width in srcset[:2]]
    for title in ("Next.js", "Nuxt Image", "unpic"):
        assert HARBOUR in str(page.locator("#snippets details", has_text=title).locator("pre").text_content()), title


def test_every_parameter_has_a_labelled_control(open_page: Opened, demo: str) -> None:
    """The page is written from the table; a signature is not typed."""
    page = open_page()
    with urlopen(demo.partition("#")[0] + "/table.json") as answer:
        table = json.load(answer)
    names = [row["name"] for section in table["sections"] for row in section["parameters"] if row["name"] != "s"]
    assert page.locator(".controls .row .name").all_text_contents() == names
    has_input = "rows => rows.map((row) => row.querySelectorAll('.inputs :is(input, select)').length > 0)"
    assert all(page.eval_on_selector_all(".controls .row", has_input))


def test_the_policy_is_kept_and_nothing_is_loaded_from_elsewhere(open_page: Opened, demo: str) -> None:
    """Over every panel: no violation, no error in a script, no cookie, and no request to another host."""
    page = open_page("about:blank", is_ready=False)
    hosts, errors = set(), []
    page.on("request", lambda request: hosts.add(urlsplit(request.url.removeprefix("blob:")).netloc))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(demo)
    wait_for_picture(page)
    for tab in TABS:
        page.click(f"#tab-{tab}")
    page.wait_for_selector(".stack img:nth-child(2):not([hidden])", state="attached")

    assert (page.evaluate("window.violations"), errors) == ([], [])
    assert hosts == {urlsplit(demo).netloc}
    assert page.context.cookies() == []
    assert "token" not in page.url


def test_the_token_is_asked_once_and_a_wrong_one_is_refused_in_words(open_page: Opened, demo: str) -> None:
    """It is kept for this tab, also over a reload, and nowhere else."""
    url, _, token = demo.partition("#token=")
    page = open_page(url, is_ready=False)
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=The service refuses this token.")
    page.fill("#token", token)
    page.keyboard.press("Enter")
    wait_for_picture(page)
    page.reload()
    wait_for_picture(page)

    assert page.evaluate("[Object.values(sessionStorage), localStorage.length]") == [[token], 0]


def test_a_revoked_picture_goes_and_comes_back(open_page: Opened) -> None:
    """The receipt of the webhook's purge is shown, then the answer of the service in words."""
    page = open_page()
    page.click("#pictures button[data-key$='sun-and-showers.png']")
    wait_for_url(page, "sun-and-showers")
    wait_for_picture(page)
    url = page.input_value("#url")
    page.click("#tab-purge")
    page.click("text=Revoke in the library")
    page.wait_for_selector(".steps >> text=/Purge \\d+: [1-9]\\d* variants?, .* deleted in/")
    page.wait_for_selector("#result-problem >> text=403 Revoked")
    page.wait_for_selector(".steps >> text=Asked for it again: 403 Revoked")
    page.click("text=Bring it back")
    page.wait_for_selector(".steps >> text=Asked for it again: miss")

    wait_for_picture(page)
    assert picture_at(url).width == 800


def test_everything_works_by_keyboard(open_page: Opened) -> None:
    """Choose a picture, crop with the arrows, open a panel, move the divider; the mouse is never used."""
    page = open_page()
    page.focus("#pictures button[data-key$='eileen-collins.jpg']")
    page.keyboard.press("Enter")
    wait_for_url(page, "eileen")
    wait_for_picture(page)
    page.focus("#overlay")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    wait_for_url(page, "rect=46,51,307,400$")
    page.keyboard.press("Delete")
    wait_for_url(page, "format$")
    page.focus("#tab-url")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#panel-compare:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "tab-compare"
    page.focus("#divider")
    page.keyboard.press("ArrowRight")
    assert page.eval_on_selector(".stack", "stack => stack.style.getPropertyValue('--divider')") == "51%"


def test_an_error_is_shown_in_words_and_the_layout_stays(open_page: Opened) -> None:
    """A URL that has expired: the frame keeps its place, and so does all below it."""
    page = open_page()
    script = "Math.round(document.querySelector('.panels').getBoundingClientRect().top + scrollY)"
    before = page.evaluate(script)
    page.evaluate("document.querySelectorAll('.controls details').forEach((each) => (each.open = true))")
    page.fill("#p-expires", "1000")
    page.keyboard.press("Enter")
    page.wait_for_selector("#result-problem >> text=404 Expired")

    assert page.evaluate(script) == before


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark"), (768, "light")])
def test_it_is_accessible_and_fits_at_each_width(open_page: Opened, width: int, scheme: str) -> None:
    """axe finds nothing to complain about in any panel, and nothing is wider than the window. A picture of each is kept."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed (npm ci --prefix tests/clients)")
    page = open_page(width=width, scheme=scheme)
    page.screenshot(path=SCREENSHOTS / f"playground-{width}-{scheme}.png", full_page=True)
    page.evaluate("document.querySelectorAll('.controls details').forEach((each) => (each.open = true))")
    page.evaluate(AXE.read_text("utf-8"))
    is_dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every((part) => part < 80)")
    assert is_dark is (scheme == "dark")
    for tab in TABS:
        page.click(f"#tab-{tab}")
        if tab == "explain":
            page.wait_for_selector("#panel-explain table")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab
        found = page.evaluate(
            "axe.run().then(({violations}) => violations.map(({id, nodes}) => [id, nodes.map(({html}) => html)]))"
        )
        assert found == [], tab
