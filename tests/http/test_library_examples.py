"""
The examples of the API's reference page. The embedded library answers in their shape; the client reads them and sends
requests in their shape. Values may differ.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from aiohttp import web

from imgproxy.medialibrary import errors
from imgproxy.medialibrary.client.client import MediaLibraryClient
from imgproxy.medialibrary.client.tokens import TokenSource
from imgproxy.medialibrary.operations import (
    AddUsageLogEntry,
    Archive,
    RemoveAsset,
    RemoveUsageLogEntry,
    ReplaceAsset,
    RevokeAsset,
    SetMetadataProperty,
    UnrevokeAsset,
    UpdateUsageLogEntry,
)
from tests.support.library import TOKEN, RunningLibrary, plain_http, running_library

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


ENTRY = {
    "id": "asze63i9",
    "version": 1,
    "mediaType": "image",
    "asset": {
        "url": "https://livingdocs.io/img.jpg",
        "mimeType": "image/jpeg",
        "width": 1600,
        "height": 900,
        "size": 21000,
    },
    "metadata": {"title": "An Image"},
    "createdAt": "2020-12-27T09:19:00.928Z",
    "updatedAt": "2020-12-27T09:19:00.928Z",
}
OTHER = {**ENTRY, "id": "2er11b3i", "metadata": {"title": "An Other Image"}}
EXTERNAL = {**ENTRY, "id": "a77ei8nm", "systemName": "externalSystem", "externalId": "ex-1"}


def document(document_id: int, component_id: str) -> dict[str, Any]:
    entry_id = "9fKagDCiN6sb"
    return {
        "id": document_id,
        "references": [
            {
                "id": entry_id,
                "type": "image",
                "location": "image-directive",
                "componentId": component_id,
                "componentName": "image",
                "directiveName": "image",
            },
            {"id": entry_id, "type": "image", "location": "metadata", "propertyName": "teaserImage"},
        ],
    }


DOCUMENTS = [document(2, "doc-1ev8345oj0"), document(3, "doc-1euq8lq1o0")]
MEDIA = [
    {
        "id": "B1LPgANhJFpo",
        "references": [{"id": "9fKagDCiN6sb", "type": "image", "location": "metadata", "propertyName": "imageLink"}],
    }
]
CURSOR = "eyJhIjpbIjE3NjUyNjIxODYuMjgyIiw2NCw2NF19"
USAGE = {
    "id": "g6Hmp49Y",
    "url": "https://example.com/article/slug-121",
    "state": "confirmed",
    "params": {"medium": "Internet"},
    "purpose": "web",
    "documentId": 121,
    "publicationId": 110,
    "reportingDate": "2026-04-02T13:34:30.263Z",
    "publicationDate": "2026-04-02T13:34:26.353Z",
}
KEYS = ["my/key.jpg", "my/replaced-key.jpg", "my/translated-key.jpg", "v/my/variant-key.webp"]
MOMENT = "2026-05-01T11:00:00.000Z"
NEW_FILE = {
    "key": "2021/11/23/my-new-file.png",
    "url": "https://example.com/my-new-file.png",
    "size": 10000,
    "width": 1000,
    "height": 800,
    "filename": "my-new-file.png",
    "mimeType": "image/png",
}
ADDED = {"state": "pending", "purpose": "print", "publicationDate": MOMENT, "url": "http://localhost", "params": {}}
UPDATED = {**ADDED, "state": "confirmed", "params": {"medium": "Paper"}}
PATCHES: list[dict[str, Any]] = [
    {"operation": "setMetadataProperty", "propertyName": "title", "value": "updated title"},
    {"operation": "replaceAsset", "value": NEW_FILE},
    {"operation": "revokeAsset", "note": "Case #1"},
    {"operation": "unrevokeAsset"},
    {"operation": "archive"},
    {"operation": "removeAsset", "locale": "en"},
    {"operation": "addUsageLogEntry", "value": ADDED},
    {"operation": "updateUsageLogEntry", "usageLogEntryId": "g1x419UgQSS5", "value": UPDATED, "oldValue": {}},
    {"operation": "removeUsageLogEntry", "usageLogEntryId": "g1x419UgQSS5"},
]
BASE = "/api/{version}/mediaLibrary"


def shape(value: Any) -> Any:
    """Return the shape of a JSON value: its names and types. Metadata and params may have any content."""
    if isinstance(value, dict):
        return {name: "any" if name in {"metadata", "params"} else shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(shape(each), sort_keys=True) for each in value})
    return type(value).__name__


# --- the library answers in the shape of the examples ------------------------------------------------------------


async def ask(running: RunningLibrary, path: str, version: str, *, body: object = None) -> Any:
    method = "GET" if body is None else "PATCH"
    async with plain_http(running.url, token=TOKEN) as http:
        answer = await http.request(method, BASE.format(version=version) + path, json=body)
    return answer.json()


@asynccontextmanager
async def library_of_the_examples(tmp_path: Path) -> AsyncIterator[tuple[RunningLibrary, str, str]]:
    """Run a library that has everything that the examples show. Yield it and the ids of two entries."""
    keys = ("my/key.jpg", "my/other.jpg", "my/replaced-key.jpg", "my/translated-key.jpg", "2021/11/23/my-new-file.png")
    async with running_library(tmp_path, *keys, "v/my/key-variant.webp") as running:
        library = running.library
        first, second = library.entry_id("my/key.jpg"), library.entry_id("my/other.jpg")
        await library.patch(
            first, ReplaceAsset("my/replaced-key.jpg"), ReplaceAsset("my/translated-key.jpg", locale="en")
        )
        await library.patch(second, SetMetadataProperty("imageLink", {"mediaId": first}))
        async with plain_http(running.url, token=TOKEN) as http:
            external = {"systemName": "externalSystem", "externalId": "ex-1"}
            await http.post(f"/-/library/entries/{second}/external", json=external)
            for example in DOCUMENTS:
                references = [{**reference, "id": first} for reference in example["references"]]
                use = {"purpose": "web", "url": USAGE["url"], "publicationId": 110}
                answer = await http.post(
                    "/-/library/documents", json={"id": example["id"], "references": references, **use}
                )
                assert answer.status_code == 200
        yield running, first, second


@pytest.mark.parametrize("version", ["2025-11", "2026-05"])
async def test_the_library_answers_like_the_examples(tmp_path: Path, version: str) -> None:
    """Entries, lists and references have the shape of the examples of their version."""
    async with library_of_the_examples(tmp_path) as (running, first, second):
        entry = await ask(running, f"/{first}", version)
        by_ids = await ask(running, f"?ids={first},{first}", version)
        by_external = await ask(running, "?externalId=ex-1&systemName=externalSystem", version)
        documents = await ask(running, f"/{first}/incomingDocumentReferences", version)
        media = await ask(running, f"/{first}/incomingMediaReferences", version)

    is_new = version >= "2026-01"
    name = "results" if is_new else "mediaLibraryEntries"
    paged = {"total": 5, "cursor": CURSOR}
    assert shape(entry) == shape(ENTRY)
    assert shape(by_ids) == shape({name: [ENTRY]})
    assert shape(by_external) == shape({name: [EXTERNAL]})
    assert shape(documents) == shape({**paged, "results": DOCUMENTS} if is_new else DOCUMENTS)
    assert shape(media) == shape({**paged, "results": MEDIA} if is_new else MEDIA)
    assert by_external[name][0]["id"] == second


async def test_keys_and_usage_log_are_like_the_examples(tmp_path: Path) -> None:
    """All kinds of keys are listed, and a document's usage log entry has all fields of the example."""
    async with library_of_the_examples(tmp_path) as (running, first, _):
        keys = await ask(running, f"/{first}/keys", "2026-05")
        usage = await ask(running, f"/{first}/usageLog", "2026-05")

    assert sorted(keys["results"]) == [
        "my/key.jpg",
        "my/replaced-key.jpg",
        "my/translated-key.jpg",
        "v/my/key-variant.webp",
    ]
    assert shape(usage) == shape({"results": [USAGE]})


