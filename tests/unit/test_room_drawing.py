"""The drawing of the rooms in docs/architecture.md: it is that of the tree, and leaves out only what it shows anyway."""

from __future__ import annotations

from graphlib import CycleError

import pytest

from tools.room_drawing import PAGE, drawing, rooms, with_drawing, without_implied


def test_the_page_shows_the_rooms_as_they_are() -> None:
    """Drawing and table are what `python -m tools.room_drawing` writes."""
    text = PAGE.read_text("utf-8")
    assert with_drawing(text) == text, "run: python -m tools.room_drawing"


def test_every_room_is_drawn_and_only_imports_are_arrows() -> None:
    """Each arrow of the drawing is an import of the tree."""
    graph = rooms()
    lines = drawing(graph).splitlines()

    assert {
        room for room in graph if f'  {room.replace(".", "_")}["{room.replace(".", "/")}"]' in lines
    } == graph.keys()
    arrows = [tuple(line.split(" --> ")) for line in lines if " --> " in line]
    assert len(arrows) > len(graph) // 2
    ids = {room.replace(".", "_"): room for room in graph}
    assert all(ids[end] in graph[ids[start.strip()]] for start, end in arrows)


@pytest.mark.parametrize(
    ("graph", "drawn"),
    [
        ({"a": "bc", "b": "c", "c": ""}, {"a": "b", "b": "c", "c": ""}),
        ({"a": "bcd", "b": "c", "c": "d", "d": ""}, {"a": "b", "b": "c", "c": "d", "d": ""}),
        ({"a": "bc", "b": "d", "c": "d", "d": ""}, {"a": "bc", "b": "d", "c": "d", "d": ""}),
        ({"a": "b", "b": ""}, {"a": "b", "b": ""}),
    ],
)
def test_an_arrow_that_follows_from_others_is_left_out(graph: dict[str, str], drawn: dict[str, str]) -> None:
    """What can be reached stays the same."""
    found = without_implied({room: frozenset(imports) for room, imports in graph.items()})

    assert found == {room: frozenset(imports) for room, imports in drawn.items()}


def test_a_cycle_cannot_be_drawn() -> None:
    """The rules of the tree forbid it."""
    with pytest.raises(CycleError):
        without_implied({"a": frozenset("b"), "b": frozenset("a")})
