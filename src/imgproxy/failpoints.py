"""
Named points on the way of a request at which a test can hold it.

In production `reach` does nothing. Tests pass a `Failpoints` of their own. It holds a render, a commit or an answer at
an exact point while a purge runs, so that every order of events can be tested without a sleep.
"""

from __future__ import annotations

from enum import StrEnum


class Point(StrEnum):
    """Where a request can be held."""

    BEFORE_FETCH = "before-fetch"
    AFTER_FETCH = "after-fetch"
    AFTER_RENDER = "after-render"
    BEFORE_COMMIT = "before-commit"
    AFTER_RENAME = "after-rename"
    BEFORE_RESPONSE = "before-response"
    MID_RESPONSE = "mid-response"


class Failpoints:
    """The failpoints of production: none."""

    async def reach(self, point: Point, key: str) -> None:
        """Pass."""
