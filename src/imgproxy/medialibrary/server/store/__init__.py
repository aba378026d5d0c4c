"""The store of the embedded library; the only room of the Media Library that knows SQLite."""

from imgproxy.medialibrary.server.store.library import LibraryStore

__all__ = ["LibraryStore"]
