"""From a finished picture to its file: the format, the alpha it may keep, its metadata, its bytes and digest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pyvips

from imgproxy.digest import digest_of
from imgproxy.params.plan import WHITE, Format
from imgproxy.render import blurhash, formats, info, metadata, paint, palette
from imgproxy.render.encoders import Playback, encode
from imgproxy.render.sizes import Size
from imgproxy.workers.job import Rendered

if TYPE_CHECKING:
    from imgproxy.render.draft import Work
    from imgproxy.render.recipe import Aim
    from imgproxy.render.source import Source


def write_picture(aim: Aim, work: Work) -> Rendered:
    """Decide the format, flatten where it has no alpha, give it its metadata, encode and write."""
    output = aim.plan.output
    has_alpha = bool(work.first.hasalpha())
    if has_alpha:
        # Its alpha is looked at before it is encoded, and a picture that is still being decoded is read only once.
        work = work.each(lambda image: image.copy_memory())
        if all(paint.is_opaque(frame) for frame in work.frames):
            work = work.each(lambda image: image.extract_band(0, n=image.bands - 1))
            has_alpha = bool(work.first.hasalpha())
    if output.format in formats.DESCRIPTIONS:
        return _describe(aim, work)
    is_animated = aim.selection.is_animated and aim.animated is not None
    wanted = formats.still_format(output.format, work.source.kind, has_alpha=has_alpha)
    size = Size(work.first.width, work.first.height)
    wanted = formats.within_cap(wanted, output, size.width_px * size.height_px)
    if is_animated:
        assert aim.animated is not None
        wanted = aim.animated
    if has_alpha and not formats.takes_alpha(wanted):
        work = work.each(lambda image: paint.flatten(image, WHITE))  # the plan's own background lies under it already
        has_alpha = False
    image = work.first
    playback = None
    if is_animated:
        image = pyvips.Image.arrayjoin(list(work.frames), across=1)
        playback = Playback(aim.selection.delays_ms, aim.selection.loop)
    image, keep = metadata.apply(image, work.source, output.metadata, work.profile)
    data = encode(image, wanted, output, keep=keep, playback=playback)
    return _write(aim, data, wanted, size, work, frames=len(work.frames), has_alpha=has_alpha)


def _describe(aim: Aim, work: Work) -> Rendered:
    """A BlurHash or a palette of the finished picture."""
    output = aim.plan.output
    side = blurhash.SIDE_PX if output.format is Format.BLURHASH else palette.SIDE_PX
    flat = paint.flatten(work.first, WHITE).colourspace("srgb")
    small = flat.thumbnail_image(side, height=side, size="down")
    pixels = bytes(small.write_to_memory())
    if output.format is Format.BLURHASH:
        data = blurhash.encode(pixels, small.width, small.height).encode()
    else:
        found = palette.find(pixels, palette.DEFAULT_COLORS if output.colours is None else output.colours)
        is_css = output.format is Format.PALETTE_CSS
        data = palette.as_css(found, output.palette_prefix) if is_css else palette.as_json(found)
    return _write(aim, data, output.format, Size(flat.width, flat.height), work)


def write_info(aim: Aim, source: Source) -> Rendered:
    """Write the source's description as JSON."""
    return _write(aim, info.describe(source), Format.JSON, Size(0, 0))


def write_drawing(aim: Aim, drawing: bytes) -> Rendered:
    """Write a sanitised SVG as it is; its size is the one it was asked for."""
    assert aim.geometry is not None
    size = aim.geometry.final
    return _written(aim, drawing, "image/svg+xml", size, has_alpha=True)


def _write(
    aim: Aim,
    data: bytes,
    wanted: Format,
    size: Size,
    work: Work | None = None,
    *,
    frames: int = 1,
    has_alpha: bool = False,
) -> Rendered:
    is_mark_missing = work.is_mark_missing if work else False
    return _written(
        aim,
        data,
        formats.CONTENT_TYPES[wanted],
        size,
        frames=frames,
        has_alpha=has_alpha,
        is_mark_missing=is_mark_missing,
    )


def _written(
    aim: Aim,
    data: bytes,
    content_type: str,
    size: Size,
    *,
    frames: int = 1,
    has_alpha: bool = False,
    is_mark_missing: bool = False,
) -> Rendered:
    # The file is there, and empty. Were it emptied again, ext4 would send it to the disk as it is closed (ext4(5),
    # auto_da_alloc): 95 us instead of 40 for 50 kB, and the disk busy with what may be purged before it is written.
    descriptor = os.open(aim.target.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)
    return Rendered(
        path=aim.target.path,
        content_type=content_type,
        size_bytes=len(data),
        digest=digest_of(data),
        width_px=size.width_px,
        height_px=size.height_px,
        frames=frames,
        has_alpha=has_alpha,
        is_first_frame_only=aim.selection.is_cut and aim.animated is not None,
        is_mark_missing=is_mark_missing,
    )
