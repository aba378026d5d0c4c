"""Every error of the tree is used, and says what a client needs."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import imgproxy
from tests.support.errors import every_error

if TYPE_CHECKING:
    from imgproxy.errors import ImgproxyError

SOURCE = Path(imgproxy.__file__).parent


def names_used(tree: ast.AST) -> set[str]:
    """The names and attributes that a module reads; what it only imports is not among them."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }


@pytest.fixture(scope="module")
def used() -> set[str]:
    """The names that the code outside the lists of errors uses."""
    paths = [path for path in SOURCE.rglob("*.py") if path.name != "errors.py"]
    return set().union(*(names_used(ast.parse(path.read_text("utf-8"))) for path in paths))


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
def test_an_error_is_used(used: set[str], error: ImgproxyError) -> None:
    """Each class is raised, caught or derived from outside the lists."""
    assert type(error).__name__ in used


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
def test_an_error_has_a_status_a_code_a_title_and_a_sentence(error: ImgproxyError) -> None:
    """4xx or 5xx, a code of lower-case words, a short title, and a public sentence with all facts in it."""
    assert 400 <= error.status < 600
    assert all(word.isalpha() and word.islower() for word in error.code.split("_"))
    assert 0 < len(error.title) < 40
    assert error.public[0].isupper()
    assert error.public.endswith(".")
    assert error.public != error.title
    assert "{" not in error.public
    assert all(f"{fact}"[:4] in error.public for fact in error.facts().values())


def test_no_code_is_used_twice() -> None:
    """A script that reads the code knows the class."""
    codes = [error.code for error in every_error()]

    assert len(codes) == len(set(codes))
