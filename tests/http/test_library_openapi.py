"""The embedded library answers as its OpenAPI document says: schemathesis finds nothing."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from imgproxy.medialibrary.versions import API_VERSIONS
from tests.support.library import TOKEN, RunningLibrary, plain_http, running_library

# Schemas cannot say that a cursor belongs to one list, that a file must exist, that ids or an external id are required,
# or that a range needs a byte of the picture. The answer to such a request is 400 or 416.
CONFIG = """
[parameters]
"path.id" = "{entry_id}"
"path.key" = "c.png"

[[operations]]
include-operation-id = [
    "getEntries", "incomingDocumentReferences", "incomingMediaReferences", "patchEntry", "serveImage"
]
checks.positive_data_acceptance.enabled = false
"""


async def run_schemathesis(running: RunningLibrary, tmp_path: Path, version: str, *arguments: str) -> str:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG.format(entry_id=running.library.entry_id("a/b.jpg")))
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("st")),
        f"--config-file={config}",
        "--no-color",
        "run",
        f"{running.url}/openapi.json?version={version}",
        f"--header=Authorization: Bearer {TOKEN}",
        "--seed=1",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
    )
    output, _ = await process.communicate()
    return "" if process.returncode == 0 else output.decode()[-8000:]


async def test_schemathesis_finds_nothing_in_a_few_examples(tmp_path: Path) -> None:
    """A few generated requests to each GET endpoint are answered as the document says."""
    async with running_library(tmp_path / "photos", "a/b.jpg", "c.png") as running:
        arguments = ("--phases=fuzzing", "--max-examples=3", "--include-method=GET")
        found = await run_schemathesis(running, tmp_path, "2026-05", *arguments)

    assert not found, found


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2025-03", "2026-01", "2026-05"])
async def test_schemathesis_finds_nothing_in_all_its_phases(tmp_path: Path, version: str) -> None:
    """Boundary values, random values and chains of requests are answered as the document says."""
    async with running_library(tmp_path / "photos", "a/b.jpg", "c.png") as running:
        found = await run_schemathesis(running, tmp_path, version, "--max-examples=25")

    assert not found, found


@pytest.mark.parametrize("version", API_VERSIONS)
async def test_a_document_has_the_endpoints_of_its_version(tmp_path: Path, version: str) -> None:
    """Each endpoint and operation is in the document from its first version on."""
    async with running_library(tmp_path, "a/b.jpg") as running, plain_http() as http:
        document = (await http.get(f"{running.url}/openapi.json", params={"version": version})).json()

    operations = {operation["operationId"] for path in document["paths"].values() for operation in path.values()}
    patches = document["components"]["schemas"]["PatchBody"]["properties"]["patches"]["items"]["oneOf"]
    names = {patch["properties"]["operation"]["const"] for patch in patches}
    assert ("keys" in operations) == (version >= "2026-03")
    assert ("usageLog" in operations) == (version >= "2026-05")
    assert ("unrevokeAsset" in names) == (version >= "2026-01")
    assert ("addUsageLogEntry" in names) == (version >= "2026-05")
    assert document["openapi"] == "3.1.0"


async def test_an_unknown_version_has_no_document(tmp_path: Path) -> None:
    """The document of an unknown version is a 400 that names the known versions."""
    async with running_library(tmp_path, "a/b.jpg") as running, plain_http() as http:
        answer = await http.get(f"{running.url}/openapi.json", params={"version": "2020-01"})

    assert answer.status_code == 400
    assert "2026-05" in answer.json()["error_details"]["version"]
