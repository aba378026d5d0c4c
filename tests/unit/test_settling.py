"""When purged keys are checked again: by order of time, repeated after failures, once for each key."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from imgproxy.cache.purge_event import Event, Purged, PurgeEvent, Unproved
from imgproxy.delivery.settling import PARALLEL, Settling
from imgproxy.errors import OriginUnreachable
from tests.support.jumping_loop import JumpingLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SETTLE_S = 30.0
RETRY_MAX_S = 4.0


class Site:
    """What the checks are made with: originals whose `failures` come first, and a journal with what the last run left."""

    def __init__(self) -> None:
        self.event = PurgeEvent()
        self.unproved: Event[Unproved] = Event()
        self.left: dict[str, float] = {}
        self.failures: defaultdict[str, list[Exception]] = defaultdict(list)
        self.checked: list[tuple[str, float]] = []
        self.noted: list[tuple[str, float]] = []
        self.answers: dict[str, asyncio.Event] = {}  # keys whose check waits for the origin's answer
        journal = SimpleNamespace(settling=self.read_left, settled=self.note)
        originals = SimpleNamespace(revalidate=self.revalidate)
        cache = SimpleNamespace(purged=self.event, unproved=self.unproved, journal=journal)
        self.settling = Settling(cache, originals, settle_s=SETTLE_S, retry_max_s=RETRY_MAX_S)  # type: ignore[arg-type]

    async def revalidate(self, key: str) -> None:
        self.checked.append((key, asyncio.get_running_loop().time()))
        if key in self.answers:
            await self.answers[key].wait()
        if self.failures[key]:
            raise self.failures[key].pop(0)

    async def note(self, key: str, due_at_s: float) -> None:
        self.noted.append((key, due_at_s))

    async def read_left(self) -> dict[str, float]:
        return self.left

    def purge(self, key: str, *, settle_s: float | None = SETTLE_S) -> None:
        """Tell of the purge of a key, as the cache does."""
        self.event.publish(Purged(key, key, None if settle_s is None else time.time() + settle_s))


def run(steps: Callable[[Site], Awaitable[None]], *, left: dict[str, float] | None = None) -> list[tuple[str, float]]:
    """Run the steps on a clock that jumps, then wait until nothing is pending; which key was checked after how long."""

    async def main() -> list[tuple[str, float]]:
        site = Site()
        site.left = left or {}
        began_s = asyncio.get_running_loop().time()
        await site.settling.start()
        await steps(site)
        while site.settling.pending:
            await asyncio.sleep(1)
        await site.settling.close()
        assert {key for key, _ in site.noted} == {key for key, _ in site.checked}
        return [(key, at_s - began_s) for key, at_s in site.checked]

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main())


def test_keys_are_checked_in_the_order_of_their_purges_when_the_settle_time_ends() -> None:
    """No task waits for each of them; a purge without a settle time needs no check."""

    async def steps(site: Site) -> None:
        tasks = len(asyncio.all_tasks())
        for number in range(50):
            site.purge(f"{number:02}")
        await asyncio.sleep(5)
        site.purge("later")
        site.purge("never", settle_s=None)
        assert site.settling.pending == 51
        assert len(asyncio.all_tasks()) == tasks

    checked = run(steps)

    assert sorted(key for key, _ in checked[:50]) == [f"{number:02}" for number in range(50)]
    assert [key for key, _ in checked[50:]] == ["later"]
    assert [at_s for _, at_s in checked] == pytest.approx([SETTLE_S] * 50 + [SETTLE_S + 5], abs=1)


@pytest.mark.parametrize("error", [OriginUnreachable(), RuntimeError("a bug")], ids=["expected", "unexpected"])
def test_a_check_that_fails_is_repeated_with_growing_waits(error: Exception) -> None:
    """After 1, 2, 4, 4 s; other keys do not wait for it."""

    async def steps(site: Site) -> None:
        site.failures["bad"] = [error] * 4
        site.purge("bad")
        site.purge("good")

    checked = run(steps)

    assert [key for key, _ in checked] == ["bad", "good", "bad", "bad", "bad", "bad"]
    waits_s = [at_s - SETTLE_S for key, at_s in checked if key == "bad"]
    assert waits_s == pytest.approx([0, 1, 3, 7, 11], abs=0.1)


def test_a_slow_answer_does_not_hold_up_the_other_keys() -> None:
    """The keys behind it are checked in time, and never more than a few at once."""

    async def steps(site: Site) -> None:
        site.answers["slow"] = asyncio.Event()
        for key in ("slow", *(f"{number:02}" for number in range(3 * PARALLEL))):
            site.purge(key)
        while len(site.noted) < 3 * PARALLEL:
            await asyncio.sleep(1)
        site.answers["slow"].set()

    checked = run(steps)

    assert max(at_s for _, at_s in checked) < SETTLE_S + 1


def test_a_later_purge_of_a_key_replaces_its_check() -> None:
    """The settle time begins again."""

    async def steps(site: Site) -> None:
        site.purge("a")
        await asyncio.sleep(20)
        site.purge("a", settle_s=SETTLE_S + 1)
        assert site.settling.pending == 1

    ((key, at_s),) = run(steps)

    assert key == "a"
    assert at_s == pytest.approx(20 + SETTLE_S, abs=1)


def test_checks_of_the_last_run_are_taken_up() -> None:
    """An overdue one is done at once, and one from a clock that was ahead no later than after the settle time."""

    async def steps(site: Site) -> None:
        assert site.settling.pending == 2

    checked = run(steps, left={"overdue": 1.0, "ahead": time.time() + 1e6})

    assert checked == [("overdue", 0), ("ahead", SETTLE_S)]
