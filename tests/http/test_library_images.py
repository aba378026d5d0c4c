"""serve-image: conditional requests, ranges, edits under the same key, faults on purpose, held answers."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from imgproxy.medialibrary import errors
from imgproxy.medialibrary.operations import RevokeAsset, UnrevokeAsset
from tests.support.library import TOKEN, RunningLibrary, picture_bytes, plain_http, running_library

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from imgproxy.medialibrary.server.probe import Point

SERVE = "/api/2026-05/mediaLibrary/serve-image"


def http_of(running: RunningLibrary) -> httpx.AsyncClient:
    return plain_http(f"{running.url}{SERVE}", token=TOKEN)


async def test_headers_of_an_image(tmp_path: Path) -> None:
    """An image has its type, length, strong ETag and date; HEAD answers the same without a body."""
    async with running_library(tmp_path, "a/b c&ü.jpg") as running, http_of(running) as http:
        got = await http.get("/a/b%20c%26%C3%BC.jpg?anything=1")
        head = await http.head("/a/b%20c%26%C3%BC.jpg")

    data = (tmp_path / "a/b c&ü.jpg").read_bytes()
    assert (got.status_code, got.content) == (200, data)
    assert got.headers["content-type"] == "image/jpeg"
    assert got.headers["content-length"] == str(len(data))
    assert got.headers["etag"].startswith('"')
    assert got.headers["x-content-type-options"] == "nosniff"
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "etag", "last-modified", "content-type"):
        assert head.headers[name] == got.headers[name]


async def test_conditional_requests(tmp_path: Path) -> None:
    """304 for the ETag, a list with it, a star, or the date alone; a different ETag beats an equal date."""
    async with running_library(tmp_path, "a.jpg") as running, http_of(running) as http:
        first = await http.get("/a.jpg")
        etag, date = first.headers["etag"], first.headers["last-modified"]
        cases: list[tuple[dict[str, str], int]] = [
            ({"if-none-match": etag}, 304),
            ({"if-none-match": f'"x", W/{etag}'}, 304),
            ({"if-none-match": "*"}, 304),
            ({"if-modified-since": date}, 304),
            ({"if-modified-since": "Mon, 01 Jan 2001 00:00:00 GMT"}, 200),
            ({"if-modified-since": "nonsense"}, 200),
            ({"if-none-match": '"x"', "if-modified-since": date}, 200),
        ]
        for headers, status in cases:
            answer = await http.get("/a.jpg", headers=headers)
            assert (answer.status_code, answer.headers["etag"]) == (status, etag), headers
            assert (answer.content == b"") == (status == 304)


async def test_ranges(tmp_path: Path) -> None:
    """One range gives its bytes, a range after the last byte is 416, and an invalid range gives the whole."""
    async with running_library(tmp_path, "a.jpg") as running, http_of(running) as http:
        data = (tmp_path / "a.jpg").read_bytes()
        size = len(data)
        cases: list[tuple[dict[str, str], int, bytes, str | None]] = [
            ({"range": "bytes=0-9"}, 206, data[:10], f"bytes 0-9/{size}"),
            ({"range": "bytes=10-"}, 206, data[10:], f"bytes 10-{size - 1}/{size}"),
            ({"range": "bytes=-7"}, 206, data[-7:], f"bytes {size - 7}-{size - 1}/{size}"),
            ({"range": "bytes=-99999999"}, 206, data, f"bytes 0-{size - 1}/{size}"),
            ({"range": f"bytes=5-{size * 9}"}, 206, data[5:], f"bytes 5-{size - 1}/{size}"),
            ({"range": "bytes=9-5"}, 200, data, None),
            ({"range": "bytes=0-1,4-5"}, 200, data, None),
            ({"range": "lines=0-1"}, 200, data, None),
            ({"range": "bytes=-"}, 200, data, None),
            ({"range": "bytes=0-9", "if-range": '"other"'}, 200, data, None),
        ]
        for headers, status, content, span in cases:
            answer = await http.get("/a.jpg", headers=headers)
            assert (answer.status_code, answer.content) == (status, content), headers
            assert answer.headers.get("content-range") == span
        etag = answer.headers["etag"]
        matching = await http.get("/a.jpg", headers={"range": "bytes=0-9", "if-range": etag})
        behind = await http.get("/a.jpg", headers={"range": f"bytes={size}-"})

    assert matching.status_code == 206
    assert (behind.status_code, behind.headers["content-range"]) == (416, f"bytes */{size}")
    assert behind.json()["error_details"]["name"] == "RangeNotSatisfiable"


async def test_each_edit_changes_the_etag(tmp_path: Path) -> None:
    """The ETag changes even if size and modification time stay the same."""
    async with running_library(tmp_path, "a.png") as running, http_of(running) as http:
        path = tmp_path / "a.png"
        stat = path.stat()
        etags = set()
        for shade in range(5):
            data = picture_bytes(16, 12, color=(shade, 90, 200))
            path.write_bytes(data)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            answer = await http.get("/a.png")
            assert answer.content == data
            etags.add(answer.headers["etag"])

    assert len(etags) == 5


async def test_a_large_image_arrives_whole(tmp_path: Path) -> None:
    """An image of many chunks arrives byte for byte, as a whole and in a range."""
    data = picture_bytes() + os.urandom(3_000_001)
    (tmp_path / "large.png").write_bytes(data)
    async with running_library(tmp_path) as running, http_of(running) as http:
        whole = await http.get("/large.png")
        part = await http.get("/large.png", headers={"range": "bytes=262143-1048577"})

    assert whole.content == data
    assert part.content == data[262143:1048578]


async def test_a_revoked_or_invalid_entry_serves_none_of_its_keys(tmp_path: Path) -> None:
    """The picture and its variant are 403 while the entry is revoked or invalid, and are served again afterwards."""
    forbidden = {
        "status": 403,
        "error": "Forbidden",
        "error_details": {"message": "The requested image is revoked or marked as invalid"},
    }
    async with running_library(tmp_path, "a.png", "v/a-x.webp") as running, http_of(running) as http:
        library, entry_id = running.library, running.library.entry_id("a.png")

        async def statuses() -> list[int]:
            return [(await http.get(f"/{key}")).status_code for key in ("a.png", "v/a-x.webp")]

        await library.patch(entry_id, RevokeAsset())
        refused = await http.get("/a.png", headers={"if-none-match": "*"})
        assert (refused.status_code, refused.json()) == (403, forbidden)
        assert await statuses() == [403, 403]
        await library.mark_invalid(entry_id)
        await library.patch(entry_id, UnrevokeAsset())
        assert await statuses() == [403, 403]
        await library.mark_invalid(entry_id, is_invalid=False)
        assert await statuses() == [200, 200]


async def test_a_held_answer_keeps_its_bytes(tmp_path: Path) -> None:
    """An answer that is held before its headers or in its body is sent unchanged, though the entry is revoked."""
    async with running_library(tmp_path, "a.png", "b.png") as running, http_of(running) as http:
        points: tuple[tuple[Point, str], ...] = (("headers", "a.png"), ("body", "b.png"))
        for point, key in points:
            running.probe.hold(point)
            pending = asyncio.create_task(http.get(f"/{key}"))
            await asyncio.wait_for(running.probe.arrived(point), 10)
            old = (tmp_path / key).read_bytes()
            await running.library.put(key, picture_bytes(77, 7))
            await running.library.patch(running.library.entry_id(key), RevokeAsset())
            assert not pending.done()
            running.probe.release(point)
            answer = await asyncio.wait_for(pending, 10)
            assert (answer.status_code, answer.content) == (200, old)
            assert (await http.get(f"/{key}")).status_code == 403

    assert running.probe.count("serveImage", "a.png") == 2
    assert running.probe.count("serveImage") == 4


async def test_a_file_that_changes_while_it_is_sent_ends_the_connection(tmp_path: Path) -> None:
    """If a picture is overwritten while it is sent, the client gets an incomplete answer, not a mixture."""
    path = tmp_path / "a.png"
    async with running_library(tmp_path, "a.png") as running, running.client(max_attempts=1) as client:
        running.probe.hold("body")
        pending = asyncio.create_task(client.serve_image("a.png", tmp_path / "out"))
        await asyncio.wait_for(running.probe.arrived("body"), 10)
        path.write_bytes(picture_bytes(300, 200, color=(9, 9, 9)))
        running.probe.release("body")
        with pytest.raises(errors.OriginUnavailable):
            await pending

    assert not (tmp_path / "out").exists()


async def test_faults_on_purpose(tmp_path: Path) -> None:
    """With a fail rate of 1 every endpoint answers 503 as JSON; with 0 they work again."""
    async with running_library(tmp_path, "a.png") as running, http_of(running) as http:
        running.library.faults.fail_rate = 1.0
        failed = [await http.get("/a.png"), await http.get(f"{running.url}/api/2026-05/mediaLibrary?ids=x")]
        running.library.faults.fail_rate = 0.0
        running.library.faults.latency_ms = 1.0
        works = await http.get("/a.png")

    assert [answer.status_code for answer in failed] == [503, 503]
    assert failed[0].json()["error_details"]["name"] == "ServiceUnavailable"
    assert works.status_code == 200
