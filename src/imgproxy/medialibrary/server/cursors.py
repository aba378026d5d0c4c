"""Cursors: where a page of references ended, as opaque text that is valid for one list only. Pure."""

from __future__ import annotations

import base64
import binascii
import json


def write_cursor(position: int, kind: str, entry_id: str) -> str:
    """Return the cursor for what comes after `position` in one entry's list of referrers."""
    text = json.dumps({"a": [position, kind, entry_id]}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(cursor: str, kind: str, entry_id: str) -> int | None:
    """Return the position in a cursor; None if the cursor is malformed or belongs to another list."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        value = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, RecursionError, binascii.Error):
        return None
    place = value.get("a") if isinstance(value, dict) else None
    if not isinstance(place, list) or place[1:] != [kind, entry_id] or len(place) != 3:
        return None
    position = place[0]
    is_position = isinstance(position, int) and not isinstance(position, bool) and 0 <= position < 2**62
    return position if is_position else None
