"""The watch over the fence: answers that outlive what purges wait for are cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgproxy.cluster.fence import Fence
from imgproxy.cluster.lease import Lease
from imgproxy.cluster.log import Position
from imgproxy.cluster.watch import FenceWatch
from tests.support.clock import LeaseClock

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

LEASE_S, PROOF_S, FORGET_S = 10.0, 2.0, 600.0
PLACE = Position("h", 1)


class Sending:
    """Answers that are being sent, and the origin, which proves all of their keys at once."""

    def __init__(self) -> None:
        self.keys = {"a"}
        self.fence: Fence | None = None
        self.cuts = 0

    def key_hashes(self) -> Collection[str]:
        return set(self.keys)

    def prove(self, key_hash: str) -> None:
        assert self.fence is not None
        self.fence.proved(key_hash, self.fence.now_s())

    def cut_unless(self, may_go_on: Callable[[str], bool]) -> int:
        cut = {key for key in self.keys if not may_go_on(key)}
        self.keys -= cut
        self.cuts += len(cut)
        return len(cut)


class Watched:
    """A watch over a node that has renewed its lease once, now, and has sent an answer since."""

    def __init__(self, proof_s: float = PROOF_S) -> None:
        self.clock = LeaseClock()
        self.began_s = self.clock.now_s()
        self.lease = Lease(LEASE_S)
        fence = Fence(
            self.lease, proof_s=proof_s, forget_s=FORGET_S, now_s=self.clock.now_s, share=lambda _least, most: most
        )
        self.sending = Sending()
        self.sending.fence = fence
        self.watch = FenceWatch(
            fence, self.clock, lead_s=3.0, proof_s=proof_s, under_way=self.sending, cause=lambda: "of a test"
        )
        self.renew()

    def renew(self) -> None:
        self.lease.renew(self.clock.now_s(), PLACE, PLACE)
        self.watch.look()

    def look_until(self, after_s: float) -> None:
        """Look whenever the watch wants to, until so many seconds after the start."""
        end_s = self.began_s + after_s
        while (next_s := self.watch.look()) < end_s:
            self.clock.stop_for(max(0.001, next_s - self.clock.now_s()))
        self.clock.stop_for(max(0.0, end_s - self.clock.now_s()))


def test_an_answer_goes_on_while_the_origin_proves_its_picture() -> None:
    """The node is fenced, and purges still wait for it."""
    here = Watched()
    here.look_until(FORGET_S / 2)

    assert here.sending.keys == {"a"}


@pytest.mark.parametrize("here", [Watched(proof_s=0.0), Watched()], ids=["no proof time", "forgotten"])
def test_an_answer_is_cut_when_purges_no_longer_wait_for_its_node(here: Watched) -> None:
    """Nobody would know of it any more."""
    here.look_until(FORGET_S)

    assert here.sending.keys == set()


def test_an_answer_that_begins_after_that_is_not_cut() -> None:
    """The origin was asked for it alone. It is cut no sooner than the node was current again."""
    here = Watched()
    here.look_until(FORGET_S)
    here.sending.keys = {"b"}
    here.watch.look()
    assert here.sending.keys == {"b"}

    here.renew()
    here.began_s = here.clock.now_s()
    here.look_until(FORGET_S)
    assert here.sending.keys == set()
