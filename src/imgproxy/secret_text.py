"""Secrets as text: what can be a secret, and which one is short."""

from __future__ import annotations

from typing import Final
from unicodedata import category

from imgproxy.errors import ConfigError

# 16 random letters and digits hold 95 bits, which nobody can try. imgix's own signing tokens have this length.
# A stranger who sees one signature can try secrets on a machine of his own, without a request to this service. So a
# limit on requests cannot replace the length.
SHORT_CHARS: Final = 16


def is_blank(secret: str) -> bool:
    """Tell whether a text shows nothing: empty, or only spaces, control characters, and others such as a BOM."""
    return not any(char.isprintable() and char != " " for char in secret)


def secret_problem(secret: str) -> str | None:
    """Say why a text cannot be a secret, without repeating it. None: it can."""
    if is_blank(secret):
        return "expected a secret, but it is empty or blank (is a variable of a template not set?)"
    if any(category(char) == "Cc" for char in secret):
        return "expected a secret without control characters (is the text in UTF-16?)"
    return None


def check_secret(secret: str, where: str) -> str:
    """
    Return the secret.

    Raises:
        ConfigError: it cannot be a secret. The line begins with `where` and does not repeat it.
    """
    if (problem := secret_problem(secret)) is not None:
        raise ConfigError((f"{where}: {problem}",))
    return secret
