"""
The versions of the Media Library API, and the version that first has each feature.

Versions are release dates (`2025-03`), so they sort as text. Client and server both use this module, which is pure.
Source of every date: the history tables of the Livingdocs Public API page "Media Library".

Livingdocs releases a version every second month. One that is newer than those listed here is spoken and served in the
shapes of the newest listed one.
"""

from __future__ import annotations

import re
from typing import Final

API_VERSIONS: Final = ("2025-03", "2025-05", "2025-07", "2025-09", "2025-11", "2026-01", "2026-03", "2026-05")
OLDEST: Final = API_VERSIONS[0]
NEWEST: Final = API_VERSIONS[-1]
EXPECTED: Final = f"a version as YYYY-MM, {OLDEST} or later, e.g. {NEWEST}"

_FORM: Final = re.compile(r"20[0-9]{2}-(0[1-9]|1[0-2])")

# Endpoints.
SERVE_IMAGE_SINCE: Final = "2025-03"
KEYS_SINCE: Final = "2026-03"
USAGE_LOG_SINCE: Final = "2026-05"

# Shapes: `{"results": […]}` for entries and references, with `total` and `cursor` for the latter.
RESULTS_SINCE: Final = "2026-01"

# Parts of a PATCH body.
PRESERVE_UPDATED_AT_SINCE: Final = "2026-03"
NOTE_SINCE: Final = "2026-01"
REVOKE_CONFLICT_SINCE: Final = "2026-01"

OPERATION_SINCE: Final[dict[str, str]] = {
    "setMetadataProperty": "2020-12",
    "archive": "2020-12",
    "replaceAsset": "2022-03",
    "removeAsset": "2024-01",
    "revokeAsset": "2020-12",
    "unrevokeAsset": "2026-01",
    "addUsageLogEntry": "2026-05",
    "updateUsageLogEntry": "2026-05",
    "removeUsageLogEntry": "2026-05",
}

NOTE_MAX_CHARS: Final = 200
REFERENCES_MAX: Final = 100


def has_form(text: str) -> bool:
    """Whether a text looks like a version of the API."""
    return _FORM.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Whether a text is a version that can be spoken, also one that is not known yet."""
    return has_form(text) and text >= OLDEST


def is_newer(text: str) -> bool:
    """Whether a text is a version that is newer than every one that is known."""
    return has_form(text) and text > NEWEST


def is_served(text: str) -> bool:
    """Whether a text is a version that a library of ours serves: a known one, or one that came later."""
    return text in API_VERSIONS or is_newer(text)


def is_in(feature_since: str, api_version: str) -> bool:
    """Whether a feature that came with `feature_since` exists in `api_version`."""
    return feature_since <= api_version
