"""Geometry: the rules of docs/urls.md by table, and properties that hold for every size."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from imgproxy.params.appearance import Sides
from imgproxy.params.plan import Anchor, Bounds, Crop, Fit, Focal, Length, Px, Ratio, Rect, RenderPlan, Resize
from imgproxy.render.geometry import Geometry, corner_radii, find_region, place, shrink_sides, trim_region
from imgproxy.render.orientation import swap
from imgproxy.render.sampling import sample
from imgproxy.render.sizes import Box, Size, Window


def whole(width_px: int, height_px: int) -> Box:
    return Box(0, 0, width_px, height_px)


def placed(source: tuple[int, int], resize: Resize, **plan: object) -> Geometry:
    return place(whole(*source), replace(RenderPlan(resize=resize), **plan))  # type: ignore[arg-type]


# source, resize, final size, window of the source
SIZES: list[tuple[tuple[int, int], Resize, tuple[int, int], tuple[float, float, float, float]]] = [
    # nothing asked for, one side, parts of the source
    ((300, 200), Resize(), (300, 200), (0, 0, 300, 200)),
    ((300, 200), Resize(Px(100)), (100, 67), (0, 0, 300, 200)),
    ((300, 200), Resize(None, Px(100)), (150, 100), (0, 0, 300, 200)),
    ((300, 200), Resize(Ratio(0.5)), (150, 100), (0, 0, 300, 200)),
    ((301, 201), Resize(Ratio(0.5), Ratio(1.0), fit=Fit.SCALE), (151, 201), (0, 0, 301, 201)),
    ((300, 200), Resize(Ratio(1.0)), (300, 200), (0, 0, 300, 200)),
    ((1406, 791), Resize(Px(1024)), (1024, 576), (0, 0, 1406, 791)),
    # clip: inside, one side exact, enlarges
    ((300, 200), Resize(Px(100), Px(100)), (100, 67), (0, 0, 300, 200)),
    ((300, 200), Resize(Px(600), Px(600)), (600, 400), (0, 0, 300, 200)),
    # max: never enlarges
    ((300, 200), Resize(Px(600), Px(600), fit=Fit.MAX), (300, 200), (0, 0, 300, 200)),
    ((300, 200), Resize(Px(100), Px(600), fit=Fit.MAX), (100, 67), (0, 0, 300, 200)),
    ((300, 200), Resize(Px(600), fit=Fit.MAX), (300, 200), (0, 0, 300, 200)),
    ((300, 200), Resize(None, Px(100), fit=Fit.MAX), (150, 100), (0, 0, 300, 200)),
    # crop: exact, the excess axis cut evenly
    ((300, 200), Resize(Px(100), Px(100), fit=Fit.CROP), (100, 100), (50, 0, 200, 200)),
    ((300, 200), Resize(Px(600), Px(600), fit=Fit.CROP), (600, 600), (50, 0, 200, 200)),
    ((300, 200), Resize(Px(90), Px(20), fit=Fit.CROP), (90, 20), (0, 200 / 3, 300, 200 / 3)),
    # crop with an aspect
    ((900, 270), Resize(aspect=9.0, fit=Fit.CROP), (900, 100), (0, 85, 900, 100)),
    ((900, 600), Resize(Px(280), aspect=2.0, fit=Fit.CROP), (280, 140), (0, 75, 900, 450)),
    ((900, 600), Resize(None, Px(140), aspect=2.0, fit=Fit.CROP), (280, 140), (0, 75, 900, 450)),
    ((1600, 1600), Resize(Px(1000), aspect=16 / 9, fit=Fit.CROP), (1000, 563), (0, 349.6, 1600, 900.8)),
    # bounds clamp each side alone, then crop
    (
        (800, 400),
        Resize(None, Px(200), fit=Fit.CROP, bounds=Bounds(max_width_px=200)),
        (200, 200),
        (200, 0, 400, 400),
    ),
    (
        (300, 400),
        Resize(None, Px(200), fit=Fit.CROP, bounds=Bounds(max_width_px=1200)),
        (150, 200),
        (0, 0, 300, 400),
    ),
    (
        (800, 400),
        Resize(Px(100), fit=Fit.CROP, bounds=Bounds(min_height_px=100)),
        (100, 100),
        (200, 0, 400, 400),
    ),
    ((800, 400), Resize(fit=Fit.CROP, bounds=Bounds(max_width_px=400)), (400, 400), (200, 0, 400, 400)),
    (
        (800, 400),
        Resize(Ratio(0.5), Px(100), fit=Fit.CROP, bounds=Bounds(min_width_px=500, max_width_px=300)),
        (500, 100),
        (0, 120, 800, 160),
    ),
    # min: the requested ratio, never above the source
    ((300, 200), Resize(Px(500), Px(200), fit=Fit.MIN), (300, 120), (0, 40, 300, 120)),
    ((300, 200), Resize(Px(200), Px(400), fit=Fit.MIN), (100, 200), (100, 0, 100, 200)),
    ((300, 200), Resize(Px(600), Px(400), fit=Fit.MIN), (300, 200), (0, 0, 300, 200)),
    ((300, 200), Resize(Px(100), Px(100), fit=Fit.MIN), (100, 100), (50, 0, 200, 200)),
    ((300, 200), Resize(Px(600), fit=Fit.MIN), (300, 200), (0, 0, 300, 200)),
    # scale distorts
    ((300, 200), Resize(Px(50), Px(400), fit=Fit.SCALE), (50, 400), (0, 0, 300, 200)),
    ((300, 200), Resize(Px(150), fit=Fit.SCALE), (150, 100), (0, 0, 300, 200)),
    # fill, fillmax, clamp are exact; an aspect alone encloses the source
    ((300, 200), Resize(Px(600), Px(600), fit=Fit.FILL), (600, 600), (0, 0, 300, 200)),
    ((300, 200), Resize(Px(600), Px(600), fit=Fit.FILLMAX), (600, 600), (0, 0, 300, 200)),
    ((300, 200), Resize(Px(600), fit=Fit.FILLMAX), (600, 400), (0, 0, 300, 200)),
    ((300, 200), Resize(Px(600), Px(600), fit=Fit.CLAMP), (600, 600), (0, 0, 300, 200)),
    ((300, 200), Resize(aspect=1.0, fit=Fit.FILL), (300, 300), (0, 0, 300, 200)),
    ((300, 200), Resize(aspect=2.0, fit=Fit.FILL), (400, 200), (0, 0, 300, 200)),
    ((300, 200), Resize(Px(100), aspect=1.0, fit=Fit.FILL), (100, 100), (0, 0, 300, 200)),
    # the output limit keeps the ratio
    ((300, 200), Resize(Px(16384)), (8192, 5461), (0, 0, 300, 200)),
    ((300, 200), Resize(Px(10000), Px(20000), fit=Fit.CROP), (4096, 8192), (100, 0, 100, 200)),
    # never below one pixel
    ((8000, 2), Resize(Px(100)), (100, 1), (0, 0, 8000, 2)),
]


@pytest.mark.parametrize(("source", "resize", "final", "window"), SIZES)
def test_sizes_and_windows(
    source: tuple[int, int],
    resize: Resize,
    final: tuple[int, int],
    window: tuple[float, float, float, float],
) -> None:
    """Every mode gives the size and the part of the source that docs/urls.md says."""
    found = placed(source, resize)
    assert found.final == Size(*final)
    assert found.window.left == pytest.approx(window[0])
    assert found.window.top == pytest.approx(window[1])
    assert found.window.width == pytest.approx(window[2])
    assert found.window.height == pytest.approx(window[3])


@pytest.mark.parametrize(
    ("crop", "left", "top"),
    [
        ((), 50, 0),
        ((Crop.LEFT,), 0, 0),
        ((Crop.RIGHT,), 100, 0),
        ((Crop.TOP,), 50, 0),
        ((Crop.TOP, Crop.RIGHT), 100, 0),
        ((Crop.CENTER, Crop.RIGHT), 50, 0),
        ((Crop.FACES, Crop.LEFT), 0, 0),
        ((Crop.RIGHT, Crop.ENTROPY), 100, 0),
        ((Crop.LEFT, Crop.RIGHT), 0, 0),
    ],
)
def test_crop_keeps_the_named_side(crop: tuple[Crop, ...], left: float, top: float) -> None:
    """The window lies at the first edges of the chain that apply; only the axis with excess moves."""
    found = placed((300, 200), Resize(Px(100), Px(100), fit=Fit.CROP, crop=crop))
    assert (found.window.left, found.window.top) == (left, top)
    assert found.smart is None


@pytest.mark.parametrize("crop", [Crop.ENTROPY, Crop.EDGES])
def test_smart_crops_are_left_to_libvips_with_the_region_scaled_to_cover(crop: Crop) -> None:
    """A smart crop gets the whole region at the size that covers the frame. If nothing is cut, there is no smart crop."""
    found = placed((300, 200), Resize(Px(100), Px(100), fit=Fit.CROP, crop=(Crop.FACES, crop)))
    assert (found.smart, found.scaled, found.picture) == (crop, Size(150, 100), Size(100, 100))
    assert found.window == Window(0, 0, 300, 200)
    exact = placed((300, 200), Resize(Px(150), Px(100), fit=Fit.CROP, crop=(crop,)))
    assert (exact.smart, exact.scaled) == (None, Size(150, 100))


def test_a_smart_crop_of_a_thread_thin_source_falls_back_to_the_centre() -> None:
    """A cover of hundreds of thousands of pixels is not made; the crop takes the centre."""
    found = placed((10_000, 1), Resize(Px(1000), Px(1000), fit=Fit.CROP, crop=(Crop.ENTROPY,)))
    assert found.smart is None
    assert found.window == Window(4999.5, 0, 1, 1)


@pytest.mark.parametrize(
    ("focal", "window"),
    [
        (Focal(0.5, 0.5), (50, 0, 200, 200)),
        (Focal(0.0, 0.5), (0, 0, 200, 200)),
        (Focal(1.0, 0.2), (100, 0, 200, 200)),
        (Focal(0.4, 0.9), (20, 0, 200, 200)),
        (Focal(0.5, 0.5, 2.0), (100, 50, 100, 100)),
        (Focal(0.1, 0.9, 2.0), (0, 100, 100, 100)),
        (Focal(0.6, 0.4, 4.0), (155, 55, 50, 50)),
    ],
)
def test_focal_point_windows(focal: Focal, window: tuple[float, float, float, float]) -> None:
    """The window is centred on the focal point, moved inside the source, and shrinks with the zoom."""
    crop = (Crop.FOCALPOINT,)
    found = placed((300, 200), Resize(Px(100), Px(100), fit=Fit.CROP, crop=crop, focal=focal))
    assert found.window == Window(*map(pytest.approx, window))  # type: ignore[arg-type]
    assert found.final == Size(100, 100)


def test_zoom_works_without_a_size() -> None:
    """fp-z=2 alone shows half of each side at the source's own size."""
    focal = Focal(0.5, 0.5, 2.0)
    found = placed((300, 200), Resize(fit=Fit.CROP, crop=(Crop.FOCALPOINT,), focal=focal))
    assert (found.final, found.window) == (Size(300, 200), Window(75, 50, 150, 100))


