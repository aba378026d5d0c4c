"""The headers of an image: type, tag, lifetimes, surrogate keys, and where the answer came from."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from imgproxy.cache.entry import Tier, key_hash
from imgproxy.config.sections import FreshnessSettings, TagSettings
from imgproxy.delivery.originals import State
from imgproxy.delivery.request import Outcome, Timings
from imgproxy.edge.headers import EXPOSED
from imgproxy.edge.heads import INTERIM_TTL_S, SVG_POLICY, ImageHeads
from imgproxy.purge.tags import key_tag
from tests.support.answers import ETAG, HASHED, delivered, not_modified, settings, variant, wanted

if TYPE_CHECKING:
    from typing import Any

    from imgproxy.delivery.request import Delivered

FRESHNESS = FreshnessSettings(revalidate_after_s=300, browser_ttl_s=300, error_ttl_s=60)


def heads(*, entry: str | None = None, has_downstream: bool = False, **sections: Any) -> ImageHeads:
    chosen = settings(**{"freshness": FRESHNESS} | sections)
    return ImageHeads(chosen, entry_of=lambda _key: entry, has_downstream=has_downstream)


def headers_of(answer: Delivered, made: ImageHeads | None = None, **request: Any) -> dict[str, str]:
    made, asked = made or heads(), wanted(**request)
    return made.of(asked, answer, time.monotonic(), made.at_most_s(asked, answer, time.time()))


def test_an_image_has_these_headers() -> None:
    """Type, tag, lifetimes, surrogate keys, where it came from, how long it took, and what pages may do with it."""
    assert headers_of(delivered()) | {"Cache-Status": "", "Server-Timing": ""} == {
        "Content-Type": "image/webp",
        "ETag": ETAG,
        "Cache-Control": "public, max-age=300, must-revalidate",
        "CDN-Cache-Control": "max-age=300, must-revalidate",
        "Surrogate-Key": key_tag(HASHED),
        "Cache-Tag": key_tag(HASHED),
        "xkey": key_tag(HASHED),
        "Cache-Status": "",
        "Server-Timing": "",
        "X-Content-Type-Options": "nosniff",
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Expose-Headers": EXPOSED,
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Timing-Allow-Origin": "*",
        "Server": "imgproxy",
    }


@pytest.mark.parametrize(
    ("request_", "name", "value"),
    [
        ({}, "Vary", None),
        ({"vary": ("Accept",)}, "Vary", "Accept"),
        ({"vary": ("Accept", "Save-Data")}, "Vary", "Accept, Save-Data"),
        ({}, "Content-Disposition", None),
        ({"download_name": "a.jpg"}, "Content-Disposition", 'attachment; filename="a.jpg"'),
        ({}, "X-Imgproxy-Faces", None),
        ({"lacks_detector": True}, "X-Imgproxy-Faces", "no-detector"),
    ],
)
def test_the_request_decides_about_vary_and_the_file_name(
    request_: dict[str, Any], name: str, value: str | None
) -> None:
    """None of these headers is sent without a reason."""
    assert headers_of(delivered(), **request_).get(name) == value


@pytest.mark.parametrize(
    ("facts", "name", "value"),
    [
        ({}, "Content-Security-Policy", None),
        ({"content_type": "image/svg+xml"}, "Content-Security-Policy", SVG_POLICY),
        ({}, "X-Imgproxy-Animation", None),
        ({"is_first_frame_only": True}, "X-Imgproxy-Animation", "first-frame-only"),
    ],
)
def test_the_variant_decides_about_guards_and_notes(facts: dict[str, Any], name: str, value: str | None) -> None:
    """An SVG may run nothing in a browser; an animation that lost its frames says so."""
    assert headers_of(delivered(found=variant(**facts))).get(name) == value


def test_a_304_has_the_type_of_the_original() -> None:
    """No variant was looked for, so its own type is not known."""
    assert headers_of(not_modified())["Content-Type"] == "image/jpeg"


def test_a_picture_is_tagged_with_its_key_its_entry_and_its_watermark() -> None:
    """A purge of any of them must reach the answer in a cache in front."""
    mark = key_hash("logo.png")
    answer = delivered(proofs=((HASHED, 0), (mark, 0)))
    made = heads(entry="entry-1", tags=TagSettings(headers=("xkey", "Cache-Tag")))
    found = headers_of(answer, made)

    assert found["xkey"] == f"{key_tag(HASHED)} e-entry-1 {key_tag(mark)}"
    assert found["Cache-Tag"] == f"{key_tag(HASHED)},e-entry-1,{key_tag(mark)}"
    assert "Surrogate-Key" not in found


@pytest.mark.parametrize(
    ("request_", "answer", "expected_s"),
    [
        ({}, {}, None),
        ({"expires_at_s": 1_000_005}, {}, 5),
        ({}, {"is_interim": True}, INTERIM_TTL_S),
        ({}, {"found": variant(is_mark_missing=True)}, 60),
        ({"expires_at_s": 1_000_005}, {"is_interim": True}, 5),
        ({"expires_at_s": 1_000_500}, {"found": variant(is_mark_missing=True)}, 60),
    ],
    ids=["usual", "expires", "interim", "no-watermark", "expires-first", "expires-later"],
)
def test_the_shortest_bound_of_an_answer_counts(
    request_: dict[str, Any], answer: dict[str, Any], expected_s: int | None
) -> None:
    """The end of the URL, an interim answer and a missing watermark each bound how long an answer may be kept."""
    assert heads().at_most_s(wanted(**request_), delivered(**answer), 1_000_000.0) == expected_s


def test_a_bound_shortens_every_lifetime() -> None:
    """Browsers and caches in front are told the same."""
    found = headers_of(delivered(is_interim=True), heads(has_downstream=True))

    assert found["Cache-Control"] == f"public, max-age={INTERIM_TTL_S}, must-revalidate"
    assert found["CDN-Cache-Control"] == f"max-age={INTERIM_TTL_S}, must-revalidate"


def test_caches_in_front_keep_an_answer_for_a_day_if_they_are_purged() -> None:
    """Without a downstream they keep it no longer than a browser."""
    assert headers_of(delivered(), heads(has_downstream=True))["CDN-Cache-Control"].startswith("max-age=86400")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (delivered(), "imgproxy; hit; ttl=200; detail=memory"),
        (delivered(tier=Tier.DISK), "imgproxy; hit; ttl=200; detail=disk"),
        (not_modified(), "imgproxy; hit; ttl=200; detail=not-modified"),
        (delivered(Outcome.STALE, state=State.STALE, age_s=400), "imgproxy; hit; ttl=-100; detail=memory"),
        (delivered(Outcome.MISS, tier=Tier.ORIGIN), "imgproxy; fwd=miss; ttl=200; stored"),
        (
            delivered(Outcome.MISS, tier=Tier.ORIGIN, state=State.FETCHED),
            "imgproxy; fwd=uri-miss; fwd-status=200; ttl=200; stored",
        ),
        (
            delivered(Outcome.MISS, tier=Tier.ORIGIN, state=State.FETCHED, is_collapsed=True),
            "imgproxy; fwd=uri-miss; fwd-status=200; ttl=200; stored; collapsed",
        ),
        (delivered(Outcome.REVALIDATED, state=State.REVALIDATED), "imgproxy; fwd=stale; fwd-status=304; ttl=200"),
        (delivered(Outcome.PASS, tier=Tier.DISK), "imgproxy; hit; ttl=200; detail=disk"),
        (
            delivered(Outcome.PASS, tier=Tier.DISK, state=State.FETCHED),
            "imgproxy; fwd=uri-miss; fwd-status=200; ttl=200; stored",
        ),
    ],
    ids=["memory", "disk", "304", "stale", "made", "fetched", "collapsed", "revalidated", "pass", "pass-fetched"],
)
def test_cache_status_says_where_an_answer_came_from(answer: Delivered, expected: str) -> None:
    """RFC 9211; the ttl is what is left until the original is revalidated."""
    now_s = answer.original.facts.validated_at_s + (400 if answer.outcome is Outcome.STALE else 100)

    assert heads().cache_status(answer, now_s) == expected


def test_server_timing_has_the_stages_and_the_whole() -> None:
    """In milliseconds."""
    answer = delivered(timings=Timings(fetch_s=0.02, queue_s=0.0, render_s=0.05))

    assert headers_of(answer)["Server-Timing"].startswith("fetch;dur=20.0, render;dur=50.0, total;dur=")
