"""
The rules of the source tree, and the functions that check them. Pure: they read a tree and return one line per problem.

A module is named by its dotted path inside the package: `delivery.originals`, `edge.fast.memo`, `errors`. The package
file of a room has the name of the room. A place is a module or a room with everything below it.
"""

from __future__ import annotations

import ast
import statistics
import sys
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

PACKAGE: Final = "imgproxy"
LINES_MAX: Final = 400
MEDIAN_LINES_MAX: Final = 150

TOP: Final = "top level"
TOP_MODULES: Final = (
    "__init__",
    "errors",
    "flights",
    "background",
    "failpoints",
    "digest",
    "secret_text",
)

# A room imports itself and the rooms that come after it.
ORDER: Final = (
    "cli",
    "edge",
    "delivery",
    "admission",
    "purge",
    "cluster",
    "credentials",
    "workers",
    "cache",
    "medialibrary",
    "config",
    "params",
    "telemetry",
    TOP,
)


@dataclass(frozen=True, slots=True)
class SpecialRoom:
    """A room beside the order, or inside a room of the order: what it imports, and which places import it."""

    imports: tuple[str, ...]
    imported_by: tuple[str, ...]


SPECIAL_ROOMS: Final[Mapping[str, SpecialRoom]] = {
    # Removable: the service works without it.
    "edge.fast": SpecialRoom(
        imports=ORDER[ORDER.index("edge") :], imported_by=("edge.app", "edge.parts", "edge.server")
    ),
    # Runs in a render process, which handles untrusted bytes: no code of the service is loaded there.
    "render": SpecialRoom(
        imports=("workers.job", "workers.channel", "workers.faces", "workers.sniff", "params", TOP), imported_by=()
    ),
    # Two processes: one reads foreign manifests, the other one holds the key that signs.
    "manifests": SpecialRoom(imports=("credentials.messages", "workers.channel", TOP), imported_by=()),
    # A server of its own. The service talks to it over HTTP.
    "medialibrary.server": SpecialRoom(
        imports=("medialibrary", "config", "params", "telemetry", TOP), imported_by=("cli",)
    ),
    "demo": SpecialRoom(imports=("medialibrary", "config", "params", "telemetry", TOP), imported_by=("cli",)),
}

# Every third-party library, and the places that may import it. The longest name that matches counts.
LIBRARIES: Final[Mapping[str, tuple[str, ...]]] = {
    "PIL": ("render.avif_sequence", "render.own_colours"),
    "aiohttp": ("edge", "medialibrary.client", "medialibrary.server", "purge.downstream", "cli.edge_calls"),
    "aiohttp.web": ("edge", "medialibrary.server"),
    "aiolimiter": ("purge",),
    "asyncpg": ("cluster",),
    "blake3": ("digest",),
    "blurhash": ("render",),
    "c2pa": ("manifests",),
    "cachetools": ("delivery", "admission", "purge", "cluster", "credentials", "manifests"),
    "cryptography": ("manifests.certificate",),
    "cv2": ("render.detector",),
    "multidict": ("edge",),
    "numpy": ("render.detector",),
    "opentelemetry": ("telemetry.sdk",),
    "sentry_sdk": ("telemetry.error_reports",),
    "obstore": ("cluster.store.objects",),
    "pi_heif": ("render",),
    "prometheus_client": ("telemetry.metrics",),
    "pydantic": ("cli", "config", "medialibrary.client", "medialibrary.models"),
    "pydantic_core": ("cache", "config"),
    "pydantic_settings": ("config",),
    "pyvips": ("render",),
    "rich": ("cli",),
    "tinycss2": ("render",),
    "typer": ("cli",),
    "uvloop": ("cli",),
    "yarl": ("medialibrary.client", "purge.downstream", "cli.edge_calls"),
}
# Modules of the standard library that only some places may import. All others are free.
STANDARD_LIBRARY: Final[Mapping[str, tuple[str, ...]]] = {
    "ctypes": ("manifests.signer", "render"),
    "fcntl": ("cache", "edge.connections"),
    "gc": ("cli", "render"),
    "http.client": (),
    "http.server": (),
    "importlib": (),  # an import by name would escape these checks
    "importlib.metadata": ("workers.extras",),
    "multiprocessing": (),  # render processes are started with asyncio, by `workers`
    "pickle": ("workers", "render"),
    "resource": ("cli.process", "edge.descriptors", "manifests", "render"),
    "select": ("telemetry.log_writer", "medialibrary.client", "render"),
    "signal": ("cli", "manifests", "render"),
    "socket": (
        "cluster",
        "credentials.process",
        "edge.connections",
        "manifests",
        "medialibrary.client",
        "workers",
        "render",
    ),
    "sqlite3": ("cache", "medialibrary.server"),
    "ssl": ("cluster", "medialibrary.client"),
    "subprocess": (),
    "tomllib": ("config",),
    "urllib.request": (),
    "xml": ("render",),
    "zlib": ("medialibrary", "render", "workers"),
}

