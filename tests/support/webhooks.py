"""Livingdocs' webhooks, signed and delivered to a site."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING

from tests.support.site import SECRET

if TYPE_CHECKING:
    from tests.support.site import Reply, Site


async def deliver(here: Site, event: str, entry: str | None, *, delivery: str = "d-1", secret: str = SECRET) -> Reply:
    """Deliver a webhook, signed."""
    body = json.dumps({"event": event, "deliveryId": delivery, "mediaId": entry, "projectId": 1}).encode()
    return await deliver_raw(here, body, "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest())


async def deliver_raw(here: Site, body: bytes, signature: str) -> Reply:
    """Deliver these bytes with this signature."""
    return await here.send("POST", "/-/webhooks/livingdocs", data=body, headers={"x-livingdocs-signature": signature})
