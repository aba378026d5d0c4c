"""`imgproxy serve`: the edge as a process."""

from __future__ import annotations

import gc
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imgproxy import __version__
from imgproxy.cli.console import ConfigOption, fail, load_or_fail
from imgproxy.cli.observing import observed
from imgproxy.cli.process import run, stop_on_signals, why_unavailable
from imgproxy.config.secrets import short_secrets
from imgproxy.errors import CacheUnavailable, ConfigError
from imgproxy.telemetry import logs
from imgproxy.workers.extras import find_detector, find_heic, has_c2pa, has_telemetry

if TYPE_CHECKING:
    from imgproxy.config.settings import Settings
    from imgproxy.edge.app import Edge
    from imgproxy.edge.playground import PlaygroundParts

log = logging.getLogger(__name__)

# How long a thread keeps the interpreter while another thread waits for it. The default is 5 ms. The event loop would
# wait that long for a thread that scans the cache. The thread that records a purge would wait several times as long.
SWITCH_S = 0.000_5

# New objects before a collection of the youngest generation, and collections of one generation before one of the next.
# With the default, 700, 10, 10, collections stop the loop again and again while many requests wait: p99 of hits in a
# storm of purges 1.2 to 2.7 ms, with these 0.4 to 1.4 ms (`python -m benchmarks.purge_under_load --only-storm`).
# The second number is high because such a collection visits the objects of all requests that wait: with 20 it stopped
# the loop for 30 to 60 ms in most storms of 1,000 purges, and found nothing to free.
GC_THRESHOLDS = (10_000, 100, 20)


OriginOption = Annotated[str | None, typer.Option(help="URL of the Media Library, instead of the configured one.")]
TokenFileOption = Annotated[
    Path | None, typer.Option(help="File with its access token, instead of the configured one.")
]
HostOption = Annotated[str | None, typer.Option(help="Address to listen on, instead of the configured one.")]
PortOption = Annotated[int | None, typer.Option(help="Port to listen on, instead of the configured one.")]
CacheOption = Annotated[Path | None, typer.Option(help="Cache directory, instead of the configured one.")]


def serve(
    *,
    config: ConfigOption = None,
    origin: OriginOption = None,
    token_file: TokenFileOption = None,
    host: HostOption = None,
    port: PortOption = None,
    cache: CacheOption = None,
) -> None:
    """Serve images until SIGTERM or Ctrl-C. A first try: imgproxy serve --origin https://cms.example --port 8080."""
    given = {
        "IMGPROXY_ORIGIN__URL": origin,
        "IMGPROXY_ORIGIN__TOKEN_FILE": token_file,
        "IMGPROXY_SERVER__HOST": host,
        "IMGPROXY_SERVER__PORT": port,
        "IMGPROXY_CACHE__DIR": cache,
    }
    gc.set_threshold(*GC_THRESHOLDS)  # before most modules are loaded, and before the purges that were missed come
    settings = load_or_fail(config, {name: str(value) for name, value in given.items() if value is not None})
    lines = logs.configure(settings.log.level, settings.log.format)
    log.info("%s", summary(settings, config))
    with observed(settings):
        code = run(serve_until_stopped(settings, lines))
    raise typer.Exit(code)


def summary(settings: Settings, config: Path | None) -> str:
    """Return what an operator checks first, in one line: versions, sources, signatures, cache, credentials, extras."""
    from imgproxy.edge.cluster import node_name  # noqa: PLC0415 other commands start faster without it

    signing = settings.signing
    has_tokens = bool(signing.tokens or signing.tokens_file)
    signed = "required" if signing.required else ("checked if there" if has_tokens else "not used")
    heic, detector = find_heic(), find_detector()
    found = {
        "heic": heic is not None,
        "faces": detector is not None,
        "c2pa": has_c2pa(),
        "telemetry": has_telemetry(),
    }
    extras = [name for name, is_installed in found.items() if is_installed]
    has_database = settings.cluster.database_url is not None or settings.cluster.database_url_file is not None
    cluster = f"node {node_name(settings)}" if has_database else "none"
    parts = (
        f"imgproxy {__version__}",
        f"configuration {config or 'from the environment'}",
        f"Media Library {settings.origin.url}",
        f"signatures {signed}",
        f"cluster {cluster}",
        f"cache {settings.cache.dir}, at most {settings.cache.max_bytes / 1e9:g} GB",
        f"content credentials {settings.content_credentials.mode}",
        f"extras {', '.join(extras) or 'none'}",
    )
    return "; ".join(parts)


def _playground() -> PlaygroundParts:
    from imgproxy.demo.playground import files  # noqa: PLC0415 most edges have no playground
    from imgproxy.edge.playground import PlaygroundParts  # noqa: PLC0415

    return PlaygroundParts(files())


def compose(settings: Settings, lines: logs.LineHandler | None = None) -> Edge:
    """
    Make every part of the service without starting any. It reads all files that the configuration names.

    Raises:
        ConfigError: the service cannot run with this configuration.
    """
    from imgproxy.edge.app import Edge  # noqa: PLC0415 other commands start faster without it

    return Edge(settings, lines=lines, playground=_playground() if settings.server.playground else None)


async def serve_until_stopped(settings: Settings, lines: logs.LineHandler) -> int:
    """Serve until SIGTERM or SIGINT, then finish the running requests. Returns the exit code."""
    from imgproxy.workers.process import ProcessStartError  # noqa: PLC0415 other commands start faster without it

    sys.setswitchinterval(SWITCH_S)
    stop = stop_on_signals()
    try:
        for line in short_secrets(settings):
            log.warning("%s", line)
        edge = compose(settings, lines)
        await edge.__aenter__()
    except ConfigError as error:
        fail(str(error))
    except CacheUnavailable as error:
        fail(f"[cache] dir = {settings.cache.dir}: {why_unavailable(error)}")
    except ProcessStartError as error:
        fail(f"a render process did not start: {error}")
    except OSError as error:
        where = f"{settings.server.host}:{settings.server.port}"
        fail(f"[server] cannot listen on {where}: {error.strerror or error}")
    # The objects made until here live as long as the process. Without this, each full garbage collection visits them:
    # it takes 20 ms, and no request is answered meanwhile.
    gc.collect()
    gc.freeze()
    await stop.wait()
    log.info("stopping: waiting for running requests")
    await edge.stop()
    return 0
