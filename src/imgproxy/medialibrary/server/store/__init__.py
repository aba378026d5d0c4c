"""The store of the embedded library. Only this folder uses SQLite."""

from imgproxy.medialibrary.server.store.library import LibraryStore

__all__ = ["LibraryStore"]
