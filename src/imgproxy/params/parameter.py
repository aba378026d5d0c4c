"""One parameter of the URL: a row of the table in `imgproxy.params.table`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from imgproxy.params.kinds import Kind

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Parameter(Generic[T]):
    """Everything that is declared about a parameter. What it does with the plan is in `assemble`."""

    name: str
    kind: Kind[T]
    effect: str  # a sentence for the documentation
    default: str = ""  # for the documentation
    aliases: tuple[str, ...] = ()
    is_rendering: bool = True  # False: a URL with this parameter alone gets the original's bytes
    has_base64: bool = True  # NAME64 is understood
    adds_up: bool = False  # repeats, presets and defaults make one list; else the last one wins

    @property
    def names(self) -> tuple[str, ...]:
        """The name and its aliases."""
        return self.name, *self.aliases
