"""Image requests: pixels, caching headers, conditions, parts of originals, and one fetch for many requests."""

import asyncio
import io
from pathlib import Path

import pytest
from PIL import Image
from pydantic import SecretStr

from imgproxy.config.sections import CacheSettings, FreshnessSettings, SigningSettings
from imgproxy.config.url import UrlSettings
from imgproxy.params.signature import sign
from tests.support import images
from tests.support.site import ADMIN, KEY, Site, jpeg, red_of, site, until

AVIF = "image/avif,image/webp,image/*,*/*;q=0.8"
WEBP = "image/webp,*/*;q=0.8"


def drop_variants(here: Site, tmp_path: Path) -> None:
    """Remove every variant from memory and disk."""
    hashed = next((tmp_path / "cache" / "keys").glob("*/*")).name
    here.edge.cache.hot.drop(hashed)
    for path in (tmp_path / "cache").glob("keys/*/*/v-*"):
        path.unlink()


async def test_the_first_request_is_a_miss_and_the_second_a_hit(tmp_path: Path) -> None:
    """The miss fetches, renders and stores; the hit comes from memory with the same bytes."""
    async with site(tmp_path) as here:
        first = await here.get(f"/{KEY}?w=160")
        second = await here.get(f"/{KEY}?w=160")

        assert first.status == second.status == 200
        assert first.body == second.body
        assert Image.open(io.BytesIO(first.body)).size == (160, 100)
        assert abs(red_of(first.body) - 200) <= 2
        assert first.cache_status.startswith("imgproxy; fwd=uri-miss; fwd-status=200; ttl=")
        assert first.cache_status.endswith("; stored")
        assert second.cache_status.startswith("imgproxy; hit; ttl=")
        assert second.cache_status.endswith("detail=memory")
        assert "fetch;dur=" in first.headers["Server-Timing"]
        assert "render;dur=" in first.headers["Server-Timing"]
        assert here.metric("imgproxy_requests_total", outcome="miss", status="200") == 1
        assert here.metric("imgproxy_requests_total", outcome="hit", status="200") == 1
        assert here.probe.count("serveImage", KEY) == 1


