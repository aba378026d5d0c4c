"""
The eight EXIF orientations: how stored pixels become upright, and where an upright box lies among stored pixels.

A picture is scaled in its stored orientation, because libvips can do that while it reads from top to bottom. It is
turned after that, when it is small. So an upright box is first translated into a box of the stored picture.
Source: CIPA DC-008 (EXIF 2.32), tag 0x0112.
"""

from __future__ import annotations

from typing import Any, Final

from imgproxy.render.sizes import Box, Size

# The libvips operations that turn the stored picture upright, in order.
_TURNS: Final[dict[int, tuple[str, ...]]] = {
    1: (),
    2: ("fliphor",),
    3: ("rot180",),
    4: ("flipver",),
    5: ("rot90", "fliphor"),
    6: ("rot90",),
    7: ("rot270", "fliphor"),
    8: ("rot270",),
}


def is_swapped(orientation: int) -> bool:
    """Whether the upright width is the stored height."""
    return orientation >= 5


def mirrors(orientation: int) -> tuple[bool, bool]:
    """Whether the left and the top edge of the upright picture are right or bottom edges of the stored one."""
    return orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)


def swap(size: Size, orientation: int) -> Size:
    """Turn a stored size into the upright size, or the other way round."""
    return Size(size.height_px, size.width_px) if is_swapped(orientation) else size


def stored_box(box: Box, upright: Size, orientation: int) -> Box:
    """Return where a box of the upright picture lies in the stored one. `upright` is the upright picture's size."""
    from_right = upright.width_px - box.left_px - box.width_px
    from_bottom = upright.height_px - box.top_px - box.height_px
    left, top = {
        1: (box.left_px, box.top_px),
        2: (from_right, box.top_px),
        3: (from_right, from_bottom),
        4: (box.left_px, from_bottom),
        5: (box.top_px, box.left_px),
        6: (box.top_px, from_right),
        7: (from_bottom, from_right),
        8: (from_bottom, box.left_px),
    }[orientation]
    size = swap(box.size, orientation)
    return Box(left, top, size.width_px, size.height_px)


def turn_upright(image: Any, orientation: int) -> Any:
    """Turn and mirror a stored picture upright. Its pixels must be readable in any order."""
    for turn in _TURNS[orientation]:
        image = getattr(image, turn)()
    return image
