"""The one event of a purge. Every part that keeps something about a key subscribes to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Purged:
    """
    A key is being purged.

    `settle_at_s` is the Unix time at which originals fetched since are to be checked again. None: no check.
    """

    key_hash: str
    key: str
    settle_at_s: float | None = None


class PurgeEvent:
    """Calls its listeners for each purged key, before the purge is acknowledged."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Purged], None]] = []

    def subscribe(self, listener: Callable[[Purged], None]) -> None:
        """Call `listener` for each purged key from now on. It must not raise: it runs inside the purge."""
        self._listeners.append(listener)

    def publish(self, purged: Purged) -> None:
        """Call the listeners in the order in which they subscribed."""
        for listener in self._listeners:
            listener(purged)
