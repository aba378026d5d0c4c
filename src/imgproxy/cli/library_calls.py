"""The calls of `imgproxy media` to a Media Library: which library, exit codes, and how answers are printed."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer

from imgproxy.cli.console import console, fail
from imgproxy.errors import BadUrl, ConfigError, ImgproxyError
from imgproxy.medialibrary import errors as library_errors
from imgproxy.medialibrary.client.tokens import TokenSource

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from rich.table import Table

    from imgproxy.medialibrary.client.client import MediaLibraryClient

COMMAND: Final = "imgproxy media"
EXIT_CODES: Final[tuple[tuple[type[Exception], int], ...]] = (
    (ConfigError, 2),
    (BadUrl, 2),
    (library_errors.LibraryNotFound, 3),
    (library_errors.Unauthorized, 4),
    (library_errors.Forbidden, 5),
    (library_errors.Conflict, 6),
    (library_errors.ValidationFailed, 7),
    (library_errors.OriginUnavailable, 8),
    (library_errors.OriginTimeout, 8),
    (library_errors.VersionGone, 9),
    (library_errors.VersionTooOld, 9),
)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class LibraryTarget:
    """The library to call, and how to print its answers."""

    url: str
    token: str | None
    token_file: Path | None
    api_version: str
    timeout_s: float
    is_json: bool

    def client(self) -> MediaLibraryClient:
        """Return a client. Raises ConfigError for a token that cannot be used."""
        if self.token_file is not None:
            source = TokenSource.file(self.token_file)
        else:
            source = TokenSource.literal(self.token) if self.token is not None else TokenSource.none()
        from imgproxy.medialibrary.client.client import MediaLibraryClient  # noqa: PLC0415 other commands start faster without it

        return MediaLibraryClient(self.url, token=source, api_version=self.api_version, timeout_s=self.timeout_s)


def call_library(context: typer.Context, work: Callable[[MediaLibraryClient], Awaitable[Result]]) -> Result:
    """Return the result of `work`, which is given a client. End the command with a line and its code if it fails."""
    target: LibraryTarget = context.obj

    async def run() -> Result:
        async with target.client() as library:
            return await work(library)

    try:
        return asyncio.run(run())
    except (ConfigError, ImgproxyError) as error:
        code = next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)
        fail(_reason(error, target), code, command=COMMAND)


def _reason(error: ConfigError | ImgproxyError, target: LibraryTarget) -> str:
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, library_errors.ValidationFailed) and error.paths:
        return "; ".join(f"{path}: {text}" for path, text in error.paths.items())
    if isinstance(error, library_errors.OriginUnavailable) and error.origin_status is None:
        return f"{target.url} cannot be reached"
    said = error.message if isinstance(error, library_errors.MediaLibraryError) else ""
    return said or error.public


def print_answer(context: typer.Context, is_json: bool, document: Any, shown: Table | str) -> None:
    """Print the document as JSON if this command or `media` has `--json`, else what is shown to people."""
    if is_json or context.obj.is_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
    elif isinstance(shown, str):
        typer.echo(shown, nl=False)
    else:
        console.print(shown)
