"""The Media Library API: a typed client, and in `server` a library to develop and test against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproxy.medialibrary.client.tokens import TokenSource
from imgproxy.medialibrary.models import (
    Asset,
    DocumentReferences,
    Entry,
    MediaReferences,
    Reference,
    ServedImage,
    Usage,
    Validators,
)
from imgproxy.medialibrary.versions import API_VERSIONS, ApiVersion

if TYPE_CHECKING:
    from imgproxy.medialibrary.client.client import MediaLibraryClient

__all__ = [
    "API_VERSIONS",
    "ApiVersion",
    "Asset",
    "DocumentReferences",
    "Entry",
    "MediaLibraryClient",
    "MediaReferences",
    "Reference",
    "ServedImage",
    "TokenSource",
    "Usage",
    "Validators",
]


def __getattr__(name: str) -> object:
    """Import the client only when it is used: its HTTP libraries take half of the start of a command."""
    if name != "MediaLibraryClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from imgproxy.medialibrary.client import client  # noqa: PLC0415 see above

    return getattr(client, name)
