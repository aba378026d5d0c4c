"""
The playground's routes below `/-/playground`: the files of the page, and the JSON that it needs.

The files hold no secret and need no token. Every JSON route needs the admin token. The files themselves, and what the
demo's library can do, are handed over by the command that starts the service.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from aiohttp import web

from imgproxy.config.secrets import signing_tokens
from imgproxy.edge.bodies import BodyReader
from imgproxy.edge.errors import RouteNotFound
from imgproxy.edge.headers import SERVER
from imgproxy.edge.images import request_reader
from imgproxy.edge.pages import PLAYGROUND
from imgproxy.edge.route import Route
from imgproxy.errors import BadPlaygroundCall, EntryNotFound
from imgproxy.params.explain import explain
from imgproxy.params.negotiate import read_headers
from imgproxy.params.signature import as_browsers_send, sign

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from imgproxy.config.settings import Settings
    from imgproxy.purge.entry_keys import EntryKeys
    from imgproxy.workers.extras import Detector

PAGE: Final = "index.html"
LISTED_MAX: Final = 60
SIGNED_MAX: Final = 64
_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json"}
# Pictures are shown from memory (`blob:`), because only `fetch` gives a page the headers of an answer.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS: Final = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer", **SERVER}


@dataclass(frozen=True, slots=True)
class ListedPicture:
    """A picture that the page offers. `entry` is the id of its Media Library entry."""

    entry: str
    key: str
    is_revoked: bool = False


@dataclass(frozen=True, slots=True)
class PlaygroundParts:
    """
    What a command hands over.

    `files` are the files of the page by name. `pictures(search, count)` lists pictures whose key has the text; without
    it, those that the edge knows are listed. `set_revoked(entry, is_revoked)` changes the library, in the demo only;
    it raises KeyError for an unknown entry.
    """

    files: Mapping[str, bytes]
    pictures: Callable[[str, int], Awaitable[Sequence[ListedPicture]]] | None = None
    set_revoked: Callable[[str, bool], Awaitable[None]] | None = None


class Playground:
    """Answers the playground's requests."""

    def __init__(
        self, parts: PlaygroundParts, settings: Settings, entries: EntryKeys, detector: Detector | None
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._entries = entries
        self._reader = request_reader(settings, finds_faces=detector is not None)
        self._tokens = signing_tokens(settings.signing)
        self._bodies = BodyReader(settings.purge.max_body_bytes, settings.server.body_timeout_s)

    def routes(self) -> dict[str, Route]:
        """Return the routes, the most special first."""
        return {
            PLAYGROUND: Route("GET", True, self._page),
            f"{PLAYGROUND}/facts": Route("GET", False, self._facts),
            f"{PLAYGROUND}/pictures": Route("GET", False, self._pictures),
            f"{PLAYGROUND}/sign": Route("POST", False, self._sign),
            f"{PLAYGROUND}/explain": Route("POST", False, self._explain),
            f"{PLAYGROUND}/revoke/": Route("POST", False, self._revoke),
            f"{PLAYGROUND}/unrevoke/": Route("POST", False, self._unrevoke),
            f"{PLAYGROUND}/": Route("GET", True, self._file),
        }

    async def _page(self, request: web.BaseRequest, rest: str) -> web.Response:
        del rest
        return await self._file(request, PAGE)

    async def _file(self, request: web.BaseRequest, rest: str) -> web.Response:
        del request
        body = self._parts.files.get(rest)
        if body is None:
            raise RouteNotFound
        kind = _TYPES[rest[rest.rindex(".") :]]
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=_PAGE_HEADERS)

    async def _facts(self, request: web.BaseRequest, rest: str) -> web.Response:
        """Answer with what the page cannot know: this is also how it tries a token."""
        del request, rest
        return _json(
            {
                "widths": list(self._settings.url.width_ladder_px),
                "presets": sorted(self._settings.url.presets),
                "signed": bool(self._tokens),
                "revocable": self._parts.set_revoked is not None,
                "credentials": self._settings.content_credentials.mode != "strip",
            }
        )

    async def _pictures(self, request: web.BaseRequest, rest: str) -> web.Response:
        del rest
        search = request.query.get("search", "").strip().lower()
        if self._parts.pictures is not None:
            found = await self._parts.pictures(search, LISTED_MAX)
        else:
            found = [ListedPicture(entry, key) for key, entry in self._entries.known(search, LISTED_MAX)]
        return _json(
            {"pictures": [{"entry": item.entry, "key": item.key, "revoked": item.is_revoked} for item in found]}
        )

    async def _sign(self, request: web.BaseRequest, rest: str) -> web.Response:
        """Answer with the same targets, signed if the service has signing tokens."""
        del rest
        targets = (await self._read(request)).get("targets")
        if not isinstance(targets, list) or len(targets) > SIGNED_MAX or not all(map(_is_target, targets)):
            raise BadPlaygroundCall(f'{{"targets": ["/2026/03/14/picture.jpg?w=800", …]}}, at most {SIGNED_MAX}')
        sent = [as_browsers_send(target) for target in targets]
        return _json({"targets": [sign(target, self._tokens[0]) if self._tokens else target for target in sent]})

    async def _explain(self, request: web.BaseRequest, rest: str) -> web.Response:
        """Explain a target. Its signature does not matter."""
        del rest
        body = await self._read(request)
        target, accept = body.get("target"), body.get("accept", "")
        if not _is_target(target) or not isinstance(accept, str):
            raise BadPlaygroundCall('{"target": "/2026/03/14/picture.jpg?w=800", "accept": "image/avif"}')
        found = explain(
            as_browsers_send(str(target)),
            read_headers(accept),
            reader=self._reader,
            settings=self._settings.url,
            mount_prefix=self._settings.signing.mount_prefix,
        )
        return _json(found.as_json())

    async def _revoke(self, request: web.BaseRequest, rest: str) -> web.Response:
        del request
        return await self._set_revoked(rest, is_revoked=True)

    async def _unrevoke(self, request: web.BaseRequest, rest: str) -> web.Response:
        del request
        return await self._set_revoked(rest, is_revoked=False)

    async def _set_revoked(self, rest: str, *, is_revoked: bool) -> web.Response:
        if self._parts.set_revoked is None:
            raise RouteNotFound
        entry = unquote(rest)
        try:
            await self._parts.set_revoked(entry, is_revoked)
        except KeyError:
            raise EntryNotFound(entry) from None
        return _json({"entry": entry, "revoked": is_revoked})

    async def _read(self, request: web.BaseRequest) -> dict[str, Any]:
        body = await self._bodies.read_json(request)
        if not isinstance(body, dict):
            raise BadPlaygroundCall("a JSON object")
        return body


def _is_target(value: object) -> bool:
    """Whether a value is a path, maybe with a query, that can be sent as UTF-8."""
    if not isinstance(value, str) or not value.startswith("/"):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json(body: object) -> web.Response:
    text = json.dumps(body, ensure_ascii=False).encode() + b"\n"
    return web.Response(body=text, content_type="application/json", headers=SERVER)
