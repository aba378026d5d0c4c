"""Each wrong request gets a precise JSON error, never a 500, and nothing outside the folder is read."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from imgproxy.medialibrary.versions import API_VERSIONS
from tests.support.library import TOKEN, RunningLibrary, picture_bytes, plain_http, running_library

if TYPE_CHECKING:
    from pathlib import Path

    import httpx


def patch_of(*patches: object, **more: object) -> dict[str, object]:
    return {"patches": list(patches), **more}


def usage(**value: object) -> dict[str, object]:
    return patch_of({"operation": "addUsageLogEntry", "value": value})


BODIES: list[tuple[str, Any, str, str]] = [
    ("not an object", [], "body", "Expected object, got array"),
    ("no patches", {}, "patches", "Required"),
    ("patches of another type", {"patches": "x"}, "patches", "Expected array, got string"),
    ("an empty list", patch_of(), "patches", "Expected 1 to 1000 patches, got 0"),
    ("a patch that is not an object", patch_of(3), "patches.0", "Expected object, got number"),
    ("no operation", patch_of({}), "patches.0.operation", "Required"),
    (
        "an unknown operation",
        patch_of({"operation": "notExistingOperation"}),
        "patches.0.operation",
        'No enum match for: "notExistingOperation"',
    ),
    ("an operation that is a list", patch_of({"operation": []}), "patches.0.operation", "No enum match for: []"),
    ("replaceAsset without value", patch_of({"operation": "replaceAsset"}), "patches.0.value", "Required"),
    (
        "replaceAsset without key",
        patch_of({"operation": "replaceAsset", "value": {"url": "u"}}),
        "patches.0.value.key",
        "Required",
    ),
    (
        "replaceAsset out of the folder",
        patch_of({"operation": "replaceAsset", "value": {"key": "../secret.png"}}),
        "patches.0.value.key",
        "Expected no empty part, no '.' and no '..'",
    ),
    (
        "a width of zero",
        patch_of({"operation": "replaceAsset", "value": {"key": "c.png", "width": 0}}),
        "patches.0.value.width",
        "Expected an integer between 1 and 9007199254740991, got 0",
    ),
    (
        "an invalid locale",
        patch_of({"operation": "removeAsset", "locale": "../x"}),
        "patches.0.locale",
        "Expected a string of the form [a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}",
    ),
    (
        "no locale",
        patch_of({"operation": "removeAsset"}),
        "patches.0.locale",
        "Required: the asset of the default locale cannot be removed",
    ),
    (
        "a note of 201 characters",
        patch_of({"operation": "archive"}, {"operation": "revokeAsset", "note": "x" * 201}),
        "patches.1.note",
        "Expected at most 200 characters, got 201",
    ),
    ("no property name", patch_of({"operation": "setMetadataProperty"}), "patches.0.propertyName", "Required"),
    ("an unknown property", patch_of({"operation": "archive", "why": 1}), "patches.0.why", "Unexpected property"),
    (
        "a version that is a number",
        patch_of({"operation": "archive"}, version=1),
        "version",
        "Expected string, got number",
    ),
    (
        "a text for a boolean",
        patch_of({"operation": "archive"}, preserveUpdatedAt="yes"),
        "preserveUpdatedAt",
        "Expected boolean, got string",
    ),
    ("a usage without purpose", usage(state="pending"), "patches.0.value.purpose", "Required"),
    ("an unknown state", usage(purpose="web", state="x"), "patches.0.value.state", 'No enum match for: "x"'),
    (
        "confirmed without a date",
        usage(purpose="web", state="confirmed"),
        "patches.0.value.publicationDate",
        "Required when the state is confirmed",
    ),
    (
        "a date without a zone",
        usage(purpose="web", publicationDate="2026-05-01T11:00:00"),
        "patches.0.value.publicationDate",
        'Expected an ISO 8601 date and time with its zone, got "2026-05-01T11:00:00"',
    ),
    (
        "an update without state",
        patch_of({"operation": "updateUsageLogEntry", "usageLogEntryId": "x", "value": {}}),
        "patches.0.value.state",
        "Required",
    ),
    ("a removal of nothing", patch_of({"operation": "removeUsageLogEntry"}), "patches.0.usageLogEntryId", "Required"),
]


async def ask(
    running: RunningLibrary, method: str, path: str, *, content: bytes | None = None, version: str = "2026-05"
) -> httpx.Response:
    async with plain_http(running.url, token=TOKEN) as http:
        return await http.request(method, f"/api/{version}/mediaLibrary{path}", content=content)


def check_form(answer: httpx.Response, status: int) -> dict[str, str]:
    """Check that an answer is a JSON error of the API, and return its details."""
    body = answer.json()
    assert answer.status_code == status
    assert set(body) == {"status", "error", "error_details"}
    assert body["status"] == status
    details = body["error_details"]
    assert details
    assert all(isinstance(text, str) for text in details.values())
    return dict(details)


async def test_bodies(tmp_path: Path) -> None:
    """Every wrong PATCH body is a 400 with the path and what was expected, and changes nothing."""
    async with running_library(tmp_path, "a/b.jpg", "c.png") as running:
        entry_id = running.library.entry_id("a/b.jpg")
        for name, body, path, message in BODIES:
            answer = await ask(running, "PATCH", f"/{entry_id}", content=json.dumps(body).encode())
            assert check_form(answer, 400).get(path) == message, name
        assert running.library.store.entry(entry_id).version == 1


async def test_one_answer_names_every_problem(tmp_path: Path) -> None:
    """A body with three wrong values names all three paths."""
    body = patch_of({"operation": "x"}, {"operation": "revokeAsset", "note": 3}, version=[])
    async with running_library(tmp_path, "a/b.jpg") as running:
        entry_id = running.library.entry_id("a/b.jpg")
        answer = await ask(running, "PATCH", f"/{entry_id}", content=json.dumps(body).encode())

    assert set(check_form(answer, 400)) == {"patches.0.operation", "patches.1.note", "version"}


NOT_JSON = {
    "empty": b"",
    "cut": b"{",
    "not UTF-8": b"\xff\xfe",
    "not a number": b'{"patches": NaN}',
    "half a surrogate pair": b'{"version": "\\ud800"}',
    "infinite": b'{"patches": [1e999]}',
    "deep": b"[" * 100_000,
    "a huge number": b'{"patches": [' + b"9" * 10_000 + b"]}",
}


async def test_bodies_that_are_not_json(tmp_path: Path) -> None:
    """A body that is not JSON in UTF-8 is a 400 that says so."""
    async with running_library(tmp_path, "a/b.jpg") as running:
        for name, content in NOT_JSON.items():
            answer = await ask(running, "PATCH", f"/{running.library.entry_id('a/b.jpg')}", content=content)
            assert check_form(answer, 400)["message"] == "The body is not valid JSON in UTF-8", name


async def test_a_body_of_ten_megabytes(tmp_path: Path) -> None:
    """A body over the limit is a 413."""
    async with running_library(tmp_path, "a/b.jpg") as running:
        answer = await ask(running, "PATCH", f"/{running.library.entry_id('a/b.jpg')}", content=b" " * 10_000_000)

    assert check_form(answer, 413)["message"] == "The body has more than 1048576 bytes"


PAGES = [
    ("limit=101", "limit"),
    ("limit=0", "limit"),
    ("limit=x", "limit"),
    ("limit=", "limit"),
    ("limit=1&limit=2", "limit"),
    ("offset=-1", "offset"),
    ("offset=1.5", "offset"),
    ("offset=%D9%A1", "offset"),
    ("offset=99999999999999999999", "offset"),
    ("after=x", "after"),
    ("after=eyJhIjpbIjE3NjUyNjIxODYuMjgyIiw2NCw2NF19", "after"),
    ("after=W10", "after"),
    ("first=1", "first"),
]


async def test_pages(tmp_path: Path) -> None:
    """A wrong limit, offset or cursor is a 400 with the name of the parameter."""
    async with running_library(tmp_path, "a/b.jpg") as running:
        entry_id = running.library.entry_id("a/b.jpg")
        for query, path in PAGES:
            for kind in ("incomingDocumentReferences", "incomingMediaReferences"):
                assert path in check_form(await ask(running, "GET", f"/{entry_id}/{kind}?{query}"), 400), query


async def test_a_cursor_of_another_list(tmp_path: Path) -> None:
    """A cursor of one entry's documents is refused for another entry and for another list."""
    async with running_library(tmp_path, "a/b.jpg", "c.png") as running, plain_http(token=TOKEN) as http:
        first, other = running.library.entry_id("a/b.jpg"), running.library.entry_id("c.png")
        await http.post(f"{running.url}/-/library/documents", json={"id": 1, "references": [{"id": first}]})
        cursor = (await ask(running, "GET", f"/{first}/incomingDocumentReferences")).json()["cursor"]
        for path in (f"/{other}/incomingDocumentReferences", f"/{first}/incomingMediaReferences"):
            assert "after" in check_form(await ask(running, "GET", f"{path}?after={cursor}"), 400)
        right = await ask(running, "GET", f"/{first}/incomingDocumentReferences?after={cursor}")

    assert right.json() == {"total": 1, "cursor": None, "results": []}


