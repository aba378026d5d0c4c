"""Several processes share a library, and one is killed: no acknowledged change is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from imgproxy.medialibrary import errors
from imgproxy.medialibrary.client.client import MediaLibraryClient
from imgproxy.medialibrary.client.tokens import TokenSource
from imgproxy.medialibrary.operations import SetMetadataProperty
from imgproxy.medialibrary.server import LibraryStore
from imgproxy.medialibrary.server import folder as disk
from imgproxy.medialibrary.server.store import merging
from imgproxy.medialibrary.server.store.database import Database
from imgproxy.medialibrary.server.store.library import FILE_NAME, STATE_DIR
from tests.support.library import fill_folder, picture_bytes

if TYPE_CHECKING:
    from pathlib import Path

SERVER = """
import asyncio, sys
from pathlib import Path
from imgproxy.medialibrary.server import AccessToken, EmbeddedLibrary

async def main():
    async with EmbeddedLibrary(Path(sys.argv[1]), tokens=[AccessToken("T")]) as library:
        print(library.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def start_server(folder: Path) -> tuple[asyncio.subprocess.Process, str]:
    """Start a library in a separate process. Return the process and the URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, str(folder), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    url = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
    return process, url


async def test_no_acknowledged_change_is_lost_by_a_kill(tmp_path: Path) -> None:
    """After kill -9 between patches, every patch that was answered is stored."""
    fill_folder(tmp_path, "a.png")
    process, url = await start_server(tmp_path)
    acknowledged = 0
    async with MediaLibraryClient(url, token=TokenSource.literal("T"), max_attempts=1) as client:
        store = LibraryStore(tmp_path)
        entry_id = store.all_entries()[0].id
        store.close()
        try:
            for number in range(1, 100_000):
                await client.patch_entry(entry_id, SetMetadataProperty("number", number))
                acknowledged = number
                if number == 20:
                    asyncio.get_running_loop().call_soon(os.kill, process.pid, signal.SIGKILL)
        except errors.OriginUnavailable:
            pass  # the server was killed
    await process.wait()
    store = LibraryStore(tmp_path)
    entry = store.entry(entry_id)
    store.close()

    assert acknowledged >= 20
    assert entry.metadata["number"] in {acknowledged, acknowledged + 1}
    assert entry.version == entry.metadata["number"] + 1


async def test_two_processes_share_a_library(tmp_path: Path) -> None:
    """Patches through two servers at the same time all take effect, and each raises the version."""
    fill_folder(tmp_path, "a.png")
    first, first_url = await start_server(tmp_path)
    second, second_url = await start_server(tmp_path)
    token = TokenSource.literal("T")
    try:
        async with (
            MediaLibraryClient(first_url, token=token) as one,
            MediaLibraryClient(second_url, token=token) as two,
        ):
            store = LibraryStore(tmp_path)
            entry_id = store.all_entries()[0].id
            store.close()

            async def patch(client: MediaLibraryClient, name: str) -> None:
                for number in range(15):
                    await client.patch_entry(entry_id, SetMetadataProperty(f"{name}{number}", number))

            await asyncio.gather(patch(one, "one"), patch(two, "two"))
            seen = [await client.get_entry(entry_id) for client in (one, two)]
    finally:
        for process in (first, second):
            process.send_signal(signal.SIGKILL)
            await process.wait()

    assert [entry.version for entry in seen] == [31, 31]
    assert len(seen[0].metadata) == 31


def test_parallel_scans_find_each_change_once(tmp_path: Path) -> None:
    """Parallel scans by several stores make one entry per picture and one update per edit."""
    fill_folder(tmp_path, *(f"p{number}.png" for number in range(8)))
    stores = [LibraryStore(tmp_path) for _ in range(4)]

    def scan_all() -> None:
        threads = [threading.Thread(target=store.scan) for store in stores for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    scan_all()
    created = {entry.asset.key: entry.version for entry in stores[0].all_entries()}
    for number in range(8):
        (tmp_path / f"p{number}.png").write_bytes(picture_bytes(40 + number, 9))
    (tmp_path / "p0.png").unlink()
    scan_all()
    changed = {entry.asset.key: entry.version for entry in stores[0].all_entries()}
    for store in stores:
        store.close()

    assert created == {f"p{number}.png": 1 for number in range(8)}
    assert changed == {f"p{number}.png": 2 for number in range(1, 8)}


def test_a_late_merge_does_not_undo_a_newer_one(tmp_path: Path) -> None:
    """Facts read before an edit, and merged after another process has merged the edit, change nothing."""
    fill_folder(tmp_path, "a.png", "b.png")
    quick = LibraryStore(tmp_path)
    quick.scan()
    late = Database(tmp_path / STATE_DIR / FILE_NAME)
    stale = disk.read_facts(str(tmp_path), "a.png", is_hashed=True)
    assert stale is not None
    (tmp_path / "a.png").write_bytes(picture_bytes(40, 9))
    quick.scan()
    with late.transaction():
        merge = merging.Merge(late.connection, str(tmp_path), datetime.now(UTC), is_first=False, is_lenient=False)
        merge.run([stale], ["b.png"])
    versions = {entry.asset.key: entry.version for entry in quick.all_entries()}
    late.close()
    quick.close()

    assert versions == {"a.png": 2, "b.png": 1}
    assert merge.changes == 0


def test_the_database_is_fully_synchronous(tmp_path: Path) -> None:
    """The database has a write-ahead log and writes every commit to the disk."""
    database = Database(tmp_path / "library.sqlite")
    mode = database.connection.execute("PRAGMA journal_mode").fetchone()[0]
    level = database.connection.execute("PRAGMA synchronous").fetchone()[0]
    database.close()

    assert (mode, level) == ("wal", 2)
