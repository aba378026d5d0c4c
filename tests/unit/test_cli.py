"""The commands, run in this process: output, errors, exit codes."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import imgproxy
from imgproxy.cli.process import why_unavailable
from imgproxy.errors import CacheUnavailable
from imgproxy.params.signature import verify
from tests.support.cli import NOBODY, run
from tests.support.library import TOKEN, fill_folder, running_library

REPOSITORY = Path(__file__).parents[2]
# --- version and configuration ---------------------------------------------------------------------------------------------------


def test_the_version_is_printed() -> None:
    """`imgproxy --version` prints one line."""
    assert run("--version") == (0, f"imgproxy {imgproxy.__version__}\n", "")


def test_problems_of_the_configuration_are_printed_as_they_are(tmp_path: Path) -> None:
    """Each problem is one line; its `[section]` is not read as markup."""
    config = tmp_path / "config.toml"
    config.write_text("[[downstream]]\nkind = 'varnish'\n[server]\nport = '[red]'\n")

    code, out, err = run("check", "-c", str(config))

    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("imgproxy: [server] port = '[red]': expected integer")
    assert lines[1] == "imgproxy: [[downstream]] number 1: kind = 'varnish' needs url"


def test_a_missing_token_names_its_section(tmp_path: Path) -> None:
    """`sign` without a token says where one is set."""
    code, _, err = run("sign", "/a.jpg", IMGPROXY_CACHE__DIR=str(tmp_path))

    assert (code, err) == (2, "imgproxy: no signing token: give --token, or set [signing] tokens\n")


@pytest.mark.usefixtures("no_libraries_tried")
def test_check_names_section_and_key_of_a_secret_that_cannot_be_read(tmp_path: Path) -> None:
    """The line begins with the mark, the section and the key."""
    code, out, _ = run("check", IMGPROXY_ORIGIN__TOKEN_FILE=str(tmp_path / "none"), IMGPROXY_CACHE__DIR=str(tmp_path))

    assert code == 2
    assert f"✗ [origin] token_file: the file {tmp_path}/none cannot be read" in out
    assert "! [admin] token is not set" in out


@pytest.mark.parametrize("case", ["a file", "below a file", "a dangling link"])
@pytest.mark.usefixtures("no_libraries_tried")
def test_check_refuses_a_cache_that_serve_would_refuse(tmp_path: Path, case: str) -> None:
    """A path that is not a directory, or cannot become one, is reported."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "file" / "nowhere")
    directory = {"a file": "file", "below a file": "file/cache", "a dangling link": "link"}[case]

    code, out, _ = run("check", IMGPROXY_CACHE__DIR=str(tmp_path / directory), IMGPROXY_ORIGIN__URL=NOBODY)

    assert code == 1
    assert f"✗ [cache] dir = {tmp_path / directory}: cannot be written" in out


@pytest.mark.usefixtures("no_libraries_tried")
def test_check_leaves_nothing_behind(tmp_path: Path) -> None:
    """The nearest parent is tried; the directory is not made."""
    _, out, _ = run("check", IMGPROXY_CACHE__DIR=str(tmp_path / "a" / "b"), IMGPROXY_ORIGIN__URL=NOBODY)

    assert f"✓ the cache directory {tmp_path}/a/b can be written" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_libraries_tried")
async def test_check_speaks_to_the_operator(tmp_path: Path) -> None:
    """The message for a refused token is for the operator, not the public text for clients."""
    fill_folder(tmp_path / "photos", "a.png")
    async with running_library(tmp_path / "photos") as library:
        code, out, _ = await asyncio.to_thread(
            run,
            "check",
            IMGPROXY_ORIGIN__URL=library.url,
            IMGPROXY_ORIGIN__TOKEN="wrong",
            IMGPROXY_CACHE__DIR=str(tmp_path),
        )

    assert code == 1
    assert f"✗ [origin] {library.url}: the Media Library does not accept the token" in out
    assert "operator" not in out


def test_a_directory_in_use_has_a_message_of_its_own() -> None:
    """Two edges on one directory are not reported as a permission problem."""
    taken, full = CacheUnavailable(), CacheUnavailable()
    taken.__cause__ = OSError(errno.EBUSY, "another imgproxy is using this directory")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")

    assert why_unavailable(taken) == "another imgproxy is using this directory"
    assert why_unavailable(full) == "cannot be written (No space left on device)"


