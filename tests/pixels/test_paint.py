"""Paint: flatten, pad, border, masks, blends, watermarks, turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from imgproxy.params.appearance import Blend, Border, Colour, Mask, Sides
from imgproxy.params.plan import Fit, Format, Mark, Output, Px, Ratio, RenderPlan, Resize
from tests.support import images
from tests.support.rendering import PNG, render

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXELS = images.photo(96, 64)
SOURCE = images.png(PIXELS)
ALPHA = images.with_alpha(PIXELS)
JPEG = Output(format=Format.JPEG, quality=100, chroma_444=True)


def over(top: NDArray[Any], alpha: NDArray[Any] | float, base: NDArray[Any]) -> NDArray[np.float64]:
    """Porter-Duff over an opaque base; alpha 0-1."""
    share = np.asarray(alpha, np.float64)
    share = share[..., None] if share.ndim == 2 else share
    found: NDArray[np.float64] = top * share + base * (1 - share)
    return found


def oversampled(inside: Any, width: int = 96, height: int = 64, times: int = 8) -> NDArray[np.float64]:
    """The coverage of a shape, 0-1, by counting `times` x `times` points a pixel."""
    y, x = np.mgrid[0 : height * times, 0 : width * times]
    hits = inside((x + 0.5) / times, (y + 0.5) / times).astype(np.float64)
    found: NDArray[np.float64] = hits.reshape(height, times, width, times).mean(axis=(1, 3))
    return found


def rounded(left: float, top: float, right: float, bottom: float, radii: tuple[float, ...]) -> Any:
    """Whether points lie in a rectangle whose corners, clockwise from the top left, are rounded."""

    def inside(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        found = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
        corners = [(left, top, 1, 1), (right, top, -1, 1), (right, bottom, -1, -1), (left, bottom, 1, -1)]
        for (cx, cy, sx, sy), radius in zip(corners, radii, strict=True):
            mx, my = cx + sx * radius, cy + sy * radius
            outside = ((mx - x) * sx > 0) & ((my - y) * sy > 0) & ((x - mx) ** 2 + (y - my) ** 2 > radius**2)
            found &= ~outside
        return found

    return inside


@pytest.mark.parametrize("background", [Colour(255, 255, 255, 0), Colour(200, 30, 60), Colour(0, 0, 255, 128)])
def test_jpeg_flattens_on_the_background(background: Colour) -> None:
    """A format without alpha shows the background under transparent pixels, or white if the plan has none."""
    result = render(images.png(ALPHA), RenderPlan(background=background, output=JPEG))
    ground = over(np.array(background.rgb), background.alpha / 255, np.array([255, 255, 255]))
    want = over(ALPHA[..., :3], ALPHA[..., 3] / 255, ground)
    assert images.mean_difference(result.pixels, want) < 1.5


def test_the_background_is_painted_in_every_format() -> None:
    """`bg` is painted under transparent pixels in formats with alpha, too."""
    result = render(images.png(ALPHA), RenderPlan(background=Colour(0, 90, 200), output=PNG))
    want = over(ALPHA[..., :3], ALPHA[..., 3] / 255, np.array([0, 90, 200]))
    assert images.largest_difference(result.pixels, want) <= 1.0


def test_alpha_is_kept_without_a_background() -> None:
    """Without a background the alpha does not change."""
    for wanted in (Format.PNG, Format.WEBP):
        result = render(images.png(ALPHA), RenderPlan(output=Output(format=wanted, is_lossless=True)))
        assert np.array_equal(result.pixels[..., 3], ALPHA[..., 3])


def test_an_opaque_alpha_band_is_dropped() -> None:
    """An alpha band in which every pixel is opaque is not encoded."""
    opaque = np.dstack([PIXELS, np.full((64, 96), 255, np.uint8)])
    result = render(images.png(opaque), RenderPlan(output=PNG))
    assert result.pixels.shape == (64, 96, 3)


@pytest.mark.parametrize("background", [Colour(250, 10, 10), Colour(255, 255, 255, 0)])
def test_pad(background: Colour) -> None:
    """`pad` adds space around the picture, in the background's colour or transparent."""
    result = render(SOURCE, RenderPlan(pad=Sides(1, 2, 3, 4), background=background, output=PNG))
    assert result.pixels.shape[:2] == (64 + 4, 96 + 6)
    assert np.array_equal(result.pixels[1:65, 4:100, :3], PIXELS)
    if background.alpha:
        assert tuple(result.pixels[0, 0]) == background.rgb
    else:
        assert result.pixels[0, 0, 3] == 0