async def test_auto_format_follows_accept_and_says_so(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """The client gets the best format that it names; every negotiated answer varies, also the JPEG."""
    async with site(tmp_path) as here:
        for accept, expected in (
            (AVIF, "image/avif"),
            (WEBP, "image/webp"),
            ("*/*", "image/jpeg"),
            (None, "image/jpeg"),
        ):
            with subtests.test(accept=accept, expected=expected):
                headers = {"Accept": accept} if accept is not None else {}
                reply = await here.send(
                    "GET", f"/{KEY}?w=64&auto=format", headers=headers, skip_auto_headers=["Accept"]
                )

                assert reply.headers["Content-Type"] == expected
                assert reply.headers["Vary"] == "Accept"


async def test_an_answer_that_was_not_negotiated_does_not_vary(tmp_path: Path) -> None:
    """Vary costs hits in every cache in front, so it is sent only for a negotiated answer."""
    async with site(tmp_path) as here:
        reply = await here.get(f"/{KEY}?w=64", Accept=AVIF)

        assert "Vary" not in reply.headers
        assert reply.headers["Content-Type"] == "image/jpeg"


async def test_urls_that_mean_the_same_picture_share_a_variant(tmp_path: Path) -> None:
    """Order, aliases and explicit defaults change neither the entity tag nor the number of renders."""
    async with site(tmp_path) as here:
        replies = [
            await here.get(f"/{KEY}?{query}")
            for query in ("w=100&h=50&fit=crop", "h=50&fit=crop&w=100", "width=50&height=25&fit=crop&dpr=2&utm=x")
        ]

        assert len({reply.headers["ETag"] for reply in replies}) == 1
        assert await here.renders() == 1


async def test_a_304_costs_no_pixel_even_for_an_evicted_variant(tmp_path: Path) -> None:
    """The entity tag is made of the original and the plan alone."""
    async with site(tmp_path) as here:
        first = await here.get(f"/{KEY}?w=64")
        drop_variants(here, tmp_path)
        again = await here.get(f"/{KEY}?w=64", If_None_Match=f'"other", W/{first.headers["ETag"]}')

        assert again.status == 304
        assert again.body == b""
        assert again.headers["ETag"] == first.headers["ETag"]
        assert "Cache-Control" in again.headers
        assert "Content-Type" not in again.headers
        assert await here.renders() == 1


async def test_variants_of_a_shared_decode_have_tags_of_their_own_which_stay_current(tmp_path: Path) -> None:
    """Other bytes have another tag; a client's copy with such a tag is current even after the variant was evicted."""
    widths = (600, 300, 100, 60)
    async with site(tmp_path, pictures={KEY: images.jpeg(images.photo(1203, 899))}) as here:
        here.probe.hold("headers")
        asked = [asyncio.ensure_future(here.get(f"/{KEY}?w={width}")) for width in widths]
        await until(lambda: here.metric("imgproxy_requests_in_flight") == len(widths))
        here.probe.release("headers")
        together = await asyncio.gather(*asked)
        hits = [await here.get(f"/{KEY}?w={width}") for width in widths]
        drop_variants(here, tmp_path)
        current = [
            await here.get(f"/{KEY}?w={width}", If_None_Match=reply.headers["ETag"])
            for width, reply in zip(widths, together, strict=True)
        ]
        apart = [await here.get(f"/{KEY}?w={width}") for width in widths]

    assert [reply.headers["ETag"] for reply in hits] == [reply.headers["ETag"] for reply in together]
    assert [(reply.status, reply.headers["ETag"]) for reply in current] == [
        (304, reply.headers["ETag"]) for reply in together
    ]
    tags = [(one.headers["ETag"], other.headers["ETag"]) for one, other in zip(together, apart, strict=True)]
    assert [one == other for one, other in tags] == [
        one.body == other.body for one, other in zip(together, apart, strict=True)
    ]
    assert any(one != other for one, other in tags)


async def test_another_plan_has_another_tag(tmp_path: Path) -> None:
    """A client's copy of one size does not match another size."""
    async with site(tmp_path) as here:
        first = await here.get(f"/{KEY}?w=64")

        other = await here.get(f"/{KEY}?w=65", If_None_Match=first.headers["ETag"])

        assert other.status == 200


async def test_head_answers_as_get_without_the_body(tmp_path: Path) -> None:
    """Status, length, type and tag are those of GET, for variants, originals and errors."""
    async with site(tmp_path) as here:
        for target in (f"/{KEY}?w=64", f"/{KEY}", "/nothing.jpg?w=64", f"/{KEY}?w=0"):
            got = await here.get(target)
            head = await here.send("HEAD", target)

            assert (head.status, head.body) == (got.status, b"")
            for name in ("Content-Length", "Content-Type", "ETag"):
                assert head.headers.get(name) == got.headers.get(name), (target, name)


async def test_without_parameters_the_original_is_passed_on(tmp_path: Path) -> None:
    """Byte for byte, also if the URL has only parameters without effect on the picture."""
    data = jpeg(10)
    async with site(tmp_path, pictures={KEY: data}) as here:
        for query in ("", "?ixlib=python-4.0.0", "?unknown=1"):
            reply = await here.get(f"/{KEY}{query}")
            assert reply.body == data
            assert reply.headers["Content-Type"] == "image/jpeg"
        assert await here.renders() == 0


async def test_originals_are_served_in_parts(tmp_path: Path) -> None:
    """A range is 206, a range behind the end 416; If-Range with another tag gets the whole."""
    data = jpeg(10)
    async with site(tmp_path, pictures={KEY: data}) as here:
        whole = await here.get(f"/{KEY}")
        part = await here.get(f"/{KEY}", Range="bytes=10-19")
        tail = await here.get(f"/{KEY}", Range="bytes=-7", If_Range=whole.headers["ETag"])
        behind = await here.get(f"/{KEY}", Range=f"bytes={len(data)}-")
        other = await here.get(f"/{KEY}", Range="bytes=0-1", If_Range='"other"')

        assert whole.headers["Accept-Ranges"] == "bytes"
        assert (part.status, part.body) == (206, data[10:20])
        assert part.headers["Content-Range"] == f"bytes 10-19/{len(data)}"
        assert (tail.status, tail.body) == (206, data[-7:])
        assert (behind.status, behind.headers["Content-Range"]) == (416, f"bytes */{len(data)}")
        assert (other.status, other.body) == (200, data)


async def test_three_hundred_requests_at_once_are_one_fetch_and_one_render(tmp_path: Path) -> None:
    """A stampede costs what one visitor costs, and every request is answered."""
    async with site(tmp_path) as here:
        replies = await asyncio.gather(*(here.get(f"/{KEY}?w=120") for _ in range(300)))

        assert {reply.status for reply in replies} == {200}
        assert len({reply.body for reply in replies}) == 1
        assert here.probe.count("serveImage", KEY) == 1
        assert await here.renders() == 1
        assert any("collapsed" in reply.cache_status for reply in replies)


async def test_many_sizes_at_once_are_one_fetch(tmp_path: Path) -> None:
    """All widths of a srcset cost one request to the origin."""
    async with site(tmp_path) as here:
        replies = await asyncio.gather(*(here.get(f"/{KEY}?w={width}") for width in range(50, 60)))

        assert {reply.status for reply in replies} == {200}
        assert here.probe.count("serveImage", KEY) == 1


async def test_a_client_that_leaves_does_not_cancel_the_fetch_of_others(tmp_path: Path) -> None:
    """The first of two waiting clients disconnects; the second is answered, from one fetch."""
    async with site(tmp_path) as here:
        here.probe.hold("headers")
        leader = asyncio.create_task(here.get(f"/{KEY}?w=90"))
        await here.probe.arrived("headers")
        follower = asyncio.create_task(here.get(f"/{KEY}?w=90"))
        await until(lambda: here.metric("imgproxy_requests_in_flight") == 2)
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)
        here.probe.release("headers")

        reply = await follower

        assert reply.status == 200
        assert here.probe.count("serveImage", KEY) == 1


