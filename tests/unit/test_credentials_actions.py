"""What was done to a picture is told in the words of the C2PA specification, all of it and nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from imgproxy.credentials.actions import NAMESPACE, Action, MadeFacts, actions_of
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
from imgproxy.render.geometry import find_region, place
from imgproxy.render.sizes import Size
from tests.pixels.test_every_plan_field import CASES, Row, find_dataclasses, name_of

RED = Colour(200, 30, 30)
JPEG, PNG, WEBP = "image/jpeg", "image/png", "image/webp"
# A photo of 1200 x 800 that was made into one of the same size.
SAME = MadeFacts(
    source_format=JPEG, format=JPEG, width_px=1200, height_px=800, source_width_px=1200, source_height_px=800
)


def made(plan: RenderPlan, width_px: int = 1200, height_px: int = 800, **facts: Any) -> MadeFacts:
    """Return the facts of a photo of this size after the plan, with the sizes of the render's geometry."""
    final = place(find_region(Size(width_px, height_px), plan.rect), plan).final
    found = replace(SAME, width_px=final.width_px, height_px=final.height_px)
    return replace(found, source_width_px=width_px, source_height_px=height_px, **facts)


def told(plan: RenderPlan, facts: MadeFacts | None = None) -> dict[str, dict[str, Any]]:
    """Return the parameters of each action by its word, and by its step after a colon, without our namespace."""
    found = {}
    for action in actions_of(plan, made(plan) if facts is None else facts):
        parameters = {name.removeprefix(f"{NAMESPACE}."): value for name, value in action.parameters.items()}
        step = parameters.pop("step", None)
        found[action.action.removeprefix("c2pa.") + (f":{step}" if step else "")] = parameters
    return found


def changes(plan: RenderPlan, facts: MadeFacts | None = None) -> dict[str, dict[str, Any]]:
    """Return what is told of the picture itself: without metadata and compression, which are always told."""
    found = told(plan, facts)
    return {word: found[word] for word in found if word not in ("edited.metadata", "transcoded", "converted")}


def resized(**parameters: Any) -> dict[str, Any]:
    return {"fit": "clip", "sourceWidth": 1200, "sourceHeight": 800, **parameters}


# --- each action ------------------------------------------------------------------------------------------------------


def test_a_picture_that_is_only_compressed_again() -> None:
    """A variant of the same size and format was compressed again, and lost metadata; nothing else is told."""
    assert told(RenderPlan(), SAME) == {
        "edited.metadata": {"kept": "credit"},
        "transcoded": {"from": JPEG, "to": JPEG},
    }


@pytest.mark.parametrize(
    ("output", "kind", "expected"),
    [
        (Output(), WEBP, {}),
        (Output(quality=60), WEBP, {"quality": 60}),
        (Output(is_lossless=True), WEBP, {"lossless": True}),
        (Output(chroma_444=True, is_progressive=False), WEBP, {"chroma444": True, "progressive": False}),
        (Output(colours=16), PNG, {"colors": 16}),
        (Output(colour_space=ColourSpace.ADOBERGB), PNG, {"colorSpace": "adobergb1998"}),
    ],
)
def test_another_format_is_converted(output: Output, kind: str, expected: dict[str, Any]) -> None:
    """A variant in another format was converted; the action says how it is compressed."""
    found = told(RenderPlan(output=output), replace(SAME, format=kind))

    assert found["converted"] == {"from": JPEG, "to": kind, **expected}
    assert "transcoded" not in found


def test_metadata_that_is_kept() -> None:
    """The action for metadata says which are kept, and the resolution if it was set."""
    found = told(RenderPlan(output=Output(metadata=Metadata.ALL, dpi=300)), SAME)

    assert found["edited.metadata"] == {"kept": "all", "dpi": 300}


@pytest.mark.parametrize(
    ("plan", "orientation", "expected"),
    [
        (RenderPlan(), 6, {"orientation": 6}),
        (RenderPlan(orient=3), 6, {"orientation": 3}),
        (RenderPlan(orient=1), 6, {"orientation": 1}),
        (RenderPlan(flip="hv"), 1, {"flip": "hv"}),
        (RenderPlan(rotation=180.0), 1, {"rotation": 180, "rotationType": "straighten"}),
        (RenderPlan(rotation=12.5, is_pivot=True), 1, {"rotation": 12.5, "rotationType": "pivot"}),
    ],
)
def test_a_turned_picture(plan: RenderPlan, orientation: int, expected: dict[str, Any]) -> None:
    """EXIF orientation, flips and rotations are one action; an orientation of the plan replaces the file's."""
    assert changes(plan, made(plan, orientation=orientation)) == {"orientation": expected}