async def test_parameters_of_the_list(tmp_path: Path) -> None:
    """A list needs ids, or an external id with its system; anything else is a 400 with the parameter's name."""
    async with running_library(tmp_path, "a/b.jpg") as running:
        for query, path in (("", "ids"), ("?ids=", "ids"), ("?externalId=1", "systemName"), ("?x=1&ids=a", "x")):
            assert path in check_form(await ask(running, "GET", query), 400)
        many = ",".join(f"i{number}" for number in range(501))
        assert "ids" in check_form(await ask(running, "GET", f"?ids={many}"), 400)


async def test_unknown_ids(tmp_path: Path) -> None:
    """An unknown id is a 404 in the words of the API, with any characters in it."""
    patch = json.dumps(patch_of({"operation": "archive"})).encode()
    async with running_library(tmp_path, "a/b.jpg") as running:
        for entry_id in ("unknown", "a%2Fb", "%00", "..%2F..%2Fx", "%F0%9F%98%80", "x" * 3000, "%FF", "a%0Ab"):
            for method, content in (("GET", None), ("PATCH", patch)):
                details = check_form(await ask(running, method, f"/{entry_id}", content=content), 404)
                assert details["name"] == "NotFound"
                assert details["message"].startswith("MediaLibrary Entry does not exist (id: '")


