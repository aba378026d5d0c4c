"""
Request ids: the word under which a request is found in the logs of every service on its way.

It is the client's `X-Request-Id`, else the trace id of its `traceparent` (W3C Trace Context), else one made here. The
answer has it as `X-Request-Id`.
"""

from __future__ import annotations

import re
import secrets
from itertools import count
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER: Final = "X-Request-Id"
# The id of a request that aiohttp handles.
REQUEST_ID: Final = web.RequestKey("request_id", str)
# What ids of others may look like. They go into logs and into the head of an answer, so nothing else is taken over.
_SAFE: Final = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header: version, trace id, parent id, flags. A later version may
# have more after these. Version ff, and ids of zeros, are not valid.
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


class RequestIds:
    """Makes ids: a random part for each process, and a number."""

    def __init__(self) -> None:
        self._start = secrets.token_hex(6)
        self._next = count(1).__next__

    def of(self, headers: Mapping[str, str]) -> str:
        """Return the id of a request with these headers."""
        given = headers.get(HEADER)
        if given is not None and _SAFE.fullmatch(given):
            return given
        return trace_id_of(headers) or f"{self._start}{self._next():08x}"


def head_line(request_id: str) -> bytes:
    """Return the line of an answer's head that has the id."""
    return f"{HEADER}: {request_id}\r\n".encode()


def trace_id_of(headers: Mapping[str, str]) -> str | None:
    """Return the trace id that a client has sent: 32 hexadecimal digits. None without a valid one."""
    given = headers.get("traceparent")
    found = _TRACEPARENT.fullmatch(given) if given is not None else None
    return found[1] if found is not None else None
