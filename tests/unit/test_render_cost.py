"""What a render is expected to cost."""

from dataclasses import replace

import pytest

from imgproxy.admission.cost import CostModel, reduction_units, units
from imgproxy.params.plan import Format, Output, Px, RenderPlan, Resize
from imgproxy.workers.job import RenderJob, RenderTarget, SourceFacts

SIX_MP = SourceFacts("image/jpeg", 2725, 2225)
TWENTY_FOUR_MP = SourceFacts("image/jpeg", 6000, 4000)
CUT_OUT = SourceFacts("image/png", 1200, 980, has_alpha=True)
RADAR = SourceFacts("image/gif", 640, 480, frames=24)


def plan(width: int, **changes: object) -> RenderPlan:
    return RenderPlan(resize=Resize(width=Px(width), **changes))  # type: ignore[arg-type]


def job(*formats: Format, original_bytes: int = 829_000, width_px: int = 800) -> RenderJob:
    resize = Resize(width=Px(width_px))
    targets = tuple(RenderTarget(RenderPlan(resize=resize, output=Output(format=item)), "x") for item in formats)
    return RenderJob("original", targets, original_bytes=original_bytes)


@pytest.mark.parametrize(
    ("form", "original_bytes", "source", "width_px", "measured_ms"),
    [
        (Format.JPEG, 260_000, SourceFacts("image/jpeg", 1400, 1143), 150, 7.5),
        (Format.JPEG, 829_000, SIX_MP, 800, 28.3),
        (Format.WEBP, 829_000, SIX_MP, 1200, 83.8),
        (Format.AVIF, 829_000, SIX_MP, 150, 23.8),
        (Format.PNG8, 829_000, SIX_MP, 1200, 487.6),
        (Format.JPEG, 8_160_000, TWENTY_FOUR_MP, 150, 105.3),
        (Format.AVIF, 8_160_000, TWENTY_FOUR_MP, 800, 176.3),
        (Format.PNG, 3_610_000, CUT_OUT, 800, 155.8),
        (Format.WEBP, 490_000, RADAR, 150, 333.9),
        (Format.GIF, 490_000, RADAR, 400, 1570.2),
    ],
)
def test_the_cost_is_about_what_such_a_render_took(
    form: Format, original_bytes: int, source: SourceFacts, width_px: int, measured_ms: float
) -> None:
    """Whatever is rendered in whatever size, the estimate is within a factor of two of the time that was measured."""
    estimate = units(job(form, original_bytes=original_bytes, width_px=width_px), source)

    assert measured_ms / 2 < estimate < 2 * measured_ms


def test_cost_grows_with_the_format() -> None:
    """AVIF is dearer than WebP than JPEG."""
    assert units(job(Format.AVIF), SIX_MP) > units(job(Format.WEBP), SIX_MP) > units(job(Format.JPEG), SIX_MP)


def test_plans_that_share_a_decode_cost_less_than_apart() -> None:
    """Seven sizes together are more than one and less than seven."""
    one, seven = (units(job(*formats), TWENTY_FOUR_MP) for formats in ([Format.JPEG], [Format.JPEG] * 7))

    assert one < seven < 7 * one


def test_a_description_of_the_source_costs_next_to_nothing_to_encode() -> None:
    """What fm=json costs is the reading alone, whatever size it names."""
    assert units(job(Format.JSON, width_px=4000), SIX_MP) < units(job(Format.JPEG, width_px=100), SIX_MP)


@pytest.mark.parametrize(
    ("resize", "megapixels"),
    [
        (Resize(width=Px(1000), height=Px(500)), 0.5),
        (Resize(width=Px(1000)), 0.75),
        (Resize(height=Px(750)), 0.75),
        (Resize(width=Px(1600), aspect=16 / 9), 1.44),
        (Resize(), 6.0),
    ],
)
def test_what_is_encoded_is_what_the_plan_asks_for_or_all_there_is(resize: Resize, megapixels: float) -> None:
    """Both sides, or one of a picture of usual shape, or the size of the source."""
    source = SourceFacts("image/jpeg", 3000, 2000)
    plain = units(RenderJob("original", ()), source)
    target = RenderTarget(RenderPlan(resize=resize, output=Output(format=Format.JPEG)), "x")

    assert units(RenderJob("original", (target,)), source) - plain == pytest.approx(40.0 * megapixels)


