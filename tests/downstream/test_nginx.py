"""deploy/nginx/imgproxy.conf, in a real nginx."""

import asyncio
from pathlib import Path

import pytest

from imgproxy.config.sections import FreshnessSettings
from tests.downstream.front import fronted
from tests.support.site import KEY, jpeg


async def test_it_asks_before_each_use_and_gets_no_body(tmp_path: Path) -> None:
    """nginx sends the bytes after a 304 from the edge, which costs neither a render nor a body."""
    async with fronted(tmp_path, "nginx") as front:
        first = await front.get(f"/{KEY}?w=50")
        sent_bytes = front.here.metric("imgproxy_sent_bytes_total")
        again = [await front.get(f"/{KEY}?w=50") for _ in range(3)]

        assert first.headers["X-Cache"] == "MISS"
        assert [reply.headers["X-Cache"] for reply in again] == ["REVALIDATED"] * 3
        assert {reply.body for reply in again} == {first.body}
        assert front.here.metric("imgproxy_sent_bytes_total") == sent_bytes
        assert front.here.metric("imgproxy_renders_total", lane="interactive", outcome="ok") <= 1


@pytest.mark.slow
async def test_one_request_of_many_at_once_goes_to_the_edge(tmp_path: Path) -> None:
    """The lock: a new picture is requested once, and then once for each use."""
    async with fronted(tmp_path, "nginx") as front:
        replies = await asyncio.gather(*(front.get(f"/{KEY}?w=50") for _ in range(8)))

        assert sorted(reply.headers["X-Cache"] for reply in replies).count("MISS") == 1


@pytest.mark.slow
async def test_errors_and_what_cdns_must_not_keep_are_not_stored(tmp_path: Path) -> None:
    """With cdn_ttl_s = 0 nothing is stored, and a 404 never is."""
    async with fronted(tmp_path, "nginx", freshness=FreshnessSettings(cdn_ttl_s=0)) as front:
        for _ in range(2):
            assert (await front.get(f"/{KEY}?w=50")).headers["X-Cache"] == "MISS"
            assert (await front.get("/nothing.jpg")).status == 404
        await front.here.library.put("nothing.jpg", jpeg(1))
        front.here.edge.originals._refusals._refusals.clear()
        assert (await front.get("/nothing.jpg")).status == 200


@pytest.mark.slow
async def test_it_tells_three_accept_headers_apart(tmp_path: Path) -> None:
    """Browsers with the same formats share an answer."""
    async with fronted(tmp_path, "nginx") as front:
        target = f"/{KEY}?w=50&auto=format"
        kinds = [
            ("image/avif,image/webp,image/apng,*/*;q=0.8", "image/avif"),
            ("image/webp,*/*", "image/webp"),
            ("text/html", "image/jpeg"),
        ]
        for accept, content_type in kinds:
            assert (await front.get(target, Accept=accept)).headers["Content-Type"] == content_type
        assert await front.has_hit(target, Accept="image/png, image/avif")
        assert await front.has_hit(target, Accept="image/webp;q=1")
        assert await front.has_hit(target, Accept="*/*")


@pytest.mark.slow
async def test_it_shows_images_and_the_webhook_and_nothing_else(tmp_path: Path) -> None:
    """Admin routes and other methods are blocked."""
    async with fronted(tmp_path, "nginx") as front:
        assert (await front.get("/-/status", Authorization="Bearer admin-token")).status == 404
        assert (await front.send("POST", "/api/v1/purge")).status == 404
        assert (await front.send("PURGE", f"/{KEY}", Authorization="Bearer admin-token")).status == 405
        assert (await front.send("POST", "/-/webhooks/livingdocs")).status == 401
        part = await front.get(f"/{KEY}", Range="bytes=0-9")
        assert (part.status, len(part.body)) == (206, 10)
