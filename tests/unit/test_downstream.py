"""Purge calls to caches in front, verdicts on their answers, and the settings."""

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from imgproxy.cache.entry import key_hash
from imgproxy.cache.outbox import OutboxFigures, Subject, WaitingLine
from imgproxy.config.downstream import DownstreamSettings
from imgproxy.config.load import load
from imgproxy.errors import ConfigError
from imgproxy.purge.downstream.calls import DONE, CallResult, PurgeAnswer, Verdict
from imgproxy.purge.downstream.queue import TargetQueue
from imgproxy.purge.downstream.targets import adapter_of, limiter_of
from imgproxy.purge.downstream.template import Template
from imgproxy.purge.downstream.vendors import Cloudflare, Fastly, Varnish
from imgproxy.telemetry.metrics import Metrics
from tests.support.jumping_loop import JumpingLoop

KEY = Subject("2026/03/14/a picture ä%.jpg")
ENTRY = Subject("PNIi08x4UdEA", is_entry=True)
KEY_TAG = f"k-{key_hash(KEY.name)[:12]}"


def token() -> str:
    return "secret"


def test_varnish_gets_a_purge_with_the_tags_in_a_header() -> None:
    """The tags are separated by spaces, each is there once, and the token is a bearer token."""
    call = Varnish("http://varnish/", token).call([KEY, ENTRY, KEY])

    assert (call.method, call.url, call.body) == ("PURGE", "http://varnish/", None)
    assert call.headers == {"xkey-purge": f"{KEY_TAG} e-PNIi08x4UdEA", "Authorization": "Bearer secret"}


def test_varnish_without_a_token_gets_no_authorization() -> None:
    """The VCL then allows purges by address."""
    assert "Authorization" not in Varnish("http://varnish/", lambda: None).call([KEY]).headers


def test_a_full_call_fits_into_a_header_line_of_varnish() -> None:
    """http_req_hdr_len is 8 KiB by default. Long entry ids have the longest tags."""
    entries = [Subject(f"{number:0100}"[::-1], is_entry=True) for number in range(Varnish.subjects_max)]

    assert len(Varnish("http://varnish/", token).call(entries).headers["xkey-purge"]) < 8_000


def test_a_template_is_escaped_where_it_is_filled_in() -> None:
    """A key is percent-encoded in a URL, except its slashes, and escaped in JSON."""
    settings = DownstreamSettings(
        kind="http",
        url="https://api.example/purge/{key}?tag={tag}",
        headers={"X-Key": "key {token}"},
        body='{"url": "/{key}", "hard": {"is": true}}',
        token=SecretStr("secret"),
    )
    key = Subject('a/"ü" {tag}?.jpg')
    call = Template(settings, token).call([key])

    assert call.url == f"https://api.example/purge/a/%22%C3%BC%22%20%7Btag%7D%3F.jpg?tag=k-{key_hash(key.name)[:12]}"
    assert json.loads(call.body or b"") == {"url": '/a/"ü" {tag}?.jpg', "hard": {"is": True}}
    assert call.headers == {"X-Key": "key secret", "Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/x-www-form-urlencoded", b"key=2026%2F03%2F14%2Fa+picture+%C3%A4%25.jpg"),
        ("text/plain", "key=2026/03/14/a picture ä%.jpg".encode()),
        ("application/vnd.api+json; charset=utf-8", b"key=2026/03/14/a picture \\u00e4%.jpg"),
    ],
)
def test_a_body_is_escaped_as_its_type_needs(content_type: str, expected: bytes) -> None:
    """A key cannot break out of a form or a JSON string."""
    settings = DownstreamSettings(kind="http", url="http://api/", body="key={key}", content_type=content_type)

    call = Template(settings, token).call([KEY])

    assert call.body == expected
    assert call.headers == {"Content-Type": content_type}


@pytest.mark.parametrize(
    ("url", "keys", "entries"),
    [
        ("http://api/{key}", True, False),
        ("http://api/{entry}", False, True),
        ("http://api/{tag}", True, True),
        ("http://api/{key}/{tag}", True, False),
    ],
)
def test_a_template_covers_what_it_has_a_placeholder_for(url: str, keys: bool, entries: bool) -> None:
    """{key} for keys, {entry} for entries, {tag} alone for both."""
    template = Template(DownstreamSettings(kind="http", url=url), token)

    assert (template.covers(KEY), template.covers(ENTRY)) == (keys, entries)


