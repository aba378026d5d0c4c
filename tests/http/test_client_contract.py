"""The client and the embedded library agree, over HTTP, in every version of the API."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from imgproxy.medialibrary import errors
from imgproxy.medialibrary.models import Validators
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
from imgproxy.medialibrary.server import AccessToken
from imgproxy.medialibrary.versions import API_VERSIONS
from tests.support.library import TOKEN, RunningLibrary, picture_bytes, plain_http, running_library

if TYPE_CHECKING:
    from pathlib import Path

every_version = pytest.mark.parametrize("version", API_VERSIONS)


async def publish(running: RunningLibrary, document_id: int, entry_id: str, **more: object) -> None:
    """Let a document use an entry, twice."""
    references = [
        {"id": entry_id, "componentId": f"doc-{document_id}", "componentName": "image", "directiveName": "image"},
        {"id": entry_id, "location": "metadata", "propertyName": "teaserImage"},
    ]
    async with plain_http(running.url, token=TOKEN) as http:
        answer = await http.post("/-/library/documents", json={"id": document_id, "references": references, **more})
    assert answer.status_code == 200


async def references(running: RunningLibrary, entry_id: str, kind: str, **params: int | str) -> dict[str, Any]:
    """One page of references, as the server sends it."""
    async with plain_http(running.url, token=TOKEN) as http:
        answer = await http.get(f"/api/2026-05/mediaLibrary/{entry_id}/incoming{kind}References", params=params)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def ids(page: dict[str, Any]) -> list[object]:
    return [row["id"] for row in page["results"]]


@every_version
async def test_entries_read_and_patched(tmp_path: Path, version: str) -> None:
    """An entry is read alone and in a list, patched under its version, and conflicts with a stale one."""
    async with running_library(tmp_path, "a/b.jpg", "c.png") as running, running.client(api_version=version) as client:
        entry_id, other_id = running.library.entry_id("a/b.jpg"), running.library.entry_id("c.png")

        await client.patch_entry(entry_id, SetMetadataProperty("title", "new"), Archive(), version=1)
        entry = await client.get_entry(entry_id)
        listed = await client.get_entries(ids=[other_id, "unknown", entry_id])
        with pytest.raises(errors.Conflict) as conflict:
            await client.patch_entry(entry_id, SetMetadataProperty("title", "late"), version=1)

    assert (entry.version, entry.metadata["title"], entry.media_type) == (2, "new", "image")
    assert entry.asset is not None
    assert (entry.asset.mime_type, entry.asset.width_px, entry.asset.height_px) == ("image/jpeg", 16, 12)
    assert [each.id for each in listed] == [other_id, entry_id]
    assert conflict.value.message == "Version: Expected 2 to be equal to 1"


@every_version
async def test_images_streamed_and_revalidated(tmp_path: Path, version: str) -> None:
    """serve-image gives the bytes and their validators; the same validators give 304; edited bytes do not."""
    async with (
        running_library(tmp_path / "photos", "a/b.jpg") as running,
        running.client(api_version=version) as client,
    ):
        first = await client.serve_image("a/b.jpg", tmp_path / "first")
        validators = Validators(first.etag, first.last_modified)
        same = await client.serve_image("a/b.jpg", tmp_path / "same", validators=validators)
        await running.library.put("a/b.jpg", picture_bytes(99, 9, kind="JPEG"))
        edited = await client.serve_image("a/b.jpg", tmp_path / "edited", validators=validators)

    assert (tmp_path / "first").stat().st_size == first.size_bytes
    assert (same.is_modified, (tmp_path / "same").exists()) == (False, False)
    assert edited.is_modified
    assert edited.etag != first.etag
    assert edited.digest != first.digest


@every_version
async def test_revoked_and_invalid_images_are_forbidden(tmp_path: Path, version: str) -> None:
    """A revoked or invalid image is Forbidden, an unknown one LibraryNotFound; neither leaves a file behind."""
    async with (
        running_library(tmp_path / "photos", "a/b.jpg", "c.png") as running,
        running.client(api_version=version) as client,
    ):
        await client.patch_entry(running.library.entry_id("a/b.jpg"), RevokeAsset())
        await running.library.mark_invalid(running.library.entry_id("c.png"))
        for key, expected in (
            ("a/b.jpg", errors.Forbidden),
            ("c.png", errors.Forbidden),
            ("x.png", errors.LibraryNotFound),
        ):
            with pytest.raises(expected):
                await client.serve_image(key, tmp_path / "out")

    assert not (tmp_path / "out").exists()


@every_version
async def test_a_second_revoke_conflicts_from_2026_01(tmp_path: Path, version: str) -> None:
    """Revoking what is revoked is a conflict where unrevoking exists, and nothing new before."""
    async with running_library(tmp_path, "a/b.jpg") as running, running.client(api_version=version) as client:
        entry_id = running.library.entry_id("a/b.jpg")
        await client.patch_entry(entry_id, RevokeAsset())
        if version < "2026-01":
            await client.patch_entry(entry_id, RevokeAsset())
            with pytest.raises(errors.VersionTooOld):
                await client.patch_entry(entry_id, UnrevokeAsset())
            return
        with pytest.raises(errors.Conflict):
            await client.patch_entry(entry_id, RevokeAsset(note="again"))
        await client.patch_entry(entry_id, UnrevokeAsset())
        with pytest.raises(errors.Conflict):
            await client.patch_entry(entry_id, UnrevokeAsset())


@every_version
async def test_replaced_assets_translations_and_keys(tmp_path: Path, version: str) -> None:
    """Another file, a translation, a variant: all keys stay known; the default locale's asset cannot be removed."""
    keys = ("my/key.jpg", "my/new.png", "my/fr.png", "v/my/key-teaser.webp")
    async with running_library(tmp_path, *keys) as running, running.client(api_version=version) as client:
        entry_id = running.library.entry_id("my/key.jpg")
        await client.patch_entry(
            entry_id, ReplaceAsset("my/new.png", url="https://x.example/n.png"), ReplaceAsset("my/fr.png", locale="fr")
        )
        entry = await client.get_entry(entry_id)
        with pytest.raises(errors.ValidationFailed) as refused:
            await client.patch_entry(entry_id, RemoveAsset("de"))
        await client.patch_entry(entry_id, RemoveAsset("fr"))
        if version >= "2026-03":
            found = await client.keys(entry_id)
            assert set(found) == set(keys)
        else:
            with pytest.raises(errors.VersionTooOld):
                await client.keys(entry_id)
        with pytest.raises(KeyError):
            running.library.entry_id("my/fr.png")

    assert entry.asset is not None
    assert (entry.asset.url, entry.asset.mime_type, entry.asset.width_px) == (
        "https://x.example/n.png",
        "image/png",
        17,
    )
    assert refused.value.paths == {"patches.0.locale": "The asset of the default locale cannot be removed"}


