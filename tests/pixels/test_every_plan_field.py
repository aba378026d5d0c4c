"""
Every field of the render plan changes a picture.

A field that is parsed and documented, but that no step of a render reads, would pass all other tests. Here each field of
each plan dataclass gets other values, and each value must change the bytes of the variant.
"""

from __future__ import annotations

import functools
import io
import typing
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgproxy.params.appearance import Adjust, Blend, Border, Colour, Mask, Sides
from imgproxy.params.plan import (
    Anchor,
    Bounds,
    ColourSpace,
    Crop,
    FaceChoice,
    Fit,
    Focal,
    Format,
    Frames,
    Mark,
    Metadata,
    Output,
    Px,
    Ratio,
    Rect,
    RenderPlan,
    Resize,
    Trim,
)
from imgproxy.workers.faces import Face
from tests.support import images
from tests.support.rendering import render

# --- pictures ---------------------------------------------------------------------------------------------------


def make_photo() -> bytes:
    """A JPEG in Display P3 with a light frame, a copyright and a camera, stored on its side: 64 x 96 upright."""
    pixels = np.random.default_rng(1).integers(251, 256, (64, 96, 3)).astype(np.uint8)
    pixels[8:56, 8:88] = images.photo(80, 48)
    exif = Image.Exif()
    exif[0x0112], exif[0x8298], exif[0x0110] = 6, "Doe", "Camera"
    return images.jpeg(pixels, exif=exif, icc_profile=images.vips_profile("p3"))


def make_alpha() -> bytes:
    """An untagged PNG of 96 x 64: opaque, half transparent, and with an empty disc."""
    return images.png(images.with_alpha(images.photo(96, 64)))


