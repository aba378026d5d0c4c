"""Windows that keep faces: arithmetic on boxes, without a picture."""

from __future__ import annotations

import itertools

import pytest

from imgproxy.params.plan import FaceChoice, Fit, Px, RenderPlan, Resize
from imgproxy.render.face_windows import area_window, crop_window, faces_in, faces_of_region
from imgproxy.render.geometry import place
from imgproxy.render.sizes import Box, Size, Window
from imgproxy.workers.faces import Face

ALL = FaceChoice()
WIDE = Box(0, 0, 1000, 400)
TALL = Box(0, 0, 400, 1000)


def holds(window: Window, face: Window) -> bool:
    """Whether the whole face lies in the window."""
    across = window.left <= face.left + 1e-6 and face.left + face.width <= window.left + window.width + 1e-6
    down = window.top <= face.top + 1e-6 and face.top + face.height <= window.top + window.height + 1e-6
    return across and down


def cuts(window: Window, face: Window) -> bool:
    """Whether only a part of the face lies in the window."""
    apart = (
        face.left + face.width <= window.left + 0.02
        or face.left >= window.left + window.width - 0.02
        or face.top + face.height <= window.top + 0.02
        or face.top >= window.top + window.height - 0.02
    )
    return not apart and not holds(window, face)


def test_a_portrait_is_cut_below_and_not_through_the_head() -> None:
    """The head begins 0.4 of a face above the box: 60 to 160 becomes 20 to 185, whose middle is the window's, held at 0."""
    found = crop_window(TALL, 400, 400, [Window(150, 60, 80, 100)], ALL)
    assert found == Window(0, 0, 400, 400)
    lower = crop_window(TALL, 400, 400, [Window(150, 600, 80, 100)], ALL)
    assert lower.top == pytest.approx((600 - 40 + 700 + 25) / 2 - 200)


def test_all_faces_are_kept_where_they_fit() -> None:
    """Two heads of 240 to 660 lie in the middle of a window of 500."""
    faces = [Window(250, 100, 50, 60), Window(600, 100, 50, 60)]
    found = crop_window(WIDE, 500, 400, faces, ALL)
    assert found.left == pytest.approx((240 + 660) / 2 - 250)
    assert all(holds(found, face) for face in faces)


def test_where_not_all_fit_the_largest_is_kept_and_the_next_one_is_not_cut() -> None:
    """A window around the largest face would cut its neighbour; it moves until the neighbour is out, or whole."""
    large, near, far = Window(100, 50, 200, 250), Window(330, 80, 120, 150), Window(880, 80, 100, 120)
    found = crop_window(WIDE, 300, 400, [large, near, far], ALL)
    assert holds(found, large)
    assert not any(cuts(found, face) for face in (large, near, far))
    wider = crop_window(WIDE, 400, 400, [large, near, far], ALL)
    assert holds(wider, large)
    assert holds(wider, near)


def test_no_face_is_cut_that_another_position_would_not_cut() -> None:
    """Compared with every position by whole pixels, for 200 groups: the main face whole, then the least of faces cut."""
    for seed in range(200):
        starts = [(seed * 37 + n * 211 + n * n * 53) % 900 for n in range(4)]
        sizes = sorted((30 + (seed * 13 + n * 29) % 70 for n in range(4)), reverse=True)
        faces = [Window(start, 100, size, size) for start, size in zip(starts, sizes, strict=True)]
        found = crop_window(WIDE, 260, 400, faces, ALL)
        every = [Window(left, 0, 260, 400) for left in range(741)]
        least = min(
            sum(face.width**2 for face in faces if cuts(window, face)) for window in every if holds(window, faces[0])
        )
        assert holds(found, faces[0])
        assert sum(face.width**2 for face in faces if cuts(found, face)) <= least


def test_faceindex_names_the_face_and_a_wrong_number_none() -> None:
    """Number 2 is in the middle of its window. Without a third face, number 3 means all."""
    faces = [Window(100, 100, 100, 100), Window(800, 100, 80, 100)]
    second = crop_window(WIDE, 200, 400, faces, FaceChoice(2))
    assert second.left == pytest.approx(800 + 40 - 100)
    assert crop_window(WIDE, 300, 400, faces, FaceChoice(3)) == crop_window(WIDE, 300, 400, faces, ALL)


