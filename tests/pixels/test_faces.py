"""Faces in real pictures: the demo's portrait, and groups that are made of it."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageOps

import imgproxy
from imgproxy.errors import FacesUnavailable
from imgproxy.params.faces import plan_of_faces
from imgproxy.params.plan import Crop, FaceChoice, Fit, Format, Output, Px, Ratio, Rect, RenderPlan, Resize
from imgproxy.render.detector import LOOK_S, find_faces
from imgproxy.render.face_windows import faces_in
from imgproxy.render.geometry import place
from imgproxy.render.sizes import Box, Size
from imgproxy.workers.extras import find_detector
from imgproxy.workers.faces import Face, read_record
from tests.support.rendering import LIMITS, PNG, render

if TYPE_CHECKING:
    from collections.abc import Sequence

DETECTOR = find_detector()
pytestmark = pytest.mark.skipif(DETECTOR is None, reason="the extra `faces` is not installed")

WITH_DETECTOR = replace(LIMITS, face_model=DETECTOR.model if DETECTOR is not None else "")
PORTRAIT = Path(imgproxy.__file__).parent / "demo/photos/2026/03/14/eileen-collins.jpg"
UPRIGHT = (384, 512)
# Measured by eye on the upright portrait: what is surely face, and what is surely around it. Left, top, right, bottom.
INNER = (175, 85, 235, 160)
OUTER = (140, 40, 270, 200)
SQUARE = RenderPlan(resize=Resize(Px(300), Px(300), fit=Fit.CROP), output=PNG)
KEEP = replace(SQUARE.resize, faces=FaceChoice())


def faces_of(data: bytes, plan: RenderPlan = SQUARE) -> tuple[Face, ...]:
    """Find the faces as the service does."""
    return read_record(render(data, plan_of_faces(plan), limits=WITH_DETECTOR).data)


def group(size: tuple[int, int], places: Sequence[tuple[int, int, float]]) -> bytes:
    """A PNG of portraits on grey, each at a place (left, top) and a scale."""
    portrait = ImageOps.exif_transpose(Image.open(PORTRAIT))
    canvas = Image.new("RGB", size, (150, 150, 150))
    for left, top, scale in places:
        canvas.paste(portrait.resize((round(UPRIGHT[0] * scale), round(UPRIGHT[1] * scale))), (left, top))
    out = io.BytesIO()
    canvas.save(out, "PNG")
    return out.getvalue()


def assert_is_face(face: Face, size: tuple[int, int], *, left: float = 0, top: float = 0, scale: float = 1) -> None:
    """The box covers INNER and lies in OUTER, of a portrait at this place and scale."""
    ends = (face.left + face.width, face.top + face.height)
    box = (face.left * size[0], face.top * size[1], ends[0] * size[0], ends[1] * size[1])
    inner, outer = ([x * scale + (left, top)[n % 2] for n, x in enumerate(part)] for part in (INNER, OUTER))
    assert outer[0] <= box[0] <= inner[0]
    assert outer[1] <= box[1] <= inner[1]
    assert inner[2] <= box[2] <= outer[2]
    assert inner[3] <= box[3] <= outer[3]


def test_the_face_of_a_portrait_is_found_upright() -> None:
    """The portrait is stored on its side; its one face is where the eye sees it."""
    (face,) = faces_of(PORTRAIT.read_bytes())
    assert_is_face(face, UPRIGHT)
    assert face.confidence > 0.8


def test_the_portrait_of_the_demo_is_not_beheaded() -> None:
    """Its head is in the upper half, so a square that keeps it is the upper square, where the centre cuts the hair."""
    data = PORTRAIT.read_bytes()
    kept = render(data, replace(SQUARE, resize=KEEP), faces=faces_of(data))
    upper = render(data, replace(SQUARE, resize=replace(SQUARE.resize, crop=(Crop.TOP,))))
    assert np.array_equal(kept.pixels, upper.pixels)


def test_the_faces_of_a_group_are_listed_by_size() -> None:
    """Three portraits at three scales are three faces, where they were pasted."""
    size, places = (1200, 700), [(20, 100, 0.6), (350, 150, 1.0), (850, 60, 0.8)]
    found = faces_of(group(size, places))
    assert len(found) == 3
    for face, (left, top, scale) in zip(found, (places[1], places[2], places[0]), strict=True):
        assert_is_face(face, size, left=left, top=top, scale=scale)


@pytest.mark.parametrize("ratio", [(1, 1), (4, 5), (16, 9), (3, 1), (1, 2)])
def test_no_face_is_cut_that_fits(ratio: tuple[int, int]) -> None:
    """The faces of a crop are whole or not in it: the largest is, at every ratio that has the height for it."""
    size = (1200, 700)
    data = group(size, [(20, 100, 0.6), (350, 150, 1.0), (850, 60, 0.8)])
    found = faces_of(data)
    plan = RenderPlan(resize=Resize(aspect=ratio[0] / ratio[1], fit=Fit.CROP, faces=FaceChoice()), output=PNG)
    window = place(Box(0, 0, *size), plan, faces=faces_in(found, Size(*size))).window
    right, bottom = window.left + window.width, window.top + window.height
    kept = []
    for face in found:
        left, top = face.left * size[0], face.top * size[1]
        ends = (left + face.width * size[0], top + face.height * size[1])
        is_whole = left >= window.left and top >= window.top and ends[0] <= right and ends[1] <= bottom
        assert is_whole or ends[0] <= window.left or left >= right or ends[1] <= window.top or top >= bottom
        kept.append(is_whole)
    assert kept[0]
    assert all(kept) or ratio != (16, 9)


def test_facearea_shows_the_face() -> None:
    """Pillow's cut of twice the face's box has nearly the same pixels; windows begin at whole pixels of the result."""
    data = PORTRAIT.read_bytes()
    faces = faces_of(data)
    (face,) = faces
    resize = replace(KEEP, width=Px(200), height=Px(200), faces=FaceChoice(is_area=True, pad=2.0))
    found = render(data, replace(SQUARE, resize=resize), faces=faces)
    side = 2 * face.height * UPRIGHT[1]
    centre = ((face.left + face.width / 2) * UPRIGHT[0], (face.top + face.height / 2) * UPRIGHT[1])
    top = max(0.0, centre[1] - side / 2)
    box = (centre[0] - side / 2, top, centre[0] + side / 2, top + side)
    upright = ImageOps.exif_transpose(Image.open(PORTRAIT)).convert("RGB")
    expected = np.asarray(upright.resize((200, 200), Image.Resampling.LANCZOS, box=box), float)
    assert found.pixels.shape == (200, 200, 3)
    assert np.abs(found.pixels.astype(float) - expected).mean() < 5


def test_a_rect_without_a_face_takes_the_fallback() -> None:
    """The lower half of the portrait has no face: fit=facearea,fill fills."""
    data = PORTRAIT.read_bytes()
    plan = RenderPlan(rect=Rect(Ratio(0.0), Ratio(0.5), Ratio(1.0), Ratio(0.5)), output=PNG)
    fill = Resize(Px(100), Px(100), fit=Fit.FILL)
    found = render(data, replace(plan, resize=replace(fill, faces=FaceChoice(is_area=True))), faces=faces_of(data))
    assert np.array_equal(found.pixels, render(data, replace(plan, resize=fill)).pixels)


def test_json_lists_faces_in_pixels_of_the_upright_picture() -> None:
    """fm=json&faces=1 has imgix's form; without faces=1 there is no list."""
    data = PORTRAIT.read_bytes()
    described = render(data, RenderPlan(output=Output(format=Format.JSON, has_faces=True)), faces=faces_of(data))
    (face,) = json.loads(described.data)["Faces"]
    bounds = face["bounds"]
    assert OUTER[0] <= bounds["x"] <= INNER[0]
    assert INNER[3] <= bounds["y"] + bounds["height"] <= OUTER[3]
    assert 80 <= face["confidence"] <= 100
    assert "Faces" not in json.loads(render(data, RenderPlan(output=Output(format=Format.JSON))).data)


