"""The playground's routes over HTTP: what is open, what needs the admin token, and that they are there only if asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from imgproxy.config.sections import ServerSettings, SigningSettings
from imgproxy.demo.playground import files
from imgproxy.edge.playground import LISTED_MAX, ListedPicture, PlaygroundParts
from imgproxy.params.signature import verify
from tests.support.site import ADMIN, KEY, site

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "signing-token-of-tests"
SIGNING = SigningSettings(tokens=(SecretStr(TOKEN),), required=True)
JSON_ROUTES = [
    ("GET", "/facts"),
    ("GET", "/pictures"),
    ("POST", "/sign"),
    ("POST", "/explain"),
    ("POST", "/revoke/e1"),
    ("POST", "/unrevoke/e1"),
]


def parts(**more: Any) -> PlaygroundParts:
    """The parts of `imgproxy serve`, or more."""
    return PlaygroundParts(files(), **more)


async def test_without_the_setting_there_is_no_playground(tmp_path: Path) -> None:
    """Not even for the operator; and the start page does not name it."""
    assert ServerSettings().playground is False
    async with site(tmp_path) as here:
        for path in ("/-/playground", "/-/playground/main.js", "/-/playground/facts"):
            assert (await here.send("GET", path, headers=ADMIN)).status == 404
        assert b"playground" not in (await here.get("/", Accept="text/html")).body


async def test_the_page_and_its_files_are_open_under_a_strict_policy(tmp_path: Path) -> None:
    """Scripts and styles only from files of this service; no frame, no form, no secret; each with its media type."""
    async with site(tmp_path, playground=parts()) as here:
        page = await here.get("/-/playground")
        assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        policy = dict(each.strip().split(" ", 1) for each in page.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "Set-Cookie" not in page.headers
        for name, body in files().items():
            reply = await here.get(f"/-/playground/{name}")
            assert (reply.status, reply.body) == (200, body), name
        assert (await here.get("/-/playground/style.css")).headers["Content-Type"] == "text/css; charset=utf-8"
        assert (await here.get("/-/playground/__init__.py")).status == 404
        assert (await here.send("POST", "/-/playground")).status == 405
        assert b"-/playground" in (await here.get("/", Accept="text/html")).body
        assert (await here.get("/")).json()["playground"] == "/-/playground"


async def test_every_json_route_needs_the_admin_token(tmp_path: Path) -> None:
    """They sign URLs and name pictures."""

    async def set_revoked(entry: str, is_revoked: bool) -> None:
        pytest.fail(f"{entry} {is_revoked}")

    async with site(tmp_path, playground=parts(set_revoked=set_revoked)) as here:
        for method, path in JSON_ROUTES:
            assert (await here.send(method, f"/-/playground{path}")).status == 401, path


async def test_targets_are_signed_as_the_service_wants_them(tmp_path: Path) -> None:
    """A signed target is answered where signatures are required. The token is never in an answer."""
    async with site(tmp_path, playground=parts(), signing=SIGNING) as here:
        targets = [f"/{KEY}?w=100", f"/{KEY}", "/ä b.jpg?dl=ü"]
        reply = await here.send("POST", "/-/playground/sign", headers=ADMIN, json={"targets": targets})
        signed = reply.json()["targets"]

        assert all(verify(target, (TOKEN,)) for target in signed)
        assert (await here.get(signed[0])).status == 200
        assert (await here.get(targets[0])).status == 403
        assert TOKEN.encode() not in reply.body
        facts = (await here.send("GET", "/-/playground/facts", headers=ADMIN)).json()
        assert facts == {"widths": [], "presets": [], "signed": True, "revocable": False, "credentials": False}


async def test_without_tokens_targets_stay_as_they_are(tmp_path: Path) -> None:
    """As browsers send them."""
    async with site(tmp_path, playground=parts()) as here:
        body = {"targets": [f"/{KEY}?w=100", "/ä.jpg"]}
        reply = await here.send("POST", "/-/playground/sign", headers=ADMIN, json=body)
        assert reply.json() == {"targets": [f"/{KEY}?w=100", "/%C3%A4.jpg"]}


async def test_a_target_is_explained_for_a_client(tmp_path: Path) -> None:
    """The same words as `imgproxy explain`; an error of the URL is in the answer."""
    async with site(tmp_path, playground=parts()) as here:

        async def explained(target: str, accept: str) -> Any:
            body = {"target": target, "accept": accept}
            return (await here.send("POST", "/-/playground/explain", headers=ADMIN, json=body)).json()

        found = await explained(f"/{KEY}?w=100&auto=format&h=-5x", "image/webp")
        assert [(line["name"], line["effect"]) for line in found["parameters"]] == [
            ("w", "used"),
            ("auto", "used"),
            ("h", "ignored"),
        ]
        assert "webp" in found["plan"].lower()
        assert (await explained(f"/{KEY}?w=0", ""))["error"]["code"] == "bad_parameter"


async def test_another_body_is_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """With what is expected."""
    async with site(tmp_path, playground=parts()) as here:
        for path, body in (
            ("sign", {}),
            ("sign", []),
            ("sign", {"targets": ["https://elsewhere.example/a.jpg"]}),
            ("sign", {"targets": ["/a.jpg"] * 65}),
            ("sign", {"targets": ["/\ud800"]}),
            ("explain", {"target": 5}),
            ("explain", {"target": "/a.jpg", "accept": 5}),
        ):
            with subtests.test(path=path, body=body):
                reply = await here.send("POST", f"/-/playground/{path}", headers=ADMIN, json=body)
                assert (reply.status, reply.json()["type"]) == (400, "urn:imgproxy:problem:bad-playground-call")


async def test_serve_lists_the_pictures_whose_entry_it_knows(tmp_path: Path) -> None:
    """An entry is known from an event, a purge or a warm-up. A search is without regard to case."""
    async with site(tmp_path, playground=parts()) as here:

        async def listed(search: str) -> Any:
            path = f"/-/playground/pictures?search={search}"
            return (await here.send("GET", path, headers=ADMIN)).json()["pictures"]

        assert await listed("") == []
        entry = here.library.entry_id(KEY)
        assert (await here.purge(entry)).status == 200
        assert await listed("PICTURE") == [{"entry": entry, "key": KEY, "revoked": False}]
        assert await listed("another") == []


async def test_the_demo_lists_and_revokes_by_what_it_hands_over(tmp_path: Path) -> None:
    """The search and the number go to the library; an unknown entry is 404."""
    calls: list[object] = []

    async def pictures(search: str, count: int) -> list[ListedPicture]:
        calls.append((search, count))
        return [ListedPicture("e1", KEY, is_revoked=True)]

    async def set_revoked(entry: str, is_revoked: bool) -> None:
        if entry != "e 1":
            raise KeyError(entry)
        calls.append((entry, is_revoked))

    async with site(tmp_path, playground=parts(pictures=pictures, set_revoked=set_revoked)) as here:
        reply = await here.send("GET", "/-/playground/pictures?search=Pic", headers=ADMIN)
        assert reply.json() == {"pictures": [{"entry": "e1", "key": KEY, "revoked": True}]}
        for action in ("revoke", "unrevoke"):
            assert (await here.send("POST", f"/-/playground/{action}/e%201", headers=ADMIN)).status == 200
        assert (await here.send("POST", "/-/playground/revoke/other", headers=ADMIN)).status == 404
    assert calls == [("pic", LISTED_MAX), ("e 1", True), ("e 1", False)]
