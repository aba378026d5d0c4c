"""The folder makes the library: new, changed and deleted pictures are new, changed and deleted entries."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from imgproxy.errors import ConfigError
from imgproxy.medialibrary.operations import ReplaceAsset, RevokeAsset, SetMetadataProperty
from imgproxy.medialibrary.server import EmbeddedLibrary, LibraryStore
from imgproxy.medialibrary.server.embedded import CannotListen
from tests.support.library import TOKEN, fill_folder, picture_bytes, plain_http, running_library

if TYPE_CHECKING:
    from pathlib import Path


def keys_of(store: LibraryStore) -> set[str]:
    return {entry.asset.key for entry in store.all_entries()}


async def test_each_picture_is_an_entry(tmp_path: Path) -> None:
    """Pictures at any depth are entries; hidden, other and unreadable files are not."""
    fill_folder(tmp_path, "a.jpg", "deep/er/b.webp", ".hidden/c.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture either")
    (tmp_path / "empty.png").touch()
    store = LibraryStore(tmp_path)
    warnings = store.scan()
    again = store.scan()
    keys = keys_of(store)
    store.close()

    assert keys == {"a.jpg", "deep/er/b.webp"}
    assert warnings == (
        "broken.jpg: skipped, it is not a readable picture",
        "empty.png: skipped, it is not a readable picture",
    )
    assert again == ()


async def test_new_changed_and_deleted_pictures(tmp_path: Path) -> None:
    """A new picture is a new entry, other bytes raise its version, and a picture that was deleted and put back is new."""
    async with running_library(tmp_path, "a.png") as running, running.client() as client:
        library = running.library
        await library.put("new/b.png", picture_bytes(30, 20))
        entry_id = library.entry_id("new/b.png")
        await library.put("new/b.png", picture_bytes(31, 20))
        edited = await client.get_entry(entry_id)
        await library.remove("new/b.png")
        gone = await client.get_entries(ids=[entry_id])
        await library.put("new/b.png", picture_bytes(30, 20))
        again = library.entry_id("new/b.png")

    assert edited.asset is not None
    assert (edited.version, edited.asset.width_px) == (2, 31)
    assert gone == ()
    assert again != entry_id


async def test_a_touched_picture_is_not_an_edit(tmp_path: Path) -> None:
    """The same bytes with another modification time make no update."""
    async with running_library(tmp_path, "a.png") as running:
        (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes())
        os.utime(tmp_path / "a.png", ns=(1, 10**18))
        await running.library.rescan()
        version = running.library.store.entry(running.library.entry_id("a.png")).version

    assert version == 1


async def test_same_size_same_time_other_bytes_is_an_edit(tmp_path: Path) -> None:
    """A file that was just modified is compared by its bytes, so an edit within one clock tick is found."""
    async with running_library(tmp_path, "a.png") as running:
        path = tmp_path / "a.png"
        stat = path.stat()
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        await running.library.rescan()
        version = running.library.store.entry(running.library.entry_id("a.png")).version

    assert version == 2


async def test_the_folder_is_watched(tmp_path: Path) -> None:
    """A picture that is added while the library runs becomes an entry without a call."""
    async with running_library(tmp_path, "a.png", scan_interval_s=0.02) as running:
        (tmp_path / "b.png").write_bytes(picture_bytes())
        async with asyncio.timeout(10):
            while keys_of(running.library.store) != {"a.png", "b.png"}:
                await asyncio.sleep(0.02)


async def test_a_variant_belongs_to_the_entry_with_its_name(tmp_path: Path) -> None:
    """A file under v/ is a key of the entry with the longest matching name; without one it is skipped."""
    fill_folder(tmp_path, "my/key.jpg", "my/key-2.jpg")
    fill_folder(tmp_path, "v/my/key.webp", "v/my/key-2-wide.webp", "v/my/key/x.webp", "v/other.webp")
    store = LibraryStore(tmp_path)
    warnings = store.scan()
    keys = {entry.asset.key: set(entry.keys) for entry in store.all_entries()}
    fill_folder(tmp_path, "other.png")
    store.scan()
    adopted = next(entry.keys for entry in store.all_entries() if entry.asset.key == "other.png")
    store.close()

    assert keys == {
        "my/key.jpg": {"my/key.jpg", "v/my/key.webp", "v/my/key/x.webp"},
        "my/key-2.jpg": {"my/key-2.jpg", "v/my/key-2-wide.webp"},
    }
    assert warnings == ("v/other.webp: skipped, there is no entry for this variant",)
    assert adopted == ("other.png", "v/other.webp")


async def test_a_replacement_has_one_entry(tmp_path: Path) -> None:
    """A file that replaces an entry's picture is no entry of its own, whether a scan found it before or after."""
    async with running_library(tmp_path, "a.png") as running:
        library, entry_id = running.library, running.library.entry_id("a.png")
        await library.put("early.png", picture_bytes(40, 40))
        (tmp_path / "late.png").write_bytes(picture_bytes(50, 50))
        await library.patch(entry_id, ReplaceAsset("early.png"))
        await library.patch(entry_id, ReplaceAsset("late.png"))
        await library.rescan()
        entries = library.store.all_entries()

    assert [(entry.id, entry.asset.key, entry.keys) for entry in entries] == [
        (entry_id, "late.png", ("a.png", "early.png", "late.png"))
    ]
    assert entries[0].version == 3


