"""`imgproxy check`: it loads what `serve` loads, and tries what the configuration names."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from imgproxy.cli import check_machine
from imgproxy.cli.check_services import origin_words
from imgproxy.cli.findings import Finding, Level, exit_code
from imgproxy.cli.serve import compose
from imgproxy.config.downstream import DownstreamSettings
from imgproxy.config.load import load
from imgproxy.config.origin import OriginSettings
from imgproxy.config.sections import CacheSettings, RenderSettings, ServerSettings
from imgproxy.errors import ConfigError
from imgproxy.medialibrary.errors import (
    LibraryNotFound,
    OriginTimeout,
    OriginUnavailable,
    Unauthorized,
    UnexpectedAnswer,
    VersionGone,
)
from imgproxy.purge.downstream.targets import try_cache_in_front
from imgproxy.workers.capacity import memory_limit_bytes
from tests.support.cli import NOBODY, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from imgproxy.errors import ImgproxyError


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"IMGPROXY_WARM__QUERIES": '["widht=400"]'}, "did you mean `width`?"),
        ({"IMGPROXY_SIGNING__TOKENS_FILE": "{folder}/none"}, "[signing] tokens_file: the file {folder}/none cannot be"),
        ({"IMGPROXY_ORIGIN__CA_FILE": "{folder}/none"}, "[origin] ca_file"),
        ({"IMGPROXY_CLUSTER__DATABASE_URL_FILE": "{folder}/none"}, "[cluster] database_url_file"),
    ],
)
@pytest.mark.usefixtures("no_libraries_tried")
async def test_what_stops_serve_is_found(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    """`check` prints the line with which `serve` ends."""
    here = {name: text.replace("{folder}", str(tmp_path)) for name, text in variables.items()}
    common = {"IMGPROXY_CACHE__DIR": str(tmp_path / "cache"), "IMGPROXY_ORIGIN__URL": NOBODY}

    code, out, _ = await asyncio.to_thread(run, "check", **common, **here)
    with pytest.raises(ConfigError) as stopped:
        compose(load(None, {**common, **here}))

    line = said.replace("{folder}", str(tmp_path))
    assert line in str(stopped.value)
    assert (code, line in out) == (2, True)


@pytest.mark.usefixtures("no_libraries_tried")
def test_a_missing_token_file_of_a_cache_in_front_is_found(tmp_path: Path) -> None:
    """It passed `check`, and ended `serve`."""
    config = tmp_path / "config.toml"
    config.write_text(f"[[downstream]]\nkind = 'fastly'\nservice_id = 'a'\ntoken_file = '{tmp_path}/none'\n", "utf-8")

    code, out, _ = run("check", "-c", str(config), IMGPROXY_CACHE__DIR=str(tmp_path), IMGPROXY_ORIGIN__URL=NOBODY)

    assert code == 2
    assert f"[[downstream]] fastly token_file: the file {tmp_path}/none cannot be read" in out


def test_the_report_is_json_for_programs(tmp_path: Path) -> None:
    """Each line has its part and its level; the exit code is in it, too."""
    code, out, _ = run("check", "--json", IMGPROXY_CACHE__DIR=str(tmp_path), IMGPROXY_ORIGIN__URL=NOBODY)
    found = json.loads(out)

    assert found["exit_code"] == code == 1
    levels = {(item["part"], item["level"]) for item in found["findings"]}
    assert {("configuration", "good"), ("libvips", "good"), ("origin", "broken"), ("security", "notice")} <= levels


def test_the_worst_finding_decides() -> None:
    """Notices do not fail; a broken service is 1, an invalid configuration 2."""
    codes = [exit_code([Finding("a", Level.GOOD, ""), Finding("b", level, "")]) for level in Level]
    assert codes == [0, 0, 1, 2]


# --- the origin -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Unauthorized(origin_status=401), "wants a token: set [origin] token_file"),
        (Unauthorized(origin_status=403), "wants a token: set [origin] token_file"),
        (VersionGone(api_version="2025-03"), "no longer serves api_version ="),
        (LibraryNotFound(), "no API of a Media Library is under this address (404)"),
        (UnexpectedAnswer(), "is no Media Library"),
        (OriginUnavailable(message="TLS: the certificate is for another name"), "TLS: the certificate is for another"),
        (OriginUnavailable(origin_status=503), "it answered 503"),
        (OriginTimeout(timeout_s=10.0), "10"),
    ],
)
def test_each_fault_of_the_origin_has_its_own_words(error: ImgproxyError, words: str) -> None:
    """The cause is in the line, and what to mend."""
    assert words in origin_words(error, OriginSettings(url="https://cms.example"))


@pytest.mark.parametrize(("status", "words"), [(401, "does not accept the token (401)"), (403, "lacks the scope")])
def test_a_token_and_its_scope_are_told_apart(status: int, words: str) -> None:
    """401: the token is wrong. 403: it may not read."""
    settings = OriginSettings.model_validate({"url": "https://cms.example", "token": "a-token-of-the-library"})
    assert words in origin_words(Unauthorized(origin_status=status), settings)


# --- the caches in front ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def cache_in_front(status: int) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers every purge with this status. Yields its URL, and the heads of requests that came."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads


@pytest.mark.parametrize(("status", "failure"), [(200, None), (405, "HTTP 405"), (503, "HTTP 503")])
async def test_a_purge_is_tried_in_each_cache_in_front(status: int, failure: str | None) -> None:
    """The purge is for a key that no picture has."""
    async with cache_in_front(status) as (url, heads):
        assert await try_cache_in_front(DownstreamSettings(kind="varnish", url=url)) == failure
    assert all(head.startswith(b"PURGE / HTTP/1.1") for head in heads)
    assert heads


# --- the machine ------------------------------------------------------------------------------------------------------


async def test_a_taken_port_is_a_notice_and_a_foreign_address_a_fault() -> None:
    """Beside a running edge `check` must not fail. An address of another machine can never be listened on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (used,) = await check_machine.try_port(ServerSettings(host="127.0.0.1", port=taken.getsockname()[1]))
    (foreign,) = await check_machine.try_port(ServerSettings(host="192.0.2.1", port=8080))

    assert (used.level, "is in use" in used.text) == (Level.NOTICE, True)
    assert (foreign.level, "cannot listen on 192.0.2.1:8080" in foreign.text) == (Level.BROKEN, True)


