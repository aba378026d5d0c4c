"""When no node can break the promise of a purge any more."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgproxy.cluster.acknowledge import (
    Awaited,
    NodeState,
    Seen,
    awaited,
    can_break_until_s,
    judge,
    observe,
)
from imgproxy.cluster.lease import Lease
from imgproxy.cluster.log import Member, Position
from imgproxy.cluster.observer import LOST_RUN, Observer

OTHER = Member("b", "run-b", applied=0, renewals=1, lease_s=5.0, proof_s=2.0)
OWN = replace(OTHER, name="a", run="run-a")
SERVES = replace(OTHER, proof_s=None)


@pytest.mark.parametrize(
    ("member", "seen_s", "appended_s", "until_s"),
    [
        (OTHER, 100.0, 101.0, 105.0),  # its lease runs longer than a proof counts
        (OTHER, 100.0, 104.0, 106.0),  # a proof from just before the purge counts longer
        (OTHER, 10.0, 100.0, 102.0),  # long fenced, and proving
        (replace(OTHER, proof_s=0.0), 10.0, 100.0, 100.0),
        (SERVES, 10.0, 100.0, math.inf),
    ],
)
def test_a_node_can_break_a_promise_until_lease_and_proofs_have_run_out(
    member: Member, seen_s: float, appended_s: float, until_s: float
) -> None:
    """The later of both counts, not the sum."""
    assert can_break_until_s(Seen(member, seen_s), appended_s) == until_s


@pytest.mark.parametrize(
    ("applied", "now_s", "state"),
    [
        ({"run-b": 7}, 0.0, NodeState.APPLIED),
        ({"run-b": 8}, 0.0, NodeState.APPLIED),
        ({"run-b": 6}, 104.9, NodeState.WAITING),
        ({"run-b": 6}, 105.0, NodeState.FENCED),
        ({}, 0.0, None),
    ],
)
def test_the_state_of_a_node(applied: dict[str, int], now_s: float, state: NodeState | None) -> None:
    """Applied by its report, fenced by the clock, gone if the log no longer has it."""
    assert judge(Awaited("b", "run-b", 105.0), applied, 7, now_s) is state


def test_a_purge_waits_for_every_member_but_its_own_node() -> None:
    """A former run of the same node is another member."""
    former = replace(OWN, run="run-before")
    nodes = awaited([Seen(OWN, 0.0), Seen(former, 0.0), Seen(OTHER, 0.0)], "run-a", 0.0)

    assert [node.run for node in nodes] == ["run-before", "run-b"]


def test_only_a_change_of_its_renewals_begins_a_lease_anew() -> None:
    """What it has applied says nothing about its lease. A member is alive when its renewals have changed."""
    seen = observe({}, [OTHER], 100.0)
    seen = observe(seen, [replace(OTHER, applied=9)], 103.0)
    assert seen["run-b"].lease_ends_s == 105.0
    assert not seen["run-b"].is_alive

    seen = observe(seen, [replace(OTHER, renewals=2)], 104.0)

    assert seen["run-b"].lease_ends_s == 109.0
    assert seen["run-b"].is_alive
    assert observe(seen, [], 104.0) == {}


seconds = st.floats(0, 60)


@given(waits_s=st.tuples(seconds, seconds, seconds, seconds), proved_s=seconds, proof_s=st.floats(0, 10))
def test_no_node_answers_with_something_old_after_the_acknowledgement(
    waits_s: tuple[float, float, float, float], proved_s: float, proof_s: float
) -> None:
    """Whenever it renewed and proved before the purge, and whenever that was seen after: it has stopped by then."""
    renewed_s = waits_s[0]  # the renewal was sent
    commit_s = renewed_s + waits_s[1]  # and committed
    appended_s = commit_s + waits_s[2]  # the purge was, after it
    seen_s = appended_s + waits_s[3]  # the first look after the purge sees the renewal
    proved_s = min(proved_s, appended_s)  # a proof from before the purge
    member = replace(OTHER, proof_s=proof_s)
    lease = Lease(member.lease_s)
    lease.renew(renewed_s, Position("h", 6), Position("h", 6))

    until_s = can_break_until_s(Seen(member, seen_s), appended_s)

    assert lease.current_until_s <= until_s
    assert proved_s + proof_s <= until_s


@given(looks=st.lists(st.tuples(st.booleans(), st.floats(0.1, 3)), max_size=10))
def test_an_observer_never_ends_a_lease_before_the_node_does(looks: list[tuple[bool, float]]) -> None:
    """Looks at any times, with renewals in between."""
    observer, now_s, renewals, lease = Observer(OWN, 600.0), 0.0, 1, Lease(OTHER.lease_s)
    lease.renew(now_s, Position("h", 0), Position("h", 0))
    observer.look([OWN, OTHER], now_s)
    for is_renewed, wait_s in looks:
        now_s += wait_s
        if is_renewed:
            renewals += 1
            lease.renew(now_s - wait_s / 2, Position("h", 0), Position("h", 0))
        observer.look([OWN, replace(OTHER, renewals=renewals)], now_s)
        (node,) = observer.awaited(now_s)

        assert node.until_s >= lease.current_until_s


def test_members_of_a_lost_history_are_still_reckoned_with() -> None:
    """Those that were known, and one that nobody knows. Nothing that they report counts."""
    observer = Observer(OWN, 600.0)
    assert not observer.renewed("h1", [OWN, OTHER], 100.0, is_tail_lost=False)
    assert observer.renewed("h2", [OWN], 101.0, is_tail_lost=False)

    assert {node.run for node in observer.awaited(101.0)} == {"run-b", LOST_RUN}
    assert observer.applied()["run-b"] < 0
    observer.renewed("h2", [OWN, OTHER], 102.0, is_tail_lost=False)
    assert observer.applied()["run-b"] == 0
    observer.renewed("h2", [OWN, OTHER], 701.0, is_tail_lost=False)
    assert {node.run for node in observer.awaited(701.0)} == {"run-b"}


def test_a_look_at_the_wrong_log_does_not_hide_the_members_of_the_right_one() -> None:
    """It saw the new history before a renewal said so."""
    observer = Observer(OWN, 600.0)
    observer.renewed("h1", [OWN, OTHER], 100.0, is_tail_lost=False)
    observer.look([OWN], 100.5)
    observer.renewed("h2", [OWN], 101.0, is_tail_lost=False)

    assert "run-b" in {node.run for node in observer.awaited(101.0)}


def test_a_member_that_stands_still_is_forgotten_and_this_node_never() -> None:
    """After `forget_s`, by the clock of the observer."""
    observer = Observer(OWN, 600.0)
    observer.look([OWN, OTHER], 0.0)

    assert observer.forgettable(599.9) == []
    assert observer.forgettable(600.0) == [OTHER]


def test_a_namesake_is_noticed_when_it_lives() -> None:
    """A former run of this node stands still, and is none."""
    observer, twin = Observer(OWN, 600.0), replace(OWN, run="run-twin")
    observer.look([OWN, twin], 0.0)
    assert observer.namesake(1.0) is None

    observer.look([OWN, replace(twin, renewals=2)], 2.0)

    assert observer.namesake(3.0) is not None
    assert observer.namesake(8.0) is None
