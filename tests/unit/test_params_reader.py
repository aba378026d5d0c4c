"""The reader of image URLs remembers queries; its answers are the same as without memory."""

from __future__ import annotations

import pytest

from imgproxy.config.url import UrlSettings
from imgproxy.errors import BadParameter, BadUrl, ImgproxyError, UriTooLong
from imgproxy.params.negotiate import ClientHeaders, read_headers
from imgproxy.params.plan import RenderPlan
from imgproxy.params.request import ImageRequest, RequestReader
from tests.support.params import build_request

CHROME = read_headers(accept="image/avif,image/webp")
LEGACY = read_headers()
TARGETS = (
    "/a.jpg",
    "/a.jpg?",
    "/a/b.jpg?w=100",
    "/b.jpg?w=100&auto=format&dl=x.jpg&expires=99",
    "/a.jpg/C=W10,H20,X1,Y2?w=100",
    "/c.jpg?w=100&mark=logo.png",
    "/logo.png?w=100&mark=logo.png",
    "/logo.png?w=100&preset=marked",
    "/c.jpg?w=100&preset=marked",
    "/c.jpg?w=0",
    "/%ff.jpg?w=0",
    "//x.jpg?w=100",
    "/c.jpg?expires=never",
    "/c.jpg?txt64=!&w=7",
    "/pre/d.jpg?w=100&nonsense=1",
    "/pre/d.jpg?w=100?h=100",
)


def answer(read: object, target: str, headers: ClientHeaders) -> ImageRequest | tuple[type[ImgproxyError], str]:
    """Return the request, or the error in a form that can be compared."""
    assert callable(read)
    try:
        found = read(target, headers)
    except ImgproxyError as error:
        return type(error), str(error)
    assert isinstance(found, ImageRequest)
    return found


@pytest.mark.parametrize("is_strict", [False, True])
def test_a_remembered_query_says_the_same(*, is_strict: bool) -> None:
    """Each target gives the same twice, also after its query was read for another picture."""
    settings = UrlSettings(strict=is_strict, presets={"marked": {"mark": "logo.png"}})
    reader = RequestReader(settings, mount_prefix="/pre")

    def afresh(target: str, headers: ClientHeaders) -> ImageRequest:
        return build_request(target, headers, settings, mount_prefix="/pre")

    for headers in (CHROME, LEGACY, CHROME):
        for target in TARGETS:
            expected = answer(afresh, target, headers)
            assert answer(reader.read, target, headers) == expected
            assert answer(reader.read, target, headers) == expected


def test_pictures_share_the_plan_of_a_query() -> None:
    """The plan of a query is made once for all pictures, and once for each kind of client."""
    reader = RequestReader(UrlSettings())
    first = reader.read("/a.jpg?w=100&auto=format", CHROME).plan
    assert reader.read("/b.jpg?w=100&auto=format", CHROME).plan is first
    assert reader.read("/b.jpg?w=100&auto=format", LEGACY).plan != first


def test_a_query_is_not_remembered_with_is_remembered_false() -> None:
    """Such a query gives an equal plan, but not the same object."""
    reader = RequestReader(UrlSettings())
    first = reader.read("/a.jpg?w=100", CHROME, is_remembered=False).plan
    again = reader.read("/b.jpg?w=100", CHROME, is_remembered=False).plan
    assert again == first
    assert again is not first


def test_the_limit_is_for_the_whole_target() -> None:
    """A target of `max_url_chars` is read; one character more is refused."""
    reader = RequestReader(UrlSettings(max_url_chars=100))
    longest = "/a?w=1&dl=".ljust(100, "x")
    assert reader.read(longest, CHROME).key == "a"
    with pytest.raises(UriTooLong):
        reader.read(f"{longest}x", CHROME)


def test_a_wrong_path_is_reported_before_a_wrong_query() -> None:
    """If path and query are both wrong, the error names the path."""
    reader = RequestReader(UrlSettings(strict=True))
    with pytest.raises(BadUrl):
        reader.read("//a.jpg?w=x", CHROME)
    with pytest.raises(BadParameter):
        reader.read("/a.jpg?w=x", CHROME)


def test_equal_plans_have_equal_hashes_and_one_family() -> None:
    """Equal plans are the same dictionary key; plans that differ only in their width are of one family."""
    reader = RequestReader(UrlSettings())
    plans = [
        reader.read(f"/a.jpg?{query}", LEGACY, is_remembered=False).plan for query in ("w=100", "w=100&q=", "w=200")
    ]
    first, same, wider = [plan for plan in plans if plan is not None]
    assert first == same
    assert hash(first) == hash(same)
    assert first.family is not None
    assert wider.family is not None
    assert (first.family[0], wider.family[0]) == (100, 200)
    assert first.family[1] == wider.family[1]
    assert RenderPlan().family is None