async def test_variants_outlive_a_restart(tmp_path: Path) -> None:
    """A variant on disk is a hit for the next process, and the origin is not asked while its original is fresh."""
    async with site(tmp_path) as here:
        first = await here.get(f"/{KEY}?w=77")
    async with site(tmp_path) as here:
        again = await here.get(f"/{KEY}?w=77")

        assert again.body == first.body
        assert again.cache_status.endswith("detail=disk")
        assert here.probe.count("serveImage", KEY) == 0


async def test_large_variants_are_served_from_disk(tmp_path: Path) -> None:
    """A variant that is too large for memory is streamed from its file, without the trailer."""
    settings = CacheSettings(dir=tmp_path / "cache", min_free_bytes=0, hot_max_bytes=0)
    async with site(tmp_path, cache=settings) as here:
        first = await here.get(f"/{KEY}?w=300&fm=png")
        second = await here.get(f"/{KEY}?w=300&fm=png")

        assert Image.open(io.BytesIO(first.body)).size == (300, 188)
        assert first.body == second.body
        assert first.body.endswith(b"IEND\xaeB`\x82")
        assert second.cache_status.endswith("detail=disk")


async def test_signed_urls(tmp_path: Path) -> None:
    """With `required`, a URL needs a signature over its exact bytes, made with any of the tokens."""
    signing = SigningSettings(tokens=(SecretStr("new"), SecretStr("old")), required=True)
    async with site(tmp_path, signing=signing) as here:
        target = f"/{KEY}?w=50&rect=0%2C0%2C100%2C100"
        for token in ("new", "old"):
            assert (await here.get(sign(target, token))).status == 200
        for bad in (target, sign(target, "other"), sign(target, "new").replace("w=50", "w=51"), f"/{KEY}"):
            reply = await here.get(bad)
            assert reply.status == 403
            assert reply.json()["type"] == "urn:imgproxy:problem:bad-signature"
        assert here.probe.count("serveImage", KEY) == 1