def test_an_upright_picture_is_not_turned() -> None:
    """EXIF orientation 1 changes nothing."""
    assert changes(RenderPlan(), replace(SAME, orientation=1)) == {}


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        (Resize(width=Px(600)), resized(width=600, height=400, askedWidth=600)),
        (Resize(width=Ratio(0.5)), resized(width=600, height=400, askedWidth="50%")),
        (Resize(height=Px(100)), resized(width=150, height=100, askedHeight=100)),
        (
            Resize(width=Px(600), height=Px(100), fit=Fit.SCALE),
            resized(width=600, height=100, askedWidth=600, askedHeight=100, fit="scale"),
        ),
        (
            Resize(width=Px(300), height=Px(200), fit=Fit.CROP),
            resized(width=300, height=200, askedWidth=300, askedHeight=200, fit="crop"),
        ),
    ],
)
def test_a_resized_picture(resize: Resize, expected: dict[str, Any]) -> None:
    """The action says the size before and after, and what was asked for; the shape of the source is not cropped."""
    assert changes(RenderPlan(resize=resize)) == {"resized": expected}


@pytest.mark.parametrize(
    "plan",
    [
        RenderPlan(resize=Resize(width=Px(1200))),
        RenderPlan(resize=Resize(width=Px(5000), fit=Fit.MAX)),
        RenderPlan(resize=Resize(width=Px(1200), height=Px(800), fit=Fit.CROP)),
        RenderPlan(resize=Resize(width=Px(1200), height=Px(800), fit=Fit.CROP, faces=FaceChoice())),
        RenderPlan(resize=Resize(Px(1200), Px(800), fit=Fit.CROP, crop=(Crop.FOCALPOINT,), focal=Focal(0.1, 0.1))),
        RenderPlan(rect=Rect(Px(0), Px(0), Ratio(1.0), Ratio(1.0))),
        RenderPlan(rect=Rect(Px(0), Px(0), Px(1200), Px(9000))),
    ],
)
def test_a_plan_that_does_nothing(plan: RenderPlan) -> None:
    """A size that the source has, and a region that is all of it, are not told."""
    assert changes(plan) == {}


def test_a_picture_that_a_limit_made_smaller() -> None:
    """A picture that was shrunk without being asked for is resized, with the size before and after."""
    plan = RenderPlan()
    assert changes(plan, made(plan, 12_000, 8000)) == {
        "resized": {"width": 8192, "height": 5461, "fit": "clip", "sourceWidth": 12_000, "sourceHeight": 8000}
    }
    cut = RenderPlan(rect=Rect(Px(0), Px(0), Ratio(0.9), Ratio(0.9)))
    assert list(changes(cut, made(cut, 12_000, 8000))) == ["cropped", "resized"]


def test_a_shared_decode_is_told() -> None:
    """A variant that shared a decode with larger ones says so."""
    plan = RenderPlan(resize=Resize(width=Px(600)))

    assert changes(plan, made(plan, shared_decode="1200-1"))["resized"]["sharedDecode"] == "1200-1"


