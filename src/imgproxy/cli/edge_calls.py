"""The calls of `imgproxy purge` and `imgproxy warm` to a running edge: one for each id, a few at the same time."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.progress import Progress
from rich.table import Column, Table
from rich.text import Text

from imgproxy.cli.console import console, errors, fail, print_error, secret_option
from imgproxy.config.load import load
from imgproxy.config.secrets import secret_lines
from imgproxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgproxy.medialibrary.client.connections import Connections

# A purge waits for the keys API and for running answers. A warm-up waits for its renders.
CALL_TIMEOUT_S = 120.0
PARALLEL = 8
ANSWER_MAX_BYTES = 32 * 1024 * 1024
# A header may have visible ASCII only. RFC 6750 section 2.1 allows even fewer characters.
_TOKEN = re.compile(r"[!-~]+")

Ids = Annotated[
    list[str], typer.Argument(help="Entry ids, or keys with --keys. `-` reads them from standard input, one a line.")
]
EdgeConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="The edge's configuration: address and token.")
]
EdgeOption = Annotated[str | None, typer.Option("--edge", help="URL of the edge, instead of the configured one.")]
TokenOption = Annotated[str | None, typer.Option(help="The admin token. IMGPROXY_ADMIN__TOKEN works, too.")]
TokenFileOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with the admin token: other users of a machine see options.")
]
KeysOption = Annotated[bool, typer.Option("--keys", help="The arguments are keys, not entry ids.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


@dataclass(frozen=True, slots=True)
class EdgeTarget:
    """The edge to call: its URL and its admin token."""

    url: str
    token: str


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """Which edge to call, as the options of a command say it."""

    config: Path | None
    url: str | None
    token: str | None
    token_file: Path | None


@dataclass(frozen=True, slots=True)
class Work:
    """What to do with each id: `purge` or `warm`, as an entry id or as a key."""

    verb: str
    is_keys: bool
    is_json: bool
    query: dict[str, str]


@dataclass(frozen=True, slots=True)
class Result:
    """The edge's answer for one id. Status 0: there was no answer; `detail` says why."""

    name: str
    status: int
    answer: dict[str, Any]

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do for this id."""
        return self.status == HTTPStatus.OK


def find_edge(options: EdgeOptions) -> EdgeTarget:
    """Return the edge from the options, or from the configuration. Ends the command if there is no valid token."""
    try:
        settings = load(options.config)
        if options.token is not None:
            tokens: tuple[str, ...] = (secret_option(options.token, "--token"),)
        elif options.token_file is not None:
            tokens = secret_lines(None, options.token_file, name="--token-file")
        else:
            tokens = secret_lines(settings.admin.token, settings.admin.token_file, name="[admin] token_file")
    except ConfigError as error:
        fail(str(error), 2)
    if not tokens:
        fail("no admin token: give --token, --token-file, or a configuration with [admin] token", 2)
    if not _TOKEN.fullmatch(tokens[0]):
        fail("the admin token cannot be sent in a header: expected visible ASCII characters, without spaces", 2)
    host = "127.0.0.1" if settings.server.host in ("0.0.0.0", "::") else settings.server.host  # noqa: S104 not binding
    return EdgeTarget((options.url or f"http://{host}:{settings.server.port}").rstrip("/"), tokens[0])


def call_edge(options: EdgeOptions, ids: Sequence[str], work: Work) -> list[Result]:
    """Call the edge for each id and return the results in the same order. With `is_json`, print each one at once."""
    found = [line.strip() for name in ids for line in (sys.stdin if name == "-" else (name,))]
    names = [name for name in dict.fromkeys(found) if name]
    if not names:
        fail("no id given", 2)
    if not work.is_keys and (keys := [name for name in names if "/" in name]):
        fail(f"{keys[0]} is a key, not the id of an entry: add --keys", 2)
    return asyncio.run(_call_all(find_edge(options), names, work))


def print_results(
    columns: Sequence[str], results: Sequence[Result], counts_of: Callable[[dict[str, Any]], tuple[str, ...] | None]
) -> None:
    """Print a table: the id, and then the cells that `counts_of` returns. A failure is a line on standard error."""
    # The id is never cut, so that it can be copied.
    table = Table(Column("id", overflow="fold"), *columns, box=None, header_style="bold")
    for result in results:
        cells = counts_of(result.answer)
        if cells is None:
            print_error(f"{result.name}: {result.answer.get('detail', result.status)}{_hint(result)}")
        else:
            table.add_row(Text(result.name), *cells)
    if table.row_count:
        console.print(table)


def _hint(result: Result) -> str:
    """Say what may be meant by an id that is not known."""
    is_entry_unknown = result.answer.get("type", "").endswith(":entry-not-found")
    return " (if this is a key: --keys)" if is_entry_unknown else ""


async def _call_all(target: EdgeTarget, names: Sequence[str], work: Work) -> list[Result]:
    # Other commands start faster without it.
    import aiohttp  # noqa: PLC0415

    from imgproxy.medialibrary.client.connections import Connections  # noqa: PLC0415

    gate = asyncio.Semaphore(PARALLEL)
    progress = Progress(
        console=errors,
        transient=True,
        disable=work.is_json or len(names) < 2 or not errors.is_terminal,
    )
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CALL_TIMEOUT_S, sock_read=CALL_TIMEOUT_S)
    async with aclosing(Connections(max_connections=PARALLEL, timeout=timeout, trust_env=True)) as connections:

        async def call_for(name: str) -> Result:
            async with gate:
                result = await _call_one(connections, target, name, work)
            progress.advance(bar)
            if work.is_json:
                sys.stdout.write(json.dumps({"id": name, "status": result.status, **result.answer}) + os.linesep)
            return result

        with progress:
            bar = progress.add_task(work.verb, total=len(names))
            return await asyncio.gather(*(call_for(name) for name in names))


async def _call_one(connections: Connections, target: EdgeTarget, name: str, work: Work) -> Result:
    import aiohttp  # noqa: PLC0415 see _call_all
    from yarl import URL  # noqa: PLC0415

    from imgproxy.medialibrary.client.decoder import EncodingError  # noqa: PLC0415

    def prepare(request: aiohttp.ClientRequest) -> None:
        # Here, because aiohttp refuses a header beside the credentials that a .netrc has for this host.
        request.headers["Authorization"] = f"Bearer {target.token}"

    path, body = f"/-/{work.verb}/keys", json.dumps({"keys": [name]}).encode()
    if not work.is_keys:
        if not name.isprintable():
            return Result(
                name, 0, {"detail": "this id is not allowed in a URL: it has characters that are not printable"}
            )
        path, body = f"/-/{work.verb}/entries/{quote(name)}", b""
        if work.query:
            path += f"?{urlencode(work.query)}"
    headers = {"Content-Type": "application/json"} if body else {}
    try:
        url = URL(target.url + path, encoded=True)
        async with connections.request("POST", url, headers=headers, body=body, prepare=prepare) as response:
            answer = await response.beginning(ANSWER_MAX_BYTES, must_be_whole=True)
    except (aiohttp.ClientError, EncodingError, ValueError) as error:
        reason = str(error.__cause__ or error) or str(error)
        return Result(name, 0, {"detail": f"the edge at {target.url} cannot be reached: {reason}"})
    try:
        return Result(name, response.status, json.loads(answer))
    except ValueError:
        return Result(name, response.status, {"detail": "the edge's answer is not JSON"})
