"""A row of the benchmark: figures by rounds, goals, and notes for readers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.stats import Spread, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.bench import Bench


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured thing: a value for each round."""

    name: str
    unit: str
    rounds: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        """Return median and deviation over the rounds."""
        return spread(self.rounds)


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal with its bound. `value` is None if the row could not be measured; then the goal is missed."""

    name: str
    value: float | None
    bound: float
    is_at_least: bool
    unit: str = "x"

    @property
    def is_met(self) -> bool:
        """Whether the goal is met."""
        if self.value is None:
            return False
        return self.value >= self.bound if self.is_at_least else self.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.is_at_least else "<="
        found = "not measured" if self.value is None else f"{self.value:.3g}"
        return f"{self.name}: {found} (goal {sign} {self.bound:g} {self.unit})"


@dataclass(slots=True)
class Result:
    """A row as measured."""

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def figure(self, name: str, unit: str, rounds: Sequence[float]) -> Figure:
        """Add a figure and return it."""
        found = Figure(name, unit, tuple(rounds))
        self.figures.append(found)
        return found

    def at_least(self, name: str, value: float | None, bound: float, unit: str = "x") -> None:
        """Add a goal: the value is at least the bound."""
        self.goals.append(Goal(name, value, bound, is_at_least=True, unit=unit))

    def at_most(self, name: str, value: float | None, bound: float, unit: str = "x") -> None:
        """Add a goal: the value is at most the bound."""
        self.goals.append(Goal(name, value, bound, is_at_least=False, unit=unit))

    @property
    def is_met(self) -> bool:
        """Whether every goal is met."""
        return all(goal.is_met for goal in self.goals)

    def as_json(self) -> dict[str, Any]:
        """Return the row as it is written to the results."""
        return {
            "name": self.name,
            "title": self.title,
            "is_met": self.is_met,
            "figures": [
                {"name": item.name, "unit": item.unit, "rounds": list(item.rounds)} | asdict(item.spread)
                for item in self.figures
            ],
            "goals": [asdict(goal) | {"is_met": goal.is_met} for goal in self.goals],
            "notes": self.notes,
            "facts": self.facts,
        }


@dataclass(frozen=True, slots=True)
class Row:
    """A row that can be run: its name on the command line, its title, and the function that measures it."""

    name: str
    title: str
    measure: Callable[[Bench, Result], None]
