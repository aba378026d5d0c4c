"""Visitors of a cluster: they fetch one picture in several sizes from every door, all the time, and note each answer."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from tests.support.site import KEY, poll, red_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.process_cluster import ProcessCluster
    from tests.support.process_node import ProcessNode
    from tests.support.site import Reply

TARGETS = (f"/{KEY}?w=50", f"/{KEY}?w=120&fm=png", f"/{KEY}")
# Between two requests of a visitor, so that the nodes have time for other things, too.
PAUSE_S = 0.004
# Two renders of one colour differ by less.
NEAR = 4


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
    """A purge that was acknowledged: requests sent after `since_s` may get only a picture of this red, or later ones."""

    since_s: float
    reds: tuple[int, ...]


class Visitors:
    """
    The visitors of all doors of a cluster.

        promise(receipt)     a purge was answered. After a 200 no answer may have bytes from before
        round(*nodes)        wait until each of these doors has answered every target, asked for after the call
        answers              everything that was answered so far
        old()                the answers that break a promise
        refused(*nodes)      the answers of these doors that were no picture
    """

    def __init__(self, cluster: ProcessCluster, targets: Sequence[str] = TARGETS) -> None:
        self._cluster = cluster
        self._targets = targets
        self._tasks: list[asyncio.Task[None]] = []
        self._reds: dict[bytes, int] = {}
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
        self.promises.append(Promise(time.monotonic(), (self._cluster.red,)))

    def expect_also(self, red: int) -> None:
        """Let later bytes of the library count for every promise so far. Call it before they are put."""
        self.promises = [Promise(each.since_s, (*each.reds, red)) for each in self.promises]

    async def round(self, *nodes: ProcessNode) -> None:
        """Wait until each door (by default, each that is running) has answered every target that was asked for now."""
        doors = nodes or tuple(node for node in self._cluster.nodes if node.is_running and not node.is_paused)
        now_s = time.monotonic()
        wanted = {(node.name, target) for node in doors for target in self._targets}
        seen = len(self.answers)

        def is_done() -> bool:
            nonlocal seen
            for answer in self.answers[seen:]:
                if answer.sent_s >= now_s and answer.status:
                    wanted.discard((answer.door, answer.target))
            seen = len(self.answers)
            return not wanted

        await poll(is_done, bool)

    def old(self) -> list[Answer]:
        """Return the answers with bytes that a promise forbids."""
        return [
            answer
            for answer in self.answers
            if answer.red is not None
            and any(
                answer.sent_s > promise.since_s and all(abs(answer.red - red) > NEAR for red in promise.reds)
                for promise in self.promises
            )
        ]

    def refused(self, *nodes: ProcessNode) -> list[Answer]:
        """Return the answers of these doors, by default of all, that were no picture."""
        names = {node.name for node in nodes or self._cluster.nodes}
        return [answer for answer in self.answers if answer.door in names and answer.status != 200]

    def expect_promises(self) -> None:
        """Fail if a promise was broken."""
        old = self.old()
        assert not old, f"{len(old)} of {len(self.answers)} answers were old, the first: {old[0]}"

    # --- the visitors ------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Come to every door that there is, and wait until each has answered once, if it runs."""
        self._tasks = [asyncio.create_task(self._visit(node)) for node in self._cluster.nodes]
        await self.round()

    async def end(self) -> None:
        """Go."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        failures = [each for each in results if isinstance(each, Exception)]
        assert not failures, failures

    async def _visit(self, node: ProcessNode) -> None:
        while True:
            for target in self._targets:
                sent_s = time.monotonic()
                try:
                    reply = await node.get(target)
                except aiohttp.ClientError:
                    status, red = 0, None
                else:
                    status = reply.status
                    red = self._red(reply.body) if status == 200 else None
                self.answers.append(Answer(node.name, target, sent_s, time.monotonic(), status, red))
                await asyncio.sleep(PAUSE_S)

    def _red(self, body: bytes) -> int:
        digest = hashlib.blake2b(body).digest()
        if digest not in self._reds:
            self._reds[digest] = red_of(body)
        return self._reds[digest]
