"""
News from the database: one connection that listens, and is made again when it ends.

A notification that is lost is no error. Whoever listens looks at the log from time to time anyway, and is called after
each new connection.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any, Final

from imgproxy.cluster.log import LogUnavailable
from imgproxy.cluster.postgres_errors import DRIVER_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from imgproxy.cluster.postgres_database import Database

log = logging.getLogger(__name__)

RETRY_FIRST_S: Final = 0.25
RETRY_MAX_S: Final = 10.0
# A connection that was cut without a word is found by a statement this often.
PROBE_S: Final = 10.0
PROBE_TIMEOUT_S: Final = 5.0


class Listener:
    """Listens on channels. It starts with the first one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._calls: dict[str, Callable[[], None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self.is_listening = False

    def listen(self, channels: Iterable[str], on_news: Callable[[], None]) -> None:
        """Call `on_news` for each notification on these channels, and after each new connection."""
        self._calls |= dict.fromkeys(channels, on_news)
        self._changed.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        wait_s = RETRY_FIRST_S
        while True:
            try:
                await self._listen_once()
            except (LogUnavailable, *DRIVER_ERRORS) as error:
                log.debug("no news from the cluster's database: %s", error)
            except Exception:
                log.exception("the connection for news of the cluster failed")
            wait_s = RETRY_FIRST_S if self.is_listening else min(wait_s * 2, RETRY_MAX_S)
            self.is_listening = False
            await asyncio.sleep(random.uniform(wait_s / 2, wait_s))

    async def _listen_once(self) -> None:
        """Connect, and call back until the connection ends. Raises when the server does not answer a probe."""
        driver = (await self._database.connect()).driver
        driver.add_termination_listener(lambda _connection: self._changed.set())
        try:
            while not driver.is_closed():
                self._changed.clear()
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    for channel in self._calls:
                        await driver.add_listener(channel, self._heard)
                self.is_listening = True
                for call in set(self._calls.values()):
                    call()
                await self._wait(driver)
        finally:
            driver.terminate()

    async def _wait(self, driver: Any) -> None:
        """Wait until the connection has ended or a channel was added. Probe the server meanwhile."""
        while not self._changed.is_set():
            try:
                async with asyncio.timeout(PROBE_S):
                    await self._changed.wait()
            except TimeoutError:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await driver.execute("SELECT 1")

    def _heard(self, _connection: object, _process: int, channel: str, _payload: str) -> None:
        call = self._calls.get(channel)
        if call is not None:
            call()
