"""
Checks of JSON values and query parameters. Pure.

A `Validator` collects everything that is wrong with a request, so that one answer names all of it. Each check
returns the value, or None after it has recorded a problem.
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

INTEGER_MAX = 2**53 - 1  # every JSON parser holds these exactly (RFC 8259 section 6)
TEXT_MAX_CHARS = 2048
SHOWN_MAX_CHARS = 60

_KINDS = {str: "string", bool: "boolean", int: "number", float: "number", list: "array", dict: "object"}
# Date, time and zone (RFC 3339 section 5.6). `datetime.fromisoformat` alone also accepts "2026-05-01" and week dates.
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)


class Validator:
    """Checks the values of one request, and collects by path what is wrong."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def refuse(self, path: str, message: str) -> None:
        """Record that the value at a path is wrong. Only the first message of a path is kept."""
        self._found.setdefault(path, message)

    def raise_if_invalid(self) -> None:
        """
        Refuse the request if a value is wrong.

        Raises:
            Problem: 400 with every path and its message.
        """
        if self._found:
            raise invalid(self._found)

    def text(
        self, value: Any, path: str, *, max_chars: int = TEXT_MAX_CHARS, pattern: re.Pattern[str] | None = None
    ) -> str | None:
        """Expect a string of 1 to `max_chars` characters that matches `pattern`."""
        if not isinstance(value, str):
            self.refuse(path, expected("string", value))
        elif not value:
            self.refuse(path, "Expected a string that is not empty")
        elif len(value) > max_chars:
            self.refuse(path, f"Expected at most {max_chars} characters, got {len(value)}")
        elif pattern is not None and not pattern.fullmatch(value):
            self.refuse(path, f"Expected a string of the form {pattern.pattern}")
        else:
            return value
        return None

    def integer(self, value: Any, path: str, *, minimum: int = 0) -> int | None:
        """Expect an integer of at least `minimum`. 160.0 is an integer too: JSON has only numbers."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(path, expected("integer", value))
        elif not minimum <= value <= INTEGER_MAX:
            self.refuse(path, f"Expected an integer between {minimum} and {INTEGER_MAX}, got {shown(value)}")
        else:
            return value
        return None

    def boolean(self, value: Any, path: str) -> bool | None:
        """Expect true or false."""
        if not isinstance(value, bool):
            self.refuse(path, expected("boolean", value))
            return None
        return value

    def mapping(self, value: Any, path: str) -> Mapping[str, Any] | None:
        """Expect an object."""
        if not isinstance(value, dict):
            self.refuse(path, expected("object", value))
            return None
        return value

    def moment(self, value: Any, path: str) -> str | None:
        """Expect a date and time with a zone. Return it in UTC, in the format of the API."""
        moment = utc_moment(value)
        if moment is None:
            self.refuse(path, f"Expected an ISO 8601 date and time with its zone, got {shown(value)}")
        return moment

    def only(self, value: Mapping[str, Any], allowed: Iterable[str], path: str) -> None:
        """Expect only these properties."""
        known = set(allowed)
        for name in value:
            if name not in known:
                self.refuse(_join(path, name), "Unexpected property")


def utc_moment(value: Any) -> str | None:
    """Return a date and time with a zone in UTC, in the format of the API; None if the value is not one."""
    if not isinstance(value, str) or not _MOMENT.match(value):
        return None
    try:
        return iso_ms(datetime.fromisoformat(value.upper()).astimezone(UTC))
    except (ValueError, OverflowError):
        return None


def expected(kind: str, value: Any) -> str:
    """Return the message that a value has the wrong type."""
    got = "null" if value is None else _KINDS.get(type(value), "nothing")
    return f"Expected {kind}, got {got}"


def shown(value: Any) -> str:
    """Return a value for use in a message: as JSON, shortened."""
    text = json.dumps(value)
    return text if len(text) <= SHOWN_MAX_CHARS else f"{text[:SHOWN_MAX_CHARS]}…"


def _join(path: str, name: str) -> str:
    return f"{path}.{name[:SHOWN_MAX_CHARS]}" if path else name[:SHOWN_MAX_CHARS]


def read_json(body: bytes) -> dict[str, Any]:
    """
    Return the JSON object in a request body.

    Raises:
        Problem: 400 if the body is not a JSON object in UTF-8 (RFC 8259), or has a number or text that JSON cannot
            store.
    """
    try:
        value = json.loads(body.decode("utf-8"))
        # Python's parser accepts NaN, infinities and lone surrogates. Writing them strictly refuses them.
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise named(400, "BadRequest", "The body is not valid JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise invalid({"body": expected("object", value)})
    return value


def query_integer(text: str, path: str, check: Validator, *, minimum: int, maximum: int) -> int | None:
    """Expect decimal digits, and a number in the range."""
    is_number = text.isascii() and text.isdigit() and len(text) <= 16
    if not is_number or not minimum <= int(text) <= maximum:
        check.refuse(path, f"Expected an integer between {minimum} and {maximum}, got {shown(text)}")
        return None
    return int(text)
