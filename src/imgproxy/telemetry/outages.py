"""
Outages of the services that this one depends on.

The log says once that a service is down and why, and once that it is back.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

# A service that fails now and then would fill the log. After its return it is quiet for this time, if the cause is the
# same as before.
QUIET_S = 30.0


class Outage:
    """Whether one service is down, since when, and why. `cause` is None while it works."""

    def __init__(self, name: str, *, now: Callable[[], float] = time.monotonic) -> None:
        """`name` is the subject of the log lines, for example "the Media Library". `now` is a monotonic clock."""
        self._name = name
        self._now = now
        self._since_s = 0.0
        self._said: set[str] = set()  # the causes that the log has: two that alternate do not fill it
        self._said_before: set[str] = set()  # in the outage before this one
        self._back_at_s = float("-inf")
        self.cause: str | None = None

    def failed(self, cause: str, *, consequence: str = "") -> None:
        """
        Note that the service failed. `cause` and `consequence` are words for an operator.

        The log has one line for each cause of an outage.
        """
        now_s = self._now()
        if self.cause is None:
            self._since_s = now_s
        self.cause = cause
        if cause in self._said or (cause in self._said_before and now_s - self._back_at_s < QUIET_S):
            return
        self._said.add(cause)
        log.warning("%s is down: %s%s", self._name, cause, f"; {consequence}" if consequence else "")

    def worked(self) -> None:
        """Note that the service answered. The log has a line if it said before that it was down."""
        if self.cause is None:
            return
        if self._said:
            log.warning("%s is back after %s", self._name, duration_words(self.age_s))
            self._said_before = self._said
        self._said = set()
        self.cause = None
        self._back_at_s = self._now()

    def as_json(self) -> dict[str, Any]:
        """Return the public form, for the status page."""
        return {"down": self.cause is not None, "cause": self.cause, "down_s": round(self.age_s, 1)}

    @property
    def age_s(self) -> float:
        """For how long the service has been down; 0 while it works."""
        return self._now() - self._since_s if self.cause is not None else 0.0


def duration_words(seconds: float) -> str:
    """Return a duration for people: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest_s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest_s} s"
    hours, rest_minutes = divmod(minutes, 60)
    return f"{hours} h {rest_minutes} min"
