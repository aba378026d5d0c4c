"""
Count how far a cold miss travels through the code: `python -m benchmarks.trace`.

It requests a picture that is neither cached nor fetched. Another request before it has warmed up the process. It counts
the calls into our own code on the edge's event loop, the functions and modules that they reach, and the changes of
module: a call into another module than the call before. Render processes and threads do not count. The embedded library
is the origin.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import uvloop
from pydantic import SecretStr

import imgproxy
from benchmarks.photos import DEMO_24MP
from benchmarks.servers import free_port
from imgproxy.config.origin import OriginSettings
from imgproxy.config.sections import CacheSettings, LogSettings, RenderSettings, ServerSettings
from imgproxy.config.settings import Settings
from imgproxy.edge.app import Edge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import FrameType

SOURCE = str(Path(imgproxy.__file__).parent) + "/"


@dataclass(slots=True)
class Trace:
    """The counts of calls that `sys.setprofile` reports."""

    calls: int = 0
    changes: int = 0
    functions: set[str] = field(default_factory=set)
    modules: Counter[str] = field(default_factory=Counter)
    last: str = ""

    def see(self, frame: FrameType, event: str, _argument: object) -> None:
        """Count a call into our own code."""
        name = frame.f_code.co_filename
        if event != "call" or not name.startswith(SOURCE):
            return
        module = name.removeprefix(SOURCE)
        self.calls += 1
        self.functions.add(f"{module}:{frame.f_code.co_qualname}")
        self.modules[module] += 1
        self.changes += module != self.last
        self.last = module


async def measure() -> Trace:
    """Request one cold miss, and return its trace."""
    trace = Trace()
    with tempfile.TemporaryDirectory(prefix="imgproxy-trace-") as folder:
        photos = _photos(Path(folder, "photos"))
        async with _library(photos) as url:
            settings = Settings(
                server=ServerSettings(port=0),
                origin=OriginSettings(url=url, token=SecretStr("trace")),
                cache=CacheSettings(dir=Path(folder, "cache")),
                render=RenderSettings(processes=1),
                log=LogSettings(level="error", access="none"),
            )
            async with Edge(settings) as edge, aiohttp.ClientSession() as session:
                for name in ("first.jpg", "second.jpg"):
                    photo = f"{edge.url}/{name}?w={800 + len(name)}&fm=jpg"
                    sys.setprofile(trace.see if name == "second.jpg" else None)
                    async with session.get(photo) as response:
                        assert response.status == 200, await response.text()
                        await response.read()
                    sys.setprofile(None)
    return trace


def _photos(folder: Path) -> Path:
    """Make a folder with two copies of a photo."""
    folder.mkdir()
    for name in ("first.jpg", "second.jpg"):
        shutil.copyfile(DEMO_24MP, folder / name)
    return folder


@contextlib.asynccontextmanager
async def _library(photos: Path) -> AsyncIterator[str]:
    """Run the embedded library in a process of its own."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "imgproxy.cli", "library", str(photos), "--port", str(port), "--token", "trace",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(30):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    await session.get(f"http://127.0.0.1:{port}/")
                    break
                await asyncio.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


def main() -> None:
    """Print the counts, and the modules with their number of calls."""
    trace = uvloop.run(measure())
    print(f"{trace.calls} calls, {len(trace.functions)} functions, {len(trace.modules)} modules, "
          f"{trace.changes} changes of module")  # fmt: skip
    for module, count in trace.modules.most_common():
        print(f"{count:6} {module}")


if __name__ == "__main__":
    main()
