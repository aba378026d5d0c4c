"""`imgproxy check`: is the configuration valid, and does everything that it names work?"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imgproxy import __version__
from imgproxy.cache.journal_versions import NewerJournal, refuse_newer
from imgproxy.cli.console import ConfigOption, console, load_or_fail, marked
from imgproxy.cluster.store.objects import open_objects
from imgproxy.cluster.store.probe import try_store
from imgproxy.config.example import example_toml
from imgproxy.config.secrets import database_url, short_secrets
from imgproxy.errors import ConfigError, ImgproxyError, OriginDenied
from imgproxy.medialibrary.errors import RedirectRefused
from imgproxy.workers.extras import find_detector, find_heic

if TYPE_CHECKING:
    from imgproxy.config.cluster import ClusterSettings
    from imgproxy.config.settings import Settings
    from imgproxy.config.shared_store import SharedStoreSettings


def check(
    config: ConfigOption = None,
    example: Annotated[
        bool, typer.Option("--example", help="Print every setting with its default and a line of help, as TOML.")
    ] = False,
) -> None:
    """Validate the configuration, try the cache directory, the origin's token and the shared store."""
    if example:
        sys.stdout.write(example_toml())
        return
    raise typer.Exit(asyncio.run(_check(load_or_fail(config))))


async def _check(settings: Settings) -> int:
    """Print a line for each check. Returns the exit code."""
    _good(f"the configuration is valid (imgproxy {__version__})")
    code = max(
        _check_cache(settings.cache.dir),
        await _check_secrets_and_origin(settings),
        await _check_shared_store(settings.shared_store),
        await _check_cluster(settings.cluster),
    )
    _check_heic()
    await _check_detector()
    if not settings.signing.required:
        _notice("[signing] required = false: anyone may ask for any size")
    if settings.admin.token is None and settings.admin.token_file is None:
        _notice("[admin] token is not set: nobody can purge by hand")
    if not (settings.webhook.secrets or settings.webhook.secrets_file):
        _notice("[webhook] secrets is empty: the Livingdocs webhook is closed")
    return code


def _check_cache(directory: Path) -> int:
    """Write a temporary file into the directory, or into its nearest parent that exists."""
    existing = next((item for item in (directory, *directory.absolute().parents) if os.path.lexists(item)), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        _bad(f"[cache] dir = {directory}: cannot be written ({error.strerror}: {existing})")
        return 1
    try:
        refuse_newer(directory / "journal.sqlite")
    except NewerJournal as error:
        _bad(f"[cache] dir = {directory}: {error}")
        return 1
    _good(f"the cache directory {directory} can be written")
    return 0


async def _check_cluster(settings: ClusterSettings) -> int:
    """Try the database that the edges share, if there is one."""
    from imgproxy.cluster.engine import try_database  # noqa: PLC0415 other commands start faster without it

    try:
        url = database_url(settings)
        if url is None:
            return 0
        report = await try_database(url)
    except ConfigError as error:
        for problem in error.problems:
            _bad(problem)
        return 2
    for line in report.good:
        _good(line)
    for line in report.notices:
        _notice(line)
    for line in report.problems:
        _bad(line)
    return 1 if report.problems else 0


def _check_heic() -> None:
    version = find_heic()
    if version is None:
        _notice("HEIC: no reader is installed (extra `heic`): such a picture is answered with 422")
    else:
        _good(f"HEIC can be read (pi-heif {version})")


async def _check_detector() -> None:
    """Try the face detector in a process of its own: OpenCV takes 80 MB, and what it does is not trusted."""
    detector = find_detector()
    if detector is None:
        _notice("faces: no detector is installed (extra `faces`): `crop=faces` takes the next word of its list")
        return
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "imgproxy.render.detector", detector.model, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode == 0:
        _good(f"the face detector works (YuNet, OpenCV {detector.opencv})")
    else:
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        _notice(f"the face detector is installed but fails: {last}")


async def _check_shared_store(settings: SharedStoreSettings) -> int:
    """Write, read, list and delete an object."""
    if settings.url is None:
        return 0
    try:
        objects = open_objects(settings)
    except ConfigError as error:
        for problem in error.problems:
            _bad(problem)
        return 2
    problems = await try_store(objects, scheme=settings.scheme, prefix=settings.prefix)
    for problem in problems:
        _bad(f"[shared_store] {settings.url}: {problem}")
    if problems:
        return 1
    _good(f"the shared store {settings.url} can be written, read, listed and deleted from")
    return 0


async def _check_secrets_and_origin(settings: Settings) -> int:
    """Read every file of secrets, and call the origin with its token."""
    from imgproxy.edge.origin import library_client, probe  # noqa: PLC0415 other commands start faster without it

    try:
        for line in short_secrets(settings):
            _notice(line)
        async with library_client(settings.origin) as library:
            await probe(library)
    except ConfigError as error:
        for problem in error.problems:
            _bad(problem)
        return 2
    except OriginDenied:
        _bad(
            f"[origin] {settings.origin.url}: the Media Library does not accept the token; "
            "it needs the scope public-api:read"
        )
        return 1
    except RedirectRefused as error:
        _bad(f"[origin] {settings.origin.url}: {error.message}")
        return 1
    except ImgproxyError as error:
        _bad(f"[origin] {settings.origin.url}: {error.public}")
        return 1
    _good(f"the Media Library at {settings.origin.url} accepts the token")
    return 0


def _good(message: str) -> None:
    console.print(marked("✓", "green", message), soft_wrap=True)


def _bad(message: str) -> None:
    console.print(marked("✗", "red", message), soft_wrap=True)


def _notice(message: str) -> None:
    console.print(marked("!", "yellow", message), soft_wrap=True)
