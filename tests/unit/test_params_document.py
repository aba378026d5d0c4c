"""docs/urls.md is complete and current, and its examples work."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgproxy.config.url import UrlSettings
from imgproxy.params import table
from imgproxy.params.negotiate import read_headers
from imgproxy.params.parse import Strictness, read_values
from tests.support.params import build_request
from tools.parameter_tables import tables, with_tables

if TYPE_CHECKING:
    from imgproxy.params.parameter import Parameter

PAGE = (Path(__file__).parents[2] / "docs" / "urls.md").read_text(encoding="utf-8")


def test_page_lists_every_parameter_as_the_code_has_it() -> None:
    """The tables in the page are those of the code; after a change run `python -m tools.parameter_tables`."""
    assert with_tables(PAGE) == PAGE
    for row in table.PARAMETERS:
        for name in row.names:
            assert f"`{name}`" in tables()


def test_a_page_without_markers_is_not_overwritten() -> None:
    """Without the marker lines nothing is written."""
    with pytest.raises(ValueError, match="needs the lines"):
        with_tables("# Some page")


EXAMPLES = re.findall(r"^\| `…?(/[^`]+|\?[^`]+)` \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_understood_by_strict_mode(example: str) -> None:
    """The URLs that the page shows hold no parameter or value that strict mode would refuse."""
    target = example if example.startswith("/2025") else f"/2025/03/14/c316.jpeg{example}"
    assert (
        build_request(target.replace("…", "0" * 32), read_headers(), UrlSettings(strict=True)).key
        == "2025/03/14/c316.jpeg"
    )


def test_the_page_has_examples() -> None:
    """The pattern above finds the examples."""
    assert len(EXAMPLES) >= 14


def test_the_configuration_in_the_page_is_valid() -> None:
    """The TOML that the page shows loads, and its preset does what the page says."""
    text = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert text is not None
    settings = UrlSettings.model_validate(tomllib.loads(text[1])["url"])
    found = build_request("/a.jpg?preset=teaser", read_headers(), settings)
    same = build_request("/a.jpg?w=320&h=180&fit=crop&crop=entropy&auto=format", read_headers(), UrlSettings())
    assert found.plan == same.plan


@pytest.mark.parametrize("row", [row for row in table.PARAMETERS if re.fullmatch(r"-?[\d.]+", row.default)])
def test_a_documented_default_is_a_value_of_its_parameter(row: Parameter[object]) -> None:
    """Strict mode accepts each numeric default."""
    assert read_values({row.name: row.default}, Strictness(is_strict=True)).get(row) is not None


def test_writing_out_every_default_changes_nothing() -> None:
    """A URL that spells out each numeric default means the same picture as one that leaves them out."""
    defaults = "&".join(
        f"{row.name}={row.default}" for row in table.PARAMETERS if re.fullmatch(r"-?[\d.]+", row.default)
    )
    plain, spelled = (
        build_request(f"/a.jpg?w=100&h=90&fm=jpg{extra}", read_headers(), UrlSettings()).plan
        for extra in ("", f"&{defaults}")
    )
    assert plain == spelled
