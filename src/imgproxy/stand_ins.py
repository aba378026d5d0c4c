"""
Stand-ins: a larger variant that is already there, for when the one asked for cannot be made in time.

Two plans that differ in nothing but their width are the same picture in two sizes, and a browser scales what it gets to
the size the page gives it. So while every render process is busy, a reader sees the picture and not an error; the
answer is short-lived, and the right size is made when there is room again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachetools import LRUCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproxy.params.plan import RenderPlan

# Families remembered: about 1 kB each, 5 kB at most.
FAMILIES_MAX = 20_000
# Widths remembered of a family: a srcset has about ten, and whoever counts widths up must not fill the memory.
WIDTHS_MAX = 32
# A stand-in more than this many times as wide would cost the reader more than the wait.
WIDEST_RATIO = 4.0


class StandIns:
    """The widths of each picture that were made lately, in the order of their making."""

    def __init__(self) -> None:
        self._families: LRUCache[tuple[str, str], dict[str, int]] = LRUCache(FAMILIES_MAX)

    def made(self, key_hash: str, plan: RenderPlan) -> None:
        """Remember that this plan's variant exists."""
        family = plan.family
        if family is None:
            return
        width_px, name = family
        widths = self._families.setdefault((key_hash, name), {})
        widths.pop(plan.digest, None)  # what is made again counts as new
        widths[plan.digest] = width_px
        if len(widths) > WIDTHS_MAX:
            del widths[next(iter(widths))]

    def larger(self, key_hash: str, plan: RenderPlan) -> Iterator[str]:
        """The digests of plans for the same picture in larger sizes, the nearest first."""
        family = plan.family
        if family is None:
            return
        width_px, name = family
        widths = self._families.get((key_hash, name), {})
        for digest, found_px in sorted(widths.items(), key=lambda item: item[1]):
            if width_px < found_px <= width_px * WIDEST_RATIO:
                yield digest