async def test_the_example_patch(tmp_path: Path) -> None:
    """One request with the nine operations of the example changes everything that it should."""
    async with library_of_the_examples(tmp_path) as (running, first, _):
        add = {"patches": [PATCHES[6]]}
        assert await ask(running, f"/{first}", "2026-05", body=add) == {"status": 200}
        log = running.library.store.entry(first).usage_log
        patches = [
            {**patch, "usageLogEntryId": log[-1].id} if "usageLogEntryId" in patch else patch for patch in PATCHES
        ]
        version = str(running.library.store.entry(first).version)
        before = running.library.store.entry(first)
        body = {"version": version, "preserveUpdatedAt": True, "patches": patches}
        answer = await ask(running, f"/{first}", "2026-05", body=body)
        entry = running.library.store.entry(first)
        shown = await ask(running, f"/{first}", "2026-05")

    assert answer == {"status": 200}
    assert (entry.version, entry.updated_at) == (before.version + 1, before.updated_at)
    assert shown["metadata"] == {"title": "updated title"}
    assert shown["asset"] == {
        "url": "https://example.com/my-new-file.png",
        "mimeType": "image/png",
        "width": 1000,
        "height": 800,
        "size": 10000,
    }
    assert (entry.is_archived, entry.is_revoked, entry.translations) == (True, False, {})
    assert [usage.purpose for usage in entry.usage_log] == ["web", "web", "print"]


