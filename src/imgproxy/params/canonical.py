"""The canonical text of a plan: what differs from the defaults, in a fixed order. Digests are made of it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any


def describe(value: Any) -> str:
    """Write a value of a plan as text, without its defaults. Floats have twelve digits, so that 0.1+0.2 equals 0.3."""
    rows = _rows(value.__class__)
    if rows is not None:
        found = [(name, getattr(value, name)) for name, default in rows if getattr(value, name) != default]
        parts = [f"{_written(name)}={describe(item)}" for name, item in found]
        return f"{_written(type(value).__name__)}({','.join(parts)})"
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, tuple):
        return "[" + ",".join(describe(item) for item in value) + "]"
    if isinstance(value, str):
        return repr(str(value))
    return str(value)


def _written(name: str) -> str:
    """Return a name in the spelling that plans have always had: their digests are made of it."""
    return name.replace("olour", "olor")


@cache
def _rows(kind: Any) -> tuple[tuple[str, object], ...] | None:
    """Return names and defaults of the fields of a dataclass; None for other types. A field without default is kept."""
    return tuple((item.name, item.default) for item in fields(kind)) if is_dataclass(kind) else None
