"""
`imgproxy warm`: render the configured variants of entries or keys in advance, on a running edge.

Exit code 0: all is done. 1: something failed. 2: wrong arguments.
"""

from __future__ import annotations

from typing import Any

import typer

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


def warm(
    ids: Ids,
    *,
    config: EdgeConfigOption = None,
    edge: EdgeOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    keys: KeysOption = False,
    json_: JsonOption = False,
) -> None:
    """Render the variants that the edge is configured to warm, before they are requested."""
    work = Work("warm", is_keys=keys, is_json=json_, query={})
    results = call_edge(EdgeOptions(config, edge, token, token_file), ids, work)
    if not json_:
        print_results(("keys", "made", "had", "failed", "state"), results, _warmed_cells)
    raise typer.Exit(0 if all(result.is_done for result in results) else 1)


def _warmed_cells(answer: dict[str, Any]) -> tuple[str, ...] | None:
    if "made" not in answer:
        return None
    state = "[red]failed[/red]" if answer["failed"] else "[green]warm[/green]"
    return str(len(answer["keys"])), str(answer["made"]), str(answer["had"]), str(len(answer["failed"])), state
