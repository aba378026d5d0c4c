"""Running the edge as a process: start, wait for a signal, end."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import signal
import sys
from typing import TYPE_CHECKING

from imgproxy.edge.app import Edge
from imgproxy.errors import CacheUnavailable, ConfigError
from imgproxy.workers.process import ProcessStartError

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.config.load import Settings

log = logging.getLogger(__name__)

# How long a thread may keep the interpreter from another one that wants it. By default 5 ms: the loop would wait so
# long for the scan of the cache, and a purge, whose record is written in a thread, several times for a busy loop.
SWITCH_S = 0.000_5
# So many more objects than were freed make the collector look at the young ones, by default 700. Next to all of them
# are freed without it: looking less often takes 2 % off the edge's part in a miss.
GARBAGE_AT = 5_000


async def serve_until_stopped(settings: Settings, *, on_error: Callable[[str], int]) -> int:
    """
    Serve until SIGTERM or SIGINT, then finish what is in flight. Returns the exit code.

    `on_error` is told in one line why the service could not start, and gives the code for it.
    """
    sys.setswitchinterval(SWITCH_S)
    stop = stop_on_signals()
    try:
        edge = Edge(settings)
        await edge.__aenter__()
    except ConfigError as error:
        return on_error(str(error))
    except CacheUnavailable as error:
        return on_error(f"[cache] dir = {settings.cache.dir}: {why_unavailable(error)}")
    except ProcessStartError as error:
        return on_error(f"a render process did not start: {error}")
    except OSError as error:
        where = f"{settings.server.host}:{settings.server.port}"
        return on_error(f"[server] cannot listen on {where}: {error.strerror or error}")
    # What the start has made stays: the collector need not walk through it again, 20 ms in which no hit is answered.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AT, 10, 10)
    await stop.wait()
    log.info("stopping: finishing what is in flight")
    await edge.stop()
    return 0


def why_unavailable(error: CacheUnavailable) -> str:
    """Say in a few words why the cache cannot be used: another edge has it, or the system's reason."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno == errno.EBUSY:
        return "another imgproxy is using this directory"
    reason = cause.strerror if isinstance(cause, OSError) else None
    return f"cannot be written ({reason or cause})"


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets; a second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number)
    return stop
