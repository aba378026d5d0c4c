"""`imgproxy demo`: a Media Library and an edge in this process, connected to each other, until Ctrl-C."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

import imgproxy.demo
from imgproxy.cli.console import console, fail
from imgproxy.cli.ports import first_free_port
from imgproxy.cli.process import run, stop_on_signals, why_unavailable
from imgproxy.config.origin import OriginSettings
from imgproxy.config.sections import (
    AdminSettings,
    CacheSettings,
    FreshnessSettings,
    LogSettings,
    ServerSettings,
    WebhookSettings,
)
from imgproxy.config.settings import Settings
from imgproxy.demo.tour import (
    Picture,
    largest_of,
    playground_url,
    purge_command,
    revoke_command,
    stops,
    unrevoke_command,
    within,
)
from imgproxy.errors import CacheUnavailable, ConfigError
from imgproxy.medialibrary.operations import RevokeAsset, UnrevokeAsset
from imgproxy.telemetry import logs

if TYPE_CHECKING:
    from imgproxy.edge.app import Edge
    from imgproxy.edge.playground import ListedPicture
    from imgproxy.medialibrary.server import EmbeddedLibrary

PHOTOS = Path(imgproxy.demo.__file__).parent / "photos"
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The folder of pictures and two ports. If one is in use, the next free one is taken; 0 takes any."""

    folder: Path
    port: int
    library_port: int


def demo(
    folder: Annotated[Path | None, typer.Argument(help="Folder of pictures; the bundled photos by default.")] = None,
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the edge, or the next free one.")] = 8080,
    library_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the Media Library, or the next free one.")
    ] = 9090,
) -> None:
    """Run a Media Library over a folder and the edge in front of it, and print URLs to open."""
    logs.configure("warning")
    raise typer.Exit(run(_run_demo(DemoOptions(folder or PHOTOS, port, library_port))))


async def _run_demo(options: DemoOptions) -> int:
    """Start both, print the tour, stop on a signal. Returns the exit code."""
    stop = stop_on_signals()
    work = Path(tempfile.mkdtemp(prefix="imgproxy-demo-"))
    try:
        async with AsyncExitStack() as stack:
            library, edge = await _start_or_fail(stack, options, work)
            _print_tour(library, edge, _pictures(library), options.folder)
            await stop.wait()
            console.print("\n[dim]Stopping.[/dim]")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


async def _start_or_fail(stack: AsyncExitStack, options: DemoOptions, work: Path) -> tuple[EmbeddedLibrary, Edge]:
    from imgproxy.workers.process import ProcessStartError  # noqa: PLC0415 other commands start faster without it

    try:
        return await _start(stack, await _with_free_ports(options), work)
    except ConfigError as error:
        fail("; ".join(error.problems))
    except ProcessStartError as error:
        fail(f"a render process did not start: {error}")
    except CacheUnavailable as error:
        fail(f"the cache directory {work}: {why_unavailable(error)}")
    except OSError as error:
        fail(f"cannot listen on {HOST}:{options.port}: {error.strerror} (choose another --port)")


async def _with_free_ports(options: DemoOptions) -> DemoOptions:
    """Return the options with ports that are free, and say which ones differ. Raises OSError."""
    port = await first_free_port(HOST, options.port)
    library_port = await first_free_port(HOST, options.library_port, but=(port,))
    for what, wanted, found in (
        ("edge", options.port, port),
        ("Media Library", options.library_port, library_port),
    ):
        if found != wanted:
            console.print(f"[yellow]Port {wanted} is in use. The {what} takes {found}.[/]")
    return replace(options, port=port, library_port=library_port)