# --- rect, trim, orientation ---------------------------------------------------------------------------------------

RECTS: list[tuple[Rect, Box]] = [
    (Rect(Px(177), Px(0), Px(1406), Px(791)), Box(177, 0, 1406, 791)),
    (Rect(Anchor(0.5), Anchor(0.5), Px(1000), Px(500)), Box(500, 250, 1000, 500)),
    (Rect(Anchor(1.0), Anchor(1.0), Px(300), Px(200)), Box(1700, 800, 300, 200)),
    (Rect(Ratio(0.5), Ratio(0.25), Ratio(0.25), Ratio(0.5)), Box(1000, 250, 500, 500)),
    (Rect(Px(0), Px(0), Ratio(1.0), Px(1)), Box(0, 0, 2000, 1)),
    (Rect(Px(1900), Px(900), Px(400), Px(400)), Box(1900, 900, 100, 100)),
    (Rect(Px(-50), Px(-50), Px(100), Px(100)), Box(0, 0, 50, 50)),
    (Rect(Px(2000), Px(0), Px(10), Px(10)), Box(0, 0, 2000, 1000)),
    (Rect(Px(0), Px(0), Px(5000), Px(5000)), Box(0, 0, 2000, 1000)),
    (Rect(Px(1), Px(1), Px(1), Px(1)), Box(1, 1, 1, 1)),
]


