"""
The command line: serve, demo, library, media, purge, warm, sign, check.

Errors of the user's making are one line on standard error and exit code 2 (configuration, arguments) or 1 (it did not
work); a traceback is a bug.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from imgproxy import __version__, logs
from imgproxy.cli.library import library
from imgproxy.cli.media import app as media
from imgproxy.cli.purge import purge, warm
from imgproxy.config.load import Settings, example_toml, load, secret_lines, signing_tokens, webhook_secrets
from imgproxy.config.sections import LogSettings
from imgproxy.errors import CacheUnavailable, ConfigError, ImgproxyError, OriginDenied

if TYPE_CHECKING:
    from collections.abc import Coroutine

app = typer.Typer(
    help="Image proxy for a Livingdocs Media Library: imgix URLs, libvips, purges that hold.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True, highlight=False)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="TOML file; the environment (IMGPROXY_…) comes over it.")
]


def fail(message: str, code: int = 1) -> NoReturn:
    """End with one line on standard error."""
    fail_line(message)
    raise typer.Exit(code)


def load_or_fail(config: Path | None) -> Settings:
    """The settings, or the end with a line a problem."""
    try:
        return load(config)
    except ConfigError as error:
        for problem in error.problems:
            fail_line(problem)
        raise typer.Exit(2) from None


def run(work: Coroutine[object, object, int]) -> int:
    """Run on uvloop; Ctrl-C ends it without a traceback."""
    import uvloop  # noqa: PLC0415 commands that do not serve start faster without it

    try:
        return uvloop.run(work)
    except KeyboardInterrupt:
        return 130


def serve(config: ConfigOption = None) -> None:
    """Serve images until SIGTERM or Ctrl-C."""
    settings = load_or_fail(config)
    logs.configure(settings.log)
    from imgproxy.cli.serve import serve_until_stopped  # noqa: PLC0415 see run

    raise typer.Exit(run(serve_until_stopped(settings, on_error=fail_line)))


def fail_line(message: str) -> int:
    """Print one line on standard error; the exit code that goes with it."""
    errors.print(_marked("imgproxy:", "red", message), soft_wrap=True)
    return 1


def _marked(mark: str, color: str, message: str) -> Text:
    """A coloured mark before words that are printed as they are: [section], a file name, what the origin said."""
    return Text.assemble((mark, color), " ", message)


def demo(
    folder: Annotated[Path | None, typer.Argument(help="Folder of pictures; the bundled photos by default.")] = None,
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the edge.")] = 8080,
    library_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the Media Library.")] = 9090,
) -> None:
    """Run a Media Library over a folder and the edge in front of it, and print URLs to open."""
    logs.configure(LogSettings(level="warning"))
    from imgproxy.cli.demo import DemoOptions, run_demo  # noqa: PLC0415 see run

    raise typer.Exit(run(run_demo(DemoOptions(folder, port, library_port), console, on_error=fail_line)))


def sign(
    url: Annotated[str, typer.Argument(help="URL, or path and query, as it will be requested.")],
    config: ConfigOption = None,
    token: Annotated[str | None, typer.Option(help="Sign with this token, not the first configured one.")] = None,
) -> None:
    """Print the URL with its signature `s`."""
    from imgproxy.params import signature  # noqa: PLC0415 see run

    tokens = (token,) if token else signing_tokens(load_or_fail(config).signing)
    if not tokens:
        fail("no signing token: give --token, or set [signing] tokens", 2)
    target = url if "://" in url.partition("?")[0] or url.startswith("/") else f"/{url}"
    typer.echo(signature.sign(signature.as_browsers_send(target), tokens[0]))


def check(
    config: ConfigOption = None,
    example: Annotated[
        bool, typer.Option("--example", help="Print every setting with its default and one line of why, as TOML.")
    ] = False,
) -> None:
    """Validate the configuration, try the cache directory and the origin's token."""
    if example:
        sys.stdout.write(example_toml())
        return
    settings = load_or_fail(config)
    raise typer.Exit(asyncio.run(_check(settings)))


async def _check(settings: Settings) -> int:
    _good(f"the configuration is valid (imgproxy {__version__})")
    code = max(_check_cache(settings.cache.dir), await _check_secrets_and_origin(settings))
    if not settings.signing.required:
        _notice("[signing] required = false: anyone may ask for any size")
    if settings.admin.token is None and settings.admin.token_file is None:
        _notice("[admin] token is not set: nobody can purge by hand")
    if not (settings.webhook.secrets or settings.webhook.secrets_file):
        _notice("[webhook] secrets is empty: the Livingdocs webhook is closed")
    return code


def _check_cache(directory: Path) -> int:
    """Make and remove a file in the directory, or in its nearest parent that exists."""
    existing = next((item for item in (directory, *directory.absolute().parents) if os.path.lexists(item)), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        _bad(f"[cache] dir = {directory}: cannot be written ({error.strerror}: {existing})")
        return 1
    _good(f"the cache directory {directory} can be written")
    return 0


async def _check_secrets_and_origin(settings: Settings) -> int:
    """Read every file of secrets, and ask the origin with its token."""
    from imgproxy.edge.origin import library_client, probe  # noqa: PLC0415 see run

    try:
        signing_tokens(settings.signing)
        webhook_secrets(settings.webhook)
        secret_lines(settings.admin.token, settings.admin.token_file, name="[admin] token_file")
        async with library_client(settings.origin) as library:
            await probe(library)
    except ConfigError as error:
        for problem in error.problems:
            _bad(problem)
        return 2
    except OriginDenied:
        _bad(
            f"[origin] {settings.origin.url}: the Media Library does not accept the token; "
            "it needs the scope public-api:read"
        )
        return 1
    except ImgproxyError as error:
        _bad(f"[origin] {settings.origin.url}: {error.public}")
        return 1
    _good(f"the Media Library at {settings.origin.url} accepts the token")
    return 0


def _good(message: str) -> None:
    console.print(_marked("✓", "green", message), soft_wrap=True)


def _bad(message: str) -> None:
    console.print(_marked("✗", "red", message), soft_wrap=True)


def _notice(message: str) -> None:
    console.print(_marked("!", "yellow", message), soft_wrap=True)


for command in (demo, serve, library, purge, warm, sign, check):
    app.command()(command)
app.add_typer(media, name="media")


def main() -> None:
    """Run the command line."""
    try:
        app()
    except (ConfigError, CacheUnavailable) as error:
        fail_line(str(error))
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
