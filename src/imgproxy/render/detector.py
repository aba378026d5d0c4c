"""
The face detector: YuNet, run by OpenCV, on a small copy of a picture.

OpenCV is imported when the first picture asks for it: 0.2 s and 80 MB in this process. A look then takes 20 ms of CPU.
OpenCV cannot be interrupted, so it works in a thread, and a picture waits for it for a second at most. The thread then
ends by itself: its work has a fixed size.
"""

from __future__ import annotations

import math
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgproxy.errors import FacesUnavailable
from imgproxy.workers.faces import FACES_MAX, Face

if TYPE_CHECKING:
    from collections.abc import Iterable

# Once a process, to import OpenCV: 0.2 s, or some seconds from a cold disk.
LOAD_S: Final = 10.0
# From then to the last face.
LOOK_S: Final = 1.0
# In photographs faces got 0.87 and more, a headlamp 0.63. OpenCV's own demonstration takes 0.9, and misses profiles.
CONFIDENCE: Final = 0.7
# Of two boxes that overlap by more than this (intersection over union), the less certain one goes: OpenCV's default.
OVERLAP: Final = 0.3


@dataclass(slots=True)
class _Look:
    """One look at a picture, in its thread: the result, or why there is none."""

    faces: tuple[Face, ...] | None = None
    error: Exception | None = None
    is_loaded: threading.Event = field(default_factory=threading.Event)


def find_faces(pixels: bytes, width_px: int, height_px: int, model: str, *, look_s: float = LOOK_S) -> tuple[Face, ...]:
    """
    Return the faces of a picture, the largest first, at most FACES_MAX.

    Args:
        pixels: H x W x 3 bytes of sRGB.
        width_px: W, at most `params.faces.SIDE_PX`.
        height_px: H, the same.
        model: the file of the model.
        look_s: time that this may take, when OpenCV is imported.

    Raises:
        FacesUnavailable: OpenCV cannot be loaded or fails, or it took longer.
    """
    look = _Look()
    thread = threading.Thread(target=_run, args=(look, pixels, width_px, height_px, model), daemon=True)
    thread.start()
    look.is_loaded.wait(LOAD_S)
    thread.join(look_s)
    if look.faces is not None:
        return look.faces
    raise FacesUnavailable from (look.error or TimeoutError(f"the detector took more than {look_s:g} s"))


def _run(look: _Look, pixels: bytes, width_px: int, height_px: int, model: str) -> None:
    try:
        import cv2  # noqa: F401, PLC0415 - it is large, and most services never need it

        look.is_loaded.set()
        look.faces = _detect(pixels, width_px, height_px, model)
    except Exception as error:
        look.error = error
        look.is_loaded.set()


def _detect(pixels: bytes, width_px: int, height_px: int, model: str) -> tuple[Face, ...]:
    import cv2  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    cv2.setNumThreads(1)  # each core has a render process of its own
    image = np.frombuffer(pixels, np.uint8).reshape(height_px, width_px, 3)[:, :, ::-1]  # OpenCV wants BGR
    detector = cv2.FaceDetectorYN.create(model, "", (width_px, height_px), CONFIDENCE, OVERLAP, FACES_MAX)
    rows = detector.detect(np.ascontiguousarray(image))[1]
    numbers = [[float(number) for number in row] for row in (rows if rows is not None else ())]
    # Pictures a pixel wide have given boxes that are infinite.
    return _sorted(_as_face(row, width_px, height_px) for row in numbers if all(map(math.isfinite, row)))


def _as_face(row: list[float], width_px: int, height_px: int) -> Face:
    """Return a face of a row: x, y, width and height of the box, ten numbers of landmarks, the confidence."""
    left, top = max(0.0, row[0]), max(0.0, row[1])
    right, bottom = min(float(width_px), row[0] + row[2]), min(float(height_px), row[1] + row[3])
    across, down = (right - left) / width_px, (bottom - top) / height_px
    return Face(left / width_px, top / height_px, across, down, min(1.0, row[14]))


def _sorted(faces: Iterable[Face]) -> tuple[Face, ...]:
    """Sort by size. A box that lies outside the picture has none left, and goes."""
    visible = [face for face in faces if face.width > 0.001 and face.height > 0.001]
    return tuple(sorted(visible, key=lambda face: face.width * face.height, reverse=True)[:FACES_MAX])


def main() -> None:
    """Try the detector, for `imgproxy check`: look at a grey picture. The model is the first argument."""
    find_faces(bytes([128]) * 64 * 64 * 3, 64, 64, sys.argv[1], look_s=10.0)


if __name__ == "__main__":
    main()
