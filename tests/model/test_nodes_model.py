"""
The guarantee as a model of three nodes: once a purge is acknowledged, no node begins an answer with old bytes.

"Old" are bytes that the node has fetched before the purge arrived, and that the origin has not confirmed to it since.
No node is still sending them either. A node that has reached neither log nor origin for long answers 503. When all is
well again, every purge is acknowledged, and no node is fenced.

Hypothesis chooses the order: what `test_purge_model` has, on each node, and lines that are cut or slow, processes that
are stopped, killed and restarted, disks that are copied, nodes that leave, a log that is trimmed, or restored.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from imgproxy.failpoints import Step
from tests.model.nodes_world import KEYS, NAMES, NodesWorld, NodeWay
from tests.model.planted_faults import FAULTS, WAYS
from tests.model.world import KEY, PLANS
from tests.support.memory_disk import memory_disk
from tests.support.slow import slow_but

if TYPE_CHECKING:
    from collections.abc import Iterator

NODE = st.sampled_from(NAMES)
OTHER = st.integers(1, len(NAMES) - 1)
# By number: a plan's text is long.
PLAN = st.integers(0, len(PLANS) - 1)
UNMARKED = st.integers(0, 1)
HELD = st.one_of(st.none(), st.sampled_from(["origin", "render", "before-fetch", "after-fetch", "before-response"]))
HELD_HERE = st.sampled_from([None, None, "recorded", Step.AFTER_RECORD, Step.AFTER_APPEND, Step.BEFORE_ACKNOWLEDGE])
HELD_THERE = st.sampled_from([None, None, "recorded", Step.BEFORE_APPLY, Step.BEFORE_REPORT])
# Less than a proof counts, about a lease, more than a lease and a proof, and until a node is forgotten.
WAITS_S = (0.0, 0.7, 1.5, 2.2, 4.0, 5.5, 7.5, 40.0)
# The most examples that look for a planted fault.
PLANTED = 1_000
SLOW = st.sampled_from(["renew", "renew", "append", "read", "report", "members"])


def after(name: str, steps: int) -> str:
    """Return another node."""
    return NAMES[(NAMES.index(name) + steps) % len(NAMES)]


class AwayMachine(RuleBasedStateMachine):
    """What all of this is about, a few steps in one: a purge while something is wrong with a node that has the picture."""

    way: type[NodeWay] = NodeWay
    is_healed_at_end = True

    @initialize()
    def begin(self) -> None:
        # A purge costs two syncs of the journal, and nothing here is about power.
        self._directory = tempfile.TemporaryDirectory(dir=memory_disk())
        self._histories = 1
        self.world = NodesWorld(Path(self._directory.name), self.way)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if self.is_healed_at_end and not self.world.promises.violations and not self.world.failures:
                self.world.heal()
                self.promises_hold()
        finally:
            self.world.close()
            self._directory.cleanup()

    def replace(self, key: str) -> None:
        found = self.world.pictures[key]
        found.version += 1
        found.etag = f'"{found.version}"'

    def cut(self, name: str) -> None:
        self.world.cut_log(name, is_cut=True)

    @rule(name=NODE, other=OTHER)
    def purge_meets_an_answer(self, name: str, other: int) -> None:
        """The node is still sending the picture. It may report the line only when that has ended, or was cut."""
        self._purge_meets(name, other, is_slow=True, there=None)

    @rule(name=NODE, other=OTHER, is_slow=st.booleans(), there=HELD_THERE)
    def purge_meets_a_busy_node(self, name: str, other: int, is_slow: bool, there: str | None) -> None:
        """The node is held on its way to apply the line, or to report it."""
        self._purge_meets(name, other, is_slow=is_slow, there=there)

    def _purge_meets(self, name: str, other: int, *, is_slow: bool, there: str | None) -> None:
        world, elsewhere = self.world, after(name, other)
        world.request(name, PLANS[0], hold_at=None, is_slow=is_slow)
        self.replace(KEY)
        world.hold_elsewhere(there, but=elsewhere)
        world.purge(elsewhere, KEY)
        world.pass_time(0.7)
        world.request(name, PLANS[0], hold_at=None)

    @rule(name=NODE, other=OTHER, is_replaced=st.booleans())
    def update_meets_a_request(self, name: str, other: int, is_replaced: bool) -> None:
        """Both nodes have the picture. An event says that it may have changed."""
        world, elsewhere = self.world, after(name, other)
        world.request(elsewhere, PLANS[0], hold_at=None)
        world.request(name, PLANS[0], hold_at=None)
        if is_replaced:
            self.replace(KEY)
        world.webhook(elsewhere, "update")
        world.pass_time(0.7)
        world.request(name, PLANS[0], hold_at=None)

    @rule(name=NODE, other=OTHER, held_s=st.sampled_from([2.2, 4.0]), then_s=st.sampled_from([2.2, 3.0, 4.0]))
    def purge_after_a_slow_renewal(self, name: str, other: int, held_s: float, then_s: float) -> None:
        """The answer to the node's last renewal was slow. Then its line was cut."""
        world = self.world
        world.request(name, PLANS[0], hold_at=None)
        world.slow_log(name, "renew", is_answer=True)
        world.pass_time(held_s)
        world.release_log(name)
        world.pass_time(0.0)
        self.cut(name)
        self.replace(KEY)
        world.purge(after(name, other), KEY)
        world.pass_time(then_s)
        world.request(name, PLANS[0], hold_at=None)

    @rule(name=NODE, other=OTHER, away_s=st.sampled_from([7.5, 0.7]), then_s=st.sampled_from([0.0, 0.7, 2.2, 5.5]))
    def purge_while_cut_off(self, name: str, other: int, away_s: float, then_s: float) -> None:
        """The node is cut off from the log, and proves the picture shortly before the purge."""
        self._purge_after(name, other, away_s=away_s, then_s=then_s)

    @rule(name=NODE, other=OTHER, then_s=st.sampled_from([0.0, 0.7]))
    def purge_when_forgotten(self, name: str, other: int, then_s: float) -> None:
        """The same, but the others have forgotten the node, which is still sending the picture as well."""
        self.world.request(name, PLANS[1], hold_at=None, is_slow=True)
        self._purge_after(name, other, away_s=40.0, then_s=then_s)

    def _purge_after(self, name: str, other: int, *, away_s: float, then_s: float) -> None:
        world = self.world
        world.request(name, PLANS[0], hold_at=None)
        self.cut(name)
        world.pass_time(away_s)
        world.request(name, PLANS[0], hold_at=None)
        self.replace(KEY)
        world.purge(after(name, other), KEY)
        world.pass_time(then_s)
        world.request(name, PLANS[0], hold_at=None)

    @rule(name=NODE, other=OTHER, then_s=st.sampled_from([0.7, 1.5]), more_s=st.sampled_from([0.7, 1.5]))
    def purge_during_a_proof(self, name: str, other: int, then_s: float, more_s: float) -> None:
        """The node is cut off from the log, and the origin takes its time to answer it."""
        world = self.world
        world.request(name, PLANS[0], hold_at=None)
        self.cut(name)
        world.pass_time(7.5)
        world.request(name, PLANS[0], hold_at="origin")
        self.replace(KEY)
        world.purge(after(name, other), KEY)
        world.pass_time(then_s)
        world.open_gates(name)
        world.pass_time(more_s)
        world.request(name, PLANS[0], hold_at=None)

    @rule(
        name=NODE,
        other=OTHER,
        how=st.sampled_from(["stop", "kill", "leave"]),
        then_s=st.sampled_from([0.7, 7.5, 40.0]),
        held=st.sampled_from([None, "read"]),
    )
    def purge_while_away(self, name: str, other: int, how: str, then_s: float, held: str | None) -> None:
        """The node's process does not run. It comes back over its disk, and may be slow to read the log."""
        world = self.world
        world.start(name)
        world.request(name, PLANS[0], hold_at=None)
        {"stop": world.stop, "kill": world.kill, "leave": world.leave}[how](name)
        self.replace(KEY)
        world.purge(after(name, other), KEY)
        world.pass_time(then_s)
        world.resume(name)
        world.start(name, held=held)
        world.pass_time(0.05)
        world.request(name, PLANS[0], hold_at=None)
        world.release_log(name)

    @rule(name=NODE, other=OTHER, how=st.sampled_from(["cut", "stop"]), then_s=st.sampled_from([0.0, 0.7, 2.2, 5.5]))
    def purge_while_a_copy_of_the_disk_runs(self, name: str, other: int, how: str, then_s: float) -> None:
        """The node does not hear of the purge. Another one, over a copy of its disk, has started meanwhile."""
        world, copy = self.world, after(name, other)
        [third] = set(NAMES) - {name, copy}
        world.start(name)
        world.request(name, PLANS[0], hold_at=None)
        if how == "cut":
            self.cut(name)
        else:
            world.stop(name)
        world.leave(copy)
        world.start_over_a_copy(copy, of=name)
        self.replace(KEY)
        world.purge(third, KEY)
        world.pass_time(then_s)
        world.resume(name)
        world.request(name, PLANS[0], hold_at=None)

    @rule(
        name=NODE,
        is_restored=st.booleans(),
        lost_lines=st.integers(0, 2),
        lost=st.sets(NODE, max_size=2),
        then_s=st.sampled_from([0.0, 0.7, 7.5]),
    )
    def log_changes_while_away(
        self, name: str, is_restored: bool, lost_lines: int, lost: set[str], then_s: float
    ) -> None:
        """A node misses a purge, and the log loses it before the node comes back."""
        world = self.world
        world.request(name, PLANS[0], hold_at=None)
        self.cut(name)
        self.replace(KEY)
        world.purge(after(name, 1), KEY)
        world.pass_time(then_s)
        if is_restored:
            self.go_on_as_another(lost_lines, lost)
        else:
            world.log.trim_all()
        world.cut_log(name, is_cut=False)
        world.pass_time(2.2)
        world.request(name, PLANS[0], hold_at=None)

    def go_on_as_another(self, lost_lines: int, lost: set[str]) -> None:
        """The log goes on as another one, without its tail, and without those who joined last."""
        self._histories += 1
        log = self.world.log
        lost_runs = [run for run in log.rows if run.partition("-")[0] in lost]
        log.fail_over(f"h{self._histories}", lost_lines=min(lost_lines, len(log.lines)), lost_runs=lost_runs)

    @rule(name=NODE, method=st.sampled_from(["append", "append", "renew", "members"]), is_answer=st.booleans())
    def two_purges(self, name: str, method: str, is_answer: bool) -> None:
        """Two nodes purge at the same time, while the line of the first one is slow."""
        self._purge_twice(name, slow=after(name, 1), method=method, is_answer=is_answer)

    @rule(name=NODE)
    def two_purges_meet_a_slow_reader(self, name: str) -> None:
        """Two nodes purge at the same time, while the third one's line is slow."""
        self._purge_twice(name, slow=name, method="read", is_answer=False)

    def _purge_twice(self, name: str, *, slow: str, method: str, is_answer: bool) -> None:
        world = self.world
        world.purge(name, KEYS[1])
        world.request(name, PLANS[0], hold_at=None)
        world.slow_log(slow, method, is_answer=is_answer)
        self.replace(KEY)
        world.purge(after(name, 1), KEY)
        world.purge(after(name, 2), KEYS[1])
        world.pass_time(0.7)
        world.release_log(slow)
        world.pass_time(0.7)
        world.request(name, PLANS[0], hold_at=None)

    @rule()
    def heal(self) -> None:
        self.world.heal()

    # --- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def promises_hold(self) -> None:
        if hasattr(self, "world"):
            assert not self.world.failures, self.world.failures
            assert not self.world.promises.violations, self.world.promises.violations