# No I/O, no clock, no chance, where text becomes a plan and where a plan becomes numbers.
PURE: Final = ("params", "credentials.actions", "render.geometry")
IMPURE: Final = ("asyncio", "io", "os", "pathlib", "random", "secrets", "socket", "subprocess", "tempfile", "time")


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, ours (`delivery.originals`) or a library's; a name that is no module of ours stays with it."""

    module: str
    names: tuple[str, ...]
    line: int
    is_ours: bool
    is_runtime: bool  # False under TYPE_CHECKING


@dataclass(frozen=True, slots=True)
class Module:
    """One source file as the checks see it."""

    name: str
    path: str
    line_count: int
    imports: tuple[Import, ...]
    # Lines with a relative import, and (line, name) for each private name of another module that is used as attribute.
    relative_lines: tuple[int, ...]
    private_uses: tuple[tuple[int, str], ...]


# --- read ---------------------------------------------------------------------------------------------------------


def read_tree(root: Path) -> tuple[Module, ...]:
    """Read every module below `root`, the folder of the package. Each file is parsed once."""
    paths = sorted(root.rglob("*.py"))
    known = frozenset(module_name(path.relative_to(root)) for path in paths)
    return tuple(_read(path, root, known) for path in paths)


def module_name(path: Path) -> str:
    """Return the dotted name of a module by its path in the package; the package's own file is `__init__`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _read(path: Path, root: Path, known: frozenset[str]) -> Module:
    name = module_name(path.relative_to(root))
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    imports: list[Import] = []
    relative_lines: list[int] = []
    # Local names that stand for a module of ours, and the dotted name of that module with the package before it.
    aliases: dict[str, str] = {}
    for node, is_runtime in _import_nodes(tree, is_runtime=True):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imports.append(_import(alias.name, None, node.lineno, known, is_runtime=is_runtime))
                if _is_ours(alias.name):
                    aliases[alias.asname or PACKAGE] = alias.name if alias.asname else PACKAGE
        elif node.level:
            relative_lines.append(node.lineno)
        else:
            assert node.module is not None
            for alias in node.names:
                imports.append(_import(node.module, alias.name, node.lineno, known, is_runtime=is_runtime))
                full = f"{node.module}.{alias.name}"
                if _is_ours(full) and full.removeprefix(f"{PACKAGE}.") in known:
                    aliases[alias.asname or alias.name] = full
    return Module(
        name=name,
        path=path.relative_to(root).as_posix(),
        line_count=len(text.splitlines()),
        imports=tuple(imports),
        relative_lines=tuple(relative_lines),
        private_uses=tuple(_private_uses(tree, aliases, name, known)),
    )


def _import_nodes(node: ast.AST, *, is_runtime: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield every import with whether it happens at run time, also those inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, is_runtime
        elif isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for each in child.body:
                yield from _import_nodes(ast.Module([each], []), is_runtime=False)
            for each in child.orelse:
                yield from _import_nodes(ast.Module([each], []), is_runtime=is_runtime)
        else:
            yield from _import_nodes(child, is_runtime=is_runtime)


def _import(dotted: str, name: str | None, line: int, known: frozenset[str], *, is_runtime: bool) -> Import:
    """Resolve `import dotted` (name None), or one name of `from dotted import name`."""
    full = dotted if name is None else f"{dotted}.{name}"
    if not _is_ours(dotted):
        return Import(full, (), line, is_ours=False, is_runtime=is_runtime)
    parts = full.split(".")[1:]
    # `from imgproxy.delivery import originals` imports a module; `from imgproxy.errors import NotFound` a name of one.
    if name is not None and ".".join(parts) not in known:
        return Import(".".join(parts[:-1]) or "__init__", (name,), line, is_ours=True, is_runtime=is_runtime)
    return Import(".".join(parts) or "__init__", (), line, is_ours=True, is_runtime=is_runtime)


def _private_uses(
    tree: ast.AST, aliases: Mapping[str, str], own_name: str, known: frozenset[str]
) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not is_private(node.attr):
            continue
        first, _, rest = ast.unparse(node.value).partition(".")
        if first not in aliases:
            continue
        module = ".".join(filter(None, (aliases[first], rest))).removeprefix(PACKAGE).removeprefix(".") or "__init__"
        if module in known and module != own_name:
            yield node.lineno, f"{module}.{node.attr}"


def is_private(name: str) -> bool:
    """Return whether a name is private: it begins with an underscore and is not a dunder name."""
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def _is_ours(dotted: str) -> bool:
    return dotted == PACKAGE or dotted.startswith(f"{PACKAGE}.")


# --- rooms --------------------------------------------------------------------------------------------------------


def room_of(module: Module) -> str | None:
    """Return the room of a module, or None if it lies in no known room."""
    folder = module.path.rpartition("/")[0].replace("/", ".")
    if module.name == "__main__":  # of the package: it is the command line
        return "cli"
    if not folder:
        return TOP if module.name in TOP_MODULES else None
    for room in (*SPECIAL_ROOMS, *ORDER):
        if lies_in(folder, room):
            return room
    return None


def lies_in(name: str, place: str) -> bool:
    """Return whether a module is a place, or lies below it."""
    if place == TOP:
        return name in TOP_MODULES
    return name == place or name.startswith(f"{place}.")


def find_homeless(modules: Sequence[Module]) -> list[str]:
    """Find modules that lie in no known room."""
    return [
        f"{module.path}: lies in no known room; add its room, or its name at the top level, to the table"
        for module in modules
        if room_of(module) is None
    ]


def find_imports_against_order(modules: Sequence[Module]) -> list[str]:
    """Find imports of a room that the importing room must not know, and relative imports, which hide the room."""
    by_name = {module.name: module for module in modules}
    problems = []
    for module in modules:
        problems += [
            f"{module.path}:{line}: relative import; name the module from {PACKAGE} on"
            for line in module.relative_lines
        ]
        for each in module.imports:
            if not each.is_ours:
                continue
            target = by_name.get(each.module)
            reason = "it does not exist" if target is None else refusal(module, target)
            if reason is not None:
                problems.append(f"{module.path}:{each.line}: imports {each.module}: {reason}")
    return list(dict.fromkeys(problems))


def refusal(module: Module, target: Module) -> str | None:
    """Return why a module must not import another one, or None if it may."""
    room, target_room = room_of(module), room_of(target)
    if room is None or target_room is None or room == target_room:
        return None
    if target_room in SPECIAL_ROOMS:
        importers = SPECIAL_ROOMS[target_room].imported_by
        if not any(lies_in(module.name, place) for place in importers):
            places = f"{', '.join(importers)} and itself" if importers else "itself"
            return f"{target_room} is imported by {places} alone"
    if room in SPECIAL_ROOMS:
        allowed = SPECIAL_ROOMS[room].imports
        if any(lies_in(target.name, place) for place in allowed):
            return None
        return f"{room} imports only itself, {', '.join(allowed)}"
    if target_room in ORDER and ORDER.index(target_room) < ORDER.index(room):
        return f"{target_room} lies above {room}"
    return None


# --- libraries ----------------------------------------------------------------------------------------------------


def find_libraries_abroad(modules: Sequence[Module]) -> list[str]:
    """Find imports of a library outside its home, and of third-party libraries that have no home."""
    problems = []
    for module in modules:
        for each in module.imports:
            if each.is_ours:
                continue
            library = each.module.partition(".")[0]
            is_standard = library in sys.stdlib_module_names
            row = _longest_match(each.module, STANDARD_LIBRARY if is_standard else LIBRARIES)
            if row is None and not is_standard:
                problems.append(f"{module.path}:{each.line}: imports {library}, which is not in the table of libraries")
            elif row is not None:
                known, homes = row
                if not any(lies_in(module.name, home) for home in homes):
                    problems.append(
                        f"{module.path}:{each.line}: imports {known}, which is for {', '.join(homes) or 'nobody'}"
                    )
    return list(dict.fromkeys(problems))


def _longest_match(dotted: str, table: Mapping[str, tuple[str, ...]]) -> tuple[str, tuple[str, ...]] | None:
    while dotted:
        if dotted in table:
            return dotted, table[dotted]
        dotted = dotted.rpartition(".")[0]
    return None


def find_impure(modules: Sequence[Module]) -> list[str]:
    """Find imports of I/O, clocks or random numbers in the modules that must be pure."""
    return list(
        dict.fromkeys(
            f"{module.path}:{each.line}: is pure, and imports {each.module.partition('.')[0]}"
            for module in modules
            if any(lies_in(module.name, place) for place in PURE)
            for each in module.imports
            if not each.is_ours and each.module.partition(".")[0] in IMPURE
        )
    )


# --- names, cycles, lengths ---------------------------------------------------------------------------------------


def find_private_names(modules: Sequence[Module]) -> list[str]:
    """Find private names of one module of ours that another one imports, or uses as an attribute."""
    problems = []
    for module in modules:
        for each in module.imports:
            dotted = [*each.module.split("."), *each.names] if each.is_ours else []
            if any(is_private(part) for part in dotted):
                problems.append(f"{module.path}:{each.line}: imports the private name {'.'.join(dotted)}")
        problems += [f"{module.path}:{line}: uses the private name {name}" for line, name in module.private_uses]
    return problems


def find_cycles(modules: Sequence[Module]) -> list[str]:
    """Find modules that import each other in a circle at run time."""
    graph = {
        module.name: sorted({each.module for each in module.imports if each.is_ours and each.is_runtime})
        for module in modules
    }
    problems = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as exc:
            # graphlib lists what is imported before what imports it, and the first name again at the end.
            circle = exc.args[1][:0:-1]
            graph[circle[0]].remove(circle[1] if len(circle) > 1 else circle[0])
            start = circle.index(min(circle))
            circle = circle[start:] + circle[:start]
            problems.append(f"import cycle: {' > '.join((*circle, circle[0]))}")
        else:
            return sorted(problems)


def find_long(modules: Sequence[Module]) -> list[str]:
    """Find modules that are longer than `LINES_MAX`."""
    return [
        f"{module.path}: has {module.line_count} lines, more than {LINES_MAX}"
        for module in modules
        if module.line_count > LINES_MAX
    ]


def find_high_median(modules: Sequence[Module]) -> list[str]:
    """Find out whether the median length of all modules is more than `MEDIAN_LINES_MAX`."""
    median = statistics.median(module.line_count for module in modules)
    if median <= MEDIAN_LINES_MAX:
        return []
    return [f"the median module has {median:g} lines, more than {MEDIAN_LINES_MAX}"]


CHECKS: Final = (
    find_homeless,
    find_imports_against_order,
    find_libraries_abroad,
    find_impure,
    find_private_names,
    find_cycles,
    find_long,
    find_high_median,
)