SQUARE = {"fit": "crop", "keep": "center"}


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        (Resize(Px(400), Px(400), fit=Fit.CROP), SQUARE),
        (Resize(Px(400), Px(400), fit=Fit.MIN), SQUARE | {"fit": "min"}),
        (Resize(Px(400), aspect=1.0, fit=Fit.CROP), SQUARE | {"aspect": 1}),
        (Resize(Px(400), Px(400), fit=Fit.CROP, crop=(Crop.TOP, Crop.LEFT)), SQUARE | {"keep": "top,left"}),
        (Resize(Px(400), Px(400), fit=Fit.CROP, crop=(Crop.ENTROPY,)), SQUARE | {"keep": "entropy"}),
        (
            Resize(Px(400), Px(400), fit=Fit.CROP, crop=(Crop.FOCALPOINT,), focal=Focal(0.25, 0.5)),
            SQUARE | {"keep": "focalpoint", "focalX": 0.25, "focalY": 0.5, "zoom": 1},
        ),
        (
            Resize(Px(300), Px(200), fit=Fit.CROP, crop=(Crop.FOCALPOINT,), focal=Focal(zoom=2.0)),
            SQUARE | {"keep": "focalpoint", "focalX": 0.5, "focalY": 0.5, "zoom": 2},
        ),
        (Resize(Px(400), Px(400), fit=Fit.CROP, faces=FaceChoice()), SQUARE | {"faces": "all"}),
        (Resize(Px(400), Px(400), fit=Fit.CROP, faces=FaceChoice(2)), SQUARE | {"faces": 2}),
        (
            Resize(Px(300), Px(200), faces=FaceChoice(is_area=True, pad=1.5)),
            {"fit": "clip", "keep": "center", "faces": "all", "area": True, "pad": 1.5},
        ),
        (
            Resize(Px(900), Px(400), fit=Fit.CROP, bounds=Bounds(max_width_px=400)),
            SQUARE | {"maxWidth": 400},
        ),
    ],
)
def test_a_picture_that_is_cropped_to_a_frame(resize: Resize, expected: dict[str, Any]) -> None:
    """A frame of another shape than the source's, a zoom, or an area of faces crops; the action says what was kept."""
    found = changes(RenderPlan(resize=resize))

    assert list(found) == ["cropped", "resized"]
    assert found["cropped"] == expected


@pytest.mark.parametrize("width_px", [1, 2, 3, 7, 50, 333, 599, 1199])
@pytest.mark.parametrize("source", [(1200, 800), (799, 1201), (3000, 1010), (5, 4000)])
def test_roundings_are_no_crop(width_px: int, source: tuple[int, int]) -> None:
    """A size that has the source's shape, but for the rounding to whole pixels, is not cropped."""
    scaled = RenderPlan(resize=Resize(width=Px(width_px)))
    size = made(scaled, *source)
    asked = RenderPlan(resize=Resize(Px(size.width_px), Px(size.height_px), fit=Fit.CROP))

    assert "cropped" not in changes(asked, size)


def test_a_crop_of_a_source_of_unknown_size() -> None:
    """If the size of the source is unknown, what may have cropped or resized counts."""
    plan = RenderPlan(resize=Resize(Px(300), Px(200), fit=Fit.CROP))
    facts = replace(made(plan), source_width_px=0, source_height_px=0)

    found = changes(plan, facts)

    assert found["cropped"] == SQUARE
    assert found["resized"] == {"width": 300, "height": 200, "fit": "crop", "askedWidth": 300, "askedHeight": 200}
    assert changes(plan, replace(facts, source_width_px=300)) == found
    assert changes(plan, replace(facts, source_height_px=200)) == found
    assert changes(RenderPlan(), replace(SAME, source_width_px=0)) == {}
    assert changes(RenderPlan(), replace(SAME, source_height_px=0)) == {}


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (RenderPlan(rect=Rect(Px(10), Px(20), Px(300), Px(200))), {"rect": "10,20,300,200"}),
        (RenderPlan(rect=Rect(Ratio(0.1), Ratio(0.25), Ratio(0.5), Px(99))), {"rect": "10%,25%,50%,99"}),
        (RenderPlan(rect=Rect(Px(10), Px(0), Ratio(1.0), Ratio(1.0))), {"rect": "10,0,100%,100%"}),
        (RenderPlan(rect=Rect(Anchor(0.5), Anchor(1.0), Px(99), Px(99))), {"rect": "center,end,99,99"}),
        (RenderPlan(trim=Trim("auto")), {"trimMode": "auto"}),
        (
            RenderPlan(trim=Trim("color", colour=RED, tolerance=5.0, pad_px=3)),
            {"trimMode": "color", "trimColor": "#c81e1e", "trimTolerance": 5, "trimPad": 3},
        ),
    ],
)
def test_a_region_that_is_cut_out(plan: RenderPlan, expected: dict[str, Any]) -> None:
    """A rect and a trim crop, in source pixels or per cent, and are not resized if no size is asked for."""
    assert changes(plan) == {"cropped": expected}


