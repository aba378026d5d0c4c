"""`imgproxy library` and `imgproxy media` as people and scripts use them: real processes, exit codes, one-line errors."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from imgproxy.cli.library import library as library_command
from imgproxy.cli.media import app as media_app
from imgproxy.medialibrary.operations import RevokeAsset
from tests.support.library import TOKEN, RunningLibrary, fill_folder, running_library

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

library_app = typer.Typer()
library_app.command()(library_command)


def run_library(*arguments: str) -> tuple[int, str, str]:
    """Run `imgproxy library` to its end. Return exit code, standard output and standard error."""
    result = CliRunner().invoke(library_app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


async def run_media(running: RunningLibrary, *arguments: str, token: str = TOKEN) -> tuple[int, str, str]:
    """Run `imgproxy media` against a library."""
    environment = {"IMGPROXY_ORIGIN__URL": running.url, "IMGPROXY_ORIGIN__TOKEN": token}
    result = await asyncio.to_thread(lambda: CliRunner(env=environment).invoke(media_app, list(arguments)))
    return result.exit_code, result.stdout, result.stderr


def test_wrong_arguments_give_one_line_and_exit_code_2(tmp_path: Path) -> None:
    """A missing or empty folder, an unknown scope and an invalid URL give one line on standard error."""
    fill_folder(tmp_path / "photos", "a.png")
    (tmp_path / "empty").mkdir()
    photos = str(tmp_path / "photos")
    cases = {
        (str(tmp_path / "none"),): "there is no such folder",
        (str(tmp_path / "empty"),): "there is no picture in this folder",
        (photos, "--token", "T=public-api:delete"): "unknown scope 'public-api:delete'",
        (photos, "--token", "two words"): "expected visible ASCII characters",
        (photos, "--webhook-url", "ftp://x"): "expected a URL that begins with http",
    }
    for arguments, message in cases.items():
        code, output, error = run_library(*arguments)
        assert (code, output) == (2, "")
        assert message in error
        assert len(error.strip().splitlines()) == 1
        assert "Traceback" not in error


def test_the_list(tmp_path: Path) -> None:
    """--list prints ids and keys as a table or JSON, the same on each call, and warns of a broken file."""
    fill_folder(tmp_path, "a.png", "deep/b.jpg")
    (tmp_path / "broken.gif").write_bytes(b"GIF")
    first = run_library(str(tmp_path), "--list", "--json")
    again = run_library(str(tmp_path), "--list", "--json")
    table = run_library(str(tmp_path), "--list")

    rows = json.loads(first[1])
    assert [row["key"] for row in rows] == ["a.png", "deep/b.jpg"]
    assert first[1] == again[1]
    assert "broken.gif: skipped" in first[2]
    assert all(row["id"] in table[1] and row["key"] in table[1] for row in rows)


async def start_library(folder: Path, *arguments: str) -> asyncio.subprocess.Process:
    """Start `imgproxy library` in a separate process, where it can install signal handlers."""
    code = "import typer; from imgproxy.cli.library import library; typer.run(library)"
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(folder), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def library_process(folder: Path, *arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run `imgproxy library` until it has printed how to try it. Yield the process and the output."""
    process = await start_library(folder, *arguments)
    assert process.stdout is not None
    try:
        printed = (await asyncio.wait_for(process.stdout.readuntil(b"Ctrl-C ends"), 30)).decode()
        yield process, printed
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_running_library(tmp_path: Path) -> None:
    """It prints a curl line that works, can be listed, keeps a second one off its port, and stops with exit code 0."""
    fill_folder(tmp_path, "a.png")
    async with library_process(tmp_path, "--port", "0", "--token", "T0", "--fail-rate", "0") as (process, printed):
        curl = next(line for line in printed.splitlines() if "curl" in line)
        url = curl.split()[-1]
        port = url.split(":")[2].split("/")[0]
        header = curl.split("'")[1]
        lister = await asyncio.to_thread(run_library, str(tmp_path), "--list", "--json")
        second = await start_library(tmp_path, "--port", port)
        _, refusal = await asyncio.wait_for(second.communicate(), 30)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        path = "/" + url.split("/", 3)[3]
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n{header}\r\nconnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(process.wait(), 20)

    assert json.loads(answer.partition(b"\r\n\r\n")[2])["id"] == json.loads(lister[1])[0]["id"]
    assert header == "Authorization: Bearer T0"
    in_use = f"imgproxy library: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert (second.returncode, refusal.decode().strip()) == (1, in_use)
    assert code == 0


