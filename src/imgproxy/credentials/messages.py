"""
What the edge asks the builder of manifests, and what it answers. `manifests.builder` is the other side.

A frame is four bytes of length, big endian, then JSON. The builder reads foreign manifests, so what it sends is limited
in size and checked field by field.

    edge -> builder    BuilderSettings, once; then Job, one at a time
    builder -> edge    {"ready": true}, once; for each job {"sign": base64}, as often as it needs a signature, then
                       {"made": …} or {"failed": reason, "detail": text}
    edge -> builder    {"signature": base64} or {"signature": null}
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

# What is signed has the length of a claim, a few kB. The summary of a manifest is limited by the builder.
MESSAGE_MAX_BYTES: Final = 1_000_000
DETAIL_MAX_CHARS: Final = 300
_DIGEST: Final = re.compile("[0-9a-f]{32}")


class Task(StrEnum):
    """What a job makes."""

    EMBED = "embed"  # the variant with a manifest in it; with a link where that is longer than the limit
    LINK = "link"  # the variant with the URL of its manifest in its XMP; nothing is signed
    MANIFEST = "manifest"  # the manifest of a variant, as a file of its own
    DESCRIBE = "describe"  # the JSON of an original, with a summary of its manifests
    TRY = "try"  # a picture of the builder's own, with a manifest that it reads again


class Kind(StrEnum):
    """What a job has made."""

    EMBEDDED = "embedded"
    LINKED = "linked"
    MANIFEST = "manifest"
    DESCRIBED = "described"
    TRIED = "tried"


class Reason(StrEnum):
    """Why a job has failed."""

    UNREADABLE = "unreadable"  # the original's manifest cannot be read
    SIGNATURE = "signature"  # the signer or the timestamp authority failed
    TIMEOUT = "timeout"
    CRASHED = "crashed"  # the builder ended, or sent what is no answer
    BUILD = "build"  # the manifest could not be put into the variant


class BadAnswerError(Exception):
    """The builder sent an invalid message. It is ended."""


@dataclass(frozen=True, slots=True)
class BuilderSettings:
    """What the builder needs once. Texts are PEM; an empty text is a setting that is not there."""

    chain: str
    algorithm: str
    timestamp_url: str
    claim_generator: str
    version: str
    trust_anchors: str


@dataclass(frozen=True, slots=True)
class Job:
    """
    One job. `original` and `variant` are files; of the variant the first `variant_bytes` bytes count.

    `out` is the file to write. `actions` is a list of the specification's actions, without c2pa.opened. `link` is the
    URL of the manifest. `max_bytes`: a longer manifest is not embedded.
    """

    task: Task
    title: str
    original: str
    original_digest: str
    original_type: str
    variant: str
    variant_bytes: int
    variant_type: str
    out: str
    actions: tuple[dict[str, Any], ...] = ()
    link: str = ""
    max_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """A finished job: what is in its file, the file's length and digest, and how much of it is manifest."""

    kind: Kind
    size_bytes: int
    digest: str
    manifest_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that failed. `detail` is for the log, never for a client."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ToSign:
    """The builder needs the signature of these bytes before it goes on."""

    data: str  # base64


Answer = Result | Failure | ToSign


def encode(message: BuilderSettings | Job) -> bytes:
    """Write a message for the builder."""
    return json.dumps(asdict(message)).encode()


def decode(payload: bytes) -> Answer:
    """
    Read an answer of the builder.

    Raises BadAnswerError for everything else.
    """
    try:
        found = json.loads(payload)
        if "sign" in found:
            return ToSign(_text(found["sign"]))
        if "failed" in found:
            return Failure(Reason(found["failed"]), _text(found["detail"])[:DETAIL_MAX_CHARS])
        made = found["made"]
        kind, digest = Kind(made["kind"]), _digest(made["digest"])
        return Result(kind, _natural(made["size_bytes"]), digest, _natural(made["manifest_bytes"]))
    except BadAnswerError:
        raise
    except Exception as exc:
        raise BadAnswerError("malformed") from exc


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BadAnswerError("not a text")
    return value


def _digest(value: object) -> str:
    if not _DIGEST.fullmatch(_text(value)):
        raise BadAnswerError("not a digest")
    return _text(value)


def _natural(value: object) -> int:
    if type(value) is not int or value < 0:
        raise BadAnswerError("not a natural number")
    return value
