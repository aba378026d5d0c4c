"""
The OpenAPI 3.1 document of one API version. Paths come from the table of endpoints. Pure.

The descriptions say what a schema cannot: a cursor belongs to one list, a file must exist, a query needs ids or an
external id with its system.
"""

from __future__ import annotations

from typing import Any, Final

from imgproxy import __version__
from imgproxy.medialibrary import versions
from imgproxy.medialibrary.server.api import ENDPOINTS, IDS_MAX_CHARS, TEXT_MAX_CHARS, Endpoint
from imgproxy.medialibrary.server.keys import KEY_MAX_CHARS, KEY_PART_PATTERN
from imgproxy.medialibrary.server.openapi_patch import patch_body
from imgproxy.medialibrary.server.validation import INTEGER_MAX

Schema = dict[str, Any]

SUMMARIES: Final = {
    "getEntries": "Entries by their ids, or by the id of an external system",
    "serveImage": "A picture in its original dimensions, if it is valid",
    "getEntry": "One entry",
    "patchEntry": "Change an entry: all patches, or none",
    "incomingDocumentReferences": "The published documents that use an entry",
    "incomingMediaReferences": "The entries whose metadata uses an entry",
    "usageLog": "The usage log of an entry",
    "keys": "Every key of an entry, for purging",
}

_MOMENT: Final[Schema] = {"type": "string", "format": "date-time"}
_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}


def document(api_version: str, *, default_locale: str) -> Schema:
    """Return the document of one API version."""
    paths: dict[str, Schema] = {}
    for endpoint in ENDPOINTS:
        if versions.is_in(endpoint.since, api_version):
            path = f"/api/{api_version}/mediaLibrary{endpoint.path}".replace("{key:(?s:.*)}", "{key}")
            paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, api_version)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Media Library API {api_version}",
            "version": api_version,
            "description": f"The embedded Media Library of imgproxy {__version__}.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(api_version, default_locale),
            "responses": _problems(),
        },
    }


def _operation(endpoint: Endpoint, api_version: str) -> Schema:
    parameters = [_PARAMETERS[name] for name in sorted(endpoint.parameters)]
    if not versions.is_in(versions.RESULTS_SINCE, api_version):
        parameters = [parameter for parameter in parameters if parameter["name"] != "after"]
    if "{id}" in endpoint.path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": _ID})
    if "{key" in endpoint.path:
        parameters += _IMAGE_PARAMETERS
    codes = ["400", "401", "403", "404", *(["409", "413"] if endpoint.method == "PATCH" else [])]
    responses: Schema = {
        **(_image_responses() if endpoint.name == "serveImage" else {"200": _json(_ref(endpoint.name))}),
        **{code: {"$ref": f"#/components/responses/{code}"} for code in [*codes, "503"]},
    }
    operation: Schema = {
        "operationId": endpoint.name,
        "summary": SUMMARIES[endpoint.name],
        "description": f"Required scope: `{endpoint.scope}`.",
        "parameters": parameters,
        "responses": responses,
    }
    if endpoint.method == "PATCH":
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref("PatchBody")}}}
    return operation


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


_ID: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": TEXT_MAX_CHARS}
_LIMIT: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": versions.REFERENCES_MAX, "default": 100}
_OFFSET: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": INTEGER_MAX, "default": 0}
_NAME: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": TEXT_MAX_CHARS}
_IDS: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": IDS_MAX_CHARS}
_PARAMETERS: Final[dict[str, Schema]] = {
    "ids": _query("ids", _IDS, "Ids separated by commas; unknown ones are left out. This, or an external id."),
    "externalId": _query("externalId", _NAME, "Id in an external system; needs systemName."),
    "systemName": _query("systemName", _NAME, "The external system; needs externalId."),
    "limit": _query("limit", _LIMIT, "How many at most."),
    "offset": _query("offset", _OFFSET, "How many to leave out; not together with after."),
    "after": _query("after", {"type": "string"}, "The cursor of the last answer of this very list."),
}
_IMAGE_PARAMETERS: Final[list[Schema]] = [
    {
        "name": "key",
        "in": "path",
        "required": True,
        "description": "A key may have several parts, with slashes between them that are not percent-encoded; OpenAPI"
        " knows no such parameter, so this describes a key of one part.",
        "schema": {"type": "string", "minLength": 1, "maxLength": KEY_MAX_CHARS, "pattern": KEY_PART_PATTERN},
    },
    *(
        {"name": name, "in": "header", "required": False, "schema": {"type": "string"}}
        for name in ("If-None-Match", "If-Modified-Since", "Range", "If-Range")
    ),
]