# --- purge -----------------------------------------------------------------------------------------------------------


def test_names_with_brackets_are_printed_whole() -> None:
    """A key that looks like markup is shown as it is."""
    names = ("a[/b].jpg", "x[red]y.jpg", "[bold]")

    code, out, err = run("purge", "--keys", *names, "--edge", NOBODY, "--token", "x")

    assert (code, out) == (1, "")
    assert [line.split(": ")[1] for line in err.splitlines()] == list(names)


@pytest.mark.parametrize("option", [("--soft",), ("--reason", "edited")])
def test_what_a_purge_by_key_cannot_do_is_refused(option: tuple[str, ...]) -> None:
    """`--soft` and `--reason` are refused with `--keys`, as they would be ignored."""
    code, out, err = run("purge", "--keys", "a.jpg", *option, "--edge", NOBODY, "--token", "x")

    assert (code, out) == (2, "")
    assert err.startswith(f"imgproxy: {option[0]} is for entry ids, not for --keys")
    assert len(err.splitlines()) == 1


def test_a_token_that_no_header_can_hold_is_refused_in_one_line() -> None:
    """A token with other characters than visible ASCII is refused in one line that does not repeat it."""
    for token in ("gehe\u00efm", "two words"):
        code, out, err = run("purge", "a", "--edge", NOBODY, "--token", token)
        assert (code, out) == (2, "")
        assert "visible ASCII" in err
        assert token not in err
        assert len(err.splitlines()) == 1


def test_an_id_that_no_url_can_hold_is_one_row() -> None:
    """The other ids are still purged."""
    code, out, _ = run("purge", "a\x01b", "fine", "--edge", NOBODY, "--token", "x", "--json")

    assert code == 1
    assert len(out.splitlines()) == 2


def test_a_key_without_keys_is_told() -> None:
    """An entry's id has no slash."""
    code, _, err = run("purge", "2025/03/14/a.jpg", "--edge", NOBODY, "--token", "x")
    assert (code, err) == (2, "imgproxy: 2025/03/14/a.jpg is a key, not the id of an entry: add --keys\n")


def test_the_admin_token_may_be_in_a_file(tmp_path: Path) -> None:
    """Other users of the machine see the options of a command. A file that cannot be read is one line."""
    code, _, err = run("warm", "a", "--edge", NOBODY, "--token-file", str(tmp_path / "none"))
    assert (code, err.count("\n")) == (2, 1)
    assert "--token-file: the file" in err
    file = tmp_path / "token"
    file.write_text("sixteen-characters\n")
    code, _, err = run("warm", "a", "--edge", NOBODY, "--token-file", str(file))
    assert code == 1
    assert "cannot be reached" in err


def test_a_pipe_gets_ids_whole() -> None:
    """A table on a pipe is as wide as it has to be."""
    long = "k" * 200 + ".jpg"
    _, out, _ = run("explain", f"/{long}?dl={long}")
    assert f"dl={long} " in out


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_both_options_for_help(option: str) -> None:
    """Also of the commands."""
    assert run(option)[0] == run("purge", option)[0] == 0


def test_the_package_is_a_command() -> None:
    """`python -m imgproxy` is the command line."""
    done = subprocess.run([sys.executable, "-m", "imgproxy", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"imgproxy {imgproxy.__version__}\n"


# --- sign ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://h?w=800", "https://h/?w=800&s="),
        ("https://h?u=a/b", "https://h/?u=a/b&s="),
        ("https://h/ein bild.jpg?txt=\u00fc b", "https://h/ein%20bild.jpg?txt=%C3%BC%20b&s="),
        ("https://h/a%20b.jpg#top", "https://h/a%20b.jpg?s="),
        ("a.jpg?w=1", "/a.jpg?w=1&s="),
        ("a.jpg?blend=http://x/y", "/a.jpg?blend=http://x/y&s="),
    ],
)
def test_sign_prints_the_url_as_a_browser_sends_it(given: str, expected: str) -> None:
    """The URL is percent-encoded, and its signature is valid for the encoded form."""
    code, out, _ = run("sign", given, "--token", "T")

    url = out.rstrip("\n")
    assert code == 0
    assert url.startswith(expected)
    assert verify(re.sub(r"^https://h|#.*$", "", url), ["T"])


# --- commands of the documentation and the Makefile --------------------------------------------------------------------


