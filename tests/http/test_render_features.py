"""Shared decodes, interim answers and watermarks, as requests see them."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from PIL import Image

from imgproxy.cache.entry import key_hash
from imgproxy.config.sections import FreshnessSettings, RenderSettings
from tests.support.site import KEY, Site, jpeg, site, until

LOGO = "logos/paper.png"
# One picture at work, and none may wait.
FULL_AT_ONCE = RenderSettings(processes=1, queue_max=0)
AVIF = "image/avif,image/webp,*/*;q=0.5"


def png(color: tuple[int, int, int], size: tuple[int, int] = (20, 20)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "PNG")
    return out.getvalue()


def pixel(body: bytes, at: tuple[int, int]) -> tuple[int, ...]:
    found = Image.open(io.BytesIO(body)).convert("RGB").getpixel(at)
    assert isinstance(found, tuple)
    return tuple(int(value) for value in found)


# --- shared decodes --------------------------------------------------------------------------------------------------


async def test_sizes_asked_for_together_are_one_job(tmp_path: Path) -> None:
    """A srcset of a picture that is already here decodes it once; every size is right."""
    async with site(tmp_path, pictures={KEY: jpeg(200, (2400, 1600))}) as here:
        await here.get(f"/{KEY}")
        widths = (320, 620, 1024, 2048)
        replies = await asyncio.gather(*(here.get(f"/{KEY}?w={width}") for width in widths))

        sizes = [Image.open(io.BytesIO(reply.body)).size[0] for reply in replies]
        assert sizes == list(widths)
        assert await here.renders() < len(widths)


async def test_one_plan_that_fails_does_not_take_the_others_along(tmp_path: Path) -> None:
    """Plans that shared a job with a refused one are made without it."""
    async with site(tmp_path, pictures={KEY: jpeg(200, (2400, 1600))}, render=RenderSettings(processes=1)) as here:
        await here.get(f"/{KEY}")
        here.edge.pool._settings = RenderSettings(processes=1, timeout_s=2)
        targets = [f"/{KEY}?w=300", f"/{KEY}?w=8192&fm=avif&blur=2000", f"/{KEY}?w=310"]
        replies = await asyncio.gather(*(here.get(target) for target in targets))

        assert [reply.status for reply in replies] == [200, 422, 200]


# --- interim ---------------------------------------------------------------------------------------------------------


async def test_a_cold_avif_is_answered_with_webp_and_is_there_afterwards(tmp_path: Path) -> None:
    """With `avif = "upgrade"` nobody waits for the encoder; the interim answer is not kept for long."""
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
    """`fm=avif` leaves no choice."""
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


async def test_a_purged_watermark_is_in_no_answer_any_more(tmp_path: Path) -> None:
    """A picture with the old logo is made anew, with another entity tag, though the picture itself is cached."""
    settings = FreshnessSettings(settle_s=0)
    async with site(tmp_path, pictures={KEY: jpeg(200), LOGO: png((0, 0, 255))}, freshness=settings) as here:
        before = await here.get(f"/{KEY}?w=320&fm=png&mark={LOGO}")
        await here.library.put(LOGO, png((0, 255, 0)))
        await here.purge(here.library.entry_id(LOGO))
        after = await here.get(f"/{KEY}?w=320&fm=png&mark={LOGO}", If_None_Match=before.headers["ETag"])

        assert after.status == 200
        assert pixel(after.body, (305, 185)) == (0, 255, 0)
        assert here.edge.cache.facts(key_hash(KEY)) is not None


async def test_a_watermark_that_is_gone_does_not_keep_the_picture_back(tmp_path: Path) -> None:
    """The picture comes without it, and is asked for again soon."""
    async with site(tmp_path) as here:
        reply = await here.get(f"/{KEY}?w=320&fm=png&mark=logos/nothing.png")

        assert reply.status == 200
        assert abs(pixel(reply.body, (305, 185))[0] - 200) <= 3
        assert reply.headers["Cache-Control"] == "public, max-age=60, must-revalidate"


async def test_a_watermark_from_elsewhere_is_refused(tmp_path: Path) -> None:
    """Nothing but pictures of the library is ever fetched."""
    async with site(tmp_path) as here:
        reply = await here.get(f"/{KEY}?w=320&mark=https%3A%2F%2Fexample.org%2Flogo.png")

        assert reply.status == 400


# --- overload --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def overload(here: Site, width: int = 10) -> AsyncIterator[None]:
    """The only process stands still with another request, and no more may wait."""
    process = here.edge.pool.pids[0]
    os.kill(process, signal.SIGSTOP)
    busy = asyncio.create_task(here.get(f"/{KEY}?w={width}"))
    try:
        await until(lambda: here.edge.pool.busy == 1)
        yield
    finally:
        os.kill(process, signal.SIGCONT)
        await busy


async def test_when_the_queue_is_full_a_larger_size_answers(tmp_path: Path) -> None:
    """The reader sees the picture; the answer is short-lived, and the right size comes when there is room."""
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
        assert Image.open(io.BytesIO(right.body)).size[0] == 200
        assert right.headers["Cache-Control"] == "public, max-age=300, must-revalidate"


async def test_what_cannot_be_rendered_is_not_fetched(tmp_path: Path) -> None:
    """When the queue is full, a picture that is not here yet is refused before the origin is asked."""
    pictures = {KEY: jpeg(200), "other.jpg": jpeg(100)}
    async with site(tmp_path, pictures=pictures, render=FULL_AT_ONCE) as here:
        async with overload(here):
            shed = await here.get("/other.jpg?w=200")

        assert shed.status == 503
        assert shed.headers["Cache-Control"] == "no-store"
        assert int(shed.headers["Retry-After"]) >= 1
        assert here.probe.count("serveImage", "other.jpg") == 0
