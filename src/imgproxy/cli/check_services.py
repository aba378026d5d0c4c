"""What `imgproxy check` finds out about other services: the Media Library, the caches in front, database and store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproxy.cli.findings import Finding, Level
from imgproxy.cluster.engine import try_database
from imgproxy.cluster.store.objects import open_objects
from imgproxy.cluster.store.probe import try_store
from imgproxy.config.secrets import database_url
from imgproxy.delivery.origin_health import cause_of
from imgproxy.edge.origin import probe
from imgproxy.errors import ImgproxyError, NotFound, OriginDenied
from imgproxy.medialibrary.errors import RedirectRefused, UnexpectedAnswer, VersionGone
from imgproxy.purge.downstream.targets import try_cache_in_front

if TYPE_CHECKING:
    from imgproxy.config.cluster import ClusterSettings
    from imgproxy.config.origin import OriginSettings
    from imgproxy.config.settings import Settings
    from imgproxy.config.shared_store import SharedStoreSettings
    from imgproxy.medialibrary.client.client import MediaLibraryClient


async def try_services(settings: Settings, library: MediaLibraryClient) -> list[Finding]:
    """Try everything that needs the network. The configuration is valid, and its files can be read."""
    return [
        *await try_origin(settings.origin, library),
        *await try_caches(settings),
        *await try_shared_store(settings.shared_store),
        *await try_cluster(settings.cluster),
    ]


async def try_origin(settings: OriginSettings, library: MediaLibraryClient) -> list[Finding]:
    """Make an API call: name, connection, TLS, token, scope and version, each with words of its own."""
    try:
        await probe(library)
    except ImgproxyError as error:
        return [Finding("origin", Level.BROKEN, f"[origin] {settings.url}: {origin_words(error, settings)}")]
    return [Finding("origin", Level.GOOD, f"the Media Library at {settings.url} accepts the token")]


def origin_words(error: ImgproxyError, settings: OriginSettings) -> str:
    """Return what an operator has to mend."""
    match error:
        case OriginDenied():
            if settings.token is None and settings.token_file is None:
                return "the Media Library wants a token: set [origin] token_file"
            if getattr(error, "origin_status", None) == 403:
                return "the token lacks the scope public-api:read (403)"
            return "the Media Library does not accept the token (401); it needs the scope public-api:read"
        case VersionGone():
            return f"the Media Library no longer serves api_version = {settings.api_version!r}; set a newer one"
        case RedirectRefused():
            return error.message
        case NotFound():
            return "no API of a Media Library is under this address (404); expected it without a path of the API"
        case UnexpectedAnswer():
            return "what answers there is no Media Library: its answer is not in the form of the API"
        case _:
            return cause_of(error)


async def try_caches(settings: Settings) -> list[Finding]:
    """Purge a key that no picture has in each cache in front."""
    findings = []
    for item in settings.downstream:
        failure = await try_cache_in_front(item)
        if failure is None:
            findings.append(Finding("downstream", Level.GOOD, f"[[downstream]] {item.label} confirms a purge"))
        else:
            text = f"[[downstream]] {item.label} does not confirm a purge: {failure}"
            findings.append(Finding("downstream", Level.BROKEN, text))
    return findings


async def try_cluster(settings: ClusterSettings) -> list[Finding]:
    """Try the database that the edges share, if there is one."""
    url = database_url(settings)
    if url is None:
        return []
    report = await try_database(url)
    levels = ((Level.GOOD, report.good), (Level.NOTICE, report.notices), (Level.BROKEN, report.problems))
    return [Finding("cluster", level, line) for level, lines in levels for line in lines]


async def try_shared_store(settings: SharedStoreSettings) -> list[Finding]:
    """Write, read, list and delete an object."""
    if settings.url is None:
        return []
    problems = await try_store(open_objects(settings), scheme=settings.scheme, prefix=settings.prefix)
    text = f"the shared store {settings.url} can be written, read, listed and deleted from"
    return [Finding("store", Level.BROKEN, f"[shared_store] {settings.url}: {problem}") for problem in problems] or [
        Finding("store", Level.GOOD, text)
    ]
