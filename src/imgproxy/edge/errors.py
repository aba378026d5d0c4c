"""Errors of HTTP itself, which only the edge raises: requests that it cannot read, and limits of its connections."""

from __future__ import annotations

from dataclasses import dataclass

from imgproxy.errors import ImgproxyError


class Unsupported(ImgproxyError, status=501, code="not_implemented", title="Not implemented"):
    """A method or a transfer coding that this service does not know (RFC 9110 15.6.2, RFC 9112 6.1)."""

    text = "Expected one of the methods GET, HEAD and OPTIONS, and no Transfer-Encoding but `chunked`."


class VersionNotSupported(ImgproxyError, status=505, code="version_not_supported", title="HTTP version not supported"):
    """The request is of another version of HTTP."""

    text = "Expected HTTP/1.1 or HTTP/1.0."


class NotHttp(ImgproxyError, status=400, code="not_http", title="Not a request"):
    """The bytes are not an HTTP request: a broken head, another protocol."""

    text = "This request cannot be read: expected an HTTP method, a path, and HTTP/1.1."


class HeadersTooLarge(ImgproxyError, status=431, code="headers_too_large", title="Headers too large"):
    """The request line or the headers are over their limits."""

    text = "The first line of the request, or its headers, are too large."


@dataclass(eq=False)
class PayloadTooLarge(ImgproxyError, status=413, code="payload_too_large", title="Payload too large"):
    """The body of a request is over its limit."""

    text = "The body is too large: at most {limit_bytes} bytes are accepted."

    limit_bytes: int


@dataclass(eq=False)
class RequestTooSlow(ImgproxyError, status=408, code="request_too_slow", title="Request too slow"):
    """The body of a request did not arrive in time."""

    text = "The request's body did not arrive within {timeout_s:g} s."

    timeout_s: float


@dataclass(eq=False)
class UnsatisfiableRange(ImgproxyError, status=416, code="unsatisfiable_range", title="Range not satisfiable"):
    """A `Range` begins after the end of the original (RFC 9110 section 15.5.17)."""

    text = "The original has {size_bytes} bytes; the range begins after them."

    size_bytes: int


class PreconditionFailed(ImgproxyError, status=412, code="precondition_failed", title="Precondition failed"):
    """`If-Match` names no tag of the current picture (RFC 9110 section 13.1.1)."""

    text = "The picture that If-Match names is not the current one. Expected: its ETag, a strong one, or `*`."


class TooManyBodies(ImgproxyError, status=503, code="too_many_bodies", title="Too many bodies", retry_after_s=2):
    """Many large bodies of purges or webhooks are being read, and one more would take too much memory."""

    text = "Too many large bodies are being read right now. Try again in 2 s, or send a smaller body."


@dataclass(eq=False)
class MethodNotAllowed(ImgproxyError, status=405, code="method_not_allowed", title="Method not allowed"):
    """The route exists, but not for this method."""

    text = "{method} is not allowed here; allowed: {allowed}."

    method: str
    allowed: str


class RouteNotFound(ImgproxyError, status=404, code="route_not_found", title="No such route"):
    """No route has this path under `/-/` or `/api/`."""

    text = "There is no such route here."


class TooManyConnections(
    ImgproxyError, status=503, code="too_many_connections", title="Too many connections", retry_after_s=5
):
    """The process has almost as many file descriptors as it may have."""

    text = "The service has too many connections and open files. Try again in a few seconds."