@pytest.mark.parametrize(("rect", "region"), RECTS)
def test_rect_names_a_region_inside_the_source(rect: Rect, region: Box) -> None:
    """Pixels, ratios and words give a region. The part outside is cut off; a region fully outside is the whole source."""
    assert find_region(Size(2000, 1000), rect) == region


def test_sizes_are_relative_to_the_rect() -> None:
    """After a rect the region's ratio and sides count, and the window is in coordinates of the whole source."""
    region = find_region(Size(4000, 3000), Rect(Px(177), Px(0), Px(1406), Px(791)))
    found = place(region, RenderPlan(resize=Resize(Px(1024))))
    assert (found.final, found.window) == (Size(1024, 576), Window(177, 0, 1406, 791))
    half = place(region, RenderPlan(resize=Resize(Ratio(0.5))))
    assert half.final == Size(703, 396)


@pytest.mark.parametrize(
    ("found", "pad_px", "region"),
    [
        (Box(30, 40, 50, 60), 0, Box(30, 40, 50, 60)),
        (Box(30, 40, 50, 60), 5, Box(25, 35, 60, 70)),
        (Box(30, 40, 50, 60), 500, Box(10, 20, 200, 100)),
        (Box(30, 40, 50, 60), -10, Box(40, 50, 30, 40)),
        (Box(30, 40, 50, 60), -30, Box(10, 20, 200, 100)),
        (None, 5, Box(10, 20, 200, 100)),
    ],
)
def test_trim_stays_inside_its_region(found: Box | None, pad_px: int, region: Box) -> None:
    """A trim is grown or cut by its pad inside the region. A trim that leaves nothing is skipped."""
    assert trim_region(Box(10, 20, 200, 100), found, pad_px=pad_px) == region


