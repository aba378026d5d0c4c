"""
The line of a request in the access log: its fields, each declared once, and how it is written.

All of it runs in the thread that writes the log. docs/logs.md is written from the declaration.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

SHORT_PATH_MAX_CHARS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLine:
    """The fields of a line, in their order. A field that is None is not written."""

    method: Annotated[str, "the method of the request"]
    target: Annotated[str, "path and query as they came. The values of `s` and of secret parameters are `REDACTED`"]
    status: Annotated[int, "the status of the answer; 499: the client left before its answer began"]
    outcome: Annotated[
        str,
        "how it was answered: `hit`, `stale` (and revalidated behind the answer), `revalidated`, `miss`, `pass` (an "
        "original, a page or an admin request), `error`",
    ]
    tier: Annotated[
        str | None, "where the answer of a picture came from: `memory`, `disk`, `shared` (the shared store), `origin`"
    ] = None
    ms: Annotated[
        float | None,
        "milliseconds from the head of the request until the kernel had the answer. Hits of the fast path have none: "
        "they take some tens of microseconds",
    ] = None
    fetch_ms: Annotated[float | None, "of these, the fetch of originals from the Media Library"] = None
    store_ms: Annotated[float | None, "of these, the read from the shared store"] = None
    queue_ms: Annotated[float | None, "of these, the wait for a render process"] = None
    render_ms: Annotated[float | None, "of these, the render"] = None
    collapsed: Annotated[bool | None, "true if it waited for the work of another request for the same picture"] = None
    bytes: Annotated[int, "bytes of the body that were sent"]
    format: Annotated[str | None, "the format of the picture: `webp`, `avif`, `jpeg`"] = None
    host: Annotated[str | None, "the `Host` of the request"] = None
    client: Annotated[
        str | None,
        "the address of the client: of the connection, or behind `[server] trusted_proxies` that which they report",
    ] = None
    user_agent: Annotated[str | None, "the `User-Agent`, at most 256 characters"] = None
    referer: Annotated[str | None, "the page, with secrets redacted as in `target`, at most 512 characters"] = None
    request_id: Annotated[
        str,
        "the `X-Request-Id` of the request, or the trace id of its `traceparent`, or one made here; also in the answer",
    ]
    trace_id: Annotated[str | None, "the trace that the request belongs to"] = None
    span_id: Annotated[str | None, "the span of this request in the trace, if it is sampled"] = None
    code: Annotated[str | None, "of an error: its [type](problems.md), with underscores"] = None
    cause: Annotated[str | None, "of an error of the origin: why it gave no answer"] = None

    @property
    def message(self) -> str:
        """What a list of lines shows: method, path without its query, status."""
        return f"{self.method} {_short(self.target)} {self.status}"

    def facts(self) -> dict[str, object]:
        """Return the fields that have a value, in their order."""
        return {name: value for name in NAMES if (value := getattr(self, name)) is not None}

    def text(self, width: int | None) -> str:
        """Return the line for people, without time and level; at most `width` characters of ASCII if it is given."""
        size = f" {_size(self.bytes)}" if self.bytes else ""
        parts = [f"{self.status} {self.outcome}"]
        parts += [word for word in (self.tier, self.format) if word is not None]
        stages = {"": self.ms, "fetch ": self.fetch_ms, "store ": self.store_ms}
        stages |= {"queue ": self.queue_ms, "render ": self.render_ms}
        parts += [f"{name}{ms:.0f} ms" for name, ms in stages.items() if ms is not None]
        why = "".join(f" {word}" for word in (self.code, self.cause) if word is not None)
        line = f"{' '.join(parts)}{size}{why} {self.method} {self.target}"
        if width is None:
            line += "".join(f"  {name}={value}" for name, value in self.facts().items() if name in _OF_THE_CLIENT)
        # A URL or a user agent must not send commands to a terminal, and has one column for each character.
        if not (line.isascii() and line.isprintable()):
            line = ascii(line)[1:-1]
        return line if width is None or len(line) <= width else line[: max(0, width - 3)] + "..."


NAMES = tuple(field.name for field in fields(AccessLine))
_OF_THE_CLIENT = frozenset({"host", "client", "user_agent", "referer", "request_id", "trace_id"})


def _short(target: str) -> str:
    path = target.partition("?")[0]
    return path if len(path) <= SHORT_PATH_MAX_CHARS else path[: SHORT_PATH_MAX_CHARS - 3] + "..."


def _size(size_bytes: int) -> str:
    if size_bytes < 1000:
        return f"{size_bytes} B"
    return f"{size_bytes / 1000:.1f} kB" if size_bytes < 1_000_000 else f"{size_bytes / 1e6:.1f} MB"
