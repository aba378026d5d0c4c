"""The rules of headers, as pure functions: conditions, ranges, caching, Cache-Status, Server-Timing, Date."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multidict import CIMultiDictProxy

    from imgproxy.config.sections import BrowserSettings, FreshnessSettings
    from imgproxy.delivery.request import Timings

CACHE_NAME = "imgproxy"
# In place of aiohttp's own value, which would tell strangers its version.
SERVER = {"Server": "imgproxy"}
DAY_S = 86_400
# The headers about a body. A 304 repeats all others of the 200 (RFC 9110 15.4.5).
BODY_HEADERS = frozenset({"content-type", "content-length", "content-disposition", "content-range", "accept-ranges"})
# What a script of another site may read beside what CORS always shows (Fetch, "CORS-safelisted response-header name").
EXPOSED = (
    "ETag, Content-Range, Retry-After, Cache-Status, Server-Timing, X-Imgproxy-Animation, X-Imgproxy-Faces, "
    "X-Imgproxy-Ignored"
)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A satisfiable range: first byte and count."""

    start: int
    count: int


class RangeNotSatisfiable(Exception):
    """No byte of the representation lies in the range (RFC 9110 15.5.17)."""


@lru_cache(2)
def http_date(second: int) -> str:
    """Return the value of Date for a Unix time."""
    return formatdate(second, usegmt=True)


def is_in_304(name: str) -> bool:
    """Whether a 304 has this header of the 200."""
    return name.lower() not in BODY_HEADERS


def public_headers(browser: BrowserSettings) -> dict[str, str]:
    """Return the headers of every answer to an image request: what browsers may do with it, and our name."""
    return {
        "X-Content-Type-Options": "nosniff",
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Expose-Headers": EXPOSED,
        "Cross-Origin-Resource-Policy": browser.resource_policy,
        "Timing-Allow-Origin": "*",
        **SERVER,
    }


