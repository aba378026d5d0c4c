"""Originals are rendered from the memory they landed in; nobody sees a difference but those who measure."""

import asyncio
import io
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
from PIL import Image

from imgproxy.cache.entry import key_hash
from imgproxy.cache.reading import read_at_once
from imgproxy.config.sections import CacheSettings, RenderSettings
from imgproxy.edge import images as images_route
from imgproxy.failpoints import Point
from imgproxy.workers import pool
from tests.support import images
from tests.support.site import KEY, Held, Site, jpeg, red_of, site, until

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><rect width="40" height="20" fill="#c80"/></svg>'


def file_of(here: Site, key: str) -> Path:
    """The original's file in the cache."""
    return here.edge.cache.store.key_dir(key_hash(key)) / "original"


def sizes_in_memory(here: Site) -> list[int]:
    """How many bytes lie in each landing."""
    return [os.fstat(descriptor).st_size for descriptor in here.edge.landings.descriptors]


def saved(form: str, **options: object) -> bytes:
    """A picture of 64 x 48 pixels in a format of Pillow's."""
    out = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 80, 120)).save(out, form, **options)
    return out.getvalue()


async def test_a_picture_that_has_just_come_is_rendered_from_memory(tmp_path: Path) -> None:
    """In further sizes, too: what stands in its file by then does not matter, as long as it is there."""
    async with site(tmp_path) as here:
        assert (await here.get(f"/{KEY}?w=100")).status == 200
        data = file_of(here, KEY).read_bytes()
        assert sizes_in_memory(here).count(len(data)) == 1
        file_of(here, KEY).write_bytes(bytes(len(data)))

        again = await here.get(f"/{KEY}?w=120")

        assert (again.status, Image.open(io.BytesIO(again.body)).size) == (200, (120, 75))
        assert here.probe.count("serveImage", KEY) == 1


async def test_a_picture_whose_memory_others_have_taken_is_rendered_from_its_file(tmp_path: Path) -> None:
    """More pictures than there are landings: each has its file, byte for byte, and each its further sizes from it."""
    pictures = {f"{number}.jpg": jpeg(20 * number, (300 + number, 200)) for number in range(1, 10)}
    async with site(tmp_path, pictures=pictures, render=RenderSettings(processes=1)) as here:
        assert len(here.edge.landings.descriptors) == 6
        for width_px in (100, 110):
            replies = await asyncio.gather(*(here.get(f"/{key}?w={width_px}&fm=png") for key in pictures))

            assert {reply.status for reply in replies} == {200}
            assert all(abs(red_of(reply.body) - 20 * n) <= 3 for n, reply in enumerate(replies, start=1))
        assert {key: file_of(here, key).read_bytes() for key in pictures} == pictures
        assert here.probe.count("serveImage") == len(pictures)


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("a.jpg", saved("JPEG")),
        ("a.png", saved("PNG")),
        ("a.webp", saved("WEBP")),
        ("a.gif", saved("GIF")),
        ("a.tif", saved("TIFF")),
        ("a.avif", saved("AVIF")),
        ("a.svg", SVG),
        ("photo.jpg", images.cached_photo()),
    ],
    ids=["jpeg", "png", "webp", "gif", "tiff", "avif", "svg", "photo"],
)
async def test_every_format_lands(tmp_path: Path, key: str, data: bytes) -> None:
    """The same bytes come of a picture in memory as of one on disk, and no one tells them apart."""
    bodies = []
    for name, landing_bytes in (("memory", 10_000_000), ("disk", 0)):
        folder = tmp_path / name
        cache = CacheSettings(dir=folder / "cache", min_free_bytes=0, landing_bytes=landing_bytes)
        async with site(folder, pictures={key: data}, cache=cache) as here:
            reply = await here.get(f"/{key}?w=30&fm=png")
            assert (reply.status, sum(sizes_in_memory(here))) == (200, len(data) if landing_bytes else 0)
            bodies.append(reply.body)
        shutil.rmtree(folder)

    assert bodies[0] == bodies[1]


async def test_an_original_that_is_in_no_page_cache_comes_whole(tmp_path: Path) -> None:
    """It went to disk past it: whoever asks for its bytes gets them from there, in whole and in part."""
    data = jpeg(200) + os.urandom(1_000_000)
    async with site(tmp_path, pictures={KEY: data}) as here:
        whole = await here.get(f"/{KEY}")
        part = await here.get(f"/{KEY}", Range="bytes=300001-900000")

        assert (whole.status, whole.body) == (200, data)
        assert (part.status, part.body) == (206, data[300_001:900_001])


