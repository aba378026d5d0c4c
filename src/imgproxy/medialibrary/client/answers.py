"""
Turns an error answer of the Media Library into one of our errors. Pure.

Errors of the API are JSON: `{"status", "error", "error_details": {"name", "message"}}`. For a validation error
`error_details` maps the path of each wrong value to a message. An answer in another form comes from something between
the library and this service, and says nothing about an image.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imgproxy.medialibrary.errors import (
    MESSAGE_MAX_CHARS,
    Conflict,
    Forbidden,
    LibraryNotFound,
    MediaLibraryError,
    OriginUnavailable,
    Unauthorized,
    UnexpectedStatus,
    ValidationFailed,
    VersionGone,
)
from imgproxy.medialibrary.moments import http_moment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

# The longest Retry-After that is believed: our answers repeat it, and caches in front may obey it. An outage is seldom
# over at the second that was announced.
RETRY_AFTER_MAX_S = 3600.0
# A later try may succeed after these statuses (RFC 9110 sections 15.6.3-15.6.5, RFC 6585 section 4).
TRANSIENT_STATUSES = frozenset({429, 502, 503, 504})

# A 403 of serve-image about the image says: "The requested image is revoked or marked as invalid".
_REVOKED_WORDS = ("revoked", "marked as invalid")


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The body of an error answer. `is_api_answer`: it has the API's form."""

    is_json: bool
    is_api_answer: bool
    message: str
    details: Mapping[str, str]


def read_error_body(body: bytes) -> ErrorBody:
    """Read an error body. If it has another form, its first characters are the message."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    details = answer.get("error_details") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(details, dict):
        is_json = isinstance(answer, dict)
        return ErrorBody(is_json=is_json, is_api_answer=False, message=_printable(body), details={})
    texts = {str(path)[:MESSAGE_MAX_CHARS]: str(text)[:MESSAGE_MAX_CHARS] for path, text in details.items()}
    message = texts.get("message") or "; ".join(f"{path}: {text}" for path, text in texts.items())
    return ErrorBody(is_json=True, is_api_answer=True, message=message[:MESSAGE_MAX_CHARS], details=texts)


def error_for(
    status: int, body: bytes, *, where: str, api_version: str, wait_s: float | None = None
) -> MediaLibraryError:
    """Return the error that an answer with this status and body means."""
    said = read_error_body(body)
    context: dict[str, Any] = {"message": said.message, "where": where}
    if status in TRANSIENT_STATUSES:
        return OriginUnavailable(origin_status=status, wait_s=wait_s, **context)
    if status == 400:
        return ValidationFailed(paths=said.details, **context)
    if status == 401:
        return Unauthorized(origin_status=status, **context)
    if status == 403:
        # Any JSON object counts: to serve a revoked image is worse than to report a bad token as a revoked image.
        is_about_image = said.is_json and any(word in said.message for word in _REVOKED_WORDS)
        return Forbidden(**context) if is_about_image else Unauthorized(origin_status=status, **context)
    if status == 404:
        return LibraryNotFound(is_api_answer=said.is_api_answer, **context)
    if status == 409:
        return Conflict(**context)
    if status == 410:
        return VersionGone(api_version=api_version, **context)
    return UnexpectedStatus(origin_status=status, **context)


def retry_after_s(header: str | None, *, now: datetime) -> float | None:
    """
    Return the seconds that a Retry-After header asks to wait, at most an hour, or None without a valid one.

    Source: RFC 9110 section 10.2.3 (a number of seconds, or a date).
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(RETRY_AFTER_MAX_S, float(text[:9]))
    moment = http_moment(text)
    return None if moment is None else min(RETRY_AFTER_MAX_S, max(0.0, (moment - now).total_seconds()))


def _printable(body: bytes) -> str:
    text = body[:MESSAGE_MAX_CHARS].decode("utf-8", errors="replace")
    return "".join(char if char.isprintable() else " " for char in text).strip()
