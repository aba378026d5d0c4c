"""The `/-/` routes and imgix's purge API: purge, warm, state. Routes that are not open need the admin token."""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from aiohttp import web

from imgproxy.edge.bodies import BodyReader
from imgproxy.edge.errors import MethodNotAllowed, RouteNotFound
from imgproxy.edge.headers import SERVER
from imgproxy.edge.route import Route
from imgproxy.errors import BadPurge, EntryNotFound, NotFound, ReceiptNotFound, Unauthorized
from imgproxy.params.parse import check_path, split_target
from imgproxy.purge.entry_keys import is_entry_id
from imgproxy.purge.service import TAKEDOWNS
from imgproxy.secret_text import is_blank
from imgproxy.telemetry import metrics as metrics_page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgproxy.config.settings import Settings
    from imgproxy.delivery.warming import Warming
    from imgproxy.edge.state import ServiceState
    from imgproxy.purge.receipts import Receipt
    from imgproxy.purge.service import PurgeService
    from imgproxy.purge.webhooks import Webhooks
    from imgproxy.telemetry.metrics import Metrics


MAX_KEYS = 10_000
CONFIRMATION = {"confirm": "all"}
REASON_MAX_CHARS = 40
RECEIPTS_LISTED = 20
RECEIPTS_LISTED_MAX = 1000
NUMBER_MAX_DIGITS = 18


