"""
`imgproxy purge`: purge entries or keys on a running edge.

Exit code 0: all is done. 1: something failed or is still pending. 2: wrong arguments.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from imgproxy.cli.console import fail
from imgproxy.cli.edge_calls import (
    EdgeConfigOption,
    EdgeOption,
    EdgeOptions,
    Ids,
    JsonOption,
    KeysOption,
    TokenFileOption,
    TokenOption,
    Work,
    call_edge,
    print_results,
)


def purge(
    ids: Ids,
    *,
    config: EdgeConfigOption = None,
    edge: EdgeOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    keys: KeysOption = False,
    soft: Annotated[bool, typer.Option(help="Serve the old picture once more, then revalidate it.")] = False,
    reason: Annotated[
        str | None, typer.Option(help="One word for the receipt and the log; by default: manual.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Purge pictures by entry id or by key, in the edge and in the CDNs."""
    if keys and soft:
        fail("--soft is for entry ids, not for --keys: a purge by key is never soft", 2)
    if keys and reason is not None:
        fail("--reason is for entry ids, not for --keys: the reason of a purge by key is always manual", 2)
    query = {"reason": reason or "manual", **({"soft": "1"} if soft else {})}
    work = Work("purge", is_keys=keys, is_json=json_, query=query)
    results = call_edge(EdgeOptions(config, edge, token, token_file), ids, work)
    if not json_:
        print_results(("keys", "variants", "bytes", "ms", "CDNs", "state"), results, _receipt_cells)
    raise typer.Exit(0 if all(result.is_done for result in results) else 1)


def _receipt_cells(receipt: dict[str, Any]) -> tuple[str, ...] | None:
    if "keys" not in receipt:
        return None
    downstream = ", ".join(f"{item['name']}: {item['state']}" for item in receipt["downstream"]) or "-"
    state = "[yellow]pending[/yellow]" if receipt["pending"] else "[green]gone[/green]"
    if receipt.get("soft"):
        state = "[cyan]stale[/cyan]"
    counts = (str(len(receipt["keys"])), str(receipt["variants"]), f"{receipt['bytes']:,}", str(receipt["ms"]))
    return *counts, escape(downstream), state
