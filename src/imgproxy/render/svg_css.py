"""
Sanitise CSS in a drawing: style sheets, `style`, and attributes that browsers read as CSS.

Only named functions and at-rules stay, so that nothing is loaded from elsewhere. tinycss2 splits the text into tokens,
as browsers do: comments and escapes hide nothing. Source: CSS Syntax Module Level 3.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import tinycss2
from tinycss2.ast import IdentToken

from imgproxy.render.markup import MarkupError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Functions that load nothing. `url` is looked at by itself. Not here: src, image, image-set, cross-fade, element, attr.
# fmt: off
_FUNCTIONS: Final = frozenset({
    "", "matrix", "matrix3d", "translate", "translatex", "translatey", "translate3d", "scale", "scalex", "scaley",
    "rotate", "skewx", "skewy", "perspective", "rgb", "rgba", "hsl", "hsla", "hwb", "lab", "lch", "oklab", "oklch",
    "color", "color-mix", "icc-color", "calc", "min", "max", "clamp", "var", "env", "blur", "brightness", "contrast",
    "drop-shadow", "grayscale", "hue-rotate", "invert", "opacity", "saturate", "sepia", "inset", "circle", "ellipse",
    "polygon", "path", "cubic-bezier", "steps", "not", "is", "where", "has", "lang", "nth-child", "nth-last-child",
    "nth-of-type", "nth-last-of-type", "linear-gradient", "radial-gradient",
})
# fmt: on
# Stands for a function that is not known. No property has this value, so the declaration does not count, as in
# browsers: the one before it, or the attribute, does. "none" would count.
_INVALID: Final = "unknown-function"
_AT_RULES: Final = frozenset({"media", "keyframes", "-webkit-keyframes"})

_INNER_URL: Final = re.compile(r"(?<![\w-])url\(\s*([\"']?)#[^\s\"'()<>\\@]{1,256}\1\s*\)", re.IGNORECASE)
_FRAGMENT: Final = re.compile(r"#[^\s\"'()<>\\@]{1,256}")
_LAST_WORD: Final = re.compile(r"[\w-]*")
# Characters that an escape may name, and that XML cannot hold. Source: XML 1.0, section 2.2.
_NOT_XML: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MAX_PASSES: Final = 4


def clean(text: str) -> str:
    """
    Return the CSS without what could be loaded from elsewhere. What is clean already is returned as it is.

    A text that every pass changes again is dropped. Raises MarkupError if brackets are nested too deeply.
    """
    for _ in range(_MAX_PASSES):
        if is_clean(text):
            return text
        try:
            tokens = tinycss2.parse_component_value_list(text, skip_comments=True)
            cleaned = _NOT_XML.sub("\ufffd", tinycss2.serialize(_filter(tokens)))
        except RecursionError as exc:
            raise MarkupError("brackets in CSS are nested too deeply") from exc
        if cleaned == text:
            return text
        text = cleaned
    return ""


def is_clean(text: str) -> bool:
    """Whether a plain look is enough: no escape, no at-rule, and only functions that load nothing."""
    if "\\" in text or "@" in text:
        return False
    if "(" not in text:
        return True
    *before, _ = _INNER_URL.sub(" ", text).split("(")
    # Backwards from each bracket, and never far: one pattern over the whole text would take quadratic time.
    return all(_LAST_WORD.match(part[:-40:-1])[0][::-1].lower() in _FUNCTIONS for part in before)  # type: ignore[index]


def _filter(tokens: Sequence[Any]) -> list[Any]:
    kept: list[Any] = []
    is_skipping = False  # within an at-rule that is dropped, up to its ";" or "{}"
    for token in tokens:
        literal = token.value if token.type == "literal" else ""
        if is_skipping:
            is_skipping = token.type != "{} block" and literal != ";"
        elif token.type == "at-keyword" and token.lower_value not in _AT_RULES:
            is_skipping = True
        elif token.type == "() block" and kept and kept[-1].type in {"hash", "dimension"}:
            continue  # "#url(x)" and "1url(x)" look like functions, and are valid nowhere
        elif token.type == "function" and token.lower_name == "light-dark":
            kept += _filter(_first_argument(token.arguments))  # draw.io writes it; a picture is always light
        elif token.type != "error" and literal not in {"<!--", "-->"}:
            kept.append(_filter_token(token))
    return kept


def _filter_token(token: Any) -> Any:
    if token.type == "url" or (token.type == "function" and token.lower_name == "url"):
        texts = [token] if token.type == "url" else [part for part in token.arguments if part.type != "whitespace"]
        is_text = len(texts) == 1 and texts[0].type in {"url", "string"}
        return token if is_text and _FRAGMENT.fullmatch(texts[0].value) else _none(token)
    if token.type == "function":
        if token.lower_name not in _FUNCTIONS:
            return IdentToken(token.source_line, token.source_column, _INVALID)
        token.arguments = _filter(token.arguments)
    elif token.type.endswith("block"):
        token.content = _filter(token.content)
    return token


def _first_argument(arguments: Sequence[Any]) -> Sequence[Any]:
    end = next((at for at, each in enumerate(arguments) if each.type == "literal" and each.value == ","), None)
    return arguments[:end]


def _none(token: Any) -> IdentToken:
    return IdentToken(token.source_line, token.source_column, "none")
