"""
The queue of one cache in front in a cluster: its lines are shared, and one node at a time works on them.

    purge at any node  ->  its lines are released  ->  the node that has the turn sends them  ->  all nodes hear of it

A node keeps its turn while it lives. When it ends it gives the turn back, and when it dies the turn runs out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from imgproxy.background import Background
from imgproxy.cluster.log import LogUnavailable
from imgproxy.purge.downstream.queue import Confirmation, TargetQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiolimiter import AsyncLimiter

    from imgproxy.cluster.facts import SharedOutbox
    from imgproxy.purge.downstream.calls import Coverage, Send
    from imgproxy.purge.downstream.queue import TargetSettings
    from imgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# A turn is renewed three times while it lasts.
RENEWALS = 3
# A node that waits for its turn asks for it no more often than this, however many news there are.
TURN_AGAIN_S = 0.25
# After a call of the database that failed.
AGAIN_S = 1.0
# At its end a node waits no longer for the database.
END_S = 2.0
UNREACHABLE = "the database of the cluster cannot be reached"


class SharedQueue(TargetQueue):
    """The purges of all nodes that one target has to confirm."""

    def __init__(
        self,
        settings: TargetSettings,
        coverage: Coverage,
        outbox: SharedOutbox,
        send: Send,
        *,
        held_s: float,
        again_after_s: float,
        metrics: Metrics,
        make_limiter: Callable[[], AsyncLimiter | None],
        turn_s: float,
    ) -> None:
        """Set up the queue. The arguments are those of a TargetQueue. A turn that is not renewed lasts for `turn_s`."""
        super().__init__(settings, coverage, outbox, send, held_s=held_s, again_after_s=again_after_s, metrics=metrics)
        self._shared = outbox
        self._make_limiter = make_limiter
        self._turn_s = turn_s
        self._turn = asyncio.Event()
        self._turn_news = asyncio.Event()
        self._look = asyncio.Event()
        self._awaited: dict[Confirmation, int] = {}  # by the number of their purge
        self._background = Background(f"turns at {self.name}")

    async def start(self) -> None:
        """Begin to work on the lines when it is this node's turn."""
        self._background.begin(self._keep_turn)
        self._background.begin(self._look_for_confirmations)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop, and let another node go on at once."""
        await super().close()
        await self._background.close()
        try:
            async with asyncio.timeout(END_S):
                await self._shared.end_turn(self.name)
        except (LogUnavailable, TimeoutError):
            log.info("the turn at %s could not be given back; it runs out", self.name)

    @property
    def has_turn(self) -> bool:
        """Whether this node works on the target."""
        return self._turn.is_set()

    def hear(self) -> None:
        """Lines may have been released or confirmed, or a turn has ended."""
        self._news.set()
        self._look.set()
        if not self.has_turn:
            self._turn_news.set()

    async def _release(self, confirmation: Confirmation, seq: int) -> None:
        try:
            await self._shared.release(self.name, confirmation.remaining, seq)
        except LogUnavailable:
            confirmation.failure = UNREACHABLE
            return
        self._awaited[confirmation] = seq
        self._look.set()
        try:
            await confirmation.ended.wait()
        finally:
            del self._awaited[confirmation]

    async def _look_for_confirmations(self) -> None:
        """Find out, for ever, what the node that has the turn has done. One look is for all purges that wait."""
        while True:
            await self._look.wait()
            self._look.clear()
            awaited = dict(self._awaited)
            try:
                waiting = await self._shared.unconfirmed(min(awaited.values())) if awaited else ()
            except LogUnavailable:
                await asyncio.sleep(AGAIN_S)
                self._look.set()
                continue
            left = {subject for target, subject in waiting if target == self.name}
            for confirmation in awaited:
                if confirmation.remaining.isdisjoint(left):
                    confirmation.ended.set()

    # --- the turn ----------------------------------------------------------------------------------------------

    async def _keep_turn(self) -> None:
        """Take the turn when it is free, and keep it, for ever."""
        ends_at_s = 0.0
        while True:
            self._turn_news.clear()
            asked_at_s = time.monotonic()
            try:
                if await self._shared.take_turn(self.name, self._turn_s):
                    ends_at_s = asked_at_s + self._turn_s
                    await self._begin_turn()
                else:
                    ends_at_s = 0.0
                    await asyncio.sleep(TURN_AGAIN_S)
            except LogUnavailable:
                pass  # until its end it is this node's turn
            except Exception:
                log.exception("the turn at %s cannot be taken", self.name)
            if time.monotonic() >= ends_at_s:
                self._turn.clear()
            try:
                async with asyncio.timeout(self._turn_s / RENEWALS):
                    await self._turn_news.wait()
            except TimeoutError:
                await self._read_figures()

    async def _read_figures(self) -> None:
        with suppress(LogUnavailable):
            self.figures = await self._shared.figures(self.name)

    async def _begin_turn(self) -> None:
        if self.has_turn:
            return
        # Nobody knows how many calls the node before has just made, so the burst that the target allows is used up.
        self._limiter = self._make_limiter()
        if self._limiter is not None:
            await self._limiter.acquire(self._limiter.max_rate)
        self._turn.set()

    # --- the loop ----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            await self._turn.wait()
            await super()._work()
        except LogUnavailable as error:
            log.info("purges of %s are held up: %s", self.name, error)
            await asyncio.sleep(AGAIN_S)

    async def _wait_for_permission(self) -> None:
        await super()._wait_for_permission()
        await self._turn.wait()
