"""
How the text of a parameter becomes a value: one small reader for each kind of value the grammar has.

A reader returns the value, or None where the text means nothing, and whether the text was what the grammar asks for.
A number outside its range, or a list with an unknown member, gives the nearest sensible value and False: lenient
parsing takes the value, strict parsing refuses it. `NeverValid` is refused in both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, TypeVar

from imgproxy.params.colors import parse_color
from imgproxy.params.plan import Anchor, Color, Length, Position, Px, Ratio, Rect

T = TypeVar("T")
Reading: TypeAlias = tuple[T | None, bool]
Reader: TypeAlias = Callable[[str], Reading[T]]

NOTHING: Final = (None, False)

# No exponent, no inf, no nan: what a URL builder writes. Twenty digits hold every length and every Unix time.
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]{1,20}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})")
# Sizes past this cannot matter: the result is scaled down to the output limit anyway, keeping its ratio.
_LARGEST_SIZE_PX: Final = 100_000
_LARGEST_COORDINATE_PX: Final = 1_000_000
_MOST_ASPECT: Final = 10_000.0

_ABSOLUTE_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*:|[/\\]{2}", re.IGNORECASE)


class NeverValid(ValueError):
    """A value that is refused even where parsing is lenient."""


def to_number(text: str) -> float | None:
    """Read a decimal number, to six decimals (what the plan's digest tells apart); None for anything else."""
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return None
    return round(float(text), 6) + 0.0


def round_half_up(value: float) -> int:
    """Round to the nearest whole number, halves upward; a half that floating point misses by a hair is one."""
    return math.floor(value + 0.5 + 1e-9)


# --- single values -----------------------------------------------------------------------------------------------


def number(least: float, most: float) -> Reader[float]:
    """A decimal number, held between two bounds."""

    def read(text: str) -> Reading[float]:
        value = to_number(text)
        if value is None:
            return NOTHING
        held = min(max(value, least), most)
        return held, held == value

    return read


def integer(least: int, most: int, *, below_is_absent: bool = False) -> Reader[int]:
    """A whole number, held between two bounds; fractions are rounded half up. Below its bound it may mean nothing."""

    def read(text: str) -> Reading[int]:
        value = to_number(text)
        if value is None or (below_is_absent and value < least):
            return NOTHING
        held = min(max(round_half_up(value), least), most)
        return held, held == value

    return read


def degrees(text: str) -> Reading[float]:
    """An angle; turned into 0 <= a < 360."""
    value = to_number(text)
    if value is None:
        return NOTHING
    return round(value % 360.0, 6) % 360.0, 0 <= value < 360


def flag(text: str) -> Reading[bool]:
    """`true`, `false`, `1` or `0`."""
    lowered = text.strip().lower()
    if lowered in ("true", "1"):
        return True, True
    return (False, True) if lowered in ("false", "0") else NOTHING


def choice(members: Mapping[str, T]) -> Reader[T]:
    """One of a set of words, in either case."""

    def read(text: str) -> Reading[T]:
        value = members.get(text.strip().lower())
        return value, value is not None

    return read


def choices(members: Mapping[str, T]) -> Reader[tuple[T, ...]]:
    """A comma-separated list of words; unknown ones are dropped, the order stays, repeats go."""

    def read(text: str) -> Reading[tuple[T, ...]]:
        words = [word.strip().lower() for word in text.split(",")]
        known = tuple(dict.fromkeys(members[word] for word in words if word in members))
        return (known or None), all(word in members for word in words)

    return read


def no_url(read: Reader[T]) -> Reader[T]:
    """The same, but an absolute URL is never valid: this service fetches nothing but pictures of its library."""

    def read_local(text: str) -> Reading[T]:
        if _ABSOLUTE_URL.match(text.strip()):
            raise NeverValid
        return read(text)

    return read_local


def color(text: str) -> Reading[Color]:
    """A colour."""
    value = parse_color(text)
    return value, value is not None


def words(text: str) -> Reading[str]:
    """Any text without control characters."""
    cleaned = text.strip() if text.isprintable() else "".join(filter(str.isprintable, text)).strip()
    return (cleaned or None), cleaned == text


def texts(text: str) -> Reading[tuple[str, ...]]:
    """A comma-separated list of names."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return (names or None), bool(names)


def identifier(text: str) -> Reading[str]:
    """A CSS class name: letters, digits, `-` and `_`; nothing that could end a selector."""
    is_name = re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", text.strip()) is not None
    return (text.strip(), True) if is_name else NOTHING


# --- lengths and places --------------------------------------------------------------------------------------------


def size(text: str) -> Reading[Length]:
    """A side: above 1 it is pixels, up to 1 a part of the source's side. Nothing at or below 0 can be meant."""
    value = to_number(text)
    if value is None:
        return NOTHING
    if value <= 0:
        raise NeverValid
    if value <= 1:
        return Ratio(value), True
    pixels = min(round_half_up(value), _LARGEST_SIZE_PX)
    return Px(pixels), value == pixels <= 8192


def pixel_ratio(text: str) -> Reading[float]:
    """A device pixel ratio, at most 5; at or below 0 it means nothing."""
    value = to_number(text)
    if value is None or value <= 0:
        return NOTHING
    return min(value, 5.0), value <= 5


def aspect(text: str) -> Reading[float]:
    """`W:H`, or a number for N:1; as width divided by height."""
    parts = [to_number(part) for part in text.split(":")]
    if len(parts) > 2 or any(part is None or part <= 0 for part in parts):
        return NOTHING
    width, height = parts[0] or 1.0, (parts[1] or 1.0) if len(parts) == 2 else 1.0
    return min(max(width / height, 1 / _MOST_ASPECT), _MOST_ASPECT), len(parts) == 2


_START: Final = {"left": 0.0, "top": 0.0, "center": 0.5, "middle": 0.5, "right": 1.0, "bottom": 1.0}


def rect(text: str) -> Reading[Rect]:
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
        # At the start, or with nothing to move in, every way of writing 0 is the same place.
        return Px(0) if anchor == 0.0 or length == Ratio(1.0) else Anchor(anchor)
    value = to_number(text)
    if value is None:
        return None
    if value != 0 and "." in text and -1 <= value <= 1:
        return Ratio(value)
    return Px(min(max(round_half_up(value), -_LARGEST_COORDINATE_PX), _LARGEST_COORDINATE_PX))


def radii(text: str) -> Reading[tuple[int, ...]]:
    """One radius, or four from the top left clockwise."""
    parts = [to_number(part) for part in text.split(",")]
    if len(parts) not in (1, 4) or any(part is None or part < 0 for part in parts):
        return NOTHING
    values = tuple(min(round_half_up(part or 0.0), 8192) for part in parts)
    return (values[:1] if len(set(values)) == 1 else values), True


def border(text: str) -> Reading[tuple[int, Color]]:
    """`width,colour`."""
    width_text, _, color_text = text.partition(",")
    width, value = to_number(width_text), parse_color(color_text)
    if width is None or width <= 0 or value is None:
        return NOTHING
    held = min(max(round_half_up(width), 1), 100)
    return (held, value), held == width


def two_colors(text: str) -> Reading[tuple[Color, Color]]:
    """`dark,light`."""
    parts = [parse_color(part) for part in text.split(",")]
    if len(parts) != 2 or parts[0] is None or parts[1] is None:
        return NOTHING
    return (parts[0], parts[1]), True


_ORIENTATION: Final = {90: 6, 180: 3, 270: 8, 0: 1} | {value: value for value in range(1, 9)}


def orientation(text: str) -> Reading[int]:
    """An EXIF orientation 0-8, or 90, 180, 270 degrees; as an EXIF orientation 1-8."""
    value = to_number(text)
    found = _ORIENTATION.get(int(value)) if value is not None and value == int(value) else None
    return found, found is not None


def frame_span(text: str) -> Reading[tuple[int, int]]:
    """One frame, or the first and last of a span, counted from 1: `3`, `2-5` or `2,5`."""
    found = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:[-,]\s*([0-9]{1,6})\s*)?", text)
    if found is None:
        return NOTHING
    first, last = int(found[1]), int(found[2] or found[1])
    return ((first, last), True) if 1 <= first <= last else NOTHING
