"""Reads the body of `PATCH mediaLibrary/{id}` in any version: JSON in, typed operations out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from imgproxy.medialibrary import versions
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
    UsageState,
)
from imgproxy.medialibrary.server.keys import key_problem
from imgproxy.medialibrary.server.validation import Validator, expected, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATCHES_MAX: Final = 1_000
HANDLE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
LOCALE: Final = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}")
MIME_TYPE: Final = re.compile(r"[a-z]+/[A-Za-z0-9.+-]{1,100}")
PROPERTY_MAX_CHARS: Final = 200
STATES: Final[tuple[UsageState, ...]] = ("pending", "confirmed")


@dataclass(frozen=True, slots=True)
class PatchBody:
    """A valid PATCH body. `version`, if given, must equal the version of the entry."""

    operations: tuple[Operation, ...]
    version: str | None
    is_updated_at_kept: bool


def read_patch(body: Mapping[str, Any], api_version: str) -> PatchBody:
    """
    Check a body by the rules of this API version.

    Raises:
        Problem: 400 with the path of each wrong value.
    """
    check = Validator()
    has_preserve = versions.is_in(versions.PRESERVE_UPDATED_AT_SINCE, api_version)
    check.only(body, {"version", "patches"} | ({"preserveUpdatedAt"} if has_preserve else set()), "")
    version = check.text(body["version"], "version", max_chars=40) if body.get("version") is not None else None
    keep = check.boolean(body["preserveUpdatedAt"], "preserveUpdatedAt") if "preserveUpdatedAt" in body else False
    patches = body.get("patches")
    operations: list[Operation | None] = []
    if not isinstance(patches, list):
        check.refuse("patches", expected("array", patches) if "patches" in body else "Required")
    elif not 1 <= len(patches) <= PATCHES_MAX:
        check.refuse("patches", f"Expected 1 to {PATCHES_MAX} patches, got {len(patches)}")
    else:
        operations = [
            _read_operation(patch, f"patches.{position}", api_version, check) for position, patch in enumerate(patches)
        ]
    check.raise_if_invalid()
    return PatchBody(tuple(operation for operation in operations if operation), version, bool(keep))


def _read_operation(patch: Any, path: str, api_version: str, check: Validator) -> Operation | None:
    if check.mapping(patch, path) is None:
        return None
    name = patch.get("operation")
    if "operation" not in patch:
        check.refuse(f"{path}.operation", "Required")
        return None
    read = _READERS.get(name) if isinstance(name, str) else None
    if read is None or not versions.is_in(versions.OPERATION_SINCE[name], api_version):
        check.refuse(f"{path}.operation", f"No enum match for: {shown(name)}")
        return None
    return read(_Patch(patch, path, api_version, check))


class _Patch:
    """One patch of a body, its path, and the validator that collects what is wrong with it."""

    def __init__(self, patch: Mapping[str, Any], path: str, api_version: str, check: Validator) -> None:
        self.patch = patch
        self.path = path
        self.api_version = api_version
        self.check = check

    def only(self, *names: str) -> None:
        self.check.only(self.patch, {"operation", *names}, self.path)

    def at(self, name: str) -> str:
        return f"{self.path}.{name}"

    def required_text(self, name: str, *, max_chars: int = 200) -> str:
        if name not in self.patch:
            self.check.refuse(self.at(name), "Required")
            return ""
        return self.check.text(self.patch[name], self.at(name), max_chars=max_chars) or ""

    def locale(self) -> str | None:
        if self.patch.get("locale") is None:
            return None
        return self.check.text(self.patch["locale"], self.at("locale"), pattern=LOCALE)

    def value(self) -> Mapping[str, Any]:
        if self.patch.get("value") is None:
            self.check.refuse(self.at("value"), "Required")
            return {}
        return self.check.mapping(self.patch["value"], self.at("value")) or {}


def _set_metadata(patch: _Patch) -> Operation:
    patch.only("propertyName", "value")
    name = patch.required_text("propertyName", max_chars=PROPERTY_MAX_CHARS)
    return SetMetadataProperty(name, patch.patch.get("value"))


def _archive(patch: _Patch) -> Operation:
    patch.only()
    return Archive()


def _replace(patch: _Patch) -> Operation:
    patch.only("value", "locale")
    value, at, check = patch.value(), patch.at("value"), patch.check
    names = ("key", "url", "size", "width", "height", "filename", "mimeType")
    check.only(value, names, at)
    key = value.get("key")
    if isinstance(key, str):
        problem = key_problem(key)
        if problem is not None:
            check.refuse(f"{at}.key", problem)
    elif isinstance(patch.patch.get("value"), dict):
        check.refuse(f"{at}.key", expected("string", key) if "key" in value else "Required")

    def number(name: str, minimum: int) -> int | None:
        given = value.get(name)
        return None if given is None else check.integer(given, f"{at}.{name}", minimum=minimum)

    def text(name: str, pattern: re.Pattern[str] | None = None) -> str | None:
        given = value.get(name)
        return None if given is None else check.text(given, f"{at}.{name}", pattern=pattern)

    return ReplaceAsset(
        key=key if isinstance(key, str) else "",
        url=text("url"),
        size_bytes=number("size", 0),
        width_px=number("width", 1),
        height_px=number("height", 1),
        filename=text("filename"),
        mime_type=text("mimeType", MIME_TYPE),
        locale=patch.locale(),
    )


def _remove(patch: _Patch) -> Operation:
    patch.only("locale")
    if patch.patch.get("locale") is None:
        patch.check.refuse(patch.at("locale"), "Required: the asset of the default locale cannot be removed")
    return RemoveAsset(patch.locale() or "")


def _revoke(patch: _Patch) -> Operation:
    patch.only(*(["note"] if versions.is_in(versions.NOTE_SINCE, patch.api_version) else []))
    note = patch.patch.get("note")
    if note is None or note == "":
        return RevokeAsset()
    return RevokeAsset(patch.check.text(note, patch.at("note"), max_chars=versions.NOTE_MAX_CHARS))


def _unrevoke(patch: _Patch) -> Operation:
    patch.only()
    return UnrevokeAsset()


def _add_usage(patch: _Patch) -> Operation:
    patch.only("value")
    value = patch.value()
    if patch.patch.get("value") is not None and "purpose" not in value:
        patch.check.refuse(patch.at("value.purpose"), "Required")
    usage = _usage(value, patch.at("value"), patch.check)
    state = usage.state or "pending"
    if state == "confirmed" and value.get("publicationDate") is None:
        patch.check.refuse(patch.at("value.publicationDate"), "Required when the state is confirmed")
    return AddUsageLogEntry(usage.purpose or "", state, usage.publication_date, usage.url, usage.params)


def _update_usage(patch: _Patch) -> Operation:
    patch.only("usageLogEntryId", "value", "oldValue")
    usage_id = patch.required_text("usageLogEntryId")
    value = patch.value()
    if patch.patch.get("value") is not None and "state" not in value:
        patch.check.refuse(patch.at("value.state"), "Required")
    usage = _usage(value, patch.at("value"), patch.check)
    old = patch.patch.get("oldValue")
    old_value = None if old is None else patch.check.mapping(old, patch.at("oldValue"))
    if old_value is not None:
        _usage(old_value, patch.at("oldValue"), patch.check)
    return UpdateUsageLogEntry(
        usage_id,
        usage.state or "pending",
        usage.purpose,
        usage.publication_date,
        usage.url,
        usage.params,
        old_value,
    )


def _remove_usage(patch: _Patch) -> Operation:
    patch.only("usageLogEntryId")
    return RemoveUsageLogEntry(patch.required_text("usageLogEntryId"))


@dataclass(frozen=True, slots=True)
class _Usage:
    state: UsageState | None
    purpose: str | None
    publication_date: datetime | None
    url: str | None
    params: Mapping[str, Any] | None


def _usage(value: Mapping[str, Any], path: str, check: Validator) -> _Usage:
    check.only(value, ("state", "purpose", "publicationDate", "url", "params"), path)
    state = value.get("state")
    if "state" in value and state not in STATES:
        check.refuse(f"{path}.state", f"No enum match for: {shown(state)}")
    moment = check.moment(value["publicationDate"], f"{path}.publicationDate") if "publicationDate" in value else None
    return _Usage(
        state=state if state in STATES else None,
        purpose=check.text(value["purpose"], f"{path}.purpose", pattern=HANDLE) if "purpose" in value else None,
        publication_date=datetime.fromisoformat(moment) if moment else None,
        url=check.text(value["url"], f"{path}.url") if value.get("url") is not None else None,
        params=check.mapping(value["params"], f"{path}.params") if value.get("params") is not None else None,
    )


_READERS: Final[dict[str, Callable[[_Patch], Operation]]] = {
    "setMetadataProperty": _set_metadata,
    "archive": _archive,
    "replaceAsset": _replace,
    "removeAsset": _remove,
    "revokeAsset": _revoke,
    "unrevokeAsset": _unrevoke,
    "addUsageLogEntry": _add_usage,
    "updateUsageLogEntry": _update_usage,
    "removeUsageLogEntry": _remove_usage,
}
