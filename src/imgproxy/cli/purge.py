"""
`imgproxy purge` and `imgproxy warm`: an operator's calls to a running edge.

Exit code 0 when all is done, 1 when something failed or is still pending, 2 when the command was called wrongly.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from imgproxy.config.load import load, secret_lines
from imgproxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

console = Console()
errors = Console(stderr=True, highlight=False)

# A purge waits for the keys API and for answers under way; a warm-up for its renders.
CALL_TIMEOUT_S = 120.0
PARALLEL = 8
# RFC 6750 section 2.1 allows fewer; what is no visible ASCII cannot stand in a header at all.
_TOKEN = re.compile(r"[!-~]+")

Ids = Annotated[
    list[str], typer.Argument(help="Entry ids; with --keys, keys. `-` reads one a line from standard input.")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="The edge's configuration: address and token.")
]
EdgeOption = Annotated[str | None, typer.Option("--edge", help="The edge's URL, if not the configured one.")]
TokenOption = Annotated[str | None, typer.Option(help="The admin token; also IMGPROXY_ADMIN__TOKEN.")]
KeysOption = Annotated[bool, typer.Option("--keys", help="The arguments are keys, not entry ids.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one id: the edge's answer, or why there was none."""

    name: str
    status: int
    answer: dict[str, Any]

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.status == HTTPStatus.OK


