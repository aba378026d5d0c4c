"""What `q` means in each format."""

from __future__ import annotations

from imgproxy.params.plan import Format


def encoder_quality(q: int, wanted: Format) -> int:
    """Return the encoder's own number for a `q` of 0-100."""
    return max(1, q)