def test_orientations_five_to_eight_swap_the_sides() -> None:
    """EXIF orientations 5-8 turn the picture on its side; 1-4 do not."""
    assert [swap(Size(3, 2), value) for value in range(1, 9)] == [Size(3, 2)] * 4 + [Size(2, 3)] * 4


# --- canvas, pad, rotation, limit ----------------------------------------------------------------------------------


def test_fill_centres_the_picture_on_its_canvas() -> None:
    """fit=fill puts the clipped picture in the middle; fillmax leaves a small one as it is; clamp repeats edges."""
    fill = placed((300, 200), Resize(Px(600), Px(601), fit=Fit.FILL))
    assert fill.canvas is not None
    assert (fill.picture, fill.canvas.left_px, fill.canvas.top_px) == (Size(600, 400), 0, 100)
    assert fill.canvas.extend == "colour"
    small = placed((300, 200), Resize(Px(600), Px(600), fit=Fit.FILLMAX))
    assert small.canvas is not None
    assert (small.picture, small.canvas.left_px, small.canvas.top_px) == (Size(300, 200), 150, 200)
    clamp = placed((300, 200), Resize(Px(600), Px(600), fit=Fit.CLAMP))
    assert clamp.canvas is not None
    assert clamp.canvas.extend == "copy"


