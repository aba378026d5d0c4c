"""
Writes the parameter tables of docs/urls.md from the rows in `imgproxy.params.table`.

`python -m tools.parameter_tables [FILE]` writes them between the two marker lines of that page.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from imgproxy.params.table import SECTIONS
from tools.pages import replace_between

if TYPE_CHECKING:
    from imgproxy.params.parameter import Parameter

BEGIN: Final = "<!-- parameters: written by `python -m tools.parameter_tables` -->"
END: Final = "<!-- end of parameters -->"


def tables() -> str:
    """Return a Markdown table for each section: name and aliases, value, default, effect."""
    return "\n\n".join(_table(title, parameters) for title, parameters in SECTIONS)


def with_tables(page: str) -> str:
    """Return the page with new tables between the markers."""
    return replace_between(page, BEGIN, END, tables())


def _table(title: str, parameters: tuple[Parameter[Any], ...]) -> str:
    rows = "\n".join(_row(parameter) for parameter in parameters)
    return f"### {title}\n\n| parameter | value | default | effect |\n|---|---|---|---|\n{rows}"


def _row(parameter: Parameter[Any]) -> str:
    aliases = ", ".join(f"`{alias}`" for alias in parameter.aliases)
    name = f"`{parameter.name}`" + (f" ({aliases})" if aliases else "")
    cells = (name, parameter.kind.expected, parameter.default, parameter.effect)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/urls.md")
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
