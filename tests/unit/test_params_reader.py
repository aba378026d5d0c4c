"""The reader of image URLs: it remembers what queries mean, and nobody can tell but by the time it takes."""

from __future__ import annotations

import pytest

from imgproxy.config.sections import UrlSettings
from imgproxy.errors import BadParameter, BadUrl, ImgproxyError, UriTooLong
from imgproxy.params.negotiate import ClientHeaders
from imgproxy.params.plan import ImageRequest, RenderPlan
from imgproxy.params.request import RequestReader, build_request

CHROME = ClientHeaders(accept="image/avif,image/webp")
LEGACY = ClientHeaders()
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
    """What a reader makes of a target: the request, or the error as one can compare it."""
    assert callable(read)
    try:
        found = read(target, headers)
    except ImgproxyError as error:
        return type(error), str(error)
    assert isinstance(found, ImageRequest)
    return found


@pytest.mark.parametrize("is_strict", [False, True])
def test_a_reader_says_what_build_request_says(*, is_strict: bool) -> None:
    """Every target means the same the first time and the second, on its own and after its query was seen elsewhere."""
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


def test_a_query_that_is_not_to_be_remembered_is_read_anew() -> None:
    """What a stranger makes up does not stay in memory."""
    reader = RequestReader(UrlSettings())
    first = reader.read("/a.jpg?w=100", CHROME, is_remembered=False).plan
    again = reader.read("/b.jpg?w=100", CHROME, is_remembered=False).plan
    assert again == first
    assert again is not first


def test_the_longest_target_is_as_long_as_ever() -> None:
    """The limit is on the target as it came, to the character."""
    reader = RequestReader(UrlSettings(max_url_chars=100))
    longest = "/a?w=1&dl=".ljust(100, "x")
    assert reader.read(longest, CHROME).key == "a"
    with pytest.raises(UriTooLong):
        reader.read(f"{longest}x", CHROME)


def test_the_path_is_complained_of_first() -> None:
    """Where path and query are both wrong, it is the path that is named."""
    reader = RequestReader(UrlSettings(strict=True))
    with pytest.raises(BadUrl):
        reader.read("//a.jpg?w=x", CHROME)
    with pytest.raises(BadParameter):
        reader.read("/a.jpg?w=x", CHROME)


def test_equal_plans_have_equal_hashes_and_one_family() -> None:
    """A plan is found in a dictionary by what it is; plans that differ in their width alone are of one family."""
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
