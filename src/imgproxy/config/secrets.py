"""Secrets: the tokens in the configuration, and in the files that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgproxy.errors import ConfigError
from imgproxy.secret_text import SHORT_CHARS, check_secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import SecretStr

    from imgproxy.config.cluster import ClusterSettings
    from imgproxy.config.sections import SigningSettings, WebhookSettings
    from imgproxy.config.settings import Settings

_DATABASE_SCHEMES: Final = ("postgresql://", "postgres://")


def secret_lines(literal: SecretStr | None, file: Path | None, *, name: str) -> tuple[str, ...]:
    """
    Return the secret itself, or the lines of its file that are not blank.

    Raises:
        ConfigError: the file cannot be read, is empty, or a line cannot be a secret.
    """
    if file is None:
        return (literal.get_secret_value(),) if literal is not None else ()
    what = f"{name}: the file {file}"
    lines = tuple(line.strip() for line in read_text(file, what).split("\n") if line.strip(" \t\r"))
    if not lines:
        raise ConfigError((f"{what} is empty; expected the secret on its first line",))
    return tuple(check_secret(line, what) for line in lines)


def signing_tokens(settings: SigningSettings) -> tuple[str, ...]:
    """Return the tokens of the configuration, then those of the file. Raises ConfigError."""
    literal = tuple(token.get_secret_value() for token in settings.tokens)
    return literal + secret_lines(None, settings.tokens_file, name="[signing] tokens_file")


def webhook_secrets(settings: WebhookSettings) -> tuple[str, ...]:
    """Return the webhook secrets of the configuration, then those of the file. Raises ConfigError."""
    literal = tuple(secret.get_secret_value() for secret in settings.secrets)
    return literal + secret_lines(None, settings.secrets_file, name="[webhook] secrets_file")


def database_url(settings: ClusterSettings) -> str | None:
    """
    Return the URL of the database that the edges share, from the configuration or its file; None: no cluster.

    Raises:
        ConfigError: the file cannot be read or is empty, or the URL is none of PostgreSQL. It is not repeated.
    """
    found = secret_lines(settings.database_url, settings.database_url_file, name="[cluster] database_url_file")
    if not found:
        return None
    if not found[0].startswith(_DATABASE_SCHEMES):
        name = "database_url" if settings.database_url_file is None else "database_url_file"
        raise ConfigError((f"[cluster] {name}: expected a URL that begins with postgresql:// or postgres://",))
    return found[0]


def short_secrets(settings: Settings) -> list[str]:
    """
    Read every secret, also in files, and return a line for each setting with one that is too short to be safe.

    Raises:
        ConfigError: a line for each file that cannot be read or holds no secret.
    """
    short: list[str] = []
    problems: list[str] = []
    for name, literal, file in _places(settings):
        try:
            found = secret_lines(literal, file, name=f"{name}_file")
        except ConfigError as error:
            problems += error.problems
            continue
        if any(len(secret) < SHORT_CHARS for secret in found):
            place = name if file is None else f"{name}_file"
            short.append(f"{place}: fewer than {SHORT_CHARS} characters; a secret that short can be found by trying")
    if problems:
        raise ConfigError(tuple(problems))
    return short


def all_secrets(settings: Settings) -> frozenset[str]:
    """Return every secret, also those in files, so that they can be taken out of a text. Raises ConfigError."""
    return frozenset(
        secret
        for name, literal, file in _places(settings)
        for secret in secret_lines(literal, file, name=f"{name}_file")
    )


def _places(settings: Settings) -> Iterator[tuple[str, SecretStr | None, Path | None]]:
    """List each secret, and each file of secrets, with the name of its setting."""
    for token in settings.signing.tokens:
        yield "[signing] tokens", token, None
    yield "[signing] tokens", None, settings.signing.tokens_file
    for secret in settings.webhook.secrets:
        yield "[webhook] secrets", secret, None
    yield "[webhook] secrets", None, settings.webhook.secrets_file
    yield "[admin] token", settings.admin.token, settings.admin.token_file
    yield "[origin] token", settings.origin.token, settings.origin.token_file
    yield "[shared_store] secret_key", settings.shared_store.secret_key, settings.shared_store.secret_key_file
    for item in settings.downstream:
        yield f"[[downstream]] {item.label} token", item.token, item.token_file


def read_text(file: Path, what: str) -> str:
    """Return the text of a file, without a BOM at its beginning. Raises ConfigError with `what` and the reason."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError((f"{what} cannot be read: it is not UTF-8 text",)) from None
    except OSError as exc:
        raise ConfigError((f"{what} cannot be read: {exc.strerror or 'unknown reason'}",)) from None
