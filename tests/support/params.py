"""Image URLs, read without memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproxy.params.plan import Metadata
from imgproxy.params.request import RequestReader

if TYPE_CHECKING:
    from imgproxy.params.negotiate import ClientHeaders
    from imgproxy.params.request import ImageRequest, UrlOptions


def build_request(
    target: str,
    headers: ClientHeaders,
    settings: UrlOptions,
    *,
    mount_prefix: str = "",
    metadata: Metadata = Metadata.CREDIT,
    finds_faces: bool = False,
) -> ImageRequest:
    """Return what an image URL asks for. Each call has a reader of its own."""
    reader = RequestReader(settings, mount_prefix=mount_prefix, metadata=metadata, finds_faces=finds_faces)
    return reader.read(target, headers, is_remembered=False)
