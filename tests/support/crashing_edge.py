"""
An edge that holds requests and kills itself on command. Run it with `python -m`.

The environment configures it. It reads commands from standard input, one on a line, and answers on standard output:

    hold POINT | release POINT | arrived POINT COUNT     failpoints; `arrived` is answered when so many are held there
    die STEP before|after                                kill itself at the next call of the step
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from imgproxy.cache import trash
from imgproxy.config.load import load
from imgproxy.edge.app import Edge
from imgproxy.failpoints import Point
from tests.support.site import Held

if TYPE_CHECKING:
    from collections.abc import Callable


def steps_of(edge: Edge) -> dict[str, tuple[Any, str]]:
    """Return the functions of the steps of a commit and of a purge: owner and name."""
    cache = edge.cache
    return {
        "begin-file": (cache.store, "temp_path"),
        "commit-original": (cache.store, "commit_original"),
        "commit-facts": (cache.store, "commit_facts"),
        "put-in-place": (cache.store, "put_in_place"),
        "commit-variant": (cache.store, "commit_variant"),
        "record": (cache.journal, "record_purge"),
        "record-order": (cache.journal, "record_order"),
        "confirm": (edge.originals, "confirm"),
        "rename-away": (cache.store, "detach"),
        "remember-keys": (cache.journal, "remember_keys"),
        "drain": (edge.answers, "drain"),
        "delete": (trash, "delete_directories"),
        "sync": (trash, "sync_directories"),
        "collected": (cache.journal, "mark_collected"),
    }


def die() -> None:
    """End at once by SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(owner: Any, name: str, when: str) -> None:
    """Replace a function by one that dies before or after it."""
    function: Callable[..., Any] = getattr(owner, name)

    async def awaited(*args: Any, **named: Any) -> Any:
        if when == "before":
            die()
        result = await function(*args, **named)
        die()
        return result

    def called(*args: Any, **named: Any) -> Any:
        if when == "before":
            die()
        result = function(*args, **named)
        die()
        return result

    setattr(owner, name, awaited if inspect.iscoroutinefunction(function) else called)


async def obey(edge: Edge, held: Held) -> None:
    """Follow the commands on standard input until it ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    waits: set[asyncio.Task[None]] = set()
    while line := (await reader.readline()).decode().split():
        if line[0] == "die":
            die_at(*steps_of(edge)[line[1]], line[2])
        elif line[0] == "hold":
            held.hold(Point(line[1]))
        elif line[0] == "release":
            held.release(Point(line[1]))
        else:
            waits.add(asyncio.create_task(say_arrived(held, Point(line[1]), int(line[2]))))
            continue
        say("done")


async def say_arrived(held: Held, point: Point, count: int) -> None:
    """Answer `arrived`."""
    await held.arrived(point, count)
    say(f"arrived {point}")


def say(text: str) -> None:
    """Write one line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def main() -> None:
    """Serve until standard input ends."""
    held = Held()
    async with Edge(load(None), failpoints=held) as edge:
        say(f"url {edge.url}")
        await obey(edge, held)


if __name__ == "__main__":
    asyncio.run(main())
