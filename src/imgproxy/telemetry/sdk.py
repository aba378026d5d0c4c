"""
The tracer of OpenTelemetry's SDK. It is imported only when traces are on: see `is_wanted`.

The standard variables configure it: exporter, endpoint, headers, protocol, sampler, resource, limits, batches.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from imgproxy import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from imgproxy.telemetry.traces import Fact, Ids

log = logging.getLogger(__name__)

# At the end of the process, spans may take this long to be sent.
FLUSH_S: Final = 2.0
OUTCOME: Final = "imgproxy.outcome"
TIER: Final = "imgproxy.tier"


class SdkTracer:
    """Makes spans with the SDK, and exports them by OTLP."""

    def __init__(self) -> None:
        resource = Resource.create({SERVICE_VERSION: __version__})
        if "service.name" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "") and not os.environ.get(
            "OTEL_SERVICE_NAME"
        ):
            resource = resource.merge(Resource({SERVICE_NAME: "imgproxy"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(_Spans(make_exporter()))
        self._tracer = self._provider.get_tracer("imgproxy", __version__)
        # Only this format: baggage of strangers is not handed on.
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[None]:
        """See `telemetry.Tracer`."""
        given = {name: value for name in ("traceparent", "tracestate") if (value := headers.get(name)) is not None}
        with self._tracer.start_as_current_span(
            method,
            self._propagator.extract(given),
            SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        ):
            yield

    @contextmanager
    def span(self, name: str, facts: Mapping[str, Fact], *, is_call: bool) -> Iterator[None]:
        """See `telemetry.Tracer`."""
        with self._tracer.start_as_current_span(
            name,
            kind=SpanKind.CLIENT if is_call else SpanKind.INTERNAL,
            attributes=_attributes(facts),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                # Not its text: it may hold what nobody has looked at.
                span.set_attribute("error.type", getattr(error, "code", type(error).__name__))
                if isinstance(error, Exception):
                    span.set_status(StatusCode.ERROR)
                raise

    def past(self, name: str, ended_ago_s: float, duration_s: float) -> None:
        """See `telemetry.Tracer`."""
        end_ns = time.time_ns() - int(ended_ago_s * 1e9)
        self._tracer.start_span(name, start_time=end_ns - int(duration_s * 1e9)).end(end_ns)

    def note(self, facts: Mapping[str, Fact], *, is_error: bool) -> None:
        """See `telemetry.Tracer`."""
        span = trace.get_current_span()
        if not span.is_recording():
            # Not sampled, or over: the work goes on if a client leaves.
            return
        span.set_attributes(_attributes(facts))
        if is_error:
            span.set_status(StatusCode.ERROR)

    def ids(self) -> Ids | None:
        """See `telemetry.Tracer`."""
        context = trace.get_current_span().get_span_context()
        if not (context.is_valid and context.trace_flags.sampled):
            return None
        return f"{context.trace_id:032x}", f"{context.span_id:016x}"

    def outgoing(self) -> dict[str, str]:
        """See `telemetry.Tracer`."""
        headers: dict[str, str] = {}
        self._propagator.inject(headers)
        return headers

    def close(self) -> None:
        """See `telemetry.Tracer`."""
        # The SDK waits for up to 30 s where the collector does not answer, and the process is to end.
        closing = threading.Thread(target=self._provider.shutdown, name="traces-closing", daemon=True)
        closing.start()
        closing.join(FLUSH_S)


class _Spans(BatchSpanProcessor):
    """Exports spans in batches, from a thread. Hits are dropped when they end: only then it is known that they are."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span that has ended."""
        facts = span.attributes or {}
        # A hit in the shared store has the span of its reading.
        if facts.get(OUTCOME) != "hit" or facts.get(TIER) == "shared":
            super().on_end(span)


def make_exporter() -> SpanExporter:
    """
    Return the exporter that the environment names.

    Raises:
        ValueError: the protocol is none of OTLP over gRPC and OTLP over HTTP with protobuf.
    """
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol in (None, "", "http/protobuf"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 one of the two
            OTLPSpanExporter as OverHttp,
        )

        return OverHttp()
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415 one of the two
            OTLPSpanExporter as OverGrpc,
        )

        return OverGrpc()
    raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL = {protocol!r}: expected http/protobuf or grpc")


def _attributes(facts: Mapping[str, Fact]) -> dict[str, str | int | float | bool]:
    """Return attributes: a name without a dot is one of ours."""
    return {name if "." in name else f"imgproxy.{name}": value for name, value in facts.items() if value is not None}
