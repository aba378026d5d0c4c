"""
The eight endpoints of the API, in every version: permission, parameters, answer.

Each endpoint is a row of `ENDPOINTS`: path, scope, first version, query parameters.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from imgproxy.medialibrary import versions
from imgproxy.medialibrary.server import responses
from imgproxy.medialibrary.server.access import READ, WRITE, AccessToken, authorize
from imgproxy.medialibrary.server.cursors import read_cursor
from imgproxy.medialibrary.server.keys import key_from_path
from imgproxy.medialibrary.server.patch_body import read_patch
from imgproxy.medialibrary.server.problems import named, unknown_route
from imgproxy.medialibrary.server.validation import INTEGER_MAX, Validator, query_integer, read_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from imgproxy.medialibrary.server.faults import Faults
    from imgproxy.medialibrary.server.probe import Probe
    from imgproxy.medialibrary.server.serving import ImageServer
    from imgproxy.medialibrary.server.store import LibraryStore
    from imgproxy.medialibrary.server.store.references import Referrers

IDS_MAX: Final = 500
IDS_MAX_CHARS: Final = 6_000
TEXT_MAX_CHARS: Final = 500
_HOST_FORM: Final = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,255}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint. The probe counts its requests under `name`, and the OpenAPI document uses it as operation id."""

    name: str
    method: str
    path: str
    scope: str
    since: str
    parameters: frozenset[str] = frozenset()


_PAGED: Final = frozenset({"limit", "offset", "after"})

ENDPOINTS: Final = (
    Endpoint("getEntries", "GET", "", READ, "2020-10", frozenset({"ids", "externalId", "systemName"})),
    Endpoint("serveImage", "GET", "/serve-image/{key:(?s:.*)}", READ, versions.SERVE_IMAGE_SINCE),
    Endpoint("getEntry", "GET", "/{id}", READ, "2020-10"),
    Endpoint("patchEntry", "PATCH", "/{id}", WRITE, "2020-12"),
    Endpoint("incomingDocumentReferences", "GET", "/{id}/incomingDocumentReferences", READ, "2020-10", _PAGED),
    Endpoint("incomingMediaReferences", "GET", "/{id}/incomingMediaReferences", READ, "2020-10", _PAGED),
    Endpoint("usageLog", "GET", "/{id}/usageLog", READ, versions.USAGE_LOG_SINCE),
    Endpoint("keys", "GET", "/{id}/keys", READ, versions.KEYS_SINCE),
)