@pytest.mark.parametrize(
    ("answer", "result", "wait_s"),
    [
        (PurgeAnswer(200), CallResult.DONE, None),
        (PurgeAnswer(429, retry_after_s=7.0), CallResult.LIMITED, 7.0),
        (PurgeAnswer(429, retry_after_s=86_400.0), CallResult.LIMITED, 600.0),
        (PurgeAnswer(429), CallResult.LIMITED, None),
        (PurgeAnswer(503, retry_after_s=2.0), CallResult.LIMITED, 2.0),
        (PurgeAnswer(503), CallResult.FAILED, None),
        (PurgeAnswer(302), CallResult.FAILED, None),
        (PurgeAnswer(401), CallResult.FAILED, None),
        (PurgeAnswer(405), CallResult.FAILED, None),
        (PurgeAnswer(400), CallResult.REJECTED, None),
        (PurgeAnswer(413), CallResult.REJECTED, None),
    ],
)
def test_each_status_has_a_verdict(answer: PurgeAnswer, result: CallResult, wait_s: float | None) -> None:
    """200 is done, 429 is limited; a failure of the target is not confused with a rejected request."""
    for adapter in (Varnish("http://v/", token), Fastly("abc", token)):
        verdict = adapter.judge(answer)
        assert (verdict.result, verdict.wait_s) == (result, wait_s)


@pytest.mark.parametrize(
    ("status", "body", "result", "detail"),
    [
        (200, b'{"success":true,"errors":[]}', CallResult.DONE, None),
        (
            200,
            b'{"success":false,"errors":[{"code":1,"message":"no\\nzone"}]}',
            CallResult.FAILED,
            "HTTP 200: 1 no zone",
        ),
        (200, b"<html>", CallResult.FAILED, "HTTP 200 without Cloudflare's answer"),
        (200, b"[" * 100_000, CallResult.FAILED, "HTTP 200 without Cloudflare's answer"),
        (400, b'{"success":false,"errors":[{"code":2,"message":"tags"}]}', CallResult.REJECTED, "HTTP 400: 2 tags"),
        (500, b"", CallResult.FAILED, "HTTP 500"),
    ],
)
def test_cloudflare_has_purged_only_if_its_answer_says_so(
    status: int, body: bytes, result: CallResult, detail: str | None
) -> None:
    """A 200 from something in between does not count."""
    verdict = Cloudflare("0" * 32, token).judge(PurgeAnswer(status, body))

    assert (verdict.result, verdict.detail) == (result, detail)


class Confirming:
    """Confirms every call at once; notes the time of each and how many subjects it had."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, int]] = []

    async def send(self, adapter: object, subjects: Sequence[Subject], *, timeout_s: float) -> Verdict:
        self.calls.append((asyncio.get_running_loop().time(), len(subjects)))
        return DONE


class EmptyOutbox:
    """An outbox in which nothing waits."""

    async def figures(self, target: str) -> OutboxFigures:
        return OutboxFigures(0, None, None)

    async def due(self, target: str, now_s: float, count: int) -> tuple[WaitingLine, ...]:
        return ()

    async def done(self, target: str, lines: Sequence[WaitingLine]) -> None:
        return None


def test_a_rate_limit_lets_a_burst_through_and_then_collects_subjects() -> None:
    """Cloudflare's free plan takes 25 calls at once, then one in 12 s. That one has everything that came meanwhile."""
    settings = DownstreamSettings(
        kind="cloudflare", zone_id="0" * 32, token=SecretStr("x"), plan="free", wait_s=30, again_after_s=0
    )
    http = Confirming()

    async def purge() -> tuple[float, list[str]]:
        adapter = adapter_of(settings)
        queue = TargetQueue(
            settings,
            adapter,
            EmptyOutbox(),  # type: ignore[arg-type]
            partial(http.send, adapter),
            held_s=1,
            again_after_s=0,
            metrics=Metrics(),
            limiter=limiter_of(settings),
        )
        began_s = asyncio.get_running_loop().time()
        await queue.start()
        for number in range(25):
            await queue.send([Subject(f"{number}.jpg")], number)
        late = await asyncio.gather(*(queue.send([Subject(f"late-{number}.jpg")], 25 + number) for number in range(3)))
        await queue.close()
        return began_s, [state.state for state in late]

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        began_s, states = runner.run(purge())

    assert states == ["done"] * 3
    assert http.calls[:25] == [(began_s, 1)] * 25
    assert [count for _, count in http.calls[25:]] == [3]
    assert http.calls[25][0] - began_s == pytest.approx(12)


# --- settings --------------------------------------------------------------------------------------------------------

