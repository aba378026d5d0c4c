"""
The words exchanged with a render process, and how they are framed.

A frame is four bytes of length, big endian, then the payload. Towards the process the payload is a pickle. From it
comes JSON only, bounded in size and checked field by field, so that a process which was taken over through a decoder
cannot run code in the edge, grow its memory, or put a header of its choice into an answer.

    edge -> process    ProcessLimits, once; then a RenderJob at a time
    process -> edge    lists of messages: {"ready": …} once; for a job {"done": i, …} a target, then {"report": …} or
                       {"error": …}. The last target's comes in one list with what follows it.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from imgproxy import errors
from imgproxy.workers.job import MarkFile, Rendered, RenderJob, RenderTarget, SourceFacts

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from imgproxy.params.plan import RenderPlan

LENGTH: Final = struct.Struct("!I")

# A message holds the facts of one variant or an error: far below this.
MESSAGE_MAX_BYTES: Final = 64 * 1024

# Exit statuses of a render process that ends itself. Any other end is a crash.
EXIT_PARENT_GONE: Final = 0
EXIT_OUT_OF_MEMORY: Final = 87

CONTENT_TYPES: Final = frozenset(
    {
        "image/jpeg",
        "image/png",
        "image/webp",
        "image/avif",
        "image/heic",
        "image/gif",
        "image/tiff",
        "image/svg+xml",
        "application/json",
        "text/plain; charset=utf-8",
        "text/css; charset=utf-8",
    }
)

# What words a render process may say, by the field they stand in.
_WORDS: Final[dict[str, Callable[[str], object]]] = {
    "content_type": CONTENT_TYPES.__contains__,
    "digest": re.compile("[0-9a-f]{32}").fullmatch,
    "shared_decode": re.compile(r"([0-9]{1,5}-[0-9]{1,2})?").fullmatch,
}

# A site asks for the same few plans of every picture.
PLANS_REMEMBERED: Final = 512

# The errors a render process may report. Timeouts and crashes are seen from outside.
REPORTED: Final = {
    error.code: error
    for error in (
        errors.NotAnImage,
        errors.DecodeFailed,
        errors.TooManyPixels,
        errors.RenderOutOfMemory,
        errors.BadParameter,
        errors.CacheUnavailable,
    )
}


class BadMessageError(Exception):
    """A render process said something that it never should: it is ended."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A process has loaded libvips and waits for a job."""

    libvips_version: str


@dataclass(frozen=True, slots=True)
class Done:
    """Target number `index` lies in its file."""

    index: int
    rendered: Rendered


