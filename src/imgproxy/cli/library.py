"""
`imgproxy library`: a Media Library over a folder of pictures, to try imgproxy without Livingdocs.

Exit code 1: it cannot listen, for example because the port is in use. 2: wrong arguments, for example a folder
without a picture.
"""

from __future__ import annotations

import json
import logging
import secrets
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from imgproxy.cli.console import console, errors, fail, secret_option
from imgproxy.cli.process import run, stop_on_signals
from imgproxy.errors import ConfigError
from imgproxy.medialibrary.versions import NEWEST

if TYPE_CHECKING:
    from imgproxy.medialibrary.server import EmbeddedLibrary, LibraryStore

COMMAND = "imgproxy library"
TOKEN_SETTING = "token"  # noqa: S105 - the name of a stored setting


def library(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures; each becomes an entry.")] = Path(),
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 9090,
    token: Annotated[
        list[str] | None,
        typer.Option(help="Access token, for reading and writing; T=public-api:read for one scope. Repeatable."),
    ] = None,
    webhook_url: Annotated[str | None, typer.Option(help="URL that gets a POST for each change.")] = None,
    webhook_secret: Annotated[str | None, typer.Option(help="Secret that signs the webhooks.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder for the database; FOLDER/.imgproxy-library by default.")
    ] = None,
    latency_ms: Annotated[
        float, typer.Option(min=0, max=600_000, help="Delay each answer by this, to test clients.")
    ] = 0.0,
    fail_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Answer this share of requests with 503, to test clients.")
    ] = 0.0,
    default_locale: Annotated[str, typer.Option(help="Locale whose asset cannot be removed.")] = "de",
    include_unreadable: Annotated[bool, typer.Option(help="Also serve files that are not pictures.")] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="Print the entries and exit. Works while the library runs.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="With --list: as JSON.")] = False,
) -> None:
    """Run a Media Library over a folder: every endpoint, every version, signed webhooks."""
    from imgproxy.medialibrary.server import EmbeddedLibrary, Webhook, parse_token  # noqa: PLC0415 - slow to import

    logging.basicConfig(level=logging.WARNING, format="imgproxy library: %(message)s", stream=sys.stderr)
    # It logs a traceback for bytes that are not HTTP.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    if webhook_url is not None and not webhook_url.startswith(("http://", "https://")):
        fail("--webhook-url: expected a URL that begins with http:// or https://", 2, command=COMMAND)
    if webhook_secret is not None:
        secret_option(webhook_secret, "--webhook-secret", command=COMMAND)
    try:
        tokens = [parse_token(text) for text in token or ()]
        with closing(_open(folder, state, default_locale, is_lenient=include_unreadable)) as store:
            warnings, stored_token = store.scan(), _stored_token(store)
            if list_:
                _warn(warnings)
                _print_entries(store, is_json=json_)
                return
            if not store.all_entries():
                fail(f"{folder}: there is no picture in this folder", 2, command=COMMAND)
        embedded = EmbeddedLibrary(
            folder,
            host=host,
            port=port,
            tokens=tokens or [parse_token(stored_token)],
            webhook=None if webhook_url is None else Webhook(webhook_url, webhook_secret),
            latency_ms=latency_ms,
            fail_rate=fail_rate,
            state_dir=state,
            default_locale=default_locale,
            is_lenient=include_unreadable,
            on_warning=lambda line: _warn((line,)),
        )
        raise typer.Exit(run(_serve(embedded, webhook_url)))
    except ConfigError as error:
        from imgproxy.medialibrary.server.embedded import CannotListen  # noqa: PLC0415 - see above

        fail("\n".join(error.problems), 1 if isinstance(error, CannotListen) else 2, command=COMMAND)


def _open(folder: Path, state: Path | None, default_locale: str, *, is_lenient: bool) -> LibraryStore:
    from imgproxy.medialibrary.server import LibraryStore  # noqa: PLC0415 - see library

    return LibraryStore(folder, state_dir=state, default_locale=default_locale, is_lenient=is_lenient)


def _stored_token(store: LibraryStore) -> str:
    # Without --token the library has the same token after each start, so an edge in front still works.
    token = store.setting(TOKEN_SETTING)
    if token is None:
        token = secrets.token_urlsafe(12)
        store.set_setting(TOKEN_SETTING, token)
    return token


async def _serve(embedded: EmbeddedLibrary, webhook_url: str | None) -> int:
    stop = stop_on_signals()
    async with embedded:
        _print_start(embedded, webhook_url)
        await stop.wait()
    return 0


def _print_start(embedded: EmbeddedLibrary, webhook_url: str | None) -> None:
    entries = embedded.store.all_entries()
    key = entries[0].asset.key
    console.print(
        f"[bold green]Media Library[/] of [bold]{len(entries)}[/] pictures in [cyan]{escape(str(embedded.folder))}[/]"
    )
    console.print(f"  API       [link]{embedded.url}/api/{NEWEST}/mediaLibrary[/]", soft_wrap=True)
    console.print(f"  OpenAPI   {embedded.url}/openapi.json", soft_wrap=True)
    console.print(
        f"  webhooks  {escape(webhook_url) if webhook_url else '[dim]none (--webhook-url)[/]'}", soft_wrap=True
    )
    if embedded.faults.latency_ms or embedded.faults.fail_rate:
        console.print(
            f"  [yellow]on purpose: {embedded.faults.latency_ms:g} ms late, {embedded.faults.fail_rate:.0%} fail[/]"
        )
    console.print("  try", end="       ")
    # A line to copy: without colours, wrapping and markup.
    path = f"{embedded.url}/api/{NEWEST}/mediaLibrary/{entries[0].id}"
    console.print(
        f"curl -H 'Authorization: Bearer {embedded.token}' {path}", soft_wrap=True, markup=False, highlight=False
    )
    console.print(f"  [dim]that is {escape(key)}; Ctrl-C ends[/]", soft_wrap=True)


def _print_entries(store: LibraryStore, *, is_json: bool) -> None:
    from imgproxy.medialibrary.server.responses import listing_json  # noqa: PLC0415 - see library

    listed = [listing_json(entry) for entry in store.all_entries()]
    if is_json:
        sys.stdout.write(json.dumps(listed, ensure_ascii=False, indent=2) + "\n")
        return
    table = Table("id", "key", "status", "size", "type", "version", box=None, header_style="bold")
    colours = {"active": "green", "revoked": "red", "invalid": "red", "archived": "yellow"}
    for row in listed:
        table.add_row(
            row["id"],
            escape(row["key"]),
            f"[{colours[row['status']]}]{row['status']}[/]",
            f"{row['width']} x {row['height']}",
            row["mimeType"],
            str(row["version"]),
        )
    console.print(table)


def _warn(lines: tuple[str, ...]) -> None:
    for line in lines:
        errors.print(f"{COMMAND}: {line}", style="yellow", markup=False, soft_wrap=True)
