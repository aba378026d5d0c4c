"""
What was done to a picture, as actions of a C2PA manifest. Pure.

The words are those of the C2PA specification 2.4, section 18.15.1. It forbids `c2pa.color_adjustments`, so changes of
tone are `c2pa.adjustedColor`. `c2pa.opened` is not made here: it refers to the ingredient. Parameters have names of our
own, in a namespace as section 6.2.1 wants it, and the spelling of that specification ("color"). Sizes are in pixels.

The actions are complete: every field of a plan that changes a pixel of the variant gives one, or is a parameter of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final

from imgproxy.params.appearance import NO_SIDES, TRANSPARENT_WHITE, UNADJUSTED, Adjust, Colour
from imgproxy.params.plan import Anchor, Fit, Frames, Px, Ratio, Resize

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from imgproxy.params.plan import Length, Mark, Position, Rect, RenderPlan

NAMESPACE: Final = "org.imgproxy-edge"

ORIENTATION: Final = "c2pa.orientation"
CROPPED: Final = "c2pa.cropped"
RESIZED: Final = "c2pa.resized"
COLOUR: Final = "c2pa.adjustedColor"
SHARPENED: Final = "c2pa.enhanced"  # "sharpening": the picture says the same as before
EDITED: Final = "c2pa.edited"
METADATA: Final = "c2pa.edited.metadata"
CONVERTED: Final = "c2pa.converted"
RECODED: Final = "c2pa.transcoded"  # the format is the same: it is compressed again

Value = str | int | float | bool
Pairs = tuple[tuple[str, Value], ...]

_TONE: Final = (
    "brightness", "contrast", "exposure", "gamma", "hue", "saturation", "vibrance", "highlight", "shadow", "monochrome",
    "sepia", "duotone", "duotone_alpha", "invert", "enhance",
)  # fmt: skip
_SHARPENING: Final = ("sharpen", "unsharp", "unsharp_radius")
_FILTERS: Final = ("blur", "pixellate_px")

# These cut the picture to the asked frame.
_CUTTING: Final = (Fit.CROP, Fit.MIN)
# And these enlarge it to the asked frame, with something around the picture.
_FILLING: Final = (Fit.FILL, Fit.FILLMAX, Fit.CLAMP)
# The format without transparency: there a background alone changes nothing.
_OPAQUE: Final = "image/jpeg"


@dataclass(frozen=True, slots=True)
class MadeFacts:
    """
    What is known of a variant and its source after the render. Formats are media types.

    `orientation` is the EXIF orientation (1-8) that was applied. The size of the source is that of the picture turned
    by it, 0 if unknown. `shared_decode` is that of `workers.job.Rendered`. `limit_px`: the longest side that a variant
    may have.
    """

    source_format: str
    format: str
    width_px: int
    height_px: int
    source_width_px: int = 0
    source_height_px: int = 0
    orientation: int = 1
    shared_decode: str = ""
    is_mark_missing: bool = False
    is_first_frame_only: bool = False
    limit_px: int = 0


@dataclass(frozen=True, slots=True)
class Action:
    """One action. `pairs` are its parameters: full names and values, each name once."""

    action: str
    pairs: Pairs = ()

    @property
    def parameters(self) -> Mapping[str, Value]:
        """The parameters by their names."""
        return dict(self.pairs)

    def as_json(self) -> dict[str, Any]:
        """Return the action as it stands in a manifest."""
        return {"action": self.action, "parameters": dict(self.pairs)} if self.pairs else {"action": self.action}


def actions_of(plan: RenderPlan, made: MadeFacts) -> tuple[Action, ...]:
    """Return what was done to the source, in the order of the render. The last one is the compression: it is always."""
    return (*_placed(plan, made), *_adjusted(plan.adjust), *_painted(plan, made), *_written(plan, made))


# --- position and size ----------------------------------------------------------------------------------------------


def _placed(plan: RenderPlan, made: MadeFacts) -> Iterator[Action]:
    if turned := _turned(plan, made):
        yield _action(ORIENTATION, turned)
    if cut := _cut(plan, made):
        yield _action(CROPPED, cut)
    if _is_resized(plan, made):
        yield _action(RESIZED, _resized(plan, made))
    if plan.resize.fit in _FILLING and _has_other_shape(plan, made):
        yield _edited("fill", {"fit": plan.resize.fit, **_differing(plan.resize, ("fill_blur", "fill_colour"))})


def _turned(plan: RenderPlan, made: MadeFacts) -> dict[str, Any]:
    """Return how the picture was turned. An orientation that the plan names replaces the file's, even by 1."""
    found: dict[str, Any] = {}
    if plan.orient is not None or made.orientation != 1:
        found["orientation"] = made.orientation if plan.orient is None else plan.orient
    if plan.flip:
        found["flip"] = plan.flip
    if plan.rotation:
        found |= {"rotation": plan.rotation, "rotation_type": "pivot" if plan.is_pivot else "straighten"}
    return found


