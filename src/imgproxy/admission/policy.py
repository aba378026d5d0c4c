"""
Admission: the one decision about a request that needs a render or a fetch. It is admitted, it waits, or it gets 503.

    rule            refuses when                                                      earns (row `overload`)
    full            it would wait longer than `queue_timeout_s`, or behind `queue_max` bounded wait, bounded memory
    burst           more new pictures are under way than a page asks for at once      goodput, p99 of accepted
    overload        the queue was long for `BURST_S`, and its wait is not short       p99 of accepted <= 2 x unloaded
    left over       it was admitted before the overload, and still waits              p99 of accepted <= 2 x unloaded
    fetches         `fetch_queue_max` fetches wait, revalidations and watermarks too  bounded wait, bounded memory

A picture that has to be fetched waits before its fetch. It is fetched when the render processes will need it soon. If
it is refused while it waits, it has cost the origin nothing (row `overload`: fetches, p99 of hits).

A page asks for some thirty new pictures at once. They may wait, because nothing comes after them. In an overload more
requests come than can be rendered, and each wait makes the next one longer. So a long queue may stay while it drains,
and is cut when it does not. After "Controlling Queue Delay" (Nichols and Jacobson, ACM Queue 2012) and "Fail at Scale"
(Maurer, ACM Queue 2015).

All times are seconds of the loop's clock. Everything runs on the event loop.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgproxy.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from imgproxy.config.sections import RenderSettings

# Plans of one original in one job, which share a decode. A srcset has four to eight widths.
PLANS_PER_JOB: Final = 8
# A queue is long if a new job would wait longer than both. A crawler with a few connections causes less, for hours.
LONG_WAIT_S: Final = 0.2
LONG_WAIT_JOBS: Final = 4
# A queue that is long for this time is an overload. A new front page fills a small machine for a shorter time.
BURST_S: Final = 1.0
# More new pictures than this at once are an overload immediately. No page has so many.
BURST_JOBS: Final = 48
# In an overload a request is admitted if it waits for at most this part of the time of a job. Accepted requests then
# take 1.7 to 1.8 times as long as on an idle machine (p99); 1.7 to 2.0 with half a job, 2.2 to 2.7 with a whole one.
SHORT_WAIT_JOBS: Final = 0.3
# The overload ends when nothing was refused for this time.
CALM_S: Final = 1.0
# At most this many pictures count as still being fetched, however slow the origin is.
FETCHES_AHEAD_MAX: Final = 64
RETRY_AFTER_MAX_S: Final = 30
# The weights of a new duration in its moving average. Fetches take longer under load, and to admit more of them would
# make that worse. So a slow fetch counts less than a quick one.
_LEARN_JOB: Final = 0.1
_LEARN_SLOWER_FETCH: Final = 0.05
_LEARN_QUICKER_FETCH: Final = 0.5
_FIRST_JOB_S: Final = 0.1


@dataclass(eq=False, slots=True)
class _Work:
    """
    The admitted requests for one original: how many by plan, when the first came, and when its job began.

    `turn` is set when the original may be fetched; None for one that is here.
    """

    came_s: float
    turn: asyncio.Event | None
    plans: dict[str, int] = field(default_factory=dict)
    admissions: set[Admitted] = field(default_factory=set)
    began_s: float | None = None

    @property
    def jobs(self) -> int:
        """The number of jobs that the plans need."""
        return -(-len(self.plans) // PLANS_PER_JOB)


class Admission:
    """
    Counts what was admitted, and decides about the next request.

    `on_refused(rule)` is called for each refusal. `now` is the clock; by default the running loop's.
    """

    def __init__(
        self,
        settings: RenderSettings,
        processes: int,
        on_refused: Callable[[str], None] = lambda _rule: None,
        now: Callable[[], float] | None = None,
        *,
        fetch_queue_max: int = 64,
    ) -> None:
        self._settings = settings
        self._processes = processes
        self._fetch_queue_max = fetch_queue_max
        self._on_refused = on_refused
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._work: dict[str, _Work] = {}  # by key hash
        self._jobs = 0
        # Originals that wait for their turn to be fetched, and those that have had it and whose job has not begun.
        self._unfetched: deque[_Work] = deque()
        self._turns: set[int] = set()
        self._job_s = _FIRST_JOB_S  # how long a job keeps one process, on average
        self._fetch_s = 0.0
        self._long_since_s: float | None = None
        self._overload_until_s = 0.0

    # --- decide ---

    def admit(self, key_hash: str, plan: str, *, is_fetched: bool) -> Admitted:
        """
        Admit a request. It counts while the returned context is open.

        Args:
            key_hash: the hash of the original's key.
            plan: the digest of the plan.
            is_fetched: whether the original is here already.

        Raises:
            Overloaded: the request is refused. The context raises it later, if the request is left over.
        """
        rule = self.refusal(key_hash, plan, is_fetched=is_fetched)
        if rule is not None:
            self._on_refused(rule)
            raise Overloaded(self.retry_after_s())
        return Admitted(self, key_hash, plan, is_fetched=is_fetched)

    def refusal(self, key_hash: str, plan: str, *, is_fetched: bool) -> str | None:
        """Return the rule that refuses this request now, or None. A refusal begins or prolongs an overload."""
        now_s = self._now()
        if self._joins(key_hash, plan):
            return None
        ahead = self._jobs_ahead()
        wait_s = self._wait_s(ahead, now_s)
        if self.is_overloaded:
            if wait_s <= min(SHORT_WAIT_JOBS * self._job_s, self._settings.queue_timeout_s):
                return None
            return self._refused("overload", now_s)
        if wait_s <= max(LONG_WAIT_S, LONG_WAIT_JOBS * self._job_s):
            self._long_since_s = None
        elif self._long_since_s is None:
            self._long_since_s = now_s
        if not is_fetched and self._long_since_s is not None and ahead > min(BURST_JOBS, self._settings.queue_max):
            return self._refused("burst", now_s)
        if self._long_since_s is not None and now_s - self._long_since_s > BURST_S:
            return self._refused("overload", now_s)
        return "full" if self._is_full(ahead, wait_s) else None

    def refuses(self, key_hash: str, plan: str) -> bool:
        """Whether a request is refused now whose original has to be fetched. Counts the refusal. Admits nothing."""
        rule = self.refusal(key_hash, plan, is_fetched=False)
        if rule is not None:
            self._on_refused(rule)
        return rule is not None

    def admit_fetch(self, *, waiting: int) -> None:
        """Raise Overloaded if a fetch may not wait behind `waiting` others. All fetches count, whoever needs them."""
        if waiting >= self._fetch_queue_max:
            self._on_refused("fetches")
            raise Overloaded(self.retry_after_s())

    @property
    def is_overloaded(self) -> bool:
        """Whether more has come for a while than can be rendered."""
        return self._now() < self._overload_until_s

    @property
    def is_full(self) -> bool:
        """Whether one more request would wait longer than `queue_timeout_s`, or finds `queue_max` jobs waiting."""
        ahead = self._jobs_ahead()
        return self._is_full(ahead, self._wait_s(ahead, self._now()))

    def retry_after_s(self) -> int:
        """Return the seconds until the queue has drained, with jitter: refused clients must not return together."""
        drain_s = (self._jobs + 1) * self._job_s / self._processes
        return min(RETRY_AFTER_MAX_S, max(1, math.ceil(drain_s * random.uniform(1.0, 2.0))))

    def _joins(self, key_hash: str, plan: str) -> bool:
        """Whether the request adds almost no work: the same variant is being made, or a job can take in its plan."""
        work = self._work.get(key_hash)
        if work is None:
            return False
        return plan in work.plans or (work.began_s is None and len(work.plans) < PLANS_PER_JOB)

    def _jobs_ahead(self) -> int:
        """How many jobs must end before a new one begins. Jobs whose original is being fetched do not count."""
        return max(0, self._jobs - self._fetching() - self._processes + 1)

    def _fetching(self) -> int:
        """How many originals are being fetched when as many are fetched as rendered (Little's law)."""
        return min(FETCHES_AHEAD_MAX, round(self._processes * self._fetch_s / self._job_s))

    def _wait_s(self, ahead: int, now_s: float) -> float:
        """Return the seconds until a process is free for one more job. A job that is half done counts half."""
        begun = (work.began_s for work in self._work.values() if work.began_s is not None)
        done_s = sum(min(now_s - began_s, self._job_s) for began_s in begun)
        return max(0.0, ahead * self._job_s - done_s) / self._processes

    def _is_full(self, ahead: int, wait_s: float) -> bool:
        return ahead > self._settings.queue_max or wait_s > self._settings.queue_timeout_s

    def _refused(self, rule: str, now_s: float) -> str:
        """Begin an overload, or prolong it. When it begins, the requests that wait already are left over."""
        is_new = not self.is_overloaded
        self._overload_until_s = now_s + CALM_S
        self._long_since_s = None
        if is_new:
            for work in self._work.values():
                if work.began_s is None:
                    for admitted in work.admissions:
                        admitted.expire_at(work.came_s + self._job_s)
        return rule

    def count_left_over(self) -> None:
        """Count a request that was admitted before the overload, and refused in it."""
        self._on_refused("left over")

    # --- learn ---

    def fetch_ended(self, seconds: float) -> None:
        """Learn how long a fetch takes."""
        rate = _LEARN_SLOWER_FETCH if seconds > self._fetch_s else _LEARN_QUICKER_FETCH
        self._fetch_s += rate * (seconds - self._fetch_s)

    def job_began(self, key_hash: str) -> None:
        """Note that a process has begun a job of this original. Its requests cannot be left over any more."""
        work = self._work.get(key_hash)
        if work is not None and work.began_s is None:
            work.began_s = self._now()
            for admitted in work.admissions:
                admitted.expire_at(None)
            self._end_turn(work)

    def job_ended(self, seconds: float) -> None:
        """Learn how long a job keeps one process."""
        self._job_s += _LEARN_JOB * (seconds - self._job_s)

    # --- count ---

    def enter(self, admitted: Admitted) -> asyncio.Event | None:
        """Count a request. Returns what it has to wait for before it fetches."""
        work = self._work.get(admitted.key_hash)
        if work is None:
            turn = None if admitted.is_fetched else asyncio.Event()
            work = self._work[admitted.key_hash] = _Work(self._now(), turn)
            if turn is not None:
                self._unfetched.append(work)
        before = work.jobs
        work.plans[admitted.plan] = work.plans.get(admitted.plan, 0) + 1
        work.admissions.add(admitted)
        self._jobs += work.jobs - before
        self._give_turns()
        return work.turn

    def leave(self, admitted: Admitted) -> None:
        """Stop counting a request."""
        work = self._work[admitted.key_hash]
        before = work.jobs
        work.admissions.discard(admitted)
        work.plans[admitted.plan] -= 1
        if not work.plans[admitted.plan]:
            del work.plans[admitted.plan]
        self._jobs += work.jobs - before
        if not work.plans:
            del self._work[admitted.key_hash]
            self._end_turn(work)

    def _give_turns(self) -> None:
        """Let as many originals be fetched as keep every process busy."""
        while self._unfetched and len(self._turns) < 2 * self._processes + self._fetching():
            work = self._unfetched.popleft()
            if work.plans and work.turn is not None:
                self._turns.add(id(work))
                work.turn.set()

    def _end_turn(self, work: _Work) -> None:
        self._turns.discard(id(work))
        self._give_turns()


class Admitted:
    """The context of an admitted request: it waits for its turn to fetch, and raises Overloaded when it expires."""

    __slots__ = ("_admission", "_timeout", "is_fetched", "key_hash", "plan")

    def __init__(self, admission: Admission, key_hash: str, plan: str, *, is_fetched: bool) -> None:
        self._admission = admission
        self._timeout = asyncio.timeout(None)
        self.key_hash = key_hash
        self.plan = plan
        self.is_fetched = is_fetched

    def expire_at(self, when_s: float | None) -> None:
        """Refuse the request at this time if it is still here. None: do not refuse it."""
        if not self._timeout.expired():
            self._timeout.reschedule(when_s)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        turn = self._admission.enter(self)
        if turn is not None and not self.is_fetched:
            try:
                await turn.wait()
            except asyncio.CancelledError as error:
                await self.__aexit__(type(error), error, None)
                raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._admission.leave(self)
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            self._admission.count_left_over()
            raise Overloaded(self._admission.retry_after_s()) from None
