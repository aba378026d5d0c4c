"""Colour: wide gamut, CMYK, 16 bit, grey and Lab, compared with LittleCMS through Pillow; the values of `cs`."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from imgproxy.params.plan import ColourSpace, Format, Output, Px, RenderPlan, Resize
from imgproxy.render import profiles
from tests.support import images
from tests.support.rendering import PNG, render

PIXELS = images.photo(96, 64)
# By how much two independent conversions differ on average.
USUAL_DELTA_E = 0.5


def by_littlecms(image: Image.Image, profile: bytes) -> np.ndarray:
    """The same picture in sRGB, relative colorimetric with black point compensation."""
    converted = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None
    return np.asarray(converted)


def delta_e(a: np.ndarray, b: np.ndarray) -> float:
    return float(images.delta_e_2000(a, b).mean())


def test_the_distance_is_ciede2000() -> None:
    """The colour distance of these tests agrees with the published test data (Sharma et al., pairs 1, 17, 25)."""
    pairs = [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ]
    for first, second, distance in pairs:
        assert abs(float(images.ciede2000(first, second)) - distance) < 1e-4


@pytest.mark.parametrize("name", ["p3", "adobe"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_wide_gamut_becomes_srgb(name: str, kind: str) -> None:
    """Display P3 and Adobe RGB pictures look the same in sRGB, in every source format."""
    profile = images.vips_profile("p3") if name == "p3" else profiles.adobe_rgb()
    options: dict[str, Any] = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    if kind == "AVIF":
        options = {"quality": 100, "subsampling": "4:4:4"}
    data = images.encode(PIXELS, kind, icc_profile=profile, **options)
    result = render(data, RenderPlan(output=PNG))
    decoded = Image.fromarray(images.decode(data))
    assert delta_e(result.pixels, by_littlecms(decoded, profile)) < USUAL_DELTA_E
    assert delta_e(result.pixels, PIXELS) > 0.8  # taking the numbers as sRGB would look another way


def test_wide_gamut_is_converted_after_scaling_too() -> None:
    """A scaled picture is converted like a whole one."""
    profile = images.vips_profile("p3")
    data = images.png(images.photo(384, 256), icc_profile=profile)
    result = render(data, RenderPlan(resize=Resize(width=Px(96)), output=PNG))
    small = Image.fromarray(images.decode(data)).resize((96, 64), Image.Resampling.LANCZOS)
    assert delta_e(result.pixels, by_littlecms(small, profile)) < USUAL_DELTA_E


def cmyk_pixels() -> np.ndarray:
    y, x = np.mgrid[0:64, 0:96]
    return np.stack([x * 2, y * 3, 255 - x - y, (x + y) // 3], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize("has_profile", [True, False])
def test_cmyk_becomes_srgb(kind: str, has_profile: bool) -> None:
    """A CMYK picture is converted by its profile, or by a usual press profile if it has none."""
    press = images.vips_profile("cmyk")
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    if has_profile:
        options["icc_profile"] = press
    data = images.encode(cmyk_pixels(), kind, "CMYK", **options)
    result = render(data, RenderPlan(output=PNG))
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "CMYK"
        want = by_littlecms(image, press)
    assert result.pixels.shape == (64, 96, 3)
    assert delta_e(result.pixels, want) < USUAL_DELTA_E


def test_ycck_becomes_srgb() -> None:
    """A YCCK JPEG (Adobe marker, transform 2) gives the same colours as the CMYK picture that it encodes."""
    press = images.vips_profile("cmyk")
    import pyvips

    cmyk = pyvips.Image.new_from_array(cmyk_pixels()).copy(interpretation="cmyk")
    data = cmyk.jpegsave_buffer(Q=100, subsample_mode="off", profile="cmyk")
    marker = data.index(b"Adobe")
    assert data[marker + 11] in (0, 2)
    result = render(data, RenderPlan(output=PNG))
    with Image.open(io.BytesIO(data)) as image:
        assert delta_e(result.pixels, by_littlecms(image, press)) < USUAL_DELTA_E


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey(kind: str) -> None:
    """16-bit grey becomes 8-bit grey of the same shade."""
    shades = np.linspace(0, 65535, 96 * 64).reshape(64, 96).astype(np.uint16)
    result = render(images.encode(shades, kind), RenderPlan(output=PNG))
    want = shades / 257.0
    assert images.largest_difference(result.pixels if result.pixels.ndim == 2 else result.pixels[..., 0], want) <= 1.0


def test_sixteen_bit_rgb() -> None:
    """16-bit RGB becomes 8-bit RGB of the same colours."""
    import pyvips

    deep = (PIXELS.astype(np.uint16) * 257) + 13
    data = pyvips.Image.new_from_array(deep).copy(interpretation="rgb16").pngsave_buffer()
    result = render(data, RenderPlan(output=PNG))
    assert images.largest_difference(result.pixels, PIXELS) <= 1.0


def test_grey_stays_grey_and_keeps_its_shades() -> None:
    """A grey picture keeps one band, and its values."""
    grey = PIXELS[..., 1]
    result = render(images.png(grey), RenderPlan(output=PNG))
    assert np.array_equal(result.pixels, grey)


def test_lab_tiff_becomes_srgb() -> None:
    """A Lab TIFF shows its colours."""
    lab = ImageCms.profileToProfile(
        Image.fromarray(PIXELS), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    out = io.BytesIO()
    lab.save(out, "TIFF")
    result = render(out.getvalue(), RenderPlan(output=PNG))
    assert delta_e(result.pixels, PIXELS) < 1


@pytest.mark.parametrize(
    "profile", [b"not a profile at all" * 20, images.vips_profile("cmyk"), images.vips_profile("p3")[:200]]
)
def test_a_profile_that_does_not_fit_counts_as_missing(profile: bytes) -> None:
    """A picture with a damaged profile, or one for another kind of picture, is read as sRGB."""
    result = render(images.png(PIXELS, icc_profile=profile), RenderPlan(output=PNG))
    assert images.largest_difference(result.pixels, PIXELS) <= 1.0


def embedded_profile(data: bytes) -> bytes | None:
    with Image.open(io.BytesIO(data)) as image:
        found = image.info.get("icc_profile")
        return found if found is None else bytes(found)


@pytest.mark.parametrize("wanted", [Format.JPEG, Format.PNG, Format.WEBP, Format.AVIF])
def test_a_tagged_source_gives_a_tagged_variant(wanted: Format) -> None:
    """A tagged source gets the small sRGB profile. An untagged source stays untagged."""
    tagged = images.png(PIXELS, icc_profile=images.vips_profile("p3"))
    plan = RenderPlan(output=Output(format=wanted))
    found = embedded_profile(render(tagged, plan).data)
    assert found is not None
    assert len(found) < 600
    assert embedded_profile(render(images.png(PIXELS), plan).data) is None


def test_cs_strip_embeds_no_profile() -> None:
    """cs=strip converts to sRGB and embeds no profile."""
    tagged = images.png(PIXELS, icc_profile=images.vips_profile("p3"))
    result = render(tagged, RenderPlan(output=Output(format=Format.PNG, colour_space=ColourSpace.STRIP)))
    assert embedded_profile(result.data) is None
    assert delta_e(result.pixels, by_littlecms(Image.fromarray(PIXELS), images.vips_profile("p3"))) < USUAL_DELTA_E


def test_cs_origin_keeps_profile_and_numbers() -> None:
    """cs=origin keeps the values and the profile of the source."""
    profile = images.vips_profile("p3")
    tagged = images.png(PIXELS, icc_profile=profile)
    result = render(tagged, RenderPlan(output=Output(format=Format.PNG, colour_space=ColourSpace.ORIGIN)))
    assert embedded_profile(result.data) == profile
    assert np.array_equal(result.pixels, PIXELS)


def test_cs_adobergb_converts_and_tags() -> None:
    """cs=adobergb1998 gives other values for the same colours."""
    result = render(images.png(PIXELS), RenderPlan(output=Output(format=Format.PNG, colour_space=ColourSpace.ADOBERGB)))
    profile = embedded_profile(result.data)
    assert profile is not None
    assert images.largest_difference(result.pixels, PIXELS) > 5
    assert delta_e(by_littlecms(Image.fromarray(result.pixels), profile), PIXELS) < USUAL_DELTA_E


def test_the_adobe_profile_has_the_published_primaries() -> None:
    """The generated profile has Adobe's colorants (Adobe RGB (1998), section 4.3.5.3, D50)."""
    found = ImageCms.ImageCmsProfile(io.BytesIO(profiles.adobe_rgb())).profile
    for colorant, want in (
        (found.red_colorant, (0.60974, 0.31111, 0.01947)),
        (found.green_colorant, (0.20528, 0.62567, 0.06087)),
        (found.blue_colorant, (0.14919, 0.06322, 0.74457)),
    ):
        assert colorant is not None
        assert np.abs(np.array(colorant[0]) - want).max() < 0.0005
