"""The playground: a page where every URL parameter can be tried. These are its files; `edge.playground` answers it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from imgproxy import __version__
from imgproxy.params.table import SECTIONS

FOLDER: Final = Path(__file__).parent
SUFFIXES: Final = frozenset({".html", ".css", ".js"})
TABLE: Final = "table.json"


def files() -> dict[str, bytes]:
    """Return every file of the page by name. `table.json` has the parameters: the page makes its controls from it."""
    found = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in SUFFIXES}
    return found | {TABLE: json.dumps(parameter_table(), ensure_ascii=False).encode()}


def parameter_table() -> dict[str, Any]:
    """Return the version, and every section with its parameters."""
    return {
        "version": __version__,
        "sections": [
            {
                "title": title,
                "parameters": [
                    {
                        "name": row.name,
                        "effect": row.effect,
                        "expected": row.kind.expected,
                        "default": row.default,
                        "form": str(row.kind.form.name),
                        "least": row.kind.form.least,
                        "most": row.kind.form.most,
                        "members": list(row.kind.form.members),
                    }
                    for row in rows
                ],
            }
            for title, rows in SECTIONS
        ],
    }
