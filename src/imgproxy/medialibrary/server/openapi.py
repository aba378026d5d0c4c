"""The OpenAPI 3.1 document."""

from __future__ import annotations

from typing import Any


def document(api_version: str, *, default_locale: str) -> dict[str, Any]:
    """Return the document."""
    return {}