async def test_unknown_paths_and_methods(tmp_path: Path) -> None:
    """An unknown path is a 404, an unknown method a 405, both as JSON."""
    async with running_library(tmp_path, "a/b.jpg") as running:
        for path in ("/x/y", "/x/keys/", "/x/keys/y", "/", "//x"):
            unknown = check_form(await ask(running, "GET", path), 404)
            assert unknown["message"] == "There is no such endpoint in this version of the API", path
        wrong = await ask(running, "DELETE", "/x")

    assert check_form(wrong, 405)["message"] == "DELETE is not allowed here; allowed: GET, HEAD, PATCH"
    assert wrong.headers["allow"] == "GET, HEAD, PATCH"


RAW_KEYS = [
    ("../secret.png", "key"),
    ("..%2fsecret.png", "key"),
    ("%2e%2e/secret.png", "key"),
    ("a/../../secret.png", "key"),
    ("/etc/passwd", "key"),
    ("%2Fetc%2Fpasswd", "key"),
    ("a%2Fb.jpg", "key"),
    ("a%00.png", "key"),
    ("a%0d%0ax.png", "key"),
    ("a%5C..%5Cb", "key"),
    ("a//b.jpg", "key"),
    ("a/./b.jpg", "key"),
    ("a%FFb.jpg", "key"),
    ("", "key"),
]


