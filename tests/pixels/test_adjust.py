"""Tone, colour and style against their published formulas in NumPy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from imgproxy.params.appearance import Adjust, Colour
from imgproxy.params.plan import RenderPlan
from tests.support import images
from tests.support.rendering import PNG, render

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

PIXELS = images.photo(96, 64)
SOURCE = images.png(PIXELS)
V: NDArray[np.float64] = PIXELS / 255.0
LUMA = np.array([0.213, 0.715, 0.072])


def adjusted(adjust: Adjust, source: bytes = SOURCE) -> NDArray[Any]:
    return render(source, RenderPlan(adjust=adjust, output=PNG)).pixels


def as_bytes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(values, 0, 1) * 255


def linear(v: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def gamma(v: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(v <= 0.0031308, v * 12.92, 1.055 * np.maximum(v, 1e-9) ** (1 / 2.4) - 0.055)


def blurred(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Gaussian blur with repeated edges, by direct convolution."""
    reach = int(np.ceil(sigma * 6))
    taps = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    padded = np.pad(values, ((reach, reach), (reach, reach), (0, 0)), "edge")
    height, width = values.shape[:2]
    rows = sum(taps[i] * padded[i : i + height] for i in range(2 * reach + 1))
    found: NDArray[np.float64] = sum(taps[i] * rows[:, i : i + width] for i in range(2 * reach + 1))
    return found


def item_name(item: object) -> str:
    """A test's name: what the adjustment changes; a formula has none that would be the same in two processes."""
    if not isinstance(item, Adjust):
        return ""
    changed = [name for name in Adjust.__slots__ if getattr(item, name) != getattr(Adjust(), name)]
    return ",".join(f"{name}={getattr(item, name)}" for name in changed)


