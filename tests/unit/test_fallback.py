"""Fallback variants: which larger sizes answer in an overload."""

from imgproxy.cache.cache import Cache
from imgproxy.config.sections import CacheSettings
from imgproxy.delivery.fallback import PICTURES_MAX, WIDTHS_MAX, Fallback
from imgproxy.params.plan import Fit, Px, RenderPlan, Resize


def plan(width: int, **changes: object) -> RenderPlan:
    return RenderPlan(resize=Resize(width=Px(width), **changes))  # type: ignore[arg-type]


def fallback() -> Fallback:
    """One that is never asked for variants, only for digests."""
    return Fallback(Cache(CacheSettings()))


def test_a_fallback_is_the_same_picture_and_larger() -> None:
    """The nearest larger width comes first; never a smaller one, one much larger, or another crop."""
    known = fallback()
    for width in (100, 300, 200, 5000):
        known.remember("k", plan(width))
    known.remember("k", plan(400, height=Px(300), fit=Fit.CROP))

    assert list(known.larger("k", plan(150))) == [plan(200).digest, plan(300).digest]
    assert list(known.larger("other", plan(150))) == []
    assert list(known.larger("k", plan(150, height=Px(100), fit=Fit.CROP))) == []


def test_the_picture_used_longest_ago_is_forgotten_first() -> None:
    """Memory holds so many pictures; making a size and asking for one both count as use."""
    known = fallback()
    for number in range(PICTURES_MAX):
        known.remember(f"{number:032x}", plan(300))
    asked, made, unused = (f"{number:032x}" for number in range(3))

    assert list(known.larger(asked, plan(150))) == [plan(300).digest]
    known.remember(made, plan(200))
    known.remember("new", plan(300))

    assert list(known.larger(asked, plan(150))) == [plan(300).digest]
    assert list(known.larger(made, plan(150))) == [plan(200).digest, plan(300).digest]
    assert list(known.larger(unused, plan(150))) == []


def test_a_picture_has_so_many_widths() -> None:
    """A client that counts the widths of a picture up does not fill the memory; the sizes made lately stay."""
    known = fallback()
    for width in reversed(range(100, 300)):
        known.remember("hash", plan(width))

    found = list(known.larger("hash", plan(99)))

    assert found == [plan(width).digest for width in range(100, 100 + WIDTHS_MAX)]