async def test_the_media_command_of_the_page_on_running_it_works(tmp_path: Path) -> None:
    """It works with the URL, the token and an id of a running library."""
    match = re.search(
        r"`imgproxy (media --url \S+ --token T [^`]+)`", (REPOSITORY / "docs/deployment.md").read_text("utf-8")
    )
    assert match
    fill_folder(tmp_path / "photos", "a.png")
    async with running_library(tmp_path / "photos") as running:
        (entry,) = running.library.store.all_entries()
        here = {"http://127.0.0.1:9090": running.url, "T": TOKEN, "ID": entry.id}
        code, out, err = await asyncio.to_thread(run, *[here.get(word, word) for word in shlex.split(match[1])])

    assert (code, err) == (0, "")
    assert entry.id in out


def make(*arguments: str, folder: Path = REPOSITORY) -> str:
    """Return what make prints, the same under `make test` as without it: make does not tell of its folders."""
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=60).stdout


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@needs_make
def test_the_demo_target_takes_a_folder_with_a_space_and_options() -> None:
    """`make demo FOLDER="my pictures" ARGS="--port 8081"` passes one argument, then the options."""
    said = make("-n", "-o", ".venv/.runtime", "demo", "FOLDER=my pictures", "ARGS=--port 8081")

    line = next(line for line in said.splitlines() if "imgproxy demo" in line)
    assert shlex.split(line)[1:] == ["demo", "my pictures", "--port", "8081"]


@needs_make
def test_make_alone_lists_every_target() -> None:
    """Each target that a user may call is there with what it does."""
    text = (REPOSITORY / "Makefile").read_text("utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    listed = dict(re.findall(r"^  make (\S+) +(\S.+)$", make(), re.MULTILINE))

    assert list(listed) == phony.split()
    assert listed["demo"].startswith("a Media Library and the edge")


@needs_make
def test_the_demo_needs_no_test_tools(tmp_path: Path) -> None:
    """On a new machine `make demo` installs what runs, and says so in words; `make test` adds the rest."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-build.lock", "requirements-dev.lock"):
        (tmp_path / name).write_text((REPOSITORY / name).read_text("utf-8"), "utf-8")

    demo, test = make("-n", "demo", folder=tmp_path), make("-n", "test", folder=tmp_path)
    assert "-r requirements.lock" in demo
    assert "requirements-dev.lock" not in demo
    assert "3 of 3" in demo
    assert demo.splitlines()[:-1] == test.splitlines()[: demo.count("\n") - 1]
    assert "-r requirements-dev.lock" in test


# --- explain -----------------------------------------------------------------------------------------------------------


def test_explain_says_what_each_parameter_came_to() -> None:
    """Key, signature, plan, and a line for each parameter with the reason why it is not used."""
    code, out, _ = run("explain", "https://images.example/2025/a.jpg?widht=5&w=800&fm=png&q=40")

    assert code == 0
    assert "key        2025/a.jpg" in out
    assert "signature  none, and none is required" in out
    assert "plan       RenderPlan(" in out
    assert re.search(r"widht=5 +url +unknown +expected the name of a parameter; did you mean `width`\?", out)
    assert re.search(r"q=40 +url +40 +no effect +the plan would be the same without it", out)


def test_explain_as_json_has_the_verdict_on_the_signature() -> None:
    """Valid, wrong, missing; the exit code is 1 if a request would be refused."""
    required = {"IMGPROXY_SIGNING__REQUIRED": "true", "IMGPROXY_SIGNING__TOKENS": '["sixteen-characters"]'}
    _, signed, _ = run("sign", "/a.jpg?w=10", "--token", "sixteen-characters")
    verdicts = {}
    for name, url in {"right": signed.strip(), "wrong": signed.strip()[:-1], "missing": "/a.jpg?w=10"}.items():
        code, out, _ = run("explain", url, "--json", **required)
        verdicts[name] = (code, json.loads(out)["signature"].partition(":")[0])
    assert verdicts == {"right": (0, "valid"), "wrong": (1, "wrong"), "missing": (1, "missing")}


def test_explain_refuses_a_path_that_is_no_key() -> None:
    """One line on standard error."""
    code, out, err = run("explain", "/a/../b.jpg")
    assert (code, out) == (1, "")
    assert err == "imgproxy: The path has a part that is `.` or `..`.\n"
