"""Confirming: whether the origin still has the bytes that are known, after an event that may have changed them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from imgproxy.delivery.asked import StaleGeneration

if TYPE_CHECKING:
    from imgproxy.cache.cache import Cache
    from imgproxy.delivery.asked import Asked
    from imgproxy.medialibrary.models import ServedImage
    from imgproxy.purge.known_originals import KnownOriginal


def is_confirmed(cache: Cache, served: ServedImage, temp: str, known: KnownOriginal, asked: Asked) -> bool:
    """
    Whether the origin has these bytes. If the cached original has them, too, it is proved now.

    `temp` is the file of the bytes that came, if some did.

    Raises:
        StaleGeneration: a purge came meanwhile, or an order to prove the key.
        OSError: the disk refuses.
    """
    if served.is_modified and served.digest != known.digest:
        return False
    if not cache.epochs.is_proved(asked.key_hash, asked.seq):
        raise StaleGeneration
    facts = cache.facts(asked.key_hash)
    if facts is None or facts.digest != known.digest:
        return True
    facts = replace(facts, validated_at_s=asked.validated_at_s, seq=asked.seq, journal_id=asked.journal_id)
    if not served.is_modified:
        cache.commit_facts(facts)
        return True
    facts = replace(facts, etag=served.etag, last_modified=served.last_modified, fetched_at_s=asked.at_s)
    cache.commit_original(temp, facts)
    return True
