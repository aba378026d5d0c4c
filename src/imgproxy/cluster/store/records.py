"""What objects hold: the facts of an original, and variants with their record. Pure checks of bytes and files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from imgproxy.cache.entry import OriginalFacts, VariantFacts, key_hash
from imgproxy.cache.framed import digest_of, parse_tail, read_frame, trailer
from imgproxy.cache.reading import matches_digest

if TYPE_CHECKING:
    from imgproxy.cache.entry import Provenance

_NO_BODY: Final = digest_of(b"")


class WrongBytes(Exception):
    """An object does not hold what its name says."""


def facts_as_bytes(facts: OriginalFacts) -> bytes:
    """Return the object with these facts."""
    return trailer(facts, body_bytes=0, body_digest=_NO_BODY)


def read_facts(data: bytes, hashed: str) -> OriginalFacts | None:
    """
    Return the facts that an object holds. None if another version of the service wrote them.

    Raises:
        WrongBytes: it is damaged, or of another key.
    """
    frame = parse_tail(data, file_bytes=len(data))
    if frame is None:
        raise WrongBytes
    facts = frame.read_as(OriginalFacts)
    if facts is not None and key_hash(facts.key) != hashed:
        raise WrongBytes
    return facts


def can_be_proved(facts: OriginalFacts) -> bool:
    """
    Whether a 304 proves that the origin still has these very bytes: only to a strong tag (RFC 9110 8.8.1).

    A weak tag may stand for other bytes, too. A date may be that of an older picture that has replaced this one. Both
    are good enough for what is cached here, because a purge takes that away. It may not yet have reached the store.
    """
    return facts.etag is not None and facts.etag.startswith('"')


def check_original(path: str, facts: OriginalFacts) -> None:
    """Check the file of an original. It reads all of it: call it in a thread. Raises WrongBytes."""
    if os.stat(path).st_size != facts.size_bytes or not matches_digest(path, facts.digest, facts.size_bytes):
        raise WrongBytes


def unpack_variant(path: str, source: Provenance, plan: str) -> VariantFacts | None:
    """
    Check the file of a variant, and cut it down to its body: the cache adds the record when it commits it.

    It reads all of the file: call it in a thread. None if another version of the service wrote its record.

    Raises:
        WrongBytes: it is damaged, or another variant.
    """
    with open(path, "r+b") as file:
        frame = read_frame(file.fileno())
        if frame is None:
            raise WrongBytes
        facts = frame.read_as(VariantFacts)
        if facts is None:
            return None
        is_named = (key_hash(facts.key), facts.original, facts.plan) == (source.key_hash, source.digest, plan)
        if not is_named or facts.size_bytes != frame.body_bytes or facts.digest != frame.body_digest.hex():
            raise WrongBytes
        if not matches_digest(path, facts.digest, facts.size_bytes):
            raise WrongBytes
        file.truncate(facts.size_bytes)
    return facts
