"""
The fence: whether an answer may begin with what is cached.

    current    yes
    fenced     only if the origin has proved each original of the answer within `proof_s`
    forgotten  only if the origin was asked after the request came. The others no longer wait for this node

A proof is as old as the moment before its request was sent. It is kept in memory: a restart proves everything again.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from typing import TYPE_CHECKING

from imgproxy.cluster.lease import MARGIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from imgproxy.cluster.lease import Lease

# About 150 bytes each.
PROOFS_MAX = 100_000
# A proof counts for this share of `proof_s`, at random, so that proofs of one moment do not all end in one.
COUNTED_SHARE = (0.7, 0.95)


class Fence:
    """Answers of this node, as far as its lease and its proofs allow them."""

    def __init__(
        self,
        lease: Lease,
        *,
        proof_s: float,
        forget_s: float,
        now_s: Callable[[], float],
        share: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`now_s` is the clock of the lease. `share(least, most)` chooses how much of `proof_s` a proof counts."""
        self.lease = lease
        self.now_s = now_s
        self._proof_s = proof_s
        self._counted_s = forget_s * (1 - MARGIN)
        self._share = share
        # By key hash: when the proof was begun, and until when it counts. The oldest proof first.
        self._proofs: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def is_open(self) -> bool:
        """Whether this node is current."""
        return self.now_s() < self.lease.current_until_s

    def has_window(self) -> bool:
        """
        Whether a proof counts for a while, because purges wait for this node.

        A node that has not renewed for `forget_s`, or never, may have been forgotten.
        """
        return self._proof_s > 0 and self.now_s() < self.lease.renewed_at_s + self._counted_s

    def proved(self, key_hash: str, began_s: float) -> None:
        """Note that the origin has proved a key's original. It was asked after `began_s`."""
        before = self._proofs.pop(key_hash, (-math.inf, -math.inf))
        until_s = began_s + self._proof_s * self._share(*COUNTED_SHARE)
        self._proofs[key_hash] = max(before, (began_s, until_s))
        if len(self._proofs) > PROOFS_MAX:
            self._proofs.popitem(last=False)

    def is_proved(self, key_hash: str, came_s: float) -> bool:
        """Whether a fenced node may answer with this key. The request came at `came_s`."""
        proof = self._proofs.get(key_hash)
        if proof is None:
            return False
        began_s, until_s = proof
        return self.now_s() < until_s if self.has_window() else began_s >= came_s

    def is_proved_until(self, key_hash: str, until_s: float) -> bool:
        """Whether the key's last proof still counts at this time."""
        return self._proofs.get(key_hash, (-math.inf, -math.inf))[1] >= until_s

    def end(self) -> None:
        """Let nothing be served any more but what is proved for each request: this node leaves."""
        self.lease.end()
        self.lease.renewed_at_s = -math.inf
        self._proofs.clear()

    def shares_answers(self) -> bool:
        """Whether a request may get an answer whose proof was begun before the request came."""
        return self.is_open() or self.has_window()

    def may_begin(self, key_hashes: Iterable[str], came_s: float) -> bool:
        """Whether an answer with bytes of these keys may begin now. The request came at `came_s`."""
        return self.is_open() or all(self.is_proved(key_hash, came_s) for key_hash in key_hashes)
