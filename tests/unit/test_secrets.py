"""Secrets: an empty or blank one is refused wherever it is taken, and never accepted where it is compared."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from imgproxy.cli.__main__ import app
from imgproxy.config.load import load
from imgproxy.config.secrets import secret_lines, short_secrets
from imgproxy.edge.admin import is_bearer
from imgproxy.errors import ConfigError
from imgproxy.medialibrary.client.tokens import TokenSource
from imgproxy.medialibrary.server import AccessToken, Webhook
from imgproxy.medialibrary.server.events import signature
from imgproxy.params.signature import sign, verify
from imgproxy.purge.webhooks import is_signed

if TYPE_CHECKING:
    from pathlib import Path

LONG = "sixteen-and-more-characters"
BLANK = {"empty": "", "spaces": "  ", "a BOM": "\ufeff", "a NUL": "\0", "zero width": "\u200b\u2060", "a tab": "\t"}
blank = pytest.mark.parametrize("secret", BLANK.values(), ids=BLANK)
CLEAN = {name: None for name in os.environ if name.startswith("IMGPROXY_")}

# Each setting that takes a secret, as TOML with {} for the secret.
SETTINGS = {
    "[webhook] secrets": "[webhook]\nsecrets = ['good-and-long-enough', {}]",
    "[signing] tokens": "[signing]\ntokens = [{}]",
    "[admin] token": "[admin]\ntoken = {}",
    "[origin] token": "[origin]\ntoken = {}",
    "[[downstream]] number 1 token": "[[downstream]]\nkind = 'varnish'\nurl = 'http://127.0.0.1'\ntoken = {}",
}
# Each setting that names a file of secrets, as TOML with {} for the file.
FILES = {
    "[webhook] secrets_file": "[webhook]\nsecrets_file = {}",
    "[signing] tokens_file": "[signing]\ntokens_file = {}",
    "[admin] token_file": "[admin]\ntoken_file = {}",
    "[origin] token_file": "[origin]\ntoken_file = {}",
    "[[downstream]] varnish token_file": "[[downstream]]\nkind = 'varnish'\nurl = 'http://127.0.0.1'\ntoken_file = {}",
}


def toml_text(text: str) -> str:
    return '"' + "".join(f"\\u{ord(char):04x}" for char in text) + '"'


def problems(text: str, tmp_path: Path) -> str:
    """What is wrong with a configuration and its files."""
    path = tmp_path / "edge.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        short_secrets(load(path, {}))
    return "\n".join(caught.value.problems)


# --- refused at the start --------------------------------------------------------------------------------------------


@blank
@pytest.mark.parametrize("where", SETTINGS)
def test_a_blank_secret_in_the_configuration_is_refused(where: str, secret: str, tmp_path: Path) -> None:
    """The line names the setting and says that the secret is empty or blank."""
    line = problems(SETTINGS[where].replace("{}", toml_text(secret)), tmp_path)

    assert line.startswith(f"{where}: expected a secret, but it is empty or blank")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMGPROXY_ADMIN__TOKEN", ""),
        ("IMGPROXY_ORIGIN__TOKEN", ""),
        ("IMGPROXY_WEBHOOK__SECRETS", ""),
        ("IMGPROXY_SIGNING__TOKENS", ""),
        ("IMGPROXY_ADMIN__TOKEN", " "),
        ("IMGPROXY_WEBHOOK__SECRETS", '[""]'),
        ("IMGPROXY_SIGNING__TOKENS", '["good-and-long-enough", " "]'),
        ("IMGPROXY_ADMIN", '{"token": ""}'),
    ],
)
def test_a_blank_secret_in_the_environment_is_refused(name: str, value: str) -> None:
    """So is a variable that a template left empty: it does not silently mean another value."""
    with pytest.raises(ConfigError, match="empty or blank"):
        load(None, {name: value})


@pytest.mark.parametrize("where", FILES)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\n  \r\n\t\n", "is empty"),
        (b"\0\n", "empty or blank"),
        (f"{LONG}\n\u200b\n".encode(), "empty or blank"),
        (LONG.encode("utf-16"), "not UTF-8"),
        (LONG.encode("utf-16-le"), "control characters"),
    ],
)
def test_a_file_without_a_secret_is_refused(where: str, content: bytes, words: str, tmp_path: Path) -> None:
    """A file with nothing in it, with a blank secret, or in another encoding is refused with its setting."""
    file = tmp_path / "secret"
    file.write_bytes(content)

    line = problems(FILES[where].replace("{}", f"'{file}'"), tmp_path)

    assert line.startswith(where)
    assert words in line


def test_blank_lines_of_a_file_are_no_secrets(tmp_path: Path) -> None:
    """Blank lines are skipped; so are a BOM, line ends of any system, and spaces around a secret."""
    file = tmp_path / "secret"
    file.write_bytes(b"\xef\xbb\xbfnew \r\n\r\n  \r\nold\n")

    assert secret_lines(None, file, name="x") == ("new", "old")
    assert TokenSource.file(file).tokens() == ("new", "old")


def test_a_blank_header_of_a_purge_call_is_refused(tmp_path: Path) -> None:
    """A password in a header of `[[downstream]]` cannot be empty either."""
    text = "[[downstream]]\nkind = 'http'\nurl = 'http://127.0.0.1/{key}'\nheaders = { Authorization = ' ' }"

    assert "'Authorization' is not a header name with a value" in problems(text, tmp_path)


# --- short ones ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", SETTINGS)
def test_a_short_secret_is_warned_of(where: str, tmp_path: Path) -> None:
    """15 characters are named with their setting and the bound, 16 are not; the secret is not repeated."""
    file = tmp_path / "edge.toml"
    file.write_text(SETTINGS[where].replace("{}", "'123456789-12345'"))
    (line,) = short_secrets(load(file, {}))
    file.write_text(SETTINGS[where].replace("{}", "'123456789-123456'"))

    assert line.startswith(where.replace("number 1", "varnish"))
    assert "fewer than 16 characters" in line
    assert "12345" not in line
    assert short_secrets(load(file, {})) == []


@pytest.mark.usefixtures("no_libraries_tried")
def test_check_warns_of_short_secrets(tmp_path: Path) -> None:
    """`imgproxy check` prints the warning as a notice."""
    _, out, _ = run("check", IMGPROXY_ADMIN__TOKEN="short", IMGPROXY_CACHE__DIR=str(tmp_path))

    assert "! [admin] token: fewer than 16 characters" in out


# --- commands --------------------------------------------------------------------------------------------------------


def run(*arguments: str, **environ: str) -> tuple[int, str, str]:
    result = CliRunner(env={**CLEAN, **environ}).invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("library", ".", "--token", "{}"),
        ("library", ".", "--token", "{}=public-api:read"),
        ("library", ".", "--webhook-url", "http://127.0.0.1:1", "--webhook-secret", "{}"),
        ("sign", "/a.jpg", "--token", "{}"),
        ("media", "--token", "{}", "keys", "x"),
        ("purge", "x", "--token", "{}"),
        ("warm", "x", "--token", "{}"),
    ],
)
@pytest.mark.parametrize("secret", ["", " "])
def test_a_command_refuses_a_blank_secret(arguments: tuple[str, ...], secret: str) -> None:
    """An option with an empty variable in it is refused, also where the configuration has a secret."""
    code, out, err = run(*(item.replace("{}", secret) for item in arguments), IMGPROXY_SIGNING__TOKENS=f'["{LONG}"]')

    assert (code, out) == (2, "")
    assert "empty or blank" in err


@pytest.mark.parametrize("arguments", [("media", "keys", "x"), ("purge", "x"), ("warm", "x"), ("check",)])
def test_a_command_refuses_a_blank_secret_in_the_environment(arguments: tuple[str, ...]) -> None:
    """A variable that is set but empty is not "no token"."""
    code, _, err = run(*arguments, IMGPROXY_ORIGIN__TOKEN="", IMGPROXY_ADMIN__TOKEN="")

    assert code == 2
    assert "empty or blank" in err


# --- never accepted where secrets are compared -------------------------------------------------------------------------


@blank
def test_a_blank_key_never_verifies(secret: str) -> None:
    """Even if a blank key got as far as the check of a signature or of a token, nothing matches it."""
    body = b"{}"
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    assert not is_signed(body, f"sha256={digest}", (secret,))

    made = hashlib.md5(f"{secret}/a.jpg".encode(), usedforsecurity=False).hexdigest()
    assert not verify(f"/a.jpg?s={made}", (secret,))

    assert not is_bearer(f"Bearer {secret}", (secret,))
    assert not is_bearer("Bearer", (secret,))


@blank
def test_nothing_is_signed_with_a_blank_key(secret: str) -> None:
    """The functions that sign, and the values that hold a secret, refuse it."""
    with pytest.raises(ConfigError, match="empty or blank"):
        sign("/a.jpg", secret)
    with pytest.raises(ConfigError, match="empty or blank"):
        signature(b"{}", secret)
    with pytest.raises(ConfigError, match="empty or blank"):
        Webhook("http://127.0.0.1:1", secret)
    with pytest.raises(ConfigError, match="empty or blank"):
        AccessToken(secret)
    with pytest.raises(ConfigError, match="empty or blank"):
        TokenSource.literal(secret)


# --- files that change -------------------------------------------------------------------------------------------------


def test_a_token_file_that_becomes_empty_keeps_the_old_token(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """During a rotation the last good token stays in use; the log says so once for each state of the file."""
    file = tmp_path / "token"
    file.write_text("first-token")
    source = TokenSource.file(file)

    for content in ("", "\0\0"):
        file.write_text(content)
        assert [source.tokens(), source.tokens()] == [("first-token",)] * 2
    file.unlink()
    assert [source.tokens(), source.tokens()] == [("first-token",)] * 2

    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert "the last good token stays in use" in caplog.text
    file.write_text("second")
    assert source.tokens() == ("second",)
    file.write_text("")
    assert source.tokens() == ("second",)
    assert len(caplog.records) == 4