@pytest.mark.parametrize("orient", [1, 3, 6, 8])
def test_another_orientation_has_faces_of_its_own(orient: int) -> None:
    """`orient` turns the picture, and the faces are those of the picture that is shown; upside down there may be none."""
    found = faces_of(PORTRAIT.read_bytes(), replace(SQUARE, orient=orient))
    if orient == 6:
        assert_is_face(found[0], UPRIGHT)
    assert all(face.confidence >= 0.7 for face in found)


def test_a_picture_without_people_has_no_face() -> None:
    """An empty list is a record, too."""
    assert faces_of(group((320, 200), [])) == ()


def test_a_search_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    """After its time there is no result, whatever the detector still does."""
    model = tmp_path / "model.onnx"
    os.mkfifo(model)  # who reads it waits until somebody writes
    with pytest.raises(FacesUnavailable) as given_up:
        find_faces(bytes(3 * 64 * 64), 64, 64, str(model), look_s=0.01)
    assert isinstance(given_up.value.__cause__, TimeoutError)
    model.write_bytes(b"no model")


class SlowToFind:
    """An importer that takes its time to find OpenCV, as a cold disk does."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Find nothing; the next importer is asked."""
        if name == "cv2":
            time.sleep(LOOK_S * 1.2)


def test_the_time_that_opencv_takes_to_be_loaded_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the first portrait after a start would be cropped without its face."""
    assert DETECTOR is not None
    monkeypatch.setattr(sys, "meta_path", [SlowToFind(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "cv2", raising=False)

    assert find_faces(bytes(3 * 64 * 64), 64, 64, DETECTOR.model) == ()


def test_a_broken_model_is_no_crash(tmp_path: Path) -> None:
    """Whatever OpenCV raises becomes the one error that the edge answers with the fallback."""
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(FacesUnavailable):
        find_faces(bytes(3 * 64 * 64), 64, 64, str(tmp_path / "model.onnx"), look_s=30.0)
