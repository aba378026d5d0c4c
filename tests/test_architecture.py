"""Data flows down: which room imports which, and which library lives in which room."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "imgproxy"
ROOT = "imgproxy"

# What a room may import of our own, beside itself. `errors`, `config`, `metrics`, `failpoints`, `background`, `digest`,
# `flights` and `freshness` are everybody's; `params` is pure and so may be read by everyone.
EVERYBODYS = {
    "errors",
    "config",
    "config_downstream",
    "metrics",
    "failpoints",
    "background",
    "digest",
    "flights",
    "freshness",
    "params",
}
ROOMS = {
    "params": set(),
    "cache": set(),
    "render": set(),
    "medialibrary": set(),
    "originals": {"cache", "medialibrary", "render", "origin", "origin_health", "fetch_gate"},
    "origin": {"medialibrary"},
    "fetch_gate": set(),
    "origin_health": set(),
    "render_batches": {"cache", "originals", "render"},
    "stand_ins": {"cache", "render"},
    "commits": {"cache", "originals", "render"},
    "reductions": {"cache", "commits", "originals", "render", "stand_ins"},
    "renders": {"cache", "commits", "originals", "reductions", "render", "render_batches"},
    "delivery": {"cache", "commits", "originals", "renders", "render"},
    "answers": set(),
    "warming": {"cache", "commits", "originals", "renders", "render", "settings"},
    # The CDNs' tokens and certificates are read as the Media Library's are.
    "purge": {"cache", "originals", "answers", "delivery", "medialibrary"},
}
# Which third-party or system library may be imported where.
LIBRARIES = {
    "pyvips": ("render/",),
    # Of its client side the parser of answers alone.
    "aiohttp": ("edge/", "medialibrary/server/", "medialibrary/wire.py"),
    "httpx": ("medialibrary/", "purge/", "cli_edge.py"),
    "blake3": ("digest.py",),
    "sqlite3": ("cache/", "medialibrary/server/"),
    "prometheus_client": ("metrics.py",),
    "typer": ("cli",),
    "numpy": (),
    "PIL": (),
}


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if "photos" not in path.parts)


def imports(path: Path) -> set[str]:
    """Every module a file imports, also inside functions and for types."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def room_of(path: Path) -> str:
    part = path.relative_to(SOURCE).parts[0]
    return part.removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    """An arrow that points up is a cycle to come."""
    room = room_of(path)
    if room not in ROOMS:
        return
    allowed = ROOMS[room] | EVERYBODYS | {room}
    ours = {name.split(".")[1] for name in imports(path) if name.startswith(f"{ROOT}.")}

    assert ours - {"__version__"} <= allowed, ours - allowed


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_lives_in_its_room(library: str) -> None:
    """What wraps a library can be changed without looking elsewhere."""
    strangers = [
        str(path.relative_to(SOURCE))
        for path in modules()
        if any(name == library or name.startswith(f"{library}.") for name in imports(path))
        and not str(path.relative_to(SOURCE)).startswith(LIBRARIES[library])
    ]

    assert strangers == []


def test_params_and_geometry_are_pure() -> None:
    """No I/O and no clock where text becomes a plan and a plan becomes numbers."""
    impure = {"os", "io", "time", "asyncio", "socket", "pathlib", "random", "subprocess"}
    writes_the_docs = SOURCE / "params" / "document.py"
    for path in [*(SOURCE / "params").glob("*.py"), SOURCE / "render" / "geometry.py"]:
        if path == writes_the_docs:
            continue
        assert {name.split(".")[0] for name in imports(path)}.isdisjoint(impure), path


def test_modules_stay_readable() -> None:
    """Past 450 lines a module asks to be split; the error tree is one list and may be longer."""
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in modules()}

    assert not {name: length for name, length in lengths.items() if length > 450 and name != "errors.py"}
