"""`imgproxy media credentials`: the chain of an original, as people and scripts read it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from imgproxy.cli import media_credentials
from imgproxy.cli.media import app
from imgproxy.credentials.reading import read_credentials
from tests.support import images
from tests.support.credentials import FORMATS, authority, signed_source, tampered
from tests.support.library import TOKEN, running_library

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Show = Callable[..., Awaitable[tuple[int, str, str]]]

KEY = "2026/harbour.jpg"


async def show(folder: Path, picture: bytes, *arguments: str, key: str = KEY) -> tuple[int, str, str]:
    """Run the command with this picture in the library. Return exit code, standard output and standard error."""
    path = folder / "pictures" / key
    path.parent.mkdir(parents=True)
    path.write_bytes(picture)
    async with running_library(folder / "pictures") as running:
        environment = {"IMGPROXY_ORIGIN__URL": running.url, "IMGPROXY_ORIGIN__TOKEN": TOKEN}
        command = ["credentials", key, *arguments]
        result = await asyncio.to_thread(lambda: CliRunner(env=environment).invoke(app, command))
    return result.exit_code, result.stdout, result.stderr


def anchors(folder: Path) -> tuple[str, str]:
    """The option that trusts the authority of the tests."""
    path = folder / "anchors.pem"
    path.write_text(authority().anchor)
    return "--trust-anchors", str(path)


async def test_the_chain_is_shown_the_newest_first(tmp_path: Path) -> None:
    """A line for each generation: who signed, with which program, what was done."""
    picture = signed_source(parents=1)
    code, out, error = await show(tmp_path, picture, *anchors(tmp_path))

    assert (code, error) == (0, "")
    title, heads, *rows = (" ".join(line.split()) for line in out.splitlines())
    assert title == f"{KEY}: valid, signed under a trusted authority"
    assert heads == "signed by when program title what was done"
    assert rows == [
        "Test Newsroom, Test Newsroom Ltd Test Editor 1.0 Edit 1 opened, adjustedColor",
        "Test Camera, Test Camera Ltd Test Camera 1.0 DSC_0001 created (digitalCapture)",
    ]


@pytest.mark.parametrize("kind", FORMATS)
async def test_the_chain_is_json_for_scripts_in_each_format(tmp_path: Path, kind: str) -> None:
    """It is what `fm=json` says, and the key."""
    code, out, _ = await show(tmp_path, signed_source(kind), "--json", key=f"a.{kind.removeprefix('image/')}")

    found = json.loads(out)
    assert (code, found["key"], found["validity"], found["problems"]) == (
        0,
        f"a.{kind.removeprefix('image/')}",
        "valid",
        [],
    )
    (generation,) = found["generations"]
    assert generation == {
        "title": "DSC_0001",
        "issuer": "Test Camera Ltd",
        "signer": "Test Camera",
        "program": "Test Camera 1.0",
        "actions": [{"action": "c2pa.created", "source_type": "digitalCapture"}],
    }


async def test_a_picture_that_was_tampered_with_is_shown_as_such(tmp_path: Path) -> None:
    """The codes of the specification say what is wrong."""
    code, out, _ = await show(tmp_path, tampered(signed_source()), *anchors(tmp_path))
    assert (code, out.splitlines()[0].strip()) == (0, f"{KEY}: INVALID (assertion.dataHash.mismatch)")


@pytest.mark.parametrize("name", ["JPEG", "GIF"])
async def test_a_picture_without_credentials_is_said_to_have_none(tmp_path: Path, name: str) -> None:
    """It is an answer, not a failure."""
    key = f"a.{name.lower()}"
    found = await show(tmp_path, images.encode(images.photo(96, 64), name), key=key)
    assert found == (0, f"{key} has no Content Credentials\n", "")


async def test_a_format_that_has_no_place_for_credentials_has_none(tmp_path: Path) -> None:
    """The library of C2PA refuses it, which is no damage."""
    path = tmp_path / "a.bmp"
    path.write_bytes(images.encode(images.photo(96, 64), "BMP"))
    assert await read_credentials(path, "image/bmp", None) is None


async def test_an_unreadable_manifest_is_a_failure_in_words(tmp_path: Path) -> None:
    """It is not taken for a picture without credentials."""
    signed = signed_source()
    at = signed.index(b"jumdc2cl")
    code, out, error = await show(tmp_path, signed[: at + 4] + bytes(8) + signed[at + 12 :])

    assert (code, out) == (1, "")
    assert error.startswith(f"imgproxy media: {KEY} has Content Credentials that cannot be read: ")


async def test_what_a_stranger_wrote_reaches_no_terminal_as_a_command(tmp_path: Path) -> None:
    """A terminal obeys control characters, and shows text backwards after some."""
    signed = signed_source()
    assert b"DSC_0001" in signed
    code, out, _ = await show(tmp_path, signed.replace(b"DSC_0001", b"\x1b[2J\xe2\x80\xaeX"))

    assert code == 0
    assert "INVALID" in out
    assert all(one.isprintable() or one == "\n" for one in out)


async def test_without_the_extra_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched."""
    monkeypatch.setattr(media_credentials, "has_c2pa", lambda: False)
    code, _, error = await show(tmp_path, signed_source())
    assert (code, 'the extra is not installed: pip install "imgproxy-edge[c2pa]"' in error) == (1, True)
