"""Image URLs, read without memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgproxy.config.url import UrlSettings
from imgproxy.params.negotiate import read_headers
from imgproxy.params.plan import Metadata
from imgproxy.params.request import RequestReader

if TYPE_CHECKING:
    from imgproxy.params.negotiate import ClientHeaders
    from imgproxy.params.plan import RenderPlan
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


def read_plan(query: str, accept: str = "*/*") -> RenderPlan:
    """The plan of a query, by the default settings, for a client with this `Accept`."""
    found = build_request(f"/a.jpg?{query}", read_headers(accept=accept), UrlSettings()).plan
    assert found is not None
    return found
