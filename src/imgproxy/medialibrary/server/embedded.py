"""
A Media Library in this process: the server, its folder watch and its webhooks, started and stopped together.

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
from imgproxy.medialibrary.server.bodies import PatchBody
from imgproxy.medialibrary.server.faults import Faults
from imgproxy.medialibrary.server.keys import key_problem
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
LINE_MAX_BYTES: Final = 128 * 1024  # the longest of all that may be asked, each character as 12 bytes

log = logging.getLogger(__name__)


class CannotListen(ConfigError):
    """The address is in use, or not this machine's."""


@dataclass(slots=True)
class _Running:
    """What `stop` has to end."""

    store: LibraryStore
    runner: web.AppRunner
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class EmbeddedLibrary:
    """
    A Media Library over a folder of pictures.

    Args:
        folder: each picture in it is an entry; the path in it is the key.
        host: address to listen on.
        port: 0 takes a free one; after `stop`, `start` takes the same again.
        tokens: who may call; none means that nobody may.
        webhook: where events go; None for nowhere.
        state_dir: where the database is; `FOLDER/.imgproxy-library` by default.
        faults: what goes wrong on purpose; the attribute of the same name may be changed at any time.
        scan_interval_s: how often the folder is looked at; `rescan` does it at once.
        probe: gates and counters for tests.
        oldest_version: API versions before it answer 410.
        default_locale: the locale whose asset cannot be removed.
        is_lenient: serve files that are no pictures, too.
        on_warning: told of each file that cannot be used.

    Raises:
        ConfigError: on `start`, if the folder, the state or the port cannot be used.
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
        """Where the server is, without `/api`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def token(self) -> str:
        """The first token's value, or an empty text."""
        return self.tokens[0].value if self.tokens else ""

    @property
    def store(self) -> LibraryStore:
        """The store of the running library."""
        if self._running is None:
            raise RuntimeError("the library is not running")
        return self._running.store

    async def start(self) -> None:
        """Read the folder, listen, watch, deliver. Raises ConfigError if something cannot be used."""
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
            raise CannotListen((f"{self.host}:{self.port} cannot be listened on: {reason}",)) from exc
        self.port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening, watching and delivering; what is not delivered waits for the next start."""
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
        self._running.tasks.append(asyncio.create_task(_for_ever(work)))

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await self.rescan()
            # A large folder takes a while to look at; looking must not become all that happens.
            await asyncio.sleep(max(self._scan_interval_s, 10 * (loop.time() - began)))

    # --- for the demo and for tests --------------------------------------------------------------------------------

    async def rescan(self) -> None:
        """Take in what changed in the folder, now."""
        for line in await asyncio.to_thread(self.store.scan):
            self._on_warning(line)

    def entry_id(self, key: str) -> str:
        """Return the id of the entry whose picture has this key. Raises KeyError."""
        for entry in self.store.all_entries():
            if entry.asset.key == key:
                return entry.id
        raise KeyError(key)

    async def put(self, key: str, data: bytes) -> None:
        """Put a picture in the folder under a key, in one step, and take it in: a new entry, or an edit."""
        problem = key_problem(key)
        if problem is not None:
            raise ValueError(problem)
        await asyncio.to_thread(_write, self.folder / key, data)
        await self.rescan()

    async def remove(self, key: str) -> None:
        """Remove a picture from the folder: its entry is deleted."""
        await asyncio.to_thread((self.folder / key).unlink)
        await self.rescan()

    async def patch(self, entry_id: str, *operations: Operation) -> None:
        """Apply operations to an entry, as a PATCH of the newest version does."""
        body = PatchBody(operations, None, is_updated_at_kept=False)
        await asyncio.to_thread(self.store.patch, entry_id, body, versions.NEWEST)

    async def mark_invalid(self, entry_id: str, *, is_invalid: bool = True) -> None:
        """Mark an entry as invalid, or as valid again."""
        await asyncio.to_thread(self.store.mark_invalid, entry_id, is_invalid=is_invalid)


async def _for_ever(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    # A full disk for a minute must not end the watching and delivering for good.
    while True:
        try:
            await work()
        except Exception:
            log.exception("a background task of the library failed, and starts again")
        await asyncio.sleep(RESTART_S)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.replace(name, path)
