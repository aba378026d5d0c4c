"""HEIC: pixels, turns, depth, alpha, colours and metadata. The files are written by hand, so the right values are known."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from imgproxy import demo
from imgproxy.errors import DecodeFailed, HeicNotInstalled, NotAnImage, TooManyPixels
from imgproxy.params.plan import Format, Frames, Metadata, Output, Px, RenderPlan, Resize, Trim
from imgproxy.render import credit, profiles
from tests.pixels.test_metadata import CREDIT, PRIVATE, XMP, exif_block, exif_of, xmp_of
from tests.support import heif, hevc, images
from tests.support.rendering import LIMITS, PNG, render

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

AS_PNG = RenderPlan(output=PNG)
AS_JSON = RenderPlan(output=Output(format=Format.JSON))
PICTURE = heif.picture()
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
PHOTO = Path(demo.__file__).parent / "photos/2026/03/14/harbour-at-dusk.jpg"


def pixels_of(data: bytes) -> NDArray[Any]:
    """The pixels of a file at full size."""
    return render(data, AS_PNG).pixels


def test_every_pixel_is_right() -> None:
    """An HEVC picture of 8 bits without loss has exactly the source's values."""
    assert np.array_equal(pixels_of(heif.write(heif.rgb(PICTURE))), PICTURE)


@pytest.mark.parametrize("depth", [9, 10, 11, 12, 14])
def test_deep_pictures_use_the_whole_range(depth: int) -> None:
    """A picture of 9 to 14 bits is within one level of the exact value; black stays black, and white white."""
    deep = heif.picture(depth=depth)
    found = pixels_of(heif.write(heif.rgb(deep, depth))).astype(float)
    assert np.abs(found - deep / (2**depth - 1) * 255).max() <= 1
    assert (found[0, 0].tolist(), found[-1, -1].tolist()) == ([0, 0, 0], [255, 255, 255])


