"""What the commands share: the terminal, one-line errors, and the configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console, ConsoleDimensions
from rich.text import Text

from imgproxy.config.load import load
from imgproxy.errors import ConfigError
from imgproxy.secret_text import check_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproxy.config.settings import Settings

# Longer than any line of a table. On a pipe nothing is cut or broken into lines.
_PIPE_COLUMNS = 100_000


class _OutputConsole(Console):
    """Standard output. Only a terminal has a width."""

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        found = super().size
        return found if self.is_terminal else ConsoleDimensions(_PIPE_COLUMNS, found.height)

    @size.setter
    def size(self, size: tuple[int, int]) -> None:
        """Keep the size that somebody sets."""
        self._width, self._height = size


console = _OutputConsole()
errors = Console(stderr=True, highlight=False)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="TOML file; the environment (IMGPROXY_…) wins over it.")
]


def fail(message: str, code: int = 1, *, command: str = "imgproxy") -> NoReturn:
    """End the command with one line on standard error and this exit code."""
    print_error(message, command=command)
    raise typer.Exit(code)


def print_error(message: str, *, command: str = "imgproxy") -> None:
    """Print one line on standard error."""
    errors.print(marked(f"{command}:", "red", message), soft_wrap=True)


def load_or_fail(config: Path | None, options: Mapping[str, str] | None = None) -> Settings:
    """
    Return the settings, or end the command with a line for each problem.

    `options` are those of the command line, as variables of the environment. They win over those.
    """
    try:
        return load(config, {**os.environ, **(options or {})})
    except ConfigError as error:
        for problem in error.problems:
            print_error(problem)
        raise typer.Exit(2) from None


def secret_option(secret: str, option: str, *, command: str = "imgproxy") -> str:
    """Return the secret of an option, or end the command if it is blank."""
    try:
        return check_secret(secret, option)
    except ConfigError as error:
        fail(str(error), 2, command=command)


def marked(mark: str, colour: str, message: str) -> Text:
    """Return a coloured mark and the message. `[section]` in the message is not read as markup."""
    return Text.assemble((mark, colour), " ", message)
