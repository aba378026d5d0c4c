"""Values of delivery: the request, what is delivered, and the entity tag of a variant."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from imgproxy.cache.entry import Tier
from imgproxy.delivery.originals import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.cache.entry import Variant
    from imgproxy.delivery.originals import Original
    from imgproxy.delivery.variants import Made, Sources
    from imgproxy.params.plan import RenderPlan

# Takes a variant's entity tag. Returns the tag of the client's copy if that copy is current, else None.
ClientHas: TypeAlias = "Callable[[str], str | None]"

# In the digest of the originals of a variant that has a manifest in it: see `delivery.credentials`.
SIGNED = "~e"
# The media type of a manifest that is a file of its own (C2PA 2.2, 11.4).
MANIFEST_TYPE = "application/c2pa"
# In place of a plan's digest, for the original itself. No plan has it.
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
        key: the key of the original.
        plan: the plan of the variant; None for the original itself.
        manifest_of: the digest of the plan of a variant whose manifest is asked for; empty for a picture.
        client_has: see ClientHas; None if the client names no copy.
        interim: returns the plan of an interim variant, or None if there is none.
    """

    key: str
    plan: RenderPlan | None
    client_has: ClientHas | None = None
    interim: Callable[[], RenderPlan | None] | None = None
    manifest_of: str = ""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of each stage; 0 for a stage that was not needed."""

    fetch_s: float = 0.0
    store_s: float = 0.0  # a read of the shared store
    queue_s: float = 0.0
    render_s: float = 0.0
    credentials_s: float = 0.0  # Content Credentials: a signature, or a link


@dataclass(frozen=True, slots=True)
class Delivered:
    """
    An answer that is about to begin.

    `variant` is None if the client's copy is current. `proofs` are the key hash and sequence of every original behind
    this answer, the picture's first; it may begin while all of them hold. `is_interim`: another format, size or
    crop answers for the right one.
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
    Return the entity tag of a variant (RFC 9110 8.8.3), made from its original's bytes and its plan.

    It is known before the variant exists, so a 304 needs no render, even for a variant that was evicted. A variant from
    a shared decode has other bytes than one made alone, so its tag has an ending of its own (RFC 9110 8.8.1). The tag
    of a signed variant is weak: a second signature of the same picture has other bytes.
    """
    name = hashlib.blake2b(f"{original_digest}/{plan_digest}".encode(), digest_size=12).hexdigest()
    weak = "W/" if SIGNED in original_digest else ""
    return f'{weak}"{name}-{shared_decode}"' if shared_decode else f'{weak}"{name}"'


def not_modified(etag: str, sources: Sources) -> Delivered:
    """Deliver nothing: the client's copy, which has this tag, is current."""
    return _delivered(etag, sources.original, None, Tier.MEMORY, sources.provenance.proofs)


def hit(original: Original, variant: Variant, tier: Tier) -> Delivered:
    """Deliver a variant that was found."""
    return _delivered(_etag(variant), original, variant, tier, variant.proofs)


def miss(original: Original, made: Made) -> Delivered:
    """Deliver a variant that was just made."""
    timings = replace(made.timings, fetch_s=original.fetch_s + made.timings.fetch_s)
    # The tag is that of what was painted: the watermark may have been lost meanwhile.
    delivered = _delivered(_etag(made.variant), original, made.variant, Tier.ORIGIN, made.variant.proofs)
    is_collapsed = original.is_collapsed or made.is_collapsed
    return replace(delivered, is_collapsed=is_collapsed, is_interim=made.is_interim, timings=timings)


def _etag(variant: Variant) -> str:
    etag = etag_of(variant.facts.original, variant.facts.plan, variant.facts.shared_decode)
    is_strong_manifest = variant.facts.content_type == MANIFEST_TYPE and not etag.startswith("W/")
    return f"W/{etag}" if is_strong_manifest else etag  # a manifest is signed, too


def _delivered(
    etag: str, original: Original, variant: Variant | None, tier: Tier, proofs: tuple[tuple[str, int], ...]
) -> Delivered:
    return Delivered(
        etag=etag,
        original=original,
        variant=variant,
        outcome=outcome_of(original.state, tier),
        tier=tier,
        proofs=proofs,
        is_collapsed=original.is_collapsed,
        timings=Timings(fetch_s=original.fetch_s),
    )


def outcome_of(state: State, tier: Tier) -> Outcome:
    """Return miss if anything was fetched or made, else what the state of the original says."""
    if tier is Tier.ORIGIN or state is State.FETCHED:
        return Outcome.MISS
    if state is State.STALE:
        return Outcome.STALE
    return Outcome.REVALIDATED if state is State.REVALIDATED else Outcome.HIT
