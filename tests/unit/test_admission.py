"""Admission: a burst may wait, an overload is refused early, and what waits when an overload begins is left over."""

from __future__ import annotations

import asyncio

import pytest

from imgproxy.admission.policy import (
    BURST_JOBS,
    BURST_S,
    CALM_S,
    LONG_WAIT_JOBS,
    LONG_WAIT_S,
    PLANS_PER_JOB,
    RETRY_AFTER_MAX_S,
    SHORT_WAIT_JOBS,
    Admission,
    Admitted,
)
from imgproxy.config.sections import RenderSettings
from imgproxy.errors import Overloaded
from tests.support.clock import StandingClock


class Counted(Admitted):
    """An admitted request that is counted, and that no task waits in."""

    def expire_at(self, when_s: float | None) -> None:
        """Do nothing: there is no task to refuse."""


class World:
    """An admission policy for two processes on a clock of its own, and the rules that refused."""

    def __init__(self, *, processes: int = 2, job_s: float = 0.05, **settings: float) -> None:
        self.clock = StandingClock()
        self.rules: list[str] = []
        chosen = RenderSettings.model_validate({"queue_max": 1000, "queue_timeout_s": 60.0} | settings)
        self.admission = Admission(chosen, processes, self.rules.append, self.clock)
        for _ in range(300):
            self.admission.job_ended(job_s)
        self.job_s = job_s
        self._admitted: list[Admitted] = []
        self._keys = 0

    def admit(self, key: str | None = None, plan: str = "p", *, is_fetched: bool = False) -> bool:
        """Try to admit a request for a key that is new by default; whether it was. It is counted until `leave`."""
        if key is None:
            self._keys += 1
            key = f"new-{self._keys}"
        try:
            self.admission.admit(key, plan, is_fetched=is_fetched)
        except Overloaded:
            return False
        admitted = Counted(self.admission, key, plan, is_fetched=is_fetched)
        self.admission.enter(admitted)
        self._admitted.append(admitted)
        return True

    def leave(self) -> None:
        """All requests are answered."""
        while self._admitted:
            self.admission.leave(self._admitted.pop())

    def fill(self, count: int) -> None:
        """Admit so many new pictures."""
        for _ in range(count):
            assert self.admit()

    def overload(self) -> None:
        """Begin an overload: more new pictures at once than any page has."""
        while self.admit():
            pass
        assert self.admission.is_overloaded


async def test_a_new_front_page_is_served_whole() -> None:
    """Thirty new pictures at once, and a dozen more that scroll into view, are admitted on two processes."""
    world = World()
    world.fill(30)
    for at_s in (0.2, 0.4, 0.6):
        world.clock.now_s = 1_000.0 + at_s
        world.fill(4)

    assert world.rules == []


async def test_more_new_pictures_than_a_page_has_are_an_overload() -> None:
    """The rule `burst` refuses at once, and from then on only short waits are admitted."""
    world = World()
    world.overload()

    assert world.rules == ["burst"]
    assert not world.admit()
    assert world.rules == ["burst", "overload"]


async def test_a_queue_that_stays_long_is_an_overload() -> None:
    """The queue was longer than four jobs a process for a second: the next request is refused."""
    world = World()
    world.fill(30)
    world.clock.now_s += BURST_S / 2
    assert world.admit()
    world.clock.now_s += BURST_S

    assert not world.admit()
    assert world.rules == ["overload"]


async def test_a_queue_that_drains_is_none() -> None:
    """A short queue in between starts the second anew."""
    world = World()
    world.fill(30)
    world.leave()
    world.clock.now_s += BURST_S * 2
    assert world.admit()
    world.fill(29)

    assert world.rules == []


async def test_slow_jobs_may_queue() -> None:
    """A few jobs before one are no overload, however long each of them takes: a process must not run dry."""
    world = World(job_s=3.0, queue_timeout_s=300.0)
    for second in range(2 * LONG_WAIT_JOBS):
        world.clock.now_s = 1_000.0 + second
        assert world.admit()

    assert not world.admission.is_overloaded


@pytest.mark.parametrize(("done_jobs", "is_admitted"), [(0.0, False), (0.3, False), (0.8, True), (3.0, True)])
async def test_in_an_overload_only_a_short_wait_is_admitted(done_jobs: float, is_admitted: bool) -> None:
    """With a picture at work in each process, the next comes in as these come to their end."""
    world = World(processes=2)
    world.overload()
    world.leave()
    assert world.admit("a")
    assert world.admit("b")
    for key in "ab":
        world.admission.job_began(key)
    world.clock.now_s += done_jobs * world.job_s / 2

    waits = 1 - min(done_jobs / 2, 1.0) * 2
    assert (waits / 2 <= SHORT_WAIT_JOBS) is is_admitted
    assert world.admit() is is_admitted


