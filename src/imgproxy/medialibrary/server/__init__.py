"""The embedded Media Library: every endpoint and version of the API, over a folder of pictures and SQLite."""

from imgproxy.medialibrary.server.access import AccessToken, parse_token
from imgproxy.medialibrary.server.embedded import EmbeddedLibrary
from imgproxy.medialibrary.server.faults import Faults
from imgproxy.medialibrary.server.probe import Probe
from imgproxy.medialibrary.server.store import LibraryStore
from imgproxy.medialibrary.server.webhooks import Webhook

__all__ = ["AccessToken", "EmbeddedLibrary", "Faults", "LibraryStore", "Probe", "Webhook", "parse_token"]
