"""
How far an original may be trusted: pure decisions from its facts and the time.

    fresh     proved within `revalidate_after_s`: answer
    stale     older: answer, and ask the origin behind the answer
    expired   older than `stale_if_error_s` beyond that, or unproved: ask the origin before the answer
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgproxy.cache.entry import OriginalFacts
    from imgproxy.config.sections import FreshnessSettings


class Freshness(StrEnum):
    """What may be done with an original that is in the cache."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"


def age_s(facts: OriginalFacts, now_s: float) -> float:
    """
    Seconds since the original was proved.

    A proof from the future means that the clock jumped: nothing is known of its age, so it counts as infinitely old
    once it is more than a minute ahead (which hosts synchronised by NTP are not).
    """
    age = now_s - facts.validated_at_s
    if age < -60.0:
        return float("inf")
    return max(0.0, age)


def judge(facts: OriginalFacts, now_s: float, settings: FreshnessSettings, *, is_proved: bool) -> Freshness:
    """Decide what may be done with these facts. `now_s` is Unix time; `is_proved` as in `Cache.is_proved`."""
    if not is_proved:
        return Freshness.EXPIRED
    age = age_s(facts, now_s)
    if age <= settings.revalidate_after_s:
        return Freshness.FRESH
    if age <= settings.revalidate_after_s + settings.stale_if_error_s:
        return Freshness.STALE
    return Freshness.EXPIRED


def fresh_for_s(facts: OriginalFacts, now_s: float, settings: FreshnessSettings) -> float:
    """Seconds until the original must be proved again; negative when that is overdue."""
    return settings.revalidate_after_s - age_s(facts, now_s)
