"""What is asked of delivery and what it delivers, as values; and the entity tag of a variant."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.cache.entry import Tier, Variant
    from imgproxy.delivery.originals import Original
    from imgproxy.params.plan import RenderPlan

# Given a variant's entity tag, returns the tag of the client's copy if that copy is current.
ClientHas: TypeAlias = "Callable[[str], str | None]"

# The original itself has this name among its variants: 32 hex digits like the digest of a plan, and no plan's.
ORIGINAL_PLAN = "0" * 32


class Outcome(StrEnum):
    """How a request was answered, in metrics, logs and headers."""

    HIT = "hit"
    STALE = "stale"
    REVALIDATED = "revalidated"
    MISS = "miss"
    PASS = "pass"  # noqa: S105 the original is passed on; not a password
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Request:
    """
    One request for a picture.

    Args:
        key: the picture.
        plan: what to make of it; None for the original itself.
        client_has: see ClientHas; None for a client that names no copy.
        interim: returns the plan to answer with at once while `plan` is made behind the answer, or None.
    """

    key: str
    plan: RenderPlan | None
    client_has: ClientHas | None = None
    interim: Callable[[], RenderPlan | None] | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of each stage; 0 for a stage that the request did not go through."""

    fetch_s: float = 0.0
    queue_s: float = 0.0
    render_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivered:
    """
    An answer that is about to begin.

    `variant` is None if the client's copy is current. `proofs` are the key hash and sequence of every original behind
    this answer, the picture's first; it may begin while all of them hold. `is_interim`: another format or a larger size
    answers for the right one.
    """

    etag: str
    original: Original
    variant: Variant | None
    outcome: Outcome
    tier: Tier
    proofs: tuple[tuple[str, int], ...]
    is_collapsed: bool = False
    is_interim: bool = False
    timings: Timings = Timings()


def etag_of(original_digest: str, plan_digest: str, shared_decode: str = "") -> str:
    """
    Return the strong entity tag of a variant, of its original's bytes and its plan (RFC 9110 8.8.3).

    It is known before the variant exists, so a 304 costs no pixel, even for a variant that was evicted. A variant from
    a shared decode has other bytes than one made alone, so its tag has another ending (RFC 9110 8.8.1).
    """
    name = hashlib.blake2b(f"{original_digest}/{plan_digest}".encode(), digest_size=12).hexdigest()
    return f'"{name}-{shared_decode}"' if shared_decode else f'"{name}"'