class NodesMachine(AwayMachine):
    """Three nodes, driven by whatever hypothesis thinks of."""

    # --- readers ---------------------------------------------------------------------------------------------------

    @rule(name=NODE, plan=PLAN, hold_at=HELD, is_slow=st.booleans())
    def request(self, name: str, plan: int, hold_at: str | None, is_slow: bool) -> None:
        self.world.request(name, PLANS[plan], hold_at=hold_at, is_slow=is_slow)

    @rule(name=NODE, plan=UNMARKED, hold_at=HELD)
    def request_if_modified(self, name: str, plan: int, hold_at: str | None) -> None:
        self.world.request(name, PLANS[plan], hold_at=hold_at, is_conditional=True)

    @precondition(lambda self: self.world.is_anything_held())
    @rule(index=st.integers(0, 20))
    def let_go(self, index: int) -> None:
        self.world.let_go(index)

    # --- the newsroom ----------------------------------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS))
    def change_picture(self, key: str) -> None:
        self.replace(key)

    @rule(key=st.sampled_from(KEYS), is_revoked=st.booleans())
    def revoke(self, key: str, is_revoked: bool) -> None:
        self.world.pictures[key].is_revoked = is_revoked

    @rule(name=NODE, key=st.sampled_from(KEYS), here=HELD_HERE, there=HELD_THERE)
    def purge(self, name: str, key: str, here: str | None, there: str | None) -> None:
        self.world.hold_elsewhere(there, but=name)
        self.world.purge(name, key, hold_at=here)

    @rule(name=NODE, event=st.sampled_from(["revoke", "update", "update", "delete"]), here=HELD_HERE, there=HELD_THERE)
    def webhook(self, name: str, event: str, here: str | None, there: str | None) -> None:
        self.world.hold_elsewhere(there, but=name)
        self.world.webhook(name, event, hold_at=here)

    @rule(name=NODE)
    def purge_all(self, name: str) -> None:
        self.world.purge_all(name)

    # --- misfortune ------------------------------------------------------------------------------------------------

    @rule(name=NODE, is_cut=st.booleans())
    def cut_log(self, name: str, is_cut: bool) -> None:
        self.world.cut_log(name, is_cut=is_cut)

    @rule(name=NODE, is_cut=st.booleans())
    def cut_origin(self, name: str, is_cut: bool) -> None:
        self.world.cut_origin(name, is_cut=is_cut)

    @rule(name=NODE, method=SLOW, is_answer=st.booleans())
    def slow_log(self, name: str, method: str, is_answer: bool) -> None:
        self.world.slow_log(name, method, is_answer=is_answer)

    @rule(name=NODE)
    def release_log(self, name: str) -> None:
        self.world.release_log(name)

    @rule(is_down=st.booleans())
    def log_down(self, is_down: bool) -> None:
        self.world.log.is_down = is_down

    @rule(name=NODE)
    def stop(self, name: str) -> None:
        self.world.stop(name)

    @rule(name=NODE)
    def resume(self, name: str) -> None:
        self.world.resume(name)

    @rule(name=NODE)
    def kill(self, name: str) -> None:
        self.world.kill(name)

    @rule(name=NODE)
    def leave(self, name: str) -> None:
        self.world.leave(name)

    @rule(name=NODE, held=st.sampled_from([None, "join", "renew", "read"]))
    def start(self, name: str, held: str | None) -> None:
        self.world.start(name, held=held)

    @rule(name=NODE, other=OTHER)
    def start_over_a_copy(self, name: str, other: int) -> None:
        self.world.start_over_a_copy(name, of=after(name, other))

    @rule()
    def trim(self) -> None:
        self.world.log.trim_all()

    @rule(lost_lines=st.integers(0, 3), lost=st.sets(NODE, max_size=2))
    def restore_backup(self, lost_lines: int, lost: set[str]) -> None:
        self.go_on_as_another(lost_lines, lost)

    @rule(seconds=st.sampled_from(WAITS_S))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def play(
    examples: int,
    steps: int,
    *,
    machine: type[AwayMachine] = NodesMachine,
    is_derandomized: bool = True,
    is_shrunk: bool = True,
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=is_derandomized,
            database=None,
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink] if is_shrunk else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_no_order_of_events_on_three_nodes_lets_old_bytes_past_a_purge() -> None:
    """The fast part: the same orders at every run."""
    play(10, 20)


