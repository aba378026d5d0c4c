"""Every setting is read by the code, and documented."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import imgproxy
from imgproxy.config.settings import Settings
from imgproxy.config.wording import section_class

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

SOURCE = Path(imgproxy.__file__).parent
REPOSITORY = Path(__file__).parents[2]
EXAMPLE = (REPOSITORY / "config.example.toml").read_text("utf-8")


def every_setting() -> list[tuple[str, str, FieldInfo]]:
    """Section, key and declaration of each."""
    sections = {name: section_class(info) for name, info in Settings.model_fields.items()}
    return [
        (name, key, setting)
        for name, section in sections.items()
        if section is not None
        for key, setting in section.model_fields.items()
    ]


def attributes_read(tree: ast.AST) -> set[str]:
    """The names of all attributes that a module reads."""
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


def attributes_read_outside_config() -> set[str]:
    paths = [path for path in SOURCE.rglob("*.py") if "config" not in path.parts or path.name == "secrets.py"]
    return set().union(*(attributes_read(ast.parse(path.read_text("utf-8"))) for path in paths))


@pytest.fixture(scope="module")
def read() -> set[str]:
    return attributes_read_outside_config()


@pytest.mark.parametrize(
    ("section", "key", "setting"), every_setting(), ids=lambda item: item if isinstance(item, str) else ""
)
def test_a_setting_is_read_and_documented(read: set[str], section: str, key: str, setting: FieldInfo) -> None:
    """A module outside `config/` reads an attribute of its name, or `config/secrets.py`; the example describes it."""
    assert key in read, f"[{section}] {key}: no code reads it"
    lines = EXAMPLE.splitlines()
    found = [number for number, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{key} = ")]
    assert setting.description
    assert any(setting.description in lines[number - 1] for number in found)


def test_a_setting_that_no_code_reads_is_found() -> None:
    """An attribute that is only set, or a name in a text, is not a read of it."""
    tree = ast.parse('settings.cache.dir\nself.ghost = 1\nprint("ghost")\n')
    assert attributes_read(tree) == {"cache", "dir"}
