"""The headers of an image: its type and tags, how long it may be kept, and where it came from."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from imgproxy.cache.entry import Tier, key_hash
from imgproxy.delivery.credentials import MISSING
from imgproxy.delivery.originals import State
from imgproxy.delivery.request import Delivered, Outcome
from imgproxy.edge.headers import cache_status, caching, content_disposition, public_headers, server_timing
from imgproxy.purge.tags import tag_headers, tags

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgproxy.cache.entry import VariantFacts
    from imgproxy.config.settings import Settings
    from imgproxy.params.request import ImageRequest

# An interim or fallback variant may be kept for this time. An AVIF of any size is made by then.
INTERIM_TTL_S = 10
# A sanitised SVG is a document if a browser opens it alone. It must run no script and load nothing.
SVG_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


class ImageHeads:
    """Makes the headers of images."""

    def __init__(
        self,
        settings: Settings,
        *,
        entry_of: Callable[[str], str | None],
        has_downstream: bool,
        manifest_link: Callable[[str, str], str] | None = None,
    ) -> None:
        """`manifest_link` returns the URL of a manifest, of a key and the manifest's name."""
        self._manifest_link = manifest_link
        self._settings = settings
        self._entry_of = entry_of
        self._has_downstream = has_downstream
        self._usual_caching = self._caching(None)
        self._public = public_headers(settings.browser)

    def _caching(self, at_most_s: int | None) -> dict[str, str]:
        return caching(self._settings.freshness, has_downstream=self._has_downstream, at_most_s=at_most_s)

    def of(self, wanted: ImageRequest, delivered: Delivered, started_s: float, at_most_s: int | None) -> dict[str, str]:
        """Return all headers except those that aiohttp adds. `started_s` is of the monotonic clock."""
        now_s = time.time()
        facts = delivered.original.facts
        content_type = delivered.variant.facts.content_type if delivered.variant else facts.content_type
        headers = {
            "Content-Type": content_type,
            "ETag": delivered.etag,
            **(self._usual_caching if at_most_s is None else self._caching(at_most_s)),
            **self.tags(facts.key, [hashed for hashed, _ in delivered.proofs[1:]]),
            "Cache-Status": self.cache_status(delivered, now_s),
            "Server-Timing": server_timing(time.monotonic() - started_s, delivered.timings),
            **self._public,
        }
        if wanted.vary:
            headers["Vary"] = ", ".join(wanted.vary)
        if wanted.download_name is not None:
            headers["Content-Disposition"] = content_disposition(wanted.download_name)
        if content_type.startswith("image/svg"):
            headers["Content-Security-Policy"] = SVG_POLICY
        if delivered.variant is not None and delivered.variant.facts.is_first_frame_only:
            headers["X-Imgproxy-Animation"] = "first-frame-only"
        if delivered.variant is not None and delivered.variant.facts.credentials:
            headers |= self._credentials(delivered.variant.facts)
        if wanted.lacks_detector:
            headers["X-Imgproxy-Faces"] = "no-detector"
        if wanted.notes and self._settings.url.ignored_header:
            names = dict.fromkeys(quote(note.name, safe="") for note in wanted.notes)
            headers["X-Imgproxy-Ignored"] = ", ".join(names)
        return headers

    def _credentials(self, facts: VariantFacts) -> dict[str, str]:
        """Return what became of Content Credentials, and the link to a manifest (C2PA 2.2, 11.5)."""
        found = {"X-Imgproxy-Credentials": facts.credentials}
        if facts.link and self._manifest_link is not None:
            found["Link"] = f'<{self._manifest_link(facts.key, facts.link)}>; rel="c2pa-manifest"'
        return found

    def tags(self, key: str, marks: Sequence[str] = ()) -> dict[str, str]:
        """Return the headers with the surrogate keys of an answer. `marks` are the key hashes of its watermark."""
        return tag_headers(self._settings.tags.headers, tags(key_hash(key), self._entry_of(key), marks))

    def at_most_s(self, wanted: ImageRequest, delivered: Delivered, now_s: float) -> int | None:
        """Return how long the answer may be kept; None for as long as usual."""
        bounds = []
        if wanted.expires_at_s is not None:
            bounds.append(int(wanted.expires_at_s - now_s))
        if delivered.is_interim:
            bounds.append(INTERIM_TTL_S)
        facts = delivered.variant.facts if delivered.variant is not None else None
        if facts is not None and (facts.is_mark_missing or facts.credentials == MISSING):
            bounds.append(self._settings.freshness.error_ttl_s)
        return min(bounds) if bounds else None

    def cache_status(self, delivered: Delivered, now_s: float) -> str:
        """Return Cache-Status (RFC 9211), which says where this answer came from."""
        facts = delivered.original.facts
        freshness = self._settings.freshness
        ttl_s = int(facts.validated_at_s + freshness.revalidate_after_s - now_s)
        is_fetched = delivered.original.state is State.FETCHED
        detail = str(Tier.SHARED) if delivered.tier is Tier.SHARED else None
        if delivered.outcome is Outcome.MISS or (delivered.outcome is Outcome.PASS and is_fetched):
            return cache_status(
                is_hit=False,
                fwd="uri-miss" if is_fetched else "miss",
                fwd_status=200 if is_fetched else None,
                is_stored=True,
                is_collapsed=delivered.is_collapsed,
                ttl_s=ttl_s,
                detail=detail,
            )
        if delivered.outcome is Outcome.REVALIDATED:
            return cache_status(
                is_hit=False,
                fwd="stale",
                fwd_status=304,
                is_collapsed=delivered.is_collapsed,
                ttl_s=ttl_s,
                detail=detail,
            )
        detail = "not-modified" if delivered.variant is None else str(delivered.tier)
        return cache_status(is_hit=True, ttl_s=ttl_s, detail=detail)
