"""What a render is expected to cost."""

from imgproxy.params.plan import Fit, Format, Output, Px, RenderPlan, Resize
from imgproxy.render.cost import CostModel, guessed_megapixels, megapixels_of, units
from imgproxy.render.job import RenderJob, RenderTarget, SourceFacts
from imgproxy.stand_ins import FAMILIES_MAX, StandIns


def job(*formats: Format) -> RenderJob:
    targets = tuple(RenderTarget(RenderPlan(output=Output(format=item)), "x") for item in formats)
    return RenderJob("original", targets)


def plan(width: int, **changes: object) -> RenderPlan:
    return RenderPlan(resize=Resize(width=Px(width), **changes))  # type: ignore[arg-type]


def test_cost_grows_with_the_source_and_the_format() -> None:
    """Twice the pixels is twice the cost, and AVIF is dearer than WebP than JPEG."""
    assert units(job(Format.JPEG), 24.0) == 2 * units(job(Format.JPEG), 12.0)
    assert units(job(Format.AVIF), 6.0) > units(job(Format.WEBP), 6.0) > units(job(Format.JPEG), 6.0)


def test_plans_that_share_a_decode_cost_less_than_apart() -> None:
    """Seven sizes together are more than one and less than seven."""
    one, seven = units(job(Format.JPEG), 24.0), units(job(*[Format.JPEG] * 7), 24.0)

    assert one < seven < 7 * one


def test_every_frame_counts() -> None:
    """An animation is as large as all its frames."""
    assert megapixels_of(SourceFacts("image/gif", 1000, 1000, frames=12)) == 12.0
    assert guessed_megapixels(1_000_000) == 4.0


def test_a_job_is_guessed_at_by_the_bytes_of_its_original_until_its_header_was_read() -> None:
    """A photograph of a megabyte counts as four megapixels, then as what it was found to have."""
    costs = CostModel()
    first = RenderJob("original", job(Format.JPEG).targets, original_bytes=1_000_000)
    assert costs.units_of(first) == 4.0
    costs.job_ended(first, SourceFacts("image/jpeg", 3000, 2000), 0.05)
    assert costs.units_of(first) == 6.0


def test_the_model_learns_how_fast_this_machine_is() -> None:
    """After jobs that took twice as long as expected, the next is expected to take longer."""
    model = CostModel()
    before = model.seconds(10.0)

    for _ in range(100):
        model.learn(10.0, 2 * before)

    assert 1.9 * before < model.seconds(10.0) <= 2 * before


def test_a_stand_in_is_the_same_picture_and_larger() -> None:
    """The nearest larger width first; never a smaller one, one much larger, or another crop."""
    known = StandIns()
    for width in (100, 300, 200, 5000):
        known.made("k", plan(width))
    known.made("k", plan(400, height=Px(300), fit=Fit.CROP))

    assert list(known.larger("k", plan(150))) == [plan(200).digest, plan(300).digest]
    assert list(known.larger("other", plan(150))) == []
    assert list(known.larger("k", plan(150, height=Px(100), fit=Fit.CROP))) == []


def test_of_many_pictures_those_made_or_asked_for_lately_are_known() -> None:
    """Memory holds so many families; the one that nobody has used for longest goes first."""
    known = StandIns()
    for number in range(FAMILIES_MAX):
        known.made(f"{number:032x}", plan(300))
    asked, made, unused = (f"{number:032x}" for number in range(3))

    assert list(known.larger(asked, plan(150))) == [plan(300).digest]
    known.made(made, plan(200))
    known.made("new", plan(300))

    assert list(known.larger(asked, plan(150))) == [plan(300).digest]
    assert list(known.larger(made, plan(150))) == [plan(200).digest, plan(300).digest]
    assert list(known.larger(unused, plan(150))) == []