async def test_a_cut_off_picture_is_not_completed_by_the_one_before_it(tmp_path: Path) -> None:
    """Its memory held a longer picture: what is missing is missing."""
    whole = images.cached_photo()
    pictures = {"whole.jpg": whole, "cut.jpg": whole[: len(whole) // 2]}
    async with site(
        tmp_path, pictures=pictures, render=RenderSettings(processes=1), library={"is_lenient": True}
    ) as here:
        for _ in here.edge.landings.descriptors[1:]:
            here.edge.landings.take()
        assert (await here.get("/whole.jpg?w=60")).status == 200
        assert max(sizes_in_memory(here)) == len(whole)

        assert (await here.get("/cut.jpg?w=60")).status == 422
        assert max(sizes_in_memory(here)) == len(whole) // 2


async def test_a_purge_while_a_process_reads_the_memory(tmp_path: Path) -> None:
    """The old picture is thrown away, the new one lands elsewhere, and the memory of the old is empty when all is done."""
    held = Held()
    async with site(tmp_path, failpoints=held, cache=CacheSettings(dir=tmp_path / "cache", min_free_bytes=0)) as here:
        held.hold(Point.AFTER_RENDER)
        request = asyncio.create_task(here.get(f"/{KEY}?w=100"))
        await held.arrived(Point.AFTER_RENDER)
        entry = here.library.entry_id(KEY)
        await here.library.put(KEY, jpeg(20, (321, 200)))
        assert (await here.purge(entry)).status == 200
        held.release(Point.AFTER_RENDER)

        assert abs(red_of((await request).body) - 20) <= 2
        new_bytes = len(jpeg(20, (321, 200)))
        await until(lambda: sorted(sizes_in_memory(here))[-2:] == [0, new_bytes])


async def test_memory_that_a_process_reads_outlives_those_who_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client leaves in the middle of a render: nothing else lands there before the process is through."""
    monkeypatch.setattr(pool, "ABANDON_GRACE_S", 60.0)
    async with site(tmp_path, render=RenderSettings(processes=1)) as here:
        process, landings = here.edge.pool.pids[0], here.edge.landings
        os.kill(process, signal.SIGSTOP)
        try:
            request = asyncio.create_task(here.get(f"/{KEY}?w=100"))
            await until(lambda: here.edge.pool.busy == 1)
            request.cancel()
            await until(lambda: here.edge.renders.under_way == 0)
            await asyncio.sleep(0)
            others = [landings.take() for _ in landings.descriptors]

            assert others.count(None) == 1
            assert len(jpeg(200)) in sizes_in_memory(here)
        finally:
            os.kill(process, signal.SIGCONT)
        await until(lambda: here.edge.pool.busy == 0)
        assert landings.take() is not None


async def test_a_picture_that_is_proved_again_keeps_its_memory(tmp_path: Path) -> None:
    """A conditional fetch needs none, not even where a single landing is left."""
    async with site(tmp_path) as here:
        await here.get(f"/{KEY}?w=100")
        for _ in here.edge.landings.descriptors[1:]:
            assert here.edge.landings.take() is not None

        await here.edge.originals.revalidate(KEY)

        assert here.metric("imgproxy_origin_answers_total", answer="not_modified") == 1
        assert len(jpeg(200)) in sizes_in_memory(here)


async def test_the_memory_goes_with_the_service(tmp_path: Path) -> None:
    """A service that has ended has no descriptor open for it."""
    async with site(tmp_path) as here:
        descriptors = here.edge.landings.descriptors
        assert descriptors

    assert here.edge.landings.descriptors == ()


async def test_the_loop_never_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What of an original is not in the page cache is read in a thread; what is there, without one."""
    data, threads, read, is_cold = jpeg(200) + bytes(1_000_000), [], os.pread, True

    def noted(descriptor: int, count: int, offset: int) -> bytes:
        if count == images_route.CHUNK_BYTES:
            threads.append(threading.get_ident())
        return read(descriptor, count, offset)

    def at_once(descriptor: int, count: int, start: int) -> bytes | bytearray:
        if is_cold:
            raise BlockingIOError
        return read_at_once(descriptor, count, start)

    async with site(tmp_path, pictures={KEY: data}) as here:
        monkeypatch.setattr(os, "pread", noted)
        monkeypatch.setattr(images_route, "read_at_once", at_once)
        assert (await here.get(f"/{KEY}")).body == data
        assert threads
        assert threading.get_ident() not in threads

        threads.clear()
        is_cold = False
        file_of(here, KEY).read_bytes()
        assert (await here.get(f"/{KEY}")).body == data
        assert not threads
