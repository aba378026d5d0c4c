"""Calls of the store behind a circuit breaker, counted and timed. A failure is a result here, not an exception."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from imgproxy.cluster.store.breaker import OPEN_S, Breaker
from imgproxy.cluster.store.objects import StoreFailed
from imgproxy.telemetry.outages import Outage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgproxy.telemetry.metrics import Metrics

Value = TypeVar("Value")


class NotDone(Exception):
    """The store was not called, or failed. `result` is the word for the metric: open or error."""

    def __init__(self, result: str) -> None:
        super().__init__(result)
        self.result = result


class GuardedCalls:
    """Calls of one kind: reads or writes. `operation` names it in the log and the metrics."""

    def __init__(self, operation: str, metrics: Metrics, now: Callable[[], float] = time.monotonic) -> None:
        self._operation = operation
        self._breaker = Breaker(now)
        self.outage = Outage(f"the shared store ({operation})", now=now)
        self._duration_s = metrics.shared_store_duration_s.labels(operation=operation)
        metrics.shared_store_paused.labels(operation=operation).set_function(lambda: self._breaker.is_open)

    @property
    def is_paused(self) -> bool:
        """Whether the breaker is open: the store failed, and no call has succeeded since."""
        return self._breaker.is_open

    async def run(self, call: Callable[[], Awaitable[Value]]) -> Value:
        """
        Make a call, unless the breaker is open.

        Raises:
            NotDone: it was not made, or it failed.
            OSError: the disk of this machine refused.
        """
        if not self._breaker.allows():
            raise NotDone("open")
        began_s = time.monotonic()
        try:
            value = await call()
        except StoreFailed as error:
            if self._breaker.fail():
                self.outage.failed(str(error), consequence=f"no {self._operation} for {OPEN_S:g} s, then one try")
            raise NotDone("error") from error
        finally:
            self._duration_s.observe(time.monotonic() - began_s)
        if self._breaker.succeed():
            self.outage.worked()
        return value
