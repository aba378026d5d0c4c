"""
Match the simple CSS selectors that drawing programs write, to find the values of CSS variables.

Known are names of elements, `*`, `.class`, `#id`, `:root`, lists, and the combinators for descendants and children. Not
cssselect2: it makes Python code of each selector, and these selectors come from strangers.

Source: Selectors Level 4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from operator import or_
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproxy.render.markup import Element

# Parts of one selector. Drawing programs write up to four.
MAX_PARTS: Final = 8

_BRACKETS: Final = re.compile(r"[()\[\]\"'\\]")
_PART: Final = re.compile(r"(?=.)(\*|[A-Za-z][\w-]*|)((?:[.#][\w-]+|:root(?![\w-]))*)", re.IGNORECASE)
_MARK: Final = re.compile(r"[.#:][\w-]+")


class _Part(NamedTuple):
    """What one element must have. `is_parent`: it is the parent of the one that the part after it selects."""

    name: str
    ids: frozenset[str]
    classes: frozenset[str]
    is_root: bool
    is_parent: bool

    def fits(self, element: Element, classes: frozenset[str], *, is_root: bool) -> bool:
        return (
            (not self.name or self.name == element.local)
            and self.classes <= classes
            and (not self.ids or self.ids == {element.attributes.get("id")})
            and (is_root or not self.is_root)
        )


@dataclass(frozen=True, slots=True)
class Selector:
    """A selector: its parts, from the outer element to the inner one."""

    parts: tuple[_Part, ...]

    def selects(self, match: int) -> bool:
        """Whether it selects the element with this number in `Match.here`."""
        return bool(match >> (len(self.parts) - 1))

    @property
    def specificity(self) -> tuple[int, int, int]:
        """How specific it is: ids, classes with `:root`, names. Source: Selectors Level 4, section 17."""
        return (
            sum(len(part.ids) for part in self.parts),
            sum(len(part.classes) + part.is_root for part in self.parts),
            sum(bool(part.name) for part in self.parts),
        )


@dataclass(frozen=True, slots=True)
class Match:
    """
    How selectors fit an element: for each one, a number whose bit n says that its parts up to n fit.

    `here`: their last one selects this element. `around`: it selects this element, or one that this one is in.
    """

    here: tuple[int, ...]
    around: tuple[int, ...]


def match(selectors: Sequence[Selector], element: Element, outer: Match | None) -> Match:
    """Match selectors with an element, in linear time. `outer`: the match of the element that it is in."""
    classes = frozenset(element.attributes.get("class", "").split())
    is_root = outer is None
    parents, ancestors = (outer.here, outer.around) if outer else ((0,) * len(selectors),) * 2
    here = []
    for selector, parent, ancestor in zip(selectors, parents, ancestors, strict=True):
        found, is_reached = 0, True
        for number, part in enumerate(selector.parts):
            if is_reached and part.fits(element, classes, is_root=is_root):
                found |= 1 << number
            is_reached = bool((parent if part.is_parent else ancestor) >> number & 1)
        here.append(found)
    return Match(tuple(here), tuple(map(or_, here, ancestors)))


def read(text: str) -> list[Selector]:
    """Read the list of selectors of a rule, without comments. Those that are not known are left out."""
    if _BRACKETS.search(text):
        return []
    return [found for each in text.split(",") if (found := _read_one(each)) is not None]


def _read_one(text: str) -> Selector | None:
    parts: list[_Part] = []
    words = text.replace(">", " > ").split() or [""]
    for word, following in pairwise((*words, "")):
        if word == ">":
            if following in {">", ""} or not parts:
                return None
            continue
        found = _PART.fullmatch(word)
        if found is None or len(parts) == MAX_PARTS:
            return None
        marks = _MARK.findall(found[2])
        parts.append(
            _Part(
                name=found[1].strip("*"),
                ids=frozenset(mark[1:] for mark in marks if mark[0] == "#"),
                classes=frozenset(mark[1:] for mark in marks if mark[0] == "."),
                is_root=any(mark.lower() == ":root" for mark in marks),
                is_parent=following == ">",
            )
        )
    return Selector(tuple(parts))
