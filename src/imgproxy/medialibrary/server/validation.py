"""
Checks of JSON values and query parameters that gather every problem with its path. Pure.

A `Problems` collects `path: message`; a check returns the value, or None where it noted a problem.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from imgproxy.medialibrary.moments import iso_ms
from imgproxy.medialibrary.server.problems import invalid, named

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

INTEGER_MAX = 2**53 - 1  # what every JSON reader can hold exactly (RFC 8259 section 6)
TEXT_MAX_CHARS = 2048
SHOWN_MAX_CHARS = 60

_KINDS = {str: "string", bool: "boolean", int: "number", float: "number", list: "array", dict: "object"}
# A date and a time with its zone (RFC 3339 section 5.6); Python alone would also take "2026-05-01" or week dates.
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)


class Problems:
    """What is wrong with a request, by path."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def note(self, path: str, message: str) -> None:
        """Add a problem; the first at a path stays."""
        self._found.setdefault(path, message)

    def raise_any(self) -> None:
        """
        End the request if anything was noted.

        Raises:
            Problem: 400 with every path.
        """
        if self._found:
            raise invalid(self._found)

    def text(
        self, value: Any, path: str, *, max_chars: int = TEXT_MAX_CHARS, pattern: re.Pattern[str] | None = None
    ) -> str | None:
        """Expect a string of 1 to `max_chars` characters, in the form of `pattern`."""
        if not isinstance(value, str):
            self.note(path, expected("string", value))
        elif not value:
            self.note(path, "Expected a string that is not empty")
        elif len(value) > max_chars:
            self.note(path, f"Expected at most {max_chars} characters, got {len(value)}")
        elif pattern is not None and not pattern.fullmatch(value):
            self.note(path, f"Expected a string of the form {pattern.pattern}")
        else:
            return value
        return None

    def integer(self, value: Any, path: str, *, minimum: int = 0) -> int | None:
        """Expect an integer of at least `minimum`; 160.0 is one too, as JSON knows numbers alone."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.note(path, expected("integer", value))
        elif not minimum <= value <= INTEGER_MAX:
            self.note(path, f"Expected an integer between {minimum} and {INTEGER_MAX}, got {shown(value)}")
        else:
            return value
        return None

    def boolean(self, value: Any, path: str) -> bool | None:
        """Expect true or false."""
        if not isinstance(value, bool):
            self.note(path, expected("boolean", value))
            return None
        return value

    def mapping(self, value: Any, path: str) -> Mapping[str, Any] | None:
        """Expect an object."""
        if not isinstance(value, dict):
            self.note(path, expected("object", value))
            return None
        return value

    def moment(self, value: Any, path: str) -> str | None:
        """Expect a date and time with its zone; returns it in UTC, as the API writes times."""
        if isinstance(value, str) and _MOMENT.match(value):
            try:
                return iso_ms(datetime.fromisoformat(value.upper()).astimezone(UTC))
            except (ValueError, OverflowError):
                pass
        self.note(path, f"Expected an ISO 8601 date and time with its zone, got {shown(value)}")
        return None

    def only(self, value: Mapping[str, Any], allowed: Iterable[str], path: str) -> None:
        """Expect no other properties than these."""
        known = set(allowed)
        for name in value:
            if name not in known:
                self.note(_join(path, name), "Unexpected property")


def expected(kind: str, value: Any) -> str:
    """Say that another kind of value was expected."""
    got = "null" if value is None else _KINDS.get(type(value), "nothing")
    return f"Expected {kind}, got {got}"


def shown(value: Any) -> str:
    """Return a value as it may stand in a message: JSON, cut short."""
    text = json.dumps(value)
    return text if len(text) <= SHOWN_MAX_CHARS else f"{text[:SHOWN_MAX_CHARS]}…"


def _join(path: str, name: str) -> str:
    return f"{path}.{name[:SHOWN_MAX_CHARS]}" if path else name[:SHOWN_MAX_CHARS]


def read_json(body: bytes) -> dict[str, Any]:
    """
    Return the object that a request body holds.

    Raises:
        Problem: 400 if it is not JSON in UTF-8 (RFC 8259), holds a number or text that cannot be stored, or no object.
    """
    try:
        value = json.loads(body.decode("utf-8"))
        # NaN, infinities and lone surrogates get through Python's reader, and not through this.
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise named(400, "BadRequest", "The body is not valid JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise invalid({"body": expected("object", value)})
    return value


def query_integer(text: str, path: str, problems: Problems, *, minimum: int, maximum: int) -> int | None:
    """Expect decimal digits that make a number in the range."""
    is_number = text.isascii() and text.isdigit() and len(text) <= 16
    if not is_number or not minimum <= int(text) <= maximum:
        problems.note(path, f"Expected an integer between {minimum} and {maximum}, got {shown(text)}")
        return None
    return int(text)
