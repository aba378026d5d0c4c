"""
What the cache holds, as values: the facts of an original, and a variant.

A key has one original at a time. Its facts say which bytes they are (`digest`), when they were last known to be right
(`seq`, `validated_at_s`), and which journal counted `seq`. A variant belongs to the original whose digest it names.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgproxy.cache.reading import SeenFile

DIGEST_BYTES = 16
# Each request needs its key's hash about six times.
KEYS_REMEMBERED = 1024


@lru_cache(KEYS_REMEMBERED)
def key_hash(key: str) -> str:
    """The name of a key's directory: 32 hex digits of BLAKE2b-128 over the key's UTF-8 bytes."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).hexdigest()


class Tier(StrEnum):
    """Where a variant was found. SHARED is the shared store; ORIGIN means that it was made for the request."""

    MEMORY = "memory"
    DISK = "disk"
    SHARED = "shared"
    ORIGIN = "origin"


@dataclass(frozen=True, slots=True)
class OriginalFacts:
    """What is known of a key's original. Times are Unix seconds by the wall clock, so they outlive a restart."""

    key: str
    digest: str  # of the bytes, see imgproxy.digest
    size_bytes: int
    content_type: str
    etag: str | None  # with `last_modified`: the origin's validators, for a conditional request
    last_modified: str | None
    journal_id: str
    seq: int  # the journal's sequence when the fetch, or the last revalidation, began
    fetched_at_s: float
    validated_at_s: float
    has_credentials: bool | None = None  # whether its file has Content Credentials; None: not looked at


@dataclass(frozen=True, slots=True)
class Provenance:
    """
    What the cache needs to know of the originals that a variant is made from.

    `proofs` are the key hash and the sequence of each: the picture's, then the watermark's if there is one.
    """

    key_hash: str  # of the picture
    digest: str  # of all originals, as in `VariantFacts.original`
    proofs: tuple[tuple[str, int], ...]


def picture_digest(originals: str) -> str:
    """Return the digest of the picture alone, out of `VariantFacts.original`."""
    return originals.partition("+")[0].partition("~")[0]


def latest_proofs(one: tuple[tuple[str, int], ...], other: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """Return the later proof of each original. Both are proofs of the same bytes of the same originals."""
    return tuple((key_hash, max(seq, other_seq)) for (key_hash, seq), (_, other_seq) in zip(one, other, strict=True))


@dataclass(frozen=True, slots=True)
class VariantFacts:
    """What is known of a variant without its bytes."""

    key: str
    plan: str  # digest of the render plan
    # The digest of the original it was made from. With a watermark in the plan: "<digest>+<the watermark's digest>".
    # Nothing follows the "+" if the watermark could not be fetched. With Content Credentials "~" and their mark follow.
    original: str
    content_type: str
    size_bytes: int
    digest: str  # of the body, see imgproxy.digest
    width_px: int
    height_px: int
    frames: int = 1
    is_first_frame_only: bool = False
    is_mark_missing: bool = False
    shared_decode: str = ""  # what it was made from, if it shared a decode: see `workers.job.Rendered`
    credentials: str = ""  # of an original with Content Credentials: embedded, linked, or missing
    link: str = ""  # of a linked variant: the name of its manifest, which its URL ends with
    actions: str = ""  # of a linked variant: what its manifest will say was done, JSON


@dataclass(frozen=True, slots=True)
class Variant:
    """
    A variant ready to be served: its facts, and either its body or the path of its file.

    `proofs` are those of its Provenance: the answer may begin only if no purge of these keys, and no order to prove
    them, came after. `file` recognises the file of a body that was read from disk.
    """

    facts: VariantFacts
    key_hash: str
    proofs: tuple[tuple[str, int], ...]
    body: bytes | None = None
    path: str | None = None
    file: SeenFile | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A variant that the cache has, and the tier that had it."""

    variant: Variant
    tier: Tier
