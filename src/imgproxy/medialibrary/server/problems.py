"""The error answers of the API: `{"status", "error", "error_details"}`."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(eq=False)
class Problem(Exception):
    """
    An error answer.

    `details` is `{"name", "message"}`. For a validation error it maps the path of each wrong value to a message.
    """

    status: int
    details: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the body of the answer."""
        return {
            "status": self.status,
            "error": HTTPStatus(self.status).phrase,
            "error_details": dict(self.details),
        }

    def __str__(self) -> str:
        return f"{self.status}: {dict(self.details)}"


def invalid(details: Mapping[str, str]) -> Problem:
    """Return a 400 answer. `details` maps the path of each wrong value to a message."""
    return Problem(400, details)


def named(status: int, name: str, message: str, **headers: str) -> Problem:
    """Return an answer with a name and a message. Underscores in header names become hyphens."""
    return Problem(
        status,
        {"name": name, "message": message},
        {header.replace("_", "-").title(): value for header, value in headers.items()},
    )


def unknown_entry(entry_id: str) -> Problem:
    """Return the 404 answer for an unknown entry."""
    return named(404, "NotFound", f"MediaLibrary Entry does not exist (id: '{entry_id}')")


def unknown_route() -> Problem:
    """Return the 404 answer for a path that is not an endpoint of this version."""
    return named(404, "NotFound", "There is no such endpoint in this version of the API")


def conflict(message: str) -> Problem:
    """Return a 409 answer."""
    return named(409, "Conflict", message)


def no_image() -> Problem:
    """Return the 404 answer of serve-image."""
    return named(404, "NotFound", "No image found.")


def blocked_image() -> Problem:
    """Return the 403 answer of serve-image. The API's documentation shows it without a name."""
    return Problem(403, {"message": "The requested image is revoked or marked as invalid"})
