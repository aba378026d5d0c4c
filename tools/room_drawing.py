"""
Draws the rooms of the source tree into docs/architecture.md: which room imports which, read from the imports.

`python -m tools.room_drawing` writes a Mermaid drawing and a table between the two marker lines of that page.
"""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Final

from tests.support.architecture import ORDER, TOP, read_tree, room_of
from tools.module_map import REPOSITORY, SOURCE
from tools.pages import replace_between

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE: Final = REPOSITORY / "docs" / "architecture.md"
BEGIN: Final = "<!-- rooms: written by `python -m tools.room_drawing` -->"
END: Final = "<!-- end of rooms -->"
# Drawn as a part of the room that it is in: the two import each other.
PARTS: Final[Mapping[str, str]] = {"edge.fast": "edge"}
# Between processes there are no imports, but messages.
MESSAGES: Final = (("workers", "render", "jobs, by a socket"), ("medialibrary", "medialibrary.server", "HTTP"))


def rooms() -> dict[str, frozenset[str]]:
    """Return for each room the rooms that it imports at run time. The top level is left out: every room imports it."""
    tree = read_tree(SOURCE)
    room_by_module = {module.name: PARTS.get(room, room) for module in tree if (room := room_of(module)) is not None}
    found: dict[str, set[str]] = {room: set() for room in room_by_module.values()}
    for module in tree:
        room = room_by_module[module.name]
        found[room] |= {room_by_module[each.module] for each in module.imports if each.is_ours and each.is_runtime} - {
            room
        }
    return {room: frozenset(imported - {TOP}) for room, imported in found.items() if room != TOP}


def without_implied(graph: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Return the graph without each arrow that a longer way replaces. It must have no cycle (graphlib.CycleError)."""
    reached: dict[str, frozenset[str]] = {}
    for room in TopologicalSorter(graph).static_order():
        direct = graph.get(room, frozenset())
        reached[room] = direct.union(*(reached[each] for each in direct))
    return {
        room: frozenset(each for each in direct if not any(each in reached[other] for other in direct - {each}))
        for room, direct in graph.items()
    }


def drawing(graph: Mapping[str, frozenset[str]]) -> str:
    """Return the drawing as a Mermaid flowchart."""
    order = sorted(graph, key=_place)
    nodes = [f'  {_id(room)}["{_name(room)[1:-1]}"]' for room in order]
    drawn = without_implied(graph)
    arrows = [f"  {_id(room)} --> {_id(each)}" for room in order for each in sorted(drawn[room], key=_place)]
    messages = [f'  {_id(one)} -. "{text}" .-> {_id(other)}' for one, other, text in MESSAGES]
    return "\n".join(("```mermaid", "flowchart TD", *nodes, *arrows, *messages, "```"))


def table(graph: Mapping[str, frozenset[str]]) -> str:
    """Return a table of the rooms: what each is, and every room that it imports."""
    rows = (
        f"| {_name(room)} | {_summary(room)} | {', '.join(map(_name, sorted(graph[room], key=_place))) or 'none'} |"
        for room in sorted(graph, key=_place)
    )
    return "\n".join(("| room | what it is | imports |", "|---|---|---|", *rows))


def with_drawing(page: str) -> str:
    """Return the page with a new drawing and table between the markers."""
    graph = rooms()
    return replace_between(page, BEGIN, END, f"{drawing(graph)}\n\n{table(graph)}")


def _place(room: str) -> tuple[int, str]:
    """Return where a room stands: by its order from top to bottom, and those beside the order at the end."""
    return (ORDER.index(room) if room in ORDER else len(ORDER), room)


def _id(room: str) -> str:
    return room.replace(".", "_")


def _name(room: str) -> str:
    """Return a room as it is written in the table."""
    return f"`{room.replace('.', '/')}`"


def _summary(room: str) -> str:
    text = (SOURCE / room.replace(".", "/") / "__init__.py").read_text("utf-8")
    return " ".join((ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0].split())


if __name__ == "__main__":
    PAGE.write_text(with_drawing(PAGE.read_text("utf-8")), "utf-8")
