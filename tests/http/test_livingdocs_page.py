"""docs/livingdocs.md: each block to paste is right, tried against a running edge where it makes calls."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from imgproxy.config.load import load
from imgproxy.config.secrets import short_secrets
from imgproxy.purge.webhooks import KINDS, PREFIX
from tests.support.site import ADMIN, KEY, SECRET, Site, jpeg, poll, site
from tests.support.webhooks import deliver_raw

PAGE = (Path(__file__).parents[2] / "docs" / "livingdocs.md").read_text("utf-8")
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="needs node: the blocks are JavaScript")


def block(heading: str, language: str) -> str:
    """Return the only block of this language below a heading."""
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(found)


EDGE_BLOCK = block("1. The edge", "toml")
SERVER_BLOCK = block("2. The server configuration", "js")
PROJECT_BLOCK = block("3. The project configuration", "json")
HANDLER_BLOCK = block("The same by a server event", "js")
IMGIX_BLOCK = block("A handler for imgix that exists already", "js")


async def run_node(code: str, **environ: str) -> Any:
    """Run JavaScript in node, and return the JSON that it prints."""
    assert NODE is not None
    process = await asyncio.create_subprocess_exec(
        *(NODE, "--input-type=commonjs", "--eval", code),
        env={"PATH": "/usr/bin:/bin", **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return json.loads(out)


def server_configuration() -> Any:
    """Return the server configuration as JSON."""
    code = f"const module = {{}}; {SERVER_BLOCK}; console.log(JSON.stringify(module.exports))"
    return run_node(f"(() => {{ {code} }})()", IMGPROXY_SIGNING_TOKEN="THE-SIGNING-SECRET")


def webhook() -> dict[str, Any]:
    """Return the webhook of the project configuration."""
    settings = json.loads(PROJECT_BLOCK)["settings"]["webhooks"]
    assert settings["active"] is True
    (found,) = settings["configurations"]
    return dict(found)


def test_the_configuration_of_the_edge_is_valid(tmp_path: Path) -> None:
    """It loads without a problem, and no secret in it is so short that it is warned of."""
    file = tmp_path / "config.toml"
    (tmp_path / "token").write_text("a token of the library\n", "utf-8")
    file.write_text(EDGE_BLOCK.replace("/etc/imgproxy/token", str(tmp_path / "token")), "utf-8")

    assert short_secrets(load(file)) == []


@needs_node
async def test_the_server_configuration_has_the_settings_that_the_edge_needs() -> None:
    """It runs in node; its names are those of Livingdocs, its secret and its widths those of the edge's block."""
    found = await server_configuration()
    edge = tomllib.loads(EDGE_BLOCK)
    imgix = found["documents"]["imageServices"]["imgix"]

    assert found["documents"]["selectedImageService"] == "imgix"
    assert imgix.keys() == {"host", "secureToken", "preferWebp", "backgroundImage", "srcSet"}
    assert imgix["secureToken"] in edge["signing"]["tokens"]
    assert edge["warm"]["queries"] == [f"w={width_px}&auto=format" for width_px in imgix["srcSet"]["widths"]]
    assert imgix["preferWebp"] is True
    assert found["mediaLibrary"]["use2025Behavior"] is True
    assert found["mediaLibrary"]["generateImageServiceUrlsOnRead"] is True


@needs_node
async def test_extract_key_finds_the_key_in_a_url_with_and_without_the_prefix() -> None:
    """A key has no leading slash, and is not percent-encoded."""
    urls = [f"https://storage.example.com/{path}" for path in ("images/2026/03/a.jpg", "2026/03/a%20b.jpg")]
    code = f"{SERVER_BLOCK}; const {{extractKey}} = module.exports.mediaLibrary.images.storage;"

    found = await run_node(f"{code} console.log(JSON.stringify({json.dumps(urls)}.map((url) => extractKey(url))))")
    assert found == ["2026/03/a.jpg", "2026/03/a b.jpg"]


