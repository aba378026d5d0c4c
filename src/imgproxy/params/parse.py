"""
Request target -> key and texts of the parameters; texts -> values, leniently or strictly.

The target is percent-decoded once. A path is checked after that, so an escaped path is refused as the plain one is: a
key can name only pictures of the library.
"""

from __future__ import annotations

import base64
import difflib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, overload
from urllib.parse import unquote, unquote_to_bytes

from imgproxy.errors import BadParameter, BadUrl, UriTooLong
from imgproxy.params import table
from imgproxy.params.kinds import NeverValid

if TYPE_CHECKING:
    from collections.abc import KeysView, Mapping

    from imgproxy.params.parameter import Parameter

T = TypeVar("T")

# The limit of file names on common file systems. Keys of Livingdocs are much shorter.
MAX_SEGMENT_BYTES: Final = 255
MAX_KEY_BYTES: Final = 2048
# Messages and logs repeat at most this much of a value from outside.
_SHOWN_CHARS: Final = 80
_MAX_NOTES: Final = 8

_LEGACY_CROP: Final = re.compile(r"(.+)/C=W([0-9]{1,6}),H([0-9]{1,6}),X([0-9]{1,6}),Y([0-9]{1,6})", re.DOTALL)
# Half of a surrogate pair is no character: JSON can hold one, UTF-8 cannot.
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*={0,2}")


class Values(Protocol):
    """The values of the parameters that are present and have a meaning: a dict by row, with types."""

    @overload
    def get(self, row: Parameter[T], /) -> T | None: ...
    @overload
    def get(self, row: Parameter[T], default: T, /) -> T: ...
    def get(self, row: Parameter[T], default: T | None = None, /) -> T | None:
        """Return the value, or the default if the parameter is absent."""

    def keys(self) -> KeysView[Parameter[Any]]:
        """Return the rows of the parameters that are present."""


@dataclass(frozen=True, slots=True)
class Note:
    """A parameter of a URL that is not as the grammar asks: its name, its text (cut short), and what is expected."""

    name: str
    text: str
    expected: str


@dataclass(slots=True)
class Strictness:
    """What happens to a value that is not as the grammar asks: an error in strict mode, else a note."""

    is_strict: bool = False
    notes: list[Note] = field(default_factory=list)

    def object(self, name: str, value: str, expected: str) -> None:
        """Raise BadParameter in strict mode, else keep a note."""
        if self.is_strict:
            raise BadParameter(name, value[:_SHOWN_CHARS], expected)
        if len(self.notes) < _MAX_NOTES:
            self.notes.append(Note(name, value[:_SHOWN_CHARS], expected))


def split_target(raw_target: str, *, mount_prefix: str = "", max_chars: int = 8000) -> tuple[str, str | None, str]:
    """
    Return the key, the legacy crop as the text of a `rect`, and the raw query.

    Args:
        raw_target: path and query as received, not decoded.
        mount_prefix: the path that this service is mounted under; it is removed if the path begins with it.
        max_chars: the longest target.

    Raises:
        UriTooLong: the target is longer.
        BadUrl: the path is not a key.
    """
    if len(raw_target) > max_chars:
        raise UriTooLong(max_chars)
    raw_path, _, raw_query = raw_target.partition("?")
    if mount_prefix and raw_path.startswith(f"{mount_prefix}/"):
        raw_path = raw_path[len(mount_prefix) :]
    key, crop = _split_crop(_decode_path(raw_path))
    _check_key(key)
    return key, crop, raw_query


def parse_query(raw_query: str) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """
    Return the texts of the known parameters by the name of their row, and the unknown names with their texts.

    Of repeats the last one wins, except where the row says that they add up. A base64 value wins over a plain one. A
    name without a value counts as absent.
    """
    plain: dict[str, str] = {}
    encoded: dict[str, str] = {}
    unknown: list[tuple[str, str]] = []
    for pair in raw_query.split("&"):
        raw_name, _, raw_value = pair.partition("=")
        if not raw_value:
            continue
        name = _decode_text(raw_name)
        row = table.BY_NAME.get(name)
        if row is not None:
            value = _decode_text(raw_value)
            plain[row.name] = f"{plain[row.name]},{value}" if row.adds_up and row.name in plain else value
        elif name in table.BY_BASE64_NAME:
            encoded[table.BY_BASE64_NAME[name].name] = _decode_base64(name, _decode_text(raw_value))
        elif not table.is_ignored(name):
            shown = "".join(char if char.isprintable() else "?" for char in name[:_SHOWN_CHARS])
            unknown.append((shown, _decode_text(raw_value[:_SHOWN_CHARS])))
        elif name.endswith("64"):
            _decode_base64(name, _decode_text(raw_value))  # bad base64 is a 400 for every parameter
    return plain | {name: value for name, value in encoded.items() if value}, tuple(unknown)


