"""SSIM of two pictures, in NumPy. Source: Wang, Bovik, Sheikh, Simoncelli: Image quality assessment (2004)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyvips

if TYPE_CHECKING:
    from numpy.typing import NDArray

# (K1 L)^2 and (K2 L)^2 with the paper's K1 = 0.01, K2 = 0.03 and L = 255.
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
SIGMA, RADIUS = 1.5, 5


def luma(data: bytes) -> NDArray[np.float64]:
    """Return the luma (BT.601) of an encoded picture, H x W, 0-255."""
    pixels = pyvips.Image.new_from_buffer(data, "").colourspace("srgb").numpy().astype(np.float64)
    return np.asarray(pixels[..., :3] @ np.array([0.299, 0.587, 0.114]))


def ssim(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the mean SSIM over an 11 x 11 Gaussian window of sigma 1.5. Raises ValueError for different shapes."""
    if one.shape != other.shape:
        raise ValueError(f"{one.shape} against {other.shape}")
    mean_one, mean_other = _blur(one), _blur(other)
    variance_one = _blur(one * one) - mean_one**2
    variance_other = _blur(other * other) - mean_other**2
    covariance = _blur(one * other) - mean_one * mean_other
    found = ((2 * mean_one * mean_other + C1) * (2 * covariance + C2)) / (
        (mean_one**2 + mean_other**2 + C1) * (variance_one + variance_other + C2)
    )
    return float(found.mean())


def _blur(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    taps = np.exp(-(np.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * SIGMA**2))
    taps /= taps.sum()
    width = 2 * RADIUS
    rows = sum(tap * plane[at : plane.shape[0] - width + at] for at, tap in enumerate(taps))
    columns = sum(tap * rows[:, at : plane.shape[1] - width + at] for at, tap in enumerate(taps))
    return np.asarray(columns)