def test_border_is_painted_over_the_edge() -> None:
    """A border covers the picture's edge, side by side, and does not change its size."""
    result = render(SOURCE, RenderPlan(border=Border(Sides(2, 4, 6, 8), Colour(10, 20, 30)), output=PNG))
    want = PIXELS.copy()
    want[:2], want[-6:], want[:, :8], want[:, -4:] = (10, 20, 30), (10, 20, 30), (10, 20, 30), (10, 20, 30)
    assert np.array_equal(result.pixels, want)


def test_border_with_alpha_lets_the_picture_through() -> None:
    """A half transparent border mixes with what it covers."""
    result = render(SOURCE, RenderPlan(border=Border(Sides(5, 5, 5, 5), Colour(0, 0, 0, 102)), output=PNG))
    assert images.largest_difference(result.pixels[:5], PIXELS[:5] * 0.6) <= 1.0
    assert np.array_equal(result.pixels[5:-5, 5:-5], PIXELS[5:-5, 5:-5])


def test_border_radii() -> None:
    """Rounded borders: transparent outside, the colour between outer and inner corners, the picture inside."""
    border = Border(Sides(6, 6, 6, 6), Colour(255, 0, 0), radius_px=(20,), inner_radius_px=(10,))
    found = render(SOURCE, RenderPlan(border=border, output=PNG)).pixels.astype(float)
    outer = oversampled(rounded(0, 0, 96, 64, (20, 20, 20, 20)))
    inner = oversampled(rounded(6, 6, 90, 58, (10, 10, 10, 10)))
    assert np.abs(found[..., 3] - outer * 255).max() <= 24
    assert np.abs(found[..., 3] - outer * 255).mean() < 0.5
    want = over(np.array([255, 0, 0]), 1 - inner, PIXELS)
    solid = outer > 0.99
    assert np.abs(found[..., :3] - want)[solid].mean() < 0.5


@pytest.mark.parametrize("radii", [(), (30,), (5, 10, 20, 31)])
def test_corner_masks(radii: tuple[int, ...]) -> None:
    """mask=corners keeps a rounded rectangle. The default radius is a fifth of the smaller side."""
    result = render(SOURCE, RenderPlan(mask=Mask("corners", radii), output=PNG))
    used = (13,) * 4 if not radii else radii * 4 if len(radii) == 1 else radii
    want = oversampled(rounded(0, 0, 96, 64, tuple(map(float, used)))) * 255
    assert np.abs(result.pixels[..., 3] - want).mean() < 0.5
    assert np.abs(result.pixels[..., 3] - want).max() <= 24


def test_ellipse_mask_and_its_background() -> None:
    """mask=ellipse keeps an ellipse. mask-bg paints the rest, in every format."""
    coverage = oversampled(lambda x, y: ((x - 48) / 48) ** 2 + ((y - 32) / 32) ** 2 <= 1)
    clear = render(SOURCE, RenderPlan(mask=Mask("ellipse"), output=PNG)).pixels
    assert np.abs(clear[..., 3] - coverage * 255).mean() < 0.5
    ground = Colour(0, 128, 0)
    painted = render(SOURCE, RenderPlan(mask=Mask("ellipse", background=ground), output=PNG)).pixels
    assert painted.shape == (64, 96, 3)
    assert np.abs(painted - over(PIXELS, coverage, np.array(ground.rgb))).mean() < 0.7


# --- blends -----------------------------------------------------------------------------------------------------

B: NDArray[np.float64] = PIXELS / 255.0
S: NDArray[np.float64] = np.broadcast_to(np.array([200, 60, 30]) / 255, B.shape)


