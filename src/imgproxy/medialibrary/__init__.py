"""The Media Library API: a typed client, and in `server` a library of one's own to develop and test against."""

from imgproxy.medialibrary.client import ImageStream, MediaLibraryClient
from imgproxy.medialibrary.models import (
    Asset,
    DocumentReferences,
    Entry,
    MediaReferences,
    Page,
    Reference,
    ServedImage,
    Usage,
    Validators,
)
from imgproxy.medialibrary.tokens import TokenSource
from imgproxy.medialibrary.versions import API_VERSIONS, ApiVersion

__all__ = [
    "API_VERSIONS",
    "ApiVersion",
    "Asset",
    "DocumentReferences",
    "Entry",
    "ImageStream",
    "MediaLibraryClient",
    "MediaReferences",
    "Page",
    "Reference",
    "ServedImage",
    "TokenSource",
    "Usage",
    "Validators",
]
