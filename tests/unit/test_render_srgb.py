"""Which ICC profiles are sRGB, compared with what LittleCMS makes of pixels by them."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import pyvips
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageCms

from imgproxy.params.plan import ColourSpace
from imgproxy.render import colour, profiles
from imgproxy.render.srgb import is_srgb
from tests.support import images

SRGB = images.vips_profile("srgb")
# The primaries of sRGB as s15Fixed16Number: adapted to D50 from sRGB's white point D65, and as if that were D50.
SRGB_COLUMNS = ((28576, 14581, 912), (25239, 46983, 6361), (9375, 3972, 46787))
OTHER_WHITE_COLUMNS = ((31794, 16394, 1490), (22861, 45728, 7620), (8535, 3414, 44951))
GAMMA = 563  # 2.2 times 256


def with_table(entries: int, power: float = 2.4) -> bytes:
    """Profile of sRGB whose curve is a table, as the one of 1998 that cameras and programs embed; or of another power."""
    values = np.linspace(0, 1, entries)
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** power)
    table = struct.pack(f">I{entries}H", entries, *(light * 65535).round().astype(int))
    curve = b"curv" + bytes(4) + table + bytes(-len(table) % 4)
    plain = profiles.write_profile("sRGB", SRGB_COLUMNS, GAMMA)
    (count,) = struct.unpack_from(">I", plain, 128)
    found = bytearray(plain + curve)
    for at in range(132, 132 + 12 * count, 12):
        if plain[at : at + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            found[at + 4 : at + 12] = struct.pack(">II", len(plain), len(curve))
    found[:4] = struct.pack(">I", len(found))
    return bytes(found)


def changed_by(profile: bytes) -> int:
    """The most that a conversion to sRGB by libvips changes any value, over every level of noise."""
    noise = np.random.default_rng(7).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    image = pyvips.Image.new_from_array(noise, interpretation="srgb").copy()
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    found = image.icc_transform("srgb", embedded=True, intent="relative", black_point_compensation=True)
    return int(np.abs(found.numpy().astype(int) - noise).max())


@pytest.mark.parametrize(
    "profile",
    [SRGB, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), with_table(1024), with_table(4096)],
    ids=["libvips'", "LittleCMS'", "table of 1024", "table of 4096"],
)
def test_profiles_of_srgb_are_recognised_and_not_converted(profile: bytes) -> None:
    """For a formula or a table of sRGB, LittleCMS changes no value by more than one level, and the pixels are kept."""
    assert is_srgb(profile)
    assert changed_by(profile) <= 1
    pixels = images.photo(40, 30)
    image = pyvips.Image.new_from_array(pixels, interpretation="srgb").copy()
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    converted = colour.convert(image, ColourSpace.SRGB)
    assert np.array_equal(converted.image.numpy(), pixels)
    assert converted.profile == SRGB


@pytest.mark.parametrize(
    "profile",
    [
        images.vips_profile("p3"),
        profiles.adobe_rgb(),
        profiles.write_profile("gamma", SRGB_COLUMNS, GAMMA),
        profiles.write_profile("white", OTHER_WHITE_COLUMNS, GAMMA),
        with_table(1024, power=2.3),
        SRGB.replace(b"rTRC", b"A2B0", 1),
        SRGB.replace(b"wtpt", b"A2B0", 1),
        SRGB.replace(b"RGB XYZ ", b"RGB Lab ", 1),
        SRGB[:200],
        b"",
    ],
    ids=["P3", "Adobe", "gamma", "white", "power", "no curve", "tables", "Lab", "cut", "empty"],
)
def test_other_profiles_are_not_taken_for_srgb(profile: bytes) -> None:
    """Profiles with other primaries, curves or kinds, and broken ones, are not taken for sRGB."""
    assert not is_srgb(profile)


@given(st.binary(max_size=300), st.integers(0, len(SRGB)), st.binary(max_size=16))
def test_any_bytes_can_be_checked(anything: bytes, at: int, patch: bytes) -> None:
    """Any bytes, and a profile damaged anywhere, give true or false."""
    assert is_srgb(anything) is False
    assert is_srgb(SRGB[:at] + patch + SRGB[at + len(patch) :]) in (True, False)
