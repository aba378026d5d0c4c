"""Shared decodes, interim answers, watermarks and fallback variants, as clients see them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from imgproxy.cache.entry import key_hash
from imgproxy.config.sections import FreshnessSettings, RenderSettings
from tests.support.processes import stopped
from tests.support.site import KEY, LOGO, Site, jpeg, pixel, png, site, until, width_of

# One picture may be at work, and none may wait.
FULL_AT_ONCE = RenderSettings(processes=1, queue_max=0)
AVIF = "image/avif,image/webp,*/*;q=0.5"


# --- shared decodes --------------------------------------------------------------------------------------------------


async def test_sizes_asked_for_together_are_one_job(tmp_path: Path) -> None:
    """The widths of a cached picture are rendered in fewer jobs than there are widths, and each is right."""
    async with site(tmp_path, pictures={KEY: jpeg(200, (2400, 1600))}) as here:
        await here.get(f"/{KEY}")
        widths = (320, 620, 1024, 2048)
        replies = await asyncio.gather(*(here.get(f"/{KEY}?w={width}") for width in widths))

        assert [width_of(reply.body) for reply in replies] == list(widths)
        assert await here.renders() < len(widths)


async def test_a_plan_that_fails_does_not_fail_the_others_of_its_job(tmp_path: Path) -> None:
    """One of three plans needs more than the allowed memory; the other two are made without it."""
    settings = RenderSettings(processes=1, memory_bytes=150_000_000, timeout_s=60)
    async with site(tmp_path, pictures={KEY: jpeg(200, (2400, 1600))}, render=settings) as here:
        await here.get(f"/{KEY}")
        targets = [f"/{KEY}?w=300", f"/{KEY}?w=8192&rot=30&fm=png", f"/{KEY}?w=310"]
        replies = await asyncio.gather(*(here.get(target) for target in targets))

        assert [reply.status for reply in replies] == [200, 422, 200]
        assert replies[1].json()["type"].endswith("render-out-of-memory")


# --- interim ---------------------------------------------------------------------------------------------------------


async def test_a_cold_avif_is_answered_with_webp_and_is_there_afterwards(tmp_path: Path) -> None:
    """With `avif = "upgrade"` no client waits for the encoder; the interim answer is kept for a short time."""
    async with site(tmp_path, render=RenderSettings(processes=1, avif="upgrade")) as here:
        first = await here.get(f"/{KEY}?w=100&auto=format", Accept=AVIF)
        await until(lambda: here.metric("imgproxy_renders_total", lane="background", outcome="ok") == 1)
        await until(lambda: here.edge.variants.under_way == 0)
        second = await here.get(f"/{KEY}?w=100&auto=format", Accept=AVIF)

        assert first.headers["Content-Type"] == "image/webp"
        assert first.headers["Cache-Control"] == "public, max-age=10, must-revalidate"
        assert first.headers["Vary"] == "Accept"
        assert second.headers["Content-Type"] == "image/avif"
        assert second.headers["Cache-Control"] == "public, max-age=300, must-revalidate"
        assert first.headers["ETag"] != second.headers["ETag"]


async def test_an_avif_that_was_asked_for_by_name_is_waited_for(tmp_path: Path) -> None:
    """`fm=avif` allows no other format."""
    async with site(tmp_path, render=RenderSettings(processes=1, avif="upgrade")) as here:
        reply = await here.get(f"/{KEY}?w=100&fm=avif")

        assert reply.headers["Content-Type"] == "image/avif"


# --- watermarks ------------------------------------------------------------------------------------------------------


async def test_a_watermark_of_the_library_is_painted(tmp_path: Path) -> None:
    """In the lower right corner, with a gap of five pixels."""
    async with site(tmp_path, pictures={KEY: jpeg(200), LOGO: png((0, 0, 255))}) as here:
        reply = await here.get(f"/{KEY}?w=320&fm=png&mark={LOGO}")

        assert reply.status == 200
        assert pixel(reply.body, (320 - 5 - 10, 200 - 5 - 10)) == (0, 0, 255)
        assert abs(pixel(reply.body, (10, 10))[0] - 200) <= 3
        assert pixel(reply.body, (318, 198)) != (0, 0, 255)


async def test_no_answer_has_a_purged_watermark(tmp_path: Path) -> None:
    """The picture is cached, and is rendered with the new watermark under another entity tag."""
    settings = FreshnessSettings(settle_s=0)
    async with site(tmp_path, pictures={KEY: jpeg(200), LOGO: png((0, 0, 255))}, freshness=settings) as here:
        before = await here.get(f"/{KEY}?w=320&fm=png&mark={LOGO}")
        await here.library.put(LOGO, png((0, 255, 0)))
        await here.purge(here.library.entry_id(LOGO))
        after = await here.get(f"/{KEY}?w=320&fm=png&mark={LOGO}", If_None_Match=before.headers["ETag"])

        assert after.status == 200
        assert pixel(after.body, (305, 185)) == (0, 255, 0)
        assert here.edge.cache.facts(key_hash(KEY)) is not None


async def test_without_its_watermark_a_picture_is_served_all_the_same(tmp_path: Path) -> None:
    """The answer is kept for a short time, as the watermark may come back."""
    async with site(tmp_path) as here:
        reply = await here.get(f"/{KEY}?w=320&fm=png&mark=logos/nothing.png")

        assert reply.status == 200
        assert abs(pixel(reply.body, (305, 185))[0] - 200) <= 3
        assert reply.headers["Cache-Control"] == "public, max-age=60, must-revalidate"


async def test_a_watermark_from_elsewhere_is_refused(tmp_path: Path) -> None:
    """Only pictures of the library are fetched."""
    async with site(tmp_path) as here:
        reply = await here.get(f"/{KEY}?w=320&mark=https%3A%2F%2Fexample.org%2Flogo.png")

        assert reply.status == 400


# --- overload --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def overload(here: Site, width: int = 10) -> AsyncIterator[None]:
    """The only process is stopped with another request, and no more may wait."""
    with stopped(*here.edge.pool.pids):
        busy = asyncio.create_task(here.get(f"/{KEY}?w={width}"))
        await until(lambda: here.edge.pool.busy == 1)
        yield
    await busy


async def test_when_the_queue_is_full_a_larger_size_answers(tmp_path: Path) -> None:
    """The answer is kept for a short time; when the queue is empty, the right size comes."""
    async with site(tmp_path, render=FULL_AT_ONCE) as here:
        large = await here.get(f"/{KEY}?w=300")
        async with overload(here):
            fallback = await here.get(f"/{KEY}?w=200")
            too_small = await here.get(f"/{KEY}?w=310")
            another = await here.get(f"/{KEY}?w=200&flip=h")
        right = await here.get(f"/{KEY}?w=200")

        assert (fallback.status, fallback.body) == (200, large.body)
        assert fallback.headers["Cache-Control"] == "public, max-age=10, must-revalidate"
        assert (too_small.status, another.status) == (503, 503)
        assert width_of(right.body) == 200
        assert right.headers["Cache-Control"] == "public, max-age=300, must-revalidate"


async def test_a_picture_that_cannot_be_rendered_now_is_not_fetched(tmp_path: Path) -> None:
    """When the queue is full, a picture that is not cached is refused before the origin is asked."""
    pictures = {KEY: jpeg(200), "other.jpg": jpeg(100)}
    async with site(tmp_path, pictures=pictures, render=FULL_AT_ONCE) as here:
        async with overload(here):
            refused = await here.get("/other.jpg?w=200")

        assert refused.status == 503
        assert refused.headers["Cache-Control"] == "no-store"
        assert int(refused.headers["Retry-After"]) >= 1
        assert here.probe.count("serveImage", "other.jpg") == 0


# --- drawings --------------------------------------------------------------------------------------------------------

DRAWING = "2026/03/15/logo.svg"


async def test_a_drawing_leaves_without_its_script(tmp_path: Path) -> None:
    """An SVG is sanitised, with and without parameters."""
    text = (
        "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script>alert(1)</script><rect id='kept'/></svg>"
    )
    async with site(tmp_path, pictures={DRAWING: text.encode()}) as here:
        for target in (f"/{DRAWING}", f"/{DRAWING}?w=5"):
            reply = await here.get(target)

            assert reply.headers["Content-Type"] == "image/svg+xml"
            assert "sandbox" in reply.headers["Content-Security-Policy"]
            assert b'id="kept"' in reply.body
            assert b"alert" not in reply.body


async def test_a_drawing_that_is_too_much_is_422_with_its_limit(tmp_path: Path) -> None:
    """The problem has a stable code, and names the limit and its number."""
    bomb = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><filter id='f'><feMorphology radius='99'/></filter></svg>"
    async with site(tmp_path, pictures={DRAWING: bomb.encode()}) as here:
        reply = await here.get(f"/{DRAWING}?w=5&fm=png")

        assert reply.status == 422
        assert json.loads(reply.body)["detail"] == (
            "This SVG has too much to draw: at most 2 pixels of erosion or dilation are accepted."
        )
        assert json.loads(reply.body)["type"].endswith("drawing-too-complex")
