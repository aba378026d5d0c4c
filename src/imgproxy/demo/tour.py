"""What `imgproxy demo` shows: URLs to open, and commands that revoke a picture and bring it back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDE = 16 / 9


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the library: its entry, key, media type, stored size in pixels and size in bytes."""

    entry: str
    key: str
    mime_type: str
    width_px: int
    height_px: int
    size_bytes: int

    @property
    def pixels(self) -> int:
        """Width times height of the file."""
        return self.width_px * self.height_px


@dataclass(frozen=True, slots=True)
class Stop:
    """One thing to see: its title and its URL."""

    title: str
    url: str


def within(pictures: Sequence[Picture], *, pixels_max: int, bytes_max: int) -> list[Picture]:
    """Return the pictures within the limits of the edge, or else the smallest: its answer names the limit."""
    taken = [item for item in pictures if item.pixels <= pixels_max and item.size_bytes <= bytes_max]
    return taken or [min(pictures, key=lambda item: item.pixels)]


def largest_of(pictures: Sequence[Picture]) -> Picture:
    """Return the picture with the most pixels, which most stops of the tour show."""
    return max(pictures, key=lambda item: item.pixels)


def stops(edge_url: str, pictures: Sequence[Picture]) -> list[Stop]:
    """Return at most eight stops. A stop without a suitable picture is left out."""
    largest = largest_of(pictures)
    found = [
        Stop("resize", image_url(edge_url, largest, "w=800")),
        Stop("crop by rect", image_url(edge_url, largest, f"rect={_rect(largest)}&w=1024")),
        Stop("best format", image_url(edge_url, largest, "w=800&auto=format")),
        Stop("focal point", image_url(edge_url, largest, "w=600&h=600&fit=crop&crop=focalpoint&fp-x=0.7&fp-y=0.6")),
    ]
    for picture in pictures:
        if picture is largest:
            continue
        if picture.mime_type == "image/gif":
            found.append(Stop("animation", image_url(edge_url, picture, "w=320&auto=format")))
        elif picture.mime_type in ("image/png", "image/webp"):
            found.append(Stop("transparency", image_url(edge_url, picture, "w=400&bg=ffd166")))
        elif picture.mime_type == "image/jpeg":
            found.append(Stop("portrait", image_url(edge_url, picture, "w=400&h=500&fit=crop&crop=faces&auto=format")))
    found.append(Stop("its facts", image_url(edge_url, largest, "fm=json")))
    return found[:8]


def image_url(edge_url: str, picture: Picture, query: str) -> str:
    """Return the URL of a picture at the edge."""
    return f"{edge_url}/{quote(picture.key)}?{query}"


def playground_url(edge_url: str, admin_token: str) -> str:
    """Return the URL of the playground. Browsers send no fragment: the token goes to the page only."""
    return f"{edge_url}/-/playground#token={admin_token}"


def revoke_command(library_url: str, api_version: str, token: str, picture: Picture) -> str:
    """Return a curl command that revokes the entry of a picture in the library."""
    return _patch_command(library_url, api_version, token, picture, {"operation": "revokeAsset", "note": "Case #1"})


def unrevoke_command(library_url: str, api_version: str, token: str, picture: Picture) -> str:
    """Return a curl command that takes the revocation back."""
    return _patch_command(library_url, api_version, token, picture, {"operation": "unrevokeAsset"})


def purge_command(edge_url: str, admin_token: str, picture: Picture) -> str:
    """Return a curl command that purges the entry at the edge and prints the receipt."""
    return f"curl -X POST -H 'Authorization: Bearer {admin_token}' {edge_url}/-/purge/entries/{picture.entry}"


def _patch_command(library_url: str, api_version: str, token: str, picture: Picture, operation: dict[str, str]) -> str:
    body = json.dumps({"patches": [operation]})
    return (
        f"curl -X PATCH -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' "
        f"-d '{body}' {library_url}/api/{api_version}/mediaLibrary/{picture.entry}"
    )


def _rect(picture: Picture) -> str:
    """Return the middle half of the picture, in 16:9 if it is high enough."""
    width = picture.width_px // 2
    height = min(round(width / WIDE), picture.height_px)
    return f"{(picture.width_px - width) // 2},{(picture.height_px - height) // 2},{width},{height}"
