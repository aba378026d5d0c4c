"""A circuit breaker: after several failures in a row nothing is tried for a while. Pure: it has no I/O of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# A single failure may be an accident. Each read that waits for a dead store delays an answer.
FAILURES_MAX: Final = 5
OPEN_S: Final = 10.0


class Breaker:
    """
    Closed: calls are allowed. Open: none is. After `OPEN_S` one call is allowed; its result decides.

    `now` is a monotonic clock.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._failures = 0
        self._open_until_s: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has opened and no call has succeeded since."""
        return self._open_until_s is not None

    def allows(self) -> bool:
        """Whether a call may be made now. If it is the one that decides, the next is allowed `OPEN_S` later."""
        if self._open_until_s is None:
            return True
        if self._now() < self._open_until_s:
            return False
        self._open_until_s = self._now() + OPEN_S
        return True

    def succeed(self) -> bool:
        """Note a success. Return whether it has closed the breaker."""
        was_open = self.is_open
        self._failures, self._open_until_s = 0, None
        return was_open

    def fail(self) -> bool:
        """Note a failure. Return whether it has opened the breaker, which was closed."""
        self._failures += 1
        if self.is_open:
            self._open_until_s = self._now() + OPEN_S
            return False
        if self._failures < FAILURES_MAX:
            return False
        self._open_until_s = self._now() + OPEN_S
        return True
