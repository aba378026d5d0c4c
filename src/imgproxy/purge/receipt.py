"""The receipt of a purge: what was asked, what is gone, and what is still to come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class DownstreamState:
    """
    Where the purge of one cache in front stands.

    `done`: it confirmed. `pending`: it did not yet, for the reason in `detail`; the outbox goes on trying.
    """

    name: str
    kind: str
    state: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """
    What a purge did. `bytes` are those on disk, `cut` the connections that were closed in the middle of an answer.

    `is_pending` says that the keys API could not be asked yet: what is listed is gone, more may follow by itself.
    """

    entry: str | None
    keys: tuple[str, ...]
    variants: int
    size_bytes: int
    seq: int
    duration_s: float
    cut: int = 0
    downstream: tuple[DownstreamState, ...] = ()
    is_pending: bool = False
    is_soft: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to come by itself: every key is known, every cache in front has confirmed."""
        return not self.is_pending and all(item.state == "done" for item in self.downstream)

    def as_json(self) -> dict[str, Any]:
        """The receipt's public form; scripts depend on its names."""
        receipt: dict[str, Any] = {
            "entry": self.entry,
            "keys": list(self.keys),
            "variants": self.variants,
            "bytes": self.size_bytes,
            "downstream": [
                {"name": item.name, "kind": item.kind, "state": item.state, "detail": item.detail}
                for item in self.downstream
            ],
            "pending": not self.is_complete,
            "soft": self.is_soft,
            "cut": self.cut,
            "seq": self.seq,
            "ms": round(self.duration_s * 1000, 1),
        }
        return receipt
