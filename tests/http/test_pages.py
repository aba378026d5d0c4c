"""The pages for visitors: the landing page, the list of parameters, robots.txt and the icon."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import pytest
from PIL import Image, ImageChops
from pydantic import SecretStr

from imgproxy import __version__
from imgproxy.config.sections import SigningSettings
from imgproxy.edge.pages import ICON, LANDING, PAGE_PATHS, PARAMETERS, ROBOTS, accepts_html
from imgproxy.params.table import PARAMETERS as ROWS
from tests.support.clock import StandingClock
from tests.support.lint import complaints, linted
from tests.support.overload import PATIENT, PICTURES, overloaded
from tests.support.site import ADMIN, jpeg, site
from tools.favicon import SIZES_PX, drawing

if TYPE_CHECKING:
    from pathlib import Path

# What Firefox sends for a page.
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
# Attributes of HTML that name something to load or to open.
LINKS = {"href", "src", "srcset", "action", "data", "poster"}


class Links(HTMLParser):
    """Collects the tags of a page, and the targets of its links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attrs if name in LINKS]


async def test_a_browser_gets_a_landing_page_and_a_program_a_summary(tmp_path: Path) -> None:
    """Both name the version and where the state is; a cache must not mix them up."""
    async with site(tmp_path) as here:
        page, summary = await here.get("/", Accept=BROWSER), await here.get("/", Accept="*/*")

        assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert __version__ in page.body.decode()
        assert (summary.status, summary.headers["Content-Type"]) == (200, "application/json")
        assert summary.json()["version"] == __version__
        assert page.headers["Vary"] == summary.headers["Vary"] == "Accept"


async def test_every_link_of_a_page_leads_to_an_answer_of_this_service(tmp_path: Path) -> None:
    """Nothing is loaded from elsewhere, and no link is broken."""
    async with site(tmp_path) as here:
        for path in (LANDING, PARAMETERS):
            found = Links((await here.get(path, Accept=BROWSER)).body.decode())
            assert "script" not in found.tags
            assert len(found.targets) >= 3
            for target in found.targets:
                assert not re.match(r"[a-z]+:|//", target), f"{path} names {target}"
                assert (await here.get(urljoin(path, target))).status == 200, f"{path} names {target}"


async def test_the_policy_of_a_page_allows_its_own_style_and_nothing_else(tmp_path: Path) -> None:
    """The hash in Content-Security-Policy is that of the style between the tags; scripts and frames are not allowed."""
    async with site(tmp_path) as here:
        for path in (LANDING, PARAMETERS):
            page = await here.get(path, Accept=BROWSER)
            style = re.search(r"<style>(.*)</style>", page.body.decode(), re.DOTALL)
            assert style is not None
            digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
            policy = dict(each.strip().split(" ", 1) for each in page.headers["Content-Security-Policy"].split(";"))
            assert policy["style-src"] == f"'sha256-{digest}'"
            assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
            assert "style=" not in page.body.decode()


async def test_pages_need_no_signature_and_the_library_is_not_asked(tmp_path: Path) -> None:
    """A page has no secret in it. Even a picture of that name in the library is not looked for."""
    signing = SigningSettings(tokens=(SecretStr("signing-token"),), required=True)
    pictures = {ROBOTS.removeprefix("/"): jpeg(1), ICON.removeprefix("/"): jpeg(2)}
    async with site(tmp_path, signing=signing, pictures=pictures, library={"is_lenient": True}) as here:
        here.probe.reset()
        for path in PAGE_PATHS:
            reply = await here.get(path, Accept=BROWSER)
            assert reply.status == 200
            for secret in (b"signing-token", b"admin-token", b"library-token", b"webhook-secret"):
                assert secret not in reply.body
        assert here.probe.count("serveImage") == 0


async def test_robots_may_index_pictures_but_no_routes(tmp_path: Path) -> None:
    """Search engines for pictures are welcome."""
    async with site(tmp_path) as here:
        reply = await here.get(ROBOTS)

        assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert reply.body.decode().splitlines() == ["User-agent: *", "Disallow: /-/", "Disallow: /api/v1/"]


async def test_the_icon_is_the_drawing_in_three_sizes(tmp_path: Path) -> None:
    """Each size in the file has the pixels that `python -m tools.favicon` draws."""
    async with site(tmp_path) as here:
        reply = await here.get(ICON)

    assert reply.headers["Content-Type"] == "image/x-icon"
    assert int(reply.headers["Content-Length"]) == len(reply.body) < 4000
    file: Any = Image.open(io.BytesIO(reply.body))
    assert file.info["sizes"] == {(side, side) for side in SIZES_PX}
    for side in SIZES_PX:
        difference = ImageChops.difference(file.ico.getimage((side, side)).convert("RGBA"), drawing(side))
        assert not any(difference.tobytes()), f"{side} px: run python -m tools.favicon"


async def test_the_list_has_every_parameter_with_its_aliases(tmp_path: Path) -> None:
    """It is made from the table that also reads URLs."""
    async with site(tmp_path) as here:
        text = (await here.get(PARAMETERS, Accept=BROWSER)).body.decode()

    for row in ROWS:
        for name in row.names:
            assert f"<code>{name}</code>" in text, name


async def test_pages_have_get_head_and_options_only(tmp_path: Path) -> None:
    """Another method is 405; HEAD has the head of GET; a purge of `/` names no picture."""
    async with site(tmp_path) as here:
        for path in PAGE_PATHS:
            got, head = await here.get(path), await here.send("HEAD", path)
            assert head.body == b""
            own = {"Date": "", "X-Request-ID": ""}
            assert {**head.headers, **own} == {**got.headers, **own}
            refused = await here.send("POST", path, data=b"x")
            assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
            assert (await here.send("OPTIONS", path)).headers["Allow"] == "GET, HEAD, OPTIONS"
        assert (await here.send("PURGE", "/", headers=ADMIN)).status == 400


async def test_pages_are_answered_in_an_overload(tmp_path: Path) -> None:
    """They need no render, so the fast path does not refuse them."""
    clock = StandingClock()
    async with (
        site(tmp_path, render=PATIENT, pictures=PICTURES, admission_clock=clock) as here,
        overloaded(here, clock),
    ):
        assert (await here.get("/third.jpg?w=10")).status == 503
        for path in PAGE_PATHS:
            assert (await here.get(f"{path}?v=1")).status == 200


async def test_pages_keep_the_rules_of_http(tmp_path: Path) -> None:
    """httplint finds nothing to complain about."""
    async with site(tmp_path) as here:
        for path in sorted(PAGE_PATHS):
            for method in ("GET", "HEAD"):
                status, notes = await linted(here, method, path, f"Accept: {BROWSER}")
                wrong = {kind: text for kind, text in complaints(notes).items() if kind != "STORE_PUBLIC_UNNECESSARY"}
                assert (status, wrong) == (200, {}), f"{method} {path}"


@pytest.mark.parametrize(
    ("accept", "wants"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("image/webp, TEXT/HTML;q=0.1", True),
        ("text/html;level=1;q=0.0", False),
        ("text/html; q=0", False),
        ("*/*", False),
        ("text/*", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_html_is_for_clients_that_name_it(accept: str, *, wants: bool) -> None:
    """A weight of zero means that the client does not take it."""
    assert accepts_html(accept) is wants
