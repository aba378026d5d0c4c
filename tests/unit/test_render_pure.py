"""The pure parts of rendering: formats of files, frames, qualities, boxes, cores, messages."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgproxy import errors
from imgproxy.params.plan import Format, Frames, RenderPlan
from imgproxy.render.encoders import EQUAL_QUALITY, encoder_quality
from imgproxy.render.formats import animated_format, still_format
from imgproxy.render.frames import Selection, select_frames, select_page
from imgproxy.render.orientation import stored_box
from imgproxy.render.sizes import Box, Size
from imgproxy.render.source import jpeg_shrink
from imgproxy.workers import channel
from imgproxy.workers.capacity import usable_cores
from imgproxy.workers.channel import BadMessageError, Done, Failed, Finished, Ready
from imgproxy.workers.job import Rendered, RenderTarget
from imgproxy.workers.sniff import HEAD_BYTES, SourceKind, sniff

if TYPE_CHECKING:
    from collections.abc import Callable


# --- sniff ------------------------------------------------------------------------------------------------------


def ftyp(*brands: bytes) -> bytes:
    body = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return (len(body) + 4).to_bytes(4, "big") + body + b"\0\0\0\x08mdat"


def full(*parts: bytes) -> bytes:
    """The first bytes of a longer file."""
    return b"".join(parts)[:HEAD_BYTES]


HEVC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs")


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", SourceKind.JPEG),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", SourceKind.PNG),
        (b"GIF89a\1\0\1\0", SourceKind.GIF),
        (b"RIFF\x10\0\0\0WEBPVP8 ", SourceKind.WEBP),
        (ftyp(b"avif", b"mif1", b"miaf"), SourceKind.AVIF),
        (ftyp(b"mif1", b"avif"), SourceKind.AVIF),
        (ftyp(b"heic", b"mif1"), SourceKind.HEIC),
        # ISO/IEC 23008-12, annex B: pictures and sequences in HEVC, plain, in other profiles, in layers.
        *((ftyp(brand), SourceKind.HEIC) for brand in HEVC_BRANDS),
        (b"II*\0\x08\0\0\0", SourceKind.TIFF),
        (b"MM\0*\0\0\0\x08", SourceKind.TIFF),
        (b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x02\0\0\0", SourceKind.BMP),
        (b"BM is how this text begins, and it is no picture", None),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', SourceKind.SVG),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- Inkscape -->\n<svg>', SourceKind.SVG),
        (
            b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x.dtd"><svg width="1">',
            SourceKind.SVG,
        ),
        (b'<svg:svg xmlns:svg="http://www.w3.org/2000/svg">', SourceKind.SVG),
        (gzip.compress(b"<svg/>" + b" " * 9000, mtime=0), SourceKind.SVG),
        (gzip.compress(b"<html/>", mtime=0), None),
        (b"\x1f\x8b\x08 damaged", None),
        ("\ufeff<?xml version='1.0'?><svg/>".encode("utf-16-le"), SourceKind.SVG),
        ("\ufeff<svg/>".encode("utf-16-be"), SourceKind.SVG),
        ("<?xml version='1.0'?><svg/>".encode("utf-16-le"), SourceKind.SVG),
        ("<svg/>".encode("utf-16-be"), SourceKind.SVG),
        (full(b"<!--" + b"licence " * 512), SourceKind.SVG),
        (full("\ufeff<!--".encode("utf-16-le"), " é".encode("utf-16-le") * 2000), SourceKind.SVG),
        (
            full(b"<?xml version='1.0'?><!--" + b"a" * 3900 + b"-->\n<!DOCTYPE svg [<!ENTITY a '" + b"a" * 500),
            SourceKind.SVG,
        ),
        (full(b"<!--" + b"a" * 4080 + b"-->\n<svg:svg>"), SourceKind.SVG),
        (full(b"<!--" + b"a" * 4086 + b"-->\n\n\n\n"), SourceKind.SVG),
        (full(b"<!DOCTYPE svg:svg [<!ENTITY a '" + b"a" * 4096), SourceKind.SVG),
        (full(gzip.compress(b"<!--" + b"a" * 9000 + b"--><svg/>", mtime=0)), SourceKind.SVG),
        (b'<!DOCTYPE svg [<!ENTITY a "] [">]><svg/>', SourceKind.SVG),
        (b"<!--" + b"no end " * 100, None),
        (full(b"<!DOCTYPE html [<!ENTITY a '" + b"a" * 4096), None),
        (full(b"<!DOCTYPE html><!-- " + b"a" * 4096), None),
        (full(b" " * 4096), None),
        (b"<!---->" * 580, None),
        (b"<!---->" * 500 + b"<svg/>", SourceKind.SVG),
        (b"<?a?>" * 800, None),
        (b"<!DOCTYPE a>" * 300, None),
        (b"<html><svg></svg></html>", None),
        (b"<!-- <svg> --><html>", None),
        (b"RIFF\x10\0\0\0WAVEfmt ", None),
        (ftyp(b"isom", b"mp42"), None),
        (b"%PDF-1.7 <svg>", None),
        (b"BM\0\0\0\0", None),
        (b"\xff\x0a\xfa\x7f", None),
        (b"", None),
        (b"\xff\xd8", None),
    ],
)
def test_a_file_is_recognised_by_its_first_bytes(head: bytes, kind: SourceKind | None) -> None:
    """A file has the format that its first bytes say; nothing later in it counts."""
    assert sniff(head) is kind


@given(st.binary(max_size=4096))
def test_sniffing_takes_any_bytes(head: bytes) -> None:
    """No file makes the recognition fail."""
    assert sniff(head) is None or isinstance(sniff(head), SourceKind)


# --- frames -----------------------------------------------------------------------------------------------------

MANY = {"frame_px": 100, "max_frames": 10, "max_pixels": 10_000}


@pytest.mark.parametrize(
    ("frames", "want"),
    [
        (Frames(), Selection((0, 1, 2, 3), (10, 20, 30, 40), 2)),
        (Frames(first=2), Selection((1, 2, 3), (20, 30, 40), 2)),
        (Frames(first=2, last=3), Selection((1, 2), (20, 30), 2)),
        (Frames(first=3, last=2), Selection((2,), (30,), 2)),
        (Frames(first=99), Selection((3,), (40,), 2)),
        (Frames(last=99), Selection((0, 1, 2, 3), (10, 20, 30, 40), 2)),
        (Frames(loop=0), Selection((0, 1, 2, 3), (10, 20, 30, 40), 0)),
        (Frames(is_reversed=True), Selection((3, 2, 1, 0), (40, 30, 20, 10), 2)),
        (Frames(interval=3), Selection((0, 3), (60, 40), 2)),
        (Frames(skip=2), Selection((0, 2), (30, 70), 2)),
        (Frames(fps=4), Selection((0, 1, 2, 3), (250, 250, 250, 250), 2)),
    ],
    ids=str,
)
def test_frames_of_an_animation(frames: Frames, want: Selection) -> None:
    """Ranges, steps, order and pace choose frames. The delay of a dropped frame is not lost."""
    assert select_frames((10, 20, 30, 40), 2, frames, **MANY) == want


@pytest.mark.parametrize(
    ("max_frames", "max_pixels", "is_cut"), [(4, 400, False), (3, 400, True), (4, 399, True), (1, 100, True)]
)
def test_limits_of_an_animation(max_frames: int, max_pixels: int, is_cut: bool) -> None:
    """One frame or one pixel over a limit leaves the first frame, and `is_cut` is set."""
    found = select_frames((10,) * 4, 0, Frames(), frame_px=100, max_frames=max_frames, max_pixels=max_pixels)
    assert found.is_cut == is_cut
    assert found.order == ((0,) if is_cut else (0, 1, 2, 3))


def test_late_frames_count_what_lies_before_them() -> None:
    """libvips decodes from the first frame on, so the limit counts all frames up to the last one that is used."""
    chosen = Frames(first=9, last=10)
    assert select_frames((10,) * 10, 0, chosen, frame_px=1, max_frames=9, max_pixels=100).is_cut
    assert select_frames((10,) * 10, 0, chosen, frame_px=1, max_frames=10, max_pixels=100).order == (8, 9)


def test_pages_past_the_end_are_the_last() -> None:
    """A page beyond the end is the last page."""
    assert [select_page(3, Frames(page=n)).order for n in (1, 3, 7)] == [(0,), (2,), (2,)]


# --- formats, quality -------------------------------------------------------------------------------------------


def test_an_animation_gets_a_format_that_its_client_takes() -> None:
    """AVIF becomes an animated WebP, old clients get GIF, and JPEG makes a still."""
    assert animated_format(Format.AVIF, SourceKind.GIF) is Format.WEBP
    assert animated_format(Format.SOURCE, SourceKind.WEBP) is Format.WEBP
    assert animated_format(Format.COMPRESSED8, SourceKind.WEBP) is Format.GIF
    assert animated_format(Format.JPEG, SourceKind.GIF) is None


def test_every_still_format_is_concrete() -> None:
    """For every plan and source the result is a format that can be written."""
    concrete = {Format.JPEG, Format.PNG, Format.PNG8, Format.WEBP, Format.AVIF, Format.GIF}
    for wanted in (*concrete, Format.SOURCE, Format.COMPRESSED, Format.COMPRESSED8):
        for kind in SourceKind:
            for has_alpha in (True, False):
                assert still_format(wanted, kind, has_alpha=has_alpha) in concrete


@pytest.mark.parametrize("wanted", [Format.JPEG, Format.WEBP, Format.AVIF])
def test_quality_rises_with_q(wanted: Format) -> None:
    """From 0 to 100 the encoder's number never falls, and stays within 1-100."""
    found = [encoder_quality(q, wanted) for q in range(101)]
    assert found == sorted(found)
    assert found[0] >= 1
    assert found[-1] <= 100