def _schemas(api_version: str, default_locale: str) -> dict[str, Schema]:
    is_new = versions.is_in(versions.RESULTS_SINCE, api_version)

    def references(name: str) -> Schema:
        rows = _list(_ref(name))
        if not is_new:
            return rows
        return _object({"total": _COUNT, "cursor": {"type": ["string", "null"]}, "results": rows})

    return {
        "Entry": _entry(),
        "Problem": _object({"status": {"type": "integer"}, "error": _TEXT, "error_details": _map_of_texts()}),
        "Reference": _reference(),
        "DocumentReferences": _object({"id": {"type": "integer"}, "references": _list(_ref("Reference"))}),
        "MediaReferences": _object({"id": _TEXT, "references": _list(_ref("Reference"))}),
        "PatchBody": patch_body(api_version, default_locale=default_locale),
        "getEntry": _ref("Entry"),
        "getEntries": _object({"results" if is_new else "mediaLibraryEntries": _list(_ref("Entry"))}),
        "patchEntry": _object({"status": {"const": 200}}),
        "incomingDocumentReferences": references("DocumentReferences"),
        "incomingMediaReferences": references("MediaReferences"),
        **({"keys": _results(_TEXT)} if versions.is_in(versions.KEYS_SINCE, api_version) else {}),
        **({"usageLog": _results(_usage())} if versions.is_in(versions.USAGE_LOG_SINCE, api_version) else {}),
    }


def _entry() -> Schema:
    asset = {"url": _TEXT, "mimeType": _TEXT, "width": _COUNT, "height": _COUNT, "size": _COUNT}
    required: dict[str, Schema] = {
        "id": _TEXT,
        "version": {"type": "integer", "minimum": 1},
        "mediaType": _TEXT,
        "asset": _object(asset),
        "metadata": {"type": "object"},
        "createdAt": _MOMENT,
        "updatedAt": _MOMENT,
    }
    return _object(required, optional={"systemName": _TEXT, "externalId": _TEXT})


def _reference() -> Schema:
    names = ("componentId", "componentName", "directiveName", "propertyName")
    required: dict[str, Schema] = {
        "id": _TEXT,
        "type": {"const": "image"},
        "location": {"enum": ["image-directive", "metadata"]},
    }
    return _object(required, optional=dict.fromkeys(names, _TEXT))


def _usage() -> Schema:
    optional_id: Schema = {"type": ["integer", "null"]}
    return _object(
        {
            "id": _TEXT,
            "url": {"type": ["string", "null"]},
            "state": {"enum": ["pending", "confirmed"]},
            "params": {"type": "object"},
            "purpose": _TEXT,
            "documentId": optional_id,
            "publicationId": optional_id,
            "reportingDate": _MOMENT,
            "publicationDate": {"type": ["string", "null"], "format": "date-time"},
        }
    )


def _image_responses() -> Schema:
    content = {"image/*": {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}}
    return {
        "200": {"description": "The picture", "content": content},
        "206": {"description": "The part of it that Range asked for", "content": content},
        "304": {"description": "The client has it already"},
        "416": {"description": "The range has no byte of it", "content": _problem_content()},
    }


def _problems() -> dict[str, Schema]:
    descriptions = {
        "400": "Something in the request is wrong; error_details maps each path to what",
        "401": "No token, or an unknown one",
        "403": "The token lacks the scope, or the image is revoked or invalid",
        "404": "No such entry, image or endpoint",
        "409": "Another version, or a state that forbids it; nothing was changed",
        "413": "The body is too large",
        "503": "Not now",
    }
    return {code: {"description": text, "content": _problem_content()} for code, text in descriptions.items()}


def _problem_content() -> Schema:
    return {"application/json": {"schema": _ref("Problem")}}


def _json(schema: Schema) -> Schema:
    return {"description": "Done", "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _results(schema: Schema) -> Schema:
    return _object({"results": _list(schema)})


def _map_of_texts() -> Schema:
    return {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1}


def _object(properties: dict[str, Schema], *, optional: dict[str, Schema] | None = None) -> Schema:
    every = {**properties, **(optional or {})}
    return {"type": "object", "properties": every, "required": list(properties), "additionalProperties": False}
