"""
The kinds of values that parameters have: how a text becomes a value, and what is expected, in words.

A reader returns a value and whether the text was exactly as the grammar asks. A number out of range gives the nearest
one in range, a list without its unknown members; both are not exact. A text without a meaning gives None. Lenient
parsing takes the value; strict parsing refuses what is not exact. `NeverValid` is refused by both.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from imgproxy.params.colours import parse_colour

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from imgproxy.params.appearance import Colour

T = TypeVar("T")
Reading: TypeAlias = tuple[T | None, bool]

# The reading of a text without a meaning.
NOTHING: Final = (None, False)

# Decimal numbers as URL builders write them, without exponent, inf and nan. 20 digits hold any length and Unix time.
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]{1,20}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})")
_ABSOLUTE_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*:|[/\\]{2}", re.IGNORECASE)
# Longer lists of words begin with "one of".
_PLAIN_WORDS_MAX: Final = 5


class NeverValid(ValueError):
    """A value that is refused even where parsing is lenient."""


class FormName(StrEnum):
    """The forms that a value has as text."""

    TEXT = "text"
    NUMBER = "number"
    WHOLE = "whole"  # a whole number
    FLAG = "flag"  # `true` or `false`
    CHOICE = "choice"  # one word of the members
    CHOICES = "choices"  # words of the members, with commas
    COLOUR = "colour"
    COLOURS = "colours"  # `most` colours, with commas
    RECT = "rect"  # x,y,w,h in pixels


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a value for programs, for example one that makes an input for it. The bounds are inclusive."""

    name: FormName = FormName.TEXT
    least: float | None = None
    most: float | None = None
    members: tuple[str, ...] = ()


TEXT_FORM: Final = Form()


@dataclass(frozen=True, slots=True, eq=False)
class Kind(Generic[T]):
    """
    One kind of value.

    `expected` completes the sentence "expected …" with the form and the range. `form` is the usual form, for programs:
    `read` may take more.
    """

    read: Callable[[str], Reading[T]]
    expected: str
    form: Form = TEXT_FORM


def to_number(text: str) -> float | None:
    """Read a decimal number, rounded to six decimals: finer differences make no other plan. None for other text."""
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return None
    return round(float(text), 6) + 0.0


def round_half_up(value: float) -> int:
    """Round to the nearest whole number, halves upwards, also halves that floating point misses by less than 1e-9."""
    return math.floor(value + 0.5 + 1e-9)


def number(least: float, most: float) -> Kind[float]:
    """A decimal number between two bounds."""

    def read(text: str) -> Reading[float]:
        value = to_number(text)
        if value is None:
            return NOTHING
        held = min(max(value, least), most)
        return held, held == value

    return Kind(read, f"a number from {least:g} to {most:g}", Form(FormName.NUMBER, least, most))


def integer(least: int, most: int, *, below_is_absent: bool = False) -> Kind[int]:
    """A whole number between two bounds. Fractions are rounded half up. `below_is_absent`: a smaller one is None."""

    def read(text: str) -> Reading[int]:
        value = to_number(text)
        if value is None or (below_is_absent and value < least):
            return NOTHING
        held = min(max(round_half_up(value), least), most)
        return held, held == value

    return Kind(read, f"a whole number from {least} to {most}", Form(FormName.WHOLE, least, most))


def choice(members: Mapping[str, T], expected: str = "") -> Kind[T]:
    """One of several words, in upper or lower case."""

    def read(text: str) -> Reading[T]:
        value = members.get(text.strip().lower())
        return value, value is not None

    return Kind(read, expected or _alternatives(tuple(members)), Form(FormName.CHOICE, members=tuple(members)))


def choices(members: Mapping[str, T], expected: str = "", *, is_mostly_one: bool = False) -> Kind[tuple[T, ...]]:
    """
    A comma-separated list of words, in their order, each once; unknown ones are dropped.

    `is_mostly_one`: the usual form is a single word.
    """
    name = FormName.CHOICE if is_mostly_one else FormName.CHOICES

    def read(text: str) -> Reading[tuple[T, ...]]:
        words = [word.strip().lower() for word in text.split(",")]
        known = tuple(dict.fromkeys(members[word] for word in words if word in members))
        return (known or None), all(word in members for word in words)

    return Kind(read, expected or f"a list of {', '.join(members)}", Form(name, members=tuple(members)))


def words(members: Iterable[str]) -> dict[str, str]:
    """The members of a choice whose values are the words themselves."""
    return {word: word for word in members}


def text(expected: str) -> Kind[str]:
    """Any text without control characters."""

    def read(text: str) -> Reading[str]:
        cleaned = text.strip() if text.isprintable() else "".join(filter(str.isprintable, text)).strip()
        return (cleaned or None), cleaned == text

    return Kind(read, expected)


def no_url(kind: Kind[T]) -> Kind[T]:
    """The same kind, but absolute URLs are never valid: this service fetches only pictures of its library."""

    def read_local(text: str) -> Reading[T]:
        if _ABSOLUTE_URL.match(text.strip()):
            raise NeverValid
        return kind.read(text)

    return replace(kind, read=read_local)


def _alternatives(members: tuple[str, ...]) -> str:
    if len(members) > _PLAIN_WORDS_MAX:
        return f"one of {', '.join(members)}"
    *most, last = members
    return f"{', '.join(most)} or {last}" if most else last


def _read_degrees(text: str) -> Reading[float]:
    value = to_number(text)
    if value is None:
        return NOTHING
    return round(value % 360.0, 6) % 360.0, 0 <= value < 360


def _read_flag(text: str) -> Reading[bool]:
    lowered = text.strip().lower()
    if lowered in ("true", "1"):
        return True, True
    return (False, True) if lowered in ("false", "0") else NOTHING


def _read_colour(text: str) -> Reading[Colour]:
    value = parse_colour(text)
    return value, value is not None


def _read_names(text: str) -> Reading[tuple[str, ...]]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return (names or None), bool(names)


def _read_identifier(text: str) -> Reading[str]:
    """Letters, digits, `-` and `_`: nothing that could end a selector of CSS."""
    is_name = re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", text.strip()) is not None
    return (text.strip(), True) if is_name else NOTHING


DEGREES: Final = Kind(_read_degrees, "degrees from 0 to 360", Form(FormName.NUMBER, 0, 360))  # as 0 <= value < 360
FLAG: Final = Kind(_read_flag, "true or false", Form(FormName.FLAG, members=("true", "false")))
COLOUR: Final = Kind(_read_colour, "a CSS colour name, or hex RGB, ARGB, RRGGBB or AARRGGBB", Form(FormName.COLOUR))
NAMES: Final = Kind(_read_names, "a list of names from the configuration")
IDENTIFIER: Final = Kind(_read_identifier, "a CSS name")
PERCENT: Final = number(0, 100)
SIGNED_PERCENT: Final = number(-100, 100)
LENGTH: Final = integer(0, 8192)  # CSS pixels
