"""Secrets: the tokens in the configuration, and in the files that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproxy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import SecretStr

    from imgproxy.config.sections import SigningSettings, WebhookSettings


def secret_lines(literal: SecretStr | None, file: Path | None, *, name: str) -> tuple[str, ...]:
    """
    Return the secret itself, or the non-empty lines of its file.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    if file is None:
        return (literal.get_secret_value(),) if literal is not None and literal.get_secret_value() else ()
    text = read_text(file, f"{name}: the file {file}")
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise ConfigError((f"{name}: the file {file} is empty; expected the secret on its first line",))
    return lines


def signing_tokens(settings: SigningSettings) -> tuple[str, ...]:
    """Return the tokens of the configuration, then those of the file. Raises ConfigError."""
    literal = tuple(token.get_secret_value() for token in settings.tokens)
    return literal + secret_lines(None, settings.tokens_file, name="[signing] tokens_file")


def webhook_secrets(settings: WebhookSettings) -> tuple[str, ...]:
    """Return the webhook secrets of the configuration, then those of the file. Raises ConfigError."""
    literal = tuple(secret.get_secret_value() for secret in settings.secrets)
    return literal + secret_lines(None, settings.secrets_file, name="[webhook] secrets_file")


def read_text(file: Path, what: str) -> str:
    """Return the text of a file. Raises ConfigError with `what` and the reason."""
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigError((f"{what} cannot be read: it is not UTF-8 text",)) from None
    except OSError as exc:
        raise ConfigError((f"{what} cannot be read: {exc.strerror or 'unknown reason'}",)) from None
