"""
Replace CSS variables in a sanitised drawing by their values: librsvg does not know `--name` and `var()`.

The values are found as a browser finds them: by selector, importance and inheritance. What a rule says with `var()` is
written into the `style` of each element for which that rule wins. Not followed are selectors that `svg_selectors` does
not know, and rules in at-rules such as `@media`, which librsvg leaves out, too. An element that `<use>` draws again has
the values of the place where it is defined, not those of the `<use>`.

Source: CSS Custom Properties for Cascading Variables Module Level 1; CSS Cascading and Inheritance Level 4, section 6.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import tinycss2

from imgproxy.render import svg_cost, svg_css, svg_selectors
from imgproxy.render.markup import MarkupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from imgproxy.render.markup import Element
    from imgproxy.render.svg_selectors import Match, Selector

    # The variables that hold for an element, as text, by their names with "--".
    _Scope = Mapping[str, str]
    _Find = Callable[[str], str | None]

_USES: Final = re.compile(r"\bvar\(", re.IGNORECASE)
# Attributes that are no CSS properties.
_OTHERS: Final = frozenset({"id", "class", "style", "href", "xlink:href", "d", "points", "aria-label", "xml:lang"})


class _Declaration(NamedTuple):
    """A declaration of a rule or a `style`. Its tokens are kept, because `var()` is replaced token by token."""

    name: str
    tokens: Sequence[Any]
    is_important: bool
    uses_variables: bool

    @property
    def is_variable(self) -> bool:
        return self.name.startswith("--")


def has_variables(root: Element) -> bool:
    """Whether a value anywhere uses a variable."""
    return any(
        _USES.search(text)
        for element in _walk(root)
        for text in (*element.attributes.values(), element.text() if element.local == "style" else "")
    )


def replace(root: Element) -> None:
    """
    Write the values of variables into the elements of a drawing.

    A property whose variable has no value is left out. Raises DrawingTooComplex if a limit of `svg_cost` is passed, and
    MarkupError if brackets are nested too deeply.
    """
    try:
        sheet = _Sheet(root)
        replacer = _Replacer()
        pending: list[tuple[Element, Match | None, _Scope]] = [(root, None, {})]
        while pending:
            element, outer, inherited = pending.pop()
            match = svg_selectors.match(sheet.selectors, element, outer)
            scope = replacer.replace(element, sheet.declared(match), inherited)
            pending += [(child, match, scope) for child in element.elements()]
    except RecursionError as exc:
        raise MarkupError("brackets in CSS are nested too deeply") from exc


def _walk(root: Element) -> Iterator[Element]:
    """Yield all elements in the order of the document."""
    pending = [root]
    while pending:
        element = pending.pop()
        yield element
        pending += reversed(element.elements())


class _Sheet:
    """The rules that have to do with variables, of all style sheets of a drawing."""

    def __init__(self, root: Element) -> None:
        elements = list(_walk(root))
        rules = [
            (tinycss2.serialize(rule.prelude), _read(tinycss2.parse_blocks_contents(rule.content)))
            for element in elements
            if element.local == "style"
            for rule in tinycss2.parse_stylesheet(element.text(), skip_comments=True, skip_whitespace=True)
            if rule.type == "qualified-rule"
        ]
        names = {each.name for _, declared in rules for each in declared if each.uses_variables}
        found: list[tuple[Selector, list[_Declaration]]] = []
        for text, declared in rules:
            if wanted := [each for each in declared if each.is_variable or each.name in names]:
                found += [(selector, wanted) for selector in svg_selectors.read(text)]
        found.sort(key=lambda rule: rule[0].specificity)  # the weakest first; of two alike, the later one wins
        self.selectors = [selector for selector, _ in found]
        self._declared = [declared for _, declared in found]
        parts = sum(len(selector.parts) for selector in self.selectors)
        svg_cost.check("selectors of CSS with variables, times elements", parts * len(elements))

    def declared(self, match: Match) -> list[_Declaration]:
        """Return what the rules declare for an element, the weakest first."""
        rules = zip(self.selectors, match.here, self._declared, strict=True)
        return [each for selector, bits, declared in rules if selector.selects(bits) for each in declared]


class _Replacer:
    """Replaces variables, and counts the characters: variables that name variables can grow without end."""

    def __init__(self) -> None:
        self._chars = 0
        # By the value and the id() of the scope, which is kept, so that no other one gets that id().
        self._replaced: dict[tuple[str, int], tuple[str, _Scope]] = {}
        self._styles: dict[str, list[_Declaration]] = {}

    def replace(self, element: Element, by_rules: list[_Declaration], inherited: _Scope) -> _Scope:
        """Replace the variables in one element. Return the variables that hold for it."""
        attributes = element.attributes
        style = attributes.get("style", "")
        own = self._read_style(style) if "--" in style else []
        scope = self._compute(_win(each for each in (*by_rules, *own) if each.is_variable), inherited)
        for name, value in attributes.items():
            if name not in _OTHERS and _USES.search(value):
                attributes[name] = self._replace_value(value, scope)
        winners = _win(each for each in by_rules if not each.is_variable).values()
        lines = [self._line(each, scope) for each in winners if each.uses_variables]
        if lines or own:
            lines += [self._line(each, scope) for each in own if not each.is_variable] or [style]
            attributes["style"] = svg_css.clean(";".join(filter(None, lines)))
        return scope

    def _replace_value(self, value: str, scope: _Scope) -> str:
        """Replace the variables in an attribute. Many elements have the same value and the same variables."""
        known = self._replaced.get((value, id(scope)))
        if known is None:
            found = self._substitute(tinycss2.parse_component_value_list(value), scope.get)
            known = self._replaced[value, id(scope)] = (svg_css.clean(found or ""), scope)
        self._spend(len(known[0]))
        return known[0]

    def _read_style(self, style: str) -> list[_Declaration]:
        """Read a `style`. Many elements have the same."""
        if style not in self._styles:
            self._styles[style] = _read(tinycss2.parse_blocks_contents(style))
        return self._styles[style]

    def _line(self, declared: _Declaration, scope: _Scope) -> str:
        """Return a declaration as text, or nothing if a variable of it has no value."""
        found = self._substitute(declared.tokens, scope.get)
        return "" if found is None else f"{declared.name}:{found}{'!important' * declared.is_important}"

    def _compute(self, declared: Mapping[str, _Declaration], inherited: _Scope) -> _Scope:
        """Return the variables of an element: those that it inherits, and its own with their values."""
        if not declared:
            return inherited
        self._spend(sum(map(len, inherited)))
        scope = {name: value for name, value in inherited.items() if name not in declared}
        known: dict[str, str | None] = {}
        pending: list[str] = []

        def find(name: str) -> str | None:
            if name not in declared or name in known:
                return known.get(name, scope.get(name))
            svg_cost.check("CSS variables in one another", len(pending))
            known[name] = None  # a variable that names itself has no value
            pending.append(name)
            tokens = declared[name].tokens
            words = [token.lower_value for token in tokens if token.type == "ident"] if len(tokens) < 4 else []
            if words in (["inherit"], ["unset"]):
                known[name] = inherited.get(name)
            elif words != ["initial"]:
                known[name] = self._substitute(tokens, find)
            pending.pop()
            return known[name]

        for name in declared:
            find(name)
        return scope | {name: value for name, value in known.items() if value is not None}

    def _substitute(self, tokens: Sequence[Any], find: _Find) -> str | None:
        """Return the text of a value with its variables replaced, or None if one of them has no value."""
        texts: list[str] = []
        for token in tokens:
            found = self._substitute_token(token, find)
            if found is None:
                return None
            texts.append(found)
        return "".join(texts)

    def _substitute_token(self, token: Any, find: _Find) -> str | None:
        text = str(token.serialize())
        if token.type == "function" and token.lower_name == "var":
            name, fallback = _split_arguments(token.arguments)
            found = find(name)
            if found is None and fallback is not None:
                found = self._substitute(fallback, find)
            text = f" {found} "  # a value is never part of the word beside it
            if found is None:
                return None
        elif _USES.search(text):
            inner = self._substitute(token.arguments if token.type == "function" else token.content, find)
            if inner is None:
                return None
            text = f"{text[0]}{inner}{text[-1]}" if token.type.endswith("block") else f"{token.name}({inner})"
        self._spend(len(text))
        return text

    def _spend(self, chars: int) -> None:
        self._chars += chars
        svg_cost.check("characters from CSS variables", self._chars)


def _read(declarations: Iterable[Any]) -> list[_Declaration]:
    """Take the declarations of a rule or of a `style`, as tinycss2 reads them."""
    return [
        _Declaration(
            each.name if each.name.startswith("--") else each.lower_name,
            each.value,
            each.important,
            bool(_USES.search(tinycss2.serialize(each.value))),
        )
        for each in declarations
        if each.type == "declaration"
    ]


def _win(declarations: Iterable[_Declaration]) -> dict[str, _Declaration]:
    """Return the declaration that wins for each name: the last one, but an important one before others."""
    winners: dict[str, _Declaration] = {}
    for each in declarations:
        if each.is_important or each.name not in winners or not winners[each.name].is_important:
            winners[each.name] = each
    return winners


def _split_arguments(arguments: Sequence[Any]) -> tuple[str, Sequence[Any] | None]:
    """Return the name of a variable in `var()`, and what stands after the comma, if there is one."""
    comma = next((at for at, each in enumerate(arguments) if each.type == "literal" and each.value == ","), None)
    name = tinycss2.serialize(arguments[:comma]).strip()
    return name, None if comma is None else arguments[comma + 1 :]
