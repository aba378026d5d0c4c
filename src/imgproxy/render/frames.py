"""Which frames or page of a source a plan uses, and how the animation plays. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from imgproxy.params.plan import Frames

# Chromium, WebKit and Gecko show a frame with a delay of 10 ms or less for 100 ms.
DEFAULT_DELAY_MS: Final = 100


@dataclass(frozen=True, slots=True)
class Selection:
    """
    The frames to use. `order` holds their numbers in the file, from 0, in the order of play.

    `delays_ms` has the delay of each. `loop` 0 is for ever. `is_cut`: a limit reduced the animation to one frame.
    """

    order: tuple[int, ...]
    delays_ms: tuple[int, ...] = ()
    loop: int = 0
    is_cut: bool = False

    @property
    def is_animated(self) -> bool:
        """Whether there is more than one frame."""
        return len(self.order) > 1


def select_page(pages: int, frames: Frames, primary: int = 0) -> Selection:
    """
    Return the page of a TIFF, HEIF or still that is used: `page`, or the last page if there are fewer.

    The first page is the `primary` one of the file. The others follow in the order of the file.
    """
    order = [primary, *(n for n in range(pages) if n != primary)]
    return Selection((order[min(max(frames.page, 1), pages) - 1],))


def select_frames(
    delays_ms: tuple[int, ...], loop: int, frames: Frames, *, frame_px: int, max_frames: int, max_pixels: int
) -> Selection:
    """
    Return the frames of an animation that a plan plays.

    Args:
        delays_ms: of every frame in the file.
        loop: of the file.
        frames: what the plan asks for.
        frame_px: pixels of one frame.
        max_frames: frames that may be decoded. If there are more, only the first chosen one is used.
        max_pixels: pixels of all decoded frames together. If there are more, the same.
    """
    count = len(delays_ms)
    first = min(max(frames.first or 1, 1), count) - 1
    last = min(max(frames.last or count, first + 1), count) - 1
    chosen = list(range(first, last + 1))
    span = last + 1  # libvips decodes from the first frame of the file on
    if len(chosen) > 1 and (span > max_frames or span * frame_px > max_pixels):
        return Selection((first,), (delays_ms[first],), is_cut=True)
    kept = [n for at, n in enumerate(chosen) if _is_kept(at, frames)] or chosen[:1]
    delays = _delays_of(kept, chosen, delays_ms, frames)
    if frames.is_reversed:
        kept.reverse()
        delays.reverse()
    return Selection(tuple(kept), tuple(delays), loop if frames.loop is None else frames.loop)


def _is_kept(at: int, frames: Frames) -> bool:
    """`interval` n keeps every nth frame, `skip` n drops every nth. 1 changes nothing in either."""
    if frames.interval > 1 and at % frames.interval:
        return False
    return not (frames.skip > 1 and (at + 1) % frames.skip == 0)


def _delays_of(kept: list[int], chosen: list[int], delays_ms: tuple[int, ...], frames: Frames) -> list[int]:
    """Return the delays of the kept frames. A dropped frame's delay is added to the kept frame before it."""
    if frames.fps is not None:
        return [max(1, round(1000 / frames.fps))] * len(kept)
    delays = [0] * len(kept)
    at = -1
    for n in chosen:
        if at + 1 < len(kept) and kept[at + 1] == n:
            at += 1
        delays[max(at, 0)] += delays_ms[n]
    return delays
