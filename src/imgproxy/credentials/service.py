"""
Content Credentials, as delivery uses them: which originals get them, and the jobs that make them.

A failure costs the credentials, never the picture. After a failure that is the original's own, this original goes
without for a while. After one that is the service's own (the timestamp authority is slow, a process ended), all go
without for a while. Then the picture is made again, with its credentials.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from cachetools import TTLCache

from imgproxy.background import Background
from imgproxy.credentials.calls import START_TIMEOUT_S, Signer, read_anchors, run_job, start_builder, start_signer
from imgproxy.credentials.container import has_credentials
from imgproxy.credentials.messages import BadAnswerError, Failure, Job, Reason, Result
from imgproxy.credentials.process import CredentialsProcess, ProcessGoneError
from imgproxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.config.credentials import ContentCredentialsSettings
    from imgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# After a failure that may be the service's own, all pictures go without credentials for this time.
PAUSE_S: Final = 30.0
FAILED_MAX: Final = 10_000
# To be raised when the same settings give other manifests.
MANIFEST_VERSION: Final = 1
# Their cause is in the original: another one may succeed meanwhile.
_OF_THE_ORIGINAL: Final = (Reason.UNREADABLE, Reason.BUILD, Reason.CRASHED)
WARN_BEFORE_S: Final = 30 * 86_400.0


class Mark(StrEnum):
    """The first character of the text that `CredentialsService.mark` returns."""

    EMBED = "e"
    REMOTE = "r"
    MISSING = "-"


class CredentialsService:
    """Content Credentials of this edge. Made only where the mode is not `strip`."""

    def __init__(
        self,
        settings: ContentCredentialsSettings,
        *,
        metrics: Metrics,
        sign_url: Callable[[str], str],
        error_ttl_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Set up; nothing is started.

        `sign_url` adds a signature to path and query of a URL, if URLs are signed. `error_ttl_s`: how long an original
        goes without credentials after a failure. `now`: Unix time.
        """
        self._settings = settings
        self._metrics = metrics
        self._sign_url = sign_url
        self._now = now
        self._turn = asyncio.Lock()
        self._background = Background("content credentials")
        self._signer: CredentialsProcess | None = None
        self._builder: CredentialsProcess | None = None
        self._found: Signer | None = None
        self._anchors = ""
        self._mark = ""
        self._paused_until_s = 0.0
        self._failed: TTLCache[str, Reason] = TTLCache(FAILED_MAX, max(error_ttl_s, 1.0))

    # --- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """
        Start both processes. The signer checks certificate and key.

        Raises ConfigError: they cannot be used, or the extra is not installed.
        """
        self._anchors = read_anchors(self._settings)
        self._signer, self._found = await start_signer(self._settings)
        left_s = self._found.expires_at_s - self._now()
        if left_s < WARN_BEFORE_S:
            log.warning("the certificate of content credentials expires in %d days", int(left_s // 86_400))
        self._metrics.credentials_expire_s.set(self._found.expires_at_s)
        self._mark = self._make_mark(self._found.chain)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._ready_builder()
        except (ProcessGoneError, TimeoutError) as exc:
            raise ConfigError(("[content_credentials] the process that builds manifests did not start",)) from exc

    async def close(self) -> None:
        """End both processes."""
        await self._background.close()
        await self._end_builder()
        signer, self._signer = self._signer, None
        if signer is not None:
            await signer.close()

    # --- decisions ---------------------------------------------------------------------------------------------

    @property
    def expires_at_s(self) -> float:
        """Until when the certificates are valid, Unix time."""
        return self._found.expires_at_s if self._found is not None else 0.0

    def mark(self, original_digest: str) -> str:
        """
        Return the text by which the variants of an original with credentials are known, after its digest.

        It names mode, certificates and the other settings, so that other settings make new variants. It is MISSING for
        an original that goes without for a while.
        """
        if self._is_paused or original_digest in self._failed:
            return Mark.MISSING
        return self._mark

    @property
    def _is_paused(self) -> bool:
        return self._now() < self._paused_until_s or self._now() > self.expires_at_s

    def _make_mark(self, chain: str) -> str:
        settings = self._settings
        mode = Mark.EMBED if settings.mode == "embed" else Mark.REMOTE
        facts = (
            str(MANIFEST_VERSION),
            settings.mode,
            chain,
            settings.algorithm,
            settings.claim_generator,
            settings.timestamp_url or "",
            settings.public_url or "",
            str(settings.c2pa_max_bytes),
            self._anchors,
            self._sign_url("/"),
        )
        return mode + hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]

    async def look(self, path: str) -> bool:
        """Whether the original in this file has credentials. Raises OSError."""
        return await asyncio.to_thread(_look, path)

    @property
    def is_embedding(self) -> bool:
        """Whether manifests are put into variants, where they are not too long."""
        return self._settings.mode == "embed"

    @property
    def max_bytes(self) -> int:
        """A longer manifest is not embedded."""
        return self._settings.c2pa_max_bytes

    def link(self, key: str, name: str) -> str:
        """Return the URL of a manifest. `name` is that of `manifest_name`."""
        path = f"/{quote(key, safe='/')}{MANIFEST_PATH}{name}{MANIFEST_ENDING}"
        return f"{(self._settings.public_url or '').rstrip('/')}{self._sign_url(path)}"

    # --- jobs --------------------------------------------------------------------------------------------------

    async def do(self, job: Job) -> Result | Failure:
        """Do a job within `timeout_s`. A failure is logged and counted."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                async with self._turn:
                    found = await self._do(job)
        except TimeoutError:
            found = Failure(Reason.TIMEOUT, f"after {self._settings.timeout_s:g} s")
        if isinstance(found, Failure):
            self._note(job, found)
            self._background.begin(self._prepare)
        else:
            self._metrics.credentials.labels(result=found.kind).inc()
            self._metrics.credentials_duration_s.observe(time.monotonic() - began_s)
        return found

    async def _do(self, job: Job) -> Result | Failure:
        is_done = False
        try:
            found = await run_job(await self._ready_builder(), job, self._sign)
            is_done = True
        except (ProcessGoneError, BadAnswerError) as error:
            found = Failure(Reason.CRASHED, str(error))
        finally:
            if not is_done:  # it may still be at this job
                await asyncio.shield(self._end_builder())
        return found

    async def _prepare(self) -> None:
        """After a failure: start the builder again if it has ended, so that the next picture does not wait for it."""
        async with self._turn:
            with suppress(ProcessGoneError):
                await self._ready_builder()

    async def _ready_builder(self) -> CredentialsProcess:
        """Return the builder. It is started again after its end."""
        if self._builder is not None and self._builder.has_ended:
            await self._end_builder()
        if self._builder is None:
            assert self._found is not None, "start() was called"
            self._builder = await start_builder(self._settings, self._found, self._anchors)
        return self._builder

    async def _end_builder(self) -> None:
        builder, self._builder = self._builder, None
        if builder is not None:
            await builder.close()

    async def _sign(self, data: bytes) -> bytes | None:
        """Return the signature of `data`; None if the signer has ended. It is started again then."""
        for _ in range(2):
            if self._signer is None:
                await self._restart_signer()
            # It is put back when its answer is read. Else this answer would be taken for the next one.
            signer, self._signer = self._signer, None
            if signer is None:
                return None
            try:
                signature = await signer.ask(data)
            except ProcessGoneError:
                await signer.close()
            except asyncio.CancelledError:
                await asyncio.shield(signer.close())
                raise
            else:
                self._signer = signer
                return signature
        return None

    async def _restart_signer(self) -> None:
        """Start the signer again, if its files are still those of the start: manifests have that certificate."""
        with suppress(ConfigError):
            signer, found = await start_signer(self._settings)
            if found == self._found:
                self._signer = signer
            else:
                log.error("certificate_file has changed since the start: content credentials need a restart")
                await signer.close()

    def _note(self, job: Job, failure: Failure) -> None:
        self._metrics.credentials.labels(result=failure.reason).inc()
        self._failed[job.original_digest] = failure.reason
        if failure.reason in _OF_THE_ORIGINAL:
            log.warning("%s goes without content credentials (%s): %s", job.title, failure.reason, failure.detail)
            return
        self._paused_until_s = self._now() + PAUSE_S
        log.warning(
            "content credentials failed at %s (%s): %s; pictures go without for %d s",
            job.title,
            failure.reason,
            failure.detail,
            PAUSE_S,
        )


