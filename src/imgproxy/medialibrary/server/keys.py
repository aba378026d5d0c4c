"""Keys and the files that they name. No key names a file outside the folder."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from imgproxy.medialibrary.server.problems import invalid
from imgproxy.medialibrary.server.state import VARIANT_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_MAX_CHARS = 1024
_PART = r"(?!\.{1,2}(?:/|$))[^/\\\x00-\x1f\x7f]+"
KEY_PART_PATTERN = rf"^{_PART}$"
KEY_PATTERN = rf"^{_PART}(?:/{_PART})*$"  # the rules of `key_problem`, for the OpenAPI document


def key_problem(key: str) -> str | None:
    """Return what is wrong with a key, or None. A valid key is a relative path without `..`."""
    if not key:
        return "Expected a key"
    if len(key) > KEY_MAX_CHARS:
        return f"Expected at most {KEY_MAX_CHARS} characters"
    if key.startswith("/"):
        return "Expected a relative key, without a slash at its beginning"
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in key):
        return "Expected no NUL and no other control character"
    if "\\" in key:
        return "Expected no backslash"
    if any(part in {"", ".", ".."} for part in key.split("/")):
        return "Expected no empty part, no '.' and no '..'"
    return None


def key_from_path(raw: str) -> str:
    """
    Return the key in the percent-encoded end of a request's path.

    Slashes must not be percent-encoded: they would hide a part of the path.

    Raises:
        Problem: 400 at the path `key` if the key is not valid.
    """
    if re.search(r"%2f|%5c", raw, re.IGNORECASE):
        raise invalid({"key": "Expected slashes that are not percent-encoded, and no backslash"})
    try:
        key = unquote(raw, errors="strict")
    except UnicodeDecodeError:
        raise invalid({"key": "Expected UTF-8"}) from None
    problem = key_problem(key)
    if problem is not None:
        raise invalid({"key": problem})
    return key


def path_of(folder: str, key: str) -> str | None:
    """Return the real path of a key's file; None if there is no such file or it lies outside the folder."""
    if key_problem(key) is not None:
        return None
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, *key.split("/")))
    if not path.startswith(root.rstrip(os.sep) + os.sep) or not os.path.isfile(path):
        return None
    return path


def owner_of_variant(key: str, entry_by_stem: Mapping[str, str]) -> str | None:
    """
    Return the id of the entry to which a file under `v/` belongs, or None.

    `v/my/key.webp`, `v/my/key-teaser.webp` and `v/my/key/1x1.webp` belong to the entry of `my/key.jpg`. The longest
    matching stem wins; one of `. - _ /` must follow it. `entry_by_stem` maps keys without extension to entry ids.
    """
    rest = key.removeprefix(VARIANT_PREFIX)
    for end in range(len(rest), 0, -1):
        if (end == len(rest) or rest[end] in "./_-") and rest[:end] in entry_by_stem:
            return entry_by_stem[rest[:end]]
    return None


def stem_of(key: str) -> str:
    """Return a key without its extension."""
    return os.path.splitext(key)[0]