def known_name(name: str) -> str:
    """Return what is expected in place of an unknown name, with the known name that is most like it."""
    close = difflib.get_close_matches(name, table.BY_NAME, n=1)
    return "the name of a parameter" + (f"; did you mean `{close[0]}`?" if close else "")


def _decode_base64(name: str, value: str) -> str:
    """
    Decode the value of `NAME64`: base64url (RFC 4648 section 5) of UTF-8, with or without padding.

    Raises:
        BadParameter: it is not that. imgix refuses this, too, although it is lenient otherwise.
    """
    refusal = BadParameter(name, value[:_SHOWN_CHARS], "base64url of UTF-8 text")
    if not _BASE64URL.fullmatch(value):
        raise refusal
    stripped = value.rstrip("=")
    try:
        return base64.urlsafe_b64decode(stripped + "=" * (-len(stripped) % 4)).decode()
    except ValueError as error:  # binascii.Error and UnicodeDecodeError are ValueErrors
        raise refusal from error


def read_values(texts: Mapping[str, str], strictness: Strictness) -> Values:
    """
    Turn texts into values. A text without a meaning counts as absent; a number out of range is brought into it.

    Raises:
        BadParameter: in strict mode for every such value, in both modes for a value that is never valid.
    """
    found: dict[Parameter[Any], Any] = {}
    for name, text in texts.items():
        row = table.BY_NAME[name]
        try:
            value, is_exact = row.kind.read(text)
        except NeverValid:
            raise BadParameter(name, text[:_SHOWN_CHARS], row.kind.expected) from None
        if not is_exact:
            strictness.object(name, text, row.kind.expected)
        if value is not None:
            found[row] = value
    return found


def check_path(path: str) -> str:
    """
    Return a path of the library as a key, without its leading slash.

    Raises:
        BadUrl: it is not a key.
    """
    key = path.removeprefix("/")
    _check_key(key)
    return key


def _decode_text(raw: str) -> str:
    """Decode a name or a value of a query. `+` is a space there. Bytes that are not UTF-8 become U+FFFD."""
    if "+" in raw:
        raw = raw.replace("+", " ")
    if "%" in raw:
        return unquote(raw)
    return raw if raw.isascii() else raw.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _decode_path(raw_path: str) -> str:
    """Decode a path once. `+` stays `+`."""
    if not raw_path.startswith("/"):
        raise BadUrl("The path must begin with a slash.")
    if "%" not in raw_path and raw_path.isascii():
        return raw_path[1:]
    try:
        return unquote_to_bytes(raw_path[1:].encode("utf-8", "surrogateescape")).decode()
    except UnicodeDecodeError as error:
        raise BadUrl("The path is not UTF-8.") from error


def _split_crop(path: str) -> tuple[str, str | None]:
    """Split the legacy part `/C=W..,H..,X..,Y..` off a path, and write it as the text of a `rect`."""
    found = _LEGACY_CROP.fullmatch(path)
    if found is None:
        return path, None
    key, width, height, x, y = found.groups()
    return key, f"{x},{y},{width},{height}"


def _check_key(key: str) -> None:
    """Refuse a path that could be anything but one picture: it becomes a file name and a request to the library."""
    if not key:
        raise BadUrl("The URL names no image.")
    if _UNSAFE.search(key):
        raise BadUrl("The path holds a control character, a backslash, or half of a surrogate pair.")
    if len(key) * 4 > MAX_SEGMENT_BYTES and len(key.encode()) > MAX_KEY_BYTES:
        raise BadUrl(f"The path has more than {MAX_KEY_BYTES} bytes.")
    for segment in key.split("/"):
        if not segment:
            raise BadUrl("The path has an empty part, as between two slashes or after the last one.")
        if segment in (".", ".."):
            raise BadUrl("The path has a part that is `.` or `..`.")
        if len(segment) * 4 > MAX_SEGMENT_BYTES and len(segment.encode()) > MAX_SEGMENT_BYTES:
            raise BadUrl(f"A part of the path has more than {MAX_SEGMENT_BYTES} bytes.")
