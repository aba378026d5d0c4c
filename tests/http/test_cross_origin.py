"""What browsers and scripts of other sites may do with answers: CORS and Cross-Origin-Resource-Policy."""

from pathlib import Path

import pytest

from imgproxy.config.sections import BrowserSettings
from tests.support.site import ADMIN, KEY, jpeg, site

SMALL = f"/{KEY}?w=50"
PREFLIGHT = {
    "Origin": "https://example.org",
    "Access-Control-Request-Method": "GET",
    "Access-Control-Request-Headers": "if-none-match, traceparent",
}


@pytest.mark.parametrize("policy", ["cross-origin", "same-site"])
async def test_every_answer_to_an_image_request_says_who_may_use_it(tmp_path: Path, policy: str) -> None:
    """Miss, hits, parts, 304 and errors have the configured policy, and name the headers that scripts may read."""
    browser = BrowserSettings.model_validate({"resource_policy": policy})
    async with site(tmp_path, browser=browser) as here:
        replies = [await here.get(SMALL) for _ in range(3)]
        tag = replies[0].headers["ETag"]
        replies += [
            await here.get(SMALL, If_None_Match=tag),
            await here.get(SMALL, If_None_Match=tag, If_Match=tag),
            await here.get(SMALL, If_Match='"x"'),
            await here.get(f"/{KEY}"),
            await here.get(f"/{KEY}", Range="bytes=0-9"),
            await here.get(f"/{KEY}", Range="bytes=999999-"),
            await here.get("/none.jpg?w=50"),
            await here.get(f"/{KEY}?w=0"),
            await here.send("HEAD", SMALL),
        ]

        assert [reply.status for reply in replies] == [200, 200, 200, 304, 304, 412, 200, 206, 416, 404, 400, 200]
        for reply in replies:
            assert reply.headers["Cross-Origin-Resource-Policy"] == policy
            assert reply.headers["Access-Control-Allow-Origin"] == "*"
            exposed = reply.headers["Access-Control-Expose-Headers"].split(", ")
            assert {"ETag", "Content-Range", "Retry-After"}.issubset(exposed)


@pytest.mark.parametrize("target", [SMALL, "/none.jpg", "*"])
async def test_a_browser_that_asks_before_is_allowed(tmp_path: Path, target: str) -> None:
    """A preflight has no signature and no token, and is answered for every path (Fetch, "CORS-preflight fetch")."""
    async with site(tmp_path) as here:
        reply = await here.send("OPTIONS", f"/{target}" if target == "*" else target, headers=PREFLIGHT)

        assert (reply.status, reply.body) == (204, b"")
        assert reply.headers["Allow"] == "GET, HEAD, OPTIONS, PURGE"
        assert reply.headers["Access-Control-Allow-Origin"] == "*"
        assert reply.headers["Access-Control-Allow-Methods"] == "GET, HEAD"
        assert reply.headers["Access-Control-Allow-Headers"] == "*"
        assert int(reply.headers["Access-Control-Max-Age"]) > 0
        assert here.probe.count("serveImage") == 0


async def test_no_script_of_another_site_is_let_to_an_admin_route(tmp_path: Path) -> None:
    """OPTIONS says which method there is, and allows no other site anything."""
    async with site(tmp_path) as here:
        for target, allowed in (("/-/purge/keys", "POST, OPTIONS"), ("/-/status", "GET, HEAD, OPTIONS")):
            reply = await here.send("OPTIONS", target, headers=PREFLIGHT)
            assert (reply.status, reply.headers["Allow"]) == (204, allowed)
            assert not [name for name in reply.headers if name.startswith("Access-Control")]
        status = await here.send("GET", "/-/status", headers=ADMIN)
        assert not [name for name in status.headers if name.startswith("Access-Control")]


async def test_a_304_has_the_same_headers_on_the_fast_path(tmp_path: Path) -> None:
    """One rule says which headers of the 200 it repeats; the policy of an SVG is among them."""
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
    changing = {"Server-Timing", "Cache-Status", "Date", "X-Request-ID"}
    async with site(tmp_path, pictures={"a.svg": svg, KEY: jpeg(1)}) as here:
        for target in ("/a.svg?dl=b.svg", SMALL):
            whole = await here.get(target)
            tag = whole.headers["ETag"]
            usual = await here.get(target, If_None_Match=tag, If_Match=tag)
            fast = await here.get(target, If_None_Match=tag)

            assert (usual.status, fast.status, fast.headers["Server-Timing"]) == (304, 304, "memory")
            known = [{n: v for n, v in reply.headers.items() if n not in changing} for reply in (usual, fast)]
            assert known[0] == known[1]
            assert ("Content-Security-Policy" in fast.headers) is target.startswith("/a.svg")