async def _start(stack: AsyncExitStack, options: DemoOptions, work: Path) -> tuple[EmbeddedLibrary, Edge]:
    """Start the library, then the edge, which needs the library's port."""
    from imgproxy.demo.playground import files as playground_files  # noqa: PLC0415 other commands start faster
    from imgproxy.edge.app import Edge  # noqa: PLC0415
    from imgproxy.edge.playground import PlaygroundParts  # noqa: PLC0415
    from imgproxy.medialibrary.server import AccessToken, EmbeddedLibrary, Webhook  # noqa: PLC0415

    if not options.folder.is_dir():
        raise ConfigError((f"{options.folder}: not a folder",))
    token, secret = secrets.token_urlsafe(12), secrets.token_urlsafe(12)
    library = EmbeddedLibrary(
        options.folder,
        host=HOST,
        port=options.library_port,
        tokens=[AccessToken(token)],
        webhook=Webhook(f"http://{HOST}:{options.port}/-/webhooks/livingdocs", secret),
        state_dir=work / "library",
        on_warning=lambda line: console.print(f"[yellow]{escape(line)}[/yellow]"),
    )
    await stack.enter_async_context(library)
    if not _pictures(library):
        raise ConfigError((f"{options.folder}: there is no picture in this folder that can be read",))
    settings = Settings(
        server=ServerSettings(host=HOST, port=options.port, shutdown_timeout_s=2.0),
        origin=OriginSettings(url=library.url, token=token),
        admin=AdminSettings(token=secrets.token_urlsafe(12)),
        cache=CacheSettings(dir=work / "cache", min_free_bytes=0),
        webhook=WebhookSettings(secrets=(secret,)),
        # The tour revokes a picture: a browser must not show its own copy after that.
        freshness=FreshnessSettings(browser_ttl_s=0),
        log=LogSettings(access="none"),
    )
    playground = PlaygroundParts(
        playground_files(),
        partial(_search, library),
        lambda entry, is_revoked: _set_revoked(library, entry, is_revoked),
    )
    return library, await stack.enter_async_context(Edge(settings, playground=playground))


async def _search(library: EmbeddedLibrary, search: str, count: int) -> list[ListedPicture]:
    """List the pictures of the library whose key has a text, the largest first."""
    from imgproxy.edge.playground import ListedPicture  # noqa: PLC0415 other commands start faster without it

    entries = await asyncio.to_thread(library.store.all_entries)
    entries.sort(key=lambda entry: -entry.asset.width_px * (entry.asset.height_px or 0))
    found = (
        ListedPicture(entry.id, entry.asset.key, entry.is_revoked)
        for entry in entries
        if entry.asset.width_px > 0 and search in entry.asset.key.lower()
    )
    return list(islice(found, count))


async def _set_revoked(library: EmbeddedLibrary, entry_id: str, is_revoked: bool) -> None:
    """Revoke an entry, or take that back; nothing happens if it is so already. Raises KeyError."""
    entries = await asyncio.to_thread(library.store.all_entries)
    states = {entry.id: entry.is_revoked for entry in entries}
    if states[entry_id] != is_revoked:
        await library.patch(entry_id, RevokeAsset("revoked in the playground") if is_revoked else UnrevokeAsset())


def _pictures(library: EmbeddedLibrary) -> list[Picture]:
    return [
        Picture(entry.id, asset.key, asset.mime_type, asset.width_px, asset.height_px, asset.size_bytes)
        for entry in library.store.all_entries()
        if (asset := entry.asset).width_px > 0
    ]


def _print_tour(library: EmbeddedLibrary, edge: Edge, pictures: list[Picture], folder: Path) -> None:
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
    console.print("  [bold green]playground    [/]", end=" ")
    _print_copyable(playground_url(edge.url, admin.get_secret_value() if admin else ""))
    for stop in stops(edge.url, toured):
        console.print(f"  [cyan]{stop.title:<14}[/]", end=" ")
        _print_copyable(stop.url)
    console.print(f"\n[bold]Revoke[/] [cyan]{escape(largest.key)}[/] in the library:")
    _print_copyable("  " + revoke_command(library.url, version, library.token, largest))
    console.print(
        "  The library tells the edge by webhook. Open the picture again, in any size: [red]403[/].\n  Bring it back:",
        soft_wrap=True,
    )
    _print_copyable("  " + unrevoke_command(library.url, version, library.token, largest))
    console.print("\n[bold]Purge[/] it by hand, for the receipt:")
    _print_copyable("  " + purge_command(edge.url, admin.get_secret_value() if admin else "", largest))
    console.print("\n[dim]Ctrl-C stops both.[/]")


def _print_copyable(text: str) -> None:
    """Print a line to copy: without wrapping, markup and colours."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)
