"""Access tokens and their scopes."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgproxy.errors import ConfigError
from imgproxy.medialibrary.server.problems import named
from imgproxy.secret_text import check_secret

if TYPE_CHECKING:
    from collections.abc import Iterable

READ: Final = "public-api:read"
WRITE: Final = "public-api:write"
SCOPES: Final = frozenset({READ, WRITE})


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token and its scopes. The repr does not show the token. A blank one raises ConfigError."""

    value: str
    scopes: frozenset[str] = SCOPES

    def __post_init__(self) -> None:
        check_secret(self.value, "the access token")

    def __repr__(self) -> str:
        return f"AccessToken(scopes={sorted(self.scopes)})"


def parse_token(text: str) -> AccessToken:
    """
    Read a token from the command line: `T`, or `T=public-api:read`, with more scopes after commas.

    A token may contain `=`. The text after the last `=` is read as scopes only if it contains a colon.

    Raises:
        ConfigError: if the token is blank or a scope is unknown.
    """
    value, _, scopes_text = text.rpartition("=")
    if ":" not in scopes_text:
        value, scopes_text = text, ",".join(sorted(SCOPES))
    scopes = frozenset(scope.strip() for scope in scopes_text.split(","))
    unknown = sorted(scopes - SCOPES)
    if unknown:
        raise ConfigError((f"--token: unknown scope {unknown[0]!r} (expected {READ} or {WRITE})",))
    check_secret(value, "--token")
    if not all("!" <= char <= "~" for char in value):
        raise ConfigError(("--token: expected visible ASCII characters without spaces",))
    return AccessToken(value, scopes)


def authorize(header: str | None, tokens: Iterable[AccessToken], scope: str) -> None:
    """
    Check that the Authorization header has a known token with the scope.

    Raises:
        Problem: 401 if the token is missing or unknown, 403 if it lacks the scope (RFC 6750 section 3.1).
    """
    scheme, _, given = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise named(
            401, "Unauthorized", "The header `Authorization: Bearer <token>` is required", www_authenticate="Bearer"
        )
    sent = given.strip().encode("utf-8", errors="replace")
    # Every token is compared, each in constant time. So the time of an answer tells nothing about a token.
    known = [token for token in tokens if hmac.compare_digest(token.value.encode(), sent)]
    if not known:
        raise named(
            401, "Unauthorized", "The access token is not known", www_authenticate='Bearer error="invalid_token"'
        )
    if not any(scope in token.scopes for token in known):
        raise named(
            403,
            "Forbidden",
            f"The access token lacks the scope {scope}",
            www_authenticate=f'Bearer error="insufficient_scope", scope="{scope}"',
        )
