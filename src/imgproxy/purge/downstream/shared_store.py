"""The shared store as a target of purges: every object of a purged key is deleted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgproxy.cache.entry import key_hash
from imgproxy.cache.outbox import EVERYTHING
from imgproxy.cluster.store.objects import StoreFailed
from imgproxy.purge.downstream.calls import DONE, CallResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproxy.cache.outbox import Subject
    from imgproxy.cluster.store.shared import SharedStore

# No cache in front can be configured with this name, as it has a space.
NAME: Final = "shared store"


@dataclass(frozen=True, slots=True)
class StoreDeletions:
    """
    Deletes the objects of keys. Entries need nothing: a purge names all their keys.

    It is the settings of its queue, too. `retry_max_s` is the longest wait between tries.
    """

    shared: SharedStore
    retry_max_s: float
    label: str = NAME
    kind: str = "store"
    # Each call has the store's own time limit.
    timeout_s: float = 0.0
    wait_s: float = 0.0
    subjects_max: int = 4
    concurrency: int = 4

    def covers(self, subject: Subject) -> bool:
        """Whether it is a key, or everything."""
        return not subject.is_entry

    async def send(self, subjects: Sequence[Subject], *, timeout_s: float) -> Verdict:
        """Delete the objects of these keys."""
        del timeout_s
        names = self.shared.names
        folders = [names.all if subject == EVERYTHING else names.of_key(key_hash(subject.name)) for subject in subjects]
        done = await asyncio.gather(*map(self.shared.objects.delete_below, folders), return_exceptions=True)
        for result in done:
            if isinstance(result, StoreFailed):
                return Verdict(CallResult.FAILED, str(result))
            if isinstance(result, BaseException):
                raise result
        return DONE
