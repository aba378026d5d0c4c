"""`imgproxy sign`: a signature for a URL."""

from __future__ import annotations

from typing import Annotated

import typer

from imgproxy.cli.console import ConfigOption, fail, load_or_fail, secret_option
from imgproxy.config.secrets import signing_tokens


def sign(
    url: Annotated[str, typer.Argument(help="URL, or path and query, as it will be requested.")],
    config: ConfigOption = None,
    token: Annotated[
        str | None, typer.Option(help="Sign with this token, instead of the first configured one.")
    ] = None,
) -> None:
    """Print the URL with its signature `s`."""
    from imgproxy.params import signature  # noqa: PLC0415 other commands start faster without it

    tokens = (secret_option(token, "--token"),) if token is not None else signing_tokens(load_or_fail(config).signing)
    if not tokens:
        fail("no signing token: give --token, or set [signing] tokens", 2)
    target = url if "://" in url.partition("?")[0] or url.startswith("/") else f"/{url}"
    typer.echo(signature.sign(signature.as_browsers_send(target), tokens[0]))
