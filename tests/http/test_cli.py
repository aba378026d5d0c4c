"""The commands as a user runs them: real processes, real signals, real exit codes."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

import imgproxy
from imgproxy.workers.extras import find_detector, find_heic
from tests.support import cli
from tests.support.site import KEY, jpeg, poll, site

IMGPROXY = str(Path(sys.executable).with_name("imgproxy"))
QUIET = {
    **{name: value for name, value in os.environ.items() if not name.startswith("IMGPROXY_")},
    "NO_COLOR": "1",
    "COLUMNS": "200",
}


async def run(*arguments: str, environ: dict[str, str] | None = None, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run a command to its end: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        IMGPROXY,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**QUIET, **(environ or {})},
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def run_here(*arguments: str, stdin: str | None = None, **environ: str) -> tuple[int, str, str]:
    """Run a command in this process, where a test has seen it run in a process of its own."""
    return await asyncio.to_thread(cli.run, *arguments, stdin=stdin, **environ)


@asynccontextmanager
async def running(
    *arguments: str, until: str, environ: dict[str, str] | None = None
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run a command until it has printed a line that matches, on either stream; it is killed at the end."""
    process = await asyncio.create_subprocess_exec(
        IMGPROXY,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**QUIET, **(environ or {})},
    )
    assert process.stdout is not None
    seen = ""
    try:
        async with asyncio.timeout(60):
            while not re.search(until, seen):
                line = await process.stdout.readline()
                assert line, f"ended early:\n{seen}"
                seen += line.decode()
        yield process, seen
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def fetch(url: str, **headers: str) -> tuple[int, str, bytes]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status, response.headers.get("Content-Type", ""), await response.read()


# --- demo ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_demo_takes_the_next_free_ports_and_says_so() -> None:
    """Both ports are in use: each server takes another one, and a picture gets through both."""
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
            each.listen()
        ports = [each.getsockname()[1] for each in (one, other)]
        options = ("--port", str(ports[0]), "--library-port", str(ports[1]))
        async with running("demo", *options, until="Ctrl-C stops both") as (process, text):
            said = dict(re.findall(r"Port (\d+) is in use\. The .+ takes (\d+)\.", text))
            assert set(said) == {str(port) for port in ports}
            edge, library = (said[str(port)] for port in ports)
            assert edge != library
            assert f"edge           http://127.0.0.1:{edge} " in text
            assert f"Media Library  http://127.0.0.1:{library} " in text
            url = re.search(r"http://\S+\?w=800$", text, re.MULTILINE)
            assert url is not None
            assert (await fetch(url[0]))[0] == 200
            process.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_the_demo_prints_urls_that_open_and_a_revocation_that_works() -> None:
    """Every printed URL answers; the printed revocation leads to a 403; Ctrl-C ends it cleanly."""
    ports = ("--port", str(free_port()), "--library-port", "0")
    async with running("demo", *ports, until="Ctrl-C stops both") as (process, text):
        urls = re.findall(r"^  \S.*?(http://\S+\?\S+)$", text, re.MULTILINE)
        assert len(urls) >= 6
        for url in urls:
            status, kind, body = await fetch(url, Accept="image/webp")
            assert status == 200, (url, body)
            assert kind.startswith(("image/", "application/json")), url
        async with aiohttp.ClientSession() as session, session.get(urls[0]) as response:
            kept = response.headers["Cache-Control"]
        assert "max-age=0" in kept, "a browser would show its own copy after the revocation"
        best = next(url for url in urls if "auto=format" in url)
        assert (await fetch(best, Accept="image/webp"))[1] == "image/webp"

        revoke = next(line for line in text.splitlines() if "revokeAsset" in line)
        match = re.search(r"'Authorization: (?P<token>[^']+)'.*-d '(?P<body>[^']+)' (?P<url>\S+)", revoke)
        assert match
        async with aiohttp.ClientSession() as session:
            headers = {"Authorization": match["token"], "Content-Type": "application/json"}
            async with session.patch(match["url"], data=match["body"], headers=headers) as response:
                assert response.status == 200
        async with asyncio.timeout(20):
            while (await fetch(urls[0]))[0] != 403:
                await asyncio.sleep(0.05)

        process.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0
        assert b"Traceback" not in out