def test_a_source_is_guessed_at_by_its_bytes_until_its_header_was_read() -> None:
    """An animation counts as a still of its bytes, then with all its frames."""
    costs = CostModel()
    animation = job(Format.WEBP, original_bytes=490_000)
    before = costs.units_of(animation)
    costs.job_ended(animation, RADAR, 0.3)

    assert costs.units_of(animation) > 5 * before


def test_the_model_learns_how_fast_this_machine_is() -> None:
    """After jobs that took twice as long as expected, the next is expected to take longer."""
    model = CostModel()
    one = job(Format.JPEG)
    cost = units(one, SIX_MP)

    for _ in range(200):
        model.job_ended(one, SIX_MP, 2 * cost / 1000)

    assert model.seconds(cost) == pytest.approx(2 * cost / 1000, rel=0.01)


def test_small_pictures_that_take_long_for_their_size_do_not_make_large_ones_endless() -> None:
    """What is learnt of a mix is what the mix took, so that a large picture is not refused for small ones' sake."""
    model = CostModel()
    small = job(Format.JPEG, original_bytes=20_000, width_px=100)
    large = job(Format.AVIF, original_bytes=8_160_000)

    for number in range(300):
        model.job_ended(small, SourceFacts("image/png", 200, 200), 0.02)  # ten times its cost
        if number % 10 == 0:
            model.job_ended(large, TWENTY_FOUR_MP, 0.2)

    assert model.seconds(model.units_of(large)) < 0.5


def test_a_place_that_another_original_has_now_says_nothing_of_this_one() -> None:
    """Originals that land in the same memory one after the other are told apart by their names."""
    model = CostModel()
    photo = replace(job(Format.JPEG), original="/lent/1", name="photo")
    radar = replace(photo, name="radar")
    model.job_ended(radar, RADAR, 0.3)

    assert model.units_of(photo) < model.units_of(radar) / 5


def test_a_reduction_is_worth_half_of_a_render_and_no_more_than_its_time() -> None:
    """What is known of the original counts, and how fast the machine is."""
    model = CostModel()
    photo, resized = replace(job(Format.JPEG, original_bytes=8_160_000), name="photo"), plan(800)
    model.job_ended(photo, TWENTY_FOUR_MP, units(photo, TWENTY_FOUR_MP) / 1000)

    whole = units(photo, TWENTY_FOUR_MP)
    assert model.worth_units(resized, 8_160_000, "photo", within_s=9.0) == pytest.approx(whole / 2)
    assert model.worth_units(resized, 100_000, "photo", within_s=9.0) > model.worth_units(
        resized, 100_000, "other", within_s=9.0
    )
    assert model.seconds(model.worth_units(resized, 8_160_000, "photo", within_s=0.01)) == pytest.approx(0.01)


def test_a_reduction_costs_what_its_format_does_where_that_is_the_sources() -> None:
    """A PNG that stays one takes longer than a JPEG."""
    kept = plan(800)
    of_png, of_jpeg = (reduction_units(kind, 960_000, kept) for kind in ("image/png", "image/jpeg"))

    assert of_png is not None
    assert of_jpeg is not None
    assert of_png > 2 * of_jpeg


@pytest.mark.parametrize(
    ("form", "width_px", "measured_ms"),
    [(Format.JPEG, 1200, 34.0), (Format.JPEG, 1600, 48.2), (Format.WEBP, 1200, 74.7), (Format.AVIF, 1200, 87.1)],
)
def test_the_cost_of_a_reduction_is_about_what_it_took(form: Format, width_px: int, measured_ms: float) -> None:
    """From 1200 and 1600 px of 3:2 to 800, within a factor of two."""
    pixels = width_px * width_px * 2 // 3
    reduced = RenderPlan(resize=Resize(width=Px(800)), output=Output(format=form))
    estimate = reduction_units(f"image/{form.value}", pixels, reduced)

    assert estimate is not None
    assert measured_ms / 2 < estimate < 2 * measured_ms
