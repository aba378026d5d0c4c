"""
A process behind Content Credentials as the edge sees it: start it, send it frames, receive frames, end it.

Both processes, `manifests.builder` and `manifests.signer`, are started so. The caller asks one thing at a time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from imgproxy.credentials.messages import MESSAGE_MAX_BYTES
from imgproxy.workers.channel import LENGTH, frame
from imgproxy.workers.process import child_environment

if TYPE_CHECKING:
    from collections.abc import Coroutine

log = logging.getLogger(__name__)

# The most that is read at once of what a process writes to standard error: one record of the log.
STDERR_BYTES: Final = 4096
# The pause after each read: a process that a picture has taken over must not keep the event loop busy.
STDERR_PAUSE_S: Final = 0.05


class ProcessGoneError(Exception):
    """The process has ended, or sent what is no frame."""


class CredentialsProcess:
    """One process, and its channel."""

    def __init__(
        self, child: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._child = child
        self._reader = reader
        self._writer = writer
        self._lines = asyncio.create_task(self._log_stderr())

    @classmethod
    async def start(cls, module: str) -> CredentialsProcess:
        """Start `python -m module`. It gets the descriptor of its end of the channel as its argument."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                child = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # do not import from the working directory: a folder there may have a module's name
                    "-m",
                    module,
                    str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    pass_fds=(theirs.fileno(),),
                    env=child_environment(),
                )
        except BaseException:
            ours.close()
            raise
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return cls(child, reader, writer)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._child.returncode is not None

    def send(self, payload: bytes) -> None:
        """Send one frame."""
        self._writer.write(frame(payload))

    async def receive(self) -> bytes:
        """
        Return the next frame.

        Raises ProcessGoneError: the process has ended, or its frame is too long.
        """
        try:
            (size_bytes,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            if size_bytes > MESSAGE_MAX_BYTES:
                raise ProcessGoneError("a frame that is too long")
            return await self._reader.readexactly(size_bytes)
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            raise ProcessGoneError("ended") from exc

    async def ask(self, payload: bytes) -> bytes:
        """Send one frame and return the next one. Raises ProcessGoneError."""
        self.send(payload)
        return await self.receive()

    async def close(self) -> None:
        """End the process at once, and wait until it is gone."""
        self._writer.close()
        with suppress(ProcessLookupError):
            self._child.kill()
        await asyncio.shield(_all(self._child.wait(), self._lines))

    async def _log_stderr(self) -> None:
        """Log what the process and its libraries write to standard error, until it ends."""
        assert self._child.stderr is not None
        while text := await self._child.stderr.read(STDERR_BYTES):
            log.warning("process %d of content credentials: %s", self.pid, text.decode(errors="replace").rstrip())
            await asyncio.sleep(STDERR_PAUSE_S)


async def _all(*work: Coroutine[object, object, object] | asyncio.Task[None]) -> None:
    await asyncio.gather(*work, return_exceptions=True)
