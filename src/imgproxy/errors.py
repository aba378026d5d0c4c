"""
The errors that can reach a client. The root is `ImgproxyError`. Those of HTTP itself are in edge/errors.py.

A class has `status`, `code`, `title` and `text`. An instance has the facts of one case as its fields. `public` is the
text with these facts. It is the only text that a client sees, and never has a token, a path of the server or a
traceback. `code` is stable: scripts may depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, Self


@dataclass(eq=False)
class ImgproxyError(Exception):
    """
    The root: an error with an HTTP status, a stable code and a public text.

    A subclass gives what differs: `class Gone(ImgproxyError, status=410, code="gone", title="Gone")` and its `text`.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    text: ClassVar[str] = "The server could not answer this request. The reason is in its log."

    _retry_after_s: ClassVar[int | None] = None

    def __init_subclass__(
        cls,
        *,
        status: int | None = None,
        code: str | None = None,
        title: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init_subclass__()
        # Only what is given is set; the rest is inherited. (Errors of the Media Library's client have two bases.)
        given = {"status": status, "code": code, "title": title, "_retry_after_s": retry_after_s}
        for name, value in given.items():
            if value is not None:
                setattr(cls, name, value)

    @property
    def public(self) -> str:
        """The sentence that a client may read: the class's text with the facts of this instance."""
        return self.text.format(**self.facts())

    @property
    def retry_after_s(self) -> int | None:
        """Seconds after which the client may try again, or None."""
        return self._retry_after_s

    def facts(self) -> dict[str, Any]:
        """Return the instance's fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def again(self) -> Self:
        """
        Return the same error as a new instance, to raise an error that is remembered.

        Each raise adds frames to the traceback of an instance, and these keep all local variables alive.
        """
        return type(self)(**self.facts())

    def __str__(self) -> str:
        return f"{self.code}: {self.public}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process borders: the fields are all that is pickled.
        return partial(type(self), **self.facts()), ()


# --- the request itself ------------------------------------------------------------------------------------------


@dataclass(eq=False)
class BadUrl(ImgproxyError, status=400, code="bad_url", title="Bad URL"):
    """The path is not a key (it is empty, too long, or has a part like `..`), or the host is not valid."""

    text = "{detail}"

    detail: str


@dataclass(eq=False)
class BadParameter(ImgproxyError, status=400, code="bad_parameter", title="Bad parameter"):
    """A URL parameter has a value that cannot be used."""

    text = "Parameter {name}={value!r}: expected {expected}."

    name: str
    value: str
    expected: str


@dataclass(eq=False)
class BadPurge(ImgproxyError, status=400, code="bad_purge", title="Bad purge request"):
    """A purge or warm request is not valid, or asks for something that is not allowed."""

    text = "{detail}"

    detail: str


@dataclass(eq=False)
class BadPlaygroundCall(ImgproxyError, status=400, code="bad_playground_call", title="Bad request of the playground"):
    """A request of the playground's page is not valid. The page itself sends none such."""

    text = "Expected: {expected}."

    expected: str


@dataclass(eq=False)
class EntryNotFound(ImgproxyError, status=404, code="entry_not_found", title="No such entry"):
    """The Media Library has no such entry, and this service has never seen a key of it."""

    text = "The Media Library has no entry {entry!r}, and this service has never seen a key of it."

    entry: str


@dataclass(eq=False)
class ReceiptNotFound(ImgproxyError, status=404, code="receipt_not_found", title="No such receipt"):
    """No purge of this number was acknowledged here within the last year."""

    text = "There is no receipt {seq}. Expected: the seq of a receipt of the last year."

    seq: int


@dataclass(eq=False)
class UriTooLong(ImgproxyError, status=414, code="uri_too_long", title="URI too long"):
    """The request target is longer than `url.max_url_chars`."""

    text = "The URL is too long: at most {limit} characters are accepted."

    limit: int


class BadSignature(ImgproxyError, status=403, code="bad_signature", title="Bad signature"):
    """The URL's `s` is missing, or does not match any configured token."""

    text = (
        "The URL needs a valid signature as its last parameter: s=md5(token + path + '?' + query), in lower-case hex."
    )


class Expired(ImgproxyError, status=404, code="expired", title="Expired"):
    """The URL's `expires` lies in the past or is not a time."""

    text = "This URL was valid until its `expires` time, which has passed."


class Unauthorized(ImgproxyError, status=401, code="unauthorized", title="Unauthorized"):
    """An admin route was called without the admin token."""

    text = "This route needs the header `Authorization: Bearer <admin token>`."


class BadWebhookSignature(ImgproxyError, status=401, code="bad_webhook_signature", title="Bad webhook signature"):
    """The signature of a webhook is missing, or does not match any configured secret."""

    text = (
        "The webhook needs the header `x-livingdocs-signature: sha256=<HMAC-SHA256 of the body>`, made with the secret."
    )


# --- the origin --------------------------------------------------------------------------------------------------


class OriginError(ImgproxyError, status=502, code="origin_error", title="Origin error"):
    """The Media Library did not send a usable original."""

    text = "The Media Library gave no usable answer."


class NotFound(OriginError, status=404, code="not_found", title="Not found"):
    """The Media Library has no image under this key."""

    text = "The Media Library has no image under this key."


class NoManifest(ImgproxyError, status=404, code="no_manifest", title="No manifest"):
    """The manifest of a variant is asked for that has none, or that is not here any more."""

    text = (
        "This URL names no manifest. The picture has no Content Credentials, or its variant is not in the cache any "
        "more: request the picture, then its manifest."
    )


class ManifestFailed(ImgproxyError, status=503, code="manifest_failed", title="Manifest failed", retry_after_s=30):
    """The manifest of a variant could not be made: the timestamp authority is slow, or a process ended."""

    text = "The manifest of this picture could not be made. Try again."


class Revoked(OriginError, status=403, code="revoked", title="Revoked"):
    """The image is revoked or marked as invalid."""

    text = "This image was revoked, or marked as invalid, in the Media Library."


class OriginDenied(OriginError, code="origin_denied", title="Origin denied access"):
    """The Media Library refuses the access token, for every key."""

    text = "The Media Library does not accept this service's token. Its operator has been told."


class OriginUnreachable(OriginError, code="origin_unreachable", title="Origin unreachable"):
    """The Media Library cannot be reached, or the connection broke."""

    text = "The Media Library could not be reached, or its answer ended too early."


@dataclass(eq=False)
class OriginTimeout(OriginError, status=504, code="origin_timeout", title="Origin timeout"):
    """The Media Library did not answer in time."""

    text = "The Media Library did not answer within {timeout_s:g} s."

    timeout_s: float


@dataclass(eq=False)
class OriginStatus(OriginError, code="origin_status"):
    """The Media Library answered with an unexpected status."""

    text = "The Media Library answered {origin_status} instead of an image."

    origin_status: int


# --- the picture -------------------------------------------------------------------------------------------------


class ImageRefused(ImgproxyError, status=422, code="image_refused", title="Image refused"):
    """The original exists, but it cannot be rendered or must not be."""

    text = "This image cannot be rendered."


class NotAnImage(ImageRefused, code="not_an_image", title="Not an image"):
    """The bytes under the key are not an image in a supported format."""

    text = (
        "The bytes under this key are not an image in a supported format "
        "(JPEG, PNG, WebP, GIF, AVIF, HEIC, TIFF, BMP, SVG)."
    )


class HeicNotInstalled(ImageRefused, code="heic_not_installed", title="HEIC is not installed"):
    """The image is a HEIC, and the extra `imgproxy-edge[heic]` is not installed."""

    text = "The image under this key is a HEIC. This server cannot read HEIC: `imgproxy-edge[heic]` is not installed."


class DecodeFailed(ImageRefused, code="decode_failed", title="Image cannot be decoded"):
    """The bytes begin like an image, but cannot be decoded completely."""

    text = "The image under this key is damaged or truncated: it cannot be decoded."


class ColoursNotSupported(ImageRefused, code="colours_not_supported", title="Colours not supported"):
    """A TIFF whose samples would come out in wrong colours: signed integers, a mask, sensor data and others."""

    text = (
        "The colours of this TIFF cannot be converted. Those of grey, RGB, palette, CMYK, Lab and JPEG's YCbCr can, "
        "with unsigned samples of up to 32 bits, or with float samples for RGB and grey."
    )


@dataclass(eq=False)
class SourceTooLarge(ImageRefused, status=413, code="source_too_large", title="Image too large"):
    """More bytes than `limits.source_bytes`. `size_bytes` is None if the origin did not announce a length."""

    limit_bytes: int
    size_bytes: int | None = None

    @property
    def public(self) -> str:
        """Both numbers. Without a length, the transfer was cut at the limit."""
        size = f"{self.size_bytes}" if self.size_bytes is not None else f"more than {self.limit_bytes}"
        return f"The original has {size} bytes; at most {self.limit_bytes} are accepted."


@dataclass(eq=False)
class TooManyPixels(ImageRefused, status=413, code="too_many_pixels", title="Image too large"):
    """More pixels than `limits.source_pixels`, all frames together."""

    text = "The original has {pixels} pixels; at most {limit_px} are accepted."

    pixels: int
    limit_px: int


@dataclass(eq=False)
class DrawingTooComplex(ImageRefused, code="drawing_too_complex", title="SVG too complex"):
    """An SVG is over one of the limits of `render.svg_cost`."""

    text = "This SVG has too much to draw: at most {limit} {what} are accepted."

    what: str
    limit: int


@dataclass(eq=False)
class RenderTimeout(ImageRefused, code="render_timeout", title="Render took too long"):
    """The render took longer than `render.timeout_s`, or its SVG longer than `render.drawing_cpu_s`."""

    text = "Rendering was stopped after {elapsed_s:.1f} s; at most {limit_s:g} s are allowed."

    limit_s: float
    elapsed_s: float


@dataclass(eq=False)
class RenderOutOfMemory(ImageRefused, code="render_out_of_memory", title="Render needs too much memory"):
    """The render process grew past `render.memory_bytes` and was stopped."""

    text = "Rendering was stopped at {used_bytes} bytes of memory; at most {limit_bytes} are allowed."

    limit_bytes: int
    used_bytes: int


class FacesUnavailable(ImageRefused, code="faces_unavailable", title="No face detection"):
    """The detector is broken or took too long. The picture is answered as one without faces."""

    text = "The faces of this image could not be looked for."


class RenderCrashed(ImageRefused, code="render_crashed", title="Render failed"):
    """The render process crashed on this image, or met an error that nobody foresaw."""

    text = "The process that renders this image crashed or failed. The image is refused."


# --- the service -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Overloaded(ImgproxyError, status=503, code="overloaded", title="Overloaded"):
    """Refused before any work: the queue of renders or fetches is full, or the service stops."""

    text = "Too many images are being made right now. Try again in {wait_s} s."

    wait_s: int = 1

    @property
    def retry_after_s(self) -> int | None:
        """The wait that was estimated when the request was refused."""
        return self.wait_s


class CacheUnavailable(
    ImgproxyError, status=503, code="cache_unavailable", title="Cache unavailable", retry_after_s=10
):
    """The cache directory cannot be written. A full disk needs an operator, so the wait is longer than usual."""

    text = "The service cannot write to its cache directory; see its log."


class CannotProve(ImgproxyError, status=503, code="cannot_prove", title="Picture cannot be proved", retry_after_s=2):
    """This node cannot reach the log of purges, and the Media Library cannot confirm the picture: it may be revoked."""

    text = (
        "This node is cut off from the other nodes, and the Media Library cannot confirm the picture. "
        "Expected an answer of one of them. Try again."
    )


class DeliveryUnderWay(
    ImgproxyError, status=503, code="delivery_under_way", title="Delivery under way", retry_after_s=5
):
    """Another node of the cluster is handling the same webhook delivery, and takes longer than this one waits."""

    text = "Another node is still handling this delivery. Deliver it again."


class PurgedMeanwhile(
    ImgproxyError, status=503, code="purged_meanwhile", title="Purged while rendering", retry_after_s=1
):
    """The image was purged again and again while this request was being answered."""

    text = "This image changed while it was being made. Try again."


@dataclass(eq=False)
class ConfigError(Exception):
    """A configuration that cannot be used: one line for each problem, with section, key and what is allowed."""

    problems: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.problems)
