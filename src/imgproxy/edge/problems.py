"""Errors as problem details (RFC 9457): one JSON shape, stable types; never a token, a path or a traceback."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

from aiohttp import web

from imgproxy.edge.errors import MethodNotAllowed
from imgproxy.edge.headers import public_headers
from imgproxy.errors import (
    BadParameter,
    BadUrl,
    Expired,
    ImageRefused,
    ImgproxyError,
    NotFound,
    Overloaded,
    RenderCrashed,
    RenderTimeout,
    Revoked,
    Unauthorized,
    UriTooLong,
)

if TYPE_CHECKING:
    from imgproxy.config.sections import FreshnessSettings
    from imgproxy.config.settings import Settings

TYPE_PREFIX = "urn:imgproxy:problem:"
# The cause is in the URL or in the original: the same request would get the same answer again.
_CACHEABLE = (BadParameter, BadUrl, Expired, ImageRefused, UriTooLong)
# The cause may be in the machine: a process was killed, or the machine was busy.
_DOUBTFUL = (RenderCrashed, RenderTimeout)
# Clients that are given the same second would return in the same second.
RETRY_JITTER = 0.5


def problem_response(
    error: ImgproxyError, settings: Settings, *, negative_ttl_s: int | None = None, is_head: bool = False
) -> web.Response:
    """
    Return the answer for an error.

    Args:
        error: the error.
        settings: how long errors may be cached, and by which pages read.
        negative_ttl_s: for how long a remembered refusal still answers. The answer may be kept no longer.
        is_head: leave out the body.
    """
    kind = error.code.replace("_", "-")
    body = {"type": TYPE_PREFIX + kind, "title": error.title, "status": error.status, "detail": error.public}
    headers = {
        "Cache-Control": _cache_control(error, settings.freshness, negative_ttl_s),
        **public_headers(settings.browser),
    }
    if error.retry_after_s is not None:
        wait_s = error.retry_after_s
        if isinstance(error, Overloaded):
            wait_s = jittered_s(wait_s)
        headers["Retry-After"] = str(wait_s)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="imgproxy"'
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.allowed
    text = json.dumps(body, ensure_ascii=False).encode() + b"\n"
    response = web.Response(
        status=error.status,
        body=None if is_head else text,
        headers=headers,
        content_type="application/problem+json",
    )
    if is_head:
        response.headers["Content-Length"] = str(len(text))
    return response


def jittered_s(wait_s: int) -> int:
    """Return a Retry-After of at least this many seconds, with jitter."""
    return wait_s + round(random.uniform(0, RETRY_JITTER) * max(wait_s, 2))


def _cache_control(error: ImgproxyError, freshness: FreshnessSettings, negative_ttl_s: int | None) -> str:
    if isinstance(error, Revoked | NotFound):
        ttl_s = int(freshness.negative_ttl_s) if negative_ttl_s is None else negative_ttl_s
        return f"public, max-age={ttl_s}" if ttl_s > 0 else "no-store"
    if isinstance(error, _CACHEABLE) and not isinstance(error, _DOUBTFUL) and freshness.error_ttl_s > 0:
        return f"public, max-age={freshness.error_ttl_s}"
    return "no-store"
