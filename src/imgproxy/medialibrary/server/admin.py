"""
Routes under `/-/library/`, for the demo and for tests. They do what the CMS does in a real library.

    GET  /-/library/entries                       every entry: id, key, status, …
    POST /-/library/entries/{id}/invalid          mark as invalid, like an expired licence
    POST /-/library/entries/{id}/active           mark as valid again
    POST /-/library/entries/{id}/external         {"systemName", "externalId"}
    POST /-/library/documents                     {"id", "references": [{"id": entry, …}], …}

All need a token with the scope public-api:write. A document replaces its earlier version. A document with a `purpose`
(optionally also `publicationId` and `url`) is added to the usage log of each entry that it uses.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from imgproxy.medialibrary.server.access import WRITE, AccessToken, authorize
from imgproxy.medialibrary.server.patch_body import HANDLE
from imgproxy.medialibrary.server.responses import listing_json
from imgproxy.medialibrary.server.state import Document
from imgproxy.medialibrary.server.validation import Validator, expected, read_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from imgproxy.medialibrary.server.store import LibraryStore

REFERENCES_MAX: Final = 1_000
_REFERENCE_TEXTS: Final = ("componentId", "componentName", "directiveName", "propertyName")


class Admin:
    """Answers the routes under `/-/library/`."""

    def __init__(self, store: LibraryStore, tokens: Sequence[AccessToken]) -> None:
        self._store = store
        self._tokens = tokens

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        entry = "/-/library/entries/{id}"
        return [
            web.get("/-/library/entries", self._with_token_check(self._list)),
            web.post(f"{entry}/invalid", self._with_token_check(self._invalid)),
            web.post(f"{entry}/active", self._with_token_check(self._active)),
            web.post(f"{entry}/external", self._with_token_check(self._external)),
            web.post("/-/library/documents", self._with_token_check(self._publish)),
        ]

    def _with_token_check(
        self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def checked(request: web.Request) -> web.StreamResponse:
            authorize(request.headers.get("Authorization"), self._tokens, WRITE)
            return await handler(request)

        return checked

    async def _list(self, _: web.Request) -> web.StreamResponse:
        entries = await asyncio.to_thread(self._store.all_entries)
        return web.json_response([listing_json(entry) for entry in entries])

    async def _invalid(self, request: web.Request) -> web.StreamResponse:
        await asyncio.to_thread(self._store.mark_invalid, request.match_info["id"], is_invalid=True)
        return web.json_response({"status": 200})

    async def _active(self, request: web.Request) -> web.StreamResponse:
        await asyncio.to_thread(self._store.mark_invalid, request.match_info["id"], is_invalid=False)
        return web.json_response({"status": 200})

    async def _external(self, request: web.Request) -> web.StreamResponse:
        body, check = read_json(await request.read()), Validator()
        check.only(body, ("systemName", "externalId"), "")
        system_name = check.text(body.get("systemName"), "systemName", max_chars=200)
        external_id = check.text(body.get("externalId"), "externalId", max_chars=200)
        check.raise_if_invalid()
        await asyncio.to_thread(
            self._store.set_external_id, request.match_info["id"], system_name or "", external_id or ""
        )
        return web.json_response({"status": 200})

    async def _publish(self, request: web.Request) -> web.StreamResponse:
        document = read_document(read_json(await request.read()))
        await asyncio.to_thread(self._store.publish, document)
        return web.json_response({"status": 200, "id": document.id})


def read_document(body: Mapping[str, Any]) -> Document:
    """
    Check a document from a request body.

    Raises:
        Problem: 400 with the path of each wrong value.
    """
    check = Validator()
    check.only(body, ("id", "references", "publicationId", "url", "purpose"), "")
    given = body.get("references")
    references = []
    if not isinstance(given, list) or len(given) > REFERENCES_MAX:
        check.refuse("references", f"{expected('array', given)}, of at most {REFERENCES_MAX}")
    else:
        references = [_reference(each, f"references.{position}", check) for position, each in enumerate(given)]
    publication_id = body.get("publicationId")
    document = Document(
        id=check.integer(body.get("id"), "id", minimum=1) or 0,
        references=tuple(references),
        publication_id=None if publication_id is None else check.integer(publication_id, "publicationId"),
        url=None if body.get("url") is None else check.text(body["url"], "url"),
        purpose=None if body.get("purpose") is None else check.text(body["purpose"], "purpose", pattern=HANDLE),
    )
    check.raise_if_invalid()
    return document


def _reference(value: Any, path: str, check: Validator) -> dict[str, Any]:
    if check.mapping(value, path) is None:
        return {}
    check.only(value, ("id", "type", "location", *_REFERENCE_TEXTS), path)
    location = value.get("location", "image-directive")
    if location not in {"image-directive", "metadata"}:
        check.refuse(f"{path}.location", "Expected image-directive or metadata")
    texts = {
        name: check.text(value[name], f"{path}.{name}", max_chars=200) for name in _REFERENCE_TEXTS if name in value
    }
    entry_id = check.text(value.get("id"), f"{path}.id", max_chars=200)
    return {"id": entry_id, "type": "image", "location": location, **texts}