def test_the_webhook_has_every_event_that_the_edge_acts_on() -> None:
    """The seven names are those that the code knows; the secret is a reference or a text."""
    found = webhook()

    assert sorted(found["events"]) == sorted(f"{PREFIX}{kind}" for kind in KINDS)
    assert len(found["events"]) == 7
    assert found["active"] is True
    assert found["secret"].keys() == {"$secretRef"}
    assert urlsplit(found["url"]).hostname == urlsplit("https://images.example.com").hostname


async def test_the_edge_takes_every_event_at_the_address_of_the_webhook(tmp_path: Path) -> None:
    """Signed as the page says, it is accepted; with another secret it is 401."""
    found = webhook()
    async with site(tmp_path) as here:
        entry = here.library.entry_id(KEY)
        for number, event in enumerate(found["events"]):
            body = json.dumps({"event": event, "deliveryId": f"d-{number}", "mediaId": entry}).encode()
            for secret, is_accepted in ((SECRET, True), ("another secret", False)):
                signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
                assert "`x-livingdocs-signature: sha256=…`" in PAGE
                reply = await here.send(
                    "POST",
                    urlsplit(found["url"]).path,
                    data=body,
                    headers={"x-livingdocs-signature": signature},
                )
                assert (reply.status < 300) is is_accepted, (event, reply)
                if not is_accepted:
                    assert reply.status == 401
        assert (await deliver_raw(here, b"{}", "")).status == 401


async def receipts(here: Site, entry: str) -> list[dict[str, Any]]:
    """Return the receipts of an entry, the latest first."""
    reply = await here.send("GET", f"/-/purges?entry={entry}", headers=ADMIN)
    return list(reply.json()["purges"])


@needs_node
async def test_the_handler_of_server_events_purges_at_the_edge(tmp_path: Path) -> None:
    """`revoke`, `invalid` and an update of the picture purge; an update of its title does not."""
    async with site(tmp_path) as here:
        entry = here.library.entry_id(KEY)
        options = json.dumps({"edge": here.edge.url, "adminToken": "admin-token"})
        asset, title = ({"changes": [{"event": f"mediaLibraryEntry.{kind}.update"}]} for kind in ("asset", "metadata"))
        calls = [("update", title), ("update", asset), ("revoke", {}), ("invalid", {})]
        answers = await run_node(
            f"""{HANDLER_BLOCK}
            const handlers = {{}}
            const liServer = {{events: {{subscribe: (name, handler) => {{ handlers[name] = handler }}}}}}
            purgeAtEdge(liServer, {options})
            const run = async () => {{
              const answers = []
              for (const [kind, more] of {json.dumps(calls)}) {{
                const name = `mediaLibraryEntry.${{kind}}`
                const answer = await handlers[name](name, {{mediaLibraryEntry: {{id: '{entry}'}}, ...more}})
                answers.push(answer ? answer.keys : null)
              }}
              console.log(JSON.stringify(answers))
            }}
            run()"""
        )

        assert answers == [None, [KEY], [KEY], [KEY]]
        await poll(lambda: receipts(here, entry), lambda found: len(found) == 3)
        assert [item["reason"] for item in await receipts(here, entry)] == ["invalid", "revoke", "update"]


@needs_node
async def test_the_handler_for_imgix_works_with_the_host_of_the_edge(tmp_path: Path) -> None:
    """Every key is purged, also one with a space and an umlaut."""
    keys = [KEY, "2026/03/ein bild ä.jpg"]
    async with site(tmp_path, pictures={key: jpeg(1) for key in keys}) as here:
        options = json.dumps({"edge": here.edge.url, "adminToken": "admin-token"})
        await run_node(
            f"""{IMGIX_BLOCK}
            const api = {{getAllKeysForMediaLibraryEntry: async ({{mediaLibraryEntry}}) => mediaLibraryEntry.keys}}
            purgeKeys(api, {{keys: {json.dumps(keys)}}}, {options}).then(() => console.log('null'))"""
        )

        latest = (await here.send("GET", "/-/purges", headers=ADMIN)).json()["purges"]
        assert sorted(key for item in latest for key in item["keys"]) == sorted(keys)
