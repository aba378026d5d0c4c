"""Traces and error reports, as the bytes that a collector gets."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from pydantic import SecretStr

from imgproxy.cli.observing import observed
from imgproxy.config.sections import SigningSettings
from imgproxy.errors import OriginUnreachable
from imgproxy.failpoints import Failpoints, Point, Step
from tests.support.answers import settings
from tests.support.collectors import Collector, facts_of, grpc_collector, http_collector
from tests.support.scripted_origin import EMPTY_LIST, Request, origin, says
from tests.support.served import served
from tests.support.site import ADMIN, KEY, jpeg, site

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
# The environment of the developer must not reach the service.
ENV = ("env", *(f"--unset={name}" for name in os.environ if name.startswith(("OTEL_", "SENTRY_"))), "NO_PROXY=*")


@dataclass(frozen=True, slots=True)
class Library:
    """Where a library is."""

    url: str
    token: str = "library-token"


async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
    """A library with one picture."""
    body = jpeg(200)
    picture = says(f'200 OK\r\ncontent-type: image/jpeg\r\netag: "a"\r\ncontent-length: {len(body)}', body)
    await (picture if "/serve-image/" in request.target else EMPTY_LIST)(request, writer)


async def use(url: str) -> None:
    """A miss, a hit, a hit that the fast path does not know yet, and a purge, all within the same span of the client."""
    async with aiohttp.ClientSession(headers=HEADERS) as client:
        for query in ("w=50&s=hush", "w=50&s=hush", "s=hush&w=50"):
            async with client.get(f"{url}/{KEY}?{query}") as response:
                assert response.status == 200
                await response.read()
        async with client.post(f"{url}/-/purge/entries/e1", headers=ADMIN) as response:
            assert response.status in (200, 202), await response.text()


@pytest.mark.parametrize(
    ("protocol", "collecting"),
    [
        ("http/protobuf", http_collector),
        pytest.param("grpc", grpc_collector, marks=pytest.mark.slow),
    ],
)
async def test_a_trace_shows_what_a_request_waited_for(
    tmp_path: Path, protocol: str, collecting: Callable[[], AbstractContextManager[Collector]]
) -> None:
    """A miss: fetch, queue, render, commit. A purge. No hit. The Media Library and the log get the same ids."""
    with collecting() as collector, (tmp_path / "log").open("wb") as log:
        before = (
            *ENV,
            f"OTEL_EXPORTER_OTLP_ENDPOINT={collector.endpoint}",
            f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}",
            "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test",
        )
        async with origin(answer) as library:
            async with served(Library(library.url), tmp_path, stderr=log, before=before) as (process, url):
                await use(url)
                process.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(process.wait(), 20) == 0
            sent = [request.headers.get("traceparent", "") for request in library.requests if KEY in request.target]

    spans = collector.spans(TRACE)
    ids = {span.span_id.hex(): span for span in spans}
    miss, purging = [span for span in spans if span.parent_span_id.hex() == PARENT]
    stages = {span.name: span for span in spans if span.parent_span_id == miss.span_id}
    assert {"fetch", "queue", "render", "commit"} <= stages.keys()
    assert [span.name for span in spans if span.parent_span_id == purging.span_id] == ["purge"]
    facts = facts_of(miss)
    assert (miss.name, facts["http.response.status_code"], facts["imgproxy.outcome"]) == ("GET", 200, "miss")
    assert facts["url.query"] == "w=50&s=REDACTED"
    assert sent[0] == f"00-{TRACE}-{stages['fetch'].span_id.hex()}-01"
    starts = [stages[name].start_time_unix_nano for name in ("fetch", "queue", "render", "commit")]
    assert starts == sorted(starts)
    assert f'"trace_id": "{TRACE}", "span_id": "{miss.span_id.hex()}"' in (tmp_path / "log").read_text()
    assert all(span.parent_span_id.hex() in {PARENT, *ids} for span in spans)
    (resource,) = {str(found.resource) for export in collector.exports for found in export.resource_spans}
    assert all(word in resource for word in ("service.name", "imgproxy", "deployment.environment.name"))
    assert not any(b"hush" in export.SerializeToString() for export in collector.exports)


async def test_without_the_variables_no_library_of_telemetry_is_imported(tmp_path: Path) -> None:
    """Python itself lists on standard error what a serving process imports."""
    with (tmp_path / "imports").open("wb") as imports:
        async with origin(answer) as library:
            before = (*ENV, "PYTHONPROFILEIMPORTTIME=1")
            async with served(Library(library.url), tmp_path, stderr=imports, before=before) as (process, url):
                await use(url)
                process.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(process.wait(), 20) == 0

    found = {line.rpartition("|")[2].strip() for line in (tmp_path / "imports").read_text().splitlines()}
    assert "imgproxy.telemetry" in found
    assert not {"opentelemetry", "sentry_sdk", "grpc", "requests"} & found


class Failing(Failpoints):
    """A fetch fails with this error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def reach(self, point: Point | Step, key: str) -> None:
        """Fail."""
        if point is Point.BEFORE_FETCH:
            local_variable = "a-value-of-the-stack"
            assert local_variable
            raise self._error


async def test_sentry_gets_unexpected_errors_alone_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No signature, no configured token, no local variable is in a report; an error of ours makes none."""
    token = "the-token-of-this-service"
    error = RuntimeError(f"no way: https://cms.example/{KEY}?w=1&s=hush with {token}")
    with http_collector() as collector:
        monkeypatch.setenv("SENTRY_DSN", collector.endpoint.replace("://", "://public@") + "/1")
        with observed(settings(signing=SigningSettings(tokens=(SecretStr(token),)))):
            for folder, raised, status in (("a", error, 500), ("b", OriginUnreachable(), 502)):
                async with site(tmp_path / folder, failpoints=Failing(raised)) as here:
                    assert (await here.get(f"/{KEY}?w=1&s=hush")).status == status
                    assert (await here.get("/-/nothing")).status == 404
            logging.getLogger("imgproxy.background").error("a task failed", exc_info=OriginUnreachable())

    (report,) = collector.reports
    (found,) = report["exception"]["values"]
    assert (found["type"], found["value"]) == (
        "RuntimeError",
        f"no way: https://cms.example/{KEY}?w=1&s=REDACTED with REDACTED",
    )
    assert found["stacktrace"]["frames"][-1]["function"] == "reach"
    assert report["release"].startswith("imgproxy@")
    text = str(report)
    assert not any(word in text for word in ("hush", token, "'vars'", "REDACTED@"))
    assert "request" not in report
