"""
Text and attribute values of XML, escaped.

The same as `escape` and `quoteattr` of `xml.sax.saxutils`. That module imports Python's HTTP client: a fifth of what
a render process imports as it starts.
"""

from __future__ import annotations

from typing import Final

_IN_TEXT: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# A reader would make spaces of these (XML 1.0, 3.3.3).
_IN_ATTRIBUTE: Final = _IN_TEXT | str.maketrans({"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


def escape(text: str) -> str:
    """Return text as it stands between tags."""
    return text.translate(_IN_TEXT)


def quoteattr(value: str) -> str:
    """Return an attribute value with its quotes: double ones, or single ones if the value has double ones alone."""
    escaped = value.translate(_IN_ATTRIBUTE)
    if '"' not in escaped:
        return f'"{escaped}"'
    if "'" not in escaped:
        return f"'{escaped}'"
    return '"' + escaped.replace('"', "&quot;") + '"'