@pytest.mark.slow
def test_no_order_of_events_on_three_nodes_lets_old_bytes_past_a_purge_in_many_more() -> None:
    """New orders at every run, and longer ones."""
    play(150, 50, is_derandomized=False)


class HurriedMachine(AwayMachine):
    """Without the healing at the end of each example: a planted fault shows before."""

    is_healed_at_end = False


# The first few orders of events find these. For the others it takes some seconds: `make test-slow`.
SOON = {"a lost history is ignored", "the fence is off"}


@pytest.mark.parametrize("fault", slow_but(SOON, FAULTS))
def test_the_model_finds_a_planted_fault(fault: str) -> None:
    """With one rule of the cluster switched off, the same steps find a promise that is broken."""
    with FAULTS[fault](), pytest.raises(AssertionError, match="node"):
        play(PLANTED, 6, machine=HurriedMachine, is_shrunk=False)


@pytest.mark.parametrize("fault", slow_but((), WAYS))
def test_the_model_finds_a_log_that_is_read_out_of_order(fault: str) -> None:
    """A node that skips a line says that it has applied it."""
    machine = type("OutOfOrderMachine", (HurriedMachine,), {"way": WAYS[fault]})
    with pytest.raises(AssertionError, match="node"):
        play(PLANTED, 6, machine=machine, is_shrunk=False)
