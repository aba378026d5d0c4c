"""Which frames or page of a source a plan uses, and how an animation plays afterwards: pure decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from imgproxy.params.plan import Frames

# Browsers play a delay of 10 ms and less as 100 ms (Chromium, WebKit and Gecko agree); longer ones as they are.
DEFAULT_DELAY_MS: Final = 100

# How a GIF's or WebP's frames may be chosen needs at least two of them.
STILL: Final = 1


@dataclass(frozen=True, slots=True)
class Selection:
    """
    The frames to use: `order` holds their numbers in the file, from 0, in the order they play.

    `delays_ms` belongs to `order`. `loop` is 0 for ever. `is_cut` says that a limit left only the first frame.
    """

    order: tuple[int, ...]
    delays_ms: tuple[int, ...] = ()
    loop: int = 0
    is_cut: bool = False

    @property
    def is_animated(self) -> bool:
        """Whether there is more than one frame."""
        return len(self.order) > STILL


def select_page(pages: int, frames: Frames) -> Selection:
    """Return the one page of a TIFF, HEIF or still that is used: `page`, the last one where it is beyond the end."""
    return Selection((min(max(frames.page, 1), pages) - 1,))


def select_frames(
    delays_ms: tuple[int, ...], loop: int, frames: Frames, *, frame_px: int, max_frames: int, max_pixels: int
) -> Selection:
    """
    Return the frames of an animation that a plan plays.

    Args:
        delays_ms: of every frame of the file; its length is their number.
        loop: of the file.
        frames: what the plan asks for.
        frame_px: pixels of one frame.
        max_frames: most frames that are decoded; beyond, the first one stands for all.
        max_pixels: most pixels of the decoded frames together; beyond, the same.
    """
    count = len(delays_ms)
    first = min(max(frames.first or 1, 1), count) - 1
    last = min(max(frames.last or count, first + 1), count) - 1
    chosen = list(range(first, last + 1))
    span = last + 1  # libvips decodes from the file's first frame on
    if len(chosen) > 1 and (span > max_frames or span * frame_px > max_pixels):
        return Selection((first,), (delays_ms[first],), is_cut=True)
    kept = [n for at, n in enumerate(chosen) if _is_kept(at, frames)] or chosen[:1]
    delays = _delays_of(kept, chosen, delays_ms, frames)
    if frames.is_reversed:
        kept.reverse()
        delays.reverse()
    return Selection(tuple(kept), tuple(delays), loop if frames.loop is None else frames.loop)


def _is_kept(at: int, frames: Frames) -> bool:
    """`interval` keeps every nth frame, `skip` drops every nth (1 drops nothing, as interval 1 keeps all)."""
    if frames.interval > 1 and at % frames.interval:
        return False
    return not (frames.skip > 1 and (at + 1) % frames.skip == 0)


def _delays_of(kept: list[int], chosen: list[int], delays_ms: tuple[int, ...], frames: Frames) -> list[int]:
    """A dropped frame's time goes to the kept one before it, so that the animation keeps its length."""
    if frames.fps is not None:
        return [max(1, round(1000 / frames.fps))] * len(kept)
    delays = [0] * len(kept)
    at = -1
    for n in chosen:
        if at + 1 < len(kept) and kept[at + 1] == n:
            at += 1
        delays[max(at, 0)] += delays_ms[n]
    return delays
