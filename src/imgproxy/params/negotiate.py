"""
What the request headers mean for an image: the formats that the client accepts, and the client hints.

`Accept` has three classes, for the three answers that there can be. So a cache in front that keys on the class has
three answers for a URL, not one for each of the hundreds of `Accept` headers that browsers send.

Headers are reduced to their meaning before anything is remembered: strangers can send 32 kB in each.
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

# Browsers send at most 150 characters, office programs some 400. A longer Accept counts as none, and is not parsed.
ACCEPT_MAX_CHARS: Final = 512
_MAX_DPR: Final = 5.0
_MAX_WIDTH_PX: Final = 8192


class AcceptClass(StrEnum):
    """The best format that a client accepts."""

    AVIF = "avif"
    WEBP = "webp"
    LEGACY = "legacy"


@dataclass(frozen=True, slots=True)
class ClientHeaders:
    """What the request headers mean for a plan. `dpr` and `width_px` (device pixels) are None without a valid hint."""

    accept: AcceptClass = AcceptClass.LEGACY
    saves_data: bool = False
    dpr: float | None = None
    width_px: int | None = None


def read_headers(
    accept: str | None = None, *, save_data: str | None = None, dpr: str | None = None, width: str | None = None
) -> ClientHeaders:
    """Reduce headers to their meaning. `dpr`: Sec-CH-DPR, else DPR; `width`: Sec-CH-Width, else Width."""
    return ClientHeaders(accept_class(accept), wants_less_data(save_data), hinted_dpr(dpr), hinted_width_px(width))


def accept_class(accept: str | None) -> AcceptClass:
    """
    Return the class of an `Accept` header.

    A format counts if its own media type is there with q above 0. `*/*` and `image/*` do not count, as browsers that
    know neither format send them, too. A header of more than ACCEPT_MAX_CHARS characters counts as none.
    """
    return _class_of(accept) if accept and len(accept) <= ACCEPT_MAX_CHARS else AcceptClass.LEGACY


@lru_cache(maxsize=1024)
def _class_of(accept: str) -> AcceptClass:
    accepted = {name for name, weight in map(_media_range, accept.lower().split(",")) if weight > 0}
    if "image/avif" in accepted:
        return AcceptClass.AVIF
    return AcceptClass.WEBP if "image/webp" in accepted else AcceptClass.LEGACY


def wants_less_data(save_data: str | None) -> bool:
    """Tell whether `Save-Data` is on (token `on`, Save Data API)."""
    return save_data is not None and save_data.split(";")[0].strip().lower() == "on"


def hinted_dpr(dpr: str | None) -> float | None:
    """Return the device pixel ratio of a header, at most 5; None without a valid one."""
    value = to_number(dpr) if dpr else None
    return min(value, _MAX_DPR) if value and value > 0 else None


def hinted_width_px(width: str | None) -> int | None:
    """Return the width of a header in device pixels, at most 8192; None without a valid one."""
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
