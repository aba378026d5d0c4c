"""Traces and error reports of `serve`: the environment asks for them, and the extra `telemetry` has their libraries."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from imgproxy.cli.console import fail
from imgproxy.config.secrets import all_secrets
from imgproxy.errors import ConfigError
from imgproxy.telemetry import error_reports, traces
from imgproxy.workers.extras import has_telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from imgproxy.config.settings import Settings

Made = TypeVar("Made")

log = logging.getLogger(__name__)

TRACES: Final = "traces (OTEL_*)"
REPORTS: Final = "error reports (SENTRY_DSN)"


@contextmanager
def observed(settings: Settings) -> Iterator[None]:
    """Export traces and report errors while the block runs, as far as the environment asks for them."""
    wanted = asked_for(os.environ)
    if not wanted:
        yield
        return
    if not has_telemetry():
        log.warning("%s", missing(wanted))
        yield
        return
    tracer = _opened(TRACES, traces.open_tracer) if TRACES in wanted else None
    reports = _opened(REPORTS, lambda: _reports(settings)) if REPORTS in wanted else None
    traces.install(tracer)
    try:
        yield
    finally:
        traces.install(None)
        for part in (tracer, reports):
            if part is not None:
                part.close()


def _reports(settings: Settings) -> error_reports.ErrorReports:
    return error_reports.open_reports(os.environ, all_secrets(settings))


def _opened(name: str, make: Callable[[], Made]) -> Made:
    """Make a part, or end the program with what is wrong in the environment or in a file of secrets."""
    try:
        return make()
    except ConfigError as error:
        fail(str(error))
    except ValueError as error:
        fail(f"{name}: {error}")


def asked_for(environment: Mapping[str, str]) -> list[str]:
    """Return what the environment asks for of the extra `telemetry`."""
    is_wanted = {TRACES: traces.is_wanted(environment), REPORTS: error_reports.is_wanted(environment)}
    return [name for name, is_asked in is_wanted.items() if is_asked]


def missing(wanted: list[str]) -> str:
    """Say that these need the extra, which is not installed."""
    return (
        f"the environment asks for {' and '.join(wanted)}, but the extra is not installed: "
        "pip install 'imgproxy-edge[telemetry]'"
    )
