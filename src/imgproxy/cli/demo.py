"""Running the demo: library and edge in this process, wired to each other, until Ctrl-C."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr
from rich.markup import escape

from imgproxy.cli.serve import stop_on_signals, why_unavailable
from imgproxy.config.load import Settings
from imgproxy.config.sections import (
    AdminSettings,
    CacheSettings,
    FreshnessSettings,
    LogSettings,
    OriginSettings,
    ServerSettings,
    WebhookSettings,
)
from imgproxy.demo.tour import Picture, largest_of, purge_command, revoke_command, stops, unrevoke_command, within
from imgproxy.edge.app import Edge
from imgproxy.errors import CacheUnavailable, ConfigError
from imgproxy.medialibrary.server import AccessToken, EmbeddedLibrary, Webhook

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

PHOTOS = Path(__file__).parent / "photos"
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the user chose: the folder (None for the bundled photos) and two ports (0 takes a free one)."""

    folder: Path | None
    port: int
    library_port: int


async def run_demo(options: DemoOptions, console: Console, *, on_error: Callable[[str], int]) -> int:
    """Start both, print the tour, stop on a signal. `on_error` is told in one line why it does not start."""
    stop = stop_on_signals()
    folder = options.folder if options.folder is not None else PHOTOS
    work = Path(tempfile.mkdtemp(prefix="imgproxy-demo-"))
    try:
        async with AsyncExitStack() as stack:
            try:
                library, edge = await _start(stack, options, folder, work, console)
            except ConfigError as error:
                return on_error("; ".join(error.problems))
            except CacheUnavailable as error:
                return on_error(f"the cache directory {work}: {why_unavailable(error)}")
            except OSError as error:
                return on_error(f"cannot listen on {HOST}:{options.port}: {error.strerror} (choose another --port)")
            pictures = _pictures(library)
            if not pictures:
                return on_error(f"{folder}: there is no picture in this folder that can be read")
            _print_tour(console, library, edge, pictures, folder)
            await stop.wait()
            console.print("\n[dim]stopping …[/dim]")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


async def _start(
    stack: AsyncExitStack, options: DemoOptions, folder: Path, work: Path, console: Console
) -> tuple[EmbeddedLibrary, Edge]:
    """Library first, as the edge needs its port; its webhook points at the edge's."""
    if not folder.is_dir():  # noqa: ASYNC240 once, before anything runs
        raise ConfigError((f"{folder}: not a folder",))
    token, secret = secrets.token_urlsafe(9), secrets.token_urlsafe(9)
    library = EmbeddedLibrary(
        folder,
        host=HOST,
        port=options.library_port,
        tokens=[AccessToken(token)],
        webhook=Webhook(f"http://{HOST}:{options.port}/-/webhooks/livingdocs", secret),
        state_dir=work / "library",
        on_warning=lambda line: console.print(f"[yellow]{escape(line)}[/yellow]"),
    )
    await stack.enter_async_context(library)
    settings = Settings(
        server=ServerSettings(host=HOST, port=options.port, shutdown_timeout_s=2.0),
        origin=OriginSettings(url=library.url, token=SecretStr(token)),
        admin=AdminSettings(token=SecretStr(secrets.token_urlsafe(9))),
        cache=CacheSettings(dir=work / "cache", min_free_bytes=0),
        webhook=WebhookSettings(secrets=(SecretStr(secret),)),
        # A browser's own copy would go on showing a picture after it was revoked, which is what the tour is about.
        freshness=FreshnessSettings(browser_ttl_s=0),
        log=LogSettings(access="none"),
    )
    return library, await stack.enter_async_context(Edge(settings))


def _pictures(library: EmbeddedLibrary) -> list[Picture]:
    return [
        Picture(entry.id, asset.key, asset.mime_type, asset.width_px, asset.height_px, asset.size_bytes)
        for entry in library.store.all_entries()
        if (asset := entry.asset).width_px > 0
    ]


def _print_tour(console: Console, library: EmbeddedLibrary, edge: Edge, pictures: list[Picture], folder: Path) -> None:
    limits = edge.settings.limits
    toured = within(pictures, pixels_max=limits.source_pixels, bytes_max=limits.source_bytes)
    largest = largest_of(toured)
    version = edge.settings.origin.api_version
    admin = edge.settings.admin.token
    shown = f"{len(pictures)} picture{'s' if len(pictures) != 1 else ''}"
    console.print(f"\n[bold green]imgproxy[/] serves {shown} of [cyan]{escape(str(folder))}[/]")
    console.print(f"  Media Library  {library.url}    token [bold]{library.token}[/]")
    console.print(f"  edge           {edge.url}    admin token [bold]{admin.get_secret_value() if admin else ''}[/]\n")
    console.print("[bold]Open[/]")
    for stop in stops(edge.url, toured):
        console.print(f"  [cyan]{stop.title:<14}[/]", end=" ")
        _print_copyable(console, stop.url)
    console.print(f"\n[bold]Revoke[/] [cyan]{escape(largest.key)}[/] in the library:")
    _print_copyable(console, "  " + revoke_command(library.url, version, library.token, largest))
    console.print(
        "  The library tells the edge by webhook. Open the picture again, in any size: [red]403[/].\n  Bring it back:",
        soft_wrap=True,
    )
    _print_copyable(console, "  " + unrevoke_command(library.url, version, library.token, largest))
    console.print("\n[bold]Purge[/] it by hand, for the receipt:")
    _print_copyable(console, "  " + purge_command(edge.url, admin.get_secret_value() if admin else "", largest))
    console.print("\n[dim]Ctrl-C stops both.[/]")


def _print_copyable(console: Console, text: str) -> None:
    """To be opened or copied: no wrapping, no markup, no colour in the middle."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)
