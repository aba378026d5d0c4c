"""The lease of a node, counted on the safe side; and the fence that it opens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgproxy.cluster.fence import Fence
from imgproxy.cluster.lease import MARGIN, Lease
from imgproxy.cluster.log import Position

LEASE_S, PROOF_S, FORGET_S = 10.0, 2.0, 600.0
USED_S = LEASE_S * (1 - MARGIN)


def at(number: int, history: str = "h") -> Position:
    return Position(history, number)


@pytest.mark.parametrize(
    ("needed", "has", "is_current"),
    [
        (at(0), at(0), True),
        (at(7), at(7), True),
        (at(7), at(8), True),  # its own line, written since
        (at(7), at(6), False),
        (at(7), at(9, "other"), False),
    ],
)
def test_a_node_is_current_when_it_has_what_its_renewal_reported(
    needed: Position, has: Position, is_current: bool
) -> None:
    """And only in the same history."""
    lease = Lease(LEASE_S)
    lease.renew(100.0, needed, has)

    assert lease.current_until_s == (pytest.approx(100.0 + USED_S) if is_current else float("-inf"))


def test_a_renewal_with_new_lines_takes_nothing_from_the_lease_that_runs() -> None:
    """The new lease begins when the lines are applied."""
    lease = Lease(LEASE_S)
    lease.renew(100.0, at(1), at(1))
    lease.renew(103.0, at(2), at(1))
    assert lease.current_until_s == pytest.approx(100.0 + USED_S)

    lease.advance(at(2))

    assert lease.current_until_s == pytest.approx(103.0 + USED_S)


def test_after_its_end_only_a_new_renewal_makes_a_node_current() -> None:
    """Lines that are applied late do not."""
    lease = Lease(LEASE_S)
    lease.renew(100.0, at(2), at(2))
    lease.end()
    lease.advance(at(3))
    assert lease.current_until_s == float("-inf")

    lease.renew(101.0, at(3), at(3))

    assert lease.current_until_s == pytest.approx(101.0 + USED_S)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_a_lease_never_outlives_a_renewal_whose_lines_are_applied(renewals: list[tuple[float, int, int]]) -> None:
    """Whatever the order of renewals and lines."""
    lease, allowed_s, has = Lease(LEASE_S), float("-inf"), 0
    for sent_s, head, applied in renewals:
        has = max(has, applied)
        lease.renew(sent_s, at(head), at(has))
        if has >= head:
            allowed_s = max(allowed_s, sent_s + LEASE_S)

        assert lease.current_until_s <= allowed_s


class Fenced:
    """A fence with a clock that the test sets. A proof counts for half of `proof_s`."""

    def __init__(self, *, proof_s: float = PROOF_S) -> None:
        self.now_s = 0.0
        self.lease = Lease(LEASE_S)
        self.lease.renew(0.0, at(0), at(0))
        self.fence = Fence(
            self.lease, proof_s=proof_s, forget_s=FORGET_S, now_s=lambda: self.now_s, share=lambda _least, _most: 0.5
        )

    def at(self, now_s: float) -> Fence:
        self.now_s = now_s
        return self.fence


def test_a_current_node_needs_no_proof() -> None:
    """Until its lease has run out."""
    here = Fenced()

    assert here.at(USED_S - 0.1).may_begin(["a"], 0.0)
    assert not here.at(USED_S).may_begin(["a"], 0.0)


def test_a_proof_counts_from_before_it_was_asked_for() -> None:
    """For its share of `proof_s`, also if the request came later."""
    here = Fenced()
    here.at(50.0).proved("a", 49.5)

    assert here.at(50.4).may_begin(["a"], 50.3)
    assert not here.at(50.5).may_begin(["a"], 49.0)


def test_every_original_of_an_answer_has_to_be_proved() -> None:
    """The watermark's, too."""
    here = Fenced()
    here.at(50.0).proved("a", 50.0)
    assert not here.fence.may_begin(["a", "mark"], 50.0)
    here.fence.proved("mark", 50.0)
    assert here.fence.may_begin(["a", "mark"], 50.0)


@pytest.mark.parametrize("here", [Fenced(proof_s=0.0), Fenced()], ids=["no proof time", "forgotten"])
def test_a_node_that_nobody_waits_for_needs_a_proof_from_after_the_request(here: Fenced) -> None:
    """However young a proof is, it must have begun after the request came."""
    now_s = FORGET_S
    here.at(now_s).proved("a", now_s - 0.1)

    assert not here.fence.may_begin(["a"], now_s)
    assert here.fence.may_begin(["a"], now_s - 0.2)
    assert not here.fence.shares_answers()


def test_a_node_that_never_renewed_has_no_time_for_proofs() -> None:
    """No purge waits for a node that the log does not know."""
    fence = Fence(Lease(LEASE_S), proof_s=PROOF_S, forget_s=FORGET_S, now_s=lambda: 5.0)

    assert not fence.has_window()


def test_an_older_proof_takes_nothing_from_a_younger_one() -> None:
    """They may end in another order than they began."""
    here = Fenced()
    here.at(50.0).proved("a", 50.0)
    here.fence.proved("a", 40.0)

    assert here.fence.may_begin(["a"], 50.0)


def test_a_node_that_leaves_serves_nothing_any_more() -> None:
    """Neither by its lease, nor by a proof from before."""
    here = Fenced()
    here.at(1.0).proved("a", 1.0)
    here.fence.end()

    assert not here.fence.may_begin(["a"], 1.0)
