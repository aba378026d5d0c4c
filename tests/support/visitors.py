"""Visitors of a cluster: they fetch one picture in several sizes from every door, all the time, and note each answer."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from tests.support.process_node import PATIENCE_S
from tests.support.site import KEY, poll, red_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.process_cluster import ProcessCluster
    from tests.support.process_node import ProcessNode
    from tests.support.site import Reply

TARGETS = (f"/{KEY}?w=50", f"/{KEY}?w=120&fm=png", f"/{KEY}")
# Between two requests of a visitor, so that the nodes have time for other things, too.
PAUSE_S = 0.04
# Two renders of one colour differ by less.
NEAR = 4
BALANCER = "balancer"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `sent_s` and `came_s` by `time.monotonic`. `red`: of a picture. `status` 0: the door was shut."""

    door: str
    target: str
    sent_s: float
    came_s: float
    status: int
    red: int | None


@dataclass(frozen=True, slots=True)
class Promise:
    """A purge that was acknowledged: what is asked for after `since_s` has bytes of this version of the library, or later."""

    since_s: float
    version: int


class Visitors:
    """
    The visitors of all doors of a cluster.

        promise(receipt)     a purge was answered. After a 200 no answer may have bytes from before
        round(*nodes)        wait until each of these doors has answered every target, asked for after the call
        answers              everything that was answered so far
        old()                the answers that break a promise
        refused(*doors)      the answers of these doors (nodes' names) that were no picture
    """

    def __init__(self, cluster: ProcessCluster, *, is_balanced: bool = False) -> None:
        """`is_balanced`: one more visitor, of the door `BALANCER`."""
        self._cluster = cluster
        self._is_balanced = is_balanced
        self._tasks: list[asyncio.Task[None]] = []
        self._reds: dict[bytes, int] = {}
        self._turn = 0
        self.answers: list[Answer] = []
        self.promises: list[Promise] = []

    # --- what a test does --------------------------------------------------------------------------------------

    def promise(self, receipt: Reply) -> None:
        """Note that a purge was answered: it must be a 200. From now on only the present bytes of the library count."""
        assert receipt.status == 200, (receipt.status, receipt.body)
        assert receipt.json().get("pending") is False, receipt.body
        self.promise_now()

    def promise_now(self) -> None:
        """Note that a purge is done, as its receipt says."""
        self.promises.append(Promise(time.monotonic(), len(self._cluster.reds) - 1))

    async def round(self, *nodes: ProcessNode) -> None:
        """Wait until each door (by default, each that is running) has answered every target that was asked for now."""
        doors = nodes or tuple(node for node in self._cluster.nodes if node.is_running and not node.is_paused)
        now_s = time.monotonic()
        wanted = {(node.name, target) for node in doors for target in TARGETS}
        seen = len(self.answers)

        def is_done() -> bool:
            nonlocal seen
            for answer in self.answers[seen:]:
                if answer.sent_s >= now_s and answer.status:
                    wanted.discard((answer.door, answer.target))
            seen = len(self.answers)
            return not wanted

        await poll(is_done, bool, within_s=PATIENCE_S)

    def old(self) -> list[Answer]:
        """Return the answers with bytes that a promise forbids."""
        return [answer for answer in self.answers if answer.red is not None and self._is_old(answer, answer.red)]

    def _is_old(self, answer: Answer, red: int) -> bool:
        broken = (promise for promise in self.promises if answer.sent_s > promise.since_s)
        return any(all(abs(red - each) > NEAR for each in self._cluster.reds[one.version :]) for one in broken)

    def refused(self, *doors: str) -> list[Answer]:
        """Return the answers of these doors that were no picture, or not a whole one."""
        return [answer for answer in self.answers if answer.door in doors and answer.status != 200]

    def expect_promises(self) -> None:
        """Fail if a promise was broken."""
        old = self.old()
        assert not old, f"{len(old)} of {len(self.answers)} answers were old, the first: {old[0]}"

    # --- the visitors ------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Come to every door that there is, and wait until each has answered once, if it runs."""
        visits = [self._visit(node.name, node.get) for node in self._cluster.nodes]
        if self._is_balanced:
            visits.append(self._visit(BALANCER, self._get_balanced))
        self._tasks = [asyncio.create_task(visit) for visit in visits]
        await self.round()

    async def end(self) -> None:
        """Go."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        failures = [each for each in results if isinstance(each, Exception)]
        assert not failures, failures

    async def _visit(self, door: str, get: Callable[[str], Awaitable[Reply]]) -> None:
        while True:
            for target in TARGETS:
                sent_s = time.monotonic()
                try:
                    reply = await get(target)
                except aiohttp.ClientError:
                    status, red = 0, None
                else:
                    status = reply.status
                    red = self._red(reply.body) if status == 200 else None
                self.answers.append(Answer(door, target, sent_s, time.monotonic(), status, red))
                await asyncio.sleep(PAUSE_S)

    async def _get_balanced(self, target: str) -> Reply:
        """Ask the doors in turn; the next one, if one is shut or ends the connection before its answer begins."""
        nodes = self._cluster.nodes
        self._turn += 1
        for number in range(len(nodes)):
            try:
                return await nodes[(self._turn + number) % len(nodes)].get(target)
            except aiohttp.ClientPayloadError:  # an answer that has begun: no balancer can ask again
                raise
            except aiohttp.ClientError:
                continue
        raise aiohttp.ClientConnectionError("every door is shut")

    def _red(self, body: bytes) -> int:
        digest = hashlib.blake2b(body).digest()
        if digest not in self._reds:
            self._reds[digest] = red_of(body)
        return self._reds[digest]
