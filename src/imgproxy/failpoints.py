"""
Failpoints: named points on the way of a request where a test can hold it.

In production `reach` does nothing. A test passes a subclass that waits there: it holds a render, a commit or an answer
at this point while a purge runs. So tests need no sleep to fix the order of events.
"""

from __future__ import annotations

from enum import StrEnum


class Point(StrEnum):
    """Where a request can be held."""

    BEFORE_FETCH = "before-fetch"
    AFTER_FETCH = "after-fetch"
    AFTER_RENDER = "after-render"
    AFTER_RENAME = "after-rename"
    BEFORE_RESPONSE = "before-response"
    MID_RESPONSE = "mid-response"


class Failpoints:
    """The failpoints of production: none of them holds a request."""

    async def reach(self, point: Point, key: str) -> None:
        """Do nothing."""
