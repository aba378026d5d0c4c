"""`imgproxy media credentials`: who signed an original, when, with what, and what was done to it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from imgproxy.cli.console import fail
from imgproxy.cli.library_calls import COMMAND, call_library, print_answer
from imgproxy.credentials.calls import MISSING
from imgproxy.credentials.reading import UnreadableCredentialsError, read_credentials
from imgproxy.workers.extras import has_c2pa
from imgproxy.workers.sniff import sniff

if TYPE_CHECKING:
    from imgproxy.medialibrary.client.client import MediaLibraryClient

# A photograph in full size has some 30 MB.
MAX_BYTES: Final = 1_000_000_000
VALIDITY: Final = {
    "trusted": ("valid, signed under a trusted authority", "green"),
    "valid": ("valid, signed under an authority that nothing is known of", "yellow"),
    "invalid": ("INVALID", "red"),
}


def credentials(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="Key of the original.")],
    *,
    trust_anchors: Annotated[
        Path | None,
        typer.Option(
            envvar="IMGPROXY_CONTENT_CREDENTIALS__TRUST_ANCHORS_FILE",
            help="Certificates, PEM, of the authorities that are trusted.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Show the Content Credentials (C2PA) of an original: each generation, the newest first."""
    if not has_c2pa():
        fail(MISSING, command=COMMAND)

    async def read(library: MediaLibraryClient) -> dict[str, Any] | None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "original"
            served = await library.serve_image(key, path, max_bytes=MAX_BYTES)
            kind = sniff(served.head)
            return None if kind is None else await read_credentials(path, str(kind), trust_anchors)

    try:
        found = call_library(context, read)
    except UnreadableCredentialsError as error:
        fail(f"{key} has Content Credentials that cannot be read: {error}", command=COMMAND)
    if found is None:
        print_answer(context, json_, {"key": key, "generations": []}, f"{key} has no Content Credentials\n")
        return
    print_answer(context, json_, {"key": key, **found}, _table(key, found))


def _table(key: str, found: dict[str, Any]) -> Table:
    words, colour = VALIDITY.get(found["validity"], (found["validity"], "red"))
    problems = f" ({', '.join(found['problems'])})" if found["problems"] else ""
    table = Table(
        "signed by",
        "when",
        "program",
        "title",
        "what was done",
        title=f"{escape(key)}: [{colour}]{words}[/]{escape(problems)}",
        title_justify="left",
        title_style="none",
        box=None,
        header_style="bold",
    )
    for one in found["generations"]:
        who = ", ".join(dict.fromkeys(one[name] for name in ("signer", "issuer") if name in one))
        done = ", ".join(filter(None, map(_action, one.get("actions", ()))))
        cells = (who, one.get("time", ""), one.get("program", ""), one.get("title", ""), done)
        table.add_row(*map(escape, cells))
    return table


def _action(action: dict[str, str]) -> str:
    """Return an action in a few words: `created (digitalCapture)`."""
    word = action.get("action", "").removeprefix("c2pa.")
    details = ", ".join(action[name] for name in ("source_type", "when") if name in action)
    return f"{word} ({details})" if details else word