class Api:
    """Answers the endpoints from one store."""

    def __init__(
        self,
        store: LibraryStore,
        images: ImageServer,
        *,
        tokens: Sequence[AccessToken],
        faults: Faults,
        probe: Probe | None,
        oldest_version: str,
    ) -> None:
        self._store = store
        self._images = images
        self._tokens = tokens
        self._faults = faults
        self._probe = probe
        self._oldest_version = oldest_version

    def routes(self) -> list[web.RouteDef]:
        """Return one route per endpoint. It serves all versions."""
        handlers: dict[str, Callable[[web.Request, str], Awaitable[web.StreamResponse]]] = {
            "getEntries": self._get_entries,
            "serveImage": self._serve_image,
            "getEntry": self._get_entry,
            "patchEntry": self._patch_entry,
            "incomingDocumentReferences": self._document_references,
            "incomingMediaReferences": self._media_references,
            "usageLog": self._usage_log,
            "keys": self._keys,
        }
        return [
            web.route(
                each.method, f"/api/{{version}}/mediaLibrary{each.path}", self._with_checks(each, handlers[each.name])
            )
            for each in ENDPOINTS
        ]

    def _with_checks(
        self, endpoint: Endpoint, handler: Callable[[web.Request, str], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def checked(request: web.Request) -> web.StreamResponse:
            if self._probe is not None:
                self._probe.count_request(
                    endpoint.name, request.match_info.get("id") or request.match_info.get("key", "")
                )
            await self._faults.delay_or_fail()
            api_version = self._version(request.match_info["version"])
            if not versions.is_in(endpoint.since, api_version):
                raise unknown_route()
            authorize(request.headers.get("Authorization"), self._tokens, endpoint.scope)
            if endpoint.name != "serveImage":
                self._check_parameters(request, endpoint, api_version)
            return await handler(request, api_version)

        return checked

    def _version(self, text: str) -> str:
        if versions.is_served(text) and text >= self._oldest_version:
            return text
        if versions.has_form(text) and text < self._oldest_version:
            raise named(410, "Gone", f"The API version {text} is retired; {self._oldest_version} is the oldest served")
        raise unknown_route()

    @staticmethod
    def _check_parameters(request: web.Request, endpoint: Endpoint, api_version: str) -> None:
        check = Validator()
        allowed = endpoint.parameters
        if not versions.is_in(versions.RESULTS_SINCE, api_version):
            allowed -= {"after"}
        for name in request.query:
            if name not in allowed:
                check.refuse(name[:100], "Unexpected query parameter")
            elif len(request.query.getall(name)) > 1:
                check.refuse(name, "Expected one value, got several")
        check.raise_if_invalid()

    # --- entries ---------------------------------------------------------------------------------------------------

    async def _get_entry(self, request: web.Request, api_version: str) -> web.StreamResponse:
        entry = await asyncio.to_thread(self._store.entry, request.match_info["id"])
        return web.json_response(responses.entry_json(entry, _image_base(request, api_version)))

    async def _get_entries(self, request: web.Request, api_version: str) -> web.StreamResponse:
        query, check = request.query, Validator()
        for name in query:
            check.text(query[name], name, max_chars=IDS_MAX_CHARS if name == "ids" else TEXT_MAX_CHARS)
        ids = [text.strip() for text in query.get("ids", "").split(",") if text.strip()]
        if len(ids) > IDS_MAX:
            check.refuse("ids", f"Expected at most {IDS_MAX} ids, got {len(ids)}")
        has_external = "externalId" in query and "systemName" in query
        if not has_external and ("externalId" in query or "systemName" in query):
            missing = "systemName" if "externalId" in query else "externalId"
            check.refuse(missing, "Required: externalId and systemName go together")
        if not ids and not has_external:
            check.refuse("ids", "Required: ids, or externalId with systemName")
        check.raise_if_invalid()
        entries = await asyncio.to_thread(self._store.entries, ids)
        if has_external:
            entries += await asyncio.to_thread(
                self._store.entries_by_external_id, query["systemName"], query["externalId"]
            )
        return web.json_response(responses.entries_json(entries, _image_base(request, api_version), api_version))

    async def _patch_entry(self, request: web.Request, api_version: str) -> web.StreamResponse:
        body = read_patch(read_json(await request.read()), api_version)
        await asyncio.to_thread(self._store.patch, request.match_info["id"], body, api_version)
        return web.json_response({"status": 200})

    async def _keys(self, request: web.Request, _: str) -> web.StreamResponse:
        entry = await asyncio.to_thread(self._store.entry, request.match_info["id"])
        return web.json_response({"results": list(entry.keys)})

    async def _usage_log(self, request: web.Request, _: str) -> web.StreamResponse:
        entry = await asyncio.to_thread(self._store.entry, request.match_info["id"])
        return web.json_response(responses.usage_log_json(entry))

    # --- references ------------------------------------------------------------------------------------------------

    async def _document_references(self, request: web.Request, api_version: str) -> web.StreamResponse:
        return await self._references(request, api_version, "documents")

    async def _media_references(self, request: web.Request, api_version: str) -> web.StreamResponse:
        return await self._references(request, api_version, "media")

    async def _references(self, request: web.Request, api_version: str, kind: Referrers) -> web.StreamResponse:
        entry_id, query, check = request.match_info["id"], request.query, Validator()
        most = versions.REFERENCES_MAX
        limit = query_integer(query.get("limit", str(most)), "limit", check, minimum=1, maximum=most)
        offset = query_integer(query.get("offset", "0"), "offset", check, minimum=0, maximum=INTEGER_MAX)
        after: int | None = 0
        if "after" in query:
            after = read_cursor(query["after"], kind, entry_id)
            if after is None:
                check.refuse("after", "Expected the cursor of an earlier answer to this question")
            if "offset" in query:
                check.refuse("offset", "Expected either after or offset, got both")
        check.raise_if_invalid()
        found = await asyncio.to_thread(
            self._store.references, kind, entry_id, limit=limit or most, offset=offset or 0, after=after or 0
        )
        return web.json_response(responses.references_json(found, kind, entry_id, api_version))

    # --- images ----------------------------------------------------------------------------------------------------

    async def _serve_image(self, request: web.Request, _: str) -> web.StreamResponse:
        # The path as the client sent it. The router decodes and normalises its copy, which would hide `..` parts.
        raw = request.raw_path.partition("?")[0].partition("/serve-image/")[2]
        return await self._images.answer(request, key_from_path(raw))


def _image_base(request: web.Request, api_version: str) -> str:
    host = request.headers.get("Host", "")
    return f"http://{host if _HOST_FORM.fullmatch(host) else 'localhost'}/api/{api_version}/mediaLibrary/serve-image"