@pytest.mark.parametrize(
    ("rotation", "is_pivot", "size", "is_cropped"),
    [
        (5.0, False, (1200, 800), True),
        (90.0, False, (1200, 800), True),
        (90.0, False, (800, 800), False),
        (180.0, False, (1200, 800), False),
        (5.0, True, (1200, 800), False),
        (90.0, True, (1200, 800), False),
    ],
)
def test_a_straightened_picture_loses_its_corners(
    rotation: float, is_pivot: bool, size: tuple[int, int], is_cropped: bool
) -> None:
    """A picture that is enlarged until it covers its turned frame is cropped; one in a larger frame is not."""
    plan = RenderPlan(rotation=rotation, is_pivot=is_pivot)
    found = changes(plan, made(plan, *size))

    assert list(found) == (["orientation", "cropped"] if is_cropped else ["orientation"])
    assert found.get("cropped", {"straightened": True}) == {"straightened": True}


@pytest.mark.parametrize(
    ("plan", "source", "size", "is_resized"),
    [
        (RenderPlan(trim=Trim("auto")), (12_000, 9_000), (8192, 6_000), True),
        (RenderPlan(trim=Trim("auto")), (12_000, 9_000), (8_000, 6_000), False),
        (RenderPlan(trim=Trim("auto")), (8192, 5464), (8192, 5_000), False),
        (RenderPlan(rotation=45.0, is_pivot=True), (8_000, 8_000), (8192, 8192), True),
        (RenderPlan(rotation=45.0, is_pivot=True), (800, 800), (1131, 1131), False),
    ],
)
def test_what_a_limit_has_shrunk_after_a_trim_or_a_turn_is_resized(
    plan: RenderPlan, source: tuple[int, int], size: tuple[int, int], is_resized: bool
) -> None:
    """The size between is unknown, but what the limit has shrunk is as long as the limit."""
    facts = replace(SAME, width_px=size[0], height_px=size[1], limit_px=8192)
    found = changes(plan, replace(facts, source_width_px=source[0], source_height_px=source[1]))

    assert ("resized" in found) is is_resized


def test_tone_and_colour() -> None:
    """Every change of tone is one action, with the values that are not at their default."""
    adjust = Adjust(brightness=10.0, saturation=-100.0, duotone=(RED, Colour(0, 0, 0, 128)), enhance=True)

    assert changes(RenderPlan(adjust=adjust)) == {
        "adjustedColor": {"brightness": 10, "saturation": -100, "duotone": "#c81e1e,#00000080", "enhance": True}
    }


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (RenderPlan(adjust=Adjust(sharpen=20.0)), {"enhanced": {"sharpen": 20}}),
        (RenderPlan(adjust=Adjust(unsharp=80.0, unsharp_radius=4.0)), {"enhanced": {"unsharp": 80, "unsharpRadius": 4}}),
        (RenderPlan(adjust=Adjust(blur=50.0)), {"edited:blur": {"blur": 50}}),
        (RenderPlan(adjust=Adjust(pixellate_px=8)), {"edited:pixellate": {"pixellate": 8}}),
        (RenderPlan(blend=Blend(RED, "multiply", 40.0)), {"edited:blend": {"color": "#c81e1e", "mode": "multiply", "alpha": 40}}),
        (RenderPlan(mark=Mark("logo.png")), {"edited:mark": {"source": "logo.png"}}),
        (
            RenderPlan(mark=Mark("logo.png", "left", width=Ratio(0.2), is_tiled=True, x_px=3)),
            {"edited:mark": {"source": "logo.png", "horizontal": "left", "width": "20%", "tiled": True, "x": 3}},
        ),
        (
            RenderPlan(border=Border(Sides(1, 2, 3, 4), RED, radius_px=(5, 6, 7, 8))),
            {"edited:border": {"sides": "1,2,3,4", "color": "#c81e1e", "radius": "5,6,7,8"}},
        ),
        (RenderPlan(mask=Mask("ellipse", background=RED)), {"edited:mask": {"shape": "ellipse", "background": "#c81e1e"}}),
        (RenderPlan(pad=Sides(1, 2, 3, 4)), {"edited:padding": {"sides": "1,2,3,4"}}),
        (RenderPlan(frames=Frames(first=2, is_reversed=True)), {"edited:frames": {"first": 2, "reversed": True}}),
    ],
)  # fmt: skip
def test_filters_and_layers(plan: RenderPlan, expected: dict[str, Any]) -> None:
    """Filters, marks, borders, masks, padding and frames are an edit each, which names the step and its values."""
    assert changes(plan) == expected


