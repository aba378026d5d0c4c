"""
The messages between the edge and a render process, and their frames.

A frame is four bytes of length, big endian, then the payload. To the process the payload is a pickle, because the
process trusts the edge. From the process it is JSON, limited in size and checked field by field. A bug of a decoder may
let a picture take over the process. Such a process cannot run code in the edge, fill its memory, or put a header into a
response.

    edge -> process    ProcessLimits, once; then RenderJob, one at a time
    process -> edge    lists of messages: {"ready": …} once; for each job {"done": i, …} for each target, then
                       {"report": …} or {"error": …}. The last "done" comes in one list with the message after it.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from imgproxy import errors
from imgproxy.workers.job import Rendered

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from imgproxy.workers.job import RenderTarget

LENGTH: Final = struct.Struct("!I")

# A message has the facts of one variant, or an error. Both are much shorter.
MESSAGE_MAX_BYTES: Final = 64 * 1024

# Exit statuses of a render process that ends itself. Every other status is a crash.
EXIT_PARENT_GONE: Final = 0
EXIT_OUT_OF_MEMORY: Final = 87
EXIT_TOO_SLOW: Final = 88

CONTENT_TYPES: Final = frozenset(
    {
        "image/jpeg",
        "image/png",
        "image/webp",
        "image/avif",
        "image/heic",
        "image/gif",
        "image/tiff",
        "image/bmp",
        "image/svg+xml",
        "application/json",
        "text/plain; charset=utf-8",
        "text/css; charset=utf-8",
    }
)

# The text fields of a message, and which texts they may have.
_TEXTS: Final[dict[str, Callable[[str], object]]] = {
    "content_type": CONTENT_TYPES.__contains__,
    "digest": re.compile("[0-9a-f]{32}").fullmatch,
    "shared_decode": re.compile(r"([0-9]{1,5}-[0-9]{1,2})?").fullmatch,
}

# The errors that a render process may report. The edge notices other timeouts, and crashes, by itself. RenderCrashed
# stands for an exception that nobody foresaw: the process goes on.
REPORTED: Final = {
    error.code: error
    for error in (
        errors.NotAnImage,
        errors.HeicNotInstalled,
        errors.DecodeFailed,
        errors.ColoursNotSupported,
        errors.TooManyPixels,
        errors.DrawingTooComplex,
        errors.FacesUnavailable,
        errors.RenderOutOfMemory,
        errors.RenderTimeout,
        errors.RenderCrashed,
        errors.BadParameter,
        errors.CacheUnavailable,
    )
}


class BadMessageError(Exception):
    """A render process sent an invalid message. The process is ended."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The process has loaded libvips and waits for a job."""

    libvips_version: str


@dataclass(frozen=True, slots=True)
class Done:
    """The file of render target number `index` is complete."""

    index: int
    rendered: Rendered


@dataclass(frozen=True, slots=True)
class Finished:
    """The whole job is done. `render_s`: in seconds. `peak_bytes`: the largest resident size of the process so far."""

    render_s: float
    peak_bytes: int
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended with one of the REPORTED errors."""

    error: errors.ImgproxyError
    resident_bytes: int


Message = Ready | Done | Finished | Failed


# The type of each field of Rendered that crosses: text, bool or a number. `path` does not: the edge knows it.
_RENDERED: Final = {
    field.name: str if field.name in _TEXTS else bool if field.name.startswith("is_") else int
    for field in fields(Rendered)
    if field.name != "path"
}


def frame(payload: bytes) -> bytes:
    """Put the length before a payload."""
    return LENGTH.pack(len(payload)) + payload


def receive(channel: socket.socket) -> bytes | None:
    """Read one frame, blocking; None if the other side has closed. For the render process."""
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


def encode(*messages: Message) -> bytes:
    """Write messages as JSON."""
    return json.dumps([_describe(message) for message in messages]).encode()


def _describe(message: Message) -> dict[str, Any]:
    if isinstance(message, Done):
        rendered = asdict(message.rendered)
        del rendered["path"]
        return {"done": message.index, "rendered": rendered}
    if isinstance(message, Failed):
        error = message.error
        return {"error": error.code, "facts": error.facts(), "resident_bytes": message.resident_bytes}
    return {"ready" if isinstance(message, Ready) else "report": asdict(message)}


def decode(payload: bytes, targets: tuple[RenderTarget, ...]) -> list[Message]:
    """
    Read messages about a job with these targets.

    Raises BadMessageError for everything else.
    """
    try:
        messages = [_decode(message, targets) for message in json.loads(payload)]
    except BadMessageError:
        raise
    except Exception as exc:
        raise BadMessageError("malformed") from exc
    if not messages:
        raise BadMessageError("no message")
    return messages


def _decode(found: dict[str, Any], targets: tuple[RenderTarget, ...]) -> Message:
    if "ready" in found:
        return Ready(libvips_version=str(found["ready"]["libvips_version"])[:32])
    if "done" in found:
        index = _check_natural(found["done"])
        return Done(index, Rendered(path=targets[index].path, **_check_rendered(found["rendered"])))
    if "report" in found:
        report = found["report"]
        return Finished(
            render_s=float(report["render_s"]),
            peak_bytes=_check_natural(report["peak_bytes"]),
            resident_bytes=_check_natural(report["resident_bytes"]),
        )
    error = REPORTED[found["error"]](**found["facts"])
    return Failed(error, _check_natural(found["resident_bytes"]))


def _check_rendered(found: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a Rendered if their names, types and values are valid."""
    for name, value in found.items():
        if _RENDERED.get(name) is not type(value):
            raise BadMessageError("an unknown field, or one of another type")
        if (type(value) is str and not _TEXTS[name](value)) or (type(value) is int and value < 0):
            raise BadMessageError("an invalid text, or a negative number")
    return found


def _check_natural(value: object) -> int:
    if type(value) is not int or value < 0:
        raise BadMessageError("not a natural number")
    return value
