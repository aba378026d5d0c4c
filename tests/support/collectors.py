"""Servers that take traces by OTLP and error reports of Sentry, each in a thread, as their SDKs send from threads."""

from __future__ import annotations

import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import brotli  # type: ignore[import-untyped]
import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

# Sentry's SDK takes brotli if it is installed.
DECODERS: Mapping[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.decompress, "br": brotli.decompress}


@dataclass(slots=True)
class Collector:
    """What came: `exports` by OTLP, `reports` as the events of Sentry's envelopes. Over HTTP it can be held."""

    endpoint: str = ""
    exports: list[ExportTraceServiceRequest] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)

    def spans(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace, whose id is hexadecimal."""
        return [span for span in self.all_spans() if span.trace_id.hex() == trace_id]

    def all_spans(self) -> list[Span]:
        """Return the spans of all traces."""
        return [
            span
            for export in self.exports
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def take(self, path: str, body: bytes) -> None:
        """Take the body of a request, as soon as it may be answered."""
        self.may_answer.wait()
        if path == "/v1/traces":
            self.exports.append(ExportTraceServiceRequest.FromString(body))
        elif path.endswith("/envelope/"):
            lines = body.split(b"\n")
            self.reports += [json.loads(item) for head, item in pairwise(lines[1:]) if b'"type":"event"' in head]


def facts_of(span: Span) -> dict[str, Any]:
    """Return the attributes of a span."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value") or "") for item in span.attributes}


@contextmanager
def http_collector() -> Iterator[Collector]:
    """Take OTLP over HTTP with protobuf, and envelopes."""
    collector = Collector()
    collector.may_answer.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(collector.take))
    collector.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def grpc_collector() -> Iterator[Collector]:
    """Take OTLP over gRPC."""
    collector = Collector()

    class Servicer(TraceServiceServicer):
        def Export(  # noqa: N802 the protocol's name
            self, request: ExportTraceServiceRequest, context: object
        ) -> ExportTraceServiceResponse:
            collector.exports.append(request)
            return ExportTraceServiceResponse()

    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        add_TraceServiceServicer_to_server(Servicer(), server)  # type: ignore[no-untyped-call]
        collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield collector
        finally:
            server.stop(0).wait()


def _handler(take: Callable[[str, bytes], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            take(self.path, DECODERS[self.headers.get("Content-Encoding", "")](body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler
