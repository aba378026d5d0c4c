"""Shared decodes, interim answers and watermarks, as requests see them."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from imgproxy.cache.entry import key_hash
from imgproxy.config.sections import CacheSettings, FreshnessSettings, LimitsSettings, RenderSettings
from imgproxy.digest import digest_of
from imgproxy.failpoints import Point
from tests.support.site import KEY, Held, Reply, Site, jpeg, red_of, site, until

LOGO = "logos/paper.png"
# One picture at work, and none may wait.
FULL_AT_ONCE = RenderSettings(processes=1, queue_max=0)
AVIF = "image/avif,image/webp,*/*;q=0.5"


def png(color: tuple[int, int, int], size: tuple[int, int] = (20, 20)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "PNG")
    return out.getvalue()


def noisy() -> bytes:
    """A JPEG that is large enough to take several times as long to render as one of its variants."""
    out = io.BytesIO()
    Image.effect_noise((2400, 1600), 60).convert("RGB").save(out, "JPEG", quality=90)
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
        here.edge.pool._lanes._settings = RenderSettings(processes=1, timeout_s=2)
        targets = [f"/{KEY}?w=300", f"/{KEY}?w=8192&fm=avif&blur=2000", f"/{KEY}?w=310"]
        replies = await asyncio.gather(*(here.get(target) for target in targets))

        assert [reply.status for reply in replies] == [200, 422, 200]


# --- interim ---------------------------------------------------------------------------------------------------------


async def test_a_cold_avif_is_answered_with_webp_and_is_there_afterwards(tmp_path: Path) -> None:
    """With `avif = "upgrade"` nobody waits for the encoder; the stand-in is not kept for long."""
    async with site(tmp_path, render=RenderSettings(processes=1, avif="upgrade")) as here:
        first = await here.get(f"/{KEY}?w=100&auto=format", Accept=AVIF)
        await until(lambda: here.metric("imgproxy_renders_total", lane="background", outcome="ok") == 1)
        await until(lambda: here.edge.renders.under_way == 0)
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


# --- too much to do --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def overload(here: Site, width: int = 10) -> AsyncIterator[Callable[[], None]]:
    """The only process is at work for another request, and no more may wait; call what is given to have it go on."""
    process = here.edge.pool.pids[0]
    os.kill(process, signal.SIGSTOP)
    busy = asyncio.create_task(here.get(f"/{KEY}?w={width}"))
    try:
        await until(lambda: here.edge.pool.busy == 1)
        yield lambda: os.kill(process, signal.SIGCONT)
    finally:
        os.kill(process, signal.SIGCONT)
        await busy


async def stood_in(here: Site, target: str) -> Reply:
    """What answers a request that comes in an overload, once a process has had the time for it."""
    async with overload(here) as go_on:
        asked = asyncio.create_task(here.get(target))
        await until(lambda: here.edge.pool.waiting == 1)
        go_on()
        return await asked


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a reduction wait for as long as a test takes."""


async def test_when_the_queue_is_full_a_larger_size_stands_in(tmp_path: Path) -> None:
    """The reader sees the picture; the answer is short-lived, and the right size comes when there is room."""
    async with site(tmp_path, render=FULL_AT_ONCE) as here:
        large = await here.get(f"/{KEY}?w=300")
        async with overload(here):
            stand_in = await here.get(f"/{KEY}?w=200")
            too_small = await here.get(f"/{KEY}?w=310")
            another = await here.get(f"/{KEY}?w=200&flip=h")
        right = await here.get(f"/{KEY}?w=200")

        assert (stand_in.status, stand_in.body) == (200, large.body)
        assert stand_in.headers["Cache-Control"] == "public, max-age=10, must-revalidate"
        assert (too_small.status, another.status) == (503, 503)
        assert Image.open(io.BytesIO(right.body)).size[0] == 200
        assert right.headers["Cache-Control"] == "public, max-age=300, must-revalidate"
        assert here.metric("imgproxy_renders_total", lane="stand_in", outcome="ok") == 0


@pytest.mark.usefixtures("patient")
async def test_a_larger_size_is_reduced_where_that_is_quick(tmp_path: Path) -> None:
    """The reader gets the size at once, as often as it is asked for made once; when there is room, from the original."""
    async with site(tmp_path, pictures={KEY: noisy()}, render=FULL_AT_ONCE) as here:
        await here.get(f"/{KEY}?w=300&sharp=20&fm=webp")
        target = f"/{KEY}?w=200&sharp=20&fm=webp"
        async with overload(here) as go_on:
            both = [asyncio.create_task(here.get(target)) for _ in range(2)]
            await until(lambda: here.edge.pool.waiting == 1)
            go_on()
            first, second = await asyncio.gather(*both)
        async with overload(here, width=11):
            again = await here.get(target)
        right = await here.get(target)

        assert Image.open(io.BytesIO(first.body)).size == (200, 133)
        assert first.headers["Content-Type"] == "image/webp"
        assert first.headers["Cache-Control"] == "public, max-age=10, must-revalidate"
        assert first.body == second.body == again.body != right.body
        assert first.headers["ETag"] == again.headers["ETag"] != right.headers["ETag"]
        assert right.headers["Cache-Control"] == "public, max-age=300, must-revalidate"
        assert here.metric("imgproxy_renders_total", lane="stand_in", outcome="ok") == 1
        assert sorted("collapsed" in reply.cache_status for reply in (first, second)) == [False, True]
        assert all("render;dur=" in reply.headers["Server-Timing"] for reply in (first, second))


@pytest.mark.usefixtures("patient")
async def test_what_is_known_of_an_original_tells_whether_a_reduction_is_quick(tmp_path: Path) -> None:
    """An even picture of 24 megapixels has few bytes, and takes as long as a photo to decode."""
    async with site(tmp_path, pictures={KEY: jpeg(200, (6000, 4000))}, render=FULL_AT_ONCE) as here:
        await here.get(f"/{KEY}?w=600")
        stand_in = await stood_in(here, f"/{KEY}?w=400")

        assert Image.open(io.BytesIO(stand_in.body)).size[0] == 400
        assert red_of(stand_in.body) == pytest.approx(200, abs=3)


@pytest.mark.usefixtures("patient")
async def test_what_is_said_of_the_larger_size_is_said_of_what_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That an animation was too long to play, and that the watermark could not be had."""
    monkeypatch.setattr("imgproxy.admission.cost.REDUCTION_SHARE_MAX", 10.0)
    frames = [Image.new("RGB", (900, 600), (shade, 80, 120)) for shade in (10, 90, 170, 250)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=100)
    limits = LimitsSettings(frames=2)
    async with site(tmp_path, pictures={KEY: out.getvalue()}, render=FULL_AT_ONCE, limits=limits) as here:
        wanted = "fm=webp&mark=logos/nothing.png"
        large = await here.get(f"/{KEY}?w=300&{wanted}")
        stand_in = await stood_in(here, f"/{KEY}?w=200&{wanted}")
        hot = here.edge.cache.hot
        found = [variant.facts for name in hot.names() if (variant := hot.get(*name)) is not None]

        assert large.headers["X-Imgproxy-Animation"] == "first-frame-only"
        assert Image.open(io.BytesIO(stand_in.body)).size[0] == 200
        assert stand_in.headers["X-Imgproxy-Animation"] == "first-frame-only"
        assert [facts.is_mark_missing for facts in found if facts.width_px == 200] == [True]


async def test_a_larger_size_stands_in_as_it_is_where_no_process_reduces_it_in_time(tmp_path: Path) -> None:
    """A picture that the browser scales is better than the right size after a wait."""
    async with site(tmp_path, pictures={KEY: noisy()}, render=FULL_AT_ONCE) as here:
        large = await here.get(f"/{KEY}?w=300")
        async with overload(here):
            stand_in = await here.get(f"/{KEY}?w=200")

        assert (stand_in.status, stand_in.body) == (200, large.body)
        assert stand_in.headers["Cache-Control"] == "public, max-age=10, must-revalidate"
        assert here.metric("imgproxy_renders_total", lane="stand_in", outcome="overloaded") == 1


@pytest.mark.usefixtures("patient")
async def test_a_larger_size_whose_file_is_damaged_stands_in_from_memory(tmp_path: Path) -> None:
    """What cannot be reduced is not for that reason an error."""
    async with site(tmp_path, pictures={KEY: noisy()}, render=FULL_AT_ONCE) as here:
        large = await here.get(f"/{KEY}?w=300")
        folder = here.edge.cache.store.key_dir(key_hash(KEY))
        for path in folder.iterdir():
            if path.stat().st_size < 200_000:  # the variant, not its original
                path.write_bytes(b"torn")
        stand_in = await stood_in(here, f"/{KEY}?w=200")
        async with overload(here, width=11):
            again = await here.get(f"/{KEY}?w=200")

        assert (stand_in.status, stand_in.body) == (200, large.body)
        assert again.body == large.body
        assert here.metric("imgproxy_renders_total", lane="stand_in", outcome="not_an_image") == 1  # not tried again
        assert not list(here.edge.cache.store._being_written)


@pytest.mark.usefixtures("patient")
async def test_what_was_made_of_a_file_that_is_another_by_now_is_no_answer(tmp_path: Path) -> None:
    """Its name says of which bytes it was made; the larger size stands in as it was found."""
    async with site(tmp_path, pictures={KEY: noisy()}, render=FULL_AT_ONCE) as here:
        large = await here.get(f"/{KEY}?w=300")
        folder = here.edge.cache.store.key_dir(key_hash(KEY))
        (path,) = folder.glob("v-*")
        async with overload(here) as go_on:
            asked = asyncio.create_task(here.get(f"/{KEY}?w=200"))
            await until(lambda: here.edge.pool.waiting == 1)
            path.write_bytes(jpeg(10, (300, 200)))
            go_on()
            stand_in = await asked

        assert (stand_in.status, stand_in.body) == (200, large.body)
        assert here.metric("imgproxy_renders_total", lane="stand_in", outcome="ok") == 1


@pytest.mark.usefixtures("patient")
async def test_a_larger_size_that_was_made_anew_meanwhile_stands_in_as_it_is_now(tmp_path: Path) -> None:
    """Not as it was when it was found, nor by the name of what would have been made of that."""
    on_disk = CacheSettings(dir=tmp_path / "cache", min_free_bytes=0, hot_max_bytes=0)
    async with site(tmp_path, pictures={KEY: noisy()}, render=FULL_AT_ONCE, cache=on_disk) as here:
        await here.get(f"/{KEY}?w=300")
        store, hashed = here.edge.cache.store, key_hash(KEY)
        (path,) = store.key_dir(hashed).glob("v-*")
        original = here.edge.cache.facts(hashed)
        assert original is not None
        opened = store.open_variant(hashed, path.name.removeprefix("v-"), original.digest)
        assert opened is not None
        os.close(opened[1])
        another = jpeg(10, (300, 200))
        async with overload(here) as go_on:
            asked = asyncio.create_task(here.get(f"/{KEY}?w=200"))
            await until(lambda: here.edge.pool.waiting == 1)
            temp = store.temp_path(hashed)
            Path(temp).write_bytes(another)
            facts = replace(opened[0], digest=digest_of(another), size_bytes=len(another))
            store.seal_variant(temp, facts)
            store.commit_variant(temp, facts)
            go_on()
            stand_in = await asked

        assert (stand_in.status, stand_in.body) == (200, another)
        assert here.metric("imgproxy_renders_total", lane="stand_in", outcome="ok") == 1


@pytest.mark.usefixtures("patient")
async def test_after_a_purge_before_a_reduction_the_origin_is_asked(tmp_path: Path) -> None:
    """Who waited for a revoked picture is told that, not to come back later."""
    settled = FreshnessSettings(settle_s=0)
    async with site(tmp_path, pictures={KEY: noisy()}, render=FULL_AT_ONCE, freshness=settled) as here:
        await here.get(f"/{KEY}?w=300")
        async with overload(here) as go_on:
            asked = asyncio.create_task(here.get(f"/{KEY}?w=200"))
            await until(lambda: here.edge.pool.waiting == 1)
            await here.library.mark_invalid(here.library.entry_id(KEY))
            assert (await here.purge(here.library.entry_id(KEY))).status == 200
            go_on()
            reply = await asked

        assert reply.status == 403


@pytest.mark.usefixtures("patient")
async def test_a_purge_overtakes_what_is_being_reduced(tmp_path: Path) -> None:
    """Of a revoked picture no larger size stands in, and none that was being made of one."""
    held = Held()
    async with site(
        tmp_path,
        pictures={KEY: noisy()},
        render=FULL_AT_ONCE,
        failpoints=held,
        freshness=FreshnessSettings(settle_s=0),
    ) as here:
        await here.get(f"/{KEY}?w=300")
        async with overload(here) as go_on:
            asked = asyncio.create_task(here.get(f"/{KEY}?w=200"))
            await until(lambda: here.edge.pool.waiting == 1)
            held.hold(Point.BEFORE_COMMIT)
            go_on()
            await held.arrived(Point.BEFORE_COMMIT, 2)  # the picture that kept the process busy, and this one
            await here.library.mark_invalid(here.library.entry_id(KEY))
            assert (await here.purge(here.library.entry_id(KEY))).status == 200
            held.release(Point.BEFORE_COMMIT)
            reply = await asked

        assert reply.status == 403
        assert here.metric("imgproxy_overtaken_total", point="commit") >= 1
        assert not list(here.edge.cache.store.key_dir(key_hash(KEY)).glob("*"))


async def test_what_cannot_be_rendered_is_not_fetched(tmp_path: Path) -> None:
    """When the queue is full, a picture that is not here yet is shed before the origin is asked."""
    pictures = {KEY: jpeg(200), "other.jpg": jpeg(100)}
    async with site(tmp_path, pictures=pictures, render=FULL_AT_ONCE) as here:
        async with overload(here):
            shed = await here.get("/other.jpg?w=200")

        assert shed.status == 503
        assert shed.headers["Cache-Control"] == "no-store"
        assert int(shed.headers["Retry-After"]) >= 1
        assert here.probe.count("serveImage", "other.jpg") == 0
