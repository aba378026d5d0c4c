"""Delivered answers and image requests, for tests of the code that writes them."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from imgproxy.cache.entry import Tier, Variant, VariantFacts, key_hash
from imgproxy.config.settings import Settings
from imgproxy.delivery.originals import Original, State
from imgproxy.delivery.request import ORIGINAL_PLAN, Delivered, Outcome
from imgproxy.digest import digest_of
from imgproxy.params.plan import RenderPlan
from imgproxy.params.request import ImageRequest
from tests.support.cache import original_facts

if TYPE_CHECKING:
    from pathlib import Path

KEY = "a.jpg"
HASHED = key_hash(KEY)
ETAG = '"etag"'
BODY = b"0123456789" * 10


def settings(**sections: Any) -> Settings:
    """Return default settings; sections given by name replace the defaults."""
    return Settings(**sections)


def wanted(**changes: Any) -> ImageRequest:
    """Return a request for the picture in its own format."""
    return replace(ImageRequest(KEY, RenderPlan()), **changes)


def original(state: State = State.FRESH, *, age_s: float = 100.0) -> Original:
    """Return the picture's original, proved `age_s` seconds ago."""
    facts = replace(original_facts(b"original", KEY), validated_at_s=time.time() - age_s)
    return Original(facts, HASHED, state)


def variant(*, body: bytes | None = BODY, path: str | None = None, **facts: Any) -> Variant:
    """Return a variant of the picture, in memory or in a file."""
    size_bytes = len(body) if body is not None else len(BODY)
    known = VariantFacts(KEY, "ab" * 16, digest_of(b"original"), "image/webp", size_bytes, digest_of(BODY), 10, 10)
    return Variant(replace(known, **facts), HASHED, ((HASHED, 0),), body=body, path=path)


def delivered(
    outcome: Outcome = Outcome.HIT,
    *,
    found: Variant | None = None,
    tier: Tier = Tier.MEMORY,
    state: State = State.FRESH,
    age_s: float = 100.0,
    **changes: Any,
) -> Delivered:
    """Return an answer with a variant in memory."""
    answer = Delivered(
        ETAG, original(state, age_s=age_s), found or variant(), outcome, tier, proofs=(found or variant()).proofs
    )
    return replace(answer, **changes)


def not_modified() -> Delivered:
    """Return the answer to a client whose copy is current."""
    return replace(delivered(), variant=None)


def passed_on(path: Path, data: bytes = BODY) -> Delivered:
    """Return an answer with the original itself, which is written to `path`."""
    path.write_bytes(data)
    found = variant(body=None, path=str(path), plan=ORIGINAL_PLAN, content_type="image/jpeg", size_bytes=len(data))
    return delivered(Outcome.PASS, found=found, tier=Tier.DISK)
