"""Content Credentials as the reader of web pages sees them: the JavaScript library of the Content Authenticity Initiative."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.http.test_content_credentials import FORMATS, settings_of
from tests.support.credentials import signed_source, tampered
from tests.support.site import KEY, site

CLIENTS = Path(__file__).parents[1] / "clients"


def read_by_node(folder: Path, files: list[tuple[bytes, str]]) -> list[dict[str, Any]]:
    """What the library says of these files, in their order. Skip, and say how to get it, where it is not installed."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("the reader of Content Credentials needs Node.js 20 or later, and there is no `node` here")
    if not (CLIENTS / "node_modules" / "@contentauth").is_dir():
        pytest.skip("the reader of Content Credentials is not installed: npm ci --prefix tests/clients")
    rows = []
    for number, (body, kind) in enumerate(files):
        path = folder / f"file-{number}"
        path.write_bytes(body)
        rows.append({"file": str(path), "type": kind})
    ran = subprocess.run(
        [node, "credentials.mjs"],
        cwd=CLIENTS,
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    return found


async def test_every_format_is_valid_for_the_reader_of_web_pages(tmp_path: Path) -> None:
    """It sees the chain and what was done, and finds no fault; a byte that is changed later is a fault."""
    async with site(
        tmp_path, pictures={KEY: signed_source(parents=1)}, content_credentials=settings_of(tmp_path)
    ) as here:
        made = [((await here.get(f"/{KEY}?w=48&h=48&fit=crop&fm={name}")).body, kind) for name, kind in FORMATS.items()]
    broken = bytearray(made[0][0])
    broken[-30] ^= 0x55

    *found, changed = read_by_node(tmp_path, [*made, (bytes(broken), "image/jpeg")])

    for each, kind in zip(found, FORMATS.values(), strict=True):
        assert each["state"] == "Valid", each
        ours, edit, capture = each["generations"]
        assert [one["signer"] for one in (ours, edit, capture)] == ["Test Newsroom", "Test Newsroom", "Test Camera"]
        recoded = "c2pa.transcoded" if kind == "image/jpeg" else "c2pa.converted"
        assert {"c2pa.opened", "c2pa.cropped", "c2pa.resized", recoded} <= set(ours["actions"])
        assert capture["actions"] == ["c2pa.created"]
    assert changed["state"] == "Invalid"
    assert "assertion.dataHash.mismatch" in changed["failures"]


async def test_a_fault_of_the_original_is_seen_in_its_variant(tmp_path: Path) -> None:
    """Our signature is right, and the parent's fault is still there to be read."""
    async with site(
        tmp_path, pictures={KEY: tampered(signed_source())}, content_credentials=settings_of(tmp_path)
    ) as here:
        body = (await here.get(f"/{KEY}?w=48")).body

    (found,) = read_by_node(tmp_path, [(body, "image/jpeg")])

    assert set(found["failures"]) <= {"signingCredential.untrusted"}
    assert [one["faults"] for one in found["generations"]] == [["assertion.dataHash.mismatch"], []]