@pytest.mark.parametrize("case", ["empty folder", "no folder", "unreadable picture"])
async def test_the_demo_says_in_one_line_what_is_wrong(tmp_path: Path, case: str) -> None:
    """One line that names the reason, an exit code, and no traceback."""
    folder = tmp_path / "pictures"
    arguments = ["demo", str(folder), "--library-port", "0", "--port", str(free_port())]
    if case != "no folder":
        folder.mkdir()
    if case == "unreadable picture":
        (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff but no picture")
    code, out, err = await run(*arguments)

    said = out + err
    assert code != 0
    assert "Traceback" not in said
    expected = {
        "empty folder": "no picture",
        "no folder": "not a folder",
        "unreadable picture": "broken.jpg",
    }
    assert expected[case] in said


# --- serve -----------------------------------------------------------------------------------------------------------


async def test_serve_answers_until_sigterm_and_exits_0(tmp_path: Path) -> None:
    """With a configuration file; logs are JSON on a pipe."""
    async with site(tmp_path) as here:
        config = tmp_path / "config.toml"
        config.write_text(
            f"[server]\nport = {free_port()}\n[origin]\nurl = '{here.library.url}'\ntoken = 'library-token'\n"
            f"[cache]\ndir = '{tmp_path}/served'\n[render]\nprocesses = 1\n[signing]\ntokens = ['t']\n"
        )
        async with running("serve", "-c", str(config), until="listening on") as (process, text):
            url = re.search(r"listening on (http://[^\s,]+)", text)
            assert url
            assert (await fetch(f"{url[1]}/{KEY}?w=50"))[0] == 200
            process.send_signal(signal.SIGTERM)
            out, _ = await asyncio.wait_for(process.communicate(), 30)

        assert process.returncode == 0
        lines = [json.loads(line) for line in out.decode().splitlines()]
        assert any(line.get("status") == 200 and line.get("outcome") == "miss" for line in lines)


async def test_after_sigterm_the_port_stays_open_until_the_balancer_has_noticed(tmp_path: Path) -> None:
    """`/-/ready` says no at once; new connections are answered until `shutdown_delay_s` is over. A second signal ends it."""
    async with site(tmp_path) as here:
        environ = {
            "IMGPROXY_ORIGIN__TOKEN": "library-token",
            "IMGPROXY_SERVER__SHUTDOWN_DELAY_S": "600",
            "IMGPROXY_RENDER__PROCESSES": "1",
        }
        options = ("--origin", here.library.url, "--port", str(free_port()), "--cache", str(tmp_path / "served"))
        async with running("serve", *options, until="listening on", environ=environ) as (process, text):
            url = re.search(r"listening on (http://[^\s,\"]+)", text)
            assert url
            process.send_signal(signal.SIGTERM)
            await poll(lambda: fetch(f"{url[1]}/-/ready"), lambda found: found[0] == 503)
            assert b"draining" in (await fetch(f"{url[1]}/-/ready"))[2]
            for width in range(10, 30):
                assert (await fetch(f"{url[1]}/{KEY}?w={width}"))[0] == 200
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), 30)
        assert process.returncode == -signal.SIGTERM


async def test_serve_needs_no_file_for_a_first_try(tmp_path: Path) -> None:
    """Options win over the environment. The first line says what it serves: version, origin, cache."""
    async with site(tmp_path) as here:
        port, token = free_port(), tmp_path / "token"
        token.write_text("library-token")
        options = ("--origin", here.library.url, "--token-file", str(token), "--port", str(port))
        environ = {"IMGPROXY_SERVER__PORT": "1", "IMGPROXY_RENDER__PROCESSES": "1"}
        cache = ("--cache", str(tmp_path / "served"))
        async with running("serve", *options, *cache, until="listening on", environ=environ) as (_, text):
            assert (await fetch(f"http://127.0.0.1:{port}/{KEY}?w=50"))[0] == 200
        first = json.loads(text.splitlines()[0])["message"]
    assert first.startswith(f"imgproxy {imgproxy.__version__}; configuration from the environment; Media Library ")
    assert f"signatures not used; cluster none; cache {tmp_path}/served, at most " in first


