"""
Every error that can reach a client, in one tree.

    ImgproxyError                  status, code, title; `public` is the only text a client sees
      BadRequest                   BadUrl, BadPurge
      NotHttp, HeadersTooLarge, RequestTooSlow, UriTooLong, PayloadTooLarge, UnsatisfiableRange,
      BadParameter, BadSignature, Expired, Unauthorized, BadWebhookSignature, RouteNotFound, MethodNotAllowed,
      EntryNotFound, ReceiptNotFound
      OriginError                  NotFound, Revoked, OriginDenied, OriginUnreachable, OriginTimeout, OriginStatus
      ImageRefused                 NotAnImage, DecodeFailed, SourceTooLarge, TooManyPixels, RenderTimeout,
                                   RenderOutOfMemory, RenderCrashed
      Overloaded, CacheUnavailable, PurgedMeanwhile

`status`, `code` and `title` belong to the class; facts are fields of the instance; `public` puts the facts into
words and never holds a token, a path of the server or a traceback. `code` is stable: scripts may depend on it.
Errors cross process borders, so each can be pickled from its fields alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self


def _rebuild(cls: type[ImgproxyError], facts: dict[str, Any]) -> ImgproxyError:
    return cls(**facts)


@dataclass(eq=False)
class ImgproxyError(Exception):
    """The root: an error with an HTTP status, a stable code and a public text."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    text: ClassVar[str] = "The server could not answer this request. The reason is in its log."

    @property
    def public(self) -> str:
        """The sentence a client may read: the class's text with the instance's facts in it."""
        return self.text.format(**self.facts())

    @property
    def retry_after_s(self) -> int | None:
        """Seconds after which trying again makes sense, or None."""
        return None

    def facts(self) -> dict[str, Any]:
        """The instance's fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def again(self) -> Self:
        """
        The same error as a new instance, for who remembers errors and raises them more than once.

        Raising an instance adds frames to its traceback, which keep every local of every raise alive.
        """
        return type(self)(**self.facts())

    def __str__(self) -> str:
        return f"{self.code}: {self.public}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.facts())


# --- the request itself ------------------------------------------------------------------------------------------


@dataclass(eq=False)
class BadRequest(ImgproxyError):
    """The client sent something that cannot be meant."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "bad_request"
    title: ClassVar[str] = "Bad request"
    text: ClassVar[str] = "{detail}"

    detail: str


@dataclass(eq=False)
class BadUrl(BadRequest):
    """The path is not a key: empty, too long, or with a part that could leave the library."""

    code: ClassVar[str] = "bad_url"
    title: ClassVar[str] = "Bad URL"


@dataclass(eq=False)
class BadParameter(ImgproxyError):
    """A parameter has a value that cannot be used; says what was expected."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "bad_parameter"
    title: ClassVar[str] = "Bad parameter"
    text: ClassVar[str] = "Parameter {name}={value!r}: expected {expected}."

    name: str
    value: str
    expected: str


@dataclass(eq=False)
class BadPurge(BadRequest):
    """A purge or warm request whose body or path cannot be understood, or that is refused for what it asks."""

    code: ClassVar[str] = "bad_purge"
    title: ClassVar[str] = "Bad purge request"


@dataclass(eq=False)
class EntryNotFound(ImgproxyError):
    """The Media Library knows no such entry, and no key of it was ever seen here."""

    status: ClassVar[int] = 404
    code: ClassVar[str] = "entry_not_found"
    title: ClassVar[str] = "No such entry"
    text: ClassVar[str] = "The Media Library has no entry {entry!r}, and no key of it was ever seen here."

    entry: str


@dataclass(eq=False)
class ReceiptNotFound(ImgproxyError):
    """No purge of this number was acknowledged here within the last year."""

    status: ClassVar[int] = 404
    code: ClassVar[str] = "receipt_not_found"
    title: ClassVar[str] = "No such receipt"
    text: ClassVar[str] = "There is no receipt {seq}. Expected: the seq of a receipt of the last year."

    seq: int


@dataclass(eq=False)
class UriTooLong(ImgproxyError):
    """The request target is longer than any real URL of a page."""

    status: ClassVar[int] = 414
    code: ClassVar[str] = "uri_too_long"
    title: ClassVar[str] = "URI too long"
    text: ClassVar[str] = "The URL has {length} characters; at most {limit} are accepted."

    length: int
    limit: int


@dataclass(eq=False)
class NotHttp(ImgproxyError):
    """Bytes that are no request: a broken head, an unknown method, another protocol."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "not_http"
    title: ClassVar[str] = "Not a request"
    text: ClassVar[str] = "This is not a request that can be read: expected a method of HTTP, a path, and HTTP/1.1."