def test_every_mark_is_told_only_if_it_was_painted() -> None:
    """A watermark that was missing, or that wants a larger picture, is not told."""
    plan = RenderPlan(mark=Mark("logo.png", min_width_px=1201))

    assert changes(plan) == {}
    assert changes(plan, made(plan, 1201, 800)) != {}
    assert changes(plan, made(plan, 1201, 800, is_mark_missing=True)) == {}


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        (Resize(Px(400), Px(400), fit=Fit.FILL), {"fit": "fill"}),
        (Resize(Px(400), Px(400), fit=Fit.FILL, fill_blur=True), {"fit": "fill", "fillBlur": True}),
        (Resize(Px(400), Px(400), fit=Fit.FILLMAX, fill_colour=RED), {"fit": "fillmax", "fillColor": "#c81e1e"}),
        (Resize(Px(400), Px(400), fit=Fit.CLAMP), {"fit": "clamp"}),
    ],
)
def test_what_is_painted_around_a_picture(resize: Resize, expected: dict[str, Any]) -> None:
    """A picture in a frame of another shape is edited: something is painted around it. In its own shape nothing is."""
    found = changes(RenderPlan(resize=resize))

    assert list(found) == ["resized", "edited:fill"]
    assert found["edited:fill"] == expected
    assert list(changes(RenderPlan(resize=replace(resize, width=Px(300), height=Px(200))))) == ["resized"]


def test_nothing_is_painted_around_a_straightened_picture() -> None:
    """A turned picture in a frame of its own shape is cropped; only the larger frame of a pivot may be filled."""
    asked = Resize(Px(300), Px(200), fit=Fit.FILL)

    assert list(changes(RenderPlan(resize=asked, rotation=5.0))) == ["orientation", "cropped", "resized"]
    assert "edited:fill" not in changes(RenderPlan(resize=asked, rotation=90.0, is_pivot=True))
    assert "edited:fill" in changes(RenderPlan(resize=asked, rotation=5.0, is_pivot=True))


@pytest.mark.parametrize(
    ("plan", "source_format", "is_told"),
    [
        (RenderPlan(background=RED), JPEG, False),
        (RenderPlan(background=RED), PNG, True),
        (RenderPlan(background=RED, mask=Mask("ellipse")), JPEG, True),
        (RenderPlan(background=RED, rotation=5.0, is_pivot=True), JPEG, True),
        (RenderPlan(background=RED, rotation=5.0), JPEG, False),
        (RenderPlan(background=RED, pad=Sides(1, 1, 1, 1)), JPEG, True),
        (RenderPlan(background=RED, border=Border(Sides(1, 1, 1, 1), RED, radius_px=(9,))), JPEG, True),
        (RenderPlan(background=RED, border=Border(Sides(1, 1, 1, 1), RED)), JPEG, False),
        (RenderPlan(background=RED, resize=Resize(Px(99), Px(99), fit=Fit.FILL)), JPEG, True),
        (RenderPlan(background=RED, resize=Resize(Px(99), Px(99), fit=Fit.CROP)), JPEG, False),
    ],
)
def test_a_background(plan: RenderPlan, source_format: str, is_told: bool) -> None:
    """A background is told where it can be seen: behind transparency, or around the picture."""
    found = changes(plan, made(plan, source_format=source_format))

    assert ("edited:background" in found) is is_told
    assert found.get("edited:background", {"color": "#c81e1e"}) == {"color": "#c81e1e"}


def test_an_animation_that_became_a_still() -> None:
    """If only the first frame of an animation was kept, that is told without being asked for."""
    assert changes(RenderPlan(), replace(SAME, is_first_frame_only=True)) == {"edited:frames": {"firstFrameOnly": True}}


# --- all of them ------------------------------------------------------------------------------------------------------

