"""
Traces: what the rooms call to say what they do. Without a tracer every call does nothing, and no SDK is loaded.

`telemetry_sdk` has the tracer. There is one for each process, as its settings are variables of the environment.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

# A fact of a span. A name with dots is one of OpenTelemetry's semantic conventions.
Fact: TypeAlias = "str | int | float | bool | None"
# The ids of a span: 32 and 16 hexadecimal digits.
Ids: TypeAlias = "tuple[str, str]"

_NOTHING: Final[AbstractContextManager[None]] = nullcontext()


class Tracer(Protocol):
    """Makes spans. The current span is that of the running task."""

    def request(self, method: str, headers: Mapping[str, str]) -> AbstractContextManager[None]:
        """Make the span of a request, in the trace of its `traceparent`."""

    def span(self, name: str, facts: Mapping[str, Fact], *, is_call: bool) -> AbstractContextManager[None]:
        """Make a span within the current one, or one of a new trace. `is_call`: another service is asked."""

    def past(self, name: str, ended_ago_s: float, duration_s: float) -> None:
        """Make a span of something that is over, within the current one."""

    def note(self, facts: Mapping[str, Fact], *, is_error: bool) -> None:
        """Give the current span these facts."""

    def ids(self) -> Ids | None:
        """Return the ids of the current span; None if it is not sampled."""

    def outgoing(self) -> dict[str, str]:
        """Return the headers that continue the trace in another service."""

    def close(self) -> None:
        """Export what is left. Waits for some seconds at most."""


# One of these switches traces on, as OpenTelemetry's specification says.
_SWITCHES: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER")

_tracer: Tracer | None = None


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the environment names a place for traces, and neither switches them off nor names another exporter."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    return exporter in ("", "otlp") and any(environment.get(name, "").strip() for name in _SWITCHES)


def open_tracer() -> Tracer:
    """
    Return the tracer that the environment configures.

    Raises:
        ImportError: the extra `telemetry` is not installed.
        ValueError: the environment names something that is not known.
    """
    from imgproxy.telemetry.sdk import SdkTracer  # noqa: PLC0415 only when it is wanted

    return SdkTracer()


def install(tracer: Tracer | None) -> None:
    """Use this tracer from now on; None: no traces."""
    global _tracer  # noqa: PLW0603 one for each process
    _tracer = tracer


def is_on() -> bool:
    """Whether there is a tracer."""
    return _tracer is not None


def request(method: str, headers: Mapping[str, str]) -> AbstractContextManager[None]:
    """Trace the block as a request that came in."""
    return _NOTHING if _tracer is None else _tracer.request(method, headers)


def span(name: str, **facts: Fact) -> AbstractContextManager[None]:
    """Trace the block. An exception that leaves it is noted by its type or code."""
    return _NOTHING if _tracer is None else _tracer.span(name, facts, is_call=False)


def call(name: str, **facts: Fact) -> AbstractContextManager[None]:
    """Trace the block as a call of another service."""
    return _NOTHING if _tracer is None else _tracer.span(name, facts, is_call=True)


def past(name: str, *, ended_ago_s: float = 0.0, duration_s: float) -> None:
    """Trace something that is over."""
    if _tracer is not None:
        _tracer.past(name, ended_ago_s, duration_s)


def note(facts: Mapping[str, Fact], *, is_error: bool = False) -> None:
    """Give the current span facts. None is left out."""
    if _tracer is not None:
        _tracer.note(facts, is_error=is_error)


def ids() -> Ids | None:
    """Return the ids of the current span, for the log; None if it is not sampled."""
    return None if _tracer is None else _tracer.ids()


def outgoing() -> dict[str, str]:
    """Return the headers that continue the trace in another service."""
    return {} if _tracer is None else _tracer.outgoing()
