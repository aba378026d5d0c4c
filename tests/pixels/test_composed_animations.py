"""Animations that libvips does not read as browsers do: APNG, animated AVIF, and GIFs that leave their canvas free."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from imgproxy.errors import DecodeFailed, NotAnImage, TooManyPixels
from imgproxy.params.plan import Format, Frames, Output, RenderPlan
from tests.pixels.test_animation import webp_timing
from tests.support import images
from tests.support.animations import CLEAR, KEEP, RESTORE, Part, Tile, apng, as_parts, chunk, gif, shown
from tests.support.params import read_plan
from tests.support.rendering import LIMITS, PNG, render

if TYPE_CHECKING:
    from tests.support.images import Pixels

LOSSLESS = RenderPlan(output=Output(format=Format.WEBP, is_lossless=True))
WIDTH, HEIGHT = 32, 24


def frames_of(data: bytes) -> list[Pixels]:
    """All frames as RGBA, by Pillow."""
    found = []
    with Image.open(io.BytesIO(data)) as image:
        for n in range(getattr(image, "n_frames", 1)):
            image.seek(n)
            found.append(np.asarray(image.convert("RGBA")))
    return found


def is_alike(a: Pixels, b: Pixels, *, levels: int = 2) -> bool:
    """Whether two RGBA pictures look alike: premultiplied, each value within some levels."""
    first, second = (
        np.dstack([item[..., :3].astype(float) * item[..., 3:] / 255, item[..., 3:].astype(float)]) for item in (a, b)
    )
    return bool(np.abs(first - second).max() <= levels)


def flat(width: int, height: int, *colour: int) -> Pixels:
    return np.full((height, width, 4), colour, np.uint8)


def parts(dispose: int, *, is_over: bool) -> list[Part]:
    """A whole first frame, then patches: half transparent, opaque, with a hole, at several places."""
    holed = flat(9, 11, 30, 30, 220, 255)
    holed[3:8, 2:7] = (255, 255, 255, 0)
    return [
        Part(np.dstack([images.photo(WIDTH, HEIGHT), np.full((HEIGHT, WIDTH), 255, np.uint8)]), delay_ms=40),
        Part(flat(12, 10, 250, 40, 40, 128), 3, 4, dispose, is_over, 50),
        Part(holed, 8, 6, dispose, is_over, 60),
        Part(flat(5, 5, 0, 200, 0, 255), WIDTH - 5, HEIGHT - 5, dispose, is_over, 70),
        Part(flat(7, 3, 9, 9, 9, 60), 0, 0, KEEP, is_over, 80),
    ]


# --- APNG -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dispose", [KEEP, CLEAR, RESTORE])
@pytest.mark.parametrize("is_over", [True, False])
def test_an_apng_is_played_as_the_specification_says(dispose: int, is_over: bool) -> None:
    """Every way to dispose and to blend gives the specified canvas, with the delays and plays of the file."""
    source = parts(dispose, is_over=is_over)
    result = render(apng(source, WIDTH, HEIGHT, plays=3), LOSSLESS)
    found = frames_of(result.data)
    assert len(found) == result.rendered.frames == 5
    for picture, want in zip(found, shown(source, WIDTH, HEIGHT), strict=True):
        assert is_alike(picture, want)
    assert webp_timing(result.data) == ([40, 50, 60, 70, 80], 3)


def test_the_first_frame_may_be_disposed_of() -> None:
    """A first frame that is taken back or cleared leaves a transparent canvas."""
    for dispose in (CLEAR, RESTORE):
        source = [replace(parts(KEEP, is_over=True)[0], dispose=dispose), *parts(KEEP, is_over=True)[1:]]
        found = frames_of(render(apng(source, WIDTH, HEIGHT), LOSSLESS).data)
        assert all(is_alike(a, b) for a, b in zip(found, shown(source, WIDTH, HEIGHT), strict=True))


def test_a_poster_is_not_part_of_the_animation() -> None:
    """A still picture beside the animation is not shown."""
    source = parts(KEEP, is_over=True)
    data = apng(source, WIDTH, HEIGHT, poster=flat(WIDTH, HEIGHT, 255, 0, 255, 255))
    found = frames_of(render(data, LOSSLESS).data)
    assert all(is_alike(a, b) for a, b in zip(found, shown(source, WIDTH, HEIGHT), strict=True))


def test_an_animation_of_one_frame_hides_its_poster() -> None:
    """If the animation has one frame, this is the picture, not the still beside it, which is not part of it."""
    source = [Part(flat(10, 10, 255, 0, 0, 255), 5, 5)]
    data = apng(source, WIDTH, HEIGHT, poster=flat(WIDTH, HEIGHT, 1, 2, 3, 255))
    assert is_alike(render(data, RenderPlan(output=PNG)).pixels, shown(source, WIDTH, HEIGHT)[0])


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_apng_of_other_colour_types(mode: str) -> None:
    """Grey, RGB and palettes are played, too; they stay opaque."""
    pictures = [Image.fromarray(images.photo(40, 30, seed=n) // (n + 1)).convert(mode) for n in range(3)]
    out = io.BytesIO()
    pictures[0].save(out, "PNG", save_all=True, append_images=pictures[1:], duration=100)
    found = frames_of(render(out.getvalue(), LOSSLESS).data)
    with Image.open(io.BytesIO(out.getvalue())) as image:
        for n, picture in enumerate(found):
            image.seek(n)
            assert is_alike(picture, np.asarray(image.convert("RGBA")))
    assert len(found) == 3


@pytest.mark.parametrize(
    ("query", "accept", "content_type", "frames", "is_first_only"),
    [
        ("w=16", "*/*", "image/png", 1, True),
        ("w=16&auto=compress", "*/*", "image/jpeg", 1, True),
        ("w=16&auto=format", "*/*", "image/png", 1, True),
        ("w=16&auto=format", "image/webp", "image/webp", 5, False),
        ("w=16&auto=format", "image/avif,image/webp", "image/webp", 5, False),
        ("w=16&fm=gif", "*/*", "image/gif", 5, False),
        ("w=16&fm=png", "*/*", "image/png", 1, False),
        ("w=16&fm=jpg", "*/*", "image/jpeg", 1, False),
        ("w=16&frame=2", "*/*", "image/png", 1, False),
        ("w=16&fm=webp&frame=2-3", "*/*", "image/webp", 2, False),
    ],
)
def test_apng_is_animated_where_the_format_can(
    query: str, accept: str, content_type: str, frames: int, is_first_only: bool
) -> None:
    """GIF and WebP stay animated. As PNG it is the first frame, and says so unless a still was asked for."""
    data = apng(parts(KEEP, is_over=True), WIDTH, HEIGHT)
    rendered = render(data, read_plan(query, accept=accept)).rendered
    assert (rendered.content_type, rendered.frames, rendered.is_first_frame_only) == (
        content_type,
        frames,
        is_first_only,
    )


def test_one_frame_of_an_apng() -> None:
    """`frame=4` is the fourth frame as it is shown, with what the ones before have left."""
    source = parts(KEEP, is_over=True)
    result = render(apng(source, WIDTH, HEIGHT), RenderPlan(frames=Frames(first=4, last=4), output=PNG))
    want = shown(source, WIDTH, HEIGHT)[3]
    assert images.largest_difference(result.pixels[..., :3], want[..., :3]) <= 2


def test_an_apng_in_video_range_is_extended() -> None:
    """If `cICP` says video range, 16 is black and 235 is white in every frame."""
    source = [Part(flat(WIDTH, HEIGHT, 16, 235, 126, 255)), Part(flat(WIDTH, HEIGHT, 235, 126, 16, 255))]
    found = frames_of(render(apng(source, WIDTH, HEIGHT, extra=chunk(b"cICP", bytes((1, 13, 0, 0)))), LOSSLESS).data)
    assert is_alike(found[0], flat(WIDTH, HEIGHT, 0, 255, 128, 255))
    assert is_alike(found[1], flat(WIDTH, HEIGHT, 255, 128, 0, 255))


def test_a_profile_applies_to_every_frame() -> None:
    """The file's ICC profile is that of each frame: a Display P3 colour is converted in all of them."""
    profile = images.vips_profile("p3")
    extra = chunk(b"iCCP", b"p3\0\0" + zlib.compress(profile))
    source = [Part(flat(8, 8, 200, 120, 60, 255)), Part(flat(8, 8, 200, 120, 60, 255), dispose=CLEAR)]
    still = images.encode(source[0].pixels[..., :3], "PNG", icc_profile=profile)
    want = render(still, RenderPlan(output=PNG)).pixels[4, 4]
    for picture in frames_of(render(apng(source, 8, 8, extra=extra), LOSSLESS).data):
        assert images.largest_difference(picture[4, 4, :3], want[:3]) <= 1


