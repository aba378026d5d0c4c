"""
Every parameter that the grammar knows, and how a name in a URL finds its row.

Each module here is a section: its docstring is the title, its rows are the parameters. Parsing, the messages of strict
mode, the check of configured defaults and presets, and the tables in docs/urls.md all come from these rows.
Source of names, aliases and ranges: imgix-url-params 11.35 (github.com/imgix/imgix-url-params).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from imgproxy.params.parameter import Parameter
from imgproxy.params.table import delivery, encoding, frames, framing, orientation, overlays, region, size, tone

if TYPE_CHECKING:
    from types import ModuleType


def _section(module: ModuleType) -> tuple[str, tuple[Parameter[Any], ...]]:
    """Return the title and the rows of a module."""
    rows = (value for value in vars(module).values() if isinstance(value, Parameter))
    return (module.__doc__ or "").rstrip("."), tuple(rows)


SECTIONS: Final = tuple(
    map(_section, (size, region, orientation, framing, tone, overlays, encoding, frames, delivery)),
)
PARAMETERS: Final = tuple(row for _, rows in SECTIONS for row in rows)
BY_NAME: Final[dict[str, Parameter[Any]]] = {name: row for row in PARAMETERS for name in row.names}
# The names of base64 values: `w64` is the row of `w`.
BY_BASE64_NAME: Final = {f"{name}64": row for name, row in BY_NAME.items() if row.has_base64}
RENDERING: Final = frozenset(row for row in PARAMETERS if row.is_rendering)

# imgix features that do not exist here. Their parameters are no error in strict mode, and alone they do not render.
IGNORED_PREFIXES: Final = (
    "txt", "bg-remove", "bg-replace", "upscale", "object-removal", "fill-gen", "fill-gradient", "face", "nr", "ix",
    "blend-", "grid-", "pdf-", "transparency", "svg-",
)  # fmt: skip
IGNORED: Final = frozenset((
    "background-remove", "annotation", "lp-blur", "fp-debug", "htn", "gif-q",
    "ba", "bc", "bf", "bh", "bw", "bp", "bs", "bx", "by",
    "t", "ta", "tcl", "tc", "tf", "tl", "tp", "tsh", "tsz", "tt",
))  # fmt: skip


def is_ignored(name: str) -> bool:
    """Tell whether this is a parameter of imgix that has no effect here."""
    return name in IGNORED or name.startswith(IGNORED_PREFIXES)
