"""`imgproxy cluster`: the edges that share a database, as the database knows them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from imgproxy.cli.console import ConfigOption, console, fail, load_or_fail, marked
from imgproxy.cluster.log import LogUnavailable
from imgproxy.cluster.status import NodeState, shared_name_words
from imgproxy.config.secrets import database_url
from imgproxy.errors import ConfigError

if TYPE_CHECKING:
    from imgproxy.cluster.status import ClusterStatus, NodeStatus

app = typer.Typer(no_args_is_help=True, help="Many edges over one PostgreSQL.")
_COLOURS = {NodeState.CURRENT: "green", NodeState.BEHIND: "yellow", NodeState.SILENT: "red"}


@app.callback()
def cluster() -> None:
    """Many edges over one PostgreSQL."""


@app.command()
def status(
    config: ConfigOption = None,
    *,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the edges, how far behind each is, and the log of purges."""
    from imgproxy.cluster.engine import read_status  # noqa: PLC0415 other commands start faster without it

    try:
        url = database_url(load_or_fail(config).cluster)
        if url is None:
            fail("[cluster] database_url is not set: this edge is alone", 2)
        found = asyncio.run(read_status(url))
    except ConfigError as error:
        fail(str(error), 2)
    except LogUnavailable as error:
        fail(str(error))
    if json_:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        _print(found)


def _print(found: ClusterStatus) -> None:
    table = Table("edge", "state", "lines behind", "renewed", "lease", "run")
    for node in found.nodes:
        table.add_row(*_cells(node))
    console.print(table)
    age = "none kept" if found.oldest_age_s is None else f"the oldest {_duration(found.oldest_age_s)} old"
    console.print(f"log: {found.lines} lines, {age}; last number {found.head}; schema version {found.schema_version}")
    console.print(f"history: {found.history}", soft_wrap=True)
    for name in found.shared_names:
        console.print(marked("!", "yellow", shared_name_words(name)), soft_wrap=True)


def _cells(node: NodeStatus) -> tuple[str, ...]:
    colour = _COLOURS[node.state]
    return (
        escape(node.name),
        f"[{colour}]{node.state.value}[/{colour}]",
        str(node.lag_lines),
        f"{_duration(node.renewed_ago_s)} ago",
        f"{node.lease_s:g} s",
        escape(node.run),
    )


def _duration(seconds: float) -> str:
    """Return a time in the largest unit that gives at least 2."""
    for unit_s, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{seconds:.1f} s"