def head_bytes(first_line: str, headers: Mapping[str, str]) -> bytes:
    """Return the beginning of an answer's head. More lines may follow, then the empty line must."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {first_line}\r\n{lines}".encode("latin-1")


def etag_matches(if_none_match: str, etag: str) -> bool:
    """Whether If-None-Match has this tag, by weak comparison (RFC 9110 13.1.2)."""
    if if_none_match.strip() == "*":
        return True
    etag = etag.removeprefix("W/")
    return any(found.removeprefix("W/") == etag for found in re.findall(r'(?:W/)?"[^"]*"', if_none_match))


def may_answer(if_match: str, *, etag: str) -> bool:
    """
    Whether If-Match allows the answer: it is `*`, or has this very tag, by strong comparison (RFC 9110 13.1.1).

    It comes first of all conditions (RFC 9110 13.2.2). The next one, If-Unmodified-Since, is ignored as 13.1.4 demands
    for a resource without a modification date: answers have no Last-Modified, as no date tells two pictures apart.
    """
    if etag.startswith("W/"):
        return if_match.strip() == "*"
    return if_match.strip() == "*" or etag in re.findall(r'(?:W/)?"[^"]*"', if_match)


def current_tag(if_none_match: str, *, etag: str) -> str | None:
    """
    Return the tag of the client's copy if that copy is current, else None.

    A copy from a shared decode has a tag with an ending of its own, and counts as current too. A 304 repeats the tag
    that the client has (RFC 9111 4.3.4).

    Dates are not checked. Answers have no Last-Modified, so If-Modified-Since is ignored (RFC 9110 13.1.3). A date
    cannot tell two pictures apart: a purged picture may have been replaced by an older file, or within the same second,
    or only its watermark may have changed.
    """
    weak = "W/" if etag.startswith("W/") else ""
    etag = etag.removeprefix("W/")
    named = (found.removeprefix("W/") for found in re.findall(r'(?:W/)?"[^"]*"', if_none_match))
    return next((f"{weak}{tag}" for tag in named if re.sub(r'-\d+-\d+"$', '"', tag) == etag), None)


def requested_range(headers: CIMultiDictProxy[str], *, size_bytes: int, etag: str) -> ByteRange | None:
    """
    Return the part of a body that the headers of a GET ask for; None for the whole body.

    The whole body answers several ranges, other units and a header that cannot be read (RFC 9110 14.2 allows it). It
    also answers a range whose If-Range is a date or another tag (RFC 9110 13.1.5), and one with If-Unmodified-Since
    alone: that date is ignored, and a part of the new picture must not be put behind a part of the old one.

    Raises:
        RangeNotSatisfiable: the range begins after the end.
    """
    if "If-Range" in headers:
        if ", ".join(headers.getall("If-Range")).strip() != etag:
            return None
    elif "If-Unmodified-Since" in headers and "If-Match" not in headers:
        return None
    header = ", ".join(headers.getall("Range", ()))
    # The name of the unit has no case (RFC 9110 14.1).
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip().replace(" ", ""), re.ASCII | re.IGNORECASE)
    if match is None:
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        count = min(int(last), size_bytes)
        if count == 0:
            raise RangeNotSatisfiable
        return ByteRange(size_bytes - count, count)
    start = int(first)
    end = min(int(last), size_bytes - 1) if last else size_bytes - 1
    if last and int(last) < start:
        return None
    if start >= size_bytes:
        raise RangeNotSatisfiable
    return ByteRange(start, end - start + 1)


def caching(settings: FreshnessSettings, *, has_downstream: bool, at_most_s: int | None = None) -> dict[str, str]:
    """
    Return Cache-Control for browsers and CDN-Cache-Control (RFC 9213) for caches that can be purged.

    Args:
        settings: the lifetimes.
        has_downstream: a CDN in front is purged with this service, so it may keep answers for a day.
        at_most_s: how long this answer may be kept at most, e.g. until its URL expires.
    """
    browser_s = settings.browser_ttl_s
    cdn_s = settings.cdn_ttl_s
    if cdn_s is None:
        cdn_s = DAY_S if has_downstream else browser_s
    if at_most_s is not None:
        browser_s, cdn_s = min(browser_s, at_most_s), min(cdn_s, at_most_s)
    # Both extensions allow a cache to serve a picture after it was revoked, so they are sent only if configured.
    extensions = (
        "".join(
            f", {name}={seconds}"
            for name, seconds in (
                ("stale-while-revalidate", settings.stale_while_revalidate_s),
                ("stale-if-error", settings.emit_stale_if_error_s),
            )
            if seconds
        )
        or ", must-revalidate"
    )
    return {
        "Cache-Control": f"public, max-age={browser_s}{extensions}",
        "CDN-Cache-Control": f"max-age={cdn_s}{extensions}",
    }


def cache_status(
    *,
    is_hit: bool,
    ttl_s: int | None = None,
    fwd: str | None = None,
    fwd_status: int | None = None,
    is_stored: bool = False,
    is_collapsed: bool = False,
    detail: str | None = None,
) -> str:
    """Return our member of Cache-Status (RFC 9211 section 2)."""
    parts = [CACHE_NAME]
    if is_hit:
        parts.append("hit")
    elif fwd is not None:
        parts.append(f"fwd={fwd}")
        if fwd_status is not None:
            parts.append(f"fwd-status={fwd_status}")
    if ttl_s is not None:
        parts.append(f"ttl={ttl_s}")
    if is_stored:
        parts.append("stored")
    if is_collapsed:
        parts.append("collapsed")
    if detail is not None:
        parts.append(f"detail={detail}")
    return "; ".join(parts)


def server_timing(total_s: float | None, timings: Timings | None) -> str:
    """Return Server-Timing: the stages of the request, and the total if it is given, in milliseconds."""
    stages = (
        [
            ("fetch", timings.fetch_s),
            ("store", timings.store_s),
            ("queue", timings.queue_s),
            ("render", timings.render_s),
            ("credentials", timings.credentials_s),
        ]
        if timings is not None
        else []
    )
    shown = [f"{name};dur={seconds * 1000:.1f}" for name, seconds in stages if seconds]
    if total_s is not None:
        shown.append(f"total;dur={total_s * 1000:.1f}")
    return ", ".join(shown)


def content_disposition(name: str) -> str:
    """Return `attachment` with a file name in ASCII, and in UTF-8 if that differs (RFC 6266 section 4.3)."""
    safe = re.sub(r'[\x00-\x1f\x7f"\\/]', "_", name)
    plain = safe.encode("ascii", "replace").decode().replace("?", "_")
    value = f'attachment; filename="{plain}"'
    return value if plain == safe else f"{value}; filename*=UTF-8''{quote(safe, safe='')}"
