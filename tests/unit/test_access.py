"""The lines of the access log: their fields, hits that are written in a cheaper way, and what fits on a terminal."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from imgproxy.config.sections import LogSettings
from imgproxy.edge.access import AccessLog
from imgproxy.edge.access_line import AccessLine
from imgproxy.telemetry.logs import JsonFormatter, LineHandler, TextFormatter
from tests.support.answers import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproxy.edge.access import Peer

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LINE = AccessLine(
    method="GET",
    target="/2025/03/14/c316.jpeg?w=800",
    status=200,
    outcome="miss",
    tier="origin",
    ms=52.4,
    render_ms=40.1,
    bytes=46_000,
    format="webp",
    client="192.0.2.7",
    request_id="an-id",
)


class Pipe:
    """The access log of a service whose standard error is this pipe."""

    def __init__(self, formatter: JsonFormatter | TextFormatter) -> None:
        self.reader, self._descriptor = os.pipe()
        self.lines = LineHandler(self._descriptor, formatter)
        self.log = AccessLog(settings(log=LogSettings(access="all")), self.lines)

    def read(self) -> str:
        """Return what is written by now."""
        self.lines.flush()
        return os.read(self.reader, 1_000_000).decode()

    def close(self) -> None:
        os.close(self.reader)
        os.close(self._descriptor)


@pytest.fixture(autouse=True)
def _informed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "imgproxy.access")


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe(JsonFormatter())
    yield pipe
    pipe.close()


HITS = [
    ("/a.jpg?w=50&s=0123456789abcdef0123456789abcdef", 200, 46_000, ("127.0.0.1", 1), {}),
    ("/a.jpg", 304, 0, None, {"Host": "images.example"}),
    ('/ü"\\b\n\x7f\u2028', 200, 5, ("::1", 1, 0, 0), {"User-Agent": 'a "b"\\' + "c" * 300}),
    ("/bytes-that-are-not-utf-8-\udcff", 200, 5, ("::1", 1, 0, 0), {"Referer": "https://u:p@cms.example/?token=5"}),
    ("/" + "a" * 200 + "?w=1", 200, 5, ("::1", 1, 0, 0), {"traceparent": PARENT, "Referer": "https://r/" + "r" * 999}),
]


@pytest.mark.parametrize(("target", "status", "sent_bytes", "peer", "headers"), HITS)
def test_the_line_of_a_hit_is_that_of_any_other_request(  # noqa: PLR0917 pytest gives them by name
    pipe: Pipe, target: str, status: int, sent_bytes: int, peer: Peer, headers: dict[str, str]
) -> None:
    """It is made in a cheaper way, from the same fields in the same order."""
    given = CIMultiDictProxy(CIMultiDict(headers))

    def write() -> str:
        pipe.log.write_hit(peer, target, status, sent_bytes, given, "an-id", "disk", "image/webp", 100)
        return pipe.read().partition('", "level"')[2]

    cheap = write()
    pipe.log._makes_json_hits = False
    usual = write()

    assert cheap == usual
    fields = json.loads('{"level"' + cheap)
    assert (fields["outcome"], fields["tier"], fields["format"], fields["bytes"]) == ("hit", "disk", "webp", sent_bytes)
    assert len(fields["message"]) < 120


def test_secrets_are_in_no_field(pipe: Pipe) -> None:
    """Not in the target, not in the message, not in the referer."""
    headers = CIMultiDictProxy(CIMultiDict({"Referer": "https://me:hush@cms.example/?access_token=hush"}))
    pipe.log.write_hit(None, "/a.jpg?w=1&s=hush", 200, 5, headers, "an-id", "memory", "image/webp", 100)
    pipe.log.write_refused(None, "/a.jpg?w=1&s=hush", headers, "an-id", 100)

    text = pipe.read()

    assert text.count("\n") == 2
    assert "hush" not in text


def test_a_line_is_made_by_the_thread_that_writes(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop answers requests meanwhile."""
    threads: list[str] = []
    original = AccessLog._line

    def noting(self: AccessLog, answered: Any) -> AccessLine:
        import threading

        threads.append(threading.current_thread().name)
        return original(self, answered)

    monkeypatch.setattr(AccessLog, "_line", noting)
    pipe.log.write_refused(None, "/a.jpg", CIMultiDictProxy(CIMultiDict()), "an-id", 100)
    fields = json.loads(pipe.read())

    assert threads == ["log"]
    assert (fields["level"], fields["status"], fields["code"]) == ("warning", 503, "overloaded")


def test_a_line_without_a_value_has_no_field_for_it() -> None:
    """`null` would say nothing, in every line."""
    assert list(LINE.facts()) == [
        "method", "target", "status", "outcome", "tier", "ms", "render_ms", "bytes", "format", "client", "request_id",
    ]  # fmt: skip


def test_the_message_is_short() -> None:
    """Method, path without its query, status."""
    assert LINE.message == "GET /2025/03/14/c316.jpeg 200"


def test_a_line_for_people_has_what_they_look_for_first_and_all_of_it_in_a_file() -> None:
    """Status and outcome, stages, size, request."""
    assert LINE.text(120) == "200 miss origin webp 52 ms render 40 ms 46.0 kB GET /2025/03/14/c316.jpeg?w=800"
    assert LINE.text(None) == LINE.text(120) + "  client=192.0.2.7  request_id=an-id"


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("target", ["/a?" + "w=1&" * 100, "/ü\x1b[31m\n" * 20, "/a"])
def test_a_line_on_a_terminal_fits_its_width_and_sends_it_no_commands(width: int, target: str) -> None:
    """Whatever the URL has."""
    pipe = Pipe(TextFormatter(lambda: width))
    pipe.log.write_refused(("192.0.2.7", 1), target, CIMultiDictProxy(CIMultiDict()), "an-id", 100)
    written = pipe.read()
    pipe.close()

    assert written.endswith("\n")
    assert written.count("\n") == 1
    assert len(written) - 1 <= max(width, len("00:00:00 WARNING ..."))
    assert written[:-1].isprintable()
    assert written.isascii()


@pytest.mark.parametrize(
    ("access", "wants"), [("all", (True, True)), ("misses", (False, True)), ("none", (False, False))]
)
def test_the_fast_path_is_told_what_gets_a_line(access: Any, wants: tuple[bool, bool]) -> None:
    """It does nothing for the others."""
    log = AccessLog(settings(log=LogSettings(access=access)), None)

    assert (log.wants_hits, log.wants_errors) == wants
