"""Every kind of answer breaks no rule of HTTP that httplint knows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import SecretStr

from imgproxy.config.origin import OriginSettings
from imgproxy.config.sections import CacheSettings, LimitsSettings, SigningSettings
from imgproxy.medialibrary.operations import RevokeAsset
from tests.support.clock import StandingClock
from tests.support.lint import complaints, linted
from tests.support.overload import PATIENT, PICTURES, overloaded
from tests.support.site import ADMIN, KEY, Site, jpeg, png_of_noise, site

if TYPE_CHECKING:
    from pathlib import Path

SMALL = f"/{KEY}?w=50"
TOKEN = f"Authorization: {ADMIN['Authorization']}"
ORIGIN = "Origin: https://example.org"
# Notes that are accepted, each with its reason.
ACCEPTED = {
    "STORE_PUBLIC_UNNECESSARY": "some CDNs store only what says `public`, and so may caches of requests with Authorization",
    "VARY_COMPLEX": "only for a URL that asks for client hints (`ch`)",
    "STATUS_BAD_REQUEST": "it is about the request, which is bad on purpose",
    "STATUS_URI_TOO_LONG": "it is about the request, which is too long on purpose",
}


async def check(here: Site, status: int, method: str, target: str, *lines: str, body: bytes = b"") -> None:
    """Ask, and check the status and that there is nothing to complain about."""
    found, notes = await linted(here, method, target, *lines, body=body)
    wrong = {kind: text for kind, text in complaints(notes).items() if kind not in ACCEPTED}
    assert (found, wrong) == (status, {}), f"{method} {target} {lines}"


async def test_pictures(tmp_path: Path) -> None:
    """A miss, hits from memory and from disk, originals and parts of them, 304, HEAD, an SVG, JSON, a download."""
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
    cache = CacheSettings(dir=tmp_path / "cache", min_free_bytes=0, hot_item_max_bytes=50_000)
    async with site(tmp_path, pictures={KEY: jpeg(1), "n.png": png_of_noise(300), "a.svg": svg}, cache=cache) as here:
        for target in (
            SMALL,
            f"{SMALL}&auto=format",
            "/n.png?w=290&fm=png",
            "/a.svg",
            f"/{KEY}?fm=json",
            f"{SMALL}&dl=a.jpg",
        ):
            tag = (await here.get(target)).headers["ETag"]
            for _ in range(2):
                await check(here, 200, "GET", target, "Accept: image/webp,*/*", ORIGIN)
            await check(here, 200, "HEAD", target)
            await check(here, 304, "GET", target, f"If-None-Match: {tag}")
            await check(here, 304, "GET", target, f"If-None-Match: {tag}", f"If-Match: {tag}")
        await check(here, 200, "GET", f"/{KEY}?w=51")
        await check(here, 200, "GET", f"/{KEY}?w=52&ch=width,dpr,save-data&expires=4000000000", "Save-Data: on")
        await check(here, 200, "GET", f"/{KEY}")
        await check(here, 206, "GET", f"/{KEY}", "Range: bytes=0-99")
        await check(here, 200, "HEAD", f"/{KEY}")
        await check(here, 416, "GET", f"/{KEY}", "Range: bytes=999999-")
        await check(here, 412, "GET", SMALL, 'If-Match: "x"')


async def test_errors(tmp_path: Path) -> None:
    """The client's faults and the origin's."""
    pictures = {
        KEY: jpeg(1),
        "cut.jpg": jpeg(1, (800, 600))[:3000],
        "large.jpg": jpeg(1, (900, 600)),
        "gone.jpg": jpeg(2),
    }
    limits = LimitsSettings(source_pixels=500_000)
    async with site(tmp_path, pictures=pictures, limits=limits, library={"is_lenient": True}) as here:
        await here.library.patch(here.library.entry_id("gone.jpg"), RevokeAsset())
        for method in ("GET", "HEAD"):
            for status, target in (
                (400, f"/{KEY}?w=0"),
                (400, f"{SMALL}#top"),
                (403, "/gone.jpg?w=50"),
                (404, "/none.jpg?w=50"),
                (404, f"{SMALL}&expires=1"),
                (413, "/large.jpg?w=50"),
                (422, "/cut.jpg?w=50"),
                (414, f"/{'a' * 9000}"),
            ):
                await check(here, status, method, target)
        await check(here, 405, "DELETE", SMALL)
        await check(here, 431, "GET", SMALL, f"X: {'a' * 40_000}")
        await check(here, 501, "FOO", SMALL)
    signing = SigningSettings(tokens=(SecretStr("t"),), required=True)
    async with site(tmp_path / "signed", signing=signing) as here:
        await check(here, 403, "GET", SMALL)
    nobody = OriginSettings(url="http://127.0.0.1:1", token=SecretStr("t"))
    async with site(tmp_path / "bad", origin=nobody) as here:
        await check(here, 502, "GET", SMALL)
    clock = StandingClock()
    async with (
        site(tmp_path / "busy", render=PATIENT, pictures=PICTURES, admission_clock=clock) as here,
        overloaded(here, clock),
    ):
        await check(here, 503, "GET", "/third.jpg?w=10")
        await check(here, 503, "HEAD", "/third.jpg?w=10")


async def test_options(tmp_path: Path) -> None:
    """A plain one, one of a browser that asks before, and one for an admin route."""
    async with site(tmp_path) as here:
        await check(here, 204, "OPTIONS", SMALL)
        await check(here, 204, "OPTIONS", "*")
        await check(
            here,
            204,
            "OPTIONS",
            SMALL,
            ORIGIN,
            "Access-Control-Request-Method: GET",
            "Access-Control-Request-Headers: range",
        )
        await check(here, 204, "OPTIONS", "/-/purge/keys")


async def test_admin_routes(tmp_path: Path) -> None:
    """State, metrics, purges with their receipts, webhooks, and refusals."""
    async with site(tmp_path) as here:
        await here.get(SMALL)
        entry = here.library.entry_id(KEY)
        for target in ("/-/health", "/-/ready", "/-/metrics", "/-/status", "/-/purges"):
            for method in ("GET", "HEAD"):
                await check(here, 200, method, target, TOKEN)
        await check(here, 200, "POST", f"/-/purge/entries/{entry}", TOKEN)
        await check(here, 200, "POST", "/-/purge/keys", TOKEN, body=json.dumps({"keys": [KEY]}).encode())
        await check(here, 200, "PURGE", f"/{KEY}", TOKEN)
        imgix = json.dumps({"data": {"attributes": {"url": f"https://x/{KEY}"}}}).encode()
        await check(here, 200, "POST", "/api/v1/purge", TOKEN, body=imgix)
        await check(here, 400, "POST", "/-/purge/keys", TOKEN, body=b"{}")
        await check(here, 401, "POST", "/-/purge/keys", body=b"{}")
        await check(here, 401, "POST", "/-/webhooks/livingdocs", body=b"{}")
        await check(here, 404, "GET", "/-/none", TOKEN)
        await check(here, 405, "GET", "/-/purge/keys", TOKEN)
        await check(here, 413, "POST", "/-/purge/keys", TOKEN, body=b" " * 1_000_001)
