"""Faces over HTTP: found once for an original, purged with it, and what a URL gets without a detector."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

import imgproxy
from imgproxy.workers.extras import Detector, find_detector
from tests.support.site import ADMIN, KEY, Site, jpeg, site

PORTRAIT = (Path(imgproxy.__file__).parent / "demo/photos/2026/03/14/eileen-collins.jpg").read_bytes()
SQUARE = "w=300&h=300&fit=crop"
# How long an answer may be kept if the faces could not be looked for.
INTERIM = "max-age=10,"
needs_detector = pytest.mark.skipif(find_detector() is None, reason="the extra `faces` is not installed")


def without_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start edges as if the extra were not installed."""
    monkeypatch.setattr("imgproxy.edge.parts.find_detector", lambda: None)


async def load_detector(here: Site) -> None:
    """Let the render process import OpenCV. On a busy machine that takes longer than a look at a picture may."""
    while INTERIM in (await here.get(f"/first.jpg?{SQUARE}&crop=faces")).headers["Cache-Control"]:
        await here.send("PURGE", "/first.jpg", headers=ADMIN)


async def same(here: Site, one: str, other: str) -> bool:
    """Whether two queries answer with the same bytes."""
    return (await here.get(f"/{KEY}?{one}")).body == (await here.get(f"/{KEY}?{other}")).body


@needs_detector
async def test_faces_are_found_once_and_purged_with_the_picture(tmp_path: Path) -> None:
    """The first URL makes two jobs, the next ones make one each; after a purge the faces are looked for again."""
    async with site(tmp_path, pictures={KEY: PORTRAIT, "first.jpg": PORTRAIT}) as here:
        await load_detector(here)
        before = await here.renders()
        first = await here.get(f"/{KEY}?{SQUARE}&crop=faces")
        assert (first.status, await here.renders() - before) == (200, 2)
        assert Image.open(io.BytesIO(first.body)).size == (300, 300)
        assert "X-Imgproxy-Faces" not in first.headers
        assert first.body == (await here.get(f"/{KEY}?{SQUARE}&crop=top")).body
        await here.get(f"/{KEY}?w=200&h=200&fit=facearea&facepad=2")
        described = await here.get(f"/{KEY}?fm=json&faces=1")
        assert await here.renders() - before == 5
        assert len(described.json()["Faces"]) == 1
        hit = await here.get(f"/{KEY}?{SQUARE}&crop=faces")
        assert (hit.body, await here.renders() - before) == (first.body, 5)

        assert (await here.send("PURGE", f"/{KEY}", headers=ADMIN)).status == 200
        again = await here.get(f"/{KEY}?{SQUARE}&crop=faces")
        assert (again.body, await here.renders() - before) == (first.body, 7)


@needs_detector
async def test_a_picture_without_faces_takes_the_next_word(tmp_path: Path) -> None:
    """`crop=faces,top` is the top, `crop=faces` the centre, `fit=facearea,fill` fills; all may be kept as usual."""
    async with site(tmp_path, pictures={KEY: jpeg(200), "first.jpg": jpeg(200)}) as here:
        await load_detector(here)
        assert await same(here, f"{SQUARE}&crop=faces,top", f"{SQUARE}&crop=top")
        assert await same(here, f"{SQUARE}&crop=faces", SQUARE)
        assert await same(here, "w=90&h=90&fit=facearea,fill", "w=90&h=90&fit=fill")
        kept = await here.get(f"/{KEY}?{SQUARE}&crop=faces")
        assert kept.headers["Cache-Control"] == (await here.get(f"/{KEY}?{SQUARE}")).headers["Cache-Control"]
        assert (await here.get(f"/{KEY}?fm=json&faces=1")).json()["Faces"] == []


async def test_without_a_detector_the_next_word_answers_and_a_header_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variant is that of the URL without `faces`, so it may be kept as usual."""
    without_detector(monkeypatch)
    async with site(tmp_path, pictures={KEY: PORTRAIT}) as here:
        centre = await here.get(f"/{KEY}?{SQUARE}")
        for query in (f"{SQUARE}&crop=faces", f"{SQUARE}&crop=faces,center", "w=300&h=300&fit=facearea"):
            reply = await here.get(f"/{KEY}?{query}")
            assert (reply.body, reply.headers["ETag"]) == (centre.body, centre.headers["ETag"])
            assert reply.headers["X-Imgproxy-Faces"] == "no-detector"
            assert reply.headers["Cache-Control"] == centre.headers["Cache-Control"]
        assert "X-Imgproxy-Faces" not in centre.headers
        described = await here.get(f"/{KEY}?fm=json&faces=1")
        assert "Faces" not in described.json()
        assert described.headers["X-Imgproxy-Faces"] == "no-detector"


@needs_detector
async def test_a_detector_that_fails_costs_a_short_time_in_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken model: the next word answers for ten seconds, no process ends, and the next picture is served."""
    (tmp_path / "model.onnx").write_bytes(b"no model")
    broken = Detector(str(tmp_path / "model.onnx"), "4")
    monkeypatch.setattr("imgproxy.edge.parts.find_detector", lambda: broken)
    async with site(tmp_path, pictures={KEY: PORTRAIT, "b.jpg": jpeg(100)}) as here:
        (pid,) = here.edge.pool.pids
        reply = await here.get(f"/{KEY}?{SQUARE}&crop=faces")
        centre = await here.get(f"/{KEY}?{SQUARE}")
        assert (reply.status, reply.body, reply.headers["ETag"]) == (200, centre.body, centre.headers["ETag"])
        assert INTERIM in reply.headers["Cache-Control"]
        assert (await here.get("/b.jpg?w=10")).status == 200
        assert here.edge.pool.pids == (pid,)


@needs_detector
async def test_a_cache_from_before_the_detector_keeps_its_other_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installing the extra changes the answers of URLs that ask for faces, and no other."""
    with monkeypatch.context() as before:
        without_detector(before)
        async with site(tmp_path, pictures={KEY: PORTRAIT}) as here:
            plain = await here.get(f"/{KEY}?{SQUARE}")
            faceless = await here.get(f"/{KEY}?{SQUARE}&crop=faces")
    async with site(tmp_path, pictures={KEY: PORTRAIT, "first.jpg": PORTRAIT}) as here:
        assert (await here.get(f"/{KEY}?{SQUARE}")).headers["ETag"] == plain.headers["ETag"]
        assert await here.renders() == 0
        await load_detector(here)
        assert (await here.get(f"/{KEY}?{SQUARE}&crop=faces")).headers["ETag"] != faceless.headers["ETag"]
