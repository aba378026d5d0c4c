"""
A render process from the outside: start it, hand it a job, read what it says, end it.

An asyncio protocol, so that no thread stands between a finished render and the request that waits for it. It knows
nothing of queues; the pool gives it one job at a time.
"""

from __future__ import annotations

import asyncio
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

# A process that has not loaded libvips by then never will.
START_TIMEOUT_S: Final = 30.0

# What a render process may inherit. The rest stays behind: it may hold tokens, and it may hold VIPS_* or G_* switches
# that open what `vips.prepare` closes.
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
    # One thread of pixels a process: N processes on N cores beat N processes of M threads, and use less memory.
    "VIPS_CONCURRENCY": "1",
    # Decoded pictures stay in memory, where the watchdog counts them; libvips would spill to /tmp beyond 100 MB.
    "VIPS_DISC_THRESHOLD": "64g",
    # glibc's allocator keeps what a large picture needed between what small ones still need, and more with each kind of
    # job: 190 MB after 350 mixed renders, and rising. With one arena for the few threads, whole planes of pixels in
    # mappings of their own, and the free end given back, it stays between 80 and 95 MB, at the same CPU. Each name also
    # ends glibc's own adjusting of its threshold. Other allocators do not read these. Source: mallopt(3).
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
}


class ProcessStartError(Exception):
    """A render process ended, or said nothing, before it was ready: the installation is broken."""


class RenderProcess(asyncio.Protocol):
    """
    One render process.

    `on_message` hears everything it says about the job it has; `on_exit` hears once that it is gone, with the exit
    status that subprocess gives (negative: the signal). `core` is the one that it keeps to, if any; it has the
    descriptors `inherited` of the edge's.
    """

    def __init__(
        self,
        on_message: Callable[[RenderProcess, Message], None],
        on_exit: Callable[[RenderProcess, int], None],
        core: int | None = None,
        inherited: tuple[int, ...] = (),
    ) -> None:
        self._on_message = on_message
        self._on_exit = on_exit
        self._core = core
        self._inherited = inherited
        self._buffer = bytearray()
        self._targets: tuple[RenderTarget, ...] = ()
        self._transport: asyncio.Transport | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[str] = loop.create_future()
        self._drained: asyncio.Future[None] = loop.create_future()
        self.is_gone = False

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
        """Start the process and watch it. Never cancelled halfway, so that neither it nor its socket is lost."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._child = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # a folder here that is named as a module of the library would be imported in its place
                    "-m",
                    "imgproxy.render.child",
                    str(theirs.fileno()),
                    *([] if self._core is None else [str(self._core)]),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), *self._inherited),
                    env=child_environment(),
                    # In our session, or its niceness would mean nothing: see `scheduling.step_back`.
                )
        except BaseException:
            ours.close()
            raise
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
        self._watcher = asyncio.create_task(self._watch(self._child))

    async def _end_early(self, spawned: asyncio.Task[None]) -> None:
        await asyncio.wait([spawned])
        self.kill()
        await self.gone()

    @property
    def pid(self) -> int:
        """The process's id; 0 before it was started."""
        return self._child.pid if self._child else 0

    def give(self, job: RenderJob) -> None:
        """Hand over a job. The process must be idle."""
        self._targets = job.targets
        self._send(channel.pack_job(job))

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        if self._child is not None and self._child.returncode is None and not self.is_gone:
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
        status = await child.wait()
        await self._drained  # its last words are read first: they may say why it ended
        self.is_gone = True
        if self._ready.done():
            self._on_exit(self, status)
        else:
            self._ready.set_exception(ProcessStartError(f"a render process ended with status {status} as it started"))
            self._ready.exception()  # whoever waited may have left

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its class

    def data_received(self, data: bytes) -> None:
        """Cut the stream into messages; a process that sends anything else is ended."""
        self._buffer += data
        try:
            while (payload := self._next_payload()) is not None:
                for message in channel.decode(payload, self._targets):
                    self._hear(message)
        except BadMessageError:
            self._buffer.clear()
            self.kill()

    def _hear(self, message: Message) -> None:
        if not isinstance(message, Ready):
            self._on_message(self, message)
        elif not self._ready.done():
            self._ready.set_result(message.libvips_version)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol gives it
        """Both sides have closed, and everything that was said has been heard."""
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
    """The environment of a render process: the allowed part of ours, and what libvips needs."""
    return {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ} | SET_ENVIRONMENT
