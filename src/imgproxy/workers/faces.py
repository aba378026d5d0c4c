"""
The faces of an original, and their record.

A render process writes the record, once for an original; the cache keeps it like a variant. The edge reads it and sends
the faces with each job that needs them. A picture may have taken over the process that wrote a record, so it is checked
number by number.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from typing import Final

# More faces are no subject any more. It also bounds the record, to 5 kB.
FACES_MAX: Final = 50
# Parts of a side are kept to a hundred-thousandth: less than a pixel of any picture.
DIGITS: Final = 5

_NAMES: Final = ("left", "top", "width", "height", "confidence")


@dataclass(frozen=True, slots=True)
class Face:
    """A face: its box in parts of the upright picture's width and height (0-1), and the detector's confidence (0-1)."""

    left: float
    top: float
    width: float
    height: float
    confidence: float


def write_record(faces: tuple[Face, ...]) -> bytes:
    """Return the record of these faces."""
    found = [dict(zip(_NAMES, (round(part, DIGITS) for part in astuple(face)), strict=True)) for face in faces]
    return json.dumps({"faces": found}).encode()


def read_record(record: bytes) -> tuple[Face, ...]:
    """
    Return the faces of a record.

    Raises:
        ValueError: it is not a record, or one of another version.
    """
    try:
        found = [Face(**{name: float(face[name]) for name in _NAMES}) for face in json.loads(record)["faces"]]
    except (KeyError, TypeError) as exc:
        raise ValueError("not a face record") from exc
    if len(found) > FACES_MAX or not all(map(_is_inside, found)):
        raise ValueError("a face record with faces that no picture has")
    return tuple(found)


def _is_inside(face: Face) -> bool:
    is_positive = face.width > 0 and face.height > 0 and face.left >= 0 and face.top >= 0
    slack = 1 + 2 * 10**-DIGITS
    return is_positive and face.left + face.width <= slack and face.top + face.height <= slack and face.confidence <= 1
