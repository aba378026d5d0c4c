"""A running embedded library for a test, the client that talks to it, and small pictures to put in it."""

from __future__ import annotations

import io
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
from PIL import Image

from imgproxy.medialibrary.client.client import MediaLibraryClient
from imgproxy.medialibrary.client.connections import system_trust
from imgproxy.medialibrary.client.tokens import TokenSource
from imgproxy.medialibrary.server import AccessToken, EmbeddedLibrary, Probe, Webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


TOKEN = "t0ken-for-tests"


def plain_http(url: str = "", *, token: str | None = None) -> httpx.AsyncClient:
    """Return a client that is not ours, with a token if one is given; close it with `async with`."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=20, verify=system_trust())


def picture_bytes(
    width_px: int = 16, height_px: int = 12, *, color: tuple[int, int, int] = (200, 30, 30), kind: str = "PNG"
) -> bytes:
    """Return a picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (width_px, height_px), color).save(buffer, kind)
    return buffer.getvalue()


def fill_folder(folder: Path, *keys: str) -> Path:
    """Put a picture under each key; the format is that of the extension. Returns the folder."""
    kinds = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".gif": "GIF"}
    for position, key in enumerate(keys):
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        color = (40 * position % 256, 90, 200)
        path.write_bytes(picture_bytes(16 + position, 12, color=color, kind=kinds[path.suffix]))
    return folder


@dataclass(frozen=True, slots=True)
class RunningLibrary:
    """A library and its probe."""

    library: EmbeddedLibrary
    probe: Probe

    @property
    def url(self) -> str:
        return self.library.url

    def client(
        self,
        *,
        api_version: str = "2026-05",
        token: str = TOKEN,
        timeout_s: float = 5.0,
        max_attempts: int = 3,
    ) -> MediaLibraryClient:
        """Return a client of this library; close it with `async with`."""
        return MediaLibraryClient(
            self.url,
            api_version=api_version,
            token=TokenSource.literal(token),
            timeout_s=timeout_s,
            max_attempts=max_attempts,
        )


@asynccontextmanager
async def running_library(
    folder: Path,
    *keys: str,
    webhook: Webhook | None = None,
    tokens: tuple[AccessToken, ...] = (AccessToken(TOKEN),),
    scan_interval_s: float = 3600.0,
    oldest_version: str = "2025-03",
    is_lenient: bool = False,
    state_dir: Path | None = None,
) -> AsyncIterator[RunningLibrary]:
    """Run a library over the folder, with a picture under each key; the folder is looked at on `rescan` alone."""
    fill_folder(folder, *keys)
    probe = Probe()
    library = EmbeddedLibrary(
        folder,
        tokens=tokens,
        webhook=webhook,
        probe=probe,
        scan_interval_s=scan_interval_s,
        oldest_version=oldest_version,
        is_lenient=is_lenient,
        state_dir=state_dir,
        on_warning=lambda line: None,
    )
    async with library:
        yield RunningLibrary(library, probe)
