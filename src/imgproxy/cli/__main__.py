"""
The command line: serve, demo, library, media, purge, warm, sign, explain, check, cluster.

An error of the user is one line on standard error. Exit code 2: wrong configuration or arguments; 1: it did not work.
A traceback is a bug.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from imgproxy import __version__
from imgproxy.cli.check import check
from imgproxy.cli.cluster import app as cluster
from imgproxy.cli.console import print_error
from imgproxy.cli.demo import demo
from imgproxy.cli.explain import explain
from imgproxy.cli.library import library
from imgproxy.cli.media import app as media
from imgproxy.cli.purge import purge
from imgproxy.cli.serve import serve
from imgproxy.cli.sign import sign
from imgproxy.cli.warm import warm
from imgproxy.errors import CacheUnavailable, ConfigError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"imgproxy {__version__}")
        raise typer.Exit


@app.callback()
def imgproxy(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Image proxy for a Livingdocs Media Library: imgix URLs, libvips, purges that hold."""


for command in (demo, serve, library, purge, warm, sign, explain, check):
    app.command()(command)
app.add_typer(media, name="media")
app.add_typer(cluster, name="cluster")


def main() -> None:
    """Run the command line."""
    if isinstance(sys.stdout, TextIOWrapper):
        # As standard error does: texts of the Media Library may have characters that cannot be encoded.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except (ConfigError, CacheUnavailable) as error:
        print_error(str(error))
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