# Fields that no action names, and where their effect is told instead.
TOLD_ELSEWHERE = {
    ("Output", "is_negotiated"): "the format of the variant",
    ("Output", "avif_max_pixels"): "the format of the variant",
    ("Output", "may_be_webp"): "the format of the variant",
    ("Output", "palette_prefix"): "the variant is no picture",
    ("Output", "has_faces"): "the variant is no picture",
}


def made_in_its_format(plan: RenderPlan) -> MadeFacts:
    """Return the facts of a small PNG after a plan, as if each format could be made."""
    return made(plan, 64, 96, source_format=PNG, format=f"image/{plan.output.format}")


@pytest.mark.parametrize(("row", "field"), CASES, ids=name_of)
def test_every_field_of_a_plan_is_told(row: Row, field: str) -> None:
    """Each value of each field of a plan that changes the bytes of a variant changes the actions, too."""
    if (type(row.parts[-1]).__name__, field) in TOLD_ELSEWHERE:
        return
    before = actions_of(row.plan, made_in_its_format(row.plan))
    for value in row.values[field]:
        plan = row.change(field, value)
        assert actions_of(plan, made_in_its_format(plan)) != before, (
            f"{type(row.parts[-1]).__name__}.{field} = {value!r} is in no action: map it in credentials/actions.py"
        )


def test_every_field_of_a_plan_is_tried() -> None:
    """Every field of every dataclass in a plan is tried by the test above, or told elsewhere and known."""
    wanted = {(kind.__name__, field.name) for kind in find_dataclasses(RenderPlan) for field in fields(kind)}
    tried = {(type(row.parts[-1]).__name__, field) for row, field in CASES}

    assert wanted - tried == set()
    assert set(TOLD_ELSEWHERE) <= wanted


def test_a_field_that_is_not_told_is_found() -> None:
    """A value that no action tells fails the test: here a watermark's place, where it was not painted."""
    plan = RenderPlan(mark=Mark("logo", min_width_px=4000))
    with pytest.raises(AssertionError, match=r"Mark\.pad_px = 0 is in no action"):
        test_every_field_of_a_plan_is_told(Row(plan, "mark", {"pad_px": (0,)}), "pad_px")


# The words that the specification 2.4 has for these (table 8), without those that it has given up.
WORDS = {
    "c2pa.adjustedColor",
    "c2pa.converted",
    "c2pa.cropped",
    "c2pa.edited",
    "c2pa.edited.metadata",
    "c2pa.enhanced",
    "c2pa.orientation",
    "c2pa.resized",
    "c2pa.transcoded",
}
# Section 6.2.1: an entity, then names, with periods between them.
NAME = re.compile(r"org\.imgproxy-edge(\.[a-zA-Z0-9][a-zA-Z0-9_-]*)+")


def all_actions() -> list[Action]:
    """The actions of every plan above."""
    plans = [row.change(field, value) for row, field in CASES for value in row.values[field]]
    return [action for plan in plans for action in actions_of(plan, made_in_its_format(plan))]


def test_every_action_is_one_of_the_specification() -> None:
    """Words, names of parameters and values are what the specification lets stand in a manifest, and in JSON."""
    found = all_actions()

    assert {action.action for action in found} == WORDS
    for action in found:
        names = [name for name, _ in action.pairs]
        assert len(names) == len(set(names))
        for name, value in action.pairs:
            assert NAME.fullmatch(name), name
            assert type(value) in (str, int, float, bool), name
            assert value != "", name
        assert json.loads(json.dumps(action.as_json())) == action.as_json()
        assert action.as_json() == {"action": action.action, "parameters": dict(action.parameters)}


def test_an_action_without_parameters() -> None:
    """An action without parameters has none in a manifest either."""
    assert Action("c2pa.cropped").as_json() == {"action": "c2pa.cropped"}


def test_equal_plans_and_facts_have_equal_actions() -> None:
    """Actions are values: the same plan and facts give equal actions, which can be hashed."""
    plan = RenderPlan(resize=Resize(Px(300)), output=Output(format=Format.WEBP))

    assert len({actions_of(plan, made(plan)), actions_of(plan, made(plan))}) == 1
    assert all(is_dataclass(action) for action in actions_of(plan, made(plan)))
