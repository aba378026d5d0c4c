"""The cache tags of answers. A CDN keeps them beside an answer, and purges by them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from imgproxy.cache.entry import key_hash

if TYPE_CHECKING:
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