@dataclass(eq=False)
class HeadersTooLarge(ImgproxyError):
    """A request line or headers over their limits."""

    status: ClassVar[int] = 431
    code: ClassVar[str] = "headers_too_large"
    title: ClassVar[str] = "Headers too large"
    text: ClassVar[str] = "The request's first line or its headers are larger than is accepted here."


@dataclass(eq=False)
class RequestTooSlow(ImgproxyError):
    """A request whose body did not come in time."""

    status: ClassVar[int] = 408
    code: ClassVar[str] = "request_too_slow"
    title: ClassVar[str] = "Request too slow"
    text: ClassVar[str] = "The request's body did not arrive within {timeout_s:g} s."

    timeout_s: float


@dataclass(eq=False)
class UnsatisfiableRange(ImgproxyError):
    """A Range behind the end of the original."""

    status: ClassVar[int] = 416
    code: ClassVar[str] = "unsatisfiable_range"
    title: ClassVar[str] = "Range not satisfiable"
    text: ClassVar[str] = "The original has {size_bytes} bytes; the range begins behind them."

    size_bytes: int


@dataclass(eq=False)
class PayloadTooLarge(ImgproxyError):
    """A request body over its limit."""

    status: ClassVar[int] = 413
    code: ClassVar[str] = "payload_too_large"
    title: ClassVar[str] = "Payload too large"
    text: ClassVar[str] = "The body is larger than the {limit_bytes} bytes that are accepted here."

    limit_bytes: int


@dataclass(eq=False)
class BadSignature(ImgproxyError):
    """The URL's `s` is missing or made with none of the configured tokens."""

    status: ClassVar[int] = 403
    code: ClassVar[str] = "bad_signature"
    title: ClassVar[str] = "Bad signature"
    text: ClassVar[str] = (
        "The URL needs a valid signature as its last parameter: s=md5(token + path + '?' + query), in lower-case hex."
    )


@dataclass(eq=False)
class Expired(ImgproxyError):
    """The URL's `expires` lies in the past or is not a time."""

    status: ClassVar[int] = 404
    code: ClassVar[str] = "expired"
    title: ClassVar[str] = "Expired"
    text: ClassVar[str] = "This URL was valid until its `expires` time, which has passed."


@dataclass(eq=False)
class Unauthorized(ImgproxyError):
    """An admin route was called without the admin token."""

    status: ClassVar[int] = 401
    code: ClassVar[str] = "unauthorized"
    title: ClassVar[str] = "Unauthorized"
    text: ClassVar[str] = "This route needs the header `Authorization: Bearer <admin token>`."


@dataclass(eq=False)
class BadWebhookSignature(ImgproxyError):
    """A webhook whose signature was made with none of the configured secrets."""

    status: ClassVar[int] = 401
    code: ClassVar[str] = "bad_webhook_signature"
    title: ClassVar[str] = "Bad webhook signature"
    text: ClassVar[str] = (
        "The webhook needs the header `x-livingdocs-signature: sha256=<HMAC-SHA256 of the body>`, made with the secret."
    )


