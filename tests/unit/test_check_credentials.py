"""`imgproxy check` and Content Credentials: what `serve` would do, and a picture signed for a trial."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from imgproxy.cli import check_credentials
from imgproxy.cli.check_credentials import describe, try_credentials
from imgproxy.cli.findings import Finding, Level
from imgproxy.cli.serve import summary
from imgproxy.config.credentials import ContentCredentialsSettings
from imgproxy.config.settings import Settings
from imgproxy.credentials import calls
from imgproxy.credentials.calls import Signer
from tests.support.certificates import needs_openssl
from tests.support.cli import NOBODY, run
from tests.support.credentials import Identity, authority, camera, newsroom, with_key_of
from tests.support.timestamps import timestamp_authority

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 86_400.0


def settings_of(folder: Path, identity: Identity, **others: Any) -> ContentCredentialsSettings:
    """Settings with a certificate and its key, which only its owner can read."""
    certificate, key = identity.write(folder)
    key.chmod(0o600)
    chosen = {"mode": "embed", "public_url": "https://images.example", "timeout_s": 60, **others}
    return ContentCredentialsSettings(certificate_file=certificate, key_file=key, **chosen)


async def test_a_certificate_that_signs_is_named(tmp_path: Path) -> None:
    """Subject, issuer and the days that are left are in one line."""
    found = await try_credentials(settings_of(tmp_path, newsroom()))

    text = (
        "Content Credentials: embed, signed by Test Newsroom, Test Newsroom Ltd; the certificate, issued by "
        "Test Root, Test Root Ltd, is valid for 364 days"
    )
    assert found == [Finding("credentials", Level.GOOD, text)]


@pytest.mark.parametrize("algorithm", ["es384", "ps256", "ed25519"])
async def test_each_kind_of_key_signs_the_trial(tmp_path: Path, algorithm: str) -> None:
    """The trial is read again, so a signature in the wrong form would be found."""
    (found,) = await try_credentials(settings_of(tmp_path, authority().issue(algorithm), algorithm=algorithm))
    assert found.level is Level.GOOD


@pytest.mark.parametrize(
    ("identity", "others", "words"),
    [
        (authority().issue(days=(-9, -1)), {}, "certificate 1 expired on"),
        (authority().issue(days=(2, 9)), {}, "certificate 1 is valid only from"),
        (with_key_of(newsroom(), camera()), {}, "key_file: expected the key of the first certificate; this is another"),
        (newsroom(), {"algorithm": "ps256"}, 'algorithm = "ps256": the key needs es256'),
        (authority().issue(purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)), {}, "expected a certificate for signatures"),
        (authority().issue(may_sign=False), {}, "expected a certificate for signatures"),
        (Identity("es256", authority().anchor, newsroom().key), {}, "this is another key"),
        (authority().own(), {}, "this one is self-signed"),
        (newsroom(), {"key_file": "{folder}/none"}, "key_file {folder}/none: No such file"),
        (newsroom(), {"certificate_file": "{folder}/signer.key"}, "signer.key: expected certificates in PEM"),
        (newsroom(), {"trust_anchors_file": "{folder}/none"}, "trust_anchors_file {folder}/none cannot be read"),
        (newsroom(), {"trust_anchors_file": "{folder}/signer.key"}, "signer.key: expected certificates in PEM"),
    ],
)
async def test_what_stops_serve_is_said_in_words(
    tmp_path: Path, identity: Identity, others: dict[str, str], words: str
) -> None:
    """Each fault of certificate, key and anchors has a line of its own."""
    filled = {name: text.replace("{folder}", str(tmp_path)) for name, text in others.items()}
    settings = settings_of(tmp_path, identity)

    found = await try_credentials(ContentCredentialsSettings(**(settings.model_dump() | filled)))

    assert [item.level for item in found] == [Level.INVALID]
    assert found[0].text.startswith("[content_credentials] ")
    assert words.replace("{folder}", str(tmp_path)) in found[0].text


async def test_a_missing_extra_is_said_with_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mode that needs it `serve` does not start; without one it is a notice."""
    monkeypatch.setattr(calls, "has_c2pa", lambda: False)
    monkeypatch.setattr(check_credentials, "has_c2pa", lambda: False)

    (wanted,) = await try_credentials(settings_of(tmp_path, newsroom()))
    (unused,) = await try_credentials(ContentCredentialsSettings())

    assert (wanted.level, 'pip install "imgproxy-edge[c2pa]"' in wanted.text) == (Level.INVALID, True)
    assert (unused.level, unused.text.endswith("no library is installed (extra `c2pa`)")) == (Level.NOTICE, True)


