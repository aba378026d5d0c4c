"""The source tree keeps its rules: one order of rooms, one home for each library, no private names across modules."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support import architecture
from tests.support.architecture import Module

SOURCE = Path(__file__).parents[1] / "src" / "imgproxy"


@pytest.fixture(scope="module")
def modules() -> tuple[Module, ...]:
    """Read the tree once for all checks."""
    return architecture.read_tree(SOURCE)


def test_every_module_is_looked_at(modules: tuple[Module, ...]) -> None:
    """Each source file is one module, also where two files have the same name."""
    assert [module.path for module in modules] == [
        path.relative_to(SOURCE).as_posix() for path in sorted(SOURCE.rglob("*.py"))
    ]


@pytest.mark.parametrize("check", architecture.CHECKS, ids=lambda check: check.__name__)
def test_the_tree_keeps_the_rule(check: Callable[[Sequence[Module]], list[str]], modules: tuple[Module, ...]) -> None:
    """The docstring of each check in `tests/support/architecture.py` says what it finds."""
    problems = check(modules)

    if problems:
        pytest.fail("\n".join(problems), pytrace=False)