async def test_serve_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    """A port in use, a cache that cannot be written, a wrong setting."""
    (tmp_path / "file").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = [
            ({"IMGPROXY_SERVER__PORT": port, "IMGPROXY_CACHE__DIR": str(tmp_path / "c")}, 1, "[server] cannot listen"),
            ({"IMGPROXY_CACHE__DIR": str(tmp_path / "file" / "c")}, 1, "[cache] dir"),
            ({"IMGPROXY_CACHE__MAX_BYTES": "many"}, 2, "[cache] max_bytes = 'many': expected integer"),
        ]
        runs = [run("serve", environ={"IMGPROXY_RENDER__PROCESSES": "1", **environ}) for environ, _, _ in cases]
        for (_, expected_code, words), (code, out, err) in zip(cases, await asyncio.gather(*runs), strict=True):
            assert code == expected_code, err
            assert words in err
            assert "Traceback" not in out + err


# --- the others ------------------------------------------------------------------------------------------------------


async def test_purge_and_warm_talk_to_a_running_edge(tmp_path: Path) -> None:
    """They print a table, or JSON lines with --json; ids also come from standard input."""
    async with site(tmp_path) as here:
        entry = here.library.entry_id(KEY)
        await here.get(f"/{KEY}?w=50")
        edge = ("--edge", here.edge.url, "--token", "admin-token")

        code, out, _ = await run("purge", entry, *edge, "--json")
        assert code == 0
        assert json.loads(out)["variants"] == 1
        code, out, _ = await run_here("purge", "-", *edge, stdin=f"{entry}\n")
        assert (code, "gone" in out) == (0, True)
        code, out, _ = await run_here("purge", "--keys", KEY, *edge)
        assert (code, "gone" in out) == (0, True)
        code, out, err = await run_here("purge", "nobody", *edge)
        assert (code, out) == (1, "")
        assert err.endswith("never seen a key of it. (if this is a key: --keys)\n")
        code, _, err = await run_here("warm", entry, *edge)
        assert (code, "[warm] queries" in err) == (1, True)
        code, out, err = await run_here("purge", entry, "--edge", "http://127.0.0.1:1", "--token", "x")
        assert (code, "cannot be reached" in out + err) == (1, True)


async def test_check_says_what_is_right_and_what_is_not(tmp_path: Path) -> None:
    """A good token is tried and accepted, a bad one refused, a dead origin named; wrong settings are listed."""
    async with site(tmp_path) as here:
        right = {"IMGPROXY_ORIGIN__URL": here.library.url, "IMGPROXY_CACHE__DIR": str(tmp_path / "c")}
        code, out, _ = await run("check", environ={**right, "IMGPROXY_ORIGIN__TOKEN": "library-token"})
        assert (code, "accepts the token" in out) == (0, True)
        assert ("the face detector works" if find_detector() else "no detector is installed") in out
        assert ("HEIC can be read" if find_heic() else "HEIC: no reader is installed") in out
        code, out, _ = await run_here("check", **right, IMGPROXY_ORIGIN__TOKEN="wrong")
        assert (code, "does not accept" in out) == (1, True)
    code, out, _ = await run_here("check", IMGPROXY_ORIGIN__URL="http://127.0.0.1:1")
    assert (code, "the connection was refused: nothing listens there" in out) == (1, True)
    config = tmp_path / "config.toml"
    config.write_text("[cash]\n[server]\nport = 'x'\n")
    code, _, err = await run_here("check", "-c", str(config))
    assert code == 2
    assert "[cash]: unknown section" in err
    assert "[server] port = 'x'" in err


async def test_sign_makes_urls_that_are_accepted(tmp_path: Path) -> None:
    """The printed URL has the signature as its last parameter; without a token it says what is missing."""
    code, out, _ = await run("sign", "https://h/users/1.png?w=400&h=300", "--token", "FOO123bar")
    assert (code, out.strip()) == (0, "https://h/users/1.png?w=400&h=300&s=c7b86f666a832434dd38577e38cf86d1")
    code, _, err = await run_here("sign", "/a.jpg", IMGPROXY_CACHE__DIR=str(tmp_path))
    assert (code, "no signing token" in err) == (2, True)


async def test_library_lists_entries_also_while_it_runs(tmp_path: Path) -> None:
    """`--list --json` prints id and key of every picture."""
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    async with running("library", str(tmp_path), "--port", "0", "--token", "T", until="Ctrl-C"):
        code, out, _ = await run("library", str(tmp_path), "--list", "--json")

    assert code == 0
    assert [entry["key"] for entry in json.loads(out)] == ["a.jpg"]
    assert all(entry["id"] for entry in json.loads(out))
