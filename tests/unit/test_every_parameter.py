"""Every row of the parameter table does something, and is documented."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from imgproxy.config.url import UrlSettings
from imgproxy.errors import BadParameter, Expired
from imgproxy.params import table
from imgproxy.params.negotiate import read_headers
from tests.support.params import build_request
from tools.parameter_tables import BEGIN, END

if TYPE_CHECKING:
    from imgproxy.params.parameter import Parameter
    from imgproxy.params.request import ImageRequest

PAGE = (Path(__file__).parents[2] / "docs" / "urls.md").read_text(encoding="utf-8")
TABLES = PAGE.partition(BEGIN)[2].partition(END)[0].splitlines()
SETTINGS = UrlSettings(presets={"some-name": {"w": "70"}})
CLIENT = read_headers(accept="image/avif,image/webp", save_data="on", dpr="3", width="333")

# Parameters that change nothing on their own, with a query in which they do.
NEEDS = {
    "ar": "fit=crop&w=300",
    "dpr": "w=300",
    "fit": "w=300&h=200",
    "max-w": "fit=crop&w=300&h=200",
    "max-h": "fit=crop&w=300&h=200",
    "min-w": "fit=crop&w=300&h=200",
    "min-h": "fit=crop&w=300&h=200",
    "fill": "fit=fill&w=300&h=200",
    "fill-color": "fit=fill&w=300&h=200",
    "crop": "fit=crop&w=300&h=200",
    "fp-x": "fit=crop&crop=focalpoint&w=300&h=200",
    "fp-y": "fit=crop&crop=focalpoint&w=300&h=200",
    "fp-z": "fit=crop&crop=focalpoint&w=300&h=200",
    "faceindex": "fit=facearea&w=300&h=200",
    "facepad": "fit=facearea&w=300&h=200",
    "faces": "fm=json",
    "rot-type": "rot=10",
    "border-top": "border=3,red",
    "border-right": "border=3,red",
    "border-bottom": "border=3,red",
    "border-left": "border=3,red",
    "border-radius": "border=3,red",
    "border-radius-inner": "border=3,red",
    "corner-radius": "mask=corners",
    "mask-bg": "mask=ellipse",
    "trim-color": "trim=color",
    "trim-tol": "trim=color",
    "trim-md": "trim=auto",
    "trim-sd": "trim=auto",
    "trim-alpha": "trim=alpha",
    "trim-pad": "trim=auto",
    "usmrad": "usm=20",
    "duotone-alpha": "duotone=red,blue",
    "blend-mode": "blend=red",
    "blend-alpha": "blend=red",
    **{
        row.name: "mark=logo.png&w=300"
        for row in table.PARAMETERS
        if row.name.startswith("mark-") and row.name != "mark-fit"
    },
    "mark-fit": "mark=logo.png&mark-w=50&mark-h=50",
    "colors": "palette=json",
    "prefix": "palette=css",
}
# Parameters that must not change anything, and why.
WITHOUT_EFFECT = {
    "s": "the signature is verified before parsing, on the raw target",
    "ixlib": "it names the client that made the URL",
}
# Values for kinds whose words hold none: texts, pairs and tuples.
VALUES = ("10", "1767225600", "some-name", "2:1", "1,2,300,400", "3,red", "red", "red,blue", "1,2,3,4", "2-5")


def values_of(row: Parameter[Any]) -> list[str]:
    """The numbers and words of what the row expects: the ends of its range, the members of its choice; then others."""
    found = re.findall(r"-?\d+(?:\.\d+)?|[a-z][a-z0-9-]*", row.kind.expected)
    return list(dict.fromkeys((*found, *VALUES)))


def request_of(query: str) -> ImageRequest:
    return build_request(f"/a/b.jpg?{query}", CLIENT, SETTINGS, finds_faces=True)


def has_effect(row: Parameter[Any]) -> bool:
    """Whether any value changes the request. `auto=redeye` renders and does nothing else, so it is in both URLs."""
    context = f"auto=redeye&{NEEDS.get(row.name, '')}"
    without = replace(request_of(context), notes=())
    for value in values_of(row):
        try:
            found = request_of(f"{context}&{row.name}={value}")
        except (BadParameter, Expired):
            continue
        if replace(found, notes=()) != without:
            return True
    return False


@pytest.mark.parametrize("row", table.PARAMETERS, ids=lambda row: row.name)
def test_a_parameter_has_an_effect(row: Parameter[Any]) -> None:
    """Some value of each row changes the plan or the answer; a row that no code reads fails here."""
    assert has_effect(row) is (row.name not in WITHOUT_EFFECT)


@pytest.mark.parametrize("row", table.PARAMETERS, ids=lambda row: row.name)
def test_a_parameter_alone_renders_or_not_as_its_row_says(row: Parameter[Any]) -> None:
    """A value alone makes a plan, or it leaves the original's bytes."""
    for value in values_of(row):
        try:
            found = request_of(f"{row.name}={value}")
        except (BadParameter, Expired):
            continue
        is_read = not found.notes and row.kind.read(value)[0] is not None
        sets_others = row.name == "preset" and value in SETTINGS.presets
        if is_read and not sets_others:
            assert (found.plan is not None) is row.is_rendering, value


@pytest.mark.parametrize("row", table.PARAMETERS, ids=lambda row: row.name)
def test_a_parameter_is_documented(row: Parameter[Any]) -> None:
    """docs/urls.md has a line with the name, the aliases, what is expected and a sentence about the effect."""
    (line,) = [line for line in TABLES if line.startswith(f"| `{row.name}`")]
    assert all(f"`{name}`" in line for name in row.names)
    assert row.kind.expected.replace("|", "\\|") in line
    assert row.effect
    assert row.effect.replace("|", "\\|") in line


def test_the_tables_of_this_test_name_only_rows() -> None:
    """A row that is gone leaves nothing behind here."""
    assert set(NEEDS) | set(WITHOUT_EFFECT) <= {row.name for row in table.PARAMETERS}