def test_measured_qualities_are_exact() -> None:
    """At the measured points the numbers of the table are used; JPEG keeps its `q`."""
    for q, webp, avif in EQUAL_QUALITY:
        assert (encoder_quality(q, Format.WEBP), encoder_quality(q, Format.AVIF)) == (webp, avif)
        assert encoder_quality(q, Format.JPEG) == max(1, q)
    assert encoder_quality(250, Format.WEBP) == encoder_quality(100, Format.WEBP)


def test_q_75_has_one_quality_in_every_format() -> None:
    """By the measured curves, q=75 of JPEG, WebP and AVIF is within 1 SSIMULACRA2, as a mean of all widths."""
    results = Path(__file__).parents[2] / "benchmarks/results/quality.json"
    scores = []
    for name, curve in json.loads(results.read_text(encoding="utf-8"))["curves"].items():
        points = sorted((int(quality), figure["ssimulacra2"]) for quality, figure in curve.items())
        qualities, measured = zip(*points, strict=True)
        scores.append(float(np.interp(encoder_quality(75, Format(name)), qualities, measured)))
    assert len(scores) == 3
    assert max(scores) - min(scores) < 1


@pytest.mark.parametrize(
    ("factor", "shrink"), [(0.5, 1), (1.0, 1), (2.7, 1), (2.8, 2), (6.9, 2), (7.0, 4), (14.0, 8), (99.0, 8)]
)
def test_a_jpeg_shrinks_on_load_and_leaves_enough_to_the_filter(factor: float, shrink: int) -> None:
    """A JPEG shrinks by two from a factor of 2.8 on, and by more from 7 and 14 on."""
    assert jpeg_shrink(factor) == shrink