@dataclass(frozen=True, slots=True)
class Finished:
    """The whole job is done; sizes in bytes, times in seconds."""

    source: SourceFacts
    open_s: float
    render_s: float
    peak_bytes: int
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended with one of the REPORTED errors."""

    error: errors.ImgproxyError
    resident_bytes: int


Message = Ready | Done | Finished | Failed

_FIGURES: Final = tuple(field.name for field in fields(Finished) if field.name != "source")


def _kinds(facts: type[Rendered | SourceFacts]) -> dict[str, type]:
    """What is said of a file, each of the one kind that its name tells: words, a yes or no, or a number."""
    names = [field.name for field in fields(facts) if field.name != "path"]  # where it lies is known to the edge
    return {name: str if name in _WORDS else bool if name.startswith(("is_", "has_")) else int for name in names}


_RENDERED: Final = _kinds(Rendered)
_SOURCE: Final = _kinds(SourceFacts)
_read_json: Final = json.JSONDecoder().raw_decode  # `json.loads` looks for blanks and byte order marks first


def frame(payload: bytes) -> bytes:
    """Prefix a payload with its length."""
    return LENGTH.pack(len(payload)) + payload


def receive(channel: socket.socket) -> bytes | None:
    """Read one frame, blocking; None when the other side has closed. Used inside a render process."""
    head = _receive_exactly(channel, LENGTH.size)
    if head is None:
        return None
    return _receive_exactly(channel, LENGTH.unpack(head)[0])


def _receive_exactly(channel: socket.socket, size_bytes: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size_bytes:
        part = channel.recv(size_bytes - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


def pack_job(job: RenderJob) -> bytes:
    """
    Write a job for a render process.

    A plan is a tree of a dozen dataclasses, an eighth of a millisecond to pickle and as much to read; so each is
    pickled by itself, and remembered on both sides.
    """
    targets = [(_packed_plan(target.plan), target.path) for target in job.targets]
    marks = [(mark.source, mark.path) for mark in job.marks]
    return pickle.dumps((job.original, targets, marks))


def unpack_job(payload: bytes) -> RenderJob:
    """Read a job. Inside a render process alone: its words come from the edge that started it."""
    original, targets, marks = pickle.loads(payload)  # noqa: S301 - as above
    return RenderJob(
        original,
        tuple(RenderTarget(_unpacked_plan(plan), path) for plan, path in targets),
        tuple(MarkFile(source, path) for source, path in marks),
    )


@lru_cache(PLANS_REMEMBERED)
def _packed_plan(plan: RenderPlan) -> bytes:
    return pickle.dumps(plan)


@lru_cache(PLANS_REMEMBERED)
def _unpacked_plan(payload: bytes) -> RenderPlan:
    plan: RenderPlan = pickle.loads(payload)  # noqa: S301 - as above
    return plan


def encode(*messages: Message) -> bytes:
    """Write messages as JSON. The path of a variant stays behind: the edge knows it."""
    return f"[{', '.join([_written(message) for message in messages])}]".encode()


def _written(message: Message) -> str:
    if isinstance(message, Done):
        return f'{{"done": {message.index}, "rendered": {{{_members(message.rendered, _RENDERED)}}}}}'
    if isinstance(message, Finished):
        source = _members(message.source, _SOURCE)
        return f'{{"report": {{{_members(message, _FIGURES)}, "source": {{{source}}}}}}}'
    if isinstance(message, Ready):
        return json.dumps({"ready": asdict(message)})
    found = {"error": message.error.code, "facts": message.error.facts(), "resident_bytes": message.resident_bytes}
    return json.dumps(found)


def _members(facts: Rendered | SourceFacts | Finished, names: Iterable[str]) -> str:
    """
    Numbers, yes or no, and words of ours that need no escape, as the members of a JSON object.

    By hand: `json.dumps` takes 80 us more where the pixels of a render have just gone through the caches.
    """
    return ", ".join([f'"{name}": {_literal(getattr(facts, name))}' for name in names])


def _literal(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else repr(value)


def decode(payload: bytes, targets: tuple[RenderTarget, ...]) -> list[Message]:
    """
    Read messages about a job with these targets.

    Raises BadMessageError for anything that a sound render process would not send.
    """
    try:
        return [_decode(found, targets) for found in _list(payload.decode())]
    except BadMessageError:
        raise
    except Exception as exc:
        raise BadMessageError("malformed") from exc


def _list(text: str) -> list[Any]:
    found, end = _read_json(text)
    if end != len(text) or not isinstance(found, list) or not found:
        raise BadMessageError("no list of messages")
    return found


def _decode(found: dict[str, Any], targets: tuple[RenderTarget, ...]) -> Message:
    if "ready" in found:
        return Ready(libvips_version=str(found["ready"]["libvips_version"])[:32])
    if "done" in found:
        index = _natural(found["done"])
        return Done(index, _rendered(found["rendered"], targets[index].path))
    if "report" in found:
        report = found["report"]
        return Finished(
            source=_source(report["source"]),
            open_s=float(report["open_s"]),
            render_s=float(report["render_s"]),
            peak_bytes=_natural(report["peak_bytes"]),
            resident_bytes=_natural(report["resident_bytes"]),
        )
    error = REPORTED[found["error"]](**found["facts"])
    return Failed(error, _natural(found["resident_bytes"]))


def _rendered(found: dict[str, Any], path: str) -> Rendered:
    return Rendered(path=path, **_checked(_RENDERED, found))


def _source(found: dict[str, Any]) -> SourceFacts:
    return SourceFacts(**_checked(_SOURCE, found))


def _checked(kinds: dict[str, type], found: dict[str, Any]) -> dict[str, Any]:
    """Fields that have these names and are of these kinds: words of their own form, no number below 0."""
    for name, value in found.items():
        if kinds.get(name) is not type(value):
            raise BadMessageError("an unknown field, or one of another kind")
        if (type(value) is str and not _WORDS[name](value)) or (type(value) is int and value < 0):
            raise BadMessageError("a word or a number that is none of ours")
    return found


def _natural(value: object) -> int:
    if type(value) is not int or value < 0:
        raise BadMessageError("a number that is none")
    return value
