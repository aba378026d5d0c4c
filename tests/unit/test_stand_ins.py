"""Stand-ins: which larger variant answers in an overload, and what is made of it."""

from dataclasses import replace

import pytest

from imgproxy.cache.entry import VariantFacts
from imgproxy.delivery.fallback import FAMILIES_MAX, WIDTHS_MAX, StandIns, reduced_name, reduction
from imgproxy.params.plan import Adjust, Color, Fit, Format, Metadata, Output, Px, RenderPlan, Resize, Sides

# What a reduction to 800 px may cost in place of a render of a photo of 24 megapixels, and of one of 6.
OF_TWENTY_FOUR_MP, OF_SIX_MP = 62.0, 17.0
LARGER = VariantFacts("k", "a" * 32, "0" * 32, "image/jpeg", 120_000, "d" * 32, 1200, 800)


def plan(width: int, **changes: object) -> RenderPlan:
    return RenderPlan(resize=Resize(width=Px(width), **changes))  # type: ignore[arg-type]


def test_a_stand_in_is_the_same_picture_and_larger() -> None:
    """The nearest larger width first; never a smaller one, one much larger, or another crop."""
    known = StandIns()
    for width in (100, 300, 200, 5000):
        known.made("k", plan(width))
    known.made("k", plan(400, height=Px(300), fit=Fit.CROP))

    assert list(known.larger("k", plan(150))) == [(200, plan(200).digest), (300, plan(300).digest)]
    assert list(known.larger("other", plan(150))) == []
    assert list(known.larger("k", plan(150, height=Px(100), fit=Fit.CROP))) == []


def test_of_many_pictures_those_made_or_asked_for_lately_are_known() -> None:
    """Memory holds so many families; the one that nobody has used for longest goes first."""
    known = StandIns()
    for number in range(FAMILIES_MAX):
        known.made(f"{number:032x}", plan(300))
    asked, made, unused = (f"{number:032x}" for number in range(3))

    assert list(known.larger(asked, plan(150))) == [(300, plan(300).digest)]
    known.made(made, plan(200))
    known.made("new", plan(300))

    assert list(known.larger(asked, plan(150))) == [(300, plan(300).digest)]
    assert list(known.larger(made, plan(150))) == [(200, plan(200).digest), (300, plan(300).digest)]
    assert list(known.larger(unused, plan(150))) == []


def test_a_family_remembers_so_many_widths() -> None:
    """Whoever counts the widths of a picture up does not fill the memory; what was made lately stays, nearest first."""
    found = StandIns()
    for width in reversed(range(100, 300)):
        found.made("hash", plan(width))

    widths = [width for width, _ in found.larger("hash", plan(99))]

    assert widths == list(range(100, 100 + WIDTHS_MAX))


# --- reduced --------------------------------------------------------------------------------------------------------


def test_what_is_reduced_is_only_scaled_and_encoded() -> None:
    """All else was done when the larger one was made: nothing is sharpened, flipped or framed a second time."""
    output = Output(format=Format.JPEG, quality=60, metadata=Metadata.NONE)
    wanted = RenderPlan(
        resize=Resize(width=Px(800), fit=Fit.MAX),
        flip="h",
        adjust=Adjust(sharpen=20.0),
        pad=Sides(top_px=3),
        background=Color(1, 2, 3, 255),
        output=output,
    )

    assert reduction(wanted, LARGER, 1200, OF_TWENTY_FOUR_MP) == RenderPlan(resize=Resize(width=Px(800)), output=output)


def test_it_is_left_as_it_is_where_a_render_costs_as_much() -> None:
    """A photo of 6 megapixels is shrunk while it is decoded: to make 800 px of 1200 takes as long."""
    assert reduction(plan(800), LARGER, 1200, OF_TWENTY_FOUR_MP) is not None
    assert reduction(plan(800), LARGER, 1200, OF_SIX_MP) is None


@pytest.mark.parametrize(
    "larger",
    [
        replace(LARGER, frames=12),
        replace(LARGER, width_px=800, height_px=1200),
        replace(LARGER, content_type="image/svg+xml"),
        replace(LARGER, content_type="image/gif"),
        replace(LARGER, content_type="application/json"),
    ],
    ids=["animated", "turned", "drawing", "palette", "description"],
)
def test_what_a_width_does_not_reduce_is_left_as_it_is(larger: VariantFacts) -> None:
    """An animation, a picture that is not as wide as it was asked for, and what has no pixels."""
    assert reduction(plan(800), larger, 1200, OF_TWENTY_FOUR_MP) is None


def test_what_was_reduced_is_never_taken_for_the_render() -> None:
    """It has a name of its own for each pair of plan and larger variant, by the latter's bytes: the ETag is made of it."""
    names = {reduced_name(plan(800), LARGER), reduced_name(plan(801), LARGER)}
    names.add(reduced_name(plan(800), replace(LARGER, digest="b" * 32)))

    assert len(names | {plan(800).digest, LARGER.plan}) == 5
