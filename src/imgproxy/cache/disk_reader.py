"""Reads variants and originals from the disk, and checks the checksum of each once in a run."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from imgproxy.cache.entry import Variant, key_hash
from imgproxy.cache.ledger import original_name, variant_name
from imgproxy.cache.reading import matches_digest, read_at_once, stamp_of
from imgproxy.digest import matches

if TYPE_CHECKING:
    from imgproxy.cache.entry import OriginalFacts, Provenance, VariantFacts
    from imgproxy.cache.store import CacheStore

log = logging.getLogger(__name__)


class DiskReader:
    """The files of one store. Bodies of up to `body_max_bytes` are read into memory."""

    def __init__(self, store: CacheStore, body_max_bytes: int) -> None:
        self._store = store
        self._body_max_bytes = body_max_bytes

    async def find(self, source: Provenance, name: str) -> Variant | None:
        """Find a variant of these originals. Its checksum is right. `name` is the digest of its plan."""
        opened = self._store.open_variant(source.key_hash, name, source.digest)
        if opened is None:
            return None
        facts, descriptor, is_verified = opened
        try:
            if facts.size_bytes <= self._body_max_bytes:
                return await self._read(source, facts, descriptor, is_verified=is_verified)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return await self._as_file(source, facts, is_verified=is_verified)

    async def _read(
        self, source: Provenance, facts: VariantFacts, descriptor: int, *, is_verified: bool
    ) -> Variant | None:
        """Read a variant into memory. Raises OSError."""
        hashed, name = source.key_hash, facts.plan
        stamp = stamp_of(os.fstat(descriptor))
        try:
            body = bytes(read_at_once(descriptor, facts.size_bytes))
        except BlockingIOError:
            body = await asyncio.to_thread(os.pread, descriptor, facts.size_bytes, 0)
        if not is_verified:
            is_intact = matches(facts.digest, lambda: (body,))
            self._store.note_checked(variant_name(hashed, facts.plan), facts.size_bytes, is_intact=is_intact)
            if not is_intact:
                log.warning("a variant of %s failed its checksum and was removed", facts.key)
                return None
        file = self._store.seen(hashed, name, stamp, facts.size_bytes)
        return Variant(facts, hashed, source.proofs, body=body, file=file)

    async def _as_file(self, source: Provenance, facts: VariantFacts, *, is_verified: bool) -> Variant | None:
        """A variant that is too large for memory."""
        hashed = source.key_hash
        path = self._store.variant_path(hashed, facts.plan)
        if not is_verified:
            is_intact = await asyncio.to_thread(matches_digest, path, facts.digest, facts.size_bytes)
            self._store.note_checked(variant_name(hashed, facts.plan), facts.size_bytes, is_intact=is_intact)
            if not is_intact:
                return None
        return Variant(facts, hashed, source.proofs, path=path)

    async def verified_original(self, facts: OriginalFacts) -> str | None:
        """The original's file, its checksum checked. None where it is missing or damaged."""
        found = self._store.find_original(facts)
        if found is None:
            return None
        path, is_verified = found
        if is_verified:
            return path
        is_intact = await asyncio.to_thread(matches_digest, path, facts.digest, facts.size_bytes)
        self._store.note_checked(original_name(key_hash(facts.key)), facts.size_bytes, is_intact=is_intact)
        return path if is_intact else None
