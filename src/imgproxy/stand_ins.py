"""
Stand-ins: a larger variant that is already there, for when the one asked for cannot be made in time.

Two plans that differ in nothing but their width are the same picture in two sizes, and a browser scales what it gets to
the size the page gives it. So while every render process is busy, a reader sees the picture and not an error; the
answer is short-lived, and the right size is made when there is room again.
"""

from __future__ import annotations

from collections import OrderedDict
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproxy.params.plan import RenderPlan

# Families remembered: about 350 bytes each, 1 kB at most.
FAMILIES_MAX = 16_384
# Widths remembered of a family: a srcset has about ten, and whoever counts widths up must not fill the memory.
WIDTHS_MAX = 32
# A stand-in more than this many times as wide would cost the reader more than the wait.
WIDEST_RATIO = 4.0
# A width in pixels and the digest of its plan: objects for them would take ten times as much.
_WIDTH: Final = Struct(">I16s")


class StandIns:
    """The widths of each picture that were made lately, in the order of their making."""

    def __init__(self) -> None:
        # By key hash and name of the family; the least recently used first.
        self._families: OrderedDict[str, bytes] = OrderedDict()

    def made(self, key_hash: str, plan: RenderPlan) -> None:
        """Remember that this plan's variant exists."""
        family = plan.family
        if family is None:
            return
        width_px, name = family
        made = _WIDTH.pack(width_px, bytes.fromhex(plan.digest))
        known = self._families.pop(key_hash + name, b"")
        kept = [known[at : at + _WIDTH.size] for at in range(0, len(known), _WIDTH.size)]
        if made in kept:
            kept.remove(made)  # what is made again counts as new
        self._families[key_hash + name] = b"".join((*kept, made)[-WIDTHS_MAX:])
        if len(self._families) > FAMILIES_MAX:
            self._families.popitem(last=False)

    def larger(self, key_hash: str, plan: RenderPlan) -> Iterator[str]:
        """The digests of plans for the same picture in larger sizes, the nearest first."""
        family = plan.family
        if family is None:
            return
        width_px, name = family
        widths = self._families.get(key_hash + name)
        if widths is None:
            return
        self._families.move_to_end(key_hash + name)
        for found_px, digest in sorted(_WIDTH.iter_unpack(widths)):
            if width_px < found_px <= width_px * WIDEST_RATIO:
                yield digest.hex()
