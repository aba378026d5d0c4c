"""What a parameter of the URL is: the shape of one row of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from imgproxy.params.kinds import Reader

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Parameter(Generic[T]):
    """One parameter of the URL."""

    name: str
    read: Reader[T]
    expected: str  # completes "expected ...": the value's form and range
    effect: str  # one sentence for the documentation
    default: str = ""
    aliases: tuple[str, ...] = ()
    is_rendering: bool = True  # False: alone it leaves the original's bytes untouched
    has_base64: bool = True  # NAME64 is understood

    @property
    def names(self) -> tuple[str, ...]:
        """The name and its aliases."""
        return self.name, *self.aliases


# What several parameters expect, in words.
SIGNED_PERCENT: Final = "a number from -100 to 100"
PERCENT: Final = "a number from 0 to 100"
BOUND: Final = "a whole number from 1 to 8192"
SIZE: Final = "a whole number from 2 to 8192, or a fraction up to 1"
LENGTH: Final = "a whole number from 0 to 8192"
FLAG: Final = "true or false"
COLOR: Final = "a CSS colour name, or hex RGB, ARGB, RRGGBB or AARRGGBB"
ANGLE: Final = "degrees from 0 to 360"
RADII: Final = "one whole number from 0, or four from the top left clockwise"