# The URL of a manifest: the picture's path, then these around the manifest's name.
MANIFEST_PATH: Final = "/-/credentials/"
MANIFEST_ENDING: Final = ".c2pa"
PLAN_CHARS: Final = 32
_NAME: Final = re.compile(r"[0-9a-f]{32}-[0-9a-f]{12}")


def manifest_name(plan_digest: str, variant_digest: str) -> str:
    """
    Return the name of a variant's manifest in URLs: of its plan, and of its bytes before the link was put in.

    A plan may give other bytes at another time (a shared decode, another libvips). The manifest of those would call the
    older ones tampered with.
    """
    return f"{plan_digest}-{variant_digest[:12]}"


def manifest_plan(name: str) -> str:
    """Return the name of a manifest in the cache, in place of a plan's digest: 32 hex digits."""
    return hashlib.sha256(f"manifest:{name}".encode()).hexdigest()[:PLAN_CHARS]


def manifest_in(path: str) -> tuple[str, str] | None:
    """Return the raw path of the picture and the name of the manifest that a raw path asks for; None for a picture."""
    picture, found, rest = path.rpartition(MANIFEST_PATH)
    name = rest.removesuffix(MANIFEST_ENDING)
    if not found or name == rest or not _NAME.fullmatch(name):
        return None
    return picture, name


def _look(path: str) -> bool:
    with open(path, "rb") as file:
        return has_credentials(file)
