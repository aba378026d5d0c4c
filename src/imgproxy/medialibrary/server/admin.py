"""
What a real library does by itself and no endpoint of the API can: routes under `/-/library/`, for demo and tests.

    GET  /-/library/entries                       every entry: id, key, status, …
    POST /-/library/entries/{id}/invalid          mark as invalid, as an expired licence does
    POST /-/library/entries/{id}/active           mark as valid again
    POST /-/library/entries/{id}/external         {"systemName", "externalId"}
    POST /-/library/documents                     {"id", "references": [{"id": entry, …}], …}

All need a token with the scope public-api:write. A document replaces what was known of it; with a `purpose` (and
perhaps `publicationId` and `url`) it also appears in the usage log of each entry it uses.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from imgproxy.medialibrary.server.access import WRITE, AccessToken, authorize
from imgproxy.medialibrary.server.bodies import HANDLE
from imgproxy.medialibrary.server.checks import Problems, expected, read_json
from imgproxy.medialibrary.server.shapes import listing_json
from imgproxy.medialibrary.server.state import Document

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from imgproxy.medialibrary.server.store import LibraryStore

REFERENCES_MAX: Final = 1_000
_REFERENCE_TEXTS: Final = ("componentId", "componentName", "directiveName", "propertyName")


class Admin:
    """The handlers under `/-/library/`."""

    def __init__(self, store: LibraryStore, tokens: Sequence[AccessToken]) -> None:
        self._store = store
        self._tokens = tokens

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        entry = "/-/library/entries/{id}"
        return [
            web.get("/-/library/entries", self._guarded(self._list)),
            web.post(f"{entry}/invalid", self._guarded(self._invalid)),
            web.post(f"{entry}/active", self._guarded(self._active)),
            web.post(f"{entry}/external", self._guarded(self._external)),
            web.post("/-/library/documents", self._guarded(self._publish)),
        ]

    def _guarded(
        self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            authorize(request.headers.get("Authorization"), self._tokens, WRITE)
            return await handler(request)

        return guarded

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
        body, problems = read_json(await request.read()), Problems()
        problems.only(body, ("systemName", "externalId"), "")
        system_name = problems.text(body.get("systemName"), "systemName", max_chars=200)
        external_id = problems.text(body.get("externalId"), "externalId", max_chars=200)
        problems.raise_any()
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
    Check a document.

    Raises:
        Problem: 400 with the path of everything that is wrong.
    """
    problems = Problems()
    problems.only(body, ("id", "references", "publicationId", "url", "purpose"), "")
    given = body.get("references")
    references = []
    if not isinstance(given, list) or len(given) > REFERENCES_MAX:
        problems.note("references", f"{expected('array', given)}, of at most {REFERENCES_MAX}")
    else:
        references = [_reference(each, f"references.{position}", problems) for position, each in enumerate(given)]
    publication_id = body.get("publicationId")
    document = Document(
        id=problems.integer(body.get("id"), "id", minimum=1) or 0,
        references=tuple(references),
        publication_id=None if publication_id is None else problems.integer(publication_id, "publicationId"),
        url=None if body.get("url") is None else problems.text(body["url"], "url"),
        purpose=None if body.get("purpose") is None else problems.text(body["purpose"], "purpose", pattern=HANDLE),
    )
    problems.raise_any()
    return document


def _reference(value: Any, path: str, problems: Problems) -> dict[str, Any]:
    if problems.mapping(value, path) is None:
        return {}
    problems.only(value, ("id", "type", "location", *_REFERENCE_TEXTS), path)
    location = value.get("location", "image-directive")
    if location not in {"image-directive", "metadata"}:
        problems.note(f"{path}.location", "Expected image-directive or metadata")
    texts = {
        name: problems.text(value[name], f"{path}.{name}", max_chars=200) for name in _REFERENCE_TEXTS if name in value
    }
    entry_id = problems.text(value.get("id"), f"{path}.id", max_chars=200)
    return {"id": entry_id, "type": "image", "location": location, **texts}
