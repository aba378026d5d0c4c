"""
The access token: a value, or a file that may change while the service runs.

A file may hold two tokens, one on each line, the new one first: during a rotation the library accepts one of the two.
The file is read again when its inode, size or modification time has changed.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from imgproxy.errors import ConfigError
from imgproxy.secret_text import check_secret

if TYPE_CHECKING:
    from pathlib import Path

FILE_MAX_BYTES = 64 * 1024

# The stamp of a file that is not there.
MISSING = (0, 0, 0)

log = logging.getLogger(__name__)


class TokenSource:
    """
    Gives the tokens to try, in order.

    Use `TokenSource.literal(...)`, `TokenSource.file(...)` or `TokenSource.none()`. Its repr shows no token.
    """

    __slots__ = ("_bad_stamp", "_path", "_preferred", "_stamp", "_tokens")

    def __init__(self, tokens: tuple[str, ...], path: Path | None = None) -> None:
        self._tokens = tokens
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._bad_stamp: tuple[int, int, int] | None = None
        self._preferred: str | None = None

    @classmethod
    def none(cls) -> TokenSource:
        """Send no Authorization header at all."""
        return cls(())

    @classmethod
    def literal(cls, *tokens: str) -> TokenSource:
        """
        Take the tokens as they are, the preferred one first.

        Raises:
            ConfigError: if a token is empty or not valid in a header.
        """
        for token in tokens:
            _check(token, "the token")
        return cls(tokens)

    @classmethod
    def file(cls, path: Path) -> TokenSource:
        """
        Read the tokens from a file now, and again whenever it changes.

        Raises:
            ConfigError: if the file cannot be read, is empty, or has a token that is not valid in a header.
        """
        source = cls((), path)
        try:
            source._stamp, source._tokens = _read(path)
        except OSError as exc:
            raise ConfigError((f"token file {path}: {exc.strerror or 'cannot be read'}",)) from exc
        return source

    def tokens(self) -> tuple[str, ...]:
        """
        Return the tokens to try in order.

        While the file is missing, empty or half written, the tokens of the last good reading stay in use. The log says
        so, once for each state of the file.
        """
        if self._path is not None:
            self._read_again(self._path)
        if self._preferred in self._tokens[1:]:
            return tuple(sorted(self._tokens, key=lambda token: token != self._preferred))
        return self._tokens

    def _read_again(self, path: Path) -> None:
        stamp = MISSING
        try:
            stamp = _stamp_of(os.stat(path))
            if stamp not in (self._stamp, self._bad_stamp):
                self._stamp, self._tokens = _read(path)
                self._bad_stamp = None
        except (OSError, ConfigError) as exc:
            if stamp != self._bad_stamp:
                reason = exc if isinstance(exc, ConfigError) else f"token file {path}: {exc.strerror}"
                log.warning("%s; the last good token stays in use", reason)
            self._bad_stamp = stamp

    def prefer(self, token: str | None) -> None:
        """Give this token first from now on, because the library has accepted it and refused the one before it."""
        self._preferred = token

    def __repr__(self) -> str:
        return f"TokenSource({'file' if self._path else 'literal'}, tokens={len(self._tokens)})"


def _stamp_of(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _read(path: Path) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    with path.open("rb") as file:
        stamp = _stamp_of(os.fstat(file.fileno()))
        text = file.read(FILE_MAX_BYTES).decode("utf-8-sig", errors="replace")
    tokens = tuple(line.strip() for line in text.split("\n") if line.strip(" \t\r"))
    if not tokens:
        raise ConfigError((f"token file {path}: it is empty",))
    for token in tokens:
        _check(token, f"token file {path}")
    return stamp, tokens


def _check(token: str, where: str) -> None:
    # A header value is visible ASCII (RFC 9110 section 5.5); a line break in one would smuggle a header.
    check_secret(token, where)
    if not all("!" <= char <= "~" for char in token):
        raise ConfigError((f"{where}: expected visible ASCII characters without spaces",))
