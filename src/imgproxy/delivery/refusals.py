"""Refusals: errors of the origin or of a render process. They are remembered and answer later requests for a while."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachetools import TLRUCache

if TYPE_CHECKING:
    from collections.abc import Hashable

    from imgproxy.errors import ImgproxyError

# About 650 bytes each: 32 MB.
REFUSALS_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error that answers every request of its name until `until_s`. Both times are of the monotonic clock."""

    error: ImgproxyError
    since_s: float
    until_s: float

    @property
    def ttl_s(self) -> int:
        """Whole seconds that are left until `until_s`."""
        return max(0, int(self.until_s - time.monotonic()))


class Refusals:
    """
    Refusals by name: the key hash for the origin's refusals, (digest, plan) for pictures that cannot be rendered.

    At most `REFUSALS_MAX`; the least recently used one leaves first.
    """

    def __init__(self) -> None:
        self._refusals: TLRUCache[Hashable, Refusal] = TLRUCache(
            REFUSALS_MAX, ttu=lambda _name, refusal, _now: refusal.until_s, timer=time.monotonic
        )

    def get(self, name: Hashable) -> Refusal | None:
        """Return the refusal of this name, or None."""
        return self._refusals.get(name)

    def raise_if_refused(self, name: Hashable) -> None:
        """Raise the error of this name, if it has one."""
        refusal = self._refusals.get(name)
        if refusal is not None:
            raise refusal.error.again()

    def remember(self, name: Hashable, error: ImgproxyError, ttl_s: float) -> None:
        """Answer this name with the error for `ttl_s` seconds."""
        now_s = time.monotonic()
        self._refusals[name] = Refusal(error.again(), now_s, now_s + ttl_s)

    def forget(self, name: Hashable) -> None:
        """Forget the refusal of this name."""
        self._refusals.pop(name, None)

    def clear(self) -> None:
        """Forget every refusal."""
        self._refusals.clear()

    def __contains__(self, name: Hashable) -> bool:
        return name in self._refusals
