"""`imgproxy check`: would `serve` start with this configuration, and does everything that it names work?"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from imgproxy import __version__
from imgproxy.cli.console import ConfigOption, load_or_fail
from imgproxy.cli.findings import Finding, Level, exit_code, show
from imgproxy.config.example import example_toml
from imgproxy.config.secrets import short_secrets
from imgproxy.errors import ConfigError

if TYPE_CHECKING:
    from imgproxy.config.settings import Settings


def check(
    config: ConfigOption = None,
    example: Annotated[
        bool, typer.Option("--example", help="Print every setting with its default and a line of help, as TOML.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Say whether `serve` would start, and try what the configuration names: the Media Library, caches, database, store.

    Exit code 0: all works. 1: something does not work. 2: `serve` would not start.
    """
    if example:
        sys.stdout.write(example_toml())
        return
    findings = asyncio.run(check_all(load_or_fail(config)))
    code = exit_code(findings)
    if json_:
        document = {"version": __version__, "findings": [item.as_json() for item in findings], "exit_code": code}
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
    else:
        for finding in findings:
            show(finding)
    raise typer.Exit(code)


async def check_all(settings: Settings) -> list[Finding]:
    """Make the parts of the service as `serve` does, then try the machine, and the services if there is no problem."""
    from imgproxy.cli.check_credentials import try_credentials  # noqa: PLC0415 other commands start faster without it
    from imgproxy.cli.check_machine import try_machine  # noqa: PLC0415
    from imgproxy.cli.check_services import try_services  # noqa: PLC0415
    from imgproxy.cli.serve import compose  # noqa: PLC0415

    findings = []
    try:
        findings += [Finding("secrets", Level.NOTICE, line) for line in short_secrets(settings)]
        edge = compose(settings)
    except ConfigError as error:
        findings += [Finding("configuration", Level.INVALID, problem) for problem in error.problems]
        findings += await try_machine(settings)
        findings += await try_credentials(settings.content_credentials)
    else:
        findings.insert(0, Finding("configuration", Level.GOOD, f"the configuration is valid (imgproxy {__version__})"))
        try:
            findings += await try_machine(settings)
            findings += await try_credentials(settings.content_credentials)
            findings += await try_services(settings, edge.library)
        finally:
            await edge.library.aclose()
    return [*findings, *open_doors(settings)]


def open_doors(settings: Settings) -> list[Finding]:
    """Say what is open to everybody, or closed to everybody, because nothing is set."""
    findings = []
    if not settings.signing.required:
        findings.append("[signing] required = false: anyone may ask for any size")
    if settings.admin.token is None and settings.admin.token_file is None:
        findings.append("[admin] token is not set: nobody can purge by hand")
    if not (settings.webhook.secrets or settings.webhook.secrets_file):
        findings.append("[webhook] secrets is empty: the Livingdocs webhook is closed")
    return [Finding("security", Level.NOTICE, line) for line in findings]
