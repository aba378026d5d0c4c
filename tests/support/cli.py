"""Commands, run in this process."""

from __future__ import annotations

import os

from typer.testing import CliRunner

from imgproxy.cli.__main__ import app

NOBODY = "http://127.0.0.1:1"
# The environment of the developer must not reach the tests.
CLEAN = {name: None for name in os.environ if name.startswith("IMGPROXY_")}


def run(*arguments: str, stdin: str | None = None, **environ: str) -> tuple[int, str, str]:
    """Run a command. Returns exit code, standard output and standard error; fails at any other exception."""
    result = CliRunner(env={**CLEAN, **environ}).invoke(app, list(arguments), input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stdout, result.stderr