async def test_the_example_errors(tmp_path: Path) -> None:
    """400, 404 and 409 answers are word for word the examples."""
    async with running_library(tmp_path, "a.jpg") as running:
        entry_id = running.library.entry_id("a.jpg")
        unknown_operation = {"patches": [{"operation": "notExistingOperation"}]}
        archive = {"patches": [{"operation": "archive"}]}
        bad = await ask(running, f"/{entry_id}", "2026-05", body=unknown_operation)
        missing = await ask(running, "/yLBGtTjWN4ba", "2026-05", body=archive)
        conflict = await ask(running, f"/{entry_id}", "2026-05", body={**archive, "version": "36"})

    assert bad == {
        "status": 400,
        "error": "Bad Request",
        "error_details": {"patches.0.operation": 'No enum match for: "notExistingOperation"'},
    }
    assert missing == {
        "status": 404,
        "error": "Not Found",
        "error_details": {"name": "NotFound", "message": "MediaLibrary Entry does not exist (id: 'yLBGtTjWN4ba')"},
    }
    assert conflict == {
        "status": 409,
        "error": "Conflict",
        "error_details": {"name": "Conflict", "message": "Version: Expected 1 to be equal to 36"},
    }


# --- the client reads the examples, and asks as they do ----------------------------------------------------------


