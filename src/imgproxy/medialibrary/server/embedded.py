"""
A Media Library in this process: server, folder watch and webhooks start and stop together.

    async with EmbeddedLibrary(Path("photos"), tokens=[AccessToken("T")]) as library:
        print(library.url, library.entry_id("kodak-04.png"))
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web

from imgproxy.errors import ConfigError
from imgproxy.medialibrary import versions
from imgproxy.medialibrary.server.app import make_app
from imgproxy.medialibrary.server.faults import Faults
from imgproxy.medialibrary.server.keys import key_problem
from imgproxy.medialibrary.server.patch_body import PatchBody
from imgproxy.medialibrary.server.store import LibraryStore
from imgproxy.medialibrary.server.webhooks import Webhook, WebhookSender

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Any

    from imgproxy.medialibrary.operations import Operation
    from imgproxy.medialibrary.server.access import AccessToken
    from imgproxy.medialibrary.server.probe import Probe

SCAN_INTERVAL_S: Final = 1.0
SHUTDOWN_S: Final = 1.0
RESTART_S: Final = 1.0
LINE_MAX_BYTES: Final = 128 * 1024  # the longest valid target, with 12 bytes for each character

log = logging.getLogger(__name__)


class CannotListen(ConfigError):
    """The address is in use, or does not belong to this machine."""


@dataclass(slots=True)
class _Running:
    """What `stop` must end."""

    store: LibraryStore
    runner: web.AppRunner
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class EmbeddedLibrary:
    """
    A Media Library over a folder of pictures.

    Args:
        folder: each picture is an entry; its path in the folder is the key.
        host: the address to listen on.
        port: the port to listen on. 0 takes a free one, and keeps it after `stop` and `start`.
        tokens: the valid access tokens. Without any, every request is refused.
        webhook: the receiver of events, if any.
        latency_ms: the delay of each answer. `faults.latency_ms` may change at any time.
        fail_rate: the share of answers that are 503. `faults.fail_rate` may change at any time.
        state_dir: the folder of the database, `FOLDER/.imgproxy-library` by default.
        scan_interval_s: the pause between two scans of the folder. `rescan` scans at once.
        probe: holds answers and counts requests, for tests.
        oldest_version: earlier API versions answer 410.
        default_locale: the locale whose asset cannot be removed.
        is_lenient: whether to serve files that are not pictures.
        on_warning: called with a line for each file that cannot be used.

    Raises:
        ConfigError: by `start`, if the folder, the database or the port cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tokens: Sequence[AccessToken] = (),
        webhook: Webhook | None = None,
        latency_ms: float = 0.0,
        fail_rate: float = 0.0,
        state_dir: Path | None = None,
        scan_interval_s: float = SCAN_INTERVAL_S,
        probe: Probe | None = None,
        oldest_version: str = versions.API_VERSIONS[0],
        default_locale: str = "de",
        is_lenient: bool = False,
        on_warning: Callable[[str], None] = log.warning,
    ) -> None:
        self.folder = folder
        self.host = host
        self.port = port
        self.tokens = tuple(tokens)
        self.faults = Faults(latency_ms, fail_rate)
        self.probe = probe
        self._webhook = webhook
        self._state_dir = state_dir
        self._scan_interval_s = scan_interval_s
        self._oldest_version = oldest_version
        self._default_locale = default_locale
        self._is_lenient = is_lenient
        self._on_warning = on_warning
        self._running: _Running | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """The URL of the server, without `/api`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def token(self) -> str:
        """The first token, or an empty string."""
        return self.tokens[0].value if self.tokens else ""

    @property
    def store(self) -> LibraryStore:
        """The store of the running library."""
        if self._running is None:
            raise RuntimeError("the library is not running")
        return self._running.store

    async def start(self) -> None:
        """Scan the folder, listen, watch the folder, send webhooks. Raises ConfigError, see the class."""
        store = await asyncio.to_thread(
            LibraryStore,
            self.folder,
            state_dir=self._state_dir,
            default_locale=self._default_locale,
            is_lenient=self._is_lenient,
        )
        app = make_app(
            store,
            tokens=self.tokens,
            faults=self.faults,
            probe=self.probe,
            oldest_version=self._oldest_version,
            default_locale=self._default_locale,
        )
        runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S, max_line_size=LINE_MAX_BYTES
        )
        self._running = _Running(store, runner)
        try:
            await asyncio.to_thread(store.set_webhook, is_on=self._webhook is not None)
            await self.rescan()
            await runner.setup()
            await self._listen(runner)
        except BaseException:
            await self.stop()
            raise
        self._spawn(self._watch)
        if self._webhook is not None:
            sender = WebhookSender(store, self._webhook)
            loop = asyncio.get_running_loop()

            def wake() -> None:
                loop.call_soon_threadsafe(sender.wake)

            store.on_commit = wake
            self._spawn(sender.run)

    async def _listen(self, runner: web.AppRunner) -> None:
        site = web.TCPSite(runner, self.host, self.port)
        try:
            await site.start()
        except OSError as exc:
            reason = os.strerror(exc.errno) if exc.errno else str(exc)
            raise CannotListen((f"cannot listen on {self.host}:{self.port}: {reason}",)) from exc
        self.port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop. Webhook calls that were not delivered wait for the next start."""
        running, self._running = self._running, None
        if running is None:
            return
        running.store.on_commit = lambda: None
        for task in running.tasks:
            task.cancel()
        await asyncio.gather(*running.tasks, return_exceptions=True)
        await running.runner.cleanup()
        await asyncio.to_thread(running.store.close)

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._running is not None
        self._running.tasks.append(asyncio.create_task(_run_forever(work)))

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await self.rescan()
            # The pause grows with the time of a scan, so that scans of a large folder take at most a tenth of the time.
            await asyncio.sleep(max(self._scan_interval_s, 10 * (loop.time() - began)))

    # --- for the demo and for tests --------------------------------------------------------------------------------

    async def rescan(self) -> None:
        """Scan the folder now."""
        for line in await asyncio.to_thread(self.store.scan):
            self._on_warning(line)

    def entry_id(self, key: str) -> str:
        """Return the id of the entry whose own picture has this key. Raises KeyError if there is none."""
        for entry in self.store.all_entries():
            if entry.asset.key == key:
                return entry.id
        raise KeyError(key)

    async def put(self, key: str, data: bytes) -> None:
        """Write a picture into the folder in one step, and scan. The result is a new entry or an edit."""
        problem = key_problem(key)
        if problem is not None:
            raise ValueError(problem)
        await asyncio.to_thread(_write, self.folder / key, data)
        await self.rescan()

    async def remove(self, key: str) -> None:
        """Delete a picture from the folder, and scan. Its entry is deleted too."""
        await asyncio.to_thread((self.folder / key).unlink)
        await self.rescan()

    async def patch(self, entry_id: str, *operations: Operation) -> None:
        """Apply operations to an entry, like a PATCH of the newest API version."""
        body = PatchBody(operations, None, is_updated_at_kept=False)
        await asyncio.to_thread(self.store.patch, entry_id, body, versions.NEWEST)

    async def mark_invalid(self, entry_id: str, *, is_invalid: bool = True) -> None:
        """Mark an entry as invalid, or as valid again."""
        await asyncio.to_thread(self.store.mark_invalid, entry_id, is_invalid=is_invalid)


async def _run_forever(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    # A passing fault, such as a full disk, must not end the task for good.
    while True:
        try:
            await work()
        except Exception:
            log.exception("a background task of the library failed; it restarts in %.0f s", RESTART_S)
        await asyncio.sleep(RESTART_S)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.replace(name, path)
