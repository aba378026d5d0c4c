"""A JPEG is opened once for its header and its pixels where it can be, and its variants are the same bytes if not."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imgproxy import errors
from imgproxy.params.plan import Crop, Fit, Format, Output, Px, RenderPlan, Resize, Trim
from imgproxy.render import jpegframe
from imgproxy.render import source as load
from imgproxy.render.sizes import Size
from imgproxy.workers.job import ProcessLimits
from tests.support import images
from tests.support.rendering import PNG, render, render_all

if TYPE_CHECKING:
    from pathlib import Path

    from imgproxy.render.source import Foresee, Source
    from imgproxy.workers.sniff import SourceKind

PHOTO = images.photo(1203, 899)
SMALL = RenderPlan(resize=Resize(width=Px(200)), output=PNG)
LARGE = RenderPlan(resize=Resize(width=Px(600)), output=PNG)
TRIMMED = RenderPlan(trim=Trim("auto"), resize=Resize(width=Px(600)), output=PNG)
SQUARE = RenderPlan(resize=Resize(Px(90), Px(400), fit=Fit.CROP, crop=(Crop.ENTROPY,)), output=PNG)
FACTS = RenderPlan(output=Output(format=Format.JSON))


def with_preview() -> bytes:
    """A JPEG whose EXIF block holds a smaller one, beyond what is read of a file to recognise it."""
    preview = images.jpeg(PHOTO[:160, :120], 100)
    return b"\xff\xd8\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview + images.jpeg(PHOTO)[2:]


JPEGS = {
    "upright": images.jpeg(PHOTO),
    "progressive": images.jpeg(PHOTO, progressive=True),
    "on its side": images.jpeg(PHOTO, exif=images.exif(6)),
    "with a preview": with_preview(),
    "with fill bytes": images.jpeg(PHOTO).replace(b"\xff\xdb", b"\xff\xff\xdb", 1),
    "grey": images.encode(PHOTO[..., 1], "JPEG"),
}


def size_of(data: bytes, folder: Path) -> Size | None:
    """What `jpegframe` says of a file."""
    path = folder / "file"
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return jpegframe.size_of(data[:4096], descriptor)
    finally:
        os.close(descriptor)


def openings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The options of every JPEG that is opened from now on."""
    found: list[dict[str, object]] = []
    opened = load._open

    def spy(kind: SourceKind, path: str, data: bytes | None, **options: object) -> object:
        found.append(options)
        return opened(kind, path, data, **options)

    monkeypatch.setattr(load, "_open", spy)
    return found


@pytest.mark.parametrize("kind", JPEGS)
def test_a_frame_header_tells_the_size_that_a_decoder_finds(kind: str, tmp_path: Path) -> None:
    """Or none where the file is not a plain row of segments: never another."""
    found = size_of(JPEGS[kind], tmp_path)
    width_px, height_px = Image.open(io.BytesIO(JPEGS[kind])).size
    assert found == (None if kind == "with fill bytes" else Size(width_px, height_px))


@given(st.binary(max_size=200))
def test_a_frame_header_is_sought_in_any_bytes(tail: bytes) -> None:
    """What ends early, leads nowhere or beyond the end has no size."""
    descriptor = os.memfd_create("file")
    try:
        os.write(descriptor, b"\xff\xd8" + tail)
        found = jpegframe.size_of(b"\xff\xd8" + tail, descriptor)
    finally:
        os.close(descriptor)
    assert found is None or (found.width_px > 0 and found.height_px > 0)


def test_a_jpeg_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For its header and its pixels together, shrunk by what the plan asks of an upright picture of its size."""
    found = openings(monkeypatch)
    render(JPEGS["upright"], SMALL)
    assert [options["shrink"] for options in found] == [2]


def test_a_jpeg_is_opened_again_where_it_is_not_what_was_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upright it is 899 pixels wide, for 330 of which it is not shrunk by as much as 1203 would be."""
    found = openings(monkeypatch)
    plan = RenderPlan(resize=Resize(width=Px(330)), output=PNG)
    render(JPEGS["on its side"], plan)
    assert [options["shrink"] for options in found] == [2, 1]


def test_pixels_of_one_opening_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two decodes of one job that ask for the same shrink open it twice."""
    found = openings(monkeypatch)
    trimmed, large = render_all(JPEGS["upright"], TRIMMED, LARGE)
    assert [options["shrink"] for options in found] == [1, 1]
    assert (trimmed.rendered.width_px, large.rendered.width_px) == (600, 600)


def test_a_description_opens_no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The header alone, by the loader's defaults."""
    found = openings(monkeypatch)
    render(JPEGS["upright"], FACTS)
    assert found == [{}]


@pytest.mark.parametrize("plans", [(SMALL,), (LARGE, SMALL), (TRIMMED, LARGE), (SQUARE,), (FACTS, SMALL)])
@pytest.mark.parametrize("kind", JPEGS)
def test_variants_are_the_same_bytes_however_often_a_jpeg_is_opened(
    kind: str, plans: tuple[RenderPlan, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is foreseen saves an opening and changes nothing."""
    once = render_all(JPEGS[kind], *plans)
    open_source = load.open_source

    def without_foresight(path: str, limits: ProcessLimits, _foresee: Foresee) -> Source:
        return open_source(path, limits)

    monkeypatch.setattr(load, "open_source", without_foresight)
    twice = render_all(JPEGS[kind], *plans)
    assert [result.data for result in once] == [result.data for result in twice]


def test_a_size_in_the_header_that_is_another_than_the_decoders_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The decoder's holds."""
    true = render(JPEGS["upright"], FACTS).data
    monkeypatch.setattr(jpegframe, "size_of", lambda *_: Size(300, 200))
    facts, picture = render_all(JPEGS["upright"], FACTS, SMALL)
    assert facts.data == true
    assert picture.rendered.width_px == 200


def test_the_limit_on_pixels_holds_before_any_is_read() -> None:
    """Also for a JPEG whose pixels are open already."""
    limits = ProcessLimits(memory_bytes=10**9, source_pixels=1203 * 899 - 1, frames=10, output_px=8192)
    with pytest.raises(errors.TooManyPixels):
        render(JPEGS["upright"], SMALL, limits=limits)