def _cut(plan: RenderPlan, made: MadeFacts) -> dict[str, Any]:
    """Return what was cut off, as far as it is known; nothing if the picture is whole."""
    found: dict[str, Any] = {}
    resize = plan.resize
    if plan.rect is not None and not _is_whole(plan.rect, made):
        found["rect"] = plan.rect
    if plan.trim is not None:
        found |= {f"trim_{name}": value for name, value in _differing(plan.trim).items()}
    if not plan.is_pivot and _cuts_corners(plan, made):
        found["straightened"] = True
    is_zoomed = resize.focal is not None and resize.focal.zoom > 1
    is_framed = resize.fit in _CUTTING and (bool(found) or is_zoomed or _has_other_shape(plan, made))
    if is_framed or (resize.faces is not None and resize.faces.is_area):
        found |= {"fit": resize.fit, **_differing(resize, ("aspect",)), **_differing(resize.bounds), **_kept(resize)}
    return found


def _kept(resize: Resize) -> dict[str, Any]:
    """Return which part of the picture a crop kept."""
    found: dict[str, Any] = {"keep": resize.crop or "center"}
    if resize.focal is not None:
        found |= {"focal_x": resize.focal.x, "focal_y": resize.focal.y, "zoom": resize.focal.zoom}
    if resize.faces is not None:
        found |= {"faces": resize.faces.index or "all", **_differing(resize.faces, ("is_area", "pad"))}
    return found


def _cuts_corners(plan: RenderPlan, made: MadeFacts) -> bool:
    """Return whether a turned picture had to be enlarged to cover its frame. A half turn fits, and so does a square."""
    width, height = _picture_size(plan, made)
    return plan.rotation % 180 != 0 and (plan.rotation % 90 != 0 or width != height)


def _is_whole(rect: Rect, made: MadeFacts) -> bool:
    """Return whether a rect takes the whole source."""
    pairs = ((rect.x, rect.width, made.source_width_px), (rect.y, rect.height, made.source_height_px))
    return all(
        start == Px(0) and (length == Ratio(1.0) or _span(start, length, side_px) == side_px > 0)
        for start, length, side_px in pairs
    )


def _picture_size(plan: RenderPlan, made: MadeFacts) -> tuple[int, int]:
    """Return the size of the picture without the padding around it. Padding that leaves nothing is not made."""
    width = made.width_px - plan.pad.left_px - plan.pad.right_px
    height = made.height_px - plan.pad.top_px - plan.pad.bottom_px
    return (width, height) if min(width, height) > 0 else (made.width_px, made.height_px)


def _has_other_shape(plan: RenderPlan, made: MadeFacts) -> bool:
    """
    Return whether the picture has another ratio of its sides than the source, by more than the rounding to pixels.

    If it cannot be known, the answer is yes.
    """
    across, down = made.source_width_px, made.source_height_px
    if plan.rotation and plan.is_pivot:
        if plan.rotation % 90:
            return True
        if plan.rotation % 180:
            across, down = down, across
    width, height = _picture_size(plan, made)
    return not across or not down or abs(width * down - height * across) > (across + down) / 2


def _is_resized(plan: RenderPlan, made: MadeFacts) -> bool:
    """
    Return whether the variant has another size than the source, for another reason than that it was cut or padded.

    If the plan asks for a size, any other size counts. If it does not, a limit of the output may have shrunk the
    picture. If the source's size is unknown, what is asked counts.
    """
    across, down = made.source_width_px, made.source_height_px
    is_asked = plan.resize != Resize()
    if not across or not down:
        return is_asked
    if is_asked:
        return (made.width_px, made.height_px) != (across, down) or plan.resize.fit is Fit.SCALE
    is_turned = plan.is_pivot and plan.rotation % 90 != 0
    if plan.trim is not None or is_turned:
        # The size before the limit is unknown. What the limit has shrunk is as long as the limit.
        longest = math.hypot(across, down) if is_turned else max(across, down)
        return max(made.width_px, made.height_px) == made.limit_px < longest
    if plan.rect is not None:
        across = _span(plan.rect.x, plan.rect.width, across)
        down = _span(plan.rect.y, plan.rect.height, down)
    if plan.is_pivot and plan.rotation % 180:
        across, down = down, across
    width, height = _picture_size(plan, made)
    return max(abs(width - across), abs(height - down)) > 1  # roundings


def _span(start: Position, length: Length, side_px: int) -> int:
    """Return how much of a side of the source a rect takes, to about a pixel; the whole side if they do not overlap."""
    size = length.value * (side_px if isinstance(length, Ratio) else 1)
    if isinstance(start, Anchor):
        first = start.value * (side_px - size)
    else:
        first = start.value * (side_px if isinstance(start, Ratio) else 1)
    found = round(min(side_px, first + size) - max(0.0, first))
    return found if found > 0 else side_px