def test_a_disk_that_is_smaller_than_the_cache_is_told(tmp_path: Path) -> None:
    """The cache would be kept smaller than `max_bytes` without a word."""
    (large,) = check_machine.try_disk(CacheSettings(dir=tmp_path, max_bytes=1 << 60))
    (full,) = check_machine.try_disk(CacheSettings(dir=tmp_path, max_bytes=1 << 30, min_free_bytes=1 << 60))

    assert (large.level, "[cache] max_bytes" in large.text) == (Level.NOTICE, True)
    assert (full.level, "[cache] min_free_bytes" in full.text) == (Level.NOTICE, True)


def test_the_smallest_memory_limit_of_the_cgroups_counts(tmp_path: Path) -> None:
    """A limit of the parent binds as well; `max` is none."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/pod/edge\n")
    folder = tmp_path / "sys/fs/cgroup/pod/edge"
    folder.mkdir(parents=True)
    assert memory_limit_bytes(tmp_path) is None
    (folder / "memory.max").write_text("max\n")
    (folder.parent / "memory.max").write_text("512000000\n")
    assert memory_limit_bytes(tmp_path) == 512_000_000


def test_too_little_memory_is_told_with_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container of 300 MB ends with an unexplained kill else."""
    monkeypatch.setattr(check_machine, "memory_limit_bytes", lambda: 300_000_000)
    (found,) = check_machine.try_memory(CacheSettings(), RenderSettings(processes=4))

    assert found.level == Level.NOTICE
    assert "a memory limit of 0.3 GB: usual photos need" in found.text
    assert "lower [render] processes" in found.text


async def test_libvips_reads_and_writes_every_format() -> None:
    """The probe is a process of its own, as `check` loads no decoder."""
    found = await check_machine.try_libvips()
    assert found[0].level == Level.GOOD
    assert "reads and writes every format" in found[0].text
