"""How far an original is trusted."""

import pytest
from imgproxy.delivery.freshness import Freshness, fresh_for_s, judge

from imgproxy.cache.entry import OriginalFacts
from imgproxy.config.sections import FreshnessSettings

SETTINGS = FreshnessSettings(revalidate_after_s=300, stale_if_error_s=1000)


def facts(validated_at_s: float) -> OriginalFacts:
    return OriginalFacts("k", "d", 1, "image/jpeg", None, None, "j", 0, 0.0, validated_at_s)


@pytest.mark.parametrize(
    ("age_s", "expected"),
    [
        (0, Freshness.FRESH),
        (300, Freshness.FRESH),
        (301, Freshness.STALE),
        (1300, Freshness.STALE),
        (1301, Freshness.EXPIRED),
        (-30, Freshness.FRESH),
        (-61, Freshness.EXPIRED),
    ],
)
def test_age_decides(age_s: float, expected: Freshness) -> None:
    """Fresh, then stale, then expired; a proof from the future is worth nothing once the clock jumped by a minute."""
    assert judge(facts(10_000.0), 10_000.0 + age_s, SETTINGS, is_proved=True) is expected


def test_an_unproved_original_is_expired_however_young() -> None:
    """What another journal counted must be asked for again."""
    assert judge(facts(10_000.0), 10_000.0, SETTINGS, is_proved=False) is Freshness.EXPIRED


def test_the_time_left_is_counted_down() -> None:
    """`fresh_for_s` becomes negative when the proof is overdue."""
    assert fresh_for_s(facts(0.0), 100.0, SETTINGS) == 200.0
    assert fresh_for_s(facts(0.0), 400.0, SETTINGS) == -100.0