def lum(c: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = (c @ np.array([0.3, 0.59, 0.11]))[..., None]
    return found


def set_lum(c: NDArray[Any], wanted: NDArray[Any]) -> NDArray[Any]:
    """SetLum and ClipColor, pixel by pixel as the W3C writes them."""
    c = c + (wanted - lum(c))
    light, low, high = lum(c), c.min(axis=2, keepdims=True), c.max(axis=2, keepdims=True)
    c = np.where(low < 0, light + (c - light) * light / np.maximum(light - low, 1e-9), c)
    found: NDArray[Any] = np.where(high > 1, light + (c - light) * (1 - light) / np.maximum(high - light, 1e-9), c)
    return found


def set_sat(c: NDArray[Any], wanted: NDArray[Any]) -> NDArray[Any]:
    low, high = c.min(axis=2, keepdims=True), c.max(axis=2, keepdims=True)
    found: NDArray[Any] = (c - low) / np.maximum(high - low, 1e-9) * wanted
    return found


def sat(c: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = np.ptp(c, axis=2)[..., None]
    return found


def soft_light(b: NDArray[Any], s: NDArray[Any]) -> NDArray[Any]:
    d = np.where(b <= 0.25, ((16 * b - 12) * b + 4) * b, np.sqrt(b))
    found: NDArray[Any] = np.where(s <= 0.5, b - (1 - 2 * s) * b * (1 - b), b + (2 * s - 1) * (d - b))
    return found


def hard_light(b: NDArray[Any], s: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = np.where(s <= 0.5, b * 2 * s, b + (2 * s - 1) - b * (2 * s - 1))
    return found


# Compositing and Blending Level 1, section 10.
MODES: dict[str, NDArray[Any]] = {
    "normal": S,
    "multiply": B * S,
    "screen": B + S - B * S,
    "darken": np.minimum(B, S),
    "lighten": np.maximum(B, S),
    "overlay": hard_light(S, B),
    "softlight": soft_light(B, S),
    "hardlight": hard_light(B, S),
    "difference": np.abs(B - S),
    "exclusion": B + S - 2 * B * S,
    "burn": 1 - np.minimum(1, (1 - B) / S),
    "dodge": np.minimum(1, B / (1 - S)),
    "hue": set_lum(set_sat(S, sat(B)), lum(B)),
    "saturation": set_lum(set_sat(B, sat(S)), lum(B)),
    "color": set_lum(S, lum(B)),
    "luminosity": set_lum(B, lum(S)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alpha", [100.0, 40.0])
def test_blend_modes(mode: str, alpha: float) -> None:
    """Every mode follows the W3C's formula, mixed by its alpha."""
    found = render(SOURCE, RenderPlan(blend=Blend(Colour(200, 60, 30), mode, alpha), output=PNG)).pixels
    want = np.clip(MODES[mode], 0, 1) * alpha / 100 + B * (1 - alpha / 100)
    assert images.mean_difference(found, want * 255) < 1.0
    assert images.largest_difference(found, want * 255) <= (12 if mode in ("burn", "dodge", "softlight") else 3)


def test_blends_keep_the_pictures_alpha() -> None:
    """A blend does not change the alpha."""
    found = render(images.png(ALPHA), RenderPlan(blend=Blend(Colour(200, 60, 30), "normal"), output=PNG)).pixels
    assert np.array_equal(found[..., 3], ALPHA[..., 3])


# --- watermarks -------------------------------------------------------------------------------------------------

STAMP = np.zeros((10, 20, 4), np.uint8)
STAMP[:] = (255, 0, 0, 255)
STAMP_FILE = images.png(STAMP)


def marked(mark: Mark, **plan: Any) -> NDArray[Any]:
    return render(SOURCE, RenderPlan(mark=mark, output=PNG, **plan), marks={"logo": STAMP_FILE}).pixels


def painted_box(found: NDArray[Any]) -> tuple[int, int, int, int]:
    """Left, top, width and height of what the stamp covers wholly."""
    red = (found[..., 0] > 250) & (found[..., 1] < 5) & (found[..., 2] < 5)
    ys, xs = np.nonzero(red)
    return int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1


@pytest.mark.parametrize(
    ("mark", "box"),
    [
        (Mark("logo"), (71, 49, 20, 10)),
        (Mark("logo", horizontal="left", vertical="top", pad_px=3), (3, 3, 20, 10)),
        (Mark("logo", horizontal="center", vertical="middle"), (38, 27, 20, 10)),
        (Mark("logo", x_px=11, y_px=13), (11, 13, 20, 10)),
        (Mark("logo", width=Px(40)), (51, 39, 40, 20)),
        (Mark("logo", width=Ratio(0.5)), (43, 35, 48, 24)),
        (Mark("logo", scale=25), (67, 47, 24, 12)),
        (Mark("logo", width=Px(10), height=Px(30), fit=Fit.SCALE), (81, 29, 10, 30)),
        (Mark("logo", rotation=90), (81, 39, 10, 20)),
    ],
    ids=str,
)
def test_watermarks_are_placed_by_their_parameters(mark: Mark, box: tuple[int, int, int, int]) -> None:
    """Alignment, padding, position, size and rotation change exactly the expected pixels."""
    found = marked(mark)
    assert painted_box(found) == box
    left, top, width, height = box
    rest = np.ones((64, 96), bool)
    rest[top : top + height, left : left + width] = False
    assert images.largest_difference(found[rest], PIXELS[rest]) <= 1.0


def test_watermark_opacity() -> None:
    """mark-alpha mixes the watermark with the picture."""
    found = marked(Mark("logo", alpha=40))
    want = over(np.array([255, 0, 0]), 0.4, PIXELS[49:59, 71:91])
    assert images.largest_difference(found[49:59, 71:91], want) <= 1.5


def test_watermark_tiles() -> None:
    """mark-tile=grid repeats the watermark over the whole picture, with its padding between."""
    found = marked(Mark("logo", is_tiled=True, pad_px=4))
    for left in (0, 24, 48, 72):
        for top in (0, 14, 28, 42):
            assert tuple(found[top, left]) == (255, 0, 0)
            assert np.array_equal(found[top + 12, left + 22], PIXELS[top + 12, left + 22])


def test_watermarks_are_left_out_of_small_pictures() -> None:
    """A picture smaller than mark-if-min-width gets no watermark."""
    assert np.array_equal(marked(Mark("logo", min_width_px=97)), PIXELS)
    assert not np.array_equal(marked(Mark("logo", min_width_px=96)), PIXELS)


def test_a_missing_watermark_is_reported() -> None:
    """If the watermark is missing or is not a picture, the variant is made without it, and `is_mark_missing` is set."""
    plan = RenderPlan(mark=Mark("other"), output=PNG)
    for marks in ({"logo": STAMP_FILE}, {"other": b"no picture"}, {"other": STAMP_FILE[:60]}):
        result = render(SOURCE, plan, marks=marks)
        assert result.rendered.is_mark_missing
        assert np.array_equal(result.pixels, PIXELS)
    assert not render(SOURCE, plan, marks={"other": STAMP_FILE}).rendered.is_mark_missing


# --- turning ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", ["h", "v", "hv"])
def test_flips(flip: str) -> None:
    """`flip` mirrors left to right, top to bottom, or both, exactly."""
    want = PIXELS[:, ::-1] if "h" in flip else PIXELS
    want = want[::-1] if "v" in flip else want
    assert np.array_equal(render(SOURCE, RenderPlan(flip=flip, output=PNG)).pixels, want)


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_quarter_turns_are_exact(quarter: int) -> None:
    """rot-type=pivot by right angles moves whole pixels, counter-clockwise."""
    found = render(SOURCE, RenderPlan(rotation=90.0 * quarter, is_pivot=True, output=PNG)).pixels
    assert np.array_equal(found, np.rot90(PIXELS, quarter))


@pytest.mark.parametrize("degrees", [10.0, 45.0, 200.0])
def test_pivot_shows_the_whole_picture(degrees: float) -> None:
    """rot-type=pivot turns the whole picture counter-clockwise about the centre, with transparent corners."""
    soft = images.photo(96, 64)
    found = render(images.png(soft), RenderPlan(rotation=degrees, is_pivot=True, output=PNG)).pixels
    want = np.asarray(Image.fromarray(soft).convert("RGBA").rotate(degrees, Image.Resampling.BICUBIC, expand=True))
    height, width = min(found.shape[0], want.shape[0]), min(found.shape[1], want.shape[1])

    def centre(pixels: NDArray[Any]) -> NDArray[Any]:
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        return pixels[top : top + height, left : left + width]

    a, b = centre(found), centre(want)
    solid = (a[..., 3] == 255) & (b[..., 3] == 255)
    assert solid.sum() > 0.85 * 96 * 64
    assert np.abs(a[..., :3][solid].astype(float) - b[..., :3][solid]).mean() < 6
    assert found[0, 0, 3] == 0


def test_straighten_covers_the_frame() -> None:
    """rot keeps the frame and enlarges the picture, so that no corner is empty."""
    result = render(SOURCE, RenderPlan(rotation=12.0, output=PNG))
    zoom = np.cos(np.radians(12)) + np.sin(np.radians(12)) * 96 / 64
    large = Image.fromarray(PIXELS).resize((round(96 * zoom), round(64 * zoom)), Image.Resampling.BICUBIC)
    turned = large.rotate(12.0, Image.Resampling.BICUBIC)
    left, top = (turned.width - 96) / 2, (turned.height - 64) / 2
    want = np.asarray(turned.transform((96, 64), Image.Transform.AFFINE, (1, 0, left, 0, 1, top)))
    assert result.pixels.shape == (64, 96, 3)
    assert images.mean_difference(result.pixels, want) < 6
    assert images.ssim(result.pixels, want) > 0.8


def test_round_shapes_and_padding_together() -> None:
    """Border, mask and padding together: the padding lies outside the mask."""
    plan = RenderPlan(
        resize=Resize(width=Px(60), height=Px(60), fit=Fit.CROP),
        mask=Mask("ellipse"),
        pad=Sides(5, 5, 5, 5),
        background=Colour(1, 2, 3),
        output=PNG,
    )
    found = render(SOURCE, plan).pixels
    assert found.shape == (60, 60, 3)
    for corner in (found[0, 0], found[5, 5], found[59, 59]):
        assert tuple(corner) == (1, 2, 3)
