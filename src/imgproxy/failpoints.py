"""
Failpoints: named points on the way of a request, or of a purge through a cluster, where a test can hold it.

In production there are none on the way of a request, and `reach` does nothing elsewhere. A test passes a subclass that
waits there: it holds a render, a commit or an answer at this point while a purge runs. So tests need no sleep to fix
the order of events.
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


class Step(StrEnum):
    """
    Where a purge can be held on its way through a cluster.

    It is recorded here; in the log; about to be applied by another node; applied there, before the others hear of it;
    and about to count as done. The last one is that of a node that ends.
    """

    AFTER_RECORD = "after-record"
    AFTER_APPEND = "after-append"
    BEFORE_APPLY = "before-apply"
    BEFORE_REPORT = "before-report"
    BEFORE_ACKNOWLEDGE = "before-acknowledge"
    BEFORE_LEAVE = "before-leave"


class Failpoints:
    """The failpoints of production: none of them holds anything."""

    async def reach(self, point: Point | Step, key: str) -> None:
        """Do nothing."""
