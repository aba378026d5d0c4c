"""
The guarantee as a model: in whatever order things happen, no answer begun after an acknowledged purge holds old bytes.
After an order to prove, no answer holds bytes that the origin has not confirmed since. After a soft purge no answer
counts as fresh until the origin was asked again.

Hypothesis chooses the order: requests held at any point and let go in any order, purges held between their record and
their effect, pictures replaced and revoked, evictions, crashes, restarts, a clock that jumps.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

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

from imgproxy.cache.epochs import Epochs
from imgproxy.cache.journal import Journal
from imgproxy.failpoints import Point
from tests.model.world import KEY, MARK, PLANS, World
from tests.support.memory_disk import memory_disk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgproxy.params.plan import RenderPlan

KEYS = (KEY, MARK)
# The most examples that look for a planted violation. Most runs find it in the first twenty, and end there.
PLANTED = 1_000
# Where a piece of work stands from now on: nowhere in one case of four or so.
POINTS = ("origin", "render", "recorded", *(str(point) for point in Point if point is not Point.MID_RESPONSE))
HELD = st.one_of(st.none(), st.sampled_from(POINTS))


class RacingMachine(RuleBasedStateMachine):
    """Requests, and what may overtake them: the steps that find a planted violation soon."""

    @initialize()
    def start(self) -> None:
        # A purge costs two syncs of the journal, and nothing here is about power.
        self._directory = tempfile.TemporaryDirectory(dir=memory_disk())
        self.world = World(Path(self._directory.name))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()
            self._directory.cleanup()

    # --- readers ---------------------------------------------------------------------------------------------------

    @rule(plan=st.sampled_from(PLANS), hold_at=HELD)
    def request(self, plan: RenderPlan | None, hold_at: str | None) -> None:
        self.world.request(plan, hold_at=hold_at)

    @precondition(lambda self: self.world.run.gates.standing)
    @rule(index=st.integers(0, 20))
    def let_go(self, index: int) -> None:
        self.world.run.gates.let_go(index)
        self.world.run.loop.settle()

    @rule(plan=st.sampled_from(PLANS), hold_at=HELD, key=st.sampled_from(KEYS))
    def race(self, plan: RenderPlan | None, hold_at: str | None, key: str) -> None:
        """What all of this is about, in one step, so that it is common: a purge meets a request on its way."""
        self.request(plan, hold_at)
        self.replace(key, keeps_etag=False)
        self.purge(key, None)
        if self.world.run.gates.standing:
            self.let_go(0)

    # --- the newsroom ----------------------------------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS), keeps_etag=st.booleans())
    def replace(self, key: str, keeps_etag: bool) -> None:
        found = self.world.origin.pictures[key]
        found.version += 1
        if not keeps_etag:
            found.etag = f'"{found.version}"'

    @rule(key=st.sampled_from(KEYS), hold_at=st.sampled_from([None, None, "recorded"]))
    def purge(self, key: str, hold_at: str | None) -> None:
        self.world.purge(key, hold_at=hold_at)

    @rule(key=st.sampled_from(KEYS), hold_at=st.sampled_from([None, None, "recorded"]))
    def order(self, key: str, hold_at: str | None) -> None:
        self.world.order(key, hold_at=hold_at)

    @rule(plan=st.sampled_from(PLANS), hold_at=HELD, key=st.sampled_from(KEYS), is_changed=st.booleans())
    def order_race(self, plan: RenderPlan | None, hold_at: str | None, key: str, is_changed: bool) -> None:
        """An order meets a request on its way, and another request follows."""
        self.request(plan, hold_at)
        if is_changed:
            self.replace(key, keeps_etag=False)
        self.order(key, None)
        if self.world.run.gates.standing:
            self.let_go(0)
        self.request(plan, None)

    # --- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def no_old_byte_after_a_purge(self) -> None:
        if hasattr(self, "world"):
            assert self.world.failures == []
            assert self.world.witness.violations == []


class PurgeMachine(RacingMachine):
    """The service, driven by whatever hypothesis thinks of."""

    # --- readers ---------------------------------------------------------------------------------------------------

    @rule(plan=st.sampled_from(PLANS[:2]), hold_at=HELD)
    def request_if_modified(self, plan: RenderPlan | None, hold_at: str | None) -> None:
        self.world.request(plan, hold_at=hold_at, is_conditional=True)

    @precondition(lambda self: self.world.copies)
    @rule(plan=st.sampled_from(PLANS), hold_at=HELD)
    def request_with_copy(self, plan: RenderPlan | None, hold_at: str | None) -> None:
        """A client asks whether the copy is current that an earlier answer gave it, however long ago."""
        self.world.request_with_copy(plan, hold_at=hold_at)

    # --- the newsroom ----------------------------------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS), is_revoked=st.booleans())
    def revoke(self, key: str, is_revoked: bool) -> None:
        self.world.origin.pictures[key].is_revoked = is_revoked

    @rule(key=st.sampled_from(KEYS), hold_at=HELD)
    def update_unchanged(self, key: str, hold_at: str | None) -> None:
        """An event for a title: the bytes are as before, unless something else changed them."""
        self.world.update(key, hold_at=hold_at)

    @rule(key=st.sampled_from(KEYS), hold_at=HELD)
    def update_changed(self, key: str, hold_at: str | None) -> None:
        """An event for new bytes."""
        self.replace(key, keeps_etag=False)
        self.world.update(key, hold_at=hold_at)

    @rule()
    def distrust(self) -> None:
        self.world.distrust()

    @rule(key=st.sampled_from(KEYS))
    def soften(self, key: str) -> None:
        self.world.soften(key)

    @rule(plan=st.sampled_from(PLANS), hold_at=HELD)
    def soft_race(self, plan: RenderPlan | None, hold_at: str | None) -> None:
        """A soft purge meets a request on its way, and another request follows."""
        self.request(plan, hold_at)
        self.soften(KEY)
        if self.world.run.gates.standing:
            self.let_go(0)
        self.request(plan, None)

    @rule(key=st.sampled_from(KEYS), hold_at=HELD)
    def check_after_settling(self, key: str, hold_at: str | None) -> None:
        self.world.revalidate(key, hold_at=hold_at)

    # --- misfortune ------------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 6))
    def evict(self, count: int) -> None:
        self.world.evict(count)

    @rule()
    def crash(self) -> None:
        self.world.crash()

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule(is_down=st.booleans())
    def origin_down(self, is_down: bool) -> None:
        self.world.origin.is_down = is_down

    @rule(seconds=st.sampled_from([5.0, 70.0, 700.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds, is_clock_stepped=False)

    @rule(seconds=st.sampled_from([-5.0, -4_000.0, 4_000.0]))
    def step_the_clock(self, seconds: float) -> None:
        self.world.pass_time(seconds, is_clock_stepped=True)


class BlindEpochs(Epochs):
    """The planted violation: the check of the epoch is switched off. Orders to prove are still obeyed."""

    def purge(self, key_hash: str, seq: int) -> None:
        del key_hash
        self._seq = max(self._seq, seq)


class DeafEpochs(Epochs):
    """The planted violation: an order to prove changes nothing."""

    def order(self, key_hash: str, seq: int) -> None:
        del key_hash
        self._seq = max(self._seq, seq)


class HastyEpochs(Epochs):
    """The planted violation: an answer begins whether or not its originals were proved since an order."""

    def all_hold(self, proofs: Iterable[tuple[str, int]]) -> bool:
        return all(self.holds(key_hash, seq) for key_hash, seq in proofs)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def play(
    examples: int,
    steps: int,
    *,
    machine: type[RacingMachine] = PurgeMachine,
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


def test_no_order_of_events_lets_old_bytes_past_a_purge() -> None:
    """The fast part: the same orders at every run."""
    play(40, 40)


@pytest.mark.slow
def test_no_order_of_events_lets_old_bytes_past_a_purge_in_many_more() -> None:
    """New orders at every run, and longer ones."""
    play(150, 60, is_derandomized=False)


def test_the_model_finds_a_planted_violation() -> None:
    """With the check of the epoch switched off, the same steps find an answer with old bytes."""
    with patch("imgproxy.cache.cache.Epochs", BlindEpochs), pytest.raises(AssertionError, match="was purged at"):
        play(PLANTED, 10, machine=RacingMachine, is_shrunk=False)


@pytest.mark.slow
def test_the_model_finds_a_soft_purge_that_is_lost() -> None:
    """With fetches under way left alone, the same machine finds an answer that counts as fresh."""
    deaf = patch("imgproxy.delivery.fetching.Fetching._soften", lambda _fetching, _softened: None)
    with deaf, pytest.raises(AssertionError, match="softened at"):
        play(PLANTED, 40, is_shrunk=False)


@pytest.mark.parametrize("epochs", [DeafEpochs, HastyEpochs])
def test_the_model_finds_an_answer_that_begins_without_its_proof(epochs: type[Epochs]) -> None:
    """If an order changes nothing, or the last check before an answer ignores it, the same steps find an answer."""
    with patch("imgproxy.cache.cache.Epochs", epochs), pytest.raises(AssertionError, match="was ordered to be at"):
        play(PLANTED, 10, machine=RacingMachine, is_shrunk=False)


@pytest.mark.slow
def test_the_model_finds_an_order_that_is_not_durable() -> None:
    """If the journal counts an order and does not write its keys, the same machine crashes, and finds an answer."""
    record = Journal.record_order

    async def record_nothing(journal: Journal, keys: object, **named: Any) -> int:
        del keys
        return await record(journal, [], **named)

    with patch.object(Journal, "record_order", record_nothing), pytest.raises(AssertionError, match="was ordered to"):
        play(PLANTED, 40, is_shrunk=False)
