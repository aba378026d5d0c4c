"""The error answers of the API, in its own form: `{"status", "error", "error_details"}`."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(eq=False)
class Problem(Exception):
    """
    An answer that is an error.

    `details` is `{"name", "message"}`, or for a validation error the path of each wrong value and what is wrong.
    """

    status: int
    details: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The body of the answer."""
        return {
            "status": self.status,
            "error": HTTPStatus(self.status).phrase,
            "error_details": dict(self.details),
        }

    def __str__(self) -> str:
        return f"{self.status}: {dict(self.details)}"


def invalid(details: Mapping[str, str]) -> Problem:
    """400: each path in `details` has a wrong value."""
    return Problem(400, details)


def named(status: int, name: str, message: str, **headers: str) -> Problem:
    """Any status with a name and a message; header names are written with underscores."""
    return Problem(
        status,
        {"name": name, "message": message},
        {header.replace("_", "-").title(): value for header, value in headers.items()},
    )


def unknown_entry(entry_id: str) -> Problem:
    """404 for an entry id."""
    return named(404, "NotFound", f"MediaLibrary Entry does not exist (id: '{entry_id}')")


def unknown_route() -> Problem:
    """404 for a path that is no endpoint, or not one of this version."""
    return named(404, "NotFound", "There is no such endpoint in this version of the API")


def conflict(message: str) -> Problem:
    """409."""
    return named(409, "Conflict", message)


def no_image() -> Problem:
    """404 of serve-image."""
    return named(404, "NotFound", "No image found.")


def blocked_image() -> Problem:
    """403 of serve-image; the spec gives this one without a name."""
    return Problem(403, {"message": "The requested image is revoked or marked as invalid"})
