"""The kinds of values that are lengths, places, or made of several parts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from imgproxy.params.colours import parse_colour
from imgproxy.params.kinds import NOTHING, Form, FormName, Kind, NeverValid, Reading, round_half_up, to_number
from imgproxy.params.plan import Anchor, Length, Position, Px, Ratio, Rect

if TYPE_CHECKING:
    from imgproxy.params.appearance import Colour

# Larger sizes make no difference: the result is scaled down to the output limit anyway, keeping its ratio.
_LARGEST_SIZE_PX: Final = 100_000
_LARGEST_COORDINATE_PX: Final = 1_000_000
_MOST_ASPECT: Final = 10_000.0


def _read_size(text: str) -> Reading[Length]:
    value = to_number(text)
    if value is None:
        return NOTHING
    if value <= 0:
        raise NeverValid
    if value <= 1:
        return Ratio(value), True
    pixels = min(round_half_up(value), _LARGEST_SIZE_PX)
    return Px(pixels), value == pixels <= 8192


def _read_pixel_ratio(text: str) -> Reading[float]:
    value = to_number(text)
    if value is None or value <= 0:
        return NOTHING
    return min(value, 5.0), value <= 5


def _read_aspect(text: str) -> Reading[float]:
    """`W:H`, or a number N for N:1; as width divided by height."""
    parts = [to_number(part) for part in text.split(":")]
    if len(parts) > 2 or any(part is None or part <= 0 for part in parts):
        return NOTHING
    width, height = parts[0] or 1.0, (parts[1] or 1.0) if len(parts) == 2 else 1.0
    return min(max(width / height, 1 / _MOST_ASPECT), _MOST_ASPECT), len(parts) == 2


_START: Final = {"left": 0.0, "top": 0.0, "center": 0.5, "middle": 0.5, "right": 1.0, "bottom": 1.0}


def _read_rect(text: str) -> Reading[Rect]:
    """`x,y,w,h`: pixels, ratios (with a decimal point), or words."""
    parts = [part.strip().lower() for part in text.split(",")]
    if len(parts) != 4:
        return NOTHING
    width, height = _rect_length(parts[2]), _rect_length(parts[3])
    if width is None or height is None:
        return NOTHING
    x, y = _rect_position(parts[0], width), _rect_position(parts[1], height)
    if x is None or y is None:
        return NOTHING
    is_exact = not any(part.startswith(("-", "+")) for part in parts)
    return Rect(x, y, width, height), is_exact and parts[0] not in ("top", "bottom")


def _rect_length(text: str) -> Length | None:
    if text == "full":
        return Ratio(1.0)
    value = to_number(text)
    if value is None or value <= 0:
        return None
    if "." in text and value <= 1:
        return Ratio(value)
    return Px(min(max(1, round_half_up(value)), _LARGEST_COORDINATE_PX))


def _rect_position(text: str, length: Length) -> Position | None:
    anchor = _START.get(text)
    if anchor is not None:
        # At the start, and where the rect fills the whole side, every way to write 0 is the same place.
        return Px(0) if anchor == 0.0 or length == Ratio(1.0) else Anchor(anchor)
    value = to_number(text)
    if value is None:
        return None
    if value != 0 and "." in text and -1 <= value <= 1:
        return Ratio(value)
    return Px(min(max(round_half_up(value), -_LARGEST_COORDINATE_PX), _LARGEST_COORDINATE_PX))


def _read_radii(text: str) -> Reading[tuple[int, ...]]:
    parts = [to_number(part) for part in text.split(",")]
    if len(parts) not in (1, 4) or any(part is None or part < 0 for part in parts):
        return NOTHING
    values = tuple(min(round_half_up(part or 0.0), 8192) for part in parts)
    return (values[:1] if len(set(values)) == 1 else values), True


def _read_border(text: str) -> Reading[tuple[int, Colour]]:
    width_text, _, colour_text = text.partition(",")
    width, value = to_number(width_text), parse_colour(colour_text)
    if width is None or width <= 0 or value is None:
        return NOTHING
    held = min(max(round_half_up(width), 1), 100)
    return (held, value), held == width


def _read_two_colours(text: str) -> Reading[tuple[Colour, Colour]]:
    parts = [parse_colour(part) for part in text.split(",")]
    if len(parts) != 2 or parts[0] is None or parts[1] is None:
        return NOTHING
    return (parts[0], parts[1]), True


_ORIENTATION: Final = {90: 6, 180: 3, 270: 8, 0: 1} | {value: value for value in range(1, 9)}


def _read_orientation(text: str) -> Reading[int]:
    """As an EXIF orientation from 1 to 8."""
    value = to_number(text)
    found = _ORIENTATION.get(int(value)) if value is not None and value == int(value) else None
    return found, found is not None


def _read_frame_span(text: str) -> Reading[tuple[int | None, int | None]]:
    """
    `3`, `2-5` (or `2,5`), `2-`, `-5`, counted from 1, as the first and last frame; None is that of the file.

    Source: https://docs.imgix.com/apis/rendering/animation/frame-selection
    """
    found = re.fullmatch(r"\s*([0-9]{1,6})?\s*(?:([-,])\s*([0-9]{1,6})?\s*)?", text)
    if found is None or (found[1] is None and found[3] is None):
        return NOTHING
    if (found[1] is None or found[3] is None) and found[2] == ",":
        return NOTHING
    first = None if found[1] is None else int(found[1])
    last = first if found[2] is None else None if found[3] is None else int(found[3])
    is_possible = (first is None or first >= 1) and (last is None or last >= (first or 1))
    return ((first, last), True) if is_possible else NOTHING


SIZE: Final[Kind[Length]] = Kind(
    _read_size, "a whole number from 2 to 8192, or a fraction up to 1", Form(FormName.WHOLE, 2, 8192)
)
PIXEL_RATIO: Final = Kind(_read_pixel_ratio, "a number above 0 and up to 5", Form(FormName.NUMBER, 0.1, 5))
ASPECT: Final = Kind(_read_aspect, "W:H, both above 0")
RECT: Final = Kind(
    _read_rect, "x,y,w,h in pixels or ratios, or left|center|right, top|middle|bottom, full", Form(FormName.RECT)
)
RADII: Final = Kind(_read_radii, "one whole number from 0, or four from the top left clockwise")
BORDER: Final = Kind(_read_border, "width,colour with a width from 1 to 100")
TWO_COLOURS: Final = Kind(_read_two_colours, "two colours: dark,light", Form(FormName.COLOURS, most=2))
ORIENTATION: Final = Kind(
    _read_orientation,
    "0 to 8, 90, 180 or 270",
    Form(FormName.CHOICE, members=tuple(map(str, sorted(_ORIENTATION)))),
)
FRAME_SPAN: Final = Kind(_read_frame_span, "a frame number from 1, first-last, first- or -last")
