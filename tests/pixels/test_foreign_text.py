"""Text of the file that is no UTF-8, wherever it crosses from libvips: no render process ends, and pictures are made."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import pyvips

from imgproxy.errors import DecodeFailed, RenderCrashed
from imgproxy.params.plan import Format, Metadata, Output, RenderPlan
from imgproxy.render import child, vips
from imgproxy.workers import channel
from imgproxy.workers.channel import Failed
from imgproxy.workers.job import ProcessLimits, RenderJob, RenderTarget
from imgproxy.workers.process import child_environment
from tests.support import containers, images, tagged
from tests.support.rendering import render
from tests.support.site import site
from tests.support.workers import SMALL, job, pool_of

if TYPE_CHECKING:
    from pathlib import Path

LATIN = "Titré"
PNG = images.png(images.quarters())
KEYWORDS = containers.with_chunks(
    PNG,
    (b"tEXt", f"{LATIN}\0café".encode("latin-1")),
    (b"zTXt", f"{LATIN}\0\0".encode("latin-1") + b"\x78\x9c\x03\0\0\0\0\1"),
    (b"iTXt", f"{LATIN}\0\0\0\0\0".encode("latin-1") + b"\xff\xfe\xe9"),
    (b"tEXt", b"\x80\x81\xff\0\xff"),
)


async def test_a_png_with_latin_1_keywords_is_a_good_picture(tmp_path: Path) -> None:
    """It is rendered and described, over HTTP, and no render process is replaced."""
    async with site(tmp_path, pictures={"a.png": KEYWORDS, "mark.png": KEYWORDS}) as here:
        for query in ("w=24", "w=24&fm=webp", "fm=json", "w=30&fm=png&mark=/mark.png&iptc=block"):
            assert (await here.get(f"/a.png?{query}")).status == 200, query
        assert here.edge.pool.restarts == 0


@pytest.mark.parametrize("policy", list(Metadata))
@pytest.mark.parametrize("wanted", [Format.JPEG, Format.PNG, Format.WEBP, Format.AVIF, Format.GIF])
def test_texts_of_a_png_are_not_copied(wanted: Format, policy: Metadata) -> None:
    """Texts with any keyword are removed, under every policy and in every format."""
    data = render(KEYWORDS, RenderPlan(output=Output(format=wanted, metadata=policy))).data
    assert b"Titr" not in data
    assert b"caf" not in data


def test_text_crosses_unchanged_in_both_directions() -> None:
    """A field with any bytes in its name can be listed, read and removed."""
    image = pyvips.Image.pngload_buffer(KEYWORDS)
    names = [name for name in image.get_fields() if name.startswith("png-comment-")]
    assert len(names) == 4
    assert any(name.encode("utf-8", "surrogateescape").endswith(LATIN.encode("latin-1")) for name in names)
    image = image.copy()
    for name in names:
        assert isinstance(image.get(name), str)
        assert image.remove(name)
    assert not [name for name in image.get_fields() if name.startswith("png-comment-")]


def test_an_error_of_libvips_with_any_bytes_is_an_error() -> None:
    """The message of an error may have bytes that are no UTF-8: it is a pyvips.Error, and the next one is its own."""
    with pytest.raises(pyvips.Error) as first:
        pyvips.Image.pngload("/nowhere/\udce9\udcff.png")
    assert "\udce9\udcff" in str(first.value)
    repr(first.value).encode("ascii", "backslashreplace")
    with pytest.raises(pyvips.Error) as second:
        pyvips.Image.pngload("/nowhere/b.png")
    assert "\udce9" not in str(second.value)


def test_every_module_of_pyvips_is_patched() -> None:
    """The functions for text are where they are looked for: a new version of pyvips may have moved them."""
    vips.prepare()
    for module in (pyvips.base, pyvips.error, pyvips.gvalue, pyvips.vimage, pyvips.vobject, pyvips.voperation):
        assert module._to_string is vips._to_string, module.__name__
    assert pyvips.error._to_string(pyvips.ffi.new("char[]", b"\xe9")) == "\udce9"
    assert pyvips.error._to_bytes("\udce9") == b"\xe9"


def test_an_unforeseen_error_ends_the_job_and_not_the_process(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Any exception of a job is reported as a failed render, with its traceback in the log. MemoryError is not."""
    import socket

    ours, theirs = socket.socketpair()
    targets = (RenderTarget(RenderPlan(), str(tmp_path / "a")),)
    limits = ProcessLimits(memory_bytes=10**9, source_pixels=10**8, frames=10, output_px=8192)

    def run(error: Exception) -> None:
        def fail(*_: object) -> None:
            raise error

        child.serve_job(fail, RenderJob(str(tmp_path / "original"), targets), limits, child.Link(theirs))

    with ours, theirs:
        for error in (
            ValueError("no\udce9\x1b[31m"),
            UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "bad"),
            RecursionError("deep"),
        ):
            run(error)
            payload = channel.receive(ours)
            assert payload is not None
            (message,) = channel.decode(payload, targets)
            assert isinstance(message, Failed)
            assert isinstance(message.error, RenderCrashed)
            logged = capfd.readouterr().err
            assert type(error).__name__ in logged
            assert logged.replace("\n", "").isprintable()
        with pytest.raises(MemoryError):
            run(MemoryError())


async def test_short_files_of_every_kind_end_no_process(tmp_path: Path) -> None:
    """The first bytes of a format alone are refused, by one process for all of them."""
    heads = [
        b"II*\0",
        b"MM\0*\0",
        b"II+\0\x08",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"<svg ",
    ]
    heads += [b"\0\0\0\x18ftypavif", b"\0\0\0\x18ftypheic\0\0"]
    async with pool_of() as pool:
        for number, head in enumerate(heads):
            path = tmp_path / f"{number}.bin"
            path.write_bytes(head)
            with pytest.raises(DecodeFailed):
                await pool.render(job(path, SMALL))
        assert pool.restarts == 0


async def test_a_damaged_file_writes_no_warnings(tmp_path: Path) -> None:
    """libvips' warnings, hundreds for a damaged TIFF and with its bytes in them, do not reach the log."""
    entries = [tagged.text(0x8298, b"A\0\x1b[31mB\0"), tagged.text(0x9999, b"x")]
    (tmp_path / "a.tif").write_bytes(tagged.tiff("<", entries))
    code = "import pyvips, sys; pyvips.Image.tiffload(sys.argv[1]).avg()"
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "a.tif")]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, check=True, timeout=60, env=child_environment()
    )
    assert done.stderr == b""
