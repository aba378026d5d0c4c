"""The calls to the two processes behind Content Credentials: start the signer, start the builder, have a job done."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgproxy import __version__
from imgproxy.credentials.messages import BuilderSettings, Failure, Job, Result, ToSign, decode, encode
from imgproxy.credentials.process import CredentialsProcess, ProcessGoneError
from imgproxy.errors import ConfigError
from imgproxy.workers.extras import has_c2pa

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgproxy.config.credentials import ContentCredentialsSettings

SIGNER: Final = "imgproxy.manifests.signer"
BUILDER: Final = "imgproxy.manifests.builder"
# Importing the libraries and reading a key takes a second; a busy machine takes several.
START_TIMEOUT_S: Final = 30.0
MISSING: Final = 'the extra is not installed: pip install "imgproxy-edge[c2pa]"'


@dataclass(frozen=True, slots=True)
class Signer:
    """
    What the signer said at its start.

    `chain`: its certificates, PEM. `subject` and `issuer`: of the first one, for people. `expires_at_s`: until when all
    are valid, Unix time.
    """

    chain: str
    subject: str
    issuer: str
    expires_at_s: float


async def start_signer(settings: ContentCredentialsSettings) -> tuple[CredentialsProcess, Signer]:
    """
    Start the signer, which checks certificate and key, and the certificates of `trust_anchors_file`.

    Raises ConfigError: they cannot be used, or the extra is not installed.
    """
    if not has_c2pa():
        raise ConfigError((f"[content_credentials] {MISSING}",))
    asked = {
        "certificate_file": str(settings.certificate_file),
        "key_file": str(settings.key_file),
        "algorithm": settings.algorithm,
        "trust_anchors_file": str(settings.trust_anchors_file or ""),
    }
    process = await CredentialsProcess.start(SIGNER)
    is_ready = False
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            found = json.loads(await process.ask(json.dumps(asked).encode()))
        if "problem" in found:
            raise ConfigError((f"[content_credentials] {found['problem']}",))
        is_ready = True
        return process, Signer(**found["ready"])
    except (ProcessGoneError, TimeoutError) as exc:
        raise ConfigError(("[content_credentials] the signing process did not start",)) from exc
    finally:
        if not is_ready:
            await asyncio.shield(process.close())


def read_anchors(settings: ContentCredentialsSettings) -> str:
    """Return the text of `trust_anchors_file`, which the signer checks; empty without one. Raises ConfigError."""
    path = settings.trust_anchors_file
    if path is None:
        return ""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError((f"[content_credentials] trust_anchors_file {path} cannot be read",)) from None


async def start_builder(settings: ContentCredentialsSettings, signer: Signer, anchors: str) -> CredentialsProcess:
    """Start the builder, and wait until it is ready for a job. Raises ProcessGoneError."""
    asked = BuilderSettings(
        chain=signer.chain,
        algorithm=settings.algorithm,
        timestamp_url=settings.timestamp_url or "",
        claim_generator=settings.claim_generator,
        version=__version__,
        trust_anchors=anchors,
    )
    process = await CredentialsProcess.start(BUILDER)
    is_ready = False
    try:
        await process.ask(encode(asked))
        is_ready = True
        return process
    finally:
        if not is_ready:
            await asyncio.shield(process.close())


async def run_job(
    builder: CredentialsProcess, job: Job, sign: Callable[[bytes], Awaitable[bytes | None]]
) -> Result | Failure:
    """
    Have a job done. `sign` returns a signature, or None if there is nobody who signs.

    Raises:
        ProcessGoneError: the builder has ended.
        BadAnswerError: it has to be ended.
    """
    builder.send(encode(job))
    while isinstance(found := decode(await builder.receive()), ToSign):
        signature = await sign(base64.b64decode(found.data))
        answer = None if signature is None else base64.b64encode(signature).decode()
        builder.send(json.dumps({"signature": answer}).encode())
    return found