@dataclass(eq=False)
class RouteNotFound(ImgproxyError):
    """A path under `/-/` or `/api/` that is not one of ours."""

    status: ClassVar[int] = 404
    code: ClassVar[str] = "route_not_found"
    title: ClassVar[str] = "No such route"
    text: ClassVar[str] = "There is no such route here."


@dataclass(eq=False)
class MethodNotAllowed(ImgproxyError):
    """The route exists, but not for this method."""

    status: ClassVar[int] = 405
    code: ClassVar[str] = "method_not_allowed"
    title: ClassVar[str] = "Method not allowed"
    text: ClassVar[str] = "{method} is not allowed here; allowed: {allowed}."

    method: str
    allowed: str


# --- the origin --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class OriginError(ImgproxyError):
    """The Media Library gave no usable original."""

    status: ClassVar[int] = 502
    code: ClassVar[str] = "origin_error"
    title: ClassVar[str] = "Origin error"
    text: ClassVar[str] = "The Media Library gave no usable answer."


@dataclass(eq=False)
class NotFound(OriginError):
    """The Media Library knows no image under this key."""

    status: ClassVar[int] = 404
    code: ClassVar[str] = "not_found"
    title: ClassVar[str] = "Not found"
    text: ClassVar[str] = "The Media Library has no image under this key."


@dataclass(eq=False)
class Revoked(OriginError):
    """The image is revoked or marked as invalid."""

    status: ClassVar[int] = 403
    code: ClassVar[str] = "revoked"
    title: ClassVar[str] = "Revoked"
    text: ClassVar[str] = "This image was revoked, or marked as invalid, in the Media Library."


@dataclass(eq=False)
class OriginDenied(OriginError):
    """The Media Library refuses our token, for every key."""

    code: ClassVar[str] = "origin_denied"
    title: ClassVar[str] = "Origin denied access"
    text: ClassVar[str] = "The Media Library does not accept this service's token. Its operator has been told."


@dataclass(eq=False)
class OriginUnreachable(OriginError):
    """No connection to the Media Library, or one that broke off."""

    code: ClassVar[str] = "origin_unreachable"
    title: ClassVar[str] = "Origin unreachable"
    text: ClassVar[str] = "The Media Library could not be reached, or broke off its answer."


@dataclass(eq=False)
class OriginTimeout(OriginError):
    """The Media Library did not answer in time."""

    status: ClassVar[int] = 504
    code: ClassVar[str] = "origin_timeout"
    title: ClassVar[str] = "Origin timeout"
    text: ClassVar[str] = "The Media Library did not answer within {timeout_s:g} s."

    timeout_s: float


@dataclass(eq=False)
class OriginStatus(OriginError):
    """The Media Library answered with a status that means neither an image nor its absence."""

    code: ClassVar[str] = "origin_status"
    text: ClassVar[str] = "The Media Library answered {origin_status} instead of an image."

    origin_status: int


# --- the picture -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class ImageRefused(ImgproxyError):
    """The original is there, but it cannot or must not be rendered."""

    status: ClassVar[int] = 422
    code: ClassVar[str] = "image_refused"
    title: ClassVar[str] = "Image refused"
    text: ClassVar[str] = "This image cannot be rendered."


@dataclass(eq=False)
class NotAnImage(ImageRefused):
    """The bytes under the key are in no format that may be loaded."""

    code: ClassVar[str] = "not_an_image"
    title: ClassVar[str] = "Not an image"
    text: ClassVar[str] = (
        "The bytes under this key are not an image in a supported format (JPEG, PNG, WebP, GIF, AVIF, TIFF, SVG)."
    )


@dataclass(eq=False)
class DecodeFailed(ImageRefused):
    """The bytes begin as an image and cannot be decoded to the end."""

    code: ClassVar[str] = "decode_failed"
    title: ClassVar[str] = "Image cannot be decoded"
    text: ClassVar[str] = "The image under this key is damaged or truncated: it cannot be decoded."