async def test_a_url_is_valid_until_it_expires(tmp_path: Path) -> None:
    """`expires` in the past is 404; in the future the picture is served."""
    async with site(tmp_path) as here:
        past = await here.get(f"/{KEY}?w=50&expires=1000000000")
        future = await here.get(f"/{KEY}?w=50&expires=4000000000")

        assert (past.status, past.json()["type"]) == (404, "urn:imgproxy:problem:expired")
        assert future.status == 200


async def test_every_image_answer_carries_its_tags_and_guards(tmp_path: Path) -> None:
    """Surrogate keys, no sniffing of types, access for pages of other hosts, and no version of the server."""
    async with site(tmp_path) as here:
        reply = await here.get(f"/{KEY}?w=50")

        tag = reply.headers["Surrogate-Key"]
        assert tag.startswith("k-")
        assert reply.headers["Cache-Tag"] == tag
        assert reply.headers["xkey"] == tag
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Access-Control-Allow-Origin"] == "*"
        assert reply.headers["Cache-Control"] == "public, max-age=300, must-revalidate"
        assert reply.headers["Server"] == "imgproxy"


async def test_a_download_gets_its_name(tmp_path: Path) -> None:
    """`dl` makes the answer an attachment; the variant is the same."""
    async with site(tmp_path) as here:
        plain = await here.get(f"/{KEY}?w=50")
        named = await here.get(f"/{KEY}?w=50&dl=photo.jpg")

        assert named.headers["Content-Disposition"] == 'attachment; filename="photo.jpg"'
        assert named.headers["ETag"] == plain.headers["ETag"]
        assert "hit" in named.cache_status


async def test_an_original_is_revalidated_behind_the_answer(tmp_path: Path) -> None:
    """A stale original answers at once; behind the answer the origin is asked with its validators."""
    async with site(tmp_path, freshness=FreshnessSettings(revalidate_after_s=0)) as here:
        first = await here.get(f"/{KEY}?w=50")
        stale = await here.get(f"/{KEY}?w=50")
        await until(lambda: here.edge.originals.under_way == 0)

        assert stale.body == first.body
        assert here.metric("imgproxy_requests_total", outcome="stale", status="200") == 1
        assert here.metric("imgproxy_origin_answers_total", answer="not_modified") == 1


async def test_revalidation_finds_a_picture_that_was_changed_under_its_key(tmp_path: Path) -> None:
    """New bytes at the origin purge the variants of the old ones, without an event."""
    async with site(tmp_path, freshness=FreshnessSettings(revalidate_after_s=0, settle_s=0)) as here:
        await here.get(f"/{KEY}?w=50")
        await here.library.put(KEY, jpeg(20))
        await here.get(f"/{KEY}?w=50")
        await until(lambda: here.edge.originals.under_way == 0)

        reply = await here.get(f"/{KEY}?w=50")

        assert abs(red_of(reply.body) - 20) <= 2


async def test_other_methods_are_refused_and_purge_nothing(tmp_path: Path) -> None:
    """Methods other than GET, HEAD, OPTIONS and PURGE are 405, and the picture stays cached."""
    async with site(tmp_path) as here:
        await here.get(f"/{KEY}?w=50")
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            reply = await here.send(method, f"/{KEY}?w=50", headers=ADMIN)
            assert reply.status == 405, method
            assert reply.headers["Allow"] == "GET, HEAD, OPTIONS, PURGE"
        assert "hit" in (await here.get(f"/{KEY}?w=50")).cache_status


async def test_an_answer_names_what_was_ignored_if_it_is_asked_to(tmp_path: Path) -> None:
    """Names that are not known, values that are not as expected; on a miss, a hit, and not without the setting."""
    async with site(tmp_path, url=UrlSettings(ignored_header=True)) as here:
        for _ in range(2):
            reply = await here.get(f"/{KEY}?w=50&widht=9&q=150&gr%C3%BCn=1")
            assert (reply.status, reply.headers["X-Imgproxy-Ignored"]) == (200, "widht, gr%C3%BCn, q")
        assert "X-Imgproxy-Ignored" not in (await here.get(f"/{KEY}?w=50&q=60")).headers
    async with site(tmp_path) as here:
        assert "X-Imgproxy-Ignored" not in (await here.get(f"/{KEY}?w=50&widht=9")).headers