def broken(change: str) -> bytes:
    """An APNG with a fault in its animation; its still picture is whole."""
    data = apng(parts(KEEP, is_over=True), WIDTH, HEIGHT)
    at = [n for n in range(len(data)) if data[n : n + 4] == b"fcTL"][2]
    body = bytearray(data[at + 4 : at + 30])
    if change == "number":
        body[:4] = struct.pack(">I", 99)
    elif change == "outside":
        body[12:16] = struct.pack(">I", WIDTH)
    elif change == "empty":
        body[4:8] = struct.pack(">I", 0)
    elif change == "dispose":
        body[24] = 7
    return data[: at - 4] + chunk(b"fcTL", bytes(body)) + data[at + 34 :]


@pytest.mark.parametrize("change", ["number", "outside", "empty", "dispose"])
def test_a_broken_animation_is_its_still_picture(change: str) -> None:
    """A frame that breaks the rules makes the file a still, as in browsers."""
    rendered = render(broken(change), LOSSLESS).rendered
    assert (rendered.frames, rendered.width_px, rendered.height_px) == (1, WIDTH, HEIGHT)


def test_an_apng_that_ends_too_early_is_refused() -> None:
    """A truncated APNG is refused; with `allow_truncated` its whole frames play."""
    data = apng(parts(KEEP, is_over=True), WIDTH, HEIGHT)
    cut = data[: data.rfind(b"fcTL") - 4]
    with pytest.raises(DecodeFailed):
        render(cut, LOSSLESS)
    assert render(cut, LOSSLESS, limits=replace(LIMITS, allow_truncated=True)).rendered.frames == 4


