"""The demo in a process of its own, and the system's Chromium, for tests and for pictures of the playground."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

CHROMIUM_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
STOP_S: Final = 60
_PLAYGROUND: Final = re.compile(r"http://\S+/-/playground#token=\S+")


def find_chromium() -> str | None:
    """Return the path of the system's Chromium. Nothing is downloaded."""
    return next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """Start Chromium, without its sandbox: it runs as root in containers, and loads only pages of ours."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 a tool of developers, not needed for `find_chromium`

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def demo_running(port: int) -> Iterator[str]:
    """
    Run `imgproxy demo` on a port, or on the next free one. Yields the URL of its playground, with the token.

    Raises:
        RuntimeError: it ended without that URL.
    """
    command = [sys.executable, "-m", "imgproxy", "demo", "--port", str(port), "--library-port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(  # noqa: S603 our own command
        command, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        url = None
        for line in process.stdout:
            if (found := _PLAYGROUND.search(line)) is not None:
                url = found[0]
                break
        if url is None:
            raise RuntimeError("the demo ended at its start")
        try:
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            process.stdout.read()
            process.wait(STOP_S)
