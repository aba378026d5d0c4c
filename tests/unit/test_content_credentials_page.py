"""The page on Content Credentials: its commands and its configuration work, and it names every action."""

from __future__ import annotations

import asyncio
import re
import subprocess
import tomllib
from pathlib import Path

from imgproxy.cli.check_credentials import try_credentials
from imgproxy.cli.findings import Level
from imgproxy.config.credentials import ContentCredentialsSettings
from imgproxy.credentials import actions
from tests.support.certificates import needs_openssl

PAGE = (Path(__file__).parents[2] / "docs" / "content-credentials.md").read_text("utf-8")


def block(language: str) -> str:
    """The one block of the page in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


@needs_openssl
async def test_the_commands_make_a_certificate_that_signs(tmp_path: Path) -> None:
    """As they stand on the page, and with the files that it names afterwards."""
    command = ["sh", "-e", "-c", block("sh")]
    await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, check=True, capture_output=True)
    named = dict(re.findall(r'`(\w+_file) = "([\w.]+)"`', PAGE))
    files = {name: tmp_path / path for name, path in named.items()}

    found = await try_credentials(
        ContentCredentialsSettings(mode="embed", public_url="https://images.example", timeout_s=60, **files)
    )

    assert set(files) == {"certificate_file", "key_file", "trust_anchors_file"}
    assert [item.level for item in found] == [Level.GOOD]
    assert (
        "signed by The Paper, pictures, The Paper; the certificate, issued by Trial authority, Trial," in found[0].text
    )


def test_the_configuration_is_valid() -> None:
    """Each of its settings exists, and may have that value."""
    section = tomllib.loads(block("toml"))["content_credentials"]
    assert ContentCredentialsSettings(**section).model_fields_set == set(section)


def test_every_action_is_on_the_page() -> None:
    """A reader of a manifest looks them up."""
    words = {word for name, word in vars(actions).items() if name.isupper() and str(word).startswith("c2pa.")}
    named = set(re.findall(r"`(c2pa\.[A-Za-z.]+)`", PAGE.partition("The actions are")[2]))
    assert named == words | {"c2pa.opened"}
