"""What the disk refuses, as this service's own error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgproxy.errors import CacheUnavailable

if TYPE_CHECKING:
    from types import TracebackType


class _AsCacheUnavailable:
    """Turns the disk's errors into CacheUnavailable. Written out, as `contextlib` takes longer than a rename."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(value, OSError):
            raise CacheUnavailable from value


as_cache_unavailable: Final = _AsCacheUnavailable()