def purge(
    ids: Ids,
    *,
    config: ConfigOption = None,
    edge: EdgeOption = None,
    token: TokenOption = None,
    keys: KeysOption = False,
    soft: Annotated[bool, typer.Option(help="Serve the old picture once more while it is asked for.")] = False,
    reason: Annotated[
        str | None, typer.Option(help="One word for the receipt and the log; manual if not given.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Forget pictures, here and in the CDNs: by entry id, or by key."""
    if keys and soft:
        _fail("--soft is for entry ids, not for --keys: a purge by key is always a hard one", 2)
    if keys and reason is not None:
        _fail("--reason is for entry ids, not for --keys: the reason of a purge by key is always manual", 2)
    query = {"reason": reason or "manual", **({"soft": "1"} if soft else {})}
    results = _call_edge(_read_ids(ids), "purge", config, edge, token, is_keys=keys, query=query, is_json=json_)
    if not json_:
        _print_receipts(results)
    raise typer.Exit(0 if all(result.is_done for result in results) else 1)


def warm(
    ids: Ids,
    *,
    config: ConfigOption = None,
    edge: EdgeOption = None,
    token: TokenOption = None,
    keys: KeysOption = False,
    json_: JsonOption = False,
) -> None:
    """Make the variants that the edge is configured to warm, before anyone asks for them."""
    results = _call_edge(_read_ids(ids), "warm", config, edge, token, is_keys=keys, query={}, is_json=json_)
    if not json_:
        _print_warmed(results)
    raise typer.Exit(0 if all(result.is_done for result in results) else 1)


def _read_ids(ids: Sequence[str]) -> list[str]:
    found = [line.strip() for name in ids for line in (sys.stdin if name == "-" else (name,))]
    return [name for name in dict.fromkeys(found) if name]


def _call_edge(
    ids: Sequence[str],
    verb: str,
    config: Path | None,
    edge: str | None,
    token: str | None,
    *,
    is_keys: bool,
    query: dict[str, str],
    is_json: bool,
) -> list[Result]:
    if not ids:
        _fail("no id given", 2)
    try:
        settings = load(config)
        tokens = (
            (token,)
            if token
            else secret_lines(settings.admin.token, settings.admin.token_file, name="[admin] token_file")
        )
    except ConfigError as error:
        _fail(str(error), 2)
    if not tokens:
        _fail("no admin token: give --token, IMGPROXY_ADMIN__TOKEN, or a configuration with [admin] token", 2)
    if not _TOKEN.fullmatch(tokens[0]):
        _fail("the admin token cannot be sent in a header: expected visible ASCII characters, without spaces", 2)
    host = "127.0.0.1" if settings.server.host in ("0.0.0.0", "::") else settings.server.host  # noqa: S104 not binding
    base = (edge or f"http://{host}:{settings.server.port}").rstrip("/")
    return asyncio.run(_call_all(ids, verb, base, tokens[0], is_keys=is_keys, query=query, is_json=is_json))


async def _call_all(
    ids: Sequence[str], verb: str, base: str, token: str, *, is_keys: bool, query: dict[str, str], is_json: bool
) -> list[Result]:
    import httpx  # noqa: PLC0415 other commands, and the help, start faster without it

    gate = asyncio.Semaphore(PARALLEL)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=is_json or len(ids) < 2 or not errors.is_terminal,
    )
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=CALL_TIMEOUT_S) as client:

        async def call(name: str) -> Result:
            async with gate:
                result = await _call_one(client, verb, name, is_keys=is_keys, query=query)
            progress.advance(bar)
            if is_json:
                sys.stdout.write(json.dumps({"id": name, "status": result.status, **result.answer}) + os.linesep)
            return result

        with progress:
            bar = progress.add_task(verb, total=len(ids))
            return await asyncio.gather(*(call(name) for name in ids))


async def _call_one(client: httpx.AsyncClient, verb: str, name: str, *, is_keys: bool, query: dict[str, str]) -> Result:
    import httpx  # noqa: PLC0415 see _call_all

    try:
        if is_keys:
            response = await client.post(f"/-/{verb}/keys", json={"keys": [name]})
        else:
            response = await client.post(f"/-/{verb}/entries/{httpx.URL(path=name).raw_path.decode()}", params=query)
        answer = response.json()
    except httpx.InvalidURL as error:
        return Result(name, 0, {"detail": f"this id cannot stand in a URL: {error}"})
    except httpx.HTTPError as error:
        return Result(name, 0, {"detail": f"the edge at {client.base_url} cannot be reached: {error}"})
    except ValueError:
        return Result(name, response.status_code, {"detail": "the edge's answer is not JSON"})
    return Result(name, response.status_code, answer)


def _table(*columns: str) -> Table:
    """A table whose first column is the id, whole however long it is: it is there to be copied."""
    return Table(Column("id", overflow="fold"), *columns, box=None, header_style="bold")


def _print_receipts(results: Sequence[Result]) -> None:
    table = Table(
        Column("id", overflow="fold"), "keys", "variants", "bytes", "ms", "CDNs", "state", box=None, header_style="bold"
    )
    for result in results:
        answer = result.answer
        if "keys" not in answer:
            table.add_row(Text(result.name), "", "", "", "", "", _failure(result))
            continue
        downstream = ", ".join(f"{item['name']}: {item['state']}" for item in answer["downstream"]) or "-"
        state = "[yellow]pending[/yellow]" if answer["pending"] else "[green]gone[/green]"
        state = "[cyan]stale[/cyan]" if answer.get("soft") else state
        counts = (str(len(answer["keys"])), str(answer["variants"]), f"{answer['bytes']:,}", str(answer["ms"]))
        table.add_row(Text(result.name), *counts, Text(downstream), state)
    console.print(table)


def _failure(result: Result) -> Text:
    """The edge's words for what went wrong."""
    return Text(str(result.answer.get("detail", result.status)), style="red")


def _print_warmed(results: Sequence[Result]) -> None:
    table = Table(
        Column("id", overflow="fold"), "keys", "made", "had", "failed", "state", box=None, header_style="bold"
    )
    for result in results:
        answer = result.answer
        if "made" not in answer:
            table.add_row(Text(result.name), "", "", "", "", _failure(result))
            continue
        state = "[red]failed[/red]" if answer["failed"] else "[green]warm[/green]"
        counts = (str(len(answer["keys"])), str(answer["made"]), str(answer["had"]), str(len(answer["failed"])))
        table.add_row(Text(result.name), *counts, state)
    console.print(table)


def _fail(message: str, code: int) -> NoReturn:
    errors.print(f"imgproxy: {message}", markup=False, soft_wrap=True)
    raise typer.Exit(code)
