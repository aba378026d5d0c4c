"""Writes a finished picture to its file: choose the format, drop or keep alpha, add metadata, encode."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import blurhash
import pyvips

from imgproxy.digest import digest_of
from imgproxy.errors import FacesUnavailable
from imgproxy.params.appearance import WHITE
from imgproxy.params.plan import Format
from imgproxy.render import detector, formats, info, metadata, own_colours, paint, palette, png_text, smallest
from imgproxy.render.encoders import Playback
from imgproxy.render.sizes import Size
from imgproxy.workers.faces import write_record
from imgproxy.workers.job import Rendered

if TYPE_CHECKING:
    from typing import Final

    from imgproxy.render.draft import Draft
    from imgproxy.render.recipe import Recipe
    from imgproxy.render.source import Source
    from imgproxy.render.svg import Drawing

# BlurHash: 4 x 3 components is the example of the reference (woltapp/blurhash, Algorithm.md). The library is pure
# Python: 9 ms for a picture of this size.
BLURHASH_COMPONENTS: Final = (4, 3)
BLURHASH_SIDE_PX: Final = 32


def write_picture(recipe: Recipe, draft: Draft) -> Rendered:
    """Choose the format, flatten if it has no alpha, add metadata, encode in the smallest way and write."""
    plan = recipe.plan.output
    draft = _drop_opaque_alpha(draft)
    has_alpha = bool(draft.first.hasalpha())
    if plan.format in formats.DESCRIPTIONS:
        return _write_description(recipe, draft)
    size = Size(draft.first.width, draft.first.height)
    playback = None
    if recipe.selection.is_animated and recipe.animated is not None:
        wanted = recipe.animated
        playback = Playback(recipe.selection.delays_ms, recipe.selection.loop)
    else:
        wanted = formats.still_format(plan.format, draft.source.kind, has_alpha=has_alpha)
        wanted = formats.cap_avif(wanted, plan, size.width_px * size.height_px)
    if has_alpha and not formats.takes_alpha(wanted):
        # The plan's own background has been painted already; white is for what is still transparent.
        draft = draft.change_frames(lambda image: paint.flatten(image, WHITE))
    found = smallest.find_palette(draft.source, recipe.plan, size, len(draft.frames))
    may_be_flat = smallest.may_be_flat(draft.source, wanted, recipe.plan)
    if may_be_flat or found is not None:
        draft = draft.change_frames(lambda image: image.copy_memory())  # it is read more than once
    image = draft.first if playback is None else pyvips.Image.arrayjoin(list(draft.frames), across=1)
    image, keep = metadata.apply(image, draft.source, plan.metadata, draft.profile)
    wanted, data = smallest.encode_smallest(
        smallest.Picture(image, plan, keep, playback),
        wanted,
        flat=may_be_flat and smallest.is_flat(draft.first),
        palette=found,
        find_colours=lambda: _find_colours(recipe, draft),
    )
    content_type = formats.CONTENT_TYPES[wanted]
    if content_type == "image/png" and keep & metadata.KEEP_XMP:
        data = png_text.plain_xmp(data)
    return _write(recipe, data, content_type, size, frames=len(draft.frames), is_mark_missing=draft.is_mark_missing)


def _find_colours(recipe: Recipe, draft: Draft) -> tuple[int, ...]:
    """Return the colours of the frames that the variant is made from."""
    first, last = min(recipe.selection.order), max(recipe.selection.order)
    return own_colours.find_colours(draft.source, draft.limits, first=first, count=last - first + 1)


def _drop_opaque_alpha(draft: Draft) -> Draft:
    """Remove the alpha band if every pixel is opaque. A picture with alpha is in memory afterwards."""
    if not draft.first.hasalpha():
        return draft
    draft = draft.change_frames(lambda image: image.copy_memory())  # it is read here and by the encoder
    if not all(paint.is_opaque(frame) for frame in draft.frames):
        return draft
    return draft.change_frames(lambda image: image.extract_band(0, n=image.bands - 1))


def _write_description(recipe: Recipe, draft: Draft) -> Rendered:
    """Write the BlurHash, the palette or the faces of the finished picture."""
    plan = recipe.plan.output
    if plan.format is Format.FACES:
        return _write_faces(recipe, draft)
    side_px = BLURHASH_SIDE_PX if plan.format is Format.BLURHASH else palette.SIDE_PX
    flat = paint.flatten(draft.first, WHITE).colourspace("srgb")
    small = flat.thumbnail_image(side_px, height=side_px, size="down")
    pixels = bytes(small.write_to_memory())
    if plan.format is Format.BLURHASH:
        data = _encode_blurhash(pixels, small.width)
    else:
        found = palette.find(pixels, palette.DEFAULT_COLOURS if plan.colours is None else plan.colours)
        is_css = plan.format is Format.PALETTE_CSS
        data = palette.as_css(found, plan.palette_prefix) if is_css else palette.as_json(found)
    content_type = formats.CONTENT_TYPES[plan.format]
    return _write(recipe, data, content_type, Size(flat.width, flat.height), is_mark_missing=draft.is_mark_missing)


def _write_faces(recipe: Recipe, draft: Draft) -> Rendered:
    """Look for faces in the finished picture, which is a small copy of the source, and write their record."""
    if not draft.limits.face_model:
        raise FacesUnavailable
    flat = paint.flatten(draft.first, WHITE).colourspace("srgb")
    pixels, size = bytes(flat.write_to_memory()), Size(flat.width, flat.height)
    found = detector.find_faces(pixels, size.width_px, size.height_px, draft.limits.face_model)
    return _write(recipe, write_record(found), formats.CONTENT_TYPES[Format.FACES], size)


def _encode_blurhash(pixels: bytes, width_px: int) -> bytes:
    """Return the BlurHash of H x W x 3 bytes of sRGB."""
    starts = range(0, len(pixels), 3 * width_px)
    rows = [[pixels[at : at + 3] for at in range(start, start + 3 * width_px, 3)] for start in starts]
    return str(blurhash.encode(rows, *BLURHASH_COMPONENTS)).encode()


def write_info(recipe: Recipe, source: Source) -> Rendered:
    """Write the source's description as JSON."""
    return _write(recipe, info.describe(source, recipe), formats.CONTENT_TYPES[Format.JSON], Size(0, 0))


def write_drawing(recipe: Recipe, drawing: Drawing) -> Rendered:
    """Write a sanitised SVG as it is; its size is the size that the plan asks for."""
    assert recipe.geometry is not None
    return _write(recipe, drawing.text, "image/svg+xml", recipe.geometry.final)


def _write(
    recipe: Recipe,
    data: bytes,
    content_type: str,
    size: Size,
    *,
    frames: int = 1,
    is_mark_missing: bool = False,
) -> Rendered:
    path = recipe.target.path
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o644)) as file:
        file.write(data)
    return Rendered(
        path=path,
        content_type=content_type,
        size_bytes=len(data),
        digest=digest_of(data),
        width_px=size.width_px,
        height_px=size.height_px,
        frames=frames,
        is_first_frame_only=recipe.is_first_frame_only,
        is_mark_missing=is_mark_missing,
        source_width_px=recipe.upright.width_px,
        source_height_px=recipe.upright.height_px,
        orientation=recipe.orientation,
    )
