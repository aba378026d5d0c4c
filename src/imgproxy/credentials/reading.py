"""The credentials of a file, read in a process of its own: a damaged manifest ends that one."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from imgproxy.workers.process import child_environment

if TYPE_CHECKING:
    from pathlib import Path

READER: Final = "imgproxy.manifests.reader"
TIMEOUT_S: Final = 60.0


class UnreadableCredentialsError(Exception):
    """The manifest of a file cannot be read. The text says why."""


async def read_credentials(path: Path, content_type: str, anchors_file: Path | None) -> dict[str, Any] | None:
    """
    Return the summary of a file's manifests, as in `fm=json`; None if it has none.

    Signatures of the authorities in `anchors_file` count as trusted. Raises UnreadableCredentialsError.
    """
    files = [str(path), content_type, *([] if anchors_file is None else [str(anchors_file)])]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", READER),
        *files,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=child_environment(),
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, said = await process.communicate()
    except TimeoutError:
        raise UnreadableCredentialsError(f"it was not read within {TIMEOUT_S:g} s") from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode != 0:
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise UnreadableCredentialsError(f"the process that read it ended ({last or process.returncode})")
    found = json.loads(out)
    if "unreadable" in found:
        raise UnreadableCredentialsError(found["unreadable"])
    summary: dict[str, Any] | None = found.get("summary")
    return summary