# --- orientation ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.integers(1, 8),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_stored_boxes_hold_the_same_pixels(
    orientation: int, size: tuple[int, int], parts: tuple[float, float, float, float]
) -> None:
    """To turn upright and then cut gives the same pixels as to cut at `stored_box` and then turn."""
    turns: dict[int, Callable[[Any], Any]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a.T, 2),
        8: np.rot90,
    }
    stored = np.arange(size[0] * size[1]).reshape(size[1], size[0])
    upright = turns[orientation](stored)
    height, width = upright.shape
    left, top = int(parts[0] * (width - 1)), int(parts[1] * (height - 1))
    box = Box(left, top, 1 + int(parts[2] * (width - left - 1)), 1 + int(parts[3] * (height - top - 1)))
    found = stored_box(box, Size(width, height), orientation)
    cut = stored[found.top_px : found.top_px + found.height_px, found.left_px : found.left_px + found.width_px]
    want = upright[box.top_px : box.top_px + box.height_px, box.left_px : box.left_px + box.width_px]
    assert np.array_equal(turns[orientation](cut), want)


# --- cores ------------------------------------------------------------------------------------------------------


def cgroup(root: Path, membership: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_cores_without_limits_are_those_of_the_affinity(tmp_path: Path) -> None:
    """Without a cgroup limit the service may use all cores of its affinity mask."""
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/\n", {"cpu.max": "100000 100000"}),
        ("0::/a/b\n", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}),
        ("0::/gone\n", {"cpu.max": "50000 100000"}),
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "100000", "cpu/x/cpu.cfs_period_us": "100000"}),
    ],
    ids=["root", "parent", "container", "v1"],
)
def test_cores_follow_the_smallest_quota(tmp_path: Path, membership: str, files: dict[str, str]) -> None:
    """The smallest quota of the cgroup and its parents counts, rounded down, but at least one core."""
    assert usable_cores(cgroup(tmp_path, membership, files)) == 1