WRONG = [
    ('kind = "varnish"', "kind = 'varnish' needs url"),
    ('kind = "fastly"\nservice_id = "abc"', "needs token or token_file"),
    ('kind = "fastly"\nservice_id = "a/b"\ntoken = "x"', "number 1 service_id = 'a/b'"),
    ('kind = "cloudflare"\nzone_id = "xyz"\ntoken = "x"', "number 1 zone_id = 'xyz'"),
    ('kind = "cloudflare"\ntoken = "x"', "needs zone_id"),
    ('kind = "http"\nurl = "http://api/"', "must hold {key}, {tag} or {entry}"),
    ('kind = "http"\nurl = "http://api/{keys}"', "unknown placeholder keys"),
    ('kind = "http"\nurl = "http://api/{key}/{entry}"', "use one of them"),
    ('kind = "http"\nurl = "http://api/{key}"\nheaders = { "a b" = "c" }', "'a b' is not a header name"),
    ('kind = "http"\nurl = "http://api/{key}"\nheaders = { a = "x\\ny" }', "'a' is not a header name"),
    ('kind = "http"\nurl = "http://api/{key}"\nheaders = { a = "{token}" }', "{token} needs token or token_file"),
    ('kind = "http"\nurl = "http://api/{key}"\nheaders = { a = "{key}" }', "only {token}"),
    ('kind = "varnish"\nurl = "http://v/{key}"', "placeholders are for kind = 'http' only"),
    ('kind = "varnish"\nurl = "http://v/"\nzone_id = "' + "0" * 32 + '"', "zone_id is for kind = 'cloudflare' only"),
    ('kind = "varnish"\nurl = "http://v/"\ntoken = "a"\ntoken_file = "b"', "give one of them"),
    ('kind = "varnish"\nurl = "ftp://v/"', "number 1 url = 'ftp://v/'"),
    ('kind = "akamai"', '"varnish", "fastly", "cloudflare", "http"'),
    ('name = "x"', "number 1 kind: missing"),
    ('kind = "varnish"\nurl = "http://v/"\ncolour = 1', "number 1 colour: unknown key"),
]


@pytest.mark.parametrize(("section", "expected"), WRONG)
def test_a_wrong_section_is_refused_with_the_reason(tmp_path: Path, section: str, expected: str) -> None:
    """The error comes at start, with the reason."""
    path = tmp_path / "config.toml"
    path.write_text(f"[[downstream]]\n{section}\n")

    with pytest.raises(ConfigError) as caught:
        load(path, {})

    assert any(expected in problem for problem in caught.value.problems), caught.value.problems


def test_two_caches_need_two_names(tmp_path: Path) -> None:
    """The outbox stores caches by name."""
    path = tmp_path / "config.toml"
    varnish = '[[downstream]]\nkind = "varnish"\nurl = "http://v/"\n'
    path.write_text(varnish + varnish)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert any("'varnish' is there 2 times" in problem for problem in caught.value.problems)

    path.write_text(varnish + varnish + 'name = "second"\n')
    assert [item.label for item in load(path, {}).downstream] == ["varnish", "second"]


def test_a_cdn_needs_the_header_with_its_tags(tmp_path: Path) -> None:
    """Without the header on answers, a purge by tag would be confirmed and remove nothing."""
    path = tmp_path / "config.toml"
    path.write_text('[tags]\nheaders = ["xkey"]\n[[downstream]]\nkind = "fastly"\nservice_id = "a"\ntoken = "x"\n')

    with pytest.raises(ConfigError) as caught:
        load(path, {})

    assert "Surrogate-Key" in str(caught.value.problems)


def test_sections_come_from_the_environment_as_json() -> None:
    """A container can be configured without a file."""
    settings = load(None, {"IMGPROXY_DOWNSTREAM": '[{"kind": "varnish", "url": "http://v/"}]'})

    assert [(item.kind, item.url) for item in settings.downstream] == [("varnish", "http://v/")]


def test_a_token_is_read_from_its_file_and_again_when_it_changes(tmp_path: Path) -> None:
    """A secret can be rotated without a restart. A missing file is an error at start."""
    path = tmp_path / "token"
    settings = DownstreamSettings(kind="fastly", service_id="abc", token_file=path)
    with pytest.raises(ConfigError):
        adapter_of(settings)
    path.write_text("first\n")
    adapter = adapter_of(settings)
    assert adapter.call([KEY]).headers["Fastly-Key"] == "first"
    path.write_text("second one"[:6] + "\n\n")

    assert adapter.call([KEY]).headers["Fastly-Key"] == "second"


def test_a_token_never_shows_in_the_settings() -> None:
    """It is neither in a repr nor in a validation error."""
    settings = DownstreamSettings(kind="fastly", service_id="abc", token=SecretStr("hunter2"))
    assert "hunter2" not in repr(settings)
    with pytest.raises(ValidationError) as caught:
        DownstreamSettings(kind="fastly", token=SecretStr("hunter2"))
    assert "hunter2" not in str(caught.value)


def test_the_documented_settings_are_valid(tmp_path: Path) -> None:
    """The example in docs/cdn.md can be copied."""
    text = (Path(__file__).parents[2] / "docs" / "cdn.md").read_text("utf-8")
    path = tmp_path / "config.toml"
    path.write_text(text.split("```toml\n")[1].split("```")[0], "utf-8")

    assert [item.kind for item in load(path, {}).downstream] == ["varnish", "fastly", "cloudflare", "http"]