@pytest.mark.parametrize(
    ("adjust", "formula"),
    [
        (Adjust(brightness=40), lambda v: v + 0.2),
        (Adjust(brightness=-100), lambda v: v - 0.5),
        (Adjust(contrast=60), lambda v: (v - 0.5) * 1.6 + 0.5),
        (Adjust(contrast=-100), lambda v: v * 0 + 0.5),
        (Adjust(exposure=20), lambda v: gamma(np.minimum(1, linear(v) * 2))),
        (Adjust(exposure=-40), lambda v: gamma(linear(v) / 4)),
        (Adjust(gamma=50), lambda v: v ** (1 / 2**0.5)),
        (Adjust(gamma=-100), lambda v: v**2),
        (Adjust(shadow=100), lambda v: v + 1.5 * v * (1 - v) ** 3),
        (Adjust(highlight=-80), lambda v: v - 1.2 * (1 - v) * v**3),
        (Adjust(invert=True), lambda v: 1 - v),
        (Adjust(brightness=20, contrast=20), lambda v: (v + 0.1 - 0.5) * 1.2 + 0.5),
    ],
    ids=item_name,
)
def test_curves(adjust: Adjust, formula: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
    """Each curve gives the value of its formula, to one level of 255."""
    assert images.largest_difference(adjusted(adjust), as_bytes(formula(V))) <= 1.0


def hue_rotated(degrees: float) -> NDArray[np.float64]:
    """The hueRotate matrix as the W3C prints it (Filter Effects Module Level 1)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.array(
        [
            [0.213 + c * 0.787 - s * 0.213, 0.715 - c * 0.715 - s * 0.715, 0.072 - c * 0.072 + s * 0.928],
            [0.213 - c * 0.213 + s * 0.143, 0.715 + c * 0.285 + s * 0.140, 0.072 - c * 0.072 - s * 0.283],
            [0.213 - c * 0.213 - s * 0.787, 0.715 - c * 0.715 + s * 0.715, 0.072 + c * 0.928 + s * 0.072],
        ]
    )
    turned: NDArray[np.float64] = V @ matrix.T
    return turned


@pytest.mark.parametrize("degrees", [30.0, 180.0, 275.0])
def test_hue(degrees: float) -> None:
    """`hue` turns every hue as CSS hue-rotate() does."""
    assert images.largest_difference(adjusted(Adjust(hue=degrees)), as_bytes(hue_rotated(degrees))) <= 1.0


@pytest.mark.parametrize("saturation", [-100.0, -40.0, 60.0, 100.0])
def test_saturation(saturation: float) -> None:
    """`sat` scales the distance from luma as CSS saturate() does. -100 is grey."""
    grey = (V @ LUMA)[..., None]
    want = as_bytes(grey + (V - grey) * (1 + saturation / 100))
    found = adjusted(Adjust(saturation=saturation))
    assert images.largest_difference(found, want) <= 1.0
    if saturation == -100:
        assert np.ptp(found, axis=2).max() <= 1


def test_vibrance_changes_saturated_colours_less() -> None:
    """`vib` scales chroma by 1 + vib (1 - chroma)."""
    grey = (V @ LUMA)[..., None]
    chroma = np.ptp(V, axis=2)[..., None]
    want = as_bytes(grey + (V - grey) * (1 + 0.7 * (1 - chroma)))
    assert images.largest_difference(adjusted(Adjust(vibrance=70)), want) <= 1.0


def test_sepia() -> None:
    """`sepia` mixes with the classic matrix."""
    matrix = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
    want = as_bytes(0.6 * (V @ matrix.T) + 0.4 * V)
    assert images.largest_difference(adjusted(Adjust(sepia=60)), want) <= 1.0


def test_monochrome() -> None:
    """`monochrome` maps luma from black through the colour to white, mixed by the colour's alpha."""
    tone = np.array([180, 90, 20]) / 255
    luma = (V @ LUMA)[..., None]
    ramp = np.where(luma < 0.5, tone * luma * 2, tone + (1 - tone) * (luma * 2 - 1))
    want = as_bytes(0.502 * ramp + 0.498 * V)
    found = adjusted(Adjust(monochrome=Colour(180, 90, 20, 128)))
    assert images.largest_difference(found, want) <= 2.0


def test_duotone() -> None:
    """`duotone` maps luma from the dark colour to the light one."""
    dark, light = np.array([20, 0, 60]) / 255, np.array([255, 240, 200]) / 255
    luma = (V @ LUMA)[..., None]
    want = as_bytes(0.8 * (dark + (light - dark) * luma) + 0.2 * V)
    found = adjusted(Adjust(duotone=(Colour(20, 0, 60), Colour(255, 240, 200)), duotone_alpha=80))
    assert images.largest_difference(found, want) <= 2.0


@pytest.mark.parametrize("blur", [15.0, 40.0, 75.0])
def test_blur(blur: float) -> None:
    """`blur` is a Gaussian of a tenth of its value, edges repeated."""
    assert images.largest_difference(adjusted(Adjust(blur=blur)), as_bytes(blurred(V, blur / 10))) <= 2.0


def test_a_large_blur_on_a_smaller_copy_looks_the_same() -> None:
    """A blur that is made on a smaller copy differs by less than two levels on average."""
    large = images.photo(400, 300)
    found = adjusted(Adjust(blur=200), images.png(large))
    want = as_bytes(blurred(large / 255.0, 20.0))
    assert images.mean_difference(found, want) < 2.0


def test_pixel_blocks() -> None:
    """`px` gives each block the mean of its pixels, also if the edge cuts the block."""
    found = adjusted(Adjust(pixellate_px=8))
    want = PIXELS.reshape(8, 8, 12, 8, 3).mean(axis=(1, 3)).repeat(8, axis=0).repeat(8, axis=1)
    assert images.largest_difference(found, want) <= 1.0


@pytest.mark.parametrize("amount", [80.0, -60.0])
def test_unsharp_mask(amount: float) -> None:
    """`usm` moves values away from their blurred neighbourhood, or towards it."""
    want = as_bytes(V + amount / 100 * (V - blurred(V, 2.5)))
    assert images.largest_difference(adjusted(Adjust(unsharp=amount)), want) <= 2.0


def test_sharpen_adds_luma_detail_to_all_bands() -> None:
    """`sharp` adds the detail of the luma to all bands, so no colour appears at edges."""
    luma = (V @ LUMA)[..., None]
    want = as_bytes(V + 2 * 0.5 * (luma - blurred(luma, 0.5 + 50 / 50)))
    assert images.largest_difference(adjusted(Adjust(sharpen=50)), want) <= 2.0


def test_enhance_stretches_a_flat_picture() -> None:
    """auto=enhance stretches the tones of a dull picture. A picture with all tones does not change."""
    dull = (PIXELS // 3 + 60).astype(np.uint8)
    found = adjusted(Adjust(enhance=True), images.png(dull))
    assert float(found.std()) > 1.5 * float(dull.std())
    order = np.argsort(dull[..., 0].ravel(), kind="stable")
    assert (np.diff(found[..., 0].ravel()[order].astype(int)) >= 0).all()
    full = np.linspace(0, 255, 96 * 64 * 3).reshape(64, 96, 3).astype(np.uint8)
    assert images.mean_difference(adjusted(Adjust(enhance=True), images.png(full)), full) < 3.0


@pytest.mark.parametrize(
    "adjust",
    [
        Adjust(brightness=30),
        Adjust(hue=90),
        Adjust(sepia=50),
        Adjust(invert=True),
        Adjust(sharpen=40),
        Adjust(monochrome=Colour(200, 0, 0)),
        Adjust(enhance=True),
    ],
    ids=item_name,
)
def test_adjustments_keep_alpha(adjust: Adjust) -> None:
    """No adjustment of the colours changes the alpha."""
    pixels = images.with_alpha(PIXELS)
    assert np.array_equal(adjusted(adjust, images.png(pixels))[..., 3], pixels[..., 3])


def test_grey_pictures_take_tints() -> None:
    """A tint makes a grey picture coloured."""
    grey = PIXELS[..., 1]
    found = adjusted(Adjust(duotone=(Colour(0, 0, 0), Colour(255, 0, 0))), images.png(grey))
    assert images.largest_difference(found[..., 0], grey) <= 1.0
    assert found[..., 1].max() <= 1


def test_a_neutral_adjustment_changes_nothing() -> None:
    """An adjustment of zeros changes no pixel."""
    assert np.array_equal(adjusted(replace(Adjust(), unsharp_radius=9.0)), PIXELS)


def test_blurring_does_not_mix_in_hidden_colours() -> None:
    """The hidden colour of transparent pixels does not bleed when the picture is blurred."""
    pixels = images.with_alpha(np.full((64, 96, 3), 40, np.uint8))
    found = adjusted(Adjust(blur=30), images.png(pixels))
    seen = found[..., 3] > 10
    assert np.abs(found[..., :3][seen].astype(int) - 40).max() <= 12
    assert np.asarray(Image.fromarray(found)).shape == (64, 96, 4)