@every_version
async def test_references_are_paged(tmp_path: Path, version: str) -> None:
    """Every referrer comes once over pages of two, though documents are added while they are read."""
    async with (
        running_library(tmp_path, "a/b.jpg", "c.png", "d.png", "e.png") as running,
        running.client(api_version=version) as client,
    ):
        entry_id = running.library.entry_id("a/b.jpg")
        for document_id in (9, 2, 7, 4):
            await publish(running, document_id, entry_id)
        for key in ("c.png", "d.png", "e.png"):
            await client.patch_entry(
                running.library.entry_id(key), SetMetadataProperty("imageLink", {"mediaId": entry_id})
            )
        documents = []
        async for row in client.all_document_references(entry_id, page_size=2):
            documents.append(row)
            if len(documents) == 1:
                await publish(running, 1, entry_id)
        media = [row async for row in client.all_media_references(entry_id, page_size=2)]
        page = await references(running, entry_id, "Document", limit=2, offset=1)

    assert [row.id for row in documents] == [9, 2, 7, 4, 1]
    assert [row.references[0].property_name for row in media] == ["imageLink"] * 3
    assert (ids(page), page["total"]) == ([2, 7], 5)
    assert documents[0].references[0].component_name == "image"
    assert documents[0].references[1].location == "metadata"


