"""
`imgproxy media`: show and change the entries of any Media Library, from a terminal or a script.

Exit codes: 0 done, 2 wrong arguments, 3 not found, 4 the token is refused, 5 the image is revoked or invalid,
6 conflict, 7 the library refuses the request as invalid, 8 the library does not answer, 9 the API version is not
supported, or too old for this command, 1 anything else. With `--json`, standard output is one JSON document. Messages
go to standard error.
"""

from __future__ import annotations

import json
import os
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from imgproxy.cli import media_credentials
from imgproxy.cli.console import fail, secret_option
from imgproxy.cli.library_calls import COMMAND, LibraryTarget, call_library, print_answer
from imgproxy.medialibrary import operations
from imgproxy.medialibrary.versions import EXPECTED, NEWEST, is_version

if TYPE_CHECKING:
    from imgproxy.medialibrary.client.client import MediaLibraryClient
    from imgproxy.medialibrary.models import Entry

app = typer.Typer(help="Show and change the entries of a Media Library.", no_args_is_help=True)

EntryId = Annotated[str, typer.Argument(help="Entry id.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Version = Annotated[int | None, typer.Option("--version", help="Change the entry only if it has this version.")]
KeepUpdatedAt = Annotated[bool, typer.Option("--preserve-updated-at", help="Leave updatedAt as it is.")]


@app.callback()
def target(
    context: typer.Context,
    *,
    url: Annotated[
        str, typer.Option(envvar="IMGPROXY_ORIGIN__URL", help="The Livingdocs server, without /api.")
    ] = "http://127.0.0.1:9090",
    token: Annotated[
        str | None, typer.Option(envvar="IMGPROXY_ORIGIN__TOKEN", show_envvar=True, help="Access token.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(envvar="IMGPROXY_ORIGIN__TOKEN_FILE", help="File with the token, instead of --token.")
    ] = None,
    api_version: Annotated[
        str, typer.Option(envvar="IMGPROXY_ORIGIN__API_VERSION", help="Public API version.")
    ] = NEWEST,
    timeout_s: Annotated[float, typer.Option(min=0.1, max=300, help="Time for a call, in seconds.")] = 10.0,
    json_: Json = False,
) -> None:
    """Show and change the entries of a Media Library."""
    if not is_version(api_version):
        fail(f"--api-version: expected {EXPECTED}", 2, command=COMMAND)
    if not url.startswith(("http://", "https://")):
        fail("--url: expected a URL that begins with http:// or https://", 2, command=COMMAND)
    # typer takes a variable that is empty for one that is not set.
    given = os.environ.get("IMGPROXY_ORIGIN__TOKEN") if token is None else token
    if given is not None:
        secret_option(given, "--token or IMGPROXY_ORIGIN__TOKEN", command=COMMAND)
    context.obj = LibraryTarget(url, token, token_file, api_version, timeout_s, json_)


# --- commands that show --------------------------------------------------------------------------------


@app.command()
def show(context: typer.Context, entry_id: EntryId, json_: Json = False) -> None:
    """Show an entry."""
    entry = call_library(context, lambda library: library.get_entry(entry_id))
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in entry.to_json().items():
        nested = value if isinstance(value, dict) else {"": value}
        for inner, each in nested.items():
            table.add_row(f"{name}.{inner}" if inner else name, _text(each))
    print_answer(context, json_, entry.to_json(), table)


@app.command(name="list")
def list_entries(
    context: typer.Context,
    entry_ids: Annotated[list[str] | None, typer.Argument(help="Entry ids.")] = None,
    external_id: Annotated[str | None, typer.Option(help="Id in an external system.")] = None,
    system_name: Annotated[str | None, typer.Option(help="Name of the external system.")] = None,
    json_: Json = False,
) -> None:
    """List entries by their ids, or by their id in an external system."""
    if not entry_ids and external_id is None:
        fail("give entry ids, or --external-id with --system-name", 2, command=COMMAND)
    if (external_id is None) != (system_name is None):
        fail("--external-id and --system-name go together", 2, command=COMMAND)
    entries = call_library(
        context,
        lambda library: library.get_entries(ids=entry_ids or (), external_id=external_id, system_name=system_name),
    )
    table = Table("id", "version", "title", "size", "type", "updated", box=None, header_style="bold")
    for entry in entries:
        table.add_row(entry.id, str(entry.version), *_summary(entry), f"{entry.updated_at:%Y-%m-%d %H:%M:%S}")
    print_answer(context, json_, [entry.to_json() for entry in entries], table)


@app.command()
def keys(context: typer.Context, entry_id: EntryId, json_: Json = False) -> None:
    """List every key of an entry, for a cache to purge (API 2026-03 or later)."""
    found = call_library(context, lambda library: library.keys(entry_id))
    print_answer(context, json_, list(found), "".join(f"{key}\n" for key in found))


@app.command()
def references(context: typer.Context, entry_id: EntryId, json_: Json = False) -> None:
    """List the documents and entries that use an entry."""

    async def everything(library: MediaLibraryClient) -> tuple[list[Any], list[Any]]:
        documents = [row async for row in library.all_document_references(entry_id)]
        return documents, [row async for row in library.all_media_references(entry_id)]

    documents, media = call_library(context, everything)
    table = Table("used by", "id", "where", box=None, header_style="bold")
    for kind, rows in (("document", documents), ("entry", media)):
        for row in rows:
            for reference in row.references:
                table.add_row(kind, str(row.id), escape(reference.property_name or reference.component_name or ""))
    found = {"documents": [row.to_json() for row in documents], "media": [row.to_json() for row in media]}
    print_answer(context, json_, found, table)


@app.command()
def usage(context: typer.Context, entry_id: EntryId, json_: Json = False) -> None:
    """Show the usage log of an entry (API 2026-05 or later)."""
    rows = call_library(context, lambda library: library.usage_log(entry_id))
    table = Table("id", "state", "purpose", "published", "document", "url", box=None, header_style="bold")
    for row in rows:
        published = f"{row.publication_date:%Y-%m-%d %H:%M}" if row.publication_date else ""
        table.add_row(
            row.id, row.state, escape(row.purpose), published, str(row.document_id or ""), escape(row.url or "")
        )
    print_answer(context, json_, [row.to_json() for row in rows], table)


app.command()(media_credentials.credentials)


# --- commands that change --------------------------------------------------------------------------------


@app.command()
def revoke(
    context: typer.Context,
    entry_id: EntryId,
    *,
    note: Annotated[str | None, typer.Option(help="Why, in at most 200 characters.")] = None,
    version: Version = None,
    keep: KeepUpdatedAt = False,
    json_: Json = False,
) -> None:
    """Revoke an entry's asset. It is then no longer served."""
    _patch(context, entry_id, operations.RevokeAsset(note), version, keep=keep, is_json=json_)


@app.command()
def unrevoke(
    context: typer.Context, entry_id: EntryId, version: Version = None, keep: KeepUpdatedAt = False, json_: Json = False
) -> None:
    """Take a revocation back (API 2026-01 or later)."""
    _patch(context, entry_id, operations.UnrevokeAsset(), version, keep=keep, is_json=json_)


@app.command()
def replace(
    context: typer.Context,
    entry_id: EntryId,
    key: Annotated[str, typer.Argument(help="Key of the new file, which is already in the library's storage.")],
    *,
    url: Annotated[str | None, typer.Option(help="Public URL of the file.")] = None,
    locale: Annotated[str | None, typer.Option(help="Replace the asset of this translation.")] = None,
    mime_type: Annotated[str | None, typer.Option(help="Media type of the file.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Width in pixels.")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Height in pixels.")] = None,
    size: Annotated[int | None, typer.Option(min=0, help="Size in bytes.")] = None,
    version: Version = None,
    keep: KeepUpdatedAt = False,
    json_: Json = False,
) -> None:
    """Replace the file of an entry."""
    operation = operations.ReplaceAsset(key, url, size, width, height, key.rpartition("/")[2], mime_type, locale=locale)
    _patch(context, entry_id, operation, version, keep=keep, is_json=json_)


@app.command(name="set")
def set_property(
    context: typer.Context,
    entry_id: EntryId,
    name: Annotated[str, typer.Argument(help="Metadata property.")],
    value: Annotated[
        str | None, typer.Argument(help="JSON or plain text. Without a value, the property is removed.")
    ] = None,
    *,
    version: Version = None,
    keep: KeepUpdatedAt = False,
    json_: Json = False,
) -> None:
    """Set a metadata property, or remove it."""
    try:
        parsed = None if value is None else json.loads(value)
    except ValueError:
        parsed = value
    _patch(context, entry_id, operations.SetMetadataProperty(name, parsed), version, keep=keep, is_json=json_)


@app.command()
def archive(
    context: typer.Context, entry_id: EntryId, version: Version = None, keep: KeepUpdatedAt = False, json_: Json = False
) -> None:
    """Archive an entry."""
    _patch(context, entry_id, operations.Archive(), version, keep=keep, is_json=json_)


def _patch(
    context: typer.Context,
    entry_id: str,
    operation: operations.Operation,
    version: int | None,
    *,
    keep: bool,
    is_json: bool,
) -> None:
    async def change(library: MediaLibraryClient) -> None:
        await library.patch_entry(entry_id, operation, version=version, preserve_updated_at=keep)

    call_library(context, change)
    done = f"{typer.style('done:', fg='green')} {operation.operation} on {entry_id}\n"
    print_answer(context, is_json, {"status": 200, "id": entry_id, "operation": operation.operation}, done)


def _summary(entry: Entry) -> tuple[str, str, str]:
    asset = entry.asset
    title = escape(str(entry.metadata.get("title", "")))
    if asset is None:
        return title, "", ""
    return title, f"{asset.width_px} x {asset.height_px}", asset.mime_type or ""


def _text(value: Any) -> str:
    return escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
