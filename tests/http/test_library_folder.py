"""The folder is the library: pictures that come, change and go are entries that do."""

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


async def test_one_entry_a_picture(tmp_path: Path) -> None:
    """Pictures at any depth are entries; hidden files, other files and unreadable ones are not."""
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
        "broken.jpg: skipped, it is not a picture that can be read",
        "empty.png: skipped, it is not a picture that can be read",
    )
    assert again == ()


async def test_pictures_that_come_change_and_go(tmp_path: Path) -> None:
    """A new picture is a new entry, other bytes raise its version, a removed one is deleted, put back a new one."""
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


async def test_a_touched_picture_is_no_edit(tmp_path: Path) -> None:
    """The same bytes with another time are no update, where the bytes were seen to be the same."""
    async with running_library(tmp_path, "a.png") as running:
        (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes())
        os.utime(tmp_path / "a.png", ns=(1, 10**18))
        await running.library.rescan()
        version = running.library.store.entry(running.library.entry_id("a.png")).version

    assert version == 1


async def test_same_size_same_time_other_bytes_is_an_edit(tmp_path: Path) -> None:
    """A young file is compared by its bytes: a clock that did not tick hides no edit."""
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
    """A picture that is added while the library runs appears by itself."""
    async with running_library(tmp_path, "a.png", scan_interval_s=0.02) as running:
        (tmp_path / "b.png").write_bytes(picture_bytes())
        async with asyncio.timeout(10):
            while keys_of(running.library.store) != {"a.png", "b.png"}:
                await asyncio.sleep(0.02)


async def test_variants_belong_to_the_entry_whose_name_they_bear(tmp_path: Path) -> None:
    """A file under v/ is a key of its entry, the longest name wins; without an entry it is skipped until there is one."""
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
    assert warnings == ("v/other.webp: skipped, no entry has the name that this variant begins with",)
    assert adopted == ("other.png", "v/other.webp")


async def test_a_replacement_takes_the_file_over(tmp_path: Path) -> None:
    """A file that was put in the folder to replace another's has one entry in the end, scanned before or after."""
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


async def test_a_file_of_two_entries_is_served_if_both_allow(tmp_path: Path) -> None:
    """Where a key belongs to two entries, revoking one of them closes it."""
    async with running_library(tmp_path, "a.png", "b.png") as running, plain_http(running.url, token=TOKEN) as http:
        library, first, second = running.library, running.library.entry_id("a.png"), running.library.entry_id("b.png")
        await library.patch(second, SetMetadataProperty("title", "mine"))
        await library.patch(first, ReplaceAsset("b.png"))
        await library.patch(first, RevokeAsset())
        answer = await http.get("/api/2026-05/mediaLibrary/serve-image/b.png")

    assert answer.status_code == 403


async def test_what_was_revoked_does_not_come_back_as_a_new_entry(tmp_path: Path) -> None:
    """Old files of a deleted entry are not found anew by the scan: they stay unserved until they change."""
    async with running_library(tmp_path, "a.png", "b.png") as running, plain_http(running.url, token=TOKEN) as http:
        library, entry_id = running.library, running.library.entry_id("a.png")
        await library.patch(entry_id, ReplaceAsset("b.png"), RevokeAsset())
        await library.remove("b.png")
        await library.rescan()
        answer = await http.get("/api/2026-05/mediaLibrary/serve-image/a.png")

    assert answer.status_code == 404


async def test_ids_survive_a_restart_and_what_changed_meanwhile_is_found(tmp_path: Path) -> None:
    """A library that starts again has the same ids and states, and sees what was added while it was away."""
    async with running_library(tmp_path, "a.png") as running:
        entry_id = running.library.entry_id("a.png")
        await running.library.patch(entry_id, RevokeAsset("note"))
    fill_folder(tmp_path, "b.png")
    async with running_library(tmp_path) as running:
        entry = running.library.store.entry(entry_id)
        keys = keys_of(running.library.store)

    assert (entry.is_revoked, entry.note) == (True, "note")
    assert keys == {"a.png", "b.png"}


async def test_files_that_are_no_pictures_on_demand(tmp_path: Path) -> None:
    """A lenient library serves what is no picture, to be a bad origin on purpose."""
    (tmp_path / "text.jpg").write_text("no picture")
    async with (
        running_library(tmp_path, is_lenient=True) as running,
        plain_http(running.url, token=TOKEN) as http,
    ):
        answer = await http.get("/api/2026-05/mediaLibrary/serve-image/text.jpg")

    assert (answer.status_code, answer.text) == (200, "no picture")
    assert answer.headers["content-type"] == "application/octet-stream"


async def test_what_cannot_be_started_says_why(tmp_path: Path) -> None:
    """A missing folder, a state that is a file, and a port in use are each one line."""
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
