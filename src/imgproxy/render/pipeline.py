"""Thin first pipeline: resize within width and height, four formats."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import pyvips

from imgproxy.errors import DecodeFailed, NotAnImage
from imgproxy.params.plan import Format, Px
from imgproxy.render.job import Rendered, SourceFacts

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgproxy.render.job import ProcessLimits, RenderJob, RenderTarget

SUFFIXES = {
    Format.JPEG: (".jpg", "image/jpeg"),
    Format.PNG: (".png", "image/png"),
    Format.WEBP: (".webp", "image/webp"),
    Format.AVIF: (".avif", "image/avif"),
}


def run(job: RenderJob, limits: ProcessLimits, on_done: Callable[[int, Rendered], None]) -> tuple[float, SourceFacts]:
    """Make every target."""
    started = time.perf_counter()
    try:
        header = pyvips.Image.new_from_file(str(job.original))
    except pyvips.Error as exc:
        raise NotAnImage from exc
    source = SourceFacts("image/jpeg", header.width, header.height)
    opened_s = time.perf_counter() - started
    for index, target in enumerate(job.targets):
        try:
            on_done(index, _render(job, target, source))
        except pyvips.Error as exc:
            raise DecodeFailed from exc
    return opened_s, source


def _render(job: RenderJob, target: RenderTarget, source: SourceFacts) -> Rendered:
    resize = target.plan.resize
    width = resize.width.value if isinstance(resize.width, Px) else source.width_px
    image = pyvips.Image.thumbnail(str(job.original), width, height=8192)
    suffix, content_type = SUFFIXES.get(target.plan.output.format, (".jpg", "image/jpeg"))
    data = image.write_to_buffer(suffix)
    target.path.write_bytes(data)
    return Rendered(
        path=target.path,
        content_type=content_type,
        size_bytes=len(data),
        digest=hashlib.blake2b(data, digest_size=16).hexdigest(),
        width_px=image.width,
        height_px=image.height,
        has_alpha=image.hasalpha() != 0,
    )