async def raw_get(running: RunningLibrary, target: str) -> tuple[int, bytes]:
    """Send a request target exactly as it is. HTTP clients would normalise it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.library.port)
    head = f"GET {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n"
    writer.write(head.encode("latin-1"))
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]


async def test_keys_that_could_leave_the_folder(tmp_path: Path) -> None:
    """Dots, absolute paths, NUL and encoded slashes are a 400 at `key`, and no byte from outside is sent."""
    secret = picture_bytes(color=(1, 2, 3))
    (tmp_path / "secret.png").write_bytes(secret)
    async with running_library(tmp_path / "photos", "a/b.jpg") as running:
        for key, path in RAW_KEYS:
            status, body = await raw_get(running, f"/api/2026-05/mediaLibrary/serve-image/{key}")
            assert (status, list(json.loads(body)["error_details"])) == (400, [path]), key
            assert secret not in body


async def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    """A link to a file inside works; a link to a file outside is not served, even if it was inside before."""
    (tmp_path / "secret.png").write_bytes(picture_bytes(color=(1, 2, 3)))
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "out.png").symlink_to(tmp_path / "secret.png")
    (photos / "dir").symlink_to(tmp_path)
    (photos / "in.jpg").symlink_to(photos / "a" / "b.jpg")
    async with running_library(photos, "a/b.jpg") as running:
        keys = {entry.asset.key for entry in running.library.store.all_entries()}
        inside = await ask(running, "GET", "/serve-image/in.jpg")
        (photos / "a" / "b.jpg").unlink()
        (photos / "a" / "b.jpg").symlink_to(tmp_path / "secret.png")
        outside = await ask(running, "GET", "/serve-image/a/b.jpg")

    assert keys == {"a/b.jpg", "in.jpg"}
    assert inside.status_code == 200
    assert check_form(outside, 404)["message"] == "No image found."


VERSIONS = {"2025-01": 410, "2020-10": 410, "2026-04": 404, "2025-13": 404, "v1": 404, "..": 404}


async def test_versions_that_are_not_served(tmp_path: Path) -> None:
    """A version before the oldest one is 410, an unknown version is 404."""
    async with running_library(tmp_path, "a/b.jpg") as running:
        for version, status in VERSIONS.items():
            code, body = await raw_get(running, f"/api/{version}/mediaLibrary/{running.library.entry_id('a/b.jpg')}")
            assert (code, json.loads(body)["status"]) == (status, status), version


@pytest.mark.parametrize("version", API_VERSIONS)
async def test_what_a_version_does_not_have(tmp_path: Path, version: str) -> None:
    """Endpoints, operations, properties and parameters of later versions are refused."""
    operations: dict[str, tuple[dict[str, object], str]] = {
        "unrevokeAsset": ({}, "2026-01"),
        "addUsageLogEntry": ({"value": {"purpose": "web"}}, "2026-05"),
        "updateUsageLogEntry": ({"usageLogEntryId": "x", "value": {"state": "pending"}}, "2026-05"),
        "removeUsageLogEntry": ({"usageLogEntryId": "x"}, "2026-05"),
    }
    async with running_library(tmp_path, "a/b.jpg") as running:
        entry_id = running.library.entry_id("a/b.jpg")
        for endpoint, since in (("keys", "2026-03"), ("usageLog", "2026-05")):
            answer = await ask(running, "GET", f"/{entry_id}/{endpoint}", version=version)
            assert answer.status_code == (200 if version >= since else 404)
        for name, (arguments, since) in operations.items():
            body = json.dumps(patch_of({"operation": name, **arguments})).encode()
            answer = await ask(running, "PATCH", f"/{entry_id}", content=body, version=version)
            is_unknown = answer.json().get("error_details") == {"patches.0.operation": f'No enum match for: "{name}"'}
            assert is_unknown == (version < since), name
        note = json.dumps(patch_of({"operation": "revokeAsset", "note": "n"})).encode()
        noted = await ask(running, "PATCH", f"/{entry_id}", content=note, version=version)
        kept = await ask(
            running,
            "PATCH",
            f"/{entry_id}",
            content=json.dumps(patch_of({"operation": "archive"}, preserveUpdatedAt=True)).encode(),
            version=version,
        )
        after = await ask(running, "GET", f"/{entry_id}/incomingDocumentReferences?after=x", version=version)

    assert noted.status_code == (200 if version >= "2026-01" else 400)
    assert kept.status_code == (200 if version >= "2026-03" else 400)
    assert (check_form(after, 400)["after"] == "Unexpected query parameter") == (version < "2026-01")


async def test_without_a_known_token(tmp_path: Path) -> None:
    """No token, another scheme or an unknown token is a 401 with a challenge, for any path."""
    async with running_library(tmp_path, "a/b.jpg") as running, plain_http(running.url) as http:
        for header in (None, "", "Basic eDp5", "Bearer", "Bearer other", "Bearer t\xf6ken"):
            headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
            for path in ("/unknown", "/serve-image/a/b.jpg", "/serve-image/nope.jpg", "?ids=x"):
                answer = await http.get(f"/api/2026-05/mediaLibrary{path}", headers=headers)
                assert check_form(answer, 401)["name"] == "Unauthorized"
                assert answer.headers["www-authenticate"].startswith("Bearer")
            assert (await http.get("/-/library/entries", headers=headers)).status_code == 401


async def test_admin_bodies(tmp_path: Path) -> None:
    """The routes under /-/library check their bodies."""
    wrong = [
        ({}, {"id", "references"}),
        ({"id": 0, "references": []}, {"id"}),
        ({"id": 1, "references": [{}]}, {"references.0.id"}),
        ({"id": 1, "references": [{"id": "x", "location": "y", "z": 1}]}, {"references.0.location", "references.0.z"}),
        (
            {"id": 1, "references": [], "purpose": "a b", "url": 1, "publicationId": "x"},
            {"purpose", "url", "publicationId"},
        ),
    ]
    async with running_library(tmp_path, "a/b.jpg") as running, plain_http(token=TOKEN) as http:
        for body, paths in wrong:
            answer = await http.post(f"{running.url}/-/library/documents", json=body)
            assert set(check_form(answer, 400)) == paths
        unknown = await http.post(f"{running.url}/-/library/documents", json={"id": 1, "references": [{"id": "x"}]})
        nothing = await http.post(f"{running.url}/-/library/entries/x/invalid")
        external = await http.post(f"{running.url}/-/library/entries/x/external", json={"systemName": 1})

    assert check_form(unknown, 404)
    assert check_form(nothing, 404)
    assert set(check_form(external, 400)) == {"systemName", "externalId"}
