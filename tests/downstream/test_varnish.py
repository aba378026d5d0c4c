"""deploy/varnish/default.vcl, in a real Varnish."""

from pathlib import Path

import aiohttp
import pytest

from imgproxy.config.sections import FreshnessSettings
from tests.downstream.front import fronted
from tests.support.cdn import cdn
from tests.support.frontends import PURGE_TOKEN, varnish
from tests.support.site import KEY


async def test_it_keeps_answers_as_long_as_the_header_for_cdns_says(tmp_path: Path) -> None:
    """The limit of browsers does not count, and headers for CDNs are removed from the answer."""
    freshness = FreshnessSettings(browser_ttl_s=0)
    async with fronted(tmp_path, "varnish", freshness=freshness) as front:
        await front.get(f"/{KEY}?w=50")
        assert await front.has_hit(f"/{KEY}?w=50")
        reply = await front.get(f"/{KEY}?w=50")
        assert reply.headers["Cache-Control"] == "public, max-age=0, must-revalidate"
        for name in ("CDN-Cache-Control", "Surrogate-Key", "Cache-Tag", "xkey", "Age", "X-Varnish", "Via"):
            assert name not in reply.headers


@pytest.mark.slow
async def test_it_keeps_nothing_that_cdns_must_not_keep(tmp_path: Path) -> None:
    """With cdn_ttl_s = 0 nothing is kept, even if browsers may keep it."""
    async with fronted(tmp_path, "varnish", freshness=FreshnessSettings(cdn_ttl_s=0, browser_ttl_s=300)) as front:
        for _ in range(3):
            assert not await front.has_hit(f"/{KEY}?w=50")


@pytest.mark.slow
async def test_it_tells_three_accept_headers_apart(tmp_path: Path) -> None:
    """Browsers with the same formats share an answer. If the URL names the format, all browsers do."""
    async with fronted(tmp_path, "varnish") as front:
        target = f"/{KEY}?w=50&auto=format"
        kinds = [
            ("image/avif,image/webp,image/apng,*/*;q=0.8", "image/avif"),
            ("image/webp,*/*", "image/webp"),
            ("text/html", "image/jpeg"),
        ]
        for accept, content_type in kinds:
            assert (await front.get(target, Accept=accept)).headers["Content-Type"] == content_type
        assert await front.has_hit(target, Accept="image/png, image/avif")
        assert await front.has_hit(target, Accept="image/webp")
        assert await front.has_hit(target, Accept="image/avif;q=0, */*")
        await front.get(f"/{KEY}?w=50&fm=png", Accept="image/webp")
        assert await front.has_hit(f"/{KEY}?w=50&fm=png", Accept="image/avif")


@pytest.mark.slow
async def test_without_a_token_it_allows_purges_by_address(tmp_path: Path) -> None:
    """A purge from the loopback needs no token if Varnish has none."""
    async with (
        cdn() as backend,
        varnish(tmp_path, backend.port, purge_token=None) as url,
        aiohttp.ClientSession() as there,
    ):
        async with there.request("PURGE", url, headers={"xkey-purge": "k-1 e-2"}) as response:
            assert (response.status, response.reason) == (200, "Purged 0")
        async with there.request("PURGE", url) as response:
            assert response.status == 400
        assert backend.asked == []


async def test_a_purge_needs_the_token_and_tags(tmp_path: Path) -> None:
    """A PURGE without the token is 403, and one without tags is 400."""
    bearer = f"Bearer {PURGE_TOKEN}"
    asked: list[tuple[dict[str, str], int]] = [
        ({"xkey-purge": "k-1"}, 403),
        ({"xkey-purge": "k-1", "Authorization": "Bearer wrong"}, 403),
        ({"Authorization": bearer}, 400),
        ({"xkey-purge": "k-1", "Authorization": bearer}, 200),
    ]
    async with fronted(tmp_path, "varnish") as front:
        statuses = [(await front.send("PURGE", "/", **headers)).status for headers, _ in asked]

        assert statuses == [status for _, status in asked]


@pytest.mark.slow
async def test_it_shows_images_and_the_webhook_and_nothing_else(tmp_path: Path) -> None:
    """Admin routes and other methods are blocked."""
    async with fronted(tmp_path, "varnish") as front:
        assert (await front.get("/-/status", Authorization="Bearer admin-token")).status == 404
        assert (await front.send("POST", "/api/v1/purge")).status == 404
        assert (await front.send("POST", f"/{KEY}")).status == 405
        assert (await front.send("POST", "/-/webhooks/livingdocs")).status == 401