def _resized(plan: RenderPlan, made: MadeFacts) -> dict[str, Any]:
    found: dict[str, Any] = {"width_px": made.width_px, "height_px": made.height_px, "fit": plan.resize.fit}
    if made.source_width_px and made.source_height_px:
        found |= {"source_width_px": made.source_width_px, "source_height_px": made.source_height_px}
    found |= {f"asked_{name}": value for name, value in _differing(plan.resize, ("width", "height", "aspect")).items()}
    if made.shared_decode:
        found["shared_decode"] = made.shared_decode
    return found


# --- looks ------------------------------------------------------------------------------------------------------------


def _adjusted(adjust: Adjust) -> Iterator[Action]:
    if adjust == UNADJUSTED:
        return
    if tone := _differing(adjust, _TONE):
        yield _action(COLOUR, tone)
    for name in _FILTERS:
        if found := _differing(adjust, (name,)):
            yield _edited(name.removesuffix("_px"), found)
    if sharpening := _differing(adjust, _SHARPENING):
        yield _action(SHARPENED, sharpening)


def _painted(plan: RenderPlan, made: MadeFacts) -> Iterator[Action]:
    if plan.blend is not None:
        yield _edited("blend", _differing(plan.blend))
    if plan.mark is not None and _is_marked(plan.mark, plan, made):
        yield _edited("mark", _differing(plan.mark))
    if plan.border is not None:
        yield _edited("border", _differing(plan.border))
    if plan.mask is not None:
        yield _edited("mask", _differing(plan.mask))
    if plan.pad != NO_SIDES:
        yield _edited("padding", {"sides": plan.pad})
    if plan.background != TRANSPARENT_WHITE and _has_gaps(plan, made):
        yield _edited("background", {"colour": plan.background})


def _is_marked(mark: Mark, plan: RenderPlan, made: MadeFacts) -> bool:
    """Return whether the watermark was painted. It is not painted on a picture that is smaller than it wants."""
    width, height = _picture_size(plan, made)
    return not made.is_mark_missing and width >= mark.min_width_px and height >= mark.min_height_px


def _has_gaps(plan: RenderPlan, made: MadeFacts) -> bool:
    """Return whether there can be anything transparent, or around the picture, that shows the background."""
    is_framed = plan.resize.fit in _FILLING or plan.pad != NO_SIDES or bool(plan.rotation and plan.is_pivot)
    is_cut_out = plan.mask is not None or (plan.border is not None and bool(plan.border.radius_px))
    return is_framed or is_cut_out or made.source_format != _OPAQUE


# --- the file ---------------------------------------------------------------------------------------------------------


def _written(plan: RenderPlan, made: MadeFacts) -> Iterator[Action]:
    if plan.frames != Frames() or made.is_first_frame_only:
        first = {"first_frame_only": True} if made.is_first_frame_only else {}
        yield _edited("frames", {**_differing(plan.frames), **first})
    output = plan.output
    yield _action(METADATA, {"kept": output.metadata, **_differing(output, ("dpi",))})
    names = ("quality", "is_lossless", "is_progressive", "chroma_444", "colours", "colour_space")
    facts = {"from": made.source_format, "to": made.format, **_differing(output, names)}
    yield _action(RECODED if made.format == made.source_format else CONVERTED, facts)


# --- names and values -------------------------------------------------------------------------------------------------


def _action(word: str, facts: Mapping[str, Any]) -> Action:
    return Action(word, tuple((f"{NAMESPACE}.{_name(name)}", _value(value)) for name, value in facts.items()))


def _edited(step: str, facts: Mapping[str, Any]) -> Action:
    """Return a `c2pa.edited`. The specification has no narrower word, so a parameter names the step of the render."""
    return _action(EDITED, {"step": step, **facts})


def _differing(part: Any, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what of a part of a plan differs from its defaults: all fields, or those of these names."""
    found = ((item, getattr(part, item.name)) for item in fields(part) if not names or item.name in names)
    return {item.name: value for item, value in found if value != item.default}


def _name(name: str) -> str:
    """Return the name of a field as that of a parameter: `min_width_px` is `minWidth`, `is_tiled` is `tiled`."""
    words = name.removeprefix("is_").removesuffix("_px").replace("colour", "color").split("_")
    return words[0] + "".join(word.title() for word in words[1:])


def _value(value: Any) -> Value:
    """Return a value of a plan as that of a parameter; as text what is neither a number nor a yes or no."""
    match value:
        case bool():
            return value
        case str():  # members of a StrEnum as well
            return str(value)
        case int() | float():
            return int(value) if value == int(value) else round(value, 6)
        case Px():
            return _value(value.value)
        case Ratio():
            return f"{value.value * 100:.6g}%"
        case Anchor():
            return {0.0: "start", 0.5: "center"}.get(value.value, "end")
        case Colour():
            opacity = f"{value.alpha:02x}" if value.alpha != 255 else ""
            return "#{:02x}{:02x}{:02x}".format(*value.rgb) + opacity
        case tuple():
            return ",".join(str(_value(item)) for item in value)
    assert is_dataclass(value), f"no parameter can say {type(value).__name__}"
    return ",".join(str(_value(getattr(value, item.name))) for item in fields(value))
