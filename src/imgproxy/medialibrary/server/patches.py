"""
Applies a PATCH to an entry: state and operations in, new state and events out. Pure.

All or nothing: the first operation that fails raises a Problem, and no operation takes effect.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from imgproxy.medialibrary import versions
from imgproxy.medialibrary.moments import iso_ms
from imgproxy.medialibrary.operations import (
    AddUsageLogEntry,
    Archive,
    Operation,
    RemoveAsset,
    RemoveUsageLogEntry,
    ReplaceAsset,
    RevokeAsset,
    SetMetadataProperty,
    UnrevokeAsset,
    UpdateUsageLogEntry,
)
from imgproxy.medialibrary.server.problems import conflict, invalid, named
from imgproxy.medialibrary.server.state import Asset, EntryState, Event, UsageEntry
from imgproxy.medialibrary.server.validation import utc_moment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from imgproxy.medialibrary.server.patch_body import PatchBody
    from imgproxy.medialibrary.server.state import FileFacts

USAGES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class PatchContext:
    """What a PATCH needs besides the entry. `files` has the facts of the existing files that it names, by key."""

    api_version: str
    default_locale: str
    now: datetime
    new_id: Callable[[], str]
    files: Mapping[str, FileFacts]


@dataclass(frozen=True, slots=True)
class EntryChange:
    """The entry after a change, and the events to send, in order."""

    entry: EntryState
    events: tuple[Event, ...]


def apply(entry: EntryState, body: PatchBody, context: PatchContext) -> EntryChange:
    """
    Apply a valid PATCH body to an entry.

    Raises:
        Problem: 409 for another version, or if the entry's state forbids an operation; 404 for an unknown usage log
            entry; 400 for a missing file.
    """
    if body.version is not None and body.version != str(entry.version):
        raise conflict(f"Version: Expected {entry.version} to be equal to {body.version}")
    changed, events = entry, list[Event]()
    for position, operation in enumerate(body.operations):
        changed, event = _apply_one(changed, operation, f"patches.{position}", context)
        if event is not None and event not in events:
            events.append(event)
    now = iso_ms(context.now)
    changed = replace(
        changed,
        version=entry.version + 1,
        updated_at=entry.updated_at if body.is_updated_at_kept else now,
    )
    return EntryChange(changed, tuple(events))


def _apply_one(  # noqa: C901 - one case per operation
    entry: EntryState, operation: Operation, path: str, context: PatchContext
) -> tuple[EntryState, Event | None]:
    match operation:
        case SetMetadataProperty(name, value):
            metadata = {key: kept for key, kept in entry.metadata.items() if key != name}
            return replace(entry, metadata=metadata if value is None else {**metadata, name: value}), "update"
        case Archive():
            return replace(entry, is_archived=True), "archive"
        case ReplaceAsset():
            return _replace_asset(entry, operation, path, context), "update"
        case RemoveAsset(locale):
            return _remove_asset(entry, locale, path, context), "update"
        case RevokeAsset(note):
            if entry.is_revoked and versions.is_in(versions.REVOKE_CONFLICT_SINCE, context.api_version):
                raise conflict("The asset is already revoked")
            return replace(entry, is_revoked=True, note=note), "revoke"
        case UnrevokeAsset():
            if not entry.is_revoked:
                raise conflict("The asset is not revoked")
            unrevoked = replace(entry, is_revoked=False, note=None)
            return unrevoked, "active" if unrevoked.is_served else "update"
        case AddUsageLogEntry():
            return _add_usage(entry, operation, context), None
        case UpdateUsageLogEntry():
            return _update_usage(entry, operation, path), None
        case RemoveUsageLogEntry(usage_id):
            _usage(entry, usage_id)
            return replace(entry, usage_log=tuple(usage for usage in entry.usage_log if usage.id != usage_id)), None


def _replace_asset(entry: EntryState, operation: ReplaceAsset, path: str, context: PatchContext) -> EntryState:
    facts = context.files.get(operation.key)
    if facts is None:
        raise invalid({f"{path}.value.key": "There is no file with this key in the storage"})
    picture = facts.picture
    asset = Asset(
        key=operation.key,
        url=operation.url,
        mime_type=operation.mime_type or (picture.mime_type if picture else "application/octet-stream"),
        width_px=operation.width_px or (picture.width_px if picture else 0),
        height_px=operation.height_px or (picture.height_px if picture else 0),
        size_bytes=facts.fingerprint.size_bytes if operation.size_bytes is None else operation.size_bytes,
        filename=operation.filename or operation.key.rpartition("/")[2],
    )
    keys = entry.keys if operation.key in entry.keys else (*entry.keys, operation.key)
    if operation.locale is None or operation.locale == context.default_locale:
        return replace(entry, asset=asset, keys=keys)
    return replace(entry, translations={**entry.translations, operation.locale: asset}, keys=keys)


def _remove_asset(entry: EntryState, locale: str, path: str, context: PatchContext) -> EntryState:
    if locale == context.default_locale:
        raise invalid({f"{path}.locale": "The asset of the default locale cannot be removed"})
    if locale not in entry.translations:
        raise invalid({f"{path}.locale": f"There is no asset for the locale {locale}"})
    return replace(entry, translations={name: asset for name, asset in entry.translations.items() if name != locale})


def _add_usage(entry: EntryState, operation: AddUsageLogEntry, context: PatchContext) -> EntryState:
    if len(entry.usage_log) >= USAGES_MAX:
        raise conflict(f"The usage log has {USAGES_MAX} entries; no more are taken")
    usage = UsageEntry(
        id=context.new_id(),
        state=operation.state,
        purpose=operation.purpose,
        url=operation.url,
        params=operation.params or {},
        publication_date=iso_ms(operation.publication_date) if operation.publication_date else None,
        reporting_date=iso_ms(context.now),
    )
    return replace(entry, usage_log=(*entry.usage_log, usage))


def _update_usage(entry: EntryState, operation: UpdateUsageLogEntry, path: str) -> EntryState:
    usage = _usage(entry, operation.usage_log_entry_id)
    for name, value in (operation.old_value or {}).items():
        if _comparable(name, value) != usage_json(usage)[name]:
            raise conflict(f"oldValue.{name}: Expected the usage log entry to have this value")
    changed = replace(
        usage,
        state=operation.state,
        purpose=operation.purpose or usage.purpose,
        url=operation.url if operation.url is not None else usage.url,
        params=operation.params if operation.params is not None else usage.params,
        publication_date=iso_ms(operation.publication_date) if operation.publication_date else usage.publication_date,
    )
    if changed.state == "confirmed" and changed.publication_date is None:
        raise invalid({f"{path}.value.publicationDate": "Required when the state is confirmed"})
    return replace(entry, usage_log=tuple(changed if each.id == usage.id else each for each in entry.usage_log))


def _usage(entry: EntryState, usage_id: str) -> UsageEntry:
    for usage in entry.usage_log:
        if usage.id == usage_id:
            return usage
    raise named(404, "NotFound", f"Usage log entry does not exist (id: '{usage_id}')")


def _comparable(name: str, value: Any) -> Any:
    # The same moment may be written in another zone. `read_patch` has checked that it is a moment.
    return utc_moment(value) if name == "publicationDate" and value is not None else value


def usage_json(usage: UsageEntry) -> dict[str, Any]:
    """Return one entry of the usage log as JSON."""
    return {
        "id": usage.id,
        "url": usage.url,
        "state": usage.state,
        "params": dict(usage.params),
        "purpose": usage.purpose,
        "documentId": usage.document_id,
        "publicationId": usage.publication_id,
        "reportingDate": usage.reporting_date,
        "publicationDate": usage.publication_date,
    }


def mark_invalid(entry: EntryState, now: datetime, *, is_invalid: bool) -> EntryChange:
    """Mark an entry as invalid, as a library does when a licence expires, or as valid again."""
    changed = replace(entry, is_invalid=is_invalid, version=entry.version + 1, updated_at=iso_ms(now))
    if is_invalid:
        return EntryChange(changed, ("invalid",))
    return EntryChange(changed, ("active" if changed.is_served else "update",))


def media_references(entry: EntryState) -> tuple[tuple[str, str], ...]:
    """
    Return `(property name, entry id)` for each entry to which the metadata of this entry refers.

    A property may hold one reference or a list. A reference is an object with `mediaId`, or
    `{"$ref": …, "reference": {"id": …}}`.
    """
    found: list[tuple[str, str]] = []
    for name, value in entry.metadata.items():
        for item in value if isinstance(value, list) else [value]:
            target = _target(item)
            if target is not None and (name, target) not in found:
                found.append((name, target))
    return tuple(found)


def _target(item: Any) -> str | None:
    if not isinstance(item, dict):
        return None
    reference = item.get("reference")
    target = item.get("mediaId") or (reference.get("id") if isinstance(reference, dict) else None)
    return target if isinstance(target, str) and target else None