def test_fill_without_free_room_needs_no_canvas() -> None:
    """A frame of the source's own ratio is filled by the picture."""
    assert placed((300, 200), Resize(Px(600), Px(400), fit=Fit.FILL)).canvas is None


def test_blurred_fill_covers_the_canvas_with_the_middle_of_the_source() -> None:
    """The backdrop of fill=blur is the largest centred window with the canvas's ratio."""
    found = placed((300, 200), Resize(Px(600), Px(600), fit=Fit.FILL, fill_blur=True))
    assert found.canvas is not None
    assert (found.canvas.extend, found.canvas.backdrop) == ("blur", Window(50, 0, 200, 200))


def test_padding_goes_inside_a_given_size_and_outside_otherwise() -> None:
    """With a size, picture and padding fit it together; without one the padding is added."""
    pad = Sides(10, 20, 30, 40)
    inside = placed((300, 200), Resize(Px(360), Px(140)), pad=pad)
    assert (inside.picture, inside.final) == (Size(150, 100), Size(210, 140))
    exact = placed((300, 200), Resize(Px(360), Px(140), fit=Fit.CROP), pad=pad)
    assert (exact.picture, exact.final) == (Size(300, 100), Size(360, 140))
    outside = placed((300, 200), Resize(), pad=pad)
    assert (outside.picture, outside.final, outside.pad) == (Size(300, 200), Size(360, 240), pad)


def test_padding_that_leaves_no_room_is_ignored() -> None:
    """A pad wider than the width asked for is dropped, not answered with an empty picture."""
    found = placed((300, 200), Resize(Px(50)), pad=Sides(0, 30, 0, 20))
    assert (found.pad, found.final) == (Sides(), Size(50, 33))


def test_pivot_grows_the_frame_and_straighten_zooms() -> None:
    """A quarter turn swaps the frame when pivoting; straightening keeps it, and zooms by the ratio of its sides."""
    pivot = placed((300, 200), Resize(), rotation=90.0, is_pivot=True)
    assert (pivot.final, pivot.rotation_zoom) == (Size(200, 300), 1.0)
    straight = placed((300, 200), Resize(), rotation=90.0)
    assert straight.final == Size(300, 200)
    assert straight.rotation_zoom == pytest.approx(1.5)
    tilted = placed((200, 200), Resize(), rotation=45.0, is_pivot=True)
    assert tilted.final == Size(283, 283)


@settings(deadline=None)
@given(degrees=st.floats(0, 359.9), width=st.integers(10, 2000), height=st.integers(10, 2000))
def test_a_straightened_picture_still_covers_every_corner(degrees: float, width: int, height: int) -> None:
    """After turning and zooming, each corner of the frame lies inside the picture."""
    found = placed((width, height), Resize(), rotation=degrees)
    angle = math.radians(degrees)
    for x, y in ((width / 2, height / 2), (width / 2, -height / 2)):
        turned_x = x * math.cos(angle) + y * math.sin(angle)
        turned_y = -x * math.sin(angle) + y * math.cos(angle)
        assert abs(turned_x) <= width * found.rotation_zoom / 2 + 1e-6
        assert abs(turned_y) <= height * found.rotation_zoom / 2 + 1e-6


def test_over_the_limit_everything_shrinks_together() -> None:
    """Picture, canvas and pads shrink by one factor, and `limit_scale` tells borders and marks about it."""
    found = place(whole(1000, 500), RenderPlan(pad=Sides(500, 500, 500, 500)), max_side_px=1000)
    assert found.limit_scale == 0.5
    assert (found.picture, found.pad) == (Size(500, 250), Sides(250, 250, 250, 250))
    assert found.final == Size(1000, 750)
    assert shrink_sides(Sides(3, 4, 5, 6), 0.5) == Sides(1, 2, 2, 3)


