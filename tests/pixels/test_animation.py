"""Animations keep their frames, delays and loop. A limit reduces them to one frame, and the result has a flag for it."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from imgproxy.params.appearance import Mask
from imgproxy.params.plan import Fit, Format, Frames, Output, Px, RenderPlan, Resize
from tests.support import images
from tests.support.params import read_plan
from tests.support.rendering import LIMITS, Result, render

if TYPE_CHECKING:
    from numpy.typing import NDArray

DELAYS_MS = [50, 100, 150, 200, 250]


def frames() -> list[NDArray[np.uint8]]:
    """Five flat frames with a block that wanders: no two are alike."""
    found = []
    for n in range(5):
        frame = np.full((60, 80, 3), (40 * n, 100, 200 - 30 * n), np.uint8)
        frame[10:30, 10 + 10 * n : 30 + 10 * n] = (250, 250, 20)
        found.append(frame)
    return found


FRAMES = frames()


def source(kind: str, loop: int = 0) -> bytes:
    return images.animation(kind, FRAMES, DELAYS_MS, loop)


def played(result: Result) -> tuple[list[NDArray[Any]], list[int], int]:
    """The frames, delays and loop count of a result: of a GIF by Pillow, of a WebP by its chunks as well."""
    with Image.open(io.BytesIO(result.data)) as image:
        count = getattr(image, "n_frames", 1)
        pictures = []
        for n in range(count):
            image.seek(n)
            pictures.append(np.asarray(image.convert("RGB")))
    if result.data[:4] == b"RIFF":
        delays, loop = webp_timing(result.data)
    else:
        delays, loop = gif_timing(result.data)
    return pictures, delays, loop


def webp_timing(data: bytes) -> tuple[list[int], int]:
    """Delays and loop count from ANMF and ANIM chunks (RFC 9649, section 2.7.1)."""
    delays, loop, at = [], -1, 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + size]
        if name == b"ANIM":
            loop = int.from_bytes(body[4:6], "little")
        if name == b"ANMF":
            delays.append(int.from_bytes(body[12:15], "little"))
        at += 8 + size + size % 2
    return delays, loop


def gif_timing(data: bytes) -> tuple[list[int], int]:
    """Delays from graphic control extensions; how often it plays, from NETSCAPE2.0 (which counts repetitions)."""
    delays, at = [], 0
    while (at := data.find(b"\x21\xf9\x04", at)) >= 0:
        delays.append(int.from_bytes(data[at + 4 : at + 6], "little") * 10)
        at += 1
    mark = data.find(b"NETSCAPE2.0")
    if mark < 0:
        return delays, 1
    repeats = int.from_bytes(data[mark + 13 : mark + 15], "little")
    return delays, repeats + 1 if repeats else 0


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
@pytest.mark.parametrize("wanted", [Format.SOURCE, Format.GIF, Format.WEBP, Format.AVIF, Format.COMPRESSED])
def test_animations_stay_animated(kind: str, wanted: Format) -> None:
    """All frames are scaled, in order, with their delays. AVIF becomes WebP."""
    plan = RenderPlan(resize=Resize(width=Px(40)), output=Output(format=wanted, quality=100))
    result = render(source(kind), plan)
    pictures, delays, loop = played(result)
    assert (result.rendered.frames, result.rendered.width_px, result.rendered.height_px) == (5, 40, 30)
    assert delays == DELAYS_MS
    assert loop == 0
    for picture, frame in zip(pictures, FRAMES, strict=True):
        want = np.asarray(Image.fromarray(frame).resize((40, 30), Image.Resampling.LANCZOS))
        assert images.mean_difference(picture, want) < 6
    assert result.rendered.content_type == ("image/gif" if result.data[:3] == b"GIF" else "image/webp")


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
@pytest.mark.parametrize("wanted", [Format.GIF, Format.WEBP])
def test_loops_are_kept_and_can_be_set(kind: str, wanted: Format) -> None:
    """An animation plays as often as its source (a GIF counts repetitions, a WebP plays), or as `loop` says."""
    original = source(kind, loop=3)
    plays = gif_timing(original)[1] if kind == "GIF" else webp_timing(original)[1]
    kept = render(original, RenderPlan(output=Output(format=wanted)))
    assert played(kept)[2] == plays
    endless = render(original, RenderPlan(frames=Frames(loop=0), output=Output(format=wanted)))
    assert played(endless)[2] == 0


@pytest.mark.parametrize(
    ("chosen", "numbers", "delays"),
    [
        (Frames(first=2, last=4), [1, 2, 3], [100, 150, 200]),
        (Frames(first=3), [2, 3, 4], [150, 200, 250]),
        (Frames(last=2), [0, 1], [50, 100]),
        (Frames(first=3, last=3), [2], []),
        (Frames(first=9, last=9), [4], []),
        (Frames(first=9), [4], []),
        (Frames(is_reversed=True), [4, 3, 2, 1, 0], [250, 200, 150, 100, 50]),
        (Frames(interval=2), [0, 2, 4], [150, 350, 250]),
        (Frames(skip=2), [0, 2, 4], [150, 350, 250]),
        (Frames(fps=20), [0, 1, 2, 3, 4], [50] * 5),
    ],
    ids=str,
)
def test_frames_can_be_chosen(chosen: Frames, numbers: list[int], delays: list[int]) -> None:
    """frame, interval, skip, reverse and fps choose frames. The delay of a dropped frame is added to the one before."""
    result = render(source("GIF"), RenderPlan(frames=chosen, output=Output(format=Format.WEBP, is_lossless=True)))
    if len(numbers) == 1:
        assert images.mean_difference(result.pixels[..., :3], FRAMES[numbers[0]]) < 1.5
        return
    pictures, found, _ = played(result)
    assert found == delays
    for picture, number in zip(pictures, numbers, strict=True):
        assert images.mean_difference(picture, FRAMES[number]) < 1.5


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
@pytest.mark.parametrize("wanted", ["fm=gif", "fm=webp&lossless=1", "fm=png", "auto=format", ""])
def test_one_frame_of_a_url_is_one_frame(kind: str, wanted: str) -> None:
    """`frame=3` is the third frame and no other, in every format."""
    plan = read_plan(f"frame=3&{wanted}", accept="image/avif,image/webp")
    result = render(source(kind), plan)
    assert result.rendered.frames == 1
    assert not result.rendered.is_first_frame_only
    assert images.mean_difference(result.pixels[..., :3], FRAMES[2]) < 6


def test_stills_of_animations_are_the_first_frame() -> None:
    """A format without animation shows the first frame; `is_first_frame_only` is not set for it."""
    result = render(source("GIF"), RenderPlan(output=Output(format=Format.PNG)))
    assert images.mean_difference(result.pixels[..., :3], FRAMES[0]) < 1.5
    assert not result.rendered.is_first_frame_only


@pytest.mark.parametrize("limits", [replace(LIMITS, frames=4), replace(LIMITS, source_pixels=5 * 80 * 60 - 1)])
@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_over_a_limit_is_its_first_frame(limits: Any, kind: str) -> None:
    """With too many frames, or too many pixels in them, only the first frame is made, and `is_first_frame_only` is set."""
    result = render(source(kind), RenderPlan(), limits=limits)
    assert result.rendered.frames == 1
    assert result.rendered.is_first_frame_only
    assert images.mean_difference(result.pixels[..., :3], FRAMES[0]) < 4
    at_the_limit = replace(LIMITS, frames=5, source_pixels=5 * 80 * 60)
    assert not render(source(kind), RenderPlan(), limits=at_the_limit).rendered.is_first_frame_only


def test_steps_apply_to_every_frame() -> None:
    """Crops, turns and masks are the same on each frame."""
    plan = RenderPlan(
        resize=Resize(width=Px(40), height=Px(40), fit=Fit.CROP),
        flip="h",
        mask=Mask("ellipse"),
        output=Output(format=Format.WEBP, is_lossless=True),
    )
    result = render(source("GIF"), plan)
    assert (result.rendered.frames, result.rendered.width_px, result.rendered.height_px) == (5, 40, 40)
    with Image.open(io.BytesIO(result.data)) as image:
        for n in range(5):
            image.seek(n)
            rgba = np.asarray(image.convert("RGBA"))
            assert rgba[0, 0, 3] == 0
            window = Image.fromarray(FRAMES[n]).resize((40, 40), Image.Resampling.LANCZOS, box=(10, 0, 70, 60))
            want = np.asarray(window)[:, ::-1]
            assert images.mean_difference(rgba[10:30, 10:30, :3], want[10:30, 10:30]) < 3


def test_very_short_delays_become_100_ms() -> None:
    """A delay of 10 ms or less becomes 100 ms, as in browsers."""
    data = images.animation("GIF", FRAMES, [0, 10, 20, 30, 40])
    result = render(data, RenderPlan(output=Output(format=Format.WEBP)))
    assert webp_timing(result.data)[0] == [100, 100, 20, 30, 40]
