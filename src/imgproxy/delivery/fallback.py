"""
Fallback variants: a larger variant that is cached answers when the right one cannot be made in time.

Two plans that differ only in width make the same picture in two sizes, and a browser scales the larger one down. So in
an overload a reader sees the picture, not an error. The answer is kept for a short time only; then the right size is
asked for again.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import starmap
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.entry import Found, Provenance
    from imgproxy.params.plan import RenderPlan

# Pictures whose widths are remembered. Each takes about 350 bytes, at most 1 kB.
PICTURES_MAX: Final = 16_384
# Widths of a picture. A srcset has about ten. A client that asks for every width must not fill the memory.
WIDTHS_MAX: Final = 32
# A variant that is wider than this many times the wanted width takes longer to load than the wait.
WIDEST_RATIO: Final = 4.0
# A width in pixels and the digest of its plan. As Python objects they would take ten times the memory.
_WIDTH: Final = Struct(">I16s")


class Fallback:
    """Remembers which widths of each picture were made."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        # By key hash and family (all of the plan but its width); the least recently used first.
        self._widths: OrderedDict[str, bytes] = OrderedDict()

    def remember(self, key_hash: str, plan: RenderPlan) -> None:
        """Remember that the variant of this plan was made."""
        if plan.family is None:
            return
        width_px, family = plan.family
        made = (width_px, bytes.fromhex(plan.digest))
        known = self._widths.pop(key_hash + family, b"")
        kept = list(_WIDTH.iter_unpack(known))
        if made in kept:
            kept.remove(made)
        self._widths[key_hash + family] = b"".join(starmap(_WIDTH.pack, (*kept, made)[-WIDTHS_MAX:]))
        if len(self._widths) > PICTURES_MAX:
            self._widths.popitem(last=False)

    async def find(self, source: Provenance, plan: RenderPlan) -> Found | None:
        """Find the nearest larger variant of the same picture that is still cached."""
        for digest in self.larger(source.key_hash, plan):
            found = await self._cache.find(source, digest)
            if found is not None:
                return found
        return None

    def larger(self, key_hash: str, plan: RenderPlan) -> Iterator[str]:
        """Yield the digests of plans for the same picture in larger sizes, the nearest first."""
        if plan.family is None:
            return
        width_px, family = plan.family
        widths = self._widths.get(key_hash + family)
        if widths is None:
            return
        self._widths.move_to_end(key_hash + family)
        for found_px, digest in sorted(_WIDTH.iter_unpack(widths)):
            if width_px < found_px <= width_px * WIDEST_RATIO:
                yield digest.hex()
