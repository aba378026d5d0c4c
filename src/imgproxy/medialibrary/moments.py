"""Points in time as the API and HTTP write them."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def iso_ms(moment: datetime) -> str:
    """Return a moment as the API writes it: ISO 8601 in UTC, milliseconds, Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def http_moment(text: str | None) -> datetime | None:
    """Return the moment of an HTTP date in any of its three forms (RFC 9110 5.6.7); None if it is not one."""
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def is_proof(last_modified: str | None, asked_at_s: float) -> bool:
    """
    Whether the Last-Modified of an answer can prove later that nothing has changed: it is before the request.

    In the second of the answer the picture may change again, and a date in the future is wrong (RFC 9110 8.8.2).
    `asked_at_s` is the Unix time of our clock before the request.
    """
    changed = http_moment(last_modified)
    return changed is not None and changed.timestamp() <= asked_at_s - 1
