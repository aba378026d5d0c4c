"""What the commands share: the terminal, one-line errors, and the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from imgproxy.config.load import load
from imgproxy.errors import ConfigError
from imgproxy.secret_text import check_secret

if TYPE_CHECKING:
    from imgproxy.config.settings import Settings

console = Console()
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


def load_or_fail(config: Path | None) -> Settings:
    """Return the settings, or end the command with a line for each problem."""
    try:
        return load(config)
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
