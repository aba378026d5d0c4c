"""
One node of a cluster as a process: a real `imgproxy serve` with a configuration file, a disk and two lines of its own.

Nothing of it is in the process of the test. It is asked over HTTP, killed, paused and started by signals, and its
failpoints are steered over a socket (steered_edge.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import signal
import socket
import sys
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from tests.support.site import ADMIN, SECRET, Reply, poll

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproxy.failpoints import Point, Step
    from tests.support.line import Line


ROOT = Path(__file__).parents[2]
# A machine that is busy with other things starts a cluster in a minute.
PATIENCE_S = 180.0


@dataclass(eq=False, slots=True)
class _Run:
    """One run of the process, and the test's end of its socket."""

    process: asyncio.subprocess.Process
    writer: asyncio.StreamWriter
    listener: asyncio.Task[None]


class ProcessNode:
    """
    A node. It keeps its name, port, disk and lines when it is started again.

        start() · stop() (SIGTERM, returns the status) · kill() (SIGKILL) · pause() (SIGSTOP) · go_on() (SIGCONT)
        heal() (undoes all of it)
        hold(point) · arrived(point) · release(point)     its failpoints
        send(…) · get(target) · purge(entry) · ready() · state() · metric(name) · current() · fenced()
        database, origin: its lines · log: what it has logged, all runs · url: its door
    """

    def __init__(
        self, name: str, config: Path, port: int, lines: tuple[Line, Line], session: aiohttp.ClientSession
    ) -> None:
        """`config` is its file for `serve -c`; `lines`: to the database, to the origin."""
        self.name = name
        self.config = config
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.database, self.origin = lines
        self.session = session
        self._run: _Run | None = None
        self._is_paused = False
        self._log_from = 0
        self._answers: deque[asyncio.Future[None]] = deque()
        self._holds: set[Point | Step] = set()
        self._arrivals: Counter[str] = Counter()
        self._came = asyncio.Condition()

    # --- life --------------------------------------------------------------------------------------------------

    async def start(self, *, is_current: bool = True, environ: Mapping[str, str] | None = None) -> None:
        """Start it, and wait until its door is open. `is_current`: wait also until it is current."""
        assert self._run is None, f"{self.name} is running"
        ours, theirs = socket.socketpair()
        with self._log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "tests.support.steered_edge", str(theirs.fileno())),
                *("serve", "-c", str(self.config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.config.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})},
                pass_fds=[theirs.fileno()],
            )
        theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        self._arrivals.clear()
        self._holds.clear()
        self._run = _Run(process, writer, asyncio.create_task(self._listen(reader)))
        await self.open()
        if is_current:
            await self.current()

    async def open(self) -> None:
        """Wait until its door is open."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                assert self.is_running, f"{self.name} has ended: {self.log}"
                with suppress(aiohttp.ClientError):
                    if (await self.get("/-/health")).status == 200:
                        return
                await asyncio.sleep(0.02)

    async def stop(self) -> int:
        """Let it end by SIGTERM, as a deployment does. Return its exit status."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End it at once, by SIGKILL. Do nothing if it is not running."""
        if self._run is not None:
            await self._end(signal.SIGKILL)

    def kill_now(self) -> None:
        """Send SIGKILL, without a wait: somebody else waits for its end."""
        os.kill(self.pid, signal.SIGKILL)

    async def gone(self) -> int:
        """Wait until it has ended by itself. Return its exit status."""
        assert self._run is not None
        run = self._run
        async with asyncio.timeout(PATIENCE_S):
            status = await run.process.wait()
        self._run, self._is_paused = None, False
        run.listener.cancel()
        await asyncio.gather(run.listener, return_exceptions=True)
        run.writer.close()
        return status

    async def _end(self, number: signal.Signals) -> int:
        assert self._run is not None
        with suppress(ProcessLookupError):
            self._run.process.send_signal(number)
        return await self.gone()

    async def pause(self) -> None:
        """Stop it by SIGSTOP, and wait until the kernel has stopped it. Its render processes go on, without work."""
        os.kill(self.pid, signal.SIGSTOP)
        self._is_paused = True
        await poll(lambda: Path(f"/proc/{self.pid}/stat").read_text("ascii").rpartition(")")[2].split()[0], "T".__eq__)

    def go_on(self) -> None:
        """Let it go on by SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)
        self._is_paused = False

    async def heal(self) -> None:
        """Undo what a test has done to it: its lines are whole, nothing is held, it runs. `messages` is empty."""
        for line in (self.database, self.origin):
            line.mend()
        if self._is_paused:
            self.go_on()
        if not self.is_running:
            await self.start(is_current=False)
        for point in list(self._holds):
            await self.release(point)
        await self.current()
        await poll(self.state, lambda found: found["purges_waiting"] == 0, within_s=PATIENCE_S)
        self._log_from = len(self.log)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._run is not None, f"{self.name} is not running"
        return self._run.process.pid

    @property
    def is_running(self) -> bool:
        """Whether its process is there, paused or not."""
        return self._run is not None and self._run.process.returncode is None

    @property
    def is_paused(self) -> bool:
        """Whether it was stopped by `pause`."""
        return self._is_paused

    # --- failpoints --------------------------------------------------------------------------------------------

    async def hold(self, point: Point | Step) -> None:
        """Hold whatever reaches this failpoint from now on."""
        self._arrivals[point] = 0
        self._holds.add(point)
        await self._command(f"hold {point}")

    async def release(self, point: Point | Step) -> None:
        """Let go what is held there, and hold no more."""
        self._holds.discard(point)
        await self._command(f"release {point}")

    async def arrived(self, point: Point | Step, count: int = 1) -> None:
        """Wait until so many are held there."""
        async with asyncio.timeout(PATIENCE_S), self._came:
            await self._came.wait_for(lambda: self._arrivals[point] >= count)

    async def _command(self, text: str) -> None:
        assert self._run is not None
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        self._run.writer.write(f"{text}\n".encode())
        async with asyncio.timeout(PATIENCE_S):
            await answer

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while line := (await reader.readline()).decode().strip():
                if line == "done":
                    self._answers.popleft().set_result(None)
                    continue
                async with self._came:
                    self._arrivals[line.partition(" ")[2]] += 1
                    self._came.notify_all()

    # --- over HTTP ---------------------------------------------------------------------------------------------

    async def send(self, method: str, target: str, **options: Any) -> Reply:
        """Send a request to its door. The target goes over the wire byte for byte. Raises aiohttp.ClientError."""
        async with self.session.request(method, URL(self.url + target, encoded=True), **options) as response:
            return Reply(response.status, response.headers, await response.read())

    async def get(self, target: str) -> Reply:
        """GET. Raises aiohttp.ClientError."""
        return await self.send("GET", target)

    async def purge(self, entry: str) -> Reply:
        """Purge an entry, as an operator does."""
        return await self.send("POST", f"/-/purge/entries/{entry}", headers=ADMIN)

    async def deliver(self, event: str, entry: str, delivery: str) -> Reply:
        """Deliver a signed webhook of Livingdocs."""
        body = json.dumps({"event": event, "deliveryId": delivery, "mediaId": entry, "projectId": 1}).encode()
        signature = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        headers = {"x-livingdocs-signature": signature}
        return await self.send("POST", "/-/webhooks/livingdocs", data=body, headers=headers)

    async def ready(self) -> dict[str, Any]:
        """Return what `/-/ready` says."""
        found: dict[str, Any] = (await self.get("/-/ready")).json()
        return found

    async def state(self) -> dict[str, Any]:
        """Return what `/-/status` says of the cluster."""
        found: dict[str, Any] = (await self.send("GET", "/-/status", headers=ADMIN)).json()["cluster"]
        return found

    async def receipt(self, number: int) -> dict[str, Any]:
        """Return a receipt by its number in the log."""
        found: dict[str, Any] = (await self.send("GET", f"/-/purges/{number}", headers=ADMIN)).json()
        return found

    async def receipts(self) -> list[dict[str, Any]]:
        """Return the latest receipts, the last one first."""
        found: list[dict[str, Any]] = (await self.send("GET", "/-/purges", headers=ADMIN)).json()["purges"]
        return found

    async def all_done(self) -> None:
        """Wait until no purge of this node is on its way, and each of its receipts says that it is done."""
        await poll(self.state, lambda found: found["purges_waiting"] == 0)
        await poll(self.receipts, lambda found: found and not any(each["pending"] for each in found))

    async def metric(self, sample: str) -> float:
        """Return a sample of `/-/metrics`, written as there, for example `imgproxy_cluster_current`; 0: not there."""
        text = (await self.send("GET", "/-/metrics", headers=ADMIN)).body.decode()
        return next((float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"{sample} ")), 0.0)

    async def current(self) -> None:
        """Wait until it is current."""
        await poll(self.ready, lambda found: not found["fenced"], within_s=PATIENCE_S)

    async def fenced(self) -> None:
        """Wait until it is fenced."""
        await poll(self.ready, lambda found: found["fenced"], within_s=PATIENCE_S)

    # --- its log -----------------------------------------------------------------------------------------------

    @property
    def _log_path(self) -> Path:
        return self.config.parent / f"{self.name}.log"

    @property
    def log(self) -> str:
        """Return what all its runs have logged."""
        return self._log_path.read_text("utf-8") if self._log_path.exists() else ""

    def messages(self, level: str) -> list[str]:
        """Return the messages that it has logged at this level (info, warning, error), since `heal`."""
        rows = [json.loads(line) for line in self.log[self._log_from :].splitlines() if line.startswith("{")]
        return [row["message"] for row in rows if row["level"] == level]
