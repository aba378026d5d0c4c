"""
The errors of a call to a Media Library.

An error that the edge may answer with also derives from the service's own error. No text holds a token: it is made from
the answer and the path alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

from imgproxy import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

MESSAGE_MAX_CHARS = 300


@dataclass(eq=False, kw_only=True)
class MediaLibraryError(errors.OriginError):
    """A call without a usable answer. `message`: the library's own words, cut short. `where`: method and path."""

    message: str = ""
    where: str = ""

    def again(self) -> Self:
        """Return it without message and path: an error that is remembered must not hold texts from outside."""
        return type(self)(**{**self.facts(), "message": "", "where": ""})

    def __str__(self) -> str:
        parts = (type(self).__name__, self.where, self.message[:MESSAGE_MAX_CHARS])
        return ": ".join(part for part in parts if part)


@dataclass(eq=False, kw_only=True)
class LibraryNotFound(MediaLibraryError, errors.NotFound):
    """
    There is no such entry, image or endpoint (404).

    `is_api_answer` is False for a 404 that something in between made, such as a load balancer without a backend. Only
    the library's own 404 says that the image does not exist.
    """

    is_api_answer: bool = True


@dataclass(eq=False, kw_only=True)
class Forbidden(MediaLibraryError, errors.Revoked):
    """The image exists, but is revoked or marked as invalid (403)."""


@dataclass(eq=False, kw_only=True)
class Unauthorized(MediaLibraryError, errors.OriginDenied):
    """The token is unknown (401), or lacks the scope that the call needs (403)."""

    origin_status: int


@dataclass(eq=False, kw_only=True)
class Conflict(MediaLibraryError):
    """The entry has another version or state than the call expected (409). Nothing was changed."""

    code: ClassVar[str] = "origin_conflict"
    title: ClassVar[str] = "Conflict"
    text: ClassVar[str] = "The Media Library refused the change: the entry was changed by someone else."


@dataclass(eq=False, kw_only=True)
class ValidationFailed(MediaLibraryError):
    """The library refuses the call as invalid (400). `paths` maps the path of each wrong value to what is wrong."""

    code: ClassVar[str] = "origin_validation_failed"
    text: ClassVar[str] = "The Media Library refused the request as invalid."

    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(eq=False, kw_only=True)
class VersionGone(MediaLibraryError):
    """The API version in use is retired on this server (410)."""

    code: ClassVar[str] = "origin_version_gone"
    text: ClassVar[str] = "The Media Library no longer serves API version {api_version}."

    api_version: str


@dataclass(eq=False, kw_only=True)
class VersionTooOld(MediaLibraryError):
    """The API version in use does not have this endpoint, operation or property. Nothing was sent."""

    code: ClassVar[str] = "origin_version_too_old"
    text: ClassVar[str] = "{feature} needs Media Library API version {since}; {api_version} is in use."

    feature: str
    since: str
    api_version: str

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.public}"


@dataclass(eq=False, kw_only=True)
class OriginUnavailable(MediaLibraryError, errors.OriginUnreachable):
    """No connection, a lost one, a broken body, or a status that asks for a later try (429, 502, 503, 504)."""

    origin_status: int | None = None
    wait_s: float | None = None

    @property
    def retry_after_s(self) -> int | None:
        """The library's own Retry-After; None if it sent none."""
        return None if self.wait_s is None else math.ceil(self.wait_s)


@dataclass(eq=False, kw_only=True)
class OriginTimeout(MediaLibraryError, errors.OriginTimeout):
    """The call, with all its tries, did not end within `timeout_s`."""


@dataclass(eq=False, kw_only=True)
class TooLarge(errors.SourceTooLarge, MediaLibraryError):
    """The image has more than `limit_bytes`; `size_bytes` is what the library announced, or None."""


@dataclass(eq=False, kw_only=True)
class UnexpectedStatus(MediaLibraryError, errors.OriginStatus):
    """A status that this call does not expect."""


@dataclass(eq=False, kw_only=True)
class RedirectRefused(MediaLibraryError):
    """The library redirects to another host that is not allowed, or from https to http. `message` says where to."""

    code: ClassVar[str] = "origin_redirect"
    text: ClassVar[str] = (
        "The Media Library redirects to a host that [origin] redirect_hosts does not name, or from https to http."
    )


@dataclass(eq=False, kw_only=True)
class UnexpectedAnswer(MediaLibraryError):
    """The status was right, but the body is not JSON, or not in the API's form."""

    code: ClassVar[str] = "origin_unexpected_answer"
