"""
The shared store as delivery sees it: find what another edge has made, keep what this one has made.

Nothing from here is served on trust. The facts of an original lead to a conditional request to the origin. Only its
answer makes them current, and only then are bytes of their digest used. So an object that is out of date costs a
request. A failure of the store is a miss: no method raises because of it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from imgproxy.background import Background
from imgproxy.cache.entry import key_hash
from imgproxy.cluster.store.guarded import GuardedCalls, NotDone
from imgproxy.cluster.store.names import ObjectNames
from imgproxy.cluster.store.objects import StoreFailed
from imgproxy.cluster.store.records import (
    WrongBytes,
    can_be_proved,
    check_original,
    facts_as_bytes,
    read_facts,
    unpack_variant,
)
from imgproxy.cluster.store.writing import Upload, Writes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.entry import OriginalFacts, Provenance, Variant, VariantFacts
    from imgproxy.cluster.store.objects import Objects
    from imgproxy.config.shared_store import SharedStoreSettings
    from imgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

Value = TypeVar("Value")


class SharedStore:
    """Reads and writes of this edge. `object_max_bytes`: larger objects are neither read nor written."""

    def __init__(
        self,
        objects: Objects,
        cache: Cache,
        settings: SharedStoreSettings,
        *,
        object_max_bytes: int,
        metrics: Metrics,
    ) -> None:
        self.objects = objects
        self.names = ObjectNames(settings.prefix)
        self._cache = cache
        self._object_max_bytes = object_max_bytes
        self._metrics = metrics
        self._reads = GuardedCalls("read", metrics)
        self._writes = Writes(
            objects,
            cache.purged,
            cache.purged_many,
            metrics,
            queue_max=settings.queue_max,
            writes_max=settings.writes_max,
        )
        self._deletions = Background("deletion of a wrong object")

    def as_json(self) -> dict[str, Any]:
        """Show whether the store works, for the status page."""
        return {"read": self._reads.outage.as_json(), "write": self._writes.calls.outage.as_json()}

    def start(self) -> None:
        """Begin to write."""
        self._writes.start()

    async def close(self) -> None:
        """Stop. Objects that wait are not written."""
        await self._deletions.close()
        await self._writes.close()

    # --- find ----------------------------------------------------------------------------------------------------

    async def find_facts(self, hashed: str) -> OriginalFacts | None:
        """
        Return what an edge has learnt of the key's original. It is not proved, but the origin can prove it.

        The journal and the sequence in it are those of that edge, and mean nothing here.
        """
        name = self.names.facts(hashed)
        data = await self._read("facts", lambda: self.objects.read(name))
        if data is None:
            return None
        try:
            facts = read_facts(data, hashed)
        except WrongBytes:
            self._remove("facts", name)
            return None
        if facts is None or facts.size_bytes > self._object_max_bytes or not can_be_proved(facts):
            self._count("facts", "miss")
            return None
        self._count("facts", "hit")
        return facts

    async def fetch_original(self, facts: OriginalFacts) -> bool:
        """Put the bytes of a proved original into the cache. Return False if they cannot be had from the store."""
        hashed = key_hash(facts.key)
        name = self.names.original(facts, hashed)

        async def put(path: str) -> bool:
            await asyncio.to_thread(check_original, path, facts)
            current = self._cache.facts(hashed)  # they may have been proved again meanwhile
            if current is None or current.digest != facts.digest:
                return False
            return self._cache.commit_original(path, current)

        is_here = bool(await self._download("original", name, hashed, put))
        if is_here:
            self._writes.note_original(hashed, facts.digest)
        else:
            self._writes.forget_original(hashed)
        return is_here

    async def find_variant(self, source: Provenance, plan: str) -> Variant | None:
        """
        Return a variant of proved originals, and put it into the cache.

        None if the store does not have it, or if a purge came meanwhile.
        """
        name = self.names.variant(source, plan)
        if name is None:
            return None

        async def put(path: str) -> Variant | None:
            facts = await asyncio.to_thread(unpack_variant, path, source, plan)
            return self._cache.commit_variant(path, facts, source) if facts is not None else None

        return await self._download("variant", name, source.key_hash, put)

    async def _download(
        self, kind: str, name: str, hashed: str, put: Callable[[str], Awaitable[Value | None]]
    ) -> Value | None:
        """Download an object to a temporary file, and `put` it into the cache."""
        store, temp = self._cache.store, None
        try:
            with self._cache.epochs.at_work():
                temp = path = store.temp_path(hashed)
                found = await self._read(
                    kind, lambda: self.objects.download(name, path, max_bytes=self._object_max_bytes)
                )
                value = await put(path) if found is not None else None
        except WrongBytes:
            self._remove(kind, name)
            return None
        except OSError as error:  # the disk refuses, or a purge took the directory away
            self._cache.housekeeping.make_room(error)
            self._count(kind, "miss")
            return None
        finally:
            if temp is not None:
                store.discard(temp)
        if found is not None:
            self._count(kind, "hit" if value is not None else "miss")
        return value

    async def _read(self, kind: str, call: Callable[[], Awaitable[Value | None]]) -> Value | None:
        """Make a read. Count it if it brings nothing."""
        try:
            found = await self._reads.run(call)
        except NotDone as error:
            self._count(kind, error.result)
            return None
        if found is None:
            self._count(kind, "miss")
        return found

    def _remove(self, kind: str, name: str) -> None:
        """Delete an object with wrong bytes, behind the answer."""
        self._count(kind, "wrong")
        log.warning("an object of the shared store has wrong bytes and is deleted: %s", name)
        self._deletions.begin(self._delete, name)

    async def _delete(self, name: str) -> None:
        try:
            await self.objects.delete([name])
        except StoreFailed as error:
            log.warning("an object with wrong bytes could not be deleted: %s", error)

    def _count(self, kind: str, result: str) -> None:
        self._metrics.shared_store_reads.labels(kind=kind, result=result).inc()

    # --- keep ----------------------------------------------------------------------------------------------------

    def keep_original(self, facts: OriginalFacts) -> None:
        """Write an original that the origin has just sent, and its facts, behind the answer."""
        hashed = key_hash(facts.key)
        if facts.size_bytes > self._object_max_bytes:
            return
        if not self._writes.knows_original(hashed, facts.digest):
            self._writes.note_original(hashed, facts.digest)
            path = self._cache.store.path(hashed, "original")
            self._writes.put(Upload("original", self.names.original(facts, hashed), (hashed,), path=path))
        # Facts that come first would send other edges for bytes that are not there yet. That is a miss, no error.
        self._writes.put(Upload("facts", self.names.facts(hashed), (hashed,), data=facts_as_bytes(facts)))

    def keep_variant(self, variant: VariantFacts, source: Provenance) -> None:
        """Write a variant that was just rendered, behind the answer; its original first if the store may lack it."""
        name = None if variant.is_mark_missing else self.names.variant(source, variant.plan)
        if name is None or variant.size_bytes > self._object_max_bytes:
            return
        facts = self._cache.facts(source.key_hash)
        if facts is not None and not self._writes.knows_original(source.key_hash, facts.digest):
            self.keep_original(facts)
        sources = tuple(hashed for hashed, _ in source.proofs)
        path = self._cache.store.variant_path(source.key_hash, variant.plan)
        self._writes.put(Upload("variant", name, sources, path=path))
