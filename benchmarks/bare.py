"""
The bare loop: the libvips calls of a render and nothing else. It shows what a render costs at least.

A loop reads lines `photo width format quality count [folder]` and answers each with `seconds CPU-seconds`. With a
folder it writes the photo's bytes to a new file there before each render, and renders from that: each program that
fetches an original has to write it. It has the niceness of the product's render processes, and no operation cache, as
they. The calls use the product's own tables (shrink on load, colour, encoder settings), so the loop changes with them.
`renders` checks that both make the same picture.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence


def render(photo: str, width_px: int, form: str, quality: int) -> bytes:
    """Decode, scale and encode an upright JPEG without alpha."""
    import pyvips  # noqa: PLC0415 - libvips reads VIPS_CONCURRENCY as it loads

    from imgproxy.params.plan import ColourSpace, Format, Output  # noqa: PLC0415
    from imgproxy.render.colour import convert  # noqa: PLC0415
    from imgproxy.render.encoders import Encoding, encode  # noqa: PLC0415
    from imgproxy.render.source import jpeg_shrink  # noqa: PLC0415

    factor = pyvips.Image.jpegload(photo).width / width_px
    shrink = jpeg_shrink(factor)
    image = pyvips.Image.jpegload(photo, shrink=shrink, access="sequential", fail_on="truncated")
    image = image.resize(shrink / factor)
    coloured = convert(image, ColourSpace.SRGB)
    image = coloured.image.copy()
    keep = 0
    if coloured.profile is not None:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", coloured.profile)
        keep = 8
    return encode(image, Encoding(Format(form)), Output(format=Format(form), quality=quality), keep=keep)


class Workers:
    """Bare loops in processes, as many as the product has render processes."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        environment = {**os.environ, "VIPS_CONCURRENCY": "1", "MALLOC_ARENA_MAX": "2"}
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.bare"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for _ in range(self.count)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)

    @property
    def pids(self) -> list[int]:
        """Return the process ids of the loops."""
        return [process.pid for process in self._processes]

    def run(  # noqa: PLR0917 - the words of a line
        self, photo: Path, width_px: int, form: str, quality: int, count: int, folder: Path | None = None
    ) -> tuple[float, float]:
        """
        Make `count` renders, evenly on all loops. Return the seconds that it took, and the CPU seconds per render.

        With a `folder` each render is of a new file there. The files stay: the kernel would use the memory of a removed
        file for the next one, which is cheaper.
        """
        each = max(1, round(count / self.count))
        started_at = time.monotonic()
        for process in self._processes:
            assert process.stdin is not None
            print(f"{photo} {width_px} {form} {quality} {each} {folder or ''}", file=process.stdin, flush=True)
        used_s = 0.0
        for process in self._processes:
            assert process.stdout is not None
            used_s += float(process.stdout.readline().split()[1])
        return (time.monotonic() - started_at) * count / (each * self.count), used_s / (each * self.count)


def main(lines: Sequence[str]) -> None:
    """Render for each line until the input ends."""
    from imgproxy.render import vips  # noqa: PLC0415 - as above

    os.nice(10)
    vips.prepare()
    written = 0
    for line in lines:
        photo, width_px, form, quality, count, *folder = line.split()
        data = Path(photo).read_bytes()
        started_at, used_s = time.monotonic(), time.process_time()
        for _ in range(int(count)):
            if folder:
                written += 1
                photo = f"{folder[0]}/{os.getpid()}-{written}"
                Path(photo).write_bytes(data)
            render(photo, int(width_px), form, int(quality))
        print(time.monotonic() - started_at, time.process_time() - used_s, flush=True)


if __name__ == "__main__":
    main(sys.stdin)  # type: ignore[arg-type]