# --- AVIF -------------------------------------------------------------------------------------------------------


def avif(frames: list[Pixels], delays_ms: list[int]) -> bytes:
    """An animated AVIF, nearly without loss."""
    out = io.BytesIO()
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(
        out,
        "AVIF",
        save_all=True,
        append_images=pictures[1:],
        duration=delays_ms,
        quality=95,
        subsampling="4:4:4",
        speed=9,
    )
    return out.getvalue()


@pytest.mark.parametrize("has_alpha", [False, True])
def test_an_animated_avif_is_played(has_alpha: bool) -> None:
    """Every frame, with its delay; without `fm` it becomes a WebP."""
    pictures: list[Pixels] = [images.photo(64, 48, seed=n) // (n + 1) for n in range(4)]
    if has_alpha:
        pictures = [images.with_alpha(picture) for picture in pictures]
    data = avif(pictures, [50, 100, 150, 200])
    assert data[8:12] == b"avis"
    result = render(data, RenderPlan(output=Output(is_lossless=True)))
    assert result.rendered.content_type == "image/webp"
    assert webp_timing(result.data) == ([50, 100, 150, 200], 0)
    found = frames_of(result.data)
    assert len(found) == 4
    for picture, want in zip(found, pictures, strict=True):
        bands = want.shape[2]
        seen = picture[..., 3:].astype(float) / 255
        assert images.mean_difference(picture[..., :3] * seen, want[..., :3] * seen) < 6
        assert images.mean_difference(picture[..., 3:bands], want[..., 3:]) < 3 if has_alpha else seen.min() == 1


@pytest.mark.parametrize("mode", ["L", "LA"])
@pytest.mark.parametrize("coded_range", ["full", "limited"])
def test_a_monochrome_animated_avif_is_played(mode: str, coded_range: str) -> None:
    """Grey frames, which have one band, are played, too; their range is the full one."""
    ramp = np.tile(np.linspace(0, 255, 64).round().astype(np.uint8), (48, 1))
    frames = [ramp, ramp[:, ::-1]]
    pictures = [Image.fromarray(frame if mode == "L" else np.dstack([frame, frame[:, ::-1]])) for frame in frames]
    out = io.BytesIO()
    options = {"quality": 100, "subsampling": "4:0:0", "range": coded_range, "codec": "aom"}
    pictures[0].save(out, "AVIF", save_all=True, append_images=pictures[1:], duration=[50, 100], **options)
    found = frames_of(render(out.getvalue(), LOSSLESS).data)
    for picture, frame in zip(found, frames, strict=True):
        alpha = frame[:, ::-1] if mode == "LA" else np.full_like(frame, 255)
        assert is_alike(picture, np.dstack([frame, frame, frame, alpha]), levels=3)
    (still,) = frames_of(render(out.getvalue(), read_plan("frame=2&fm=png")).data)
    assert is_alike(still, found[1], levels=3)


def test_one_frame_and_ranges_of_an_animated_avif() -> None:
    """`frame` chooses frames of an AVIF, also if they are differences to earlier ones."""
    pictures: list[Pixels] = [np.full((16, 16, 3), 60 * n, np.uint8) for n in range(4)]
    data = avif(pictures, [100] * 4)
    for query, levels in (("frame=3&fm=png", [120]), ("frame=2-3&fm=webp&lossless=1", [60, 120]), ("fm=jpg", [0])):
        found = frames_of(render(data, read_plan(query)).data)
        assert [abs(float(frame[..., 0].mean()) - level) < 4 for frame, level in zip(found, levels, strict=True)]


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_a_truncated_animated_avif_does_no_harm(at: float) -> None:
    """A file that ends too early is refused, or played as far as its frames are whole."""
    data = avif([images.photo(64, 48, seed=n) for n in range(4)], [100] * 4)
    with contextlib.suppress(DecodeFailed):
        render(data[: int(len(data) * at)], LOSSLESS)


@pytest.mark.parametrize("kind", ["apng", "avif"])
def test_limits_hold_for_composed_animations(kind: str) -> None:
    """Too many frames or pixels make the first frame; too large a frame is refused."""
    data = apng(parts(KEEP, is_over=True), WIDTH, HEIGHT)
    if kind == "avif":
        data = avif([images.photo(WIDTH, HEIGHT, seed=n) for n in range(5)], [100] * 5)
    pixels = 5 * WIDTH * HEIGHT
    assert render(data, LOSSLESS, limits=replace(LIMITS, frames=5, source_pixels=pixels)).rendered.frames == 5
    for limits in (replace(LIMITS, frames=4), replace(LIMITS, source_pixels=pixels - 1)):
        rendered = render(data, LOSSLESS, limits=limits).rendered
        assert (rendered.frames, rendered.is_first_frame_only) == (1, True)
    with pytest.raises(TooManyPixels):
        render(data, LOSSLESS, limits=replace(LIMITS, source_pixels=WIDTH * HEIGHT - 1))


# --- GIF --------------------------------------------------------------------------------------------------------

WHOLE = Tile(0, 0, WIDTH, HEIGHT, 2)

GIFS: dict[str, list[Tile]] = {
    "the first frame is smaller": [Tile(4, 3, 10, 8, 1), Tile(10, 9, 10, 8, 2)],
    "one frame alone": [Tile(4, 3, 10, 8, 1)],
    "a frame is cleared": [WHOLE, Tile(4, 3, 10, 8, 1, dispose=CLEAR), Tile(20, 12, 6, 6, 3)],
    "the first frame is cleared": [replace(WHOLE, dispose=CLEAR), Tile(4, 3, 10, 8, 1), Tile(9, 9, 4, 4, 3)],
    "the first frame is taken back": [replace(WHOLE, dispose=RESTORE), Tile(4, 3, 10, 8, 1), Tile(9, 9, 4, 4, 3)],
    "a frame is taken back": [Tile(0, 0, 20, 20, 2), Tile(4, 3, 10, 8, 1, dispose=RESTORE), Tile(9, 9, 4, 4, 3)],
    "an opaque frame among keyed ones is cleared": [
        Tile(0, 0, WIDTH, HEIGHT, 2, is_keyed=True),
        Tile(2, 2, 12, 12, 1, dispose=CLEAR),
        Tile(6, 6, 12, 12, 3, is_keyed=True),
    ],
    "keyed frames": [Tile(0, 0, 20, 20, 2, is_keyed=True), Tile(2, 2, 12, 12, 1, is_keyed=True, dispose=CLEAR), WHOLE],
    "all is painted": [WHOLE, Tile(4, 3, 10, 8, 1), Tile(9, 9, 4, 4, 3, dispose=RESTORE), Tile(2, 2, 3, 3, 1)],
}


@pytest.mark.parametrize("tiles", GIFS.values(), ids=GIFS)
def test_a_gif_is_transparent_where_nothing_is_painted(tiles: list[Tile]) -> None:
    """The canvas is transparent until it is painted, and where it is cleared, as in browsers."""
    data = gif(tiles, WIDTH, HEIGHT)
    assert render(data, LOSSLESS).rendered.frames == len(tiles)
    for n, want in enumerate(shown(as_parts(tiles), WIDTH, HEIGHT), start=1):
        result = render(data, RenderPlan(frames=Frames(first=n, last=n), output=PNG))
        assert is_alike(frames_of(result.data)[0], want, levels=0)


@pytest.mark.parametrize("end", [b"", b"\0", b"\0\0\0\x3b", b"<html>", b"\x3b<html>"])
def test_a_gif_without_its_trailer_is_transparent_too(end: bytes) -> None:
    """Many files lack the last byte, or have something else there: the canvas is as free as with it."""
    for name in ("one frame alone", "a frame is cleared"):
        tiles = GIFS[name]
        found = frames_of(render(gif(tiles, WIDTH, HEIGHT)[:-1] + end, LOSSLESS).data)
        for picture, want in zip(found, shown(as_parts(tiles), WIDTH, HEIGHT), strict=True):
            assert is_alike(picture, want)


@pytest.mark.parametrize(
    ("tiles", "size"),
    [
        ([Tile(4, 3, 10, 8, 1), Tile(WIDTH - 4, 9, 10, 8, 2)], (WIDTH, HEIGHT)),
        ([Tile(4, 3, 10, 8, 1, dispose=CLEAR), Tile(WIDTH + 4, 9, 10, 8, 2), Tile(9, 9, 4, 4, 3)], (WIDTH, HEIGHT)),
        ([Tile(WIDTH - 4, 3, 10, 8, 1), Tile(9, 9, 4, 4, 3)], (WIDTH + 6, HEIGHT)),
    ],
)
def test_frames_outside_the_canvas_of_a_gif(tiles: list[Tile], size: tuple[int, int]) -> None:
    """The first frame enlarges the canvas, others are cut off at its edge; it is free where nothing is painted."""
    want = [frame[: size[1], : size[0]] for frame in shown(as_parts(tiles), WIDTH + 20, HEIGHT)]
    for n, frame in enumerate(want, start=1):
        result = render(gif(tiles, WIDTH, HEIGHT), RenderPlan(frames=Frames(first=n, last=n), output=PNG))
        assert is_alike(frames_of(result.data)[0], frame, levels=0)


def test_a_huge_frame_of_a_small_gif_takes_no_memory() -> None:
    """A frame of 65,535 x 65,535 on a small canvas is left to libvips, which cuts it: it is not decoded as a whole."""
    data = bytearray(gif([Tile(4, 3, 10, 8, 1), Tile(0, 0, 10, 8, 2)], WIDTH, HEIGHT))
    at = data.rindex(b"\x2c\0\0\0\0")
    data[at + 5 : at + 9] = b"\xff" * 4
    with contextlib.suppress(DecodeFailed):
        assert render(bytes(data), RenderPlan(output=PNG)).pixels.shape[:2] == (HEIGHT, WIDTH)


def test_a_gif_stays_one_with_its_transparency() -> None:
    """As GIF the free canvas is transparent, too, and the delays stay."""
    tiles = GIFS["the first frame is smaller"]
    found = frames_of(render(gif(tiles, WIDTH, HEIGHT), RenderPlan()).data)
    for picture, want in zip(found, shown(as_parts(tiles), WIDTH, HEIGHT), strict=True):
        assert is_alike(picture, want)


def test_the_background_paints_a_free_canvas() -> None:
    """`bg` lies under the frames; a JPEG is white there without it."""
    data = gif(GIFS["one frame alone"], WIDTH, HEIGHT)
    painted = render(data, read_plan("bg=8040c0&fm=png")).pixels
    assert tuple(painted[0, 0]) == (0x80, 0x40, 0xC0)
    assert tuple(painted[5, 6]) == (255, 0, 0)
    assert images.largest_difference(render(data, read_plan("fm=jpg&q=95")).pixels[20, 28], np.array([255] * 3)) <= 2


def test_a_canvas_that_no_frame_fills_keeps_its_size() -> None:
    """A canvas of 640 x 480 stays, also if the frames are smaller: libvips takes it for a mistake."""
    tiles = [Tile(4, 3, 10, 8, 1), Tile(10, 9, 10, 8, 2)]
    result = render(gif(tiles, 640, 480), LOSSLESS)
    for picture, want in zip(frames_of(result.data), shown(as_parts(tiles), 640, 480), strict=True):
        assert is_alike(picture, want, levels=0)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_animations_do_no_harm(seed: int) -> None:
    """Changed and cut bytes give a picture or an error of ours."""
    rng = np.random.default_rng(seed)
    sources: list[bytes] = [
        gif(GIFS["a frame is cleared"], WIDTH, HEIGHT),
        apng(parts(CLEAR, is_over=True), WIDTH, HEIGHT),
        avif([images.photo(WIDTH, HEIGHT, seed=n) for n in range(3)], [100] * 3),
    ]
    for data in sources:
        changed = bytearray(data)
        for _ in range(int(rng.integers(1, 6))):
            changed[int(rng.integers(13, len(changed)))] = int(rng.integers(0, 256))
        if seed % 3 == 0:
            changed = changed[: int(rng.integers(14, len(changed)))]
        with contextlib.suppress(DecodeFailed, NotAnImage, TooManyPixels):
            render(bytes(changed), LOSSLESS)


@pytest.mark.parametrize("query", ["fm=webp", "fm=webp&lossless=1"])
@pytest.mark.parametrize("dispose", [KEEP, CLEAR, RESTORE])
def test_a_webp_says_that_it_is_transparent(query: str, dispose: int) -> None:
    """A WebP whose frames are opaque but leave a part of the canvas free has the alpha flag, so that it stays free."""
    tiles = [Tile(0, 0, WIDTH, HEIGHT, 1, True, dispose), Tile(8, 8, 12, 9, 2), Tile(0, 0, 6, 6, 3)]
    data = render(gif(tiles, WIDTH, HEIGHT), read_plan(query, "image/webp")).data
    assert data[12:16] == b"VP8X"
    assert data[20] & 0x10  # RFC 9649, 2.7.1
    for picture, want in zip(frames_of(data), shown(as_parts(tiles), WIDTH, HEIGHT), strict=True):
        assert np.array_equal(picture[..., 3], want[..., 3])
