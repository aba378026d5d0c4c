"""
Jobs and reports: the values that the edge and a render process send each other. `channel` sends them.

They have paths, plans and facts, never pixels or encoded bytes.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from imgproxy.params.plan import RenderPlan
    from imgproxy.workers.faces import Face


class Lane(StrEnum):
    """Who waits for a job. Lanes are served in this order, and only VISITOR may use all processes at once."""

    VISITOR = "visitor"
    ANIMATION = "animation"
    BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class RenderTarget:
    """
    One variant to make. `path` is a temporary name beside the final one; the file does not exist yet.

    `faces` are those of the original, the largest first, if the plan needs them.
    """

    plan: RenderPlan
    path: str
    faces: tuple[Face, ...] = ()


@dataclass(frozen=True, slots=True)
class MarkFile:
    """The file of a watermark. `source` is `Mark.source` of the plans that use it."""

    source: str
    path: str


@dataclass(frozen=True, slots=True)
class RenderJob:
    """Variants of one original, made in one render process from as few decodes as their plans allow."""

    original: str
    targets: tuple[RenderTarget, ...]
    marks: tuple[MarkFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Rendered:
    """
    A variant in its file.

    `digest` is the digest of its bytes. `is_first_frame_only`: the original is animated, and a limit or the format
    reduced it to one frame. `is_mark_missing`: the plan's watermark could not be painted. `shared_decode` is set if the
    variant shared a decode with larger ones, and so has other bytes than one made alone. It names the decode:
    "<width in px>-<how often halved>". The source's size is the upright one; `orientation` is that of its EXIF.
    """

    path: str
    content_type: str
    size_bytes: int
    digest: str
    width_px: int
    height_px: int
    frames: int = 1
    is_first_frame_only: bool = False
    is_mark_missing: bool = False
    shared_decode: str = ""
    source_width_px: int = 0
    source_height_px: int = 0
    orientation: int = 1


@dataclass(frozen=True, slots=True)
class RenderReport:
    """
    A finished job. `rendered` is in the order of the job's targets.

    `render_s` is all of it, in seconds: libvips decodes while it encodes, so the two cannot be separated.
    """

    rendered: tuple[Rendered, ...]
    render_s: float


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """
    The settings that a render process needs. Bytes of memory; pixels; frames; CPU seconds.

    An SVG is opened and drawn within `drawing()`. A render process puts its watchdog there. `warns_of_fonts`: this
    process warns if there are no fonts. `face_model` is the file of the detector's model; empty without a detector.
    """

    memory_bytes: int
    source_pixels: int
    frames: int
    output_px: int
    allow_truncated: bool = False
    drawing_cpu_s: float = 1.0
    warns_of_fonts: bool = False
    drawing: Callable[[], AbstractContextManager[None]] = nullcontext
    face_model: str = ""