class AdminRoutes:
    """Answers every request that is not for an image."""

    def __init__(
        self,
        settings: Settings,
        *,
        admin_tokens: tuple[str, ...],
        purges: PurgeService,
        webhooks: Webhooks,
        warming: Warming,
        state: ServiceState,
        metrics: Metrics,
        more: Mapping[str, Route],
    ) -> None:
        """`more`: routes of other modules by path. A path that ends in `/` is a prefix; the first that fits counts."""
        self._settings = settings
        self._tokens = admin_tokens
        self._purges = purges
        self._webhooks = webhooks
        self._warming = warming
        self._state = state
        self._metrics = metrics
        timeout_s = settings.server.body_timeout_s
        self._bodies = BodyReader(settings.purge.max_body_bytes, timeout_s)
        self._events = BodyReader(settings.webhook.max_body_bytes, timeout_s)
        self._routes = {
            "/-/health": Route("GET", True, self._health),
            "/-/ready": Route("GET", True, self._ready),
            "/-/metrics": Route("GET", False, self._metrics_page),
            "/-/status": Route("GET", False, self._status),
            "/-/purge/entries/": Route("POST", False, self._purge_entry),
            "/-/purge/keys": Route("POST", False, self._purge_keys),
            "/-/purge/all": Route("POST", False, self._purge_all),
            "/-/purges": Route("GET", False, self._receipts),
            "/-/purges/": Route("GET", False, self._receipt_of),
            "/-/warm/entries/": Route("POST", False, self._warm_entry),
            "/-/warm/keys": Route("POST", False, self._warm_keys),
            "/-/webhooks/livingdocs": Route("POST", True, self._webhook),
            "/api/v1/purge": Route("POST", False, self._purge_url),
            **more,
        }

    async def handle(self, request: web.BaseRequest, target: str) -> web.Response:
        """
        Answer an admin request. `target` is its raw path and query.

        Raises:
            ImgproxyError: the request is wrong, or failed.
        """
        path = target.split("?", 1)[0]
        found, rest = self._find(path)
        allowed = "GET, HEAD" if found.method == "GET" else found.method
        if request.method == "OPTIONS":
            return web.Response(status=204, headers={"Allow": f"{allowed}, OPTIONS", **SERVER})
        if request.method not in allowed.split(", "):
            raise MethodNotAllowed(request.method, f"{allowed}, OPTIONS")
        if not found.is_open:
            self.authorize(request)
        return await found.answer(request, rest)

    async def purge_key(self, request: web.BaseRequest, target: str) -> web.Response:
        """Answer PURGE /{key}. The parameters of the URL do not matter."""
        self.authorize(request)
        key, _, _ = split_target(target.split("?", 1)[0], mount_prefix=self._settings.signing.mount_prefix)
        return _receipt(await self._purges.purge_keys([key], reason="manual"))

    def authorize(self, request: web.BaseRequest) -> None:
        """
        Check the admin token, in constant time.

        Raises:
            Unauthorized: it is missing or wrong, or no token is configured.
        """
        if not is_bearer(request.headers.get("Authorization", ""), self._tokens):
            raise Unauthorized

    def _find(self, path: str) -> tuple[Route, str]:
        if (route := self._routes.get(path)) is not None and not path.endswith("/"):
            return route, ""
        for prefix, route in self._routes.items():
            if prefix.endswith("/") and path.startswith(prefix) and len(path) > len(prefix):
                return route, path[len(prefix) :]
        raise RouteNotFound

    # --- state -------------------------------------------------------------------------------------------------

    async def _health(self, request: web.BaseRequest, rest: str) -> web.Response:
        del request, rest
        return _json({"status": "alive"})

    async def _ready(self, request: web.BaseRequest, rest: str) -> web.Response:
        del request, rest
        found = self._state.readiness_json()
        return _json(found, status=200 if not found["reasons"] else 503)

    async def _metrics_page(self, request: web.BaseRequest, rest: str) -> web.Response:
        del request, rest
        return web.Response(body=self._metrics.page(), headers={"Content-Type": metrics_page.CONTENT_TYPE, **SERVER})

    async def _status(self, request: web.BaseRequest, rest: str) -> web.Response:
        del request, rest
        return _json(self._state.as_json())

    # --- purges ------------------------------------------------------------------------------------------------

    async def _purge_entry(self, request: web.BaseRequest, rest: str) -> web.Response:
        entry = _entry_of(rest)
        reason = request.query.get("reason", "manual")
        if len(reason) > REASON_MAX_CHARS or not reason.isidentifier():
            raise BadPurge(f"reason: expected one word of at most {REASON_MAX_CHARS} letters.")
        is_soft = request.query.get("soft", "0") in ("1", "true")
        if is_soft and reason.lower() in TAKEDOWNS:
            raise BadPurge(f"A soft purge serves the picture once more; for {reason!r} only a hard purge is right.")
        return _receipt(await self._purges.purge_entry(entry, reason=reason, is_soft=is_soft))

    async def _purge_keys(self, request: web.BaseRequest, rest: str) -> web.Response:
        del rest
        return _receipt(await self._purges.purge_keys(await self._read_keys(request), reason="manual"))

    async def _purge_all(self, request: web.BaseRequest, rest: str) -> web.Response:
        del rest
        if await self._bodies.read_json(request) != CONFIRMATION:
            raise BadPurge('This forgets every picture. The body must be {"confirm": "all"}.')
        return _receipt(await self._purges.purge_all(reason="all"))

    async def _read_keys(self, request: web.BaseRequest) -> list[str]:
        """Read the keys of a body, without a leading slash. Raises BadPurge."""
        body = await self._bodies.read_json(request)
        keys = body.get("keys") if isinstance(body, dict) else None
        if not isinstance(keys, list) or not keys or not all(isinstance(key, str) and key for key in keys):
            raise BadPurge('The body must be {"keys": ["2025/03/14/picture.jpeg", …]} with at least one key.')
        if len(keys) > MAX_KEYS:
            raise BadPurge(f"{len(keys)} keys; at most {MAX_KEYS} are accepted in one request.")
        return [check_path(key) for key in keys]

    async def _receipts(self, request: web.BaseRequest, rest: str) -> web.Response:
        """Answer with the latest receipts: of everything, of an entry, or of a key."""
        del rest
        asked = request.query
        entry, key, limit = asked.get("entry"), asked.get("key"), asked.get("limit", str(RECEIPTS_LISTED))
        is_limit = _is_number(limit) and 0 < int(limit) <= RECEIPTS_LISTED_MAX
        if asked.keys() - {"entry", "key", "limit"} or not is_limit or not (entry is None or is_entry_id(entry)):
            raise BadPurge(f"Expected at most: entry=ID or key=KEY, and limit=1 to {RECEIPTS_LISTED_MAX}.")
        if key is not None:
            key = check_path(key)
        return _json({"purges": await self._purges.receipts.latest(entry=entry, key=key, count=int(limit))})

    async def _receipt_of(self, request: web.BaseRequest, rest: str) -> web.Response:
        del request
        if not _is_number(rest):
            raise BadPurge("The path must end in the seq of a receipt, e.g. /-/purges/17.")
        found = await self._purges.receipts.latest(seq=int(rest))
        if not found:
            raise ReceiptNotFound(int(rest))
        return _json(found[0])

    # --- warming -----------------------------------------------------------------------------------------------

    async def _warm_entry(self, request: web.BaseRequest, rest: str) -> web.Response:
        del request
        entry = _entry_of(rest)
        try:
            keys = await self._purges.learn(entry)
        except NotFound:
            raise EntryNotFound(entry) from None
        return await self._warm(keys)

    async def _warm_keys(self, request: web.BaseRequest, rest: str) -> web.Response:
        del rest
        return await self._warm(await self._read_keys(request))

    async def _warm(self, keys: Sequence[str]) -> web.Response:
        if not self._warming.is_configured:
            raise BadPurge('There is nothing to make: set [warm] queries, e.g. ["w=1024&auto=format"].')
        return _json((await self._warming.warm(keys)).as_json())

    async def _purge_url(self, request: web.BaseRequest, rest: str) -> web.Response:
        """Answer imgix's purge API: a JSON:API body with the URL of a picture. The query does not matter."""
        del rest
        body = await self._bodies.read_json(request)
        try:
            url = body["data"]["attributes"]["url"]
            str(url).encode()  # the answer repeats it, so it must be text
            path = urlsplit(url).path if isinstance(url, str) else ""
        except (TypeError, KeyError, ValueError):
            path = ""
        if not path.startswith("/"):
            raise BadPurge('The body must be {"data": {"type": "purges", "attributes": {"url": "https://host/key"}}}.')
        key, _, _ = split_target(path, mount_prefix=self._settings.signing.mount_prefix)
        receipt = await self._purges.purge_keys([key], reason="imgix")
        meta = receipt.as_json()
        number = "pending" if meta["seq"] is None else str(meta["seq"])
        answer = {"data": {"type": "purges", "id": number, "attributes": {"url": url}}, "meta": meta}
        return web.Response(body=_dump(answer), content_type="application/vnd.api+json", headers=SERVER)

    async def _webhook(self, request: web.BaseRequest, rest: str) -> web.Response:
        del rest
        signature = request.headers.get("x-livingdocs-signature")
        self._webhooks.expect_signature(signature)
        receipt = await self._webhooks.receive(await self._events.read(request), signature)
        return _receipt(receipt) if receipt is not None else web.Response(status=204, headers=SERVER)


def is_bearer(header: str, tokens: Sequence[str]) -> bool:
    """Whether an Authorization header has one of the tokens (RFC 6750 section 2.1), in constant time."""
    scheme, _, given = header.partition(" ")
    raw = given.strip().encode("utf-8", "surrogateescape")
    is_right = [hmac.compare_digest(raw, token.encode()) and not is_blank(token) for token in tokens]
    return scheme.lower() == "bearer" and any(is_right)


def _entry_of(rest: str) -> str:
    """Return the entry id at the end of a path. Raises BadPurge."""
    entry = unquote(rest)
    if not is_entry_id(entry):
        raise BadPurge("The path must end in the id of one entry, e.g. /-/purge/entries/PNIi08x4UdEA.")
    return entry


def _is_number(text: str) -> bool:
    """Whether a text is a number that SQLite can hold."""
    return text.isascii() and text.isdecimal() and len(text) <= NUMBER_MAX_DIGITS


def _receipt(receipt: Receipt) -> web.Response:
    return _json(receipt.as_json(), status=200 if receipt.is_complete else 202)


def _json(body: object, *, status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=_dump(body),
        content_type="application/json",
        headers=SERVER,
    )


def _dump(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode() + b"\n"
