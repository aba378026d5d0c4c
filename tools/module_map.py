"""
Writes the map of modules in CONTRIBUTING.md: for each module the first sentence of its docstring.

`python -m tools.module_map` writes it between the two marker lines of that page.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

from tools.pages import replace_between

REPOSITORY: Final = Path(__file__).parents[1]
SOURCE: Final = REPOSITORY / "src" / "imgproxy"
PAGE: Final = REPOSITORY / "CONTRIBUTING.md"
BEGIN: Final = "<!-- map: written by `python -m tools.module_map` -->"
END: Final = "<!-- end of map -->"
# From top to bottom: a room imports only from rooms below it.
ROOMS: Final = (
    "cli", "edge", "edge/fast", "delivery", "admission", "purge", "purge/downstream", "cluster", "cluster/store",
    "credentials", "workers", "render", "cache",
    "medialibrary", "medialibrary/client", "medialibrary/server", "medialibrary/server/store", "demo", "config",
    "params", "params/table", "",
)  # fmt: skip


def with_map(page: str) -> str:
    """Return the page with a new map between the markers."""
    folders = {path.parent.relative_to(SOURCE).as_posix().removeprefix(".") for path in SOURCE.rglob("*.py")}
    order = sorted(folders, key=lambda folder: (ROOMS.index(folder) if folder in ROOMS else len(ROOMS), folder))
    sections = "\n\n".join(_section(SOURCE / folder) for folder in order)
    return replace_between(page, BEGIN, END, sections)


def _section(folder: Path) -> str:
    """Return the map of one folder: a heading, what the folder is, and a line for each module."""
    modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    name = folder.relative_to(SOURCE).as_posix()
    heading = f"**`{name}/`** {_first_sentence(folder / '__init__.py')}" if name != "." else "**At the top level**"
    lines = (f"- `{path.stem}`: {_first_sentence(path)}".rstrip(": ") for path in modules)
    return "\n".join((heading.rstrip(), "", *lines))


def _first_sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring, on one line."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n\n")[0].split())
    sentence = re.match(r".*?\.(?= |$)", text)
    return sentence[0] if sentence else text


if __name__ == "__main__":
    PAGE.write_text(with_map(PAGE.read_text("utf-8")), "utf-8")