async def test_a_file_of_two_entries_is_served_if_both_allow_it(tmp_path: Path) -> None:
    """If a key belongs to two entries, revoking one of them stops serving it."""
    async with running_library(tmp_path, "a.png", "b.png") as running, plain_http(running.url, token=TOKEN) as http:
        library, first, second = running.library, running.library.entry_id("a.png"), running.library.entry_id("b.png")
        await library.patch(second, SetMetadataProperty("title", "mine"))
        await library.patch(first, ReplaceAsset("b.png"))
        await library.patch(first, RevokeAsset())
        answer = await http.get("/api/2026-05/mediaLibrary/serve-image/b.png")

    assert answer.status_code == 403


async def test_a_revoked_file_does_not_become_a_new_entry(tmp_path: Path) -> None:
    """Old files of a deleted entry make no new entry until they change, and are not served."""
    async with running_library(tmp_path, "a.png", "b.png") as running, plain_http(running.url, token=TOKEN) as http:
        library, entry_id = running.library, running.library.entry_id("a.png")
        await library.patch(entry_id, ReplaceAsset("b.png"), RevokeAsset())
        await library.remove("b.png")
        await library.rescan()
        answer = await http.get("/api/2026-05/mediaLibrary/serve-image/a.png")

    assert answer.status_code == 404


async def test_a_restart_keeps_ids_and_finds_changes(tmp_path: Path) -> None:
    """A restarted library has the same ids and states, and finds the pictures that were added meanwhile."""
    async with running_library(tmp_path, "a.png") as running:
        entry_id = running.library.entry_id("a.png")
        await running.library.patch(entry_id, RevokeAsset("note"))
    fill_folder(tmp_path, "b.png")
    async with running_library(tmp_path) as running:
        entry = running.library.store.entry(entry_id)
        keys = keys_of(running.library.store)

    assert (entry.is_revoked, entry.note) == (True, "note")
    assert keys == {"a.png", "b.png"}


async def test_a_lenient_library_serves_files_that_are_not_pictures(tmp_path: Path) -> None:
    """With `is_lenient`, a text file is served under its key."""
    (tmp_path / "text.jpg").write_text("no picture")
    async with (
        running_library(tmp_path, is_lenient=True) as running,
        plain_http(running.url, token=TOKEN) as http,
    ):
        answer = await http.get("/api/2026-05/mediaLibrary/serve-image/text.jpg")

    assert (answer.status_code, answer.text) == (200, "no picture")
    assert answer.headers["content-type"] == "application/octet-stream"


async def test_a_failed_start_says_why(tmp_path: Path) -> None:
    """A missing folder, an unusable state folder and a port in use raise ConfigError with the reason."""
    with pytest.raises(ConfigError, match="there is no such folder"):
        await EmbeddedLibrary(tmp_path / "none").start()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be kept here"):
        await EmbeddedLibrary(tmp_path, state_dir=tmp_path / "file").start()
    async with running_library(tmp_path / "photos", "a.png") as running:
        second = EmbeddedLibrary(tmp_path / "photos", port=running.library.port)
        with pytest.raises(CannotListen, match="Address already in use"):
            await second.start()
        assert keys_of(running.library.store) == {"a.png"}
