"""
Stand-ins: a larger variant that is already there, for when the one asked for cannot be made in time.

Two plans that differ in nothing but their width are the same picture in two sizes, and a browser scales what it gets to
the size the page gives it. So while every render process is busy, a reader sees the picture and not an error; the
answer is short-lived, and the right size is made from the original when there is room again. Where the larger one can
be reduced in a fraction of what that will take, the reader gets the size at once, in pixels that were encoded twice.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from struct import Struct
from typing import TYPE_CHECKING, Final

from imgproxy.admission.cost import reduction_units
from imgproxy.params.plan import Px, RenderPlan, Resize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproxy.cache.entry import VariantFacts

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

    def larger(self, key_hash: str, plan: RenderPlan) -> Iterator[tuple[int, str]]:
        """The widths in pixels and the digests of plans for the same picture in larger sizes, the nearest first."""
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
                yield found_px, digest.hex()


def reduction(plan: RenderPlan, larger: VariantFacts, asked_px: int, most_units: float) -> RenderPlan | None:
    """
    What to make of a larger variant, in place of the original, for the size of this plan; None to leave it as it is.

    `asked_px` is the width that the larger one was asked for in, `most_units` what this may cost. Everything but size
    and encoding is done in it already; what is given in pixels, as a border, comes out thinner, as it does where a
    browser scales. Where it is not as wide as it was asked for (the source is smaller, or turned), it is left, too.
    """
    if plan.family is None or larger.frames > 1 or larger.width_px != asked_px:
        return None
    cost_units = reduction_units(larger.content_type, larger.width_px * larger.height_px, plan)
    if cost_units is None or cost_units > most_units:
        return None
    return RenderPlan(resize=Resize(width=Px(plan.family[0])), output=plan.output)


def reduced_name(plan: RenderPlan, larger: VariantFacts) -> str:
    """The name of what is made for this plan from a larger variant, among variants: 32 hex digits, and no plan's."""
    # Of its bytes: they may be others where it was made from a decode that it shared.
    return hashlib.sha256(f"{plan.digest} of {larger.digest}".encode()).hexdigest()[:32]