def make_animation() -> bytes:
    """A GIF of five frames that differ, with delays that differ, played three times."""
    frames = [images.photo(24, 16, seed=n) // (n + 1) for n in range(5)]
    return images.animation("GIF", frames, [50, 100, 150, 200, 250], loop=3)


def make_document() -> bytes:
    """A TIFF of two pages."""
    first, second = (Image.fromarray(images.photo(24, 16, seed=n) // (n + 1)) for n in range(2))
    out = io.BytesIO()
    first.save(out, "TIFF", save_all=True, append_images=[second])
    return out.getvalue()


def make_drawing() -> bytes:
    """An SVG."""
    return b'<svg xmlns="http://www.w3.org/2000/svg" width="24" height="16"><path d="M3 3h9v9z" fill="#e10"/></svg>'


PICTURES = {
    "photo": make_photo(),
    "alpha": make_alpha(),
    "animation": make_animation(),
    "document": make_document(),
    "drawing": make_drawing(),
}
FACES = (Face(0.1, 0.1, 0.2, 0.2, 0.9), Face(0.7, 0.6, 0.15, 0.15, 0.8))
MARKS = {"logo": images.png(images.photo(30, 30))}


# --- values -----------------------------------------------------------------------------------------------------

RED, BLUE = Colour(200, 30, 30), Colour(20, 40, 220)
JPEG, PNG, WEBP = (Output(format=form) for form in (Format.JPEG, Format.PNG, Format.WEBP))
SMALL = RenderPlan(resize=Resize(width=Px(40)), output=PNG)
CROPPED = replace(SMALL, resize=Resize(Px(40), Px(40), fit=Fit.CROP))
FACE_AREA = replace(SMALL, resize=Resize(Px(40), Px(40), faces=FaceChoice(is_area=True)))
FOCUSED = replace(SMALL, resize=Resize(Px(40), Px(40), fit=Fit.CROP, crop=(Crop.FOCALPOINT,), focal=Focal(zoom=2.0)))
CUT = replace(SMALL, rect=Rect(Px(5), Px(5), Px(20), Px(20)))
MARKED = replace(SMALL, mark=Mark("logo", width=Px(20), height=Px(8)))
BORDERED = replace(SMALL, border=Border(Sides(3, 3, 3, 3), RED))
BLENDED = replace(SMALL, blend=Blend(RED))


@dataclass(frozen=True)
class Row:
    """
    Values of the fields of one plan dataclass.

    `path` leads from `plan` to the dataclass: ("resize", "focal") is `plan.resize.focal`. `picture` is rendered with the
    plan as it is, and once with each value in its field.
    """

    plan: RenderPlan
    path: str
    values: dict[str, tuple[Any, ...]]
    picture: str = "photo"

    @property
    def parts(self) -> list[Any]:
        """The plan, and each dataclass on the path."""
        found: list[Any] = [self.plan]
        for name in self.path.split():
            found.append(getattr(found[-1], name))
        return found

    def change(self, field: str, value: Any) -> RenderPlan:
        """Return the plan with another value in one field."""
        *owners, part = self.parts
        part = replace(part, **{field: value})
        for owner, name in zip(reversed(owners), reversed(self.path.split()), strict=True):
            part = replace(owner, **{name: part})
        assert isinstance(part, RenderPlan)
        return part


NOT_SEEN = {Format.JPEG, Format.SOURCE, Format.COMPRESSED, Format.COMPRESSED8, Format.FACES}

# A new field needs a value here, in a row whose plan and picture make it visible.
ROWS = (
    Row(
        RenderPlan(),
        "",
        {
            "orient": (1, 3),
            "rect": (CUT.rect,),
            "trim": (Trim("color"),),
            "resize": (Resize(width=Px(40)),),
            "flip": ("h", "v", "hv"),
            "rotation": (15.0,),
            "adjust": (Adjust(invert=True),),
            "blend": (BLENDED.blend,),
            "mark": (MARKED.mark,),
            "border": (BORDERED.border,),
            "mask": (Mask("ellipse"),),
            "pad": (Sides(3, 3, 3, 3),),
            "output": (PNG,),
        },
    ),
    Row(RenderPlan(rotation=15.0), "", {"is_pivot": (True,)}),
    Row(RenderPlan(), "", {"background": (RED,)}, "alpha"),
    Row(RenderPlan(), "", {"frames": (Frames(is_reversed=True),)}, "animation"),
    Row(
        CUT,
        "rect",
        {
            "x": (Px(20), Ratio(0.5), Anchor(1.0)),
            "y": (Px(20), Ratio(0.5), Anchor(1.0)),
            "width": (Px(30), Ratio(0.5)),
            "height": (Px(30), Ratio(0.5)),
        },
    ),
    Row(
        replace(SMALL, trim=Trim("color")),
        "trim",
        {"mode": ("alpha",), "colour": (RED,), "tolerance": (2.0, 250.0), "pad_px": (4, -4)},
    ),
    Row(
        replace(SMALL, trim=Trim("auto")),
        "trim",
        {"mean_difference": (250.0,), "standard_deviation": (0.0,)},
    ),
    Row(replace(SMALL, trim=Trim("alpha")), "trim", {"alpha": (130,)}, "alpha"),
    Row(SMALL, "resize", {"width": (Px(50), Ratio(0.5)), "height": (Px(20), Ratio(0.2))}),
    Row(
        replace(SMALL, resize=Resize(Px(100), Px(120), fit=Fit.CROP)),
        "resize",
        {"fit": tuple(fit for fit in Fit if fit is not Fit.CROP), "bounds": (Bounds(max_width_px=20),)},
    ),
    Row(CROPPED, "resize", {"crop": ((Crop.TOP,), (Crop.BOTTOM,), (Crop.EDGES,), (Crop.ENTROPY,))}),
    Row(CROPPED, "resize", {"crop": ((Crop.LEFT,), (Crop.RIGHT,))}, "alpha"),
    Row(FOCUSED, "resize", {"focal": (Focal(0.1, 0.1),)}),
    Row(CROPPED, "resize", {"faces": (FaceChoice(1), FaceChoice(2), FaceChoice(is_area=True))}),
    Row(FACE_AREA, "resize faces", {"index": (1, 2), "is_area": (False,), "pad": (1.2,)}),
    Row(replace(SMALL, output=Output(format=Format.JSON)), "output", {"has_faces": (True,)}),
    Row(replace(SMALL, resize=Resize(Px(40), fit=Fit.CROP)), "resize", {"aspect": (2.0,)}),
    Row(
        replace(SMALL, resize=Resize(Px(60), Px(60), fit=Fit.FILL)),
        "resize",
        {"fill_blur": (True,), "fill_colour": (RED,)},
    ),
    Row(
        replace(SMALL, resize=Resize(Px(40), Px(60), fit=Fit.CROP)),
        "resize bounds",
        {"min_width_px": (50,), "max_width_px": (30,), "min_height_px": (70,), "max_height_px": (30,)},
    ),
    Row(FOCUSED, "resize focal", {"x": (0.1,), "y": (0.1,), "zoom": (3.0,)}),
    Row(
        SMALL,
        "adjust",
        {
            "brightness": (40.0,),
            "contrast": (40.0,),
            "exposure": (20.0,),
            "gamma": (40.0,),
            "hue": (90.0,),
            "saturation": (-100.0, 50.0),
            "vibrance": (80.0,),
            "highlight": (-80.0,),
            "shadow": (80.0,),
            "sharpen": (60.0,),
            "unsharp": (80.0,),
            "blur": (50.0,),
            "pixellate_px": (8,),
            "monochrome": (RED,),
            "sepia": (80.0,),
            "duotone": ((RED, BLUE),),
            "invert": (True,),
        },
    ),
    Row(replace(SMALL, adjust=Adjust(unsharp=80.0)), "adjust", {"unsharp_radius": (5.0,)}),
    Row(replace(SMALL, adjust=Adjust(duotone=(RED, BLUE))), "adjust", {"duotone_alpha": (40.0,)}),
    Row(SMALL, "adjust", {"enhance": (True,)}, "document"),
    Row(BLENDED, "blend", {"colour": (BLUE,), "mode": ("multiply", "hue"), "alpha": (40.0,)}),
    Row(BLENDED, "blend colour", {"red": (9,), "green": (9,), "blue": (9,), "alpha": (9,)}),
    Row(
        MARKED,
        "mark",
        {
            "source": ("absent",),
            "horizontal": ("left", "center"),
            "vertical": ("top", "middle"),
            "pad_px": (0,),
            "x_px": (3,),
            "y_px": (3,),
            "width": (Px(5), Ratio(0.1)),
            "height": (Px(4), Ratio(0.1)),
            "scale": (80.0,),
            "fit": (Fit.SCALE,),
            "alpha": (40.0,),
            "rotation": (30.0,),
            "is_tiled": (True,),
            "min_width_px": (4000,),
            "min_height_px": (4000,),
        },
    ),
    Row(
        BORDERED,
        "border",
        {"sides": (Sides(5, 5, 5, 5),), "colour": (BLUE,), "radius_px": ((9,),), "inner_radius_px": ((9,),)},
    ),
    Row(BORDERED, "border sides", {"top_px": (9,), "right_px": (9,), "bottom_px": (9,), "left_px": (9,)}),
    Row(
        replace(SMALL, mask=Mask("corners")),
        "mask",
        {"shape": ("ellipse",), "radius_px": ((3,), (1, 2, 3, 4)), "background": (RED,)},
    ),
    Row(
        RenderPlan(),
        "frames",
        {
            "first": (2,),
            "last": (3,),
            "loop": (0,),
            "interval": (2,),
            "skip": (2,),
            "is_reversed": (True,),
            "fps": (4.0,),
        },
        "animation",
    ),
    Row(RenderPlan(), "frames", {"page": (2,)}, "document"),
    Row(
        RenderPlan(output=JPEG),
        "output",
        {
            # SOURCE and COMPRESSED are JPEG for this picture. FACES needs a detector: see test_faces.
            "format": tuple(set(Format) - NOT_SEEN),
            "quality": (20,),
            "is_progressive": (False,),
            "chroma_444": (True,),
            "dpi": (300,),
            "colour_space": (ColourSpace.ORIGIN, ColourSpace.ADOBERGB, ColourSpace.STRIP),
            "metadata": (Metadata.NONE, Metadata.ALL),
        },
    ),
    Row(RenderPlan(output=JPEG), "output", {"colour_space": (ColourSpace.TINYSRGB,)}, "alpha"),
    Row(RenderPlan(output=JPEG), "output", {"format": (Format.SOURCE, Format.COMPRESSED, Format.COMPRESSED8)}, "alpha"),
    Row(RenderPlan(output=WEBP), "output", {"is_lossless": (True,)}),
    Row(RenderPlan(output=WEBP), "output", {"is_negotiated": (True,)}, "drawing"),
    Row(RenderPlan(output=Output(format=Format.AVIF)), "output", {"avif_max_pixels": (100,)}),
    Row(RenderPlan(output=Output(format=Format.AVIF)), "output", {"may_be_webp": (True,)}, "drawing"),
    Row(RenderPlan(output=Output(format=Format.PNG8)), "output", {"colours": (4,)}),
    Row(RenderPlan(output=Output(format=Format.PALETTE_CSS)), "output", {"palette_prefix": ("page",)}),
    Row(SMALL, "resize width", {"value": (50,)}),
    Row(replace(SMALL, resize=Resize(Ratio(0.5))), "resize width", {"value": (0.25,)}),
    Row(replace(CUT, rect=Rect(Anchor(0.5), Px(5), Px(20), Px(20))), "rect x", {"value": (1.0,)}),
)
CASES = [(row, field) for row in ROWS for field in row.values]


# --- tests ------------------------------------------------------------------------------------------------------


@functools.cache
def render_once(picture: str, plan: RenderPlan) -> bytes:
    """Render one of the pictures."""
    return render(PICTURES[picture], plan, marks=MARKS, faces=FACES).data


def name_of(case: object) -> str:
    """Name a test by its field."""
    return f"{type(case.parts[-1]).__name__}-{case.picture}" if isinstance(case, Row) else str(case)


@pytest.mark.parametrize(("row", "field"), CASES, ids=name_of)
def test_a_field_changes_the_variant(row: Row, field: str) -> None:
    """The variant has other bytes for each value of the field."""
    before = render_once(row.picture, row.plan)
    for value in row.values[field]:
        is_changed = render_once(row.picture, row.change(field, value)) != before
        assert is_changed, (
            f"{type(row.parts[-1]).__name__}.{field} = {value!r} changes nothing: no step of a render reads it, "
            f"or the row of ROWS needs a plan, a picture or a value that makes it visible."
        )


def find_dataclasses(kind: Any) -> set[type]:
    """Return the dataclasses in a type: its own, and those of its fields."""
    if isinstance(kind, type) and is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return {kind}.union(*(find_dataclasses(hints[field.name]) for field in fields(kind)))
    return set[type]().union(*map(find_dataclasses, typing.get_args(kind)))


def test_every_field_is_tried() -> None:
    """Every field of every dataclass in a plan has a value in ROWS."""
    wanted = {(kind, field.name) for kind in find_dataclasses(RenderPlan) for field in fields(kind)}
    tried = {(type(row.parts[-1]), field) for row, field in CASES}
    missing = sorted(f"{kind.__name__}.{field}" for kind, field in wanted - tried)
    assert not missing, f"Add to ROWS, for each of these, a value that changes the variant: {', '.join(missing)}"


def test_a_field_that_nothing_reads_is_found() -> None:
    """A value that changes no pixel fails: here the `pad_px` of a watermark that is too small to be painted."""
    plan = replace(SMALL, mark=Mark("logo", min_width_px=4000))
    with pytest.raises(AssertionError, match=r"Mark\.pad_px = 0 changes nothing"):
        test_a_field_changes_the_variant(Row(plan, "mark", {"pad_px": (0,)}), "pad_px")
