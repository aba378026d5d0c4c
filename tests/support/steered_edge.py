"""
`imgproxy serve` as it is, with failpoints that a test steers over a socket.

    python -m tests.support.steered_edge DESCRIPTOR serve -c FILE

The test writes commands on the socket with this descriptor, one on a line. Each is answered by `done`:

    hold POINT | release POINT

Whatever reaches a held point stops there and says `arrived POINT`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from functools import partial

from imgproxy.cli.__main__ import main
from imgproxy.edge import app
from imgproxy.failpoints import Failpoints, Point, Step


class Steering(Failpoints):
    """The held points. The commands are read by a thread; requests wait on the event loop."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held: set[str] = set()
        self._waiting: list[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._lock = threading.Lock()

    async def reach(self, point: Point | Step, key: str) -> None:
        """Stop here if the point is held."""
        del key
        gate = asyncio.Event()
        with self._lock:
            if point not in self._held:
                return
            self._waiting.append((point, asyncio.get_running_loop(), gate))
            self._say(f"arrived {point}")
        await gate.wait()

    def obey(self) -> None:
        """Follow commands until the test has ended."""
        with os.fdopen(os.dup(self._descriptor), encoding="utf-8") as commands:
            for line in commands:
                command, _, point = line.strip().partition(" ")
                with self._lock:
                    if command == "hold":
                        self._held.add(point)
                    else:
                        self._release(point)
                    self._say("done")

    def _release(self, point: str) -> None:
        self._held.discard(point)
        for _, loop, gate in (each for each in self._waiting if each[0] == point):
            loop.call_soon_threadsafe(gate.set)
        self._waiting = [each for each in self._waiting if each[0] != point]

    def _say(self, text: str) -> None:
        os.write(self._descriptor, f"{text}\n".encode())


def run() -> None:
    """Serve."""
    steering = Steering(int(sys.argv[1]))
    sys.argv = ["imgproxy", *sys.argv[2:]]
    # `serve` makes the edge without failpoints: it gets these.
    app.Edge = partial(app.Edge, failpoints=steering)  # type: ignore[misc, assignment]
    threading.Thread(target=steering.obey, daemon=True).start()
    main()


if __name__ == "__main__":
    run()
