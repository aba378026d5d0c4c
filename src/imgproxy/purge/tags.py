"""The cache tags of pictures: what a CDN keeps beside an answer, and is asked to forget by."""

from __future__ import annotations

import re

# One short tag a key and one an entry: Bunny's CDN-Tag ends at 1,024 bytes, Fastly's keys at 1,024 each.
TAG_HEX = 12


def key_tag(key_hash: str) -> str:
    """The cache tag of a key."""
    return f"k-{key_hash[:TAG_HEX]}"


def entry_tag(entry: str) -> str:
    """The cache tag of an entry: its id without what is not allowed in a tag (0x21-0x7E, no comma)."""
    return "e-" + re.sub(r"[^!-+\--~]", "_", entry)[:64]
