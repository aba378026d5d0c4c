"""
Render processes that outlive their edge: the next edge of this test process uses them again.

To start one takes 0.25 s of CPU, more than most tests that need one. A render process knows nothing of the edge that
it works for but its limits, so one with the same limits and the same environment is as good as a new one. It is used
again only if it was idle and asked to end. One that was killed, that has crashed or that has grown is replaced.

    edge = Edge(settings, render_process=KeptProcess)

Tests of how render processes start, end and are counted use `RenderProcess`, as the service does.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, cast

from imgproxy.workers.channel import Failed, Finished, Ready
from imgproxy.workers.process import STDERR_BYTES, RenderProcess, child_environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.workers.channel import Message
    from imgproxy.workers.job import ProcessLimits

# Three nodes with one process each, and some more of other limits.
KEPT_MAX: Final = 5
# A process that has more memory than this has drawn something large. It has 45 MB when it starts.
KEPT_BYTES: Final = 150_000_000


@dataclass(slots=True, eq=False)
class Running:
    """A render process that runs: our end of its socket, and its standard error."""

    limits: ProcessLimits
    environment: dict[str, str]
    popen: subprocess.Popen[bytes]
    link: socket.socket
    libvips_version: str = ""

    def end(self) -> None:
        """Let it end, and wait for that."""
        self.link.close()
        self.popen.wait()
        assert self.popen.stderr is not None
        self.popen.stderr.close()


@dataclass(slots=True)
class Stock:
    """The processes that no edge uses now. The last one is taken first."""

    kept: list[Running] = field(default_factory=list)

    def take(self, limits: ProcessLimits) -> Running | None:
        """Return a process with these limits and today's environment."""
        environment = child_environment()
        for running in reversed(self.kept):
            if running.limits == _of_any_process(limits) and running.environment == environment:
                self.kept.remove(running)
                if running.popen.poll() is None:
                    return running
                running.end()
        return None

    def keep(self, running: Running) -> None:
        """Keep a process that is idle. The one that was used longest ago may have to go."""
        self.kept.append(running)
        while len(self.kept) > KEPT_MAX:
            self.kept.pop(0).end()

    def end_all(self) -> None:
        """End every process."""
        while self.kept:
            self.kept.pop().end()


STOCK: Final = Stock()
atexit.register(STOCK.end_all)


def _of_any_process(limits: ProcessLimits) -> ProcessLimits:
    """Return limits without what the first process of a pool does once."""
    return replace(limits, warns_of_fonts=False)


def _start(limits: ProcessLimits) -> Running:
    """Start a process, with the command of RenderProcess."""
    ours, theirs = socket.socketpair()
    environment = child_environment()
    with theirs:
        popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "imgproxy.render.child", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
            env=environment,
        )
    return Running(_of_any_process(limits), environment, popen, ours)


class _Child:
    """A process as `asyncio.subprocess.Process` shows it, on the loop of the edge that uses it now."""

    def __init__(self, running: Running) -> None:
        assert running.popen.stderr is not None
        self.running = running
        self.stderr = asyncio.StreamReader()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = os.pidfd_open(running.popen.pid)
        self._pipe = running.popen.stderr.fileno()
        os.set_blocking(self._pipe, False)
        self._loop.add_reader(self._pidfd, self._note_end)
        self._loop.add_reader(self._pipe, self._read_stderr)

    @property
    def pid(self) -> int:
        return self.running.popen.pid

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    def kill(self) -> None:
        self.running.popen.kill()

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def leave(self) -> None:
        """Go, as the edge sees it."""
        self._detach(0)

    def _note_end(self) -> None:
        status = self.running.popen.wait()
        self._detach(status)
        self.running.end()

    def _detach(self, status: int) -> None:
        if self._ended.done():
            return
        self._read_stderr()
        self._loop.remove_reader(self._pidfd)
        self._loop.remove_reader(self._pipe)
        os.close(self._pidfd)
        self.stderr.feed_eof()
        self._ended.set_result(status)

    def _read_stderr(self) -> None:
        try:
            while text := os.read(self._pipe, STDERR_BYTES):
                self.stderr.feed_data(text)
        except BlockingIOError:
            return
        self._loop.remove_reader(self._pipe)  # the process has closed it


class KeptProcess(RenderProcess):
    """A render process which is kept for the next edge if it is idle when this one dismisses it."""

    def __init__(
        self,
        on_message: Callable[[RenderProcess, Message], None],
        on_exit: Callable[[RenderProcess, int], None],
    ) -> None:
        super().__init__(self._note_memory, on_exit)
        self._tell = on_message
        self._running: Running | None = None
        self._resident_bytes = 0

    async def start(self, limits: ProcessLimits) -> str:
        """Take a process that is kept, or start one."""
        self._running = STOCK.take(limits)
        if self._running is None:
            self._running = _start(limits)
            self._running.libvips_version = await super().start(limits)
        else:
            await self._spawn()
            self._note_ready(Ready(self._running.libvips_version))
        return self._running.libvips_version

    def dismiss(self) -> None:
        """Leave the process to the next edge, unless it has grown. Then it ends."""
        assert self._running is not None
        super().dismiss()
        child = cast("_Child", self._child)
        if self._resident_bytes > KEPT_BYTES:
            self._running.link.close()
        elif child.returncode is None:
            child.leave()
            STOCK.keep(self._running)

    async def _spawn(self) -> None:
        """Connect to the process, on this loop. The stock keeps its own copy of the socket, so it stays open."""
        assert self._running is not None
        self._child = cast("asyncio.subprocess.Process", _Child(self._running))
        link = self._running.link.dup()
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=link)
        self._watcher = asyncio.create_task(self._watch(self._child))

    def _note_memory(self, process: RenderProcess, message: Message) -> None:
        if isinstance(message, (Finished, Failed)):
            self._resident_bytes = message.resident_bytes
        self._tell(process, message)
