"""Sizes and crops: every fit mode, compared with the same cut and Lanczos filter in Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from imgproxy.params.appearance import Colour
from imgproxy.params.plan import Anchor, Bounds, Crop, Fit, Focal, Format, Output, Px, Ratio, Rect, RenderPlan, Resize
from tests.support import images
from tests.support.params import read_plan
from tests.support.rendering import LIMITS, PNG, render, render_all

PHOTO = images.photo(320, 240)
SOURCE = images.png(PHOTO)

# Pillow's Lanczos and libvips' differ in rounding and at the edges only; upwards libvips is bicubic.
CLOSE = 1.0


def expected(window: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """The window (left, top, right, bottom) of the photo at a size, by Pillow."""
    return np.asarray(Image.fromarray(PHOTO).resize(size, Image.Resampling.LANCZOS, box=window))


WHOLE = (0, 0, 320, 240)


@pytest.mark.parametrize(
    ("resize", "window", "size"),
    [
        (Resize(width=Px(160)), WHOLE, (160, 120)),
        (Resize(height=Px(60)), WHOLE, (80, 60)),
        (Resize(width=Px(100), height=Px(100)), WHOLE, (100, 75)),
        (Resize(width=Ratio(0.5)), WHOLE, (160, 120)),
        (Resize(width=Px(640), height=Px(100), fit=Fit.MAX), WHOLE, (133, 100)),
        (Resize(width=Px(640), fit=Fit.MAX), WHOLE, (320, 240)),
        (Resize(width=Px(100), height=Px(100), fit=Fit.SCALE), WHOLE, (100, 100)),
        (Resize(width=Px(120), height=Px(120), fit=Fit.CROP), (40, 0, 280, 240), (120, 120)),
        (Resize(width=Px(120), height=Px(120), fit=Fit.CROP, crop=(Crop.LEFT,)), (0, 0, 240, 240), (120, 120)),
        (Resize(width=Px(120), height=Px(120), fit=Fit.CROP, crop=(Crop.RIGHT,)), (80, 0, 320, 240), (120, 120)),
        (Resize(width=Px(160), height=Px(60), fit=Fit.CROP, crop=(Crop.TOP,)), (0, 0, 320, 120), (160, 60)),
        (Resize(width=Px(160), height=Px(60), fit=Fit.CROP, crop=(Crop.BOTTOM,)), (0, 120, 320, 240), (160, 60)),
        (Resize(width=Px(640), height=Px(640), fit=Fit.MIN), (40, 0, 280, 240), (240, 240)),
        (Resize(aspect=2.0, width=Px(160), fit=Fit.CROP), (0, 40, 320, 200), (160, 80)),
        (
            Resize(height=Px(120), fit=Fit.CROP, bounds=Bounds(max_width_px=120)),
            (40, 0, 280, 240),
            (120, 120),
        ),
        (
            Resize(width=Px(80), height=Px(60), fit=Fit.CROP, crop=(Crop.FOCALPOINT,), focal=Focal(0.75, 0.25, 2)),
            (160, 0, 320, 120),
            (80, 60),
        ),
        (
            Resize(width=Px(80), height=Px(60), fit=Fit.CROP, crop=(Crop.FOCALPOINT,), focal=Focal(0.5, 0.5, 4)),
            (120, 90, 200, 150),
            (80, 60),
        ),
    ],
    ids=str,
)
def test_fit_modes(resize: Resize, window: tuple[float, float, float, float], size: tuple[int, int]) -> None:
    """Each fit mode shows exactly its window of the source at exactly its size."""
    result = render(SOURCE, RenderPlan(resize=resize, output=PNG))
    assert (result.rendered.width_px, result.rendered.height_px) == size
    assert images.mean_difference(result.pixels, expected(window, size)) < CLOSE


@pytest.mark.parametrize(
    ("rect", "window"),
    [
        (Rect(Px(20), Px(30), Px(100), Px(80)), (20, 30, 120, 110)),
        (Rect(Ratio(0.5), Ratio(0.5), Ratio(0.25), Ratio(0.25)), (160, 120, 240, 180)),
        (Rect(Anchor(1), Anchor(0.5), Px(100), Px(80)), (220, 80, 320, 160)),
        (Rect(Px(300), Px(200), Px(100), Px(80)), (300, 200, 320, 240)),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_rect(rect: Rect, window: tuple[int, int, int, int], scale: float) -> None:
    """A rect is cut before scaling. Without a size it is an exact cut."""
    size = (round((window[2] - window[0]) * scale), round((window[3] - window[1]) * scale))
    resize = Resize(width=Px(size[0]), height=Px(size[1]), fit=Fit.SCALE) if scale != 1.0 else Resize()
    result = render(SOURCE, RenderPlan(rect=rect, resize=resize, output=PNG))
    want = PHOTO[window[1] : window[3], window[0] : window[2]] if scale == 1.0 else expected(window, size)
    limit = 0.0 if scale == 1.0 else CLOSE
    assert images.mean_difference(result.pixels, want) <= limit


@pytest.mark.parametrize("width", [40, 60, 100, 150, 213, 319])
def test_a_jpeg_shrunk_on_load_looks_like_one_decoded_whole(width: int) -> None:
    """A JPEG that is shrunk on load looks like one that is decoded whole, without a shift."""
    large = images.photo(641, 483)
    data = images.jpeg(large)
    height = round(483 * width / 641)
    result = render(data, RenderPlan(resize=Resize(width=Px(width)), output=PNG))
    want = np.asarray(Image.fromarray(images.decode(data)).resize((width, height), Image.Resampling.LANCZOS))
    assert result.pixels.shape == want.shape
    assert images.mean_difference(result.pixels, want) < 1.5
    # A shift by half a pixel would show as a better match with the shifted picture.
    shifted = np.roll(want, 1, axis=1)[:, 1:]
    halfway = (want[:, 1:].astype(float) + shifted) / 2
    aligned = images.mean_difference(result.pixels[:, 1:], want[:, 1:])
    assert aligned < images.mean_difference(result.pixels[:, 1:], halfway)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_crop_of_a_shrunk_jpeg_is_at_its_place(kind: str) -> None:
    """A crop window is in pixels of the full source, for every shrink on load."""
    large = images.photo(1000, 750)
    data = images.encode(large, kind, quality=95)
    rect = Rect(Px(251), Px(127), Px(501), Px(379))
    result = render(data, RenderPlan(rect=rect, resize=Resize(width=Px(100)), output=PNG))
    want = np.asarray(
        Image.fromarray(images.decode(data)).resize((100, 76), Image.Resampling.LANCZOS, box=(251, 127, 752, 506))
    )
    assert images.mean_difference(result.pixels, want) < 2.5
    assert images.ssim(result.pixels, want) > 0.97


def test_enlarging_keeps_the_picture() -> None:
    """Clip enlarges; scaled back, the picture is as before."""
    result = render(SOURCE, RenderPlan(resize=Resize(width=Px(960)), output=PNG))
    assert (result.rendered.width_px, result.rendered.height_px) == (960, 720)
    back = np.asarray(Image.fromarray(result.pixels).resize((320, 240), Image.Resampling.BOX))
    assert images.mean_difference(back, PHOTO) < CLOSE


@pytest.mark.parametrize("fit", [Fit.FILL, Fit.FILLMAX])
def test_fill_paints_the_rest_of_the_frame(fit: Fit) -> None:
    """fit=fill centres the picture in the frame and paints the rest; fillmax does not enlarge it."""
    size = (200, 200) if fit is Fit.FILL else (400, 300)
    color = Colour(10, 200, 30)
    plan = RenderPlan(resize=Resize(width=Px(size[0]), height=Px(size[1]), fit=fit, fill_colour=color), output=PNG)
    result = render(SOURCE, plan)
    inner = (200, 150) if fit is Fit.FILL else (320, 240)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    want = np.empty((size[1], size[0], 3), np.uint8)
    want[:] = color.rgb
    want[top : top + inner[1], left : left + inner[0]] = expected(WHOLE, inner)
    assert images.mean_difference(result.pixels, want) < CLOSE
    assert tuple(result.pixels[0, 0]) == color.rgb


def test_fill_without_a_colour_is_transparent_and_white_in_jpeg() -> None:
    """The space around a filled picture is transparent, or white in a format without alpha."""
    resize = Resize(width=Px(200), height=Px(200), fit=Fit.FILL)
    clear = render(SOURCE, RenderPlan(resize=resize, output=PNG))
    white = render(SOURCE, RenderPlan(resize=resize, output=Output(format=Format.JPEG, quality=95)))
    assert clear.pixels[0, 0, 3] == 0
    assert clear.pixels[100, 100, 3] == 255
    assert images.largest_difference(white.pixels[5, 5], np.array([255, 255, 255])) <= 2


def test_clamp_repeats_the_edge() -> None:
    """fit=clamp repeats the outermost pixels into the rest of the frame."""
    result = render(SOURCE, RenderPlan(resize=Resize(width=Px(200), height=Px(200), fit=Fit.CLAMP), output=PNG))
    assert result.pixels.shape == (200, 200, 3)
    for row in (0, 10, 24):
        assert np.array_equal(result.pixels[row], result.pixels[25])
    assert np.array_equal(result.pixels[199], result.pixels[174])


def test_fill_blur_puts_the_picture_on_a_blurred_cover() -> None:
    """fill=blur shows the blurred source around the picture: its colours without detail."""
    plan = RenderPlan(resize=Resize(width=Px(200), height=Px(200), fit=Fit.FILL, fill_blur=True), output=PNG)
    result = render(SOURCE, plan).pixels.astype(float)
    cover = np.asarray(Image.fromarray(PHOTO).resize((200, 200), Image.Resampling.LANCZOS, box=(40, 0, 280, 240)))
    band = result[:20]
    assert np.abs(band.mean(axis=(0, 1)) - cover[:20].astype(float).mean(axis=(0, 1))).max() < 12
    assert np.abs(np.diff(band, axis=1)).max() < np.abs(np.diff(cover[:20].astype(float), axis=1)).max() / 3
    assert images.mean_difference(result[25:175], expected(WHOLE, (200, 150))) < CLOSE


@pytest.mark.parametrize("crop", [Crop.ENTROPY, Crop.EDGES])
def test_smart_crops_keep_the_busy_part(crop: Crop) -> None:
    """entropy and edges keep the part with detail: here the right end of a flat strip."""
    strip = np.full((100, 400, 3), 128, np.uint8)
    strip[20:80, 310:390] = np.random.default_rng(3).integers(0, 255, (60, 80, 3))
    resize = Resize(width=Px(100), height=Px(100), fit=Fit.CROP, crop=(crop,))
    result = render(images.png(strip), RenderPlan(resize=resize, output=PNG))
    assert result.pixels.shape == (100, 100, 3)
    busy = (np.abs(result.pixels.astype(int) - 128).max(axis=2) > 20).sum()
    assert busy > 0.9 * 60 * 80


@pytest.mark.parametrize(
    ("query", "size"),
    [
        ("w=33&dpr=1.5", (50, 116)),  # 49.5 and 115.5; from 50 it would be 117
        ("h=77&dpr=1.5", (50, 116)),  # 49.5 and 115.5
        ("w=33&dpr=1.5&fit=max", (50, 116)),
        ("w=33&ar=2:5&fit=crop&dpr=1.5", (50, 124)),  # 123.75; from 50 it would be 125
        ("w=33&ar=2:5&fit=fill&dpr=1.5", (50, 124)),
        ("w=0.5", (167, 389)),  # 166.5 and 388.5; from 167 it would be 390
        ("w=0.25&dpr=2", (167, 389)),
        ("w=33&h=50&dpr=1.5&fit=crop", (50, 75)),
    ],
)
def test_sizes_are_rounded_once(query: str, size: tuple[int, int]) -> None:
    """The other side follows the side that was asked for, before that is rounded."""
    rendered = render(images.png(images.photo(333, 777)), read_plan(query + "&fm=png")).rendered
    assert (rendered.width_px, rendered.height_px) == size


def test_the_size_of_a_watermark_is_rounded_once() -> None:
    """The watermark's height follows its width before that is rounded: 16.5 x 38.5, not 17 x 40."""
    white = images.png(np.full((777, 333, 3), 255, np.uint8))
    query = "w=200&dpr=1.5&mark=m.png&mark-w=11&mark-align=left,top&mark-pad=0&fm=png"
    pixels = render(images.png(np.zeros((300, 200, 3), np.uint8)), read_plan(query), marks={"m.png": white}).pixels
    assert ((pixels[..., 0] > 0).any(axis=0).sum(), (pixels[..., 0] > 0).any(axis=1).sum()) == (17, 39)


