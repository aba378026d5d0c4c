"""What the environment asks for: traces and error reports, and what is said where they cannot be had."""

import logging
import re
import threading
from pathlib import Path

import pytest
import typer

from imgproxy.cli import observing
from imgproxy.cli.check_machine import try_telemetry
from imgproxy.cli.findings import Level
from imgproxy.telemetry import traces
from tests.support.answers import settings
from tests.support.collectors import http_collector

ROOT = Path(__file__).parents[2]
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("environment", "is_wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "images"}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
    ],
)
def test_a_place_for_traces_switches_them_on(environment: dict[str, str], *, is_wanted: bool) -> None:
    """As the specification of OpenTelemetry says; other variables alone do not."""
    assert traces.is_wanted(environment) is is_wanted


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "'http/json': expected http/protobuf or grpc"),
        ({"SENTRY_DSN": "127.0.0.1"}, "SENTRY_DSN"),
    ],
)
def test_what_cannot_be_right_ends_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variables: dict[str, str], says: str
) -> None:
    """The operator sees which variable it is."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(typer.Exit), observing.observed(settings()):
        pass
    assert says in capsys.readouterr().err


def test_serve_and_check_name_the_extra_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The service runs without traces."""
    monkeypatch.setattr("imgproxy.workers.extras.TELEMETRY", ("a-distribution-that-nobody-has",))
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    with caplog.at_level(logging.WARNING), observing.observed(settings()):
        assert not traces.is_on()
    (finding,) = try_telemetry()
    assert finding.level is Level.NOTICE
    for text in (caplog.text, finding.text):
        assert "traces (OTEL_*), but the extra is not installed: pip install 'imgproxy-edge[telemetry]'" in text


def test_the_end_does_not_wait_for_a_collector_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK alone would wait for 10 s and more. What it still sends is taken if the process is there."""
    with http_collector() as collector:
        collector.may_answer.clear()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        tracer = traces.open_tracer()
        with tracer.span("a span", {}, is_call=False):
            pass
        closing = threading.Thread(target=tracer.close, daemon=True)
        closing.start()
        closing.join(6)
        assert not closing.is_alive()
        collector.may_answer.set()
        for thread in threading.enumerate():
            if thread.name == "traces-closing":
                thread.join(20)
        assert [span.name for span in collector.all_spans()] == ["a span"]


def test_the_page_has_every_span() -> None:
    """docs/traces.md names what the code makes."""
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    made = set(re.findall(r"traces\.(?:span|call|past)\(\"([^\"]+)\"", sources))
    table = re.findall(r"^\| `([^`|]+)` \| ", (ROOT / "docs" / "traces.md").read_text("utf-8"), re.MULTILINE)
    assert {"fetch", "render", "purge CDN"} <= made
    assert made == {name for name in table if not name.startswith("OTEL_")}