@asynccontextmanager
async def server_of_examples(answers: dict[str, Any]) -> AsyncIterator[tuple[str, list[Any]]]:
    """Run a server that answers with the examples. Yield its URL and the request bodies that it gets."""
    bodies: list[Any] = []

    async def handle(request: web.Request) -> web.Response:
        if request.can_read_body:
            bodies.append(await request.json())
        answer = answers[unquote(request.path_qs)]
        return web.json_response(answer, status=answer.get("status", 200) if isinstance(answer, dict) else 200)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", bodies
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("version", ["2025-11", "2026-05"])
async def test_the_client_reads_the_examples(version: str) -> None:
    """Both shapes of lists and references become the same models, and unknown fields are kept."""
    is_new = version >= "2026-01"
    base, name = BASE.format(version=version), "results" if is_new else "mediaLibraryEntries"
    paged = {"total": 5, "cursor": CURSOR}
    answers = {
        f"{base}/asze63i9": {**ENTRY, "newField": {"of": "tomorrow"}},
        f"{base}?ids=asze63i9,2er11b3i": {name: [ENTRY, OTHER]},
        f"{base}?externalId=ex-1&systemName=externalSystem": {name: [EXTERNAL]},
        f"{base}/x/incomingDocumentReferences?limit=100": {**paged, "results": DOCUMENTS} if is_new else DOCUMENTS,
        f"{base}/x/incomingMediaReferences?limit=100": {**paged, "results": MEDIA} if is_new else MEDIA,
    }
    async with (
        server_of_examples(answers) as (url, _),
        MediaLibraryClient(url, token=TokenSource.literal("T"), api_version=version) as client,
    ):
        entry = await client.get_entry("asze63i9")
        both = await client.get_entries(ids=["asze63i9", "2er11b3i"])
        (external,) = await client.get_entries(external_id="ex-1", system_name="externalSystem")
        documents = [row async for row in client.all_document_references("x")]
        media = [row async for row in client.all_media_references("x")]

    assert entry.extra == {"newField": {"of": "tomorrow"}}
    assert entry.created_at == datetime(2020, 12, 27, 9, 19, 0, 928_000, tzinfo=UTC)
    assert [each.to_json() for each in both] == [ENTRY, OTHER]
    assert external.to_json() == EXTERNAL
    assert [each.to_json() for each in documents] == DOCUMENTS
    assert [each.to_json() for each in media] == MEDIA


async def test_the_client_reads_keys_and_usage_and_errors() -> None:
    """The client reads the examples of the newest endpoints and of errors."""
    base = BASE.format(version="2026-05")
    bad = {"status": 400, "error": "Bad Request", "error_details": {"patches.0.operation": 'No enum match for: "x"'}}
    gone = {"status": 404, "error": "Not Found", "error_details": {"name": "NotFound", "message": "does not exist"}}
    answers = {
        f"{base}/x/keys": {"results": KEYS},
        f"{base}/x/usageLog": {"results": [USAGE]},
        f"{base}/bad": bad,
        f"{base}/gone": gone,
    }
    async with (
        server_of_examples(answers) as (url, _),
        MediaLibraryClient(url, token=TokenSource.literal("T")) as client,
    ):
        keys = await client.keys("x")
        (usage,) = await client.usage_log("x")
        with pytest.raises(errors.ValidationFailed) as invalid:
            await client.patch_entry("bad", Archive())
        with pytest.raises(errors.LibraryNotFound) as missing:
            await client.patch_entry("gone", Archive())

    assert keys == tuple(KEYS)
    assert usage.to_json() == USAGE
    assert invalid.value.paths == {"patches.0.operation": 'No enum match for: "x"'}
    assert missing.value.message == "does not exist"


async def test_the_client_sends_the_example_request() -> None:
    """Typed operations are sent as the JSON of the example request."""
    moment = datetime(2026, 5, 1, 11, tzinfo=UTC)
    async with (
        server_of_examples({f"{BASE.format(version='2026-05')}/x": {"status": 200}}) as (url, bodies),
        MediaLibraryClient(url, token=TokenSource.literal("T")) as client,
    ):
        await client.patch_entry(
            "x",
            SetMetadataProperty("title", "updated title"),
            ReplaceAsset(
                key="2021/11/23/my-new-file.png",
                url="https://example.com/my-new-file.png",
                size_bytes=10000,
                width_px=1000,
                height_px=800,
                filename="my-new-file.png",
                mime_type="image/png",
            ),
            RevokeAsset("Case #1"),
            UnrevokeAsset(),
            Archive(),
            RemoveAsset("en"),
            AddUsageLogEntry("print", "pending", moment, "http://localhost", {}),
            UpdateUsageLogEntry(
                "g1x419UgQSS5", "confirmed", "print", moment, "http://localhost", {"medium": "Paper"}, old_value={}
            ),
            RemoveUsageLogEntry("g1x419UgQSS5"),
            version=1,
            preserve_updated_at=True,
        )

    assert bodies == [{"version": "1", "preserveUpdatedAt": True, "patches": PATCHES}]
