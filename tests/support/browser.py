"""A real Chromium for tests of pages: the one of the system, nothing is downloaded. Without it, tests are skipped."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tools.browser import chromium, find_chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page


@contextmanager
def chromium_or_skip() -> Iterator[Browser]:
    """Start Chromium."""
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    pytest.importorskip("playwright", reason="playwright is not installed: it is in requirements-dev.lock")
    with chromium(path) as browser:
        yield browser


def wait_for_picture(page: Page) -> None:
    """Wait until the playground shows an original that can be cropped, and the result."""
    page.wait_for_selector("#overlay:not([hidden])")
    page.wait_for_selector("#result:not([aria-busy]) #result-image:not([hidden])")
