"""Rows of a table of which `make test` runs a few, and `make test-slow` the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from _pytest.mark.structures import ParameterSet


def slow_but(quick: Collection[object], rows: Iterable[object]) -> list[ParameterSet]:
    """
    Mark the rows as slow that are not among the quick ones. A row that is a tuple is one value for each parameter.

    Raises ValueError if a quick one is no row.
    """
    rows = list(rows)
    if unknown := [row for row in quick if row not in rows]:
        raise ValueError(f"no rows: {unknown}")
    return [
        pytest.param(*(row if isinstance(row, tuple) else (row,)), marks=() if row in quick else pytest.mark.slow)
        for row in rows
    ]
