"""What keeping originals needs of the rest: where they come from, and who purges them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from imgproxy.medialibrary import ServedImage, Validators
    from imgproxy.medialibrary.models import Landing


class Origin(Protocol):
    """Where originals come from: a MediaLibraryClient."""

    async def serve_image(
        self,
        key: str,
        destination: str,
        *,
        validators: Validators | None = None,
        max_bytes: int | None = None,
        landing: Landing | None = None,
    ) -> ServedImage:
        """Stream the image to `destination`, and to `landing` where it fits."""


class Purged(Protocol):
    """What a purge answers, as far as it matters here."""

    @property
    def seq(self) -> int:
        """The purge's number."""


class PurgeKeys(Protocol):
    """Purges keys: `Cache.purge`, or the purge service that also tells the CDNs."""

    def __call__(self, keys: Sequence[str], *, reason: str) -> Awaitable[Purged]:
        """Forget these keys."""
