"""
What crosses the border between the edge and a render process: a job in, a report out.

Only paths, plans and facts cross; pixels and encoded bytes never do. The way in is pickled (the edge is trusted by
its own children); the way out is JSON of known shape, because a render process decodes foreign bytes and may, one
day, be run by them. See `channel`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from imgproxy.params.plan import RenderPlan


class Lane(StrEnum):
    """
    Who waits for a job. Lanes are served in this order, and only VISITOR may hold every process at once.

    STAND_IN is for visitors, too: what is already there, brought to the size asked for while the queue is full. Where
    visitors wait for a picture of their own, animated or not, it has no more than every second turn.
    """

    STAND_IN = "stand_in"
    VISITOR = "visitor"
    ANIMATION = "animation"
    BACKGROUND = "background"


class Lent(Protocol):
    """What must stay as it is while somebody reads it."""

    def borrow(self) -> None:
        """Use it, until it is given back as often."""

    def give_back(self) -> None:
        """Use it no longer."""


@dataclass(frozen=True, slots=True)
class RenderTarget:
    """One variant to make. `path` is written, not renamed: a temporary name beside the final one, of no file yet."""

    plan: RenderPlan
    path: str


@dataclass(frozen=True, slots=True)
class MarkFile:
    """Where the picture of a watermark lies. `source` is `Mark.source` of the plans that use it."""

    source: str
    path: str


@dataclass(frozen=True, slots=True)
class RenderJob:
    """
    Variants of one original, made in one render process from as few decodes as their plans allow.

    `original_bytes` is the size of the original, by which the edge guesses at the cost, and `name` what it is known by
    from one job to the next, as its place may be another's by then; `lent` is where it lies, where that is only lent:
    the process that reads it borrows it. None of these crosses.
    """

    original: str
    targets: tuple[RenderTarget, ...]
    marks: tuple[MarkFile, ...] = ()
    original_bytes: int = 0
    name: str = ""
    lent: Lent | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """
    A variant as it lies in its file.

    `digest` is that of its bytes (imgproxy.digest). `is_first_frame_only` says that the source is animated and a limit
    reduced it to its first frame. `is_mark_missing` says that the plan wanted a watermark which could not be painted.
    `shared_decode` names the decode that it shared with larger ones, "<width in px>-<how often halved for this one>",
    where its pixels are not to the last bit those of a decode of its own; it is empty for the bytes that it has alone.
    """

    path: str
    content_type: str
    size_bytes: int
    digest: str
    width_px: int
    height_px: int
    frames: int = 1
    has_alpha: bool = False
    is_first_frame_only: bool = False
    is_mark_missing: bool = False
    shared_decode: str = ""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """The original as its header describes it: stored (not upright) size, frames, EXIF orientation 1-8."""

    content_type: str
    width_px: int
    height_px: int
    frames: int = 1
    orientation: int = 1
    has_alpha: bool = False


@dataclass(frozen=True, slots=True)
class RenderReport:
    """
    A finished job. `rendered` is in the order of the job's targets.

    `queue_s` is the wait for a process, `open_s` the header and its checks, `render_s` everything after (libvips
    decodes while it encodes, so the two cannot be told apart). `peak_bytes` is the process's largest resident size.
    """

    rendered: tuple[Rendered, ...]
    source: SourceFacts
    queue_s: float
    open_s: float
    render_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """What a render process must know of the settings. Bytes of memory; pixels; frames."""

    memory_bytes: int
    source_pixels: int
    frames: int
    output_px: int
    allow_truncated: bool = False
