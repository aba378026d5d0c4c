"""
Frames that are put together from patches: an animation's file holds, for each frame, the part that changes.

libvips composes GIF and WebP itself, and reads of an animated PNG only the still picture. Here each patch is a small
file of its own, which libvips decodes. The rules of GIF and APNG are the same, but for `is_over`.
Source: GIF89a, section 23 (disposal); PNG, third edition, section 11.3.6 (fcTL: dispose_op, blend_op).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyvips

from imgproxy.render.tagging import PROFILE_FIELD

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.render.sizes import Box, Size

# A file of more frames than this is not taken apart: each takes a few hundred bytes of memory.
PATCHES_MAX: Final = 10_000


class FrameReader(Protocol):
    """Reads frames that libvips alone does not read, or reads in another way than browsers."""

    @property
    def size(self) -> Size:
        """Of every frame."""

    @property
    def delays_ms(self) -> tuple[int, ...]:
        """How long each frame shows, as the file says."""

    @property
    def loop(self) -> int:
        """How often it plays; 0 is for ever."""

    @property
    def has_alpha(self) -> bool:
        """Whether the frames have alpha."""

    def read(self, first: int, count: int, fail_on: str) -> list[Any]:
        """
        Return frames from `first` (from 0) on: uchar RGB or grey, all with or without alpha, in memory.

        Raises pyvips.Error or DecodeFailed if they are damaged.
        """


class Dispose(Enum):
    """What happens to a patch before the next one: it stays, becomes transparent, or gives way to what was there."""

    KEEP = 0
    CLEAR = 1
    RESTORE = 2


@dataclass(frozen=True, slots=True)
class Patch:
    """
    The part of the canvas that a frame changes.

    `is_over`: it is painted over the canvas, else it replaces it. `make_file` returns a file of the patch alone.
    """

    box: Box
    dispose: Dispose
    is_over: bool
    delay_ms: int
    make_file: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Patchwork:
    """A FrameReader of patches. `loader` is libvips' loader of the patches, `profile` the ICC profile of them all."""

    size: Size
    patches: tuple[Patch, ...]
    loader: str
    loop: int
    has_alpha: bool
    profile: bytes | None = None

    @property
    def delays_ms(self) -> tuple[int, ...]:
        """How long each frame shows."""
        return tuple(patch.delay_ms for patch in self.patches)

    def read(self, first: int, count: int, fail_on: str) -> list[Any]:
        """Compose the frames up to the last one that is wanted; see FrameReader."""
        canvas = _clear(self.size.width_px, self.size.height_px)
        frames = []
        for n, patch in enumerate(self.patches[: first + count]):
            shown = _lay(canvas, self._load(patch, fail_on), patch)
            if n >= first:
                frames.append(self._finish(shown))
            if patch.dispose is Dispose.KEEP:
                canvas = shown
            elif patch.dispose is Dispose.CLEAR:
                box = patch.box
                canvas = shown.insert(_clear(box.width_px, box.height_px), box.left_px, box.top_px).copy_memory()
        return frames

    def _load(self, patch: Patch, fail_on: str) -> Any:
        """Decode a patch as 8-bit RGB or RGBA."""
        image = pyvips.Operation.call(self.loader, patch.make_file(), access="sequential", fail_on=fail_on)
        if (image.width, image.height) != (patch.box.width_px, patch.box.height_px):
            raise pyvips.Error("a frame has another size than its file says")
        image = image.copy_memory()
        if image.interpretation != "srgb" or image.format != "uchar":
            image = image.colourspace("srgb").cast("uchar")
        return image if image.hasalpha() else image.bandjoin(255)

    def _finish(self, frame: Any) -> Any:
        """Give a frame its profile, and no alpha if the file has none."""
        frame = (frame if self.has_alpha else frame.extract_band(0, n=3)).copy(interpretation="srgb")
        if self.profile is not None:
            frame.set_type(pyvips.GValue.blob_type, PROFILE_FIELD, self.profile)
        return frame


def _clear(width_px: int, height_px: int) -> Any:
    """Return a transparent picture."""
    return pyvips.Image.black(width_px, height_px, bands=4).copy(interpretation="srgb")


def _lay(canvas: Any, layer: Any, patch: Patch) -> Any:
    """Lay a patch on the canvas. What lies outside is cut off."""
    left, top = patch.box.left_px, patch.box.top_px
    if not patch.is_over:
        return canvas.insert(layer, left, top).copy_memory()
    return canvas.composite2(layer, "over", x=left, y=top).cast("uchar").copy_memory()


def is_within(box: Box, size: Size) -> bool:
    """Whether a box lies on the canvas as a whole."""
    return box.left_px + box.width_px <= size.width_px and box.top_px + box.height_px <= size.height_px
