"""The events of purges and of orders to prove. Every part that keeps something about a key subscribes to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet


@dataclass(frozen=True, slots=True)
class Purged:
    """
    A key is being purged.

    `settle_at_s` is the Unix time at which originals fetched since are to be checked again. None: no check.
    """

    key_hash: str
    key: str
    settle_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Softened:
    """
    A key is being purged softly: what was asked of the origin until now is stale.

    `stale_at_s` is the Unix time of a proof that is just too old to be fresh.
    """

    key_hash: str
    stale_at_s: float


@dataclass(frozen=True, slots=True)
class PurgedMany:
    """
    Many keys are being purged of which no file is here. A listener may forget more than these.

    They are not checked later: their purges are long ago.
    """

    key_hashes: AbstractSet[str]


@dataclass(frozen=True, slots=True)
class PurgedAll:
    """Everything is being purged."""


@dataclass(frozen=True, slots=True)
class Unproved:
    """
    What was known of a key until now counts as unproved: the origin has to be asked before the next answer.

    `settle_at_s` is as in `Purged`.
    """

    key_hash: str
    key: str
    settle_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Distrusted:
    """What was known of any key until now counts as unproved."""


Happened = TypeVar("Happened")


class Event(Generic[Happened]):
    """Calls its listeners for each key, before the purge or the order is acknowledged."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Happened], None]] = []

    def subscribe(self, listener: Callable[[Happened], None]) -> None:
        """Call `listener` from now on, for each key. It must not raise: it runs inside the purge or the order."""
        self._listeners.append(listener)

    def publish(self, purged: Happened) -> None:
        """Call the listeners in the order in which they subscribed."""
        for listener in self._listeners:
            listener(purged)


class PurgeEvent(Event[Purged]):
    """The event of a hard purge."""
