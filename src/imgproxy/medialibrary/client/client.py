"""
The typed client of the Media Library API: its eight endpoints, in every version from 2025-03 on.

    async with MediaLibraryClient("https://cms.example", token=TokenSource.literal("…")) as library:
        image = await library.serve_image("2025/03/14/c316.jpeg", Path("original"), max_bytes=100_000_000)
        keys = await library.keys("asze63i9")

Every call has one deadline over all its tries. Errors: `imgproxy.medialibrary.errors`.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from imgproxy.errors import BadUrl
from imgproxy.medialibrary import versions
from imgproxy.medialibrary.client.fetch import ImageFetcher
from imgproxy.medialibrary.client.transport import Call, Transport
from imgproxy.medialibrary.errors import UnexpectedAnswer
from imgproxy.medialibrary.models import (
    DocumentReferences,
    Entry,
    MediaReferences,
    Row,
    ServedImage,
    Usage,
    Validators,
    read,
    read_list,
)
from imgproxy.medialibrary.operations import Operation, require, to_json

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
    from types import TracebackType

    from imgproxy.medialibrary.client.image_file import StrPath
    from imgproxy.medialibrary.client.tokens import TokenSource


log = logging.getLogger(__name__)


class MediaLibraryClient:
    """
    Talks to one Media Library, as one API version.

    Args:
        url: the server, without `/api`.
        api_version: YYYY-MM, from 2025-03 on. One that is newer than `versions.NEWEST` is spoken in the shapes of that
            one, and the log says so.
        token: the source of the access token.
        timeout_s: the deadline of each call, retries included.
        max_attempts: tries of a read. A patch is sent once.
        max_connections: connections at a time. More calls wait, within their deadline.
        ssl_context: for https. None: trust the authorities of the system.
        proxy: URL of a proxy, with its user and password if it needs them. None: no proxy.
        headers: sent with each request to the server itself, besides the token.
        redirect_hosts: hosts that a read may be redirected to, besides the server's own. The token is not sent there.
    """

    def __init__(
        self,
        url: str,
        *,
        token: TokenSource,
        api_version: str = versions.NEWEST,
        timeout_s: float = 10.0,
        max_attempts: int = 3,
        max_connections: int = 64,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | None = None,
        headers: Mapping[str, str] | None = None,
        redirect_hosts: Iterable[str] = (),
    ) -> None:
        if versions.is_newer(api_version):
            log.warning(
                "Public API version %s is newer than this program; it is spoken as %s", api_version, versions.NEWEST
            )
        self.api_version = api_version
        self._base = f"/api/{api_version}/mediaLibrary"
        self._transport = Transport(
            url,
            api_version=api_version,
            token=token,
            timeout_s=timeout_s,
            max_attempts=max_attempts,
            max_connections=max_connections,
            ssl_context=ssl_context,
            proxy=proxy,
            headers=headers or {},
            redirect_hosts=frozenset(host.lower() for host in redirect_hosts),
        )
        self._fetcher = ImageFetcher(self._transport, max_connections=max_connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._fetcher.aclose()
        await self._transport.aclose()

    # --- entries -----------------------------------------------------------------------------------------------

    async def get_entry(self, entry_id: str) -> Entry:
        """Return an entry. Raises LibraryNotFound for an unknown id."""
        call = Call("GET", self._entry_path(entry_id))
        return read(Entry, await self._json(call), call.where)

    async def patch_entry(
        self,
        entry_id: str,
        *patches: Operation,
        version: int | None = None,
        preserve_updated_at: bool = False,
    ) -> None:
        """
        Apply patches to an entry, all or none.

        Args:
            entry_id: the entry.
            patches: at least one, in order.
            version: the version that the entry must have. None: any.
            preserve_updated_at: do not change `updated_at` (from 2026-03).

        Raises:
            VersionTooOld: this API version does not have an operation or property. Nothing was sent.
            Conflict: another version, or a state that forbids the operation.
            ValidationFailed: with the path of each wrong value.
        """
        body: dict[str, Any] = {"patches": [to_json(patch, self.api_version) for patch in patches]}
        if version is not None:
            body["version"] = str(version)
        if preserve_updated_at:
            require("preserveUpdatedAt", versions.PRESERVE_UPDATED_AT_SINCE, self.api_version)
            body["preserveUpdatedAt"] = True
        await self._json(Call("PATCH", self._entry_path(entry_id), body=body))

    async def get_entries(
        self, *, ids: Iterable[str] = (), external_id: str | None = None, system_name: str | None = None
    ) -> tuple[Entry, ...]:
        """Return the entries with these ids, or those that an external system knows by `external_id`."""
        wanted = {"ids": ",".join(ids), "externalId": external_id, "systemName": system_name}
        call = Call("GET", self._base, params={name: value for name, value in wanted.items() if value})
        name = "results" if self._has(versions.RESULTS_SINCE) else "mediaLibraryEntries"
        return tuple(read(Entry, row, call.where) for row in read_list(await self._json(call), name, call.where))

    async def keys(self, entry_id: str) -> tuple[object, ...]:
        """
        Return every key of an entry: its asset, those it had before, translations and variants (from 2026-03).

        The rows are returned as listed. A row may be something else than a text, or not a valid key. The caller checks
        that, so that such a row does not hide the others.
        """
        require("the keys endpoint", versions.KEYS_SINCE, self.api_version)
        call = Call("GET", f"{self._entry_path(entry_id)}/keys")
        return tuple(read_list(await self._json(call), "results", call.where))

    async def usage_log(self, entry_id: str) -> tuple[Usage, ...]:
        """Return the usage log of an entry (from 2026-05)."""
        require("the usage log", versions.USAGE_LOG_SINCE, self.api_version)
        call = Call("GET", f"{self._entry_path(entry_id)}/usageLog")
        return tuple(read(Usage, row, call.where) for row in read_list(await self._json(call), "results", call.where))

    # --- references --------------------------------------------------------------------------------------------

    def all_document_references(
        self, entry_id: str, *, page_size: int = versions.REFERENCES_MAX
    ) -> AsyncIterator[DocumentReferences]:
        """Give every published document that uses the entry, page by page."""
        return self._references(
            DocumentReferences, f"{self._entry_path(entry_id)}/incomingDocumentReferences", page_size
        )

    def all_media_references(
        self, entry_id: str, *, page_size: int = versions.REFERENCES_MAX
    ) -> AsyncIterator[MediaReferences]:
        """Give every entry whose metadata uses the entry, page by page."""
        return self._references(MediaReferences, f"{self._entry_path(entry_id)}/incomingMediaReferences", page_size)

    # --- images ------------------------------------------------------------------------------------------------

    def serve_image(
        self,
        key: str,
        destination: StrPath,
        *,
        validators: Validators | None = None,
        max_bytes: int | None = None,
    ) -> Coroutine[Any, Any, ServedImage]:
        """
        Fetch the original with this key into a file.

        Args:
            key: the image, as the library names it.
            destination: the file. It is not written on a 304, and removed on failure.
            validators: headers of an earlier answer, for a conditional request.
            max_bytes: larger images are refused.

        Raises:
            LibraryNotFound, Forbidden, Unauthorized: there is no such image; it is revoked or invalid; the token is
                refused.
            TooLarge: more than `max_bytes`.
            OriginUnavailable, OriginTimeout: no usable answer came in time. A body must have its announced length.
        """
        return self._fetcher.fetch(self._image_call(key, validators), destination, max_bytes)

    # --- private -----------------------------------------------------------------------------------------------

    def _has(self, since: str) -> bool:
        return versions.is_in(since, self.api_version)

    def _entry_path(self, entry_id: str) -> str:
        # `quote` leaves "." and ".." alone, and URL libraries resolve them: they would reach another endpoint.
        if not entry_id or entry_id in {".", ".."}:
            raise BadUrl(detail="A Media Library entry id must not be empty, '.' or '..'.")
        return f"{self._base}/{quote(entry_id, safe='')}"

    def _image_call(self, key: str, validators: Validators | None) -> Call:
        path = f"{self._base}/serve-image/{quoted_key(key)}"
        if validators is None or not (validators.etag or validators.last_modified):
            return Call("GET", path)
        headers = {"if-none-match": validators.etag, "if-modified-since": validators.last_modified}
        return Call(
            "GET",
            path,
            headers={name: value for name, value in headers.items() if value},
            accepted=frozenset({200, 304}),
        )

    async def _references(self, model: type[Row], path: str, page_size: int) -> AsyncIterator[Row]:
        given = 0
        place: dict[str, str] = {}
        while True:
            call = Call("GET", path, params={"limit": str(page_size), **place})
            answer = await self._json(call)
            if not self._has(versions.RESULTS_SINCE):
                answer = {"results": answer}
            rows = read_list(answer, "results", call.where)
            for row in rows:
                yield read(model, row, call.where)
            if len(rows) < page_size:
                return
            # A cursor stays right while documents are added. Older versions have only the offset.
            given += len(rows)
            cursor = answer.get("cursor")
            place = {"after": cursor} if cursor and isinstance(cursor, str) else {"offset": str(given)}

    async def _json(self, call: Call) -> Any:
        body = await self._transport.read(call)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise UnexpectedAnswer(message="the body is not JSON", where=call.where) from exc


def quoted_key(key: str) -> str:
    """
    Return the key as a part of a path, percent-encoded, its slashes kept.

    Raises:
        BadUrl: if it is empty, absolute, or has a NUL, an empty part, `.` or `..`: it would name another endpoint.
    """
    if "\0" in key or any(part in {"", ".", ".."} for part in key.split("/")):
        raise BadUrl(detail="A key needs parts separated by '/', none of them empty, '.' or '..'.")
    return quote(key, safe="/")
