"""A URL explained: what became of each parameter, and why."""

import base64

import pytest

from imgproxy.config.url import UrlSettings
from imgproxy.errors import BadUrl
from imgproxy.params import table
from imgproxy.params.explain import Effect, Explained, Explanation, explain
from imgproxy.params.negotiate import read_headers
from imgproxy.params.request import RequestReader
from tests.support.params import build_request

CHROME = read_headers("image/avif,image/webp,*/*")


def explained(query: str, settings: UrlSettings | None = None, path: str = "/2025/03/14/a.jpg") -> Explanation:
    settings = settings or UrlSettings()
    return explain(f"{path}?{query}", CHROME, reader=RequestReader(settings), settings=settings)


def only(query: str, settings: UrlSettings | None = None) -> Explained:
    (line,) = explained(query, settings).parameters
    return line


@pytest.mark.parametrize(
    ("query", "effect", "value", "why"),
    [
        ("w=800", Effect.USED, "Px(value=800)", ""),
        ("width=800", Effect.USED, "Px(value=800)", ""),
        ("q=150", Effect.CHANGED, "100", "expected a whole number from 0 to 100"),
        ("w=abc", Effect.IGNORED, None, "expected"),
        ("w=0", Effect.REFUSED, None, "expected"),
        ("w=", Effect.IGNORED, None, "it has no value"),
        ("w", Effect.IGNORED, None, "it has no value"),
        ("widht=5", Effect.UNKNOWN, None, "did you mean `width`?"),
        ("zzzzzz=5", Effect.UNKNOWN, None, "expected the name of a parameter"),
        ("txt=hello", Effect.NOT_HERE, None, "this service does not have this feature of imgix"),
        ("dl=a.jpg", Effect.ABOUT_THE_ANSWER, "'a.jpg'", ""),
        ("w64=*", Effect.REFUSED, None, "expected base64url of UTF-8 text"),
    ],
)
def test_a_parameter_alone(query: str, effect: Effect, value: str | None, why: str) -> None:
    """Used, changed, ignored, unknown, refused, not here: each with what it came to and why."""
    line = only(query)
    assert line.effect is effect
    assert value is None or line.value == value
    assert why in line.why
    assert bool(line.why) is bool(why)


@pytest.mark.parametrize(
    "query", ["w=100&fp-x=0.2", "w=800&max-w=300", "fm=png&q=40", "fill-color=red&w=100", "dpr=2&rot=90"]
)
def test_a_parameter_that_changes_nothing_is_named(query: str) -> None:
    """The focal point without `crop=focalpoint`, a quality for PNG: the plan is the same without it."""
    lines = explained(query).parameters
    assert [line.effect for line in lines].count(Effect.NO_EFFECT) >= 1
    for line in lines:
        rest = "&".join(f"{other.name}={other.text}" for other in lines if other is not line)
        same = (
            build_request(f"/a.jpg?{rest}", CHROME, UrlSettings()).plan
            == build_request(f"/a.jpg?{query}", CHROME, UrlSettings()).plan
        )
        assert (line.effect is Effect.NO_EFFECT) is same, line


def test_a_repeat_replaces_and_a_list_adds_up() -> None:
    """Of two widths the last one counts; values of `auto` are added."""
    assert [line.effect for line in explained("w=100&w=200").parameters] == [Effect.REPLACED, Effect.USED]
    assert [line.effect for line in explained("auto=format&auto=compress").parameters] == [Effect.USED] * 2
    encoded = base64.urlsafe_b64encode(b"300").decode().rstrip("=")
    found = explained(f"w=100&w64={encoded}")
    assert [(line.name, line.text, line.effect) for line in found.parameters] == [
        ("w", "100", Effect.REPLACED),
        ("w64", "300", Effect.USED),
    ]


def test_presets_and_defaults_say_where_they_come_from() -> None:
    """What the URL says itself wins, and the explanation says so."""
    settings = UrlSettings.model_validate(
        {"defaults": {"q": 60, "auto": "format"}, "presets": {"teaser": {"w": 320, "fit": "crop"}}}
    )
    found = explained("preset=teaser,nosuch&w=100&h=90", settings)
    by_source = {(line.source, line.name): line.effect for line in found.parameters}
    assert by_source == {
        ("url", "preset"): Effect.ABOUT_THE_ANSWER,
        ("url", "w"): Effect.USED,
        ("url", "h"): Effect.USED,
        ("default", "q"): Effect.USED,
        ("default", "auto"): Effect.USED,
        ("preset teaser", "w"): Effect.REPLACED,
        ("preset teaser", "fit"): Effect.USED,
        ("preset", "nosuch"): Effect.UNKNOWN,
    }


def test_the_plan_the_digest_and_the_headers_are_those_of_the_request() -> None:
    """They are read by the reader of requests."""
    query = "w=800&auto=format&expires=1999999999&dl=x.jpg"
    asked = build_request(f"/a.jpg?{query}", CHROME, UrlSettings())
    assert asked.plan is not None
    found = explained(query, path="/a.jpg")
    assert (found.key, found.plan, found.digest) == ("a.jpg", asked.plan.canonical(), asked.plan.digest)
    assert (found.vary, found.expires_at_s, found.download_name) == (("Accept",), 1999999999, "x.jpg")
    assert found.error is None
    assert explained("s=abc").plan is None


def test_an_error_of_the_url_is_explained() -> None:
    """Strict mode names the value; an `expires` that is no time is the answer's error; a bad path is raised."""
    strict = explained("w=100&bogus=1", UrlSettings(strict=True))
    assert strict.error is not None
    assert strict.error.public == "Parameter bogus='1': expected the name of a parameter."
    assert [line.effect for line in strict.parameters] == [Effect.USED, Effect.REFUSED]
    assert explained("expires=soon").error is not None
    with pytest.raises(BadUrl):
        explained("w=1", path="/a/../b.jpg")


def test_a_legacy_crop_in_the_path_is_a_rect() -> None:
    """It is listed with the text of the `rect` that it stands for."""
    (line,) = explained("", path="/a.jpg/C=W100,H50,X1,Y2").parameters
    assert (line.source, line.parameter, line.value) == ("path", "rect", "1,2,100,50")


@pytest.mark.parametrize("row", table.PARAMETERS, ids=lambda row: row.name)
def test_every_parameter_can_be_explained(row: object) -> None:
    """With any text, and as JSON."""
    for text in ("1", "x", "-5", "%00", "red,blue", "1,2,3,4"):
        document = explained(f"w=300&{getattr(row, 'name')}={text}").as_json()  # noqa: B009
        assert document["parameters"]
