"""A question to the origin: whom to ask, when it was asked, what the answer brings, and when the answer is too old."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from imgproxy.cache.entry import OriginalFacts
    from imgproxy.medialibrary.models import ServedImage, Validators


class StaleGeneration(Exception):
    """A purge of the key came after this work began. Its result is thrown away."""


class Origin(Protocol):
    """Where originals come from: a MediaLibraryClient."""

    async def serve_image(
        self, key: str, destination: str, *, validators: Validators | None = None, max_bytes: int | None = None
    ) -> ServedImage:
        """Stream the image to the file `destination`."""


class PurgeResult(Protocol):
    """The part of a purge's result that fetching needs."""

    @property
    def seq(self) -> int:
        """The number of the purge."""


class PurgeKeys(Protocol):
    """Purges keys, here and in the caches in front."""

    def __call__(self, keys: Sequence[str], *, reason: str) -> Awaitable[PurgeResult]:
        """Forget these keys."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result of a fetch: the current facts, whether new bytes came, and how long it took."""

    facts: OriginalFacts
    is_modified: bool
    fetch_s: float


@dataclass(eq=False, slots=True)
class Asked:
    """
    When a fetch began: the number of the latest purge, the journal that counted it, and the Unix time.

    A soft purge that comes meanwhile sets `validated_at_s` back: what the fetch brings is then stale.
    """

    key_hash: str
    journal_id: str
    seq: int
    at_s: float
    validated_at_s: float
    began_s: float = 0.0
    needs_file: bool = True
    is_softened: bool = False
