"""What `imgproxy check` finds out about Content Credentials: extra, certificate, key, a signature, timestamps."""

from __future__ import annotations

import stat
import time
from typing import TYPE_CHECKING, Final

from imgproxy.cli.findings import Finding, Level
from imgproxy.credentials.service import WARN_BEFORE_S
from imgproxy.credentials.trial import try_out
from imgproxy.errors import ConfigError
from imgproxy.workers.extras import has_c2pa

if TYPE_CHECKING:
    from pathlib import Path

    from imgproxy.config.credentials import ContentCredentialsSettings
    from imgproxy.credentials.calls import Signer

PART: Final = "credentials"
_DAY_S: Final = 86_400.0


async def try_credentials(settings: ContentCredentialsSettings) -> list[Finding]:
    """Do what `serve` does at its start, and sign a picture; with a timestamp if an authority is configured."""
    if settings.mode == "strip":
        text = "Content Credentials: stripped"
        if has_c2pa():
            return [Finding(PART, Level.GOOD, text)]
        return [Finding(PART, Level.NOTICE, f"{text}; no library is installed (extra `c2pa`)")]
    try:
        trial = await try_out(settings)
    except ConfigError as error:
        return [Finding(PART, Level.INVALID, problem) for problem in error.problems]
    findings = [describe(trial.signer, settings.mode, time.time())]
    if settings.key_file is not None:
        findings += try_rights(settings.key_file)
    if trial.failure is not None:
        text = f"[content_credentials] a picture cannot be signed: {trial.failure.detail}"
        findings.append(Finding(PART, Level.BROKEN, text))
    elif trial.timestamp_failure is not None:
        name = f"[content_credentials] timestamp_url {settings.timestamp_url}"
        findings.append(Finding(PART, Level.BROKEN, f"{name} gives no timestamp: {trial.timestamp_failure.detail}"))
    elif settings.timestamp_url is not None:
        text = f"the timestamp authority {settings.timestamp_url} answers"
        findings.append(Finding(PART, Level.GOOD, text))
    return findings


def describe(signer: Signer, mode: str, now_s: float) -> Finding:
    """Say who signs, whose certificate it is, and how many days it is left. `now_s`: Unix time."""
    left_s = signer.expires_at_s - now_s
    days = int(left_s // _DAY_S)
    left = f"{days} day" if days == 1 else f"{days} days"
    who = f"Content Credentials: {mode}, signed by {signer.subject}"
    if left_s < WARN_BEFORE_S:
        text = f"{who}; the certificate, issued by {signer.issuer}, expires in {left}"
        return Finding(PART, Level.NOTICE, text)
    return Finding(PART, Level.GOOD, f"{who}; the certificate, issued by {signer.issuer}, is valid for {left}")


def try_rights(key_file: Path) -> list[Finding]:
    """Say that every user of this machine can read the key, if it is so."""
    try:
        mode = key_file.stat().st_mode
    except OSError:
        return []
    if not mode & stat.S_IROTH:
        return []
    text = f"[content_credentials] key_file {key_file}: every user can read it (mode {stat.S_IMODE(mode):o}); set 0400"
    return [Finding(PART, Level.NOTICE, text)]