async def test_a_cursor_stays_right_while_documents_go_and_come(tmp_path: Path) -> None:
    """What is published again keeps its place; what is new comes behind; nothing is skipped or given twice."""
    async with running_library(tmp_path, "a/b.jpg", "c.png") as running:
        entry_id, other_id = running.library.entry_id("a/b.jpg"), running.library.entry_id("c.png")
        for document_id in (1, 2, 3):
            await publish(running, document_id, entry_id)
        first = await references(running, entry_id, "Document", limit=2)
        await publish(running, 1, entry_id)  # again: it was given already
        await publish(running, 2, other_id)  # uses another entry now
        await publish(running, 4, entry_id)
        second = await references(running, entry_id, "Document", limit=2, after=first["cursor"])
        last = await references(running, entry_id, "Document", limit=2, after=second["cursor"])

    assert (ids(first), ids(second), ids(last)) == ([1, 2], [3, 4], [])
    assert (last.get("cursor"), last["total"]) == (None, 3)


async def test_a_referring_entry_keeps_its_place(tmp_path: Path) -> None:
    """An entry whose metadata changes while pages are read is given once, where it was; without the link it is gone."""
    keys = ("a.png", "b.png", "c.png", "d.png")
    async with running_library(tmp_path, *keys) as running, running.client() as client:
        target, first, second, third = (running.library.entry_id(key) for key in keys)
        link = SetMetadataProperty("link", {"mediaId": target})
        for entry_id in (first, second, third):
            await client.patch_entry(entry_id, link)
        page = await references(running, target, "Media", limit=1)
        await client.patch_entry(first, SetMetadataProperty("other", [{"mediaId": target}]))
        await client.patch_entry(second, SetMetadataProperty("link", None))
        rest = await references(running, target, "Media", after=page["cursor"])
        everything = [row async for row in client.all_media_references(target)]

    assert (ids(page), ids(rest)) == ([first], [third])
    assert [[reference.property_name for reference in row.references] for row in everything] == [
        ["link", "other"],
        ["link"],
    ]


@every_version
async def test_the_usage_log(tmp_path: Path, version: str) -> None:
    """A use is reported, confirmed under the condition of its old value, and removed; before 2026-05 not at all."""
    moment = datetime(2026, 5, 1, 11, tzinfo=UTC)
    async with running_library(tmp_path, "a/b.jpg") as running, running.client(api_version=version) as client:
        entry_id = running.library.entry_id("a/b.jpg")
        if version < "2026-05":
            with pytest.raises(errors.VersionTooOld):
                await client.usage_log(entry_id)
            with pytest.raises(errors.VersionTooOld):
                await client.patch_entry(entry_id, AddUsageLogEntry("print"))
            return
        await client.patch_entry(entry_id, AddUsageLogEntry("print", params={"medium": "Paper"}))
        (added,) = await client.usage_log(entry_id)
        with pytest.raises(errors.Conflict):
            await client.patch_entry(
                entry_id, UpdateUsageLogEntry(added.id, "pending", old_value={"state": "confirmed"})
            )
        await client.patch_entry(
            entry_id,
            UpdateUsageLogEntry(added.id, "confirmed", publication_date=moment, old_value={"state": "pending"}),
        )
        (confirmed,) = await client.usage_log(entry_id)
        await client.patch_entry(
            entry_id,
            UpdateUsageLogEntry(added.id, "pending", old_value={"publicationDate": "2026-05-01T13:00:00+02:00"}),
        )
        with pytest.raises(errors.LibraryNotFound):
            await client.patch_entry(entry_id, RemoveUsageLogEntry("nope"))
        await client.patch_entry(entry_id, RemoveUsageLogEntry(added.id))
        emptied = await client.usage_log(entry_id)

    assert (added.state, added.purpose, added.params) == ("pending", "print", {"medium": "Paper"})
    assert (confirmed.state, confirmed.publication_date) == ("confirmed", moment)
    assert emptied == ()