def test_corner_radii_are_a_fifth_by_default_and_at_most_half() -> None:
    """Radii: a fifth of the smaller side, one for all corners, or four; none above half the smaller side."""
    assert corner_radii((), Size(100, 50)) == (10, 10, 10, 10)
    assert corner_radii((7,), Size(100, 50)) == (7, 7, 7, 7)
    assert corner_radii((0, 10, 20, 90), Size(100, 50)) == (0, 10, 20, 25)
    assert corner_radii((8,), Size(100, 50), limit_scale=0.5) == (4, 4, 4, 4)


# --- any size ------------------------------------------------------------------------------------------------------

_SIDE = st.integers(1, 20_000)
_PIXELS = st.integers(1, 45_000).map(Px)
_LENGTH: st.SearchStrategy[Length | None] = st.one_of(
    st.none(), _PIXELS, st.floats(0.001, 5).map(lambda value: Ratio(round(value, 6)))
)
_BOUND = st.one_of(st.none(), st.integers(1, 40_000))
_CROPS = st.sampled_from([(), (Crop.TOP, Crop.LEFT), (Crop.RIGHT,), (Crop.ENTROPY,), (Crop.EDGES,), (Crop.FOCALPOINT,)])
_UNIT = st.floats(0, 1)


@st.composite
def plans(draw: st.DrawFn) -> RenderPlan:
    crop = draw(_CROPS)
    focal = Focal(draw(_UNIT), draw(_UNIT), draw(st.floats(1, 100))) if crop == (Crop.FOCALPOINT,) else None
    resize = Resize(
        width=draw(_LENGTH),
        height=draw(_LENGTH),
        aspect=draw(st.one_of(st.none(), st.floats(0.0001, 10_000))),
        fit=draw(st.sampled_from(Fit)),
        bounds=draw(st.one_of(st.just(Bounds()), st.builds(Bounds, _BOUND, _BOUND, _BOUND, _BOUND))),
        crop=crop,
        focal=focal,
        fill_blur=draw(st.booleans()),
    )
    side = st.integers(0, 40_000)
    return RenderPlan(
        resize=resize,
        rotation=draw(st.one_of(st.just(0.0), st.floats(0, 359.9))),
        is_pivot=draw(st.booleans()),
        pad=draw(st.one_of(st.just(Sides()), st.builds(Sides, side, side, side, side))),
    )


_REGIONS = st.builds(Box, st.integers(0, 50), st.integers(0, 50), _SIDE, _SIDE)


@settings(deadline=None)
@given(region=_REGIONS, plan=plans(), limit=st.sampled_from([8192, 1000, 16383]))
def test_nothing_leaves_its_bounds(region: Box, plan: RenderPlan, limit: int) -> None:
    """For any source and plan: sizes from one pixel to the limit, and a window inside its region."""
    found = place(region, plan, max_side_px=limit)
    for size in (found.frame, found.final):
        assert 1 <= size.width_px <= limit
        assert 1 <= size.height_px <= limit
    # Before a pivot a picture may be longer than the frame it is turned into: by the diagonal at most.
    most = limit * math.sqrt(2) if plan.is_pivot else limit
    assert 1 <= found.picture.width_px <= most
    assert 1 <= found.picture.height_px <= most
    assert found.window.width > 0
    assert found.window.height > 0
    assert found.window.left >= region.left_px
    assert found.window.top >= region.top_px
    assert found.window.left + found.window.width <= region.left_px + region.width_px + 1e-6
    assert found.window.top + found.window.height <= region.top_px + region.height_px + 1e-6
    assert found.scaled.width_px >= found.picture.width_px
    assert found.scaled.height_px >= found.picture.height_px
    assert (found.smart is not None) or found.scaled == found.picture
    if found.canvas is not None:
        assert 0 <= found.canvas.left_px <= found.canvas.size.width_px - found.picture.width_px
        assert 0 <= found.canvas.top_px <= found.canvas.size.height_px - found.picture.height_px
    if not plan.rotation:
        assert found.frame == (found.canvas.size if found.canvas else found.picture)
    assert found.final.width_px == found.frame.width_px + found.pad.left_px + found.pad.right_px
    assert found.final.height_px == found.frame.height_px + found.pad.top_px + found.pad.bottom_px