async def test_media_commands(tmp_path: Path) -> None:
    """Every command does its work, prints a table or JSON, and ends with exit code 0."""
    async with running_library(tmp_path, "a.png", "b.png") as running:
        entry_id, other_id = running.library.entry_id("a.png"), running.library.entry_id("b.png")

        async def out(*arguments: str) -> Any:
            code, printed, error = await run_media(running, *arguments)
            assert (code, error) == (0, ""), (arguments, error)
            return json.loads(printed) if "--json" in arguments else printed

        assert entry_id in await out("show", entry_id)
        assert (await out("show", entry_id, "--json"))["asset"]["mimeType"] == "image/png"
        assert [row["id"] for row in await out("list", other_id, entry_id, "--json")] == [other_id, entry_id]
        assert "a" in await out("list", entry_id)
        assert await out("keys", entry_id) == "a.png\n"
        assert "done" in await out("set", entry_id, "credit", "plain text")
        assert "done" in await out("set", other_id, "link", json.dumps({"mediaId": entry_id}))
        assert (await out("--json", "references", entry_id, "--json"))["media"][0]["id"] == other_id
        assert other_id in await out("references", entry_id)
        assert "done" in await out("revoke", entry_id, "--note", "Case #1", "--version", "2")
        assert "done" in await out("unrevoke", entry_id)
        assert "done" in await out("replace", entry_id, "b.png", "--locale", "fr")
        assert "done" in await out("archive", entry_id, "--preserve-updated-at")
        assert await out("usage", entry_id, "--json") == []
        assert "state" in await out("usage", entry_id)
        assert "done" in await out("set", entry_id, "credit")
        entry = running.library.store.entry(entry_id)

    assert (entry.is_archived, "credit" in entry.metadata, set(entry.translations)) == (True, False, {"fr"})


async def test_media_exit_codes(tmp_path: Path) -> None:
    """Each kind of failure has its own exit code and a line with the reason."""
    async with running_library(tmp_path, "a.png") as running:
        entry_id = running.library.entry_id("a.png")
        await running.library.patch(entry_id, RevokeAsset())
        cases: list[tuple[int, tuple[str, ...], str]] = [
            (3, ("show", "unknown"), "does not exist"),
            (6, ("revoke", entry_id), "already revoked"),
            (6, ("archive", entry_id, "--version", "1"), "Version: Expected 2 to be equal to 1"),
            (7, ("replace", entry_id, "not/there.png"), "patches.0.value.key: There is no file"),
            (9, ("--api-version", "2025-03", "keys", entry_id), "needs Media Library API version 2026-03"),
            (2, ("--api-version", "2020-01", "keys", entry_id), "expected a version as YYYY-MM, 2025-03 or later"),
            (2, ("--url", "x", "keys", entry_id), "expected a URL"),
            (2, ("list",), "give entry ids"),
            (2, ("list", "--external-id", "1"), "go together"),
            (2, ("show", ".."), "must not be"),
            (8, ("--url", "http://127.0.0.1:9", "show", entry_id), "http://127.0.0.1:9 cannot be reached"),
        ]
        for expected, arguments, message in cases:
            code, output, error = await run_media(running, *arguments)
            assert (code, output) == (expected, ""), arguments
            assert message in error
        stranger = await run_media(running, "show", entry_id, token="other")

    assert (stranger[0], stranger[1]) == (4, "")
    assert "other" not in stranger[2]


def test_media_reads_its_token_from_a_file(tmp_path: Path) -> None:
    """A missing or empty token file gives exit code 2 and the reason."""
    (tmp_path / "token").touch()
    for name, message in (("none", "No such file"), ("token", "it is empty")):
        result = CliRunner().invoke(media_app, ["--token-file", str(tmp_path / name), "show", "x"])
        assert result.exit_code == 2
        assert message in result.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    "command",
    [
        *("show", "list", "keys", "references", "usage", "credentials"),
        *("revoke", "unrevoke", "replace", "set", "archive"),
    ],
)
def test_every_command_has_help(command: str) -> None:
    """Each command has a help text."""
    result = CliRunner().invoke(media_app, [command, "--help"])

    assert result.exit_code == 0
    assert "." in result.stdout