@pytest.mark.parametrize(
    ("days", "level", "words"),
    [(29.5, Level.NOTICE, "expires in 29 days"), (1.5, Level.NOTICE, "in 1 day"), (30.5, Level.GOOD, "for 30 days")],
)
def test_a_certificate_that_expires_within_30_days_is_a_notice(days: float, level: Level, words: str) -> None:
    """A certificate takes weeks to get."""
    found = describe(Signer("", "Paper", "Authority", 1_000.0 + days * DAY_S), "embed", 1_000.0)
    assert (found.level, found.text.endswith(words)) == (level, True)


async def test_a_key_that_everybody_can_read_is_a_notice(tmp_path: Path) -> None:
    """It works, so it is no fault."""
    settings = settings_of(tmp_path, newsroom())
    assert settings.key_file is not None
    settings.key_file.chmod(0o644)

    _, found = await try_credentials(settings)

    assert (found.level, "every user can read it (mode 644)" in found.text) == (Level.NOTICE, True)


@needs_openssl
async def test_a_timestamp_authority_that_answers_is_named(tmp_path: Path) -> None:
    """The trial is signed once more, with a timestamp."""
    async with timestamp_authority(tmp_path) as url:
        found = await try_credentials(settings_of(tmp_path, newsroom(), timestamp_url=url))
    assert found[1:] == [Finding("credentials", Level.GOOD, f"the timestamp authority {url} answers")]


async def test_a_timestamp_authority_that_refuses_is_a_fault(tmp_path: Path) -> None:
    """Every picture would go without credentials."""
    _, found = await try_credentials(settings_of(tmp_path, newsroom(), timestamp_url=f"{NOBODY}/"))
    assert (found.level, found.text.startswith(f"[content_credentials] timestamp_url {NOBODY}/ gives no")) == (
        Level.BROKEN,
        True,
    )


async def test_a_silent_timestamp_authority_is_waited_for_as_long_as_a_picture_waits(tmp_path: Path) -> None:
    """`check` ends, and says which limit it was."""

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client gives up
        writer.close()

    async with await asyncio.start_server(read, "127.0.0.1", 0) as silent:
        url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/"
        _, found = await try_credentials(settings_of(tmp_path, newsroom(), timestamp_url=url, timeout_s=2))
    assert found == Finding(
        "credentials",
        Level.BROKEN,
        f"[content_credentials] timestamp_url {url} gives no timestamp: no answer within timeout_s = 2",
    )


@pytest.mark.usefixtures("no_libraries_tried")
def test_the_command_has_the_finding_also_as_json(tmp_path: Path) -> None:
    """An expired certificate ends `check` with 2, as `serve` would not start."""
    certificate, key = authority().issue(days=(-9, -1)).write(tmp_path)
    environ = {
        "IMGPROXY_CACHE__DIR": str(tmp_path / "cache"),
        "IMGPROXY_ORIGIN__URL": NOBODY,
        "IMGPROXY_CONTENT_CREDENTIALS__MODE": "remote",
        "IMGPROXY_CONTENT_CREDENTIALS__PUBLIC_URL": "https://images.example",
        "IMGPROXY_CONTENT_CREDENTIALS__CERTIFICATE_FILE": str(certificate),
        "IMGPROXY_CONTENT_CREDENTIALS__KEY_FILE": str(key),
    }

    code, out, _ = run("check", "--json", **environ)

    (found,) = (item for item in json.loads(out)["findings"] if item["part"] == "credentials")
    assert (code, found["level"], "expired on" in found["text"]) == (2, "invalid", True)


def test_the_start_line_of_serve_has_the_mode_and_the_extra(tmp_path: Path) -> None:
    """An operator sees at once whether credentials are stripped."""
    settings = Settings(content_credentials=settings_of(tmp_path, newsroom(), mode="remote"))
    parts = summary(settings, None).split("; ")

    assert "content credentials remote" in parts
    assert "c2pa" in parts[-1].removeprefix("extras ").split(", ")
    assert "content credentials strip" in summary(Settings(), None)