@settings(deadline=None)
@given(
    source=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
)
def test_modes_keep_their_promises(source: tuple[int, int], width: int, height: int) -> None:
    """crop, scale, fill, fillmax, clamp are exact; clip and max fit inside; max, min, fillmax never enlarge."""

    def of(fit: Fit) -> Geometry:
        return placed(source, Resize(Px(width), Px(height), fit=fit))

    for fit in (Fit.CROP, Fit.SCALE, Fit.FILL, Fit.FILLMAX, Fit.CLAMP):
        assert of(fit).final == Size(width, height)
    clip = of(Fit.CLIP).final
    assert clip.width_px <= width
    assert clip.height_px <= height
    assert clip.width_px == width or clip.height_px == height
    for fit in (Fit.MAX, Fit.MIN):
        found = of(fit)
        assert found.final.width_px <= min(width, source[0])
        assert found.final.height_px <= min(height, source[1])
    assert of(Fit.FILLMAX).picture.width_px <= source[0]
    crop = of(Fit.CROP).window
    assert crop.width == pytest.approx(source[0]) or crop.height == pytest.approx(source[1])
    assert crop.width / crop.height == pytest.approx(width / height)


@settings(deadline=None)
@given(
    source=st.tuples(st.integers(2, 9000), st.integers(2, 9000)),
    target=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    shrink=st.sampled_from([1, 2, 4, 8]),
    corner=st.tuples(_UNIT, _UNIT),
    part=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)),
)
def test_sampling_reads_inside_the_loaded_picture_and_cuts_exactly(
    source: tuple[int, int],
    target: tuple[int, int],
    shrink: int,
    corner: tuple[float, float],
    part: tuple[float, float],
) -> None:
    """For every shrink on load: the box lies in the picture and holds the window; the cut has the target's size."""
    loaded = Size(-(-source[0] // shrink), -(-source[1] // shrink))
    width, height = source[0] * part[0], source[1] * part[1]
    window = Window(corner[0] * (source[0] - width), corner[1] * (source[1] - height), width, height)
    assume(width > 0.5)
    assume(height > 0.5)
    ratio = (loaded.width_px / source[0], loaded.height_px / source[1])
    found = sample(window, Size(*target), loaded=loaded, ratio=ratio)
    assert 0 <= found.box.left_px < found.box.left_px + found.box.width_px <= loaded.width_px
    assert 0 <= found.box.top_px < found.box.top_px + found.box.height_px <= loaded.height_px
    assert found.box.left_px <= window.left * ratio[0] + 1e-5
    assert found.box.left_px + found.box.width_px >= (window.left + window.width) * ratio[0] - 1e-5
    kept = found.cut.size if found.cut else found.reduced
    if found.cut is not None:
        assert found.cut.left_px + found.cut.width_px <= found.reduced.width_px
        assert found.cut.top_px + found.cut.height_px <= found.reduced.height_px
    wider = found.enlargement
    if wider is None:
        assert kept == Size(*target)
        return
    assert wider.size == Size(*target)
    for kept_px, side_px, factor, offset, target_px in (
        (kept.width_px, found.box.width_px, wider.across, wider.left, target[0]),
        (kept.height_px, found.box.height_px, wider.down, wider.top, target[1]),
    ):
        assert kept_px == (target_px if factor == 1.0 else side_px)
        assert 0 <= offset < 1


def test_a_whole_picture_is_sampled_whole_at_every_shrink() -> None:
    """Without a crop nothing is cut: all of the loaded picture is scaled to the target, exactly."""
    for loaded in (Size(3001, 2001), Size(1501, 1001), Size(376, 251)):
        ratio = (loaded.width_px / 3001, loaded.height_px / 2001)
        found = sample(Window(0, 0, 3001, 2001), Size(100, 67), loaded=loaded, ratio=ratio)
        assert found.box == Box(0, 0, loaded.width_px, loaded.height_px)
        assert (found.reduced, found.cut, found.enlargement) == (Size(100, 67), None, None)
