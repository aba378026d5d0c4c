"""The cache tags of answers. A CDN keeps them beside an answer, and purges by them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from imgproxy.cache.entry import key_hash

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgproxy.cache.outbox import Subject

# Short, because the header with all tags of an answer has a limit: 1,024 bytes for Bunny's CDN-Tag.
TAG_HEX = 12


def key_tag(hashed: str) -> str:
    """Return the cache tag of a key."""
    return f"k-{hashed[:TAG_HEX]}"


def entry_tag(entry: str) -> str:
    """Return the cache tag of an entry: its id, with `_` for characters not allowed in tags (0x21-0x7E, no comma)."""
    return "e-" + re.sub(r"[^!-+\--~]", "_", entry)[:64]


def tag_of(subject: Subject) -> str:
    """Return the cache tag of a subject."""
    return entry_tag(subject.name) if subject.is_entry else key_tag(key_hash(subject.name))


def tags(hashed: str, entry: str | None, also: Iterable[str] = ()) -> str:
    """
    Return the surrogate keys of a picture, separated by spaces: `k-<12 hex>` for its key, `e-<id>` for a known entry.

    `also` are the hashes of other keys that went into it, such as its watermark's: it is purged with them, too.
    """
    return " ".join([key_tag(hashed), *([entry_tag(entry)] if entry else []), *map(key_tag, also)])


def tag_headers(names: Iterable[str], found: str) -> dict[str, str]:
    """The tags under each configured name; Cache-Tag separates by commas, the others by spaces."""
    return {name: found.replace(" ", ",") if name.lower() in ("cache-tag", "cdn-tag") else found for name in names}