@every_version
async def test_updated_at_is_kept_on_demand_from_2026_03(tmp_path: Path, version: str) -> None:
    """`preserveUpdatedAt` raises the version and leaves the time; older versions of the API do not have it."""
    async with running_library(tmp_path, "a/b.jpg") as running, running.client(api_version=version) as client:
        entry_id = running.library.entry_id("a/b.jpg")
        before = await client.get_entry(entry_id)
        patch = SetMetadataProperty("title", None)
        if version < "2026-03":
            with pytest.raises(errors.VersionTooOld):
                await client.patch_entry(entry_id, patch, preserve_updated_at=True)
            return
        await client.patch_entry(entry_id, patch, preserve_updated_at=True)
        kept = await client.get_entry(entry_id)

    assert (kept.version, kept.updated_at) == (2, before.updated_at)
    assert "title" not in kept.metadata


async def test_entries_by_external_id(tmp_path: Path) -> None:
    """An entry that an external system knows is found by that system's id, and by no other's."""
    async with running_library(tmp_path, "a/b.jpg", "c.png") as running, running.client() as client:
        entry_id, other_id = running.library.entry_id("a/b.jpg"), running.library.entry_id("c.png")
        known_as = {"systemName": "dam", "externalId": "ex-1"}
        async with plain_http(running.url, token=TOKEN) as http:
            answer = await http.post(f"/-/library/entries/{entry_id}/external", json=known_as)
            taken = await http.post(f"/-/library/entries/{other_id}/external", json=known_as)
        found = await client.get_entries(external_id="ex-1", system_name="dam")
        nothing = await client.get_entries(external_id="ex-1", system_name="other")

    assert (answer.status_code, taken.status_code) == (200, 409)
    assert [(entry.id, entry.system_name, entry.external_id) for entry in found] == [(entry_id, "dam", "ex-1")]
    assert nothing == ()


async def test_patches_are_all_or_nothing(tmp_path: Path) -> None:
    """If the last patch cannot be done, the first has not been either, and the version is the same."""
    async with running_library(tmp_path, "a/b.jpg") as running, running.client() as client:
        entry_id = running.library.entry_id("a/b.jpg")
        with pytest.raises(errors.Conflict):
            await client.patch_entry(entry_id, SetMetadataProperty("title", "new"), UnrevokeAsset())
        with pytest.raises(errors.ValidationFailed) as missing:
            await client.patch_entry(entry_id, SetMetadataProperty("title", "new"), ReplaceAsset("not/there.png"))
        entry = await client.get_entry(entry_id)

    assert (entry.version, entry.metadata["title"]) == (1, "b")
    assert missing.value.paths == {"patches.1.value.key": "There is no file with this key in the storage"}


async def test_a_retired_version_is_gone(tmp_path: Path) -> None:
    """A version older than the server serves is VersionGone, named."""
    async with (
        running_library(tmp_path, "a/b.jpg", oldest_version="2025-09") as running,
        running.client(api_version="2025-07") as client,
    ):
        with pytest.raises(errors.VersionGone) as gone:
            await client.get_entry(running.library.entry_id("a/b.jpg"))

    assert gone.value.api_version == "2025-07"


async def test_scopes_and_unknown_tokens(tmp_path: Path) -> None:
    """An unknown token is 401, one without the scope 403: both Unauthorized, and neither Forbidden."""
    tokens = (
        AccessToken("reader", frozenset({"public-api:read"})),
        AccessToken("writer", frozenset({"public-api:write"})),
    )
    async with running_library(tmp_path / "photos", "a/b.jpg", tokens=tokens) as running:
        entry_id = running.library.entry_id("a/b.jpg")
        async with running.client(token="reader") as reader, running.client(token="writer") as writer:
            assert (await reader.get_entry(entry_id)).version == 1
            with pytest.raises(errors.Unauthorized) as no_write:
                await reader.patch_entry(entry_id, Archive())
            with pytest.raises(errors.Unauthorized) as no_read:
                await writer.serve_image("a/b.jpg", tmp_path / "out")
            await writer.patch_entry(entry_id, Archive())
        async with running.client(token="stranger") as stranger:
            with pytest.raises(errors.Unauthorized) as unknown:
                await stranger.get_entry(entry_id)

    assert [each.value.origin_status for each in (no_write, no_read, unknown)] == [403, 403, 401]
    assert "stranger" not in f"{unknown.value} {unknown.value!r}"