def test_the_output_limit_scales_the_whole_down() -> None:
    """A result over the limit is scaled down as a whole, not refused."""
    resize = Resize(width=Px(12000), height=Px(100), fit=Fit.SCALE)
    limits = LIMITS.__class__(1_500_000_000, 60_000_000, 256, 1000)
    result = render(SOURCE, RenderPlan(resize=resize, output=PNG), limits=limits)
    assert (result.rendered.width_px, result.rendered.height_px) == (1000, 8)


def test_scaling_does_not_mix_in_hidden_colours() -> None:
    """The hidden magenta of transparent pixels does not bleed into visible ones when the picture is scaled down."""
    pixels = images.with_alpha(PHOTO)
    result = render(images.png(pixels), RenderPlan(resize=Resize(width=Px(80)), output=PNG)).pixels
    premultiplied = pixels.astype(float)
    premultiplied[..., :3] *= premultiplied[..., 3:] / 255
    bands = [
        np.asarray(Image.fromarray(premultiplied[..., n].astype(np.float32)).resize((80, 60), Image.Resampling.LANCZOS))
        for n in range(4)
    ]
    alpha = bands[3]
    seen = alpha > 8
    for n in range(3):
        want = np.clip(bands[n][seen] * 255 / alpha[seen], 0, 255)
        assert np.abs(result[..., n][seen] - want).mean() < 1.5
    assert np.abs(result[..., 3] - np.clip(alpha, 0, 255)).mean() < 1.0


