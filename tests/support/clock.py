"""A clock that stands until a test sets it."""

from __future__ import annotations


class StandingClock:
    """
    Returns `now_s`, in place of the event loop's clock.

    It is far ahead of that one: whatever is due at a time of this clock does not become due in a test.
    """

    def __init__(self) -> None:
        self.now_s = 1_000_000_000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now_s
