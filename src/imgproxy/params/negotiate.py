"""
What a client's headers mean for an image: the formats it accepts, and the client hints a URL asks to follow.

Only what changes the answer is told apart. Of all `Accept` headers there are three classes, so a cache in front that
keys on the class, and our own memo, hold three answers for a URL and not hundreds.
Source: RFC 9110 section 12.5.1 (Accept), RFC 8942 (client hints), the imgix parameter `ch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from imgproxy.params.kinds import to_number

VARY_ACCEPT: Final = "Accept"
VARY_DPR: Final = ("Sec-CH-DPR", "DPR")
VARY_WIDTH: Final = ("Sec-CH-Width", "Width")
VARY_SAVE_DATA: Final = "Save-Data"

_MAX_DPR: Final = 5.0
_MAX_WIDTH_PX: Final = 8192


class AcceptClass(StrEnum):
    """The best format a client says it can show."""

    AVIF = "avif"
    WEBP = "webp"
    LEGACY = "legacy"


@dataclass(frozen=True, slots=True)
class ClientHeaders:
    """The request headers a rendering may depend on, as received, or None."""

    accept: str | None = None
    save_data: str | None = None
    dpr: str | None = None  # Sec-CH-DPR, else DPR
    width: str | None = None  # Sec-CH-Width, else Width: device pixels


@lru_cache(maxsize=1024)
def accept_class(accept: str | None) -> AcceptClass:
    """
    Return the class of an `Accept` header.

    A format counts where its media range is named with q above 0; `*/*` and `image/*` say nothing about it, since
    browsers that know neither format send them too.
    """
    if not accept:
        return AcceptClass.LEGACY
    accepted = {name for name, weight in map(_media_range, accept.lower().split(",")) if weight > 0}
    if "image/avif" in accepted:
        return AcceptClass.AVIF
    return AcceptClass.WEBP if "image/webp" in accepted else AcceptClass.LEGACY


def wants_less_data(save_data: str | None) -> bool:
    """Tell whether `Save-Data` is on (Save Data API: the token `on`)."""
    return save_data is not None and save_data.split(";")[0].strip().lower() == "on"


def hinted_dpr(dpr: str | None) -> float | None:
    """Return the device pixel ratio a client states, at most 5; None where it states none."""
    value = to_number(dpr) if dpr else None
    return min(value, _MAX_DPR) if value and value > 0 else None


def hinted_width_px(width: str | None) -> int | None:
    """Return the width in device pixels a client states, at most 8192; None where it states none."""
    value = to_number(width) if width else None
    return min(round(value), _MAX_WIDTH_PX) if value and value >= 1 else None


def _media_range(part: str) -> tuple[str, float]:
    name, *options = part.split(";")
    weight = 1.0
    for option in options:
        key, _, value = option.partition("=")
        if key.strip() == "q":
            weight = to_number(value) or 0.0
    return name.strip(), weight
