"""The body of a webhook call and its signature. Pure."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Final

from imgproxy.secret_text import check_secret

if TYPE_CHECKING:
    from imgproxy.medialibrary.server.state import Event

SIGNATURE_HEADER: Final = "x-livingdocs-signature"
PROJECT_ID: Final = 1
PROJECT_HANDLE: Final = "library"
WEBHOOK_HANDLE: Final = "imgproxy"


def event_body(event: Event, *, delivery_id: str, entry_id: str) -> bytes:
    """Return the body of a webhook call. It is written once and is the same on every attempt."""
    return json.dumps(
        {
            "event": f"mediaLibraryEntry.{event}",
            "deliveryId": delivery_id,
            "projectId": PROJECT_ID,
            "projectHandle": PROJECT_HANDLE,
            "webhookHandle": WEBHOOK_HANDLE,
            "mediaId": entry_id,
            "actor": {"type": "user"},
        },
        separators=(",", ":"),
    ).encode()


def signature(body: bytes, secret: str) -> str:
    """Return the signature header: `sha256=` and the HMAC-SHA256 of the body in hex. A blank secret: ConfigError."""
    check_secret(secret, "the webhook secret")
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
