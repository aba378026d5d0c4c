"""
The colours that a palette source shows, and pictures in these colours alone.

Scaling mixes colours. A scaled chart of 12 colours has a thousand, and compresses so badly that it can be larger than
its original. In the original's own colours it is not. `smallest` decides when that is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyvips

from imgproxy.params.plan import Output
from imgproxy.render.colour import as_rgb, to_srgb
from imgproxy.render.encoders import encode
from imgproxy.render.source import decode

if TYPE_CHECKING:
    from imgproxy.render.encoders import Encoding, Playback
    from imgproxy.render.source import Source
    from imgproxy.workers.job import ProcessLimits

# A GIF has 256 colours, one of which means "as before" or transparent.
MOST_COLOURS: Final = 255


def find_colours(source: Source, limits: ProcessLimits, *, first: int, count: int) -> tuple[int, ...]:
    """
    Return the colours of `count` frames from number `first` on, packed as libvips' `gif-palette`: R, G, B, A bytes.

    () if there are more than MOST_COLOURS, or some are partly transparent: a GIF cannot hold these. It decodes the
    source again: the pixels of the first time can be read only once. Raises pyvips.Error if they are damaged.
    """
    from PIL import Image  # noqa: PLC0415 - 2 MB of memory, and hardly any picture needs it

    pages = decode(source, limits, factor=1.0, page=first, count=count)
    height = pages.height // count
    found: set[tuple[int, ...]] = set()
    for top in range(0, pages.height, height):
        frame = as_rgb(to_srgb(pages.crop(0, top, pages.width, height)))
        frame = frame if frame.hasalpha() else frame.bandjoin(255)
        size = (frame.width, frame.height)
        counted = Image.frombuffer("RGBA", size, frame.write_to_memory()).getcolors(MOST_COLOURS)
        if counted is None:
            return ()
        found.update(tuple(colour) for _, colour in counted if isinstance(colour, tuple))
    opaque = {colour for colour in found if colour[3] == 255}
    clear = {(0,) * 4 for colour in found if colour[3] == 0}
    if len(opaque) + len(clear) > MOST_COLOURS or any(0 < colour[3] < 255 for colour in found):
        return ()
    return tuple(int.from_bytes(bytes(colour), "little", signed=True) for colour in sorted(opaque | clear))


def reduce_colours(image: Any, wanted: Encoding, playback: Playback | None) -> Any:
    """
    Return a picture in the colours that it has as a GIF of this encoding, with all its metadata.

    Its alpha is 0 or 255.
    """
    data = encode(image, wanted, Output(), keep=0, playback=playback, merges_frames=False)
    reduced = pyvips.Image.new_from_buffer(data, "", n=-1)
    if not image.hasalpha():
        reduced = as_rgb(reduced).extract_band(0, n=3)
    return as_rgb(image).insert(reduced, 0, 0)