async def test_an_overload_ends_when_nothing_was_refused_for_a_second() -> None:
    """Each refusal prolongs it."""
    world = World()
    world.overload()
    world.clock.now_s += CALM_S * 0.9
    assert not world.admit()
    world.clock.now_s += CALM_S * 0.9
    assert world.admission.is_overloaded
    world.clock.now_s += CALM_S * 0.2

    assert not world.admission.is_overloaded


async def test_a_burst_waits_unfetched() -> None:
    """Only what keeps every process busy is fetched; each job that begins lets the next original be fetched."""
    world = World(processes=2)
    fetching: list[str] = []
    done = asyncio.Event()

    async def fetch(key: str) -> None:
        async with world.admission.admit(key, "p", is_fetched=False):
            fetching.append(key)
            await done.wait()

    tasks = [asyncio.create_task(fetch(str(number))) for number in range(10)]
    await asyncio.sleep(0)
    assert fetching == ["0", "1", "2", "3"]

    world.admission.job_began("1")
    for _ in range(3):
        await asyncio.sleep(0)
    assert fetching == ["0", "1", "2", "3", "4"]

    tasks[0].cancel()
    tasks[6].cancel()  # it leaves the line, and takes nobody's turn
    for _ in range(5):
        await asyncio.sleep(0)
    assert fetching == ["0", "1", "2", "3", "4", "5"]
    done.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(fetching) == [str(number) for number in range(10) if number != 6]


async def test_what_waits_when_an_overload_begins_is_refused_after_a_job() -> None:
    """A request that no process has begun is left over; one that is at work is not."""
    world = World(processes=1)
    world.clock.now_s = asyncio.get_running_loop().time()  # the deadlines are the loop's

    async def wait(key: str) -> None:
        async with world.admission.admit(key, "p", is_fetched=False):
            await asyncio.Event().wait()

    at_work = asyncio.create_task(wait("at-work"))
    waiting = [asyncio.create_task(wait(f"waiting-{number}")) for number in range(BURST_JOBS)]
    await asyncio.sleep(0)
    world.admission.job_began("at-work")
    assert not world.admit()

    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(result) for result in results} == {Overloaded}
    assert world.rules == ["burst", *["left over"] * BURST_JOBS]
    assert not at_work.done()
    at_work.cancel()
    await asyncio.gather(at_work, return_exceptions=True)


async def test_a_request_that_adds_nothing_is_always_admitted() -> None:
    """The same variant is collapsed; another plan shares the decode of a job that has not begun, up to a full job."""
    world = World()
    assert world.admit("page", "w=1")
    world.overload()

    assert world.admit("page", "w=1")
    for width in range(2, PLANS_PER_JOB + 1):
        assert world.admit("page", f"w={width}")
    assert not world.admit("page", "w=99")
    world.admission.job_began("page")
    assert world.admit("page", "w=1")


async def test_a_shared_decode_ends_when_its_job_begins() -> None:
    """From then on another plan of the same picture waits like any other picture."""
    world = World()
    assert world.admit("page", "w=1")
    world.overload()
    world.admission.job_began("page")

    assert not world.admit("page", "w=2")


async def test_a_fetched_picture_is_no_part_of_a_burst() -> None:
    """It costs the origin nothing, so it waits for as long as the queue drains."""
    world = World()
    world.fill(BURST_JOBS)

    assert world.admit(is_fetched=True)


async def test_a_wait_beyond_the_configured_one_is_refused() -> None:
    """The rule `full` holds in a burst, too."""
    world = World(queue_timeout_s=LONG_WAIT_S / 4)
    while world.admit():
        pass

    assert world.rules == ["full"]
    assert world.admission.is_full


async def test_pictures_that_are_being_fetched_do_not_wait_for_a_process() -> None:
    """With a slow origin as many more are admitted as are made in the time of a fetch (Little's law)."""
    quick, slow = World(), World()
    for _ in range(300):
        slow.admission.fetch_ended(0.5)
    admitted = []
    for world in (quick, slow):
        world.overload()
        world.leave()
        count = 0
        while world.admit():
            count += 1
        admitted.append(count)
        world.leave()

    assert admitted[1] - admitted[0] == pytest.approx(2 * 0.5 / 0.05, abs=2)


async def test_retry_after_is_bounded_and_differs() -> None:
    """Clients that are refused together must not come back together."""
    world = World(job_s=2.0)
    world.fill(10)
    values = {world.admission.retry_after_s() for _ in range(200)}

    assert len(values) > 3
    assert 1 <= min(values) <= max(values) <= RETRY_AFTER_MAX_S


async def test_what_has_left_is_not_counted() -> None:
    """After all contexts are closed the queue is empty again, also after a failure inside."""
    world = World()
    world.fill(20)
    with pytest.raises(ZeroDivisionError):
        async with world.admission.admit("x", "p", is_fetched=True):
            raise ZeroDivisionError
    world.fill(30)

    assert world.rules == []