def bt601(pixels: NDArray[Any]) -> list[NDArray[Any]]:
    """Y, Cb and Cr in full range. Source: ITU-R BT.601, 2.5.1."""
    red, green, blue = (pixels[..., band].astype(float) for band in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return [luma, (blue - luma) / 1.772 + 128, (red - luma) / 1.402 + 128]


@pytest.mark.parametrize("chroma", ["420", "422", "444"])
def test_chroma_subsampling(chroma: str) -> None:
    """Pictures with all, half or a quarter of their chroma samples have the source's colours, within rounding."""
    _, across, down = hevc.CHROMA[chroma]
    # Blocks of 2 x 2 equal pixels, in colours that change slowly: subsampling then loses little.
    source = np.kron(heif.picture(48, 32)[..., :] // 4 + 90, np.ones((2, 2, 1), np.uint16))
    planes = bt601(source)
    planes = [planes[0], *(plane[::down, ::across] for plane in planes[1:])]
    item = heif.coded([np.rint(plane).astype(int) for plane in planes], chroma)
    found = pixels_of(heif.write(item.having(heif.nclx(matrix=heif.BT601))))
    assert np.abs(found.astype(int) - source).max() <= 3


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("is_full", [True, False], ids=["full", "limited"])
def test_grey_in_full_and_in_limited_range(depth: int, is_full: bool) -> None:
    """A picture of one plane is grey. In limited range, 16 is black and 235 is white."""
    values = np.tile(np.arange(0, 256, 4), (32, 1))
    scale = 2 ** (depth - 8)
    stored = values / 255 * (2**depth - 1) if is_full else (values / 255 * 219 + 16) * scale
    item = heif.coded([np.rint(stored).astype(int)], "400", depth)
    found = pixels_of(heif.write(item.having(heif.nclx(matrix=heif.BT601, is_full=is_full))))
    assert found.ndim == 2
    assert np.abs(found.astype(int) - values).max() <= 1


# --- orientation ----------------------------------------------------------------------------------------------

TURNS: dict[str, tuple[tuple[bytes, ...], Callable[[NDArray[Any]], NDArray[Any]]]] = {
    "quarter turn": ((heif.turn(1),), np.rot90),
    "half turn": ((heif.turn(2),), lambda p: np.rot90(p, 2)),
    "three quarters": ((heif.turn(3),), lambda p: np.rot90(p, 3)),
    "upside down": ((heif.mirror(0),), np.flipud),
    "left to right": ((heif.mirror(1),), np.fliplr),
    "turned, then mirrored": ((heif.turn(1), heif.mirror(1)), lambda p: np.fliplr(np.rot90(p))),
    "mirrored, then turned": ((heif.mirror(1), heif.turn(1)), lambda p: np.rot90(np.fliplr(p))),
    "cropped": ((heif.clean_aperture(80, 50),), lambda p: p[7:57, 8:88]),
}


@pytest.mark.parametrize("name", TURNS)
def test_the_turns_of_the_file_count(name: str) -> None:
    """Turns, mirrors and crops of the file are applied, in its order."""
    properties, change = TURNS[name]
    assert np.array_equal(pixels_of(heif.write(heif.rgb(PICTURE).having(*properties))), change(PICTURE))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_turns_nothing(orientation: int) -> None:
    """iPhones write both a turn and the EXIF orientation that means the same: the picture is turned once."""
    found = Image.Exif()
    found[0x0112] = orientation
    data = heif.write(heif.rgb(PICTURE).having(heif.turn(3)), heif.exif(found.tobytes()[6:], 1))
    assert np.array_equal(pixels_of(data), np.rot90(PICTURE, 3))
    document = json.loads(render(data, AS_JSON).data)
    assert (document["PixelWidth"], document["PixelHeight"], document["Orientation"]) == (64, 96, 1)


# --- items ----------------------------------------------------------------------------------------------------


def tiles_of(source: NDArray[Any], side: int) -> list[heif.Item]:
    """Hidden tiles of a picture, row by row; those at the right and lower edge go beyond it."""
    height, width = source.shape[:2]
    wide = np.pad(source, ((0, -height % side), (0, -width % side), (0, 0)), mode="edge")
    corners = [(top, left) for top in range(0, height, side) for left in range(0, width, side)]
    return [heif.rgb(wide[top : top + side, left : left + side]).hidden() for top, left in corners]


def test_tiles_are_joined() -> None:
    """A grid, as iPhones write, is one picture; what its tiles have beyond its edge is cut off."""
    source = heif.picture(150, 100)
    tiles = tiles_of(source, 64)
    whole = heif.grid(2, 3, 150, 100, tuple(range(2, 2 + len(tiles)))).having(heif.nclx())
    assert np.array_equal(pixels_of(heif.write(whole, *tiles)), source)
    turned = heif.write(whole.having(heif.turn(3)), *tiles)
    assert np.array_equal(pixels_of(turned), np.rot90(source, 3))


def test_the_primary_item_is_the_picture() -> None:
    """Of several pictures the primary one is taken, wherever it is in the file; `page` does not change that."""
    others = [heif.rgb(np.full((32, 48, 3), value)) for value in (50, 90)]
    for primary in (1, 2, 3):
        items = [*others[: primary - 1], heif.rgb(PICTURE), *others[primary - 1 :]]
        data = heif.write(*items, primary=primary)
        assert np.array_equal(pixels_of(data), PICTURE)
        assert np.array_equal(render(data, RenderPlan(frames=Frames(page=2), output=PNG)).pixels, PICTURE)


def test_a_sequence_with_a_picture_shows_the_picture() -> None:
    """A file with the major brand of a sequence shows its primary item."""
    for major in (b"msf1", b"hevc"):
        data = heif.write(heif.rgb(PICTURE), brands=(major, b"mif1", b"heic"))
        assert np.array_equal(pixels_of(data), PICTURE)


def test_what_belongs_to_a_picture_is_not_the_picture() -> None:
    """Thumbnails and HDR gain maps have no effect."""
    small = heif.picture(48, 32)
    gain_map = heif.coded([small[..., 1]], "400").having(heif.auxiliary(heif.GAIN_MAP))
    extra = (gain_map.hidden().referring(b"auxl", 1), heif.rgb(small).referring(b"thmb", 1))
    assert np.array_equal(pixels_of(heif.write(heif.rgb(PICTURE), *extra)), PICTURE)
    # ISO 21496-1, since iOS 18: the HDR picture is an item of its own, made from the picture and the gain map.
    tone_mapped = heif.Item(b"tmap", bytes(62), (heif.extent(96, 64),)).referring(b"dimg", 1, 2)
    data = heif.write(heif.rgb(PICTURE), extra[0], tone_mapped, brands=(b"heic", b"mif1", b"heic", b"tmap"))
    assert np.array_equal(pixels_of(data), PICTURE)


def test_a_derived_picture() -> None:
    """A picture that is another item, turned, is that item, turned."""
    derived = heif.Item(b"iden", b"", (heif.extent(96, 64), heif.turn(1))).referring(b"dimg", 2)
    assert np.array_equal(pixels_of(heif.write(derived, heif.rgb(PICTURE).hidden())), np.rot90(PICTURE))


def alpha_of(values: NDArray[Any]) -> heif.Item:
    """An alpha plane of the first item."""
    return heif.coded([values], "400").having(heif.auxiliary(heif.ALPHA)).hidden().referring(b"auxl", 1)


def test_alpha() -> None:
    """An alpha plane is the picture's alpha; as JPEG it is painted on white, and as the default format it is PNG."""
    alpha = np.full(PICTURE.shape[:2], 128)
    alpha[:, :48] = 255
    data = heif.write(heif.rgb(PICTURE), alpha_of(alpha))
    result = render(data, RenderPlan())
    assert result.rendered.content_type == "image/png"
    assert np.array_equal(result.pixels, np.dstack([PICTURE, alpha]))
    assert json.loads(render(data, AS_JSON).data)["HasAlpha"] is True


def test_premultiplied_alpha() -> None:
    """Colours that were multiplied with alpha are divided by it."""
    alpha = np.full(PICTURE.shape[:2], 128)
    item = heif.rgb(np.rint(PICTURE * (128 / 255)).astype(int)).referring(b"prem", 2)
    found = pixels_of(heif.write(item, alpha_of(alpha)))
    assert np.abs(found[..., :3].astype(int) - PICTURE).max() <= 1
    assert np.array_equal(found[..., 3], alpha)


# --- colours and metadata -------------------------------------------------------------------------------------


def test_the_icc_profile_is_used() -> None:
    """A picture in Adobe RGB is converted to sRGB, as LittleCMS does it."""
    icc = profiles.adobe_rgb()
    source = np.full((32, 32, 3), (200, 120, 60))
    item = heif.coded([source[..., band] for band in (1, 2, 0)], "444").having(heif.nclx(), heif.profile(icc))
    adobe = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    transform = ImageCms.buildTransform(adobe, ImageCms.createProfile("sRGB"), "RGB", "RGB", renderingIntent=INTENT)
    shown = Image.fromarray(source.astype(np.uint8))
    want = np.asarray(ImageCms.applyTransform(shown, transform))
    found = pixels_of(heif.write(item))
    assert np.abs(found.astype(int) - want).max() <= 2
    document = json.loads(render(heif.write(item), AS_JSON).data)
    assert document["ProfileName"] == "Adobe RGB compatible"


def test_colours_by_number() -> None:
    """Without a profile the code points count: P3 (200, 120, 60) is (213, 115, 42) in sRGB, white in PQ is not grey."""
    source = np.full((32, 32, 3), (200, 120, 60))
    found = pixels_of(heif.write(heif.rgb(source, primaries=heif.P3)))
    assert np.abs(found.astype(int) - (213, 115, 42)).max() <= 1
    # BT.2408: reference white, 203 cd/m2, is 58 % of PQ.
    white = np.full((32, 32, 3), round(0.58 * 1023))
    shown = pixels_of(heif.write(heif.rgb(white, 10, primaries=heif.BT2020, transfer=16)))
    assert np.abs(shown.astype(int) - 229).max() <= 2


def test_the_credit_is_kept() -> None:
    """The credit in the XMP packet, else in EXIF, is in the variant; no private field is."""
    exif = heif.exif(exif_block()[6:], 1)
    plan = RenderPlan(resize=Resize(width=Px(48)))
    both = render(heif.write(heif.rgb(PICTURE), exif, heif.xmp(XMP, 1)), plan)
    assert credit.read_xmp(xmp_of(both.data)) == CREDIT
    alone = credit.read_xmp(xmp_of(render(heif.write(heif.rgb(PICTURE), exif), plan).data))
    assert (alone.creators, alone.copyright_notice) == (("Exif Artist",), "Exif Copyright")
    assert not any(text in both.data for text in PRIVATE)


def test_all_metadata_can_be_kept() -> None:
    """With metadata=all the camera's EXIF stays, without private fields and without an orientation."""
    data = heif.write(heif.rgb(PICTURE), heif.exif(exif_block()[6:], 1), heif.xmp(XMP, 1))
    result = render(data, RenderPlan(output=Output(format=Format.JPEG, metadata=Metadata.ALL)))
    found = exif_of(result.data)
    assert found[0x0110] == "Camera Model One"
    assert found.get(0x0112, 1) == 1
    assert not any(text in result.data for text in PRIVATE if text != b"GPS")


def test_json_describes_a_heic() -> None:
    """fm=json has the size, the depth and the camera, and decodes nothing."""
    item = heif.rgb(heif.picture(depth=10), 10)
    data = heif.write(replace(item, data=bytes(len(item.data))), heif.exif(exif_block()[6:], 1))
    document = json.loads(render(data, AS_JSON).data)
    assert (document["Content-Type"], document["PixelWidth"], document["PixelHeight"]) == ("image/heic", 96, 64)
    assert (document["Depth"], document["ColorModel"]) == (10, "RGB")
    assert document["TIFF"]["Model"] == "Camera Model One"
    assert "GPS" not in str(document)


# --- plans ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [form for form in Format if form is not Format.FACES])
def test_every_format_comes_out(wanted: Format) -> None:
    """A HEIC becomes every format; without one it is a JPEG."""
    result = render(heif.write(heif.rgb(PICTURE)), RenderPlan(resize=Resize(width=Px(48)), output=Output(wanted)))
    assert result.rendered.size_bytes > 0
    if wanted is Format.SOURCE:
        assert result.rendered.content_type == "image/jpeg"


def test_trim_and_turn() -> None:
    """A uniform edge is cut off, and `orient` turns what the file shows."""
    source = np.full((64, 96, 3), 255)
    source[16:48, 32:64] = (10, 200, 30)
    data = heif.write(heif.rgb(source))
    assert render(data, RenderPlan(trim=Trim("auto"), output=PNG)).pixels.shape == (32, 32, 3)
    turned = render(heif.write(heif.rgb(PICTURE)), RenderPlan(orient=6, output=PNG)).pixels
    assert np.array_equal(turned, np.rot90(PICTURE, 3))


# --- bad input ------------------------------------------------------------------------------------------------


def test_the_limit_of_pixels_holds_before_decoding() -> None:
    """A header that announces more pixels than allowed is refused with both numbers."""
    item = heif.rgb(PICTURE)
    item = replace(item, properties=tuple(heif.extent(20_000, 20_000) if b"ispe" in p else p for p in item.properties))
    with pytest.raises(TooManyPixels) as caught:
        render(heif.write(item), AS_PNG)
    assert (caught.value.pixels, caught.value.limit_px) == (400_000_000, LIMITS.source_pixels)


def bad_files() -> dict[str, tuple[bytes, type[Exception]]]:
    """Files that begin like a HEIC, and how each is refused."""
    whole = heif.write(heif.rgb(PICTURE))
    item = heif.rgb(PICTURE)
    lie = replace(item, properties=tuple(heif.extent(40, 30) if b"ispe" in p else p for p in item.properties))
    other = heif.Item(b"jpeg", images.cached_photo(), (heif.extent(640, 480),))
    grid_of_itself = heif.grid(1, 1, 64, 64, (1,))
    video = heif.box(b"ftyp", b"msf1", bytes(4), b"hevc") + heif.box(b"moov", heif.box(b"mvhd", bytes(100)))
    return {
        "cut off": (whole[:-1000], DecodeFailed),
        "head only": (whole[:100], DecodeFailed),
        "damaged": (whole[:-3000] + bytes(range(250)) * 4 + whole[-2000:], DecodeFailed),
        "another size": (heif.write(lie), DecodeFailed),
        "no primary item": (heif.write(item, primary=9), DecodeFailed),
        "missing tiles": (heif.write(heif.grid(1, 2, 64, 64, (2, 3)), heif.rgb(PICTURE).hidden()), DecodeFailed),
        "a grid of itself": (heif.write(grid_of_itself), DecodeFailed),
        "a video": (video, NotAnImage),
        "another codec": (heif.write(other, brands=(b"mif1", b"mif1")), NotAnImage),
    }


def test_texts_that_are_no_text_are_not_read() -> None:
    """Bytes that are no ASCII in the types of the file's items end no process: those items count as unknown."""
    mime = replace(heif.xmp(XMP, 1), content_type=b"application/rdf\xff\x80xml")
    strange = replace(heif.xmp(XMP, 1), kind=b"\xff\xfe\x80\x81")
    assert np.array_equal(pixels_of(heif.write(heif.rgb(PICTURE), mime, strange)), PICTURE)


@pytest.mark.parametrize("name", bad_files())
def test_bad_files_are_refused(name: str) -> None:
    """A file that is cut off, damaged or contradicts itself is refused as such."""
    data, error = bad_files()[name]
    with pytest.raises(error):
        render(data, AS_PNG)


def test_without_the_extra_the_refusal_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without pi-heif answers that the image is a HEIC and which extra is missing."""
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(HeicNotInstalled, match=r"is a HEIC.*imgproxy-edge\[heic\]") as caught:
        render(heif.write(heif.rgb(PICTURE)), AS_PNG)
    assert (caught.value.status, caught.value.code) == (422, "heic_not_installed")


def test_a_picture_of_a_real_encoder() -> None:
    """A photo that x265 coded, in Display P3, is the demo's photo at that size, in sRGB, with its credit."""
    data = (Path(__file__).parents[1] / "data" / "harbour.heic").read_bytes()
    with Image.open(PHOTO) as photo:
        small = photo.resize((480, 320), Image.Resampling.LANCZOS)
        display_p3 = ImageCms.ImageCmsProfile(io.BytesIO(photo.info["icc_profile"]))
    transform = ImageCms.buildTransform(
        display_p3, ImageCms.createProfile("sRGB"), "RGB", "RGB", renderingIntent=INTENT
    )
    want = np.asarray(ImageCms.applyTransform(small, transform))
    result = render(data, AS_PNG)
    assert result.pixels.shape == (320, 480, 3)
    assert images.mean_difference(result.pixels, want) < 3
    found = credit.read_xmp(xmp_of(render(data, RenderPlan()).data))
    assert (found.creators, found.copyright_notice) == (("imgproxy authors",), "CC0 1.0")
