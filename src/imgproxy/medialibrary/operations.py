"""
The patches of `PATCH mediaLibrary/{id}`, as typed values.

`to_json` refuses a patch that the API version in use does not have, so that nothing is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from imgproxy.medialibrary.errors import VersionTooOld
from imgproxy.medialibrary.moments import iso_ms
from imgproxy.medialibrary.versions import NOTE_SINCE, OPERATION_SINCE, is_in

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class SetMetadataProperty:
    """Set a metadata property; the value None removes it."""

    operation: ClassVar[str] = "setMetadataProperty"
    property_name: str
    value: Any = None

    def arguments(self) -> dict[str, Any]:
        """The keys of the patch besides `operation`."""
        return {"propertyName": self.property_name, "value": self.value}


@dataclass(frozen=True, slots=True)
class Archive:
    """Archive the entry."""

    operation: ClassVar[str] = "archive"

    def arguments(self) -> dict[str, Any]:
        """The keys of the patch besides `operation`."""
        return {}


@dataclass(frozen=True, slots=True)
class ReplaceAsset:
    """Give the entry another file, which must exist in the library's storage; with `locale`, that of a translation."""

    operation: ClassVar[str] = "replaceAsset"
    key: str
    url: str | None = None
    size_bytes: int | None = None
    width_px: int | None = None
    height_px: int | None = None
    filename: str | None = None
    mime_type: str | None = None
    locale: str | None = None

    def arguments(self) -> dict[str, Any]:
        """The keys of the patch besides `operation`."""
        value = {
            "key": self.key,
            "url": self.url,
            "size": self.size_bytes,
            "width": self.width_px,
            "height": self.height_px,
            "filename": self.filename,
            "mimeType": self.mime_type,
        }
        return {"value": _present(value), **_present({"locale": self.locale})}


@dataclass(frozen=True, slots=True)
class RemoveAsset:
    """Remove the asset of a translation; that of the default locale cannot be removed."""

    operation: ClassVar[str] = "removeAsset"
    locale: str

    def arguments(self) -> dict[str, Any]:
        """The keys of the patch besides `operation`."""
        return {"locale": self.locale}


@dataclass(frozen=True, slots=True)
class RevokeAsset:
    """Revoke the asset: serve-image refuses it from now on. `note` has at most 200 characters (from 2026-01)."""

    operation: ClassVar[str] = "revokeAsset"
    note: str | None = None

    def arguments(self) -> dict[str, Any]:
        """The keys of the patch besides `operation`."""
        return _present({"note": self.note})


@dataclass(frozen=True, slots=True)
class UnrevokeAsset:
    """Undo a revocation (from 2026-01)."""

    operation: ClassVar[str] = "unrevokeAsset"

    def arguments(self) -> dict[str, Any]:
        """The keys of the patch besides `operation`."""
        return {}


UsageState = Literal["pending", "confirmed"]


@dataclass(frozen=True, slots=True)
class AddUsageLogEntry:
    """Report a use (from 2026-05); `publication_date` is required where the state is confirmed."""

    operation: ClassVar[str] = "addUsageLogEntry"
    purpose: str
    state: UsageState = "pending"
    publication_date: datetime | None = None
    url: str | None = None
    params: Mapping[str, Any] | None = None

    def arguments(self) -> dict[str, Any]:
        """The keys of the patch besides `operation`."""
        return {"value": _usage(self)}


@dataclass(frozen=True, slots=True)
class UpdateUsageLogEntry:
    """Change a reported use (from 2026-05); with `old_value`, only if the use still has these values."""

    operation: ClassVar[str] = "updateUsageLogEntry"
    usage_log_entry_id: str
    state: UsageState
    purpose: str | None = None
    publication_date: datetime | None = None
    url: str | None = None
    params: Mapping[str, Any] | None = None
    old_value: Mapping[str, Any] | None = None

    def arguments(self) -> dict[str, Any]:
        """The keys of the patch besides `operation`."""
        condition = _present({"oldValue": None if self.old_value is None else dict(self.old_value)})
        return {"usageLogEntryId": self.usage_log_entry_id, "value": _usage(self), **condition}


@dataclass(frozen=True, slots=True)
class RemoveUsageLogEntry:
    """Remove a reported use (from 2026-05)."""

    operation: ClassVar[str] = "removeUsageLogEntry"
    usage_log_entry_id: str

    def arguments(self) -> dict[str, Any]:
        """The keys of the patch besides `operation`."""
        return {"usageLogEntryId": self.usage_log_entry_id}


Operation = (
    SetMetadataProperty
    | Archive
    | ReplaceAsset
    | RemoveAsset
    | RevokeAsset
    | UnrevokeAsset
    | AddUsageLogEntry
    | UpdateUsageLogEntry
    | RemoveUsageLogEntry
)


def to_json(operation: Operation, api_version: str) -> dict[str, Any]:
    """
    Return the patch as the API of this version takes it.

    Raises:
        VersionTooOld: if the operation, or its note, came with a later version.
    """
    require(f"the operation {operation.operation}", OPERATION_SINCE[operation.operation], api_version)
    if isinstance(operation, RevokeAsset) and operation.note is not None:
        require("the note of revokeAsset", NOTE_SINCE, api_version)
    return {"operation": operation.operation, **operation.arguments()}


def require(feature: str, since: str, api_version: str) -> None:
    """
    Refuse what the API version in use does not have.

    Raises:
        VersionTooOld: if `feature` came later than `api_version`.
    """
    if not is_in(since, api_version):
        raise VersionTooOld(feature=feature, since=since, api_version=api_version)


def _usage(operation: AddUsageLogEntry | UpdateUsageLogEntry) -> dict[str, Any]:
    return _present(
        {
            "state": operation.state,
            "purpose": operation.purpose,
            "publicationDate": None if operation.publication_date is None else iso_ms(operation.publication_date),
            "url": operation.url,
            "params": None if operation.params is None else dict(operation.params),
        }
    )


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