def test_variants_made_together_look_like_variants_made_alone() -> None:
    """Seven widths from one decode each have an SSIM above 0.99 to the same width made alone."""
    data = images.jpeg(images.photo(1000, 750))
    plans = [RenderPlan(resize=Resize(width=Px(w)), output=PNG) for w in (340, 300, 240, 160, 120, 80, 40)]
    together = render_all(data, *plans)
    for plan, result in zip(plans, together, strict=True):
        alone = render(data, plan)
        assert result.pixels.shape == alone.pixels.shape
        assert images.ssim(result.pixels, alone.pixels) > 0.99


def spot(size: tuple[int, int], centre: tuple[float, float], sigma: float) -> images.Pixels:
    """A soft white spot on black."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]] + 0.5
    light = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * sigma**2))
    return np.dstack([np.round(255 * light)] * 3).astype(np.uint8)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(
    ("size", "result", "focal"),
    [
        ((603, 400), (150, 150), None),
        ((400, 711), (97, 64), None),
        ((800, 504), (233, 171), Focal(0.31, 0.62, 1.0)),
        ((701, 900), (180, 33), Focal(0.4, 0.37, 1.3)),
        ((640, 480), (101, 99), Focal(0.57, 0.5, 1.71)),
        ((900, 640), (31, 32), Focal(0.77, 0.2, 1.0)),
    ],
)
def test_a_reduced_crop_is_at_its_exact_place(
    size: tuple[int, int], result: tuple[int, int], focal: Focal | None, kind: str, orientation: int
) -> None:
    """A window that begins within a pixel, of the source or of the result, is off by less than 0.08 px of the result."""
    scale = max(result[0] / size[0], result[1] / size[1]) * (focal.zoom if focal else 1)
    window = (result[0] / scale, result[1] / scale)
    place = (focal.x, focal.y) if focal else (0.5, 0.5)
    corner = [min(max(place[n] * size[n] - window[n] / 2, 0), size[n] - window[n]) for n in (0, 1)]
    upright = spot(size, (corner[0] + window[0] / 2, corner[1] + window[1] / 2), min(window) / 10)
    stored = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright), 7: upright[::-1, ::-1].swapaxes(0, 1)}[
        orientation
    ]
    crop = () if focal is None else (Crop.FOCALPOINT,)
    resize = Resize(Px(result[0]), Px(result[1]), fit=Fit.CROP, crop=crop, focal=focal)
    data = images.encode(np.ascontiguousarray(stored), kind, quality=98)
    light = render(data, RenderPlan(orient=orientation, resize=resize, output=PNG)).pixels[..., 0].astype(np.float64)
    assert light.shape == result[::-1]
    y, x = np.mgrid[0 : result[1], 0 : result[0]] + 0.5
    assert abs((x * light).sum() / light.sum() - result[0] / 2) < 0.08
    assert abs((y * light).sum() / light.sum() - result[1] / 2) < 0.08
