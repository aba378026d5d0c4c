"""
The patches of `PATCH mediaLibrary/{id}`, as typed values.

`to_json` refuses a patch that the API version in use does not have, so that nothing is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, ClassVar, Final, Literal

from imgproxy.medialibrary.errors import VersionTooOld
from imgproxy.medialibrary.moments import iso_ms
from imgproxy.medialibrary.versions import NOTE_SINCE, OPERATION_SINCE, is_in


@dataclass(frozen=True, slots=True)
class SetMetadataProperty:
    """Set a metadata property; the value None removes it."""

    operation: ClassVar[str] = "setMetadataProperty"
    property_name: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class Archive:
    """Archive the entry."""

    operation: ClassVar[str] = "archive"


@dataclass(frozen=True, slots=True)
class ReplaceAsset:
    """Give the entry another file of the library's storage. With `locale`: give it to that translation."""

    operation: ClassVar[str] = "replaceAsset"
    key: str
    url: str | None = None
    size_bytes: int | None = None
    width_px: int | None = None
    height_px: int | None = None
    filename: str | None = None
    mime_type: str | None = None
    locale: str | None = None


@dataclass(frozen=True, slots=True)
class RemoveAsset:
    """Remove the asset of a translation. The asset of the default locale cannot be removed."""

    operation: ClassVar[str] = "removeAsset"
    locale: str


@dataclass(frozen=True, slots=True)
class RevokeAsset:
    """Revoke the asset: serve-image refuses it from now on. `note` has at most 200 characters (from 2026-01)."""

    operation: ClassVar[str] = "revokeAsset"
    note: str | None = None


@dataclass(frozen=True, slots=True)
class UnrevokeAsset:
    """Undo a revocation (from 2026-01)."""

    operation: ClassVar[str] = "unrevokeAsset"


UsageState = Literal["pending", "confirmed"]


@dataclass(frozen=True, slots=True)
class AddUsageLogEntry:
    """Report a use (from 2026-05). A confirmed one needs a `publication_date`."""

    operation: ClassVar[str] = "addUsageLogEntry"
    purpose: str
    state: UsageState = "pending"
    publication_date: datetime | None = None
    url: str | None = None
    params: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class UpdateUsageLogEntry:
    """Change a reported use (from 2026-05). With `old_value`: only if the use still has these values."""

    operation: ClassVar[str] = "updateUsageLogEntry"
    usage_log_entry_id: str
    state: UsageState
    purpose: str | None = None
    publication_date: datetime | None = None
    url: str | None = None
    params: Mapping[str, Any] | None = None
    old_value: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RemoveUsageLogEntry:
    """Remove a reported use (from 2026-05)."""

    operation: ClassVar[str] = "removeUsageLogEntry"
    usage_log_entry_id: str


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


# Fields of the patch itself. All other fields are inside its `value`.
_BESIDE_VALUE: Final = frozenset({"property_name", "value", "locale", "note", "usage_log_entry_id", "old_value"})
# JSON names that are not the camel-case form of ours.
_NAMES: Final = {"size_bytes": "size", "width_px": "width", "height_px": "height"}


def to_json(operation: Operation, api_version: str) -> dict[str, Any]:
    """
    Return the patch as the API of this version takes it.

    Raises:
        VersionTooOld: if the operation, or its note, came with a later version.
    """
    require(f"the operation {operation.operation}", OPERATION_SINCE[operation.operation], api_version)
    if isinstance(operation, RevokeAsset) and operation.note is not None:
        require("the note of revokeAsset", NOTE_SINCE, api_version)
    patch: dict[str, Any] = {"operation": operation.operation}
    for item in fields(operation):
        value = getattr(operation, item.name)
        if value is None and not isinstance(operation, SetMetadataProperty):
            continue
        place = patch if item.name in _BESIDE_VALUE else patch.setdefault("value", {})
        place[_NAMES.get(item.name) or _camel(item.name)] = _json_of(value)
    return patch


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _json_of(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso_ms(value)
    return dict(value) if isinstance(value, Mapping) else value


def require(feature: str, since: str, api_version: str) -> None:
    """
    Refuse what the API version in use does not have.

    Raises:
        VersionTooOld: if `feature` came later than `api_version`.
    """
    if not is_in(since, api_version):
        raise VersionTooOld(feature=feature, since=since, api_version=api_version)
