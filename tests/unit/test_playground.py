"""What the playground's page is made from: its files, and the table with the forms of all values."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from imgproxy.demo.playground import TABLE, files
from imgproxy.params.kinds import FormName
from imgproxy.params.table import PARAMETERS

if TYPE_CHECKING:
    from imgproxy.params.parameter import Parameter

NUMBERS = [row for row in PARAMETERS if row.kind.form.name in (FormName.NUMBER, FormName.WHOLE)]
WORDS = [row for row in PARAMETERS if row.kind.form.members]


def is_exact(row: Parameter[Any], text: str) -> bool:
    """Whether a text has a meaning, and is as the grammar asks."""
    value, is_as_asked = row.kind.read(text)
    return value is not None and is_as_asked


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.name)
def test_the_bounds_of_a_form_are_those_of_its_reader(row: Parameter[Any]) -> None:
    """Both ends are read as they are; one more than the most is not, except that degrees begin anew at 360."""
    form = row.kind.form
    assert form.least is not None
    assert form.most is not None
    assert is_exact(row, f"{form.least:g}")
    assert is_exact(row, f"{form.most:.10g}") is not ("degrees" in row.kind.expected)
    assert not is_exact(row, f"{form.most + 1:.10g}")


@pytest.mark.parametrize("row", WORDS, ids=lambda row: row.name)
def test_every_member_of_a_form_is_read(row: Parameter[Any]) -> None:
    """Each word alone is a value, and all of them together where a list is expected."""
    for member in row.kind.form.members:
        assert is_exact(row, member), member
    if row.kind.form.name is FormName.CHOICES:
        assert is_exact(row, ",".join(row.kind.form.members))


@pytest.mark.parametrize(
    ("form", "text"),
    [(FormName.COLOUR, "ff8800"), (FormName.COLOURS, "000080,ffd166"), (FormName.RECT, "10,20,300,200")],
)
def test_what_a_control_writes_is_read(form: FormName, text: str) -> None:
    """A colour picker writes six digits, the crop whole pixels."""
    rows = [row for row in PARAMETERS if row.kind.form.name is form]
    assert rows
    for row in rows:
        assert is_exact(row, text), row.name


def test_the_table_has_every_parameter_once() -> None:
    """With what a control needs: its form, its text, and what it does."""
    table = json.loads(files()[TABLE])
    rows = [row for section in table["sections"] for row in section["parameters"]]
    assert [row["name"] for row in rows] == [row.name for row in PARAMETERS]
    assert all(row["effect"] and row["expected"] and row["form"] for row in rows)


def test_the_page_names_only_files_that_are_there_and_has_no_inline_code() -> None:
    """The policy allows neither scripts nor styles inside the page, and nothing from elsewhere."""
    found = files()
    page = found["index.html"].decode()
    named = {name.removeprefix("playground/") for name in re.findall(r'(?:src|href)="(playground/[^"]+)"', page)}
    imported = {name for name, body in found.items() for name in re.findall(r'from "\./([^"]+)"', body.decode())}
    assert named | imported == set(found) - {"index.html", TABLE}
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page)
    for name, body in found.items():
        assert not re.search(rb"https?://|\beval\(|innerHTML", body), name


def test_the_page_stays_small_enough_to_read() -> None:
    """A few modules of plain JavaScript: no bundle, nothing minified."""
    scripts = {name: body.decode() for name, body in files().items() if name.endswith(".js")}
    assert sum(text.count("\n") for text in scripts.values()) < 1400
    for name, text in scripts.items():
        assert max(map(len, text.splitlines())) < 200, name
