"""What `imgproxy check` finds: a line for each try, the exit code, and the same as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from imgproxy.cli.console import console, marked

if TYPE_CHECKING:
    from collections.abc import Iterable


class Level(IntEnum):
    """How bad a finding is. The worst one decides."""

    GOOD = 0
    NOTICE = 1  # it works, and an operator may want something else
    BROKEN = 2  # something that the configuration names does not work
    INVALID = 3  # `serve` would not start with this configuration


_MARKS = {
    Level.GOOD: ("✓", "green"),
    Level.NOTICE: ("!", "yellow"),
    Level.BROKEN: ("✗", "red"),
    Level.INVALID: ("✗", "red"),
}
_EXIT_CODES = {Level.BROKEN: 1, Level.INVALID: 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `part` is what was tried, such as `origin`."""

    part: str
    level: Level
    text: str

    def as_json(self) -> dict[str, Any]:
        """Return the public form."""
        return {"part": self.part, "level": self.level.name.lower(), "text": self.text}


def show(finding: Finding) -> None:
    """Print the line with its mark."""
    mark, colour = _MARKS[finding.level]
    console.print(marked(mark, colour, finding.text), soft_wrap=True)


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0: all works; 1: something does not; 2: the configuration is not valid."""
    worst = max((finding.level for finding in findings), default=Level.GOOD)
    return _EXIT_CODES.get(worst, 0)