@dataclass(eq=False)
class SourceTooLarge(ImageRefused):
    """More bytes than `limits.source_bytes`; `size_bytes` is None where the origin did not announce a length."""

    status: ClassVar[int] = 413
    code: ClassVar[str] = "source_too_large"
    title: ClassVar[str] = "Image too large"

    limit_bytes: int
    size_bytes: int | None = None

    @property
    def public(self) -> str:
        """Both numbers, or the limit alone where the transfer was cut at it."""
        size = f"{self.size_bytes}" if self.size_bytes is not None else f"more than {self.limit_bytes}"
        return f"The original has {size} bytes; at most {self.limit_bytes} are accepted."


@dataclass(eq=False)
class TooManyPixels(ImageRefused):
    """More pixels than `limits.source_pixels`, all frames counted."""

    status: ClassVar[int] = 413
    code: ClassVar[str] = "too_many_pixels"
    title: ClassVar[str] = "Image too large"
    text: ClassVar[str] = "The original has {pixels} pixels; at most {limit_px} are accepted."

    pixels: int
    limit_px: int


@dataclass(eq=False)
class RenderTimeout(ImageRefused):
    """The render took longer than `render.timeout_s` and was stopped."""

    code: ClassVar[str] = "render_timeout"
    title: ClassVar[str] = "Render took too long"
    text: ClassVar[str] = "Rendering was stopped after {elapsed_s:.1f} s; at most {limit_s:g} s are allowed."

    limit_s: float
    elapsed_s: float


@dataclass(eq=False)
class RenderOutOfMemory(ImageRefused):
    """The render process grew past `render.memory_bytes` and was stopped."""

    code: ClassVar[str] = "render_out_of_memory"
    title: ClassVar[str] = "Render needs too much memory"
    text: ClassVar[str] = "Rendering was stopped at {used_bytes} bytes of memory; at most {limit_bytes} are allowed."

    limit_bytes: int
    used_bytes: int


@dataclass(eq=False)
class RenderCrashed(ImageRefused):
    """The render process died on this image."""

    code: ClassVar[str] = "render_crashed"
    title: ClassVar[str] = "Render failed"
    text: ClassVar[str] = "The image under this key ends the process that renders it. It is refused."


# --- the service -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Overloaded(ImgproxyError):
    """The render queue is full, or the service is draining: shed before any work was done."""

    status: ClassVar[int] = 503
    code: ClassVar[str] = "overloaded"
    title: ClassVar[str] = "Overloaded"
    text: ClassVar[str] = "Too many images are being made right now. Try again in {wait_s} s."

    wait_s: int = 1

    @property
    def retry_after_s(self) -> int | None:
        """The seconds given when the request was shed."""
        return self.wait_s


@dataclass(eq=False)
class CacheUnavailable(ImgproxyError):
    """The cache directory cannot be written."""

    status: ClassVar[int] = 503
    code: ClassVar[str] = "cache_unavailable"
    title: ClassVar[str] = "Cache unavailable"
    text: ClassVar[str] = "The service cannot write to its cache directory; see its log."

    @property
    def retry_after_s(self) -> int | None:
        """A full disk is not mended in a second."""
        return 10


@dataclass(eq=False)
class PurgedMeanwhile(ImgproxyError):
    """The image was purged twice while this request was being answered."""

    status: ClassVar[int] = 503
    code: ClassVar[str] = "purged_meanwhile"
    title: ClassVar[str] = "Purged while rendering"
    text: ClassVar[str] = "This image changed while it was being made. Try again."

    @property
    def retry_after_s(self) -> int | None:
        """At once: the next request starts against the new original."""
        return 1


@dataclass(eq=False)
class ConfigError(Exception):
    """A configuration that cannot be used: one line a problem, each naming section, key and what is allowed."""

    problems: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.problems)
