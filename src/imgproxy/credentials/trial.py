"""A trial of Content Credentials, for `imgproxy check`: the start as `serve` does it, and a signature or two."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imgproxy.credentials.calls import START_TIMEOUT_S, Signer, read_anchors, run_job, start_builder, start_signer
from imgproxy.credentials.messages import BadAnswerError, Failure, Job, Reason, Task
from imgproxy.credentials.process import ProcessGoneError

if TYPE_CHECKING:
    from imgproxy.config.credentials import ContentCredentialsSettings
    from imgproxy.credentials.process import CredentialsProcess


@dataclass(frozen=True, slots=True)
class Trial:
    """
    What was found. `failure`: why a picture could not be signed. `timestamp_failure`: why not with a timestamp.

    The timestamp authority is asked only if there is one, and if a picture can be signed without it.
    """

    signer: Signer
    failure: Failure | None
    timestamp_failure: Failure | None = None


async def try_out(settings: ContentCredentialsSettings) -> Trial:
    """
    Start the processes with these settings, sign a picture of one pixel, and end them.

    Raises ConfigError: `serve` would not start.
    """
    anchors = read_anchors(settings)
    process, signer = await start_signer(settings)
    try:
        plain = settings.model_copy(update={"timestamp_url": None})
        failure = await _sign(plain, signer, process, anchors)
        if failure is not None or settings.timestamp_url is None:
            return Trial(signer, failure)
        return Trial(signer, None, await _sign(settings, signer, process, anchors))
    finally:
        await process.close()


async def _sign(
    settings: ContentCredentialsSettings, signer: Signer, process: CredentialsProcess, anchors: str
) -> Failure | None:
    """Sign within the time that a picture waits. The start of the builder does not count."""
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            builder = await start_builder(settings, signer, anchors)
    except (ProcessGoneError, TimeoutError):
        return Failure(Reason.CRASHED, "the process that builds manifests did not start")
    try:
        with tempfile.TemporaryDirectory() as folder:
            async with asyncio.timeout(settings.timeout_s):
                found = await run_job(builder, _job(folder), process.ask)
    except TimeoutError:
        return Failure(Reason.TIMEOUT, f"no answer within timeout_s = {settings.timeout_s:g}")
    except (ProcessGoneError, BadAnswerError) as error:
        return Failure(Reason.CRASHED, f"the process that builds manifests: {error}")
    finally:
        await builder.close()
    return found if isinstance(found, Failure) else None


def _job(folder: str) -> Job:
    return Job(
        task=Task.TRY,
        title="trial",
        original="",
        original_digest="",
        original_type="",
        variant="",
        variant_bytes=0,
        variant_type="",
        out=str(Path(folder) / "trial.png"),
    )