def test_a_face_larger_than_the_window_keeps_its_eyes() -> None:
    """The eyes, at 0.4 of the face's height, are in the middle."""
    found = crop_window(TALL, 400, 100, [Window(50, 300, 300, 400)], ALL)
    assert found.top == pytest.approx(300 + 0.4 * 400 - 50)


def test_an_area_is_the_box_enlarged_to_the_ratio() -> None:
    """A face of 80 x 100 as a square is 100 x 100; with facepad=2 it is 200 x 200, around the same centre."""
    face = [Window(150, 200, 80, 100)]
    assert area_window(TALL, 1.0, face, FaceChoice(is_area=True)) == Window(140, 200, 100, 100)
    assert area_window(TALL, 1.0, face, FaceChoice(is_area=True, pad=2.0)) == Window(90, 150, 200, 200)


def test_an_area_ends_at_the_picture() -> None:
    """Padding stops at the edges; the ratio stays; an area larger than the picture is the largest window with its face."""
    corner = [Window(0, 0, 80, 100)]
    assert area_window(TALL, 1.0, corner, FaceChoice(is_area=True, pad=3.0)) == Window(0, 0, 200, 200)
    found = area_window(TALL, 2.0, [Window(100, 500, 200, 150)], FaceChoice(is_area=True, pad=10))
    assert (found.width, found.height) == (400, 200)
    assert holds(found, Window(100, 500, 200, 150))


def test_faces_outside_the_region_do_not_count() -> None:
    """A face counts if its centre lies in the rect, and only with its part inside."""
    faces = (Window(90, 100, 40, 40), Window(500, 100, 40, 40))
    assert faces_of_region(faces, Box(100, 0, 200, 300)) == (Window(100, 100, 30, 40),)


def test_parts_become_pixels_of_the_upright_picture() -> None:
    """A face is kept in parts of the sides, so it fits a copy of any size."""
    assert faces_in([Face(0.25, 0.5, 0.125, 0.25, 0.9)], Size(800, 400)) == (Window(200, 200, 100, 100),)


@pytest.mark.parametrize(
    ("width", "height", "final"),
    [(Px(200), Px(100), (200, 100)), (Px(200), None, (200, 500)), (None, Px(500), (200, 500))],
)
def test_facearea_has_the_size_that_is_asked_for(width: Px | None, height: Px | None, final: tuple[int, int]) -> None:
    """Both sides exactly; of one side the other follows the picture's ratio."""
    plan = RenderPlan(resize=Resize(width, height, faces=FaceChoice(is_area=True)))
    assert place(TALL, plan, faces=[Window(150, 200, 80, 100)]).final == Size(*final)


@pytest.mark.parametrize("fit", [Fit.FILL, Fit.CROP, Fit.CLIP])
def test_without_a_face_the_plan_is_that_of_its_fallback(fit: Fit) -> None:
    """fit=facearea,fill without a face is fit=fill."""
    resize = Resize(Px(200), Px(100), fit=fit)
    with_faces = Resize(Px(200), Px(100), fit=fit, faces=FaceChoice(is_area=True))
    assert place(TALL, RenderPlan(resize=with_faces)) == place(TALL, RenderPlan(resize=resize))


def test_a_window_never_leaves_its_region() -> None:
    """For faces at the edges, of any size, in windows of many sizes."""
    corners = itertools.product((0, 350, 700), (0, 150, 300), (20, 100, 300))
    faces = [Window(x, y, side, min(side, 100)) for x, y, side in corners]
    for face, size in itertools.product(faces, ((400, 400), (1000, 100), (50, 400))):
        for found in (
            crop_window(WIDE, *size, [face], ALL),
            area_window(WIDE, size[0] / size[1], [face], FaceChoice(is_area=True, pad=4.0)),
        ):
            assert found.left >= 0
            assert found.top >= 0
            assert found.left + found.width <= 1000 + 1e-6
            assert found.top + found.height <= 400 + 1e-6