@pytest.mark.parametrize("text", ["max 100000", "", "nonsense", "100000 0"])
def test_an_unreadable_quota_limits_nothing(tmp_path: Path, text: str) -> None:
    """A file without a valid quota is ignored."""
    assert usable_cores(cgroup(tmp_path, "0::/\n", {"cpu.max": text})) == usable_cores(tmp_path / "none")


# --- messages ---------------------------------------------------------------------------------------------------

PATH = "/somewhere/a.tmp"
TARGETS = (RenderTarget(RenderPlan(), PATH),)
RENDERED = Rendered(PATH, "image/jpeg", 10, "0" * 32, 3, 4)


@pytest.mark.parametrize(
    "message",
    [
        Ready("8.18.7"),
        Done(0, RENDERED),
        Done(0, replace(RENDERED, frames=7, is_first_frame_only=True, is_mark_missing=True)),
        Finished(1.5, 1000, 900),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_arrive_as_they_were_sent(message: channel.Message) -> None:
    """A message is the same after it was encoded and decoded; the path is added from the target."""
    assert channel.decode(channel.encode(message), TARGETS) == [message]


@pytest.mark.parametrize(
    "error",
    [errors.NotAnImage(), errors.TooManyPixels(5, 4), errors.RenderOutOfMemory(1, 2), errors.CacheUnavailable()],
    ids=lambda error: error.code,
)
def test_errors_arrive_with_their_facts(error: errors.ImgproxyError) -> None:
    """An error arrives with its class and its figures."""
    done, found = channel.decode(channel.encode(Done(0, RENDERED), Failed(error, 7)), TARGETS)
    assert done == Done(0, RENDERED)
    assert isinstance(found, Failed)
    assert type(found.error) is type(error)
    assert found.error.facts() == error.facts()


def good() -> dict[str, Any]:
    return {key: value for key, value in asdict(RENDERED).items() if key != "path"}


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"done": 1, "rendered": good()},
        {"done": -1, "rendered": good()},
        {"done": 0, "rendered": good() | {"content_type": "text/html"}},
        {"done": 0, "rendered": good() | {"content_type": "image/png\r\nX: y"}},
        {"done": 0, "rendered": good() | {"digest": "../../../etc/passwd"}},
        {"done": 0, "rendered": good() | {"digest": "Z" * 32}},
        {"done": 0, "rendered": good() | {"size_bytes": "10"}},
        {"done": 0, "rendered": good() | {"width_px": -1}},
        {"done": 0, "rendered": good() | {"width_px": True}},
        {"done": 0, "rendered": good() | {"path": "/etc/passwd"}},
        {"done": 0, "rendered": good() | {"is_mark_missing": 1}},
        {"done": 0, "rendered": {"content_type": "image/png"}},
        {"error": "internal", "facts": {}, "resident_bytes": 1},
        {"error": "not_an_image", "facts": {"secret": 1}, "resident_bytes": 1},
        {"report": {"render_s": 1.0}},
    ],
    ids=str,
)
def test_every_other_message_is_refused(payload: dict[str, Any]) -> None:
    """The edge refuses these messages of a render process that was taken over."""
    with pytest.raises(BadMessageError):
        channel.decode(json.dumps([payload]).encode(), TARGETS)
    with pytest.raises(BadMessageError):
        channel.decode(json.dumps(payload).encode(), TARGETS)


LEAVES = st.none() | st.booleans() | st.integers() | st.text()


@settings(max_examples=40, deadline=None)
@given(st.recursive(LEAVES, lambda child: st.lists(child) | st.dictionaries(st.text(), child)))
def test_any_other_json_is_refused(value: Any) -> None:
    """For any JSON that is not a message, BadMessageError is raised and no other error."""
    with pytest.raises(BadMessageError):
        channel.decode(json.dumps(value).encode(), TARGETS)
    with pytest.raises(BadMessageError):
        channel.decode(json.dumps([value]).encode(), TARGETS)
