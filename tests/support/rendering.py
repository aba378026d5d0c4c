"""Render plans in this process, without a pool: for tests that look at pixels."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgproxy.params.plan import Format, Output, RenderPlan
from imgproxy.render import pipeline, vips
from imgproxy.workers.job import MarkFile, ProcessLimits, Rendered, RenderJob, RenderTarget
from tests.support.images import decode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imgproxy.workers.faces import Face

LIMITS = ProcessLimits(memory_bytes=1_500_000_000, source_pixels=128_000_000, frames=256, output_px=8192)
PNG = Output(format=Format.PNG)

vips.prepare()


@dataclass(frozen=True, slots=True)
class Result:
    """A rendered variant and its bytes."""

    rendered: Rendered
    data: bytes

    @property
    def pixels(self) -> NDArray[Any]:
        """Its pixels, by Pillow."""
        return decode(self.data)


def render_all(
    original: bytes,
    *plans: RenderPlan,
    marks: dict[str, bytes] | None = None,
    limits: ProcessLimits = LIMITS,
    faces: tuple[Face, ...] = (),
) -> list[Result]:
    """Make variants of an original in one job."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "original").write_bytes(original)
        files = []
        for number, (source, data) in enumerate((marks or {}).items()):
            files.append(MarkFile(source, str(folder / f"mark{number}")))
            Path(files[-1].path).write_bytes(data)
        targets = tuple(RenderTarget(plan, str(folder / f"{number}.tmp"), faces) for number, plan in enumerate(plans))
        done: dict[int, Rendered] = {}
        pipeline.run(RenderJob(str(folder / "original"), targets, tuple(files)), limits, done.__setitem__)
        return [Result(done[n], Path(done[n].path).read_bytes()) for n in range(len(plans))]


def render(
    original: bytes,
    plan: RenderPlan,
    *,
    marks: dict[str, bytes] | None = None,
    limits: ProcessLimits = LIMITS,
    faces: tuple[Face, ...] = (),
) -> Result:
    """Make one variant of an original."""
    return render_all(original, plan, marks=marks, limits=limits, faces=faces)[0]


def as_png(plan: RenderPlan) -> RenderPlan:
    """The same plan with a lossless result, so that only its pixels are compared."""
    return replace(plan, output=PNG)
