"""Commands that run until a signal: their event loop, and why they cannot start."""

from __future__ import annotations

import asyncio
import errno
import resource
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from imgproxy.cache.journal_versions import NewerJournal

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from imgproxy.errors import CacheUnavailable


def run(work: Coroutine[object, object, int]) -> int:
    """Run on uvloop and return the exit code. Ctrl-C ends it without a traceback."""
    import uvloop  # noqa: PLC0415 other commands start faster without it

    _raise_descriptor_limit()
    try:
        return uvloop.run(work)
    except KeyboardInterrupt:
        return 130


def descriptors_max() -> int | None:
    """Return how many file descriptors this process may have once its limit is raised; None: no limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def _raise_descriptor_limit() -> None:
    """
    Raise the soft limit of file descriptors to the hard one.

    The usual soft limit is 1024, for programs that call select(2). The event loop uses epoll; each connection is one
    descriptor. Render processes have a limit of their own.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets. A second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number)
    return stop


def why_unavailable(error: CacheUnavailable) -> str:
    """Say in a few words why the cache directory cannot be used."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno == errno.EBUSY:
        return "another imgproxy is using this directory"
    if isinstance(cause, NewerJournal):
        return str(cause)
    reason = cause.strerror if isinstance(cause, OSError) else None
    return f"cannot be written ({reason or cause})"
