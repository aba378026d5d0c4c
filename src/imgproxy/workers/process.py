"""
A render process as the edge sees it: start it, send it a job, read its messages, end it.

It is an asyncio protocol, so a finished render reaches the request that waits for it without a thread. The pool sends
one job at a time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import socket
import sys
from typing import TYPE_CHECKING, Final, cast

from imgproxy.workers import channel
from imgproxy.workers.channel import BadMessageError, Message, Ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.workers.job import ProcessLimits, RenderJob, RenderTarget

log = logging.getLogger(__name__)

# The most that is read at once of what a process writes to standard error: one record of the log.
STDERR_BYTES: Final = 4096
# The pause after each read: a process that a picture has taken over must not keep the event loop busy.
STDERR_PAUSE_S: Final = 0.05
# After its end, its last lines are read for this long.
LAST_LINES_S: Final = 0.2

# A process that is not ready after this time counts as broken.
START_TIMEOUT_S: Final = 30.0

# The environment variables that a render process inherits. Others may hold tokens, or VIPS_* and G_* switches that
# allow what `vips.prepare` blocks.
KEPT_ENVIRONMENT: Final = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TMPDIR",
    "PYTHONHOME",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "MALLOC_CONF",
    "FONTCONFIG_FILE",
    "FONTCONFIG_PATH",
    "XDG_CACHE_HOME",
    "XDG_DATA_DIRS",
)

SET_ENVIRONMENT: Final = {
    # One thread for pixels in each process: N processes on N cores are faster than N processes with more threads, and
    # use less memory.
    "VIPS_CONCURRENCY": "1",
    # Decoded pictures stay in memory, where the watchdog counts them. libvips would write those over 100 MB to /tmp.
    "VIPS_DISC_THRESHOLD": "64g",
    # No warnings on stderr: a damaged file causes hundreds, with bytes of the file in them.
    "VIPS_WARNING": "1",
    # glibc cannot return free memory between small blocks that are in use: a process had 190 MB after 350 mixed renders
    # and grew further. These three keep it between 80 and 95 MB, at the same CPU: one arena; a mapping of its own for
    # each large block; free memory at the end of the heap is returned. glibc does not adjust a threshold that is set.
    # Other allocators ignore these variables. Source: mallopt(3).
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
}


class ProcessStartError(Exception):
    """A render process ended or sent nothing before it was ready. The installation is broken."""


class RenderProcess(asyncio.Protocol):
    """
    One render process.

    `on_message` is called with each message about its job. `on_exit` is called once when the process is gone, with its
    exit status (negative: the signal).
    """

    def __init__(
        self,
        on_message: Callable[[RenderProcess, Message], None],
        on_exit: Callable[[RenderProcess, int], None],
    ) -> None:
        self._on_message = on_message
        self._on_exit = on_exit
        self._buffer = bytearray()
        self._targets: tuple[RenderTarget, ...] = ()
        self._transport: asyncio.Transport | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[str] = loop.create_future()
        self._drained: asyncio.Future[None] = loop.create_future()

    async def start(self, limits: ProcessLimits) -> str:
        """
        Start the process and wait until it is ready; return its libvips version.

        Raises ProcessStartError.
        """
        spawned = asyncio.create_task(self._spawn())
        try:
            await asyncio.shield(spawned)
            self._send(pickle.dumps(limits))
            return await asyncio.wait_for(asyncio.shield(self._ready), START_TIMEOUT_S)
        except TimeoutError as exc:
            await self._end_early(spawned)
            raise ProcessStartError("a render process did not become ready") from exc
        except asyncio.CancelledError:
            await self._end_early(spawned)
            raise

    async def _spawn(self) -> None:
        """Start the process and watch it. This is never cancelled, or the process or its socket would be lost."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._child = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # do not import from the working directory: a folder there may have a module's name
                    "-m",
                    "imgproxy.render.child",
                    str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    # Not our own standard error: if the reader of the log stalls, renders must go on.
                    stderr=asyncio.subprocess.PIPE,
                    pass_fds=(theirs.fileno(),),
                    env=child_environment(),
                )
        except BaseException:
            ours.close()
            raise
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
        self._watcher = asyncio.create_task(self._watch(self._child))

    async def _log_stderr(self, child: asyncio.subprocess.Process) -> None:
        """Log what the process and its libraries write to standard error, until it ends."""
        assert child.stderr is not None
        while text := await child.stderr.read(STDERR_BYTES):
            log.warning("render process %d: %s", child.pid, text.decode(errors="replace").rstrip())
            await asyncio.sleep(STDERR_PAUSE_S)

    async def _end_early(self, spawned: asyncio.Task[None]) -> None:
        await asyncio.wait([spawned])
        self.kill()
        await self.gone()

    @property
    def pid(self) -> int:
        """The process id; 0 before the start."""
        return self._child.pid if self._child else 0

    def give(self, job: RenderJob) -> None:
        """Send a job. The process must be idle."""
        self._targets = job.targets
        self._send(pickle.dumps(job))

    def kill(self) -> None:
        """End the process at once."""
        if self._child is not None and self._child.returncode is None:
            self._child.kill()

    def dismiss(self) -> None:
        """Ask an idle process to end, by closing its socket."""
        if self._transport is not None:
            self._transport.close()

    async def gone(self) -> None:
        """Wait until the process is gone and reaped."""
        if self._watcher is not None:
            await asyncio.shield(self._watcher)

    def _send(self, payload: bytes) -> None:
        assert self._transport is not None
        self._transport.write(channel.frame(payload))

    async def _watch(self, child: asyncio.subprocess.Process) -> None:
        last_lines = asyncio.create_task(self._log_stderr(child))
        status = await child.wait()
        await asyncio.wait((last_lines,), timeout=LAST_LINES_S)
        last_lines.cancel()
        await self._drained  # read its last messages first: they may say why it ended
        if self._ready.done():
            self._on_exit(self, status)
        else:
            self._ready.set_exception(ProcessStartError(f"a render process ended with status {status} as it started"))
            self._ready.exception()  # the caller of `start` may have been cancelled

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another class

    def data_received(self, data: bytes) -> None:
        """Cut the stream into messages. A process that sends something else is killed."""
        self._buffer += data
        try:
            while (payload := self._next_payload()) is not None:
                for message in channel.decode(payload, self._targets):
                    if isinstance(message, Ready):
                        self._note_ready(message)
                    else:
                        self._on_message(self, message)
        except BadMessageError:
            self._buffer.clear()
            self.kill()

    def _note_ready(self, message: Ready) -> None:
        if not self._ready.done():
            self._ready.set_result(message.libvips_version)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - from the protocol
        """Both sides have closed, and all messages have been read."""
        if not self._drained.done():
            self._drained.set_result(None)

    def _next_payload(self) -> bytes | None:
        if len(self._buffer) < channel.LENGTH.size:
            return None
        (size_bytes,) = channel.LENGTH.unpack_from(self._buffer)
        if size_bytes > channel.MESSAGE_MAX_BYTES:
            raise BadMessageError("too long")
        end = channel.LENGTH.size + size_bytes
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[channel.LENGTH.size : end])
        del self._buffer[:end]
        return payload


def child_environment() -> dict[str, str]:
    """Return the environment of a render process: the allowed part of the edge's, and the settings for libvips."""
    return {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ} | SET_ENVIRONMENT
