"""Answers as JSON, in the format of each API version. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from imgproxy.medialibrary import versions
from imgproxy.medialibrary.server.cursors import write_cursor
from imgproxy.medialibrary.server.patches import usage_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgproxy.medialibrary.server.state import EntryState, ReferenceRows


def entry_json(entry: EntryState, image_base: str) -> dict[str, Any]:
    """Return an entry. `image_base` is the URL of serve-image on this server, without the key."""
    external = {"systemName": entry.system_name, "externalId": entry.external_id}
    asset = entry.asset
    return {
        "id": entry.id,
        "version": entry.version,
        **{name: value for name, value in external.items() if value is not None},
        "mediaType": entry.media_type,
        "asset": {
            "url": asset.url or f"{image_base}/{quote(asset.key)}",
            "mimeType": asset.mime_type,
            "width": asset.width_px,
            "height": asset.height_px,
            "size": asset.size_bytes,
        },
        "metadata": dict(entry.metadata),
        "createdAt": entry.created_at,
        "updatedAt": entry.updated_at,
    }


def entries_json(entries: Iterable[EntryState], image_base: str, api_version: str) -> dict[str, Any]:
    """Return a list of entries."""
    rows = [entry_json(entry, image_base) for entry in entries]
    return {"results" if versions.is_in(versions.RESULTS_SINCE, api_version) else "mediaLibraryEntries": rows}


def references_json(found: ReferenceRows, kind: str, entry_id: str, api_version: str) -> Any:
    """Return a page of references. The cursor of an empty page is null."""
    results = [{"id": referrer, "references": list(references)} for _, referrer, references in found.rows]
    if not versions.is_in(versions.RESULTS_SINCE, api_version):
        return results
    cursor = write_cursor(found.rows[-1][0], kind, entry_id) if found.rows else None
    return {"total": found.total, "cursor": cursor, "results": results}


def usage_log_json(entry: EntryState) -> dict[str, Any]:
    """Return the usage log of an entry."""
    return {"results": [usage_json(usage) for usage in entry.usage_log]}


def listing_json(entry: EntryState) -> dict[str, Any]:
    """Return an entry in the format of `imgproxy library --list --json`."""
    return {
        "id": entry.id,
        "key": entry.asset.key,
        "status": entry.status,
        "version": entry.version,
        "mimeType": entry.asset.mime_type,
        "width": entry.asset.width_px,
        "height": entry.asset.height_px,
        "size": entry.asset.size_bytes,
        "keys": list(entry.keys),
    }
