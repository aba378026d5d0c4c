"""Values of a plan that change how the picture looks: colours, tone, padding, border, mask, blend."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Colour:
    """sRGB 0-255 with alpha 0-255 (255 is opaque)."""

    red: int
    green: int
    blue: int
    alpha: int = 255

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The three colour bands."""
        return self.red, self.green, self.blue


TRANSPARENT_WHITE = Colour(255, 255, 255, 0)
WHITE = Colour(255, 255, 255)


@dataclass(frozen=True, slots=True)
class Adjust:
    """Tone, colour and style; 0 changes nothing."""

    brightness: float = 0.0
    contrast: float = 0.0
    exposure: float = 0.0
    gamma: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    vibrance: float = 0.0
    highlight: float = 0.0
    shadow: float = 0.0
    sharpen: float = 0.0
    unsharp: float = 0.0
    unsharp_radius: float = 2.5
    blur: float = 0.0
    pixellate_px: int = 0
    monochrome: Colour | None = None
    sepia: float = 0.0
    duotone: tuple[Colour, Colour] | None = None
    duotone_alpha: float = 100.0
    invert: bool = False
    enhance: bool = False  # auto=enhance


UNADJUSTED = Adjust()


@dataclass(frozen=True, slots=True)
class Sides:
    """A width per side, in device pixels."""

    top_px: int = 0
    right_px: int = 0
    bottom_px: int = 0
    left_px: int = 0


NO_SIDES = Sides()


@dataclass(frozen=True, slots=True)
class Border:
    """Painted over the edge of the picture. Radii: one, or four from the top left clockwise."""

    sides: Sides
    colour: Colour
    radius_px: tuple[int, ...] = ()
    inner_radius_px: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Mask:
    """An ellipse, or rounded corners; `radius_px` empty means a fifth of the smaller side."""

    shape: str  # ellipse | corners
    radius_px: tuple[int, ...] = ()
    background: Colour | None = None


@dataclass(frozen=True, slots=True)
class Blend:
    """A colour blended over the picture."""

    colour: Colour
    mode: str = "overlay"
    alpha: float = 100.0
