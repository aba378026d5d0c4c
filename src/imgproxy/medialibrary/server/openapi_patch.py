"""The JSON Schema of a PATCH body, for the OpenAPI document. It describes what `patch_body.read_patch` accepts."""

from __future__ import annotations

from typing import Any, Final

from imgproxy.medialibrary import versions
from imgproxy.medialibrary.server.keys import KEY_MAX_CHARS, KEY_PATTERN
from imgproxy.medialibrary.server.patch_body import (
    HANDLE,
    LOCALE,
    MIME_TYPE,
    PATCHES_MAX,
    PROPERTY_MAX_CHARS,
    STATES,
)
from imgproxy.medialibrary.server.validation import INTEGER_MAX, TEXT_MAX_CHARS

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": TEXT_MAX_CHARS}
_NAME: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": PROPERTY_MAX_CHARS}
_USAGE: Final[dict[str, Schema]] = {
    "state": {"enum": list(STATES)},
    "purpose": {"type": "string", "pattern": f"^{HANDLE.pattern}$"},
    "publicationDate": {"type": "string", "format": "date-time"},
    "url": _TEXT,
    "params": {"type": "object"},
}


def patch_body(api_version: str, *, default_locale: str) -> Schema:
    """Return the schema of a PATCH body in one API version."""
    properties: dict[str, Schema] = {
        "version": {
            "type": "string",
            "minLength": 1,
            "maxLength": 40,
            "description": "The current version of the entry; another one is a conflict.",
        },
        "patches": {
            "type": "array",
            "minItems": 1,
            "maxItems": PATCHES_MAX,
            "description": "Applied in order, all or none.",
            "items": {"oneOf": _operations(api_version, default_locale)},
        },
    }
    if versions.is_in(versions.PRESERVE_UPDATED_AT_SINCE, api_version):
        properties["preserveUpdatedAt"] = {"type": "boolean", "default": False}
    return _object(properties, required=["patches"])


def _operations(api_version: str, default_locale: str) -> list[Schema]:
    has_note = versions.is_in(versions.NOTE_SINCE, api_version)
    note = {"note": {"type": "string", "maxLength": versions.NOTE_MAX_CHARS}} if has_note else {}
    locale = {"type": "string", "pattern": f"^{LOCALE.pattern}$"}
    usage_id = {"usageLogEntryId": _NAME}
    shapes: dict[str, tuple[dict[str, Schema], list[str]]] = {
        "setMetadataProperty": ({"propertyName": _NAME, "value": {}}, ["propertyName"]),
        "archive": ({}, []),
        "replaceAsset": ({"value": _file(), "locale": locale}, ["value"]),
        "removeAsset": ({"locale": {**locale, "not": {"const": default_locale}}}, ["locale"]),
        "revokeAsset": (note, []),
        "unrevokeAsset": ({}, []),
        "addUsageLogEntry": ({"value": _usage(["purpose"])}, ["value"]),
        "updateUsageLogEntry": (
            {**usage_id, "value": _usage(["state"]), "oldValue": _object(_USAGE)},
            ["usageLogEntryId", "value"],
        ),
        "removeUsageLogEntry": (usage_id, ["usageLogEntryId"]),
    }
    return [
        _object({"operation": {"const": name}, **properties}, required=["operation", *required])
        for name, (properties, required) in shapes.items()
        if versions.is_in(versions.OPERATION_SINCE[name], api_version)
    ]


def _file() -> Schema:
    side = {"type": "integer", "minimum": 1, "maximum": INTEGER_MAX}
    properties: dict[str, Schema] = {
        "key": {
            "type": "string",
            "minLength": 1,
            "maxLength": KEY_MAX_CHARS,
            "pattern": KEY_PATTERN,
            "description": "The file must exist in the storage.",
        },
        "url": _TEXT,
        "size": {"type": "integer", "minimum": 0, "maximum": INTEGER_MAX},
        "width": side,
        "height": side,
        "filename": _TEXT,
        "mimeType": {"type": "string", "pattern": f"^{MIME_TYPE.pattern}$"},
    }
    return _object(properties, required=["key"])


def _usage(required: list[str]) -> Schema:
    confirmed = {"properties": {"state": {"const": "confirmed"}}, "required": ["state"]}
    dated = {} if required == ["state"] else {"if": confirmed, "then": {"required": ["publicationDate"]}}
    return {**_object(_USAGE, required=required), **dated}


def _object(properties: dict[str, Schema], *, required: list[str] | None = None) -> Schema:
    needed = {"required": required} if required else {}
    return {"type": "object", "properties": properties, **needed, "additionalProperties": False}
