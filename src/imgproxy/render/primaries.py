"""
The primaries of an RGB space, and the matrices that follow from them. Pure.

Sources: SMPTE RP 177 (matrix from chromaticities); ICC.1:2022, annex E (Bradford's adaptation to D50).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Point = tuple[float, float]
Row = tuple[float, float, float]
Matrix = tuple[Row, Row, Row]

# ICC.1:2022, 7.2.16.
D50: Final[Row] = (0.9642, 1.0, 0.8249)

_BRADFORD: Final[Matrix] = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))

# The triangle of sRGB has an area of 0.11 in x and y. The matrices of known spaces have no value above 1.2.
_AREA_MIN: Final = 0.005
_XYZ_MAX: Final = 4.0


@dataclass(frozen=True, slots=True)
class Chromaticities:
    """The CIE 1931 x and y of the three primaries and of white."""

    name: str
    red: Point
    green: Point
    blue: Point
    white: Point

    @property
    def is_possible(self) -> bool:
        """Whether they form a triangle with white inside. A file may hold any numbers."""
        (a, b), (c, d), (e, f) = self.red, self.green, self.blue
        if abs((c - a) * (f - b) - (e - a) * (d - b)) < 2 * _AREA_MIN:
            return False
        try:
            matrix = to_xyz_d50(self)
        except ZeroDivisionError:
            return False
        return min(matrix[1]) > 0 and all(abs(value) <= _XYZ_MAX for row in matrix for value in row)

    def is_near(self, other: Chromaticities, slack: float) -> bool:
        """Whether no coordinate differs by more than `slack`."""
        pairs = zip(
            (*self.red, *self.green, *self.blue, *self.white),
            (*other.red, *other.green, *other.blue, *other.white),
            strict=True,
        )
        return all(abs(one - two) <= slack for one, two in pairs)


_D65: Final = (0.3127, 0.3290)
BT709: Final = Chromaticities("BT.709", (0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65)
BT2020: Final = Chromaticities("BT.2020", (0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65)


def to_xyz_d50(space: Chromaticities) -> Matrix:
    """Return the matrix from linear RGB to XYZ, adapted to D50 by Bradford's matrix. Raises ZeroDivisionError."""
    xyz = _transpose((_to_xyz(space.red), _to_xyz(space.green), _to_xyz(space.blue)))
    white = _to_xyz(space.white)
    scale = apply(invert(xyz), white)
    unadapted = multiply(xyz, _diagonal(scale))
    cones, wanted = apply(_BRADFORD, white), apply(_BRADFORD, D50)
    gains = (wanted[0] / cones[0], wanted[1] / cones[1], wanted[2] / cones[2])
    return multiply(invert(_BRADFORD), multiply(_diagonal(gains), multiply(_BRADFORD, unadapted)))


def to_bt709(space: Chromaticities) -> Matrix:
    """Return the matrix from linear RGB of a space to linear RGB of sRGB. White becomes white."""
    return multiply(invert(to_xyz_d50(BT709)), to_xyz_d50(space))


def luminance(space: Chromaticities) -> Row:
    """Return how much each primary adds to the luminance of white, which is 1."""
    return to_xyz_d50(space)[1]


def apply(matrix: Matrix, vector: Row) -> Row:
    """Return the product of a matrix and a column."""
    a, b, c = (sum(m * v for m, v in zip(row, vector, strict=True)) for row in matrix)
    return (a, b, c)


def multiply(first: Matrix, second: Matrix) -> Matrix:
    """Return the product of two matrices."""
    columns = _transpose(second)
    return _transpose((apply(first, columns[0]), apply(first, columns[1]), apply(first, columns[2])))


def invert(matrix: Matrix) -> Matrix:
    """Return the inverse, by cofactors. The determinant must not be 0."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    scale = 1 / _determinant(matrix)
    return (
        ((e * i - f * h) * scale, (c * h - b * i) * scale, (b * f - c * e) * scale),
        ((f * g - d * i) * scale, (a * i - c * g) * scale, (c * d - a * f) * scale),
        ((d * h - e * g) * scale, (b * g - a * h) * scale, (a * e - b * d) * scale),
    )


def _determinant(matrix: Matrix) -> float:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def _transpose(matrix: Matrix) -> Matrix:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    return ((a, d, g), (b, e, h), (c, f, i))


def _diagonal(values: Row) -> Matrix:
    return ((values[0], 0.0, 0.0), (0.0, values[1], 0.0), (0.0, 0.0, values[2]))


def _to_xyz(point: Point) -> Row:
    """Return the XYZ of a chromaticity with Y = 1."""
    x, y = point
    return (x / y, 1.0, (1 - x - y) / y)
