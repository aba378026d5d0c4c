"""Refusals: each answers for its own time, as an error of its own."""

from __future__ import annotations

import pytest

from imgproxy.delivery.refusals import Refusals
from imgproxy.errors import DecodeFailed, NotFound, Revoked
from imgproxy.medialibrary.errors import LibraryNotFound

EXPIRED_S, LONG_S = 0.0, 1e6


def test_a_refusal_answers_its_own_name() -> None:
    """Key hashes and pairs of digests are names; another name is not refused."""
    refusals = Refusals()
    refusals.remember("key hash", Revoked(), LONG_S)
    refusals.remember(("digest", "plan"), DecodeFailed(), LONG_S)

    with pytest.raises(Revoked):
        refusals.raise_if_refused("key hash")
    with pytest.raises(DecodeFailed):
        refusals.raise_if_refused(("digest", "plan"))
    refusals.raise_if_refused(("digest", "other plan"))
    assert "key hash" in refusals
    assert "other" not in refusals


def test_each_refusal_has_a_time_of_its_own() -> None:
    """One that has run out is not there; the others stay, in whatever order they came."""
    refusals = Refusals()
    refusals.remember("long", NotFound(), LONG_S)
    refusals.remember("expired", NotFound(), EXPIRED_S)
    refusals.remember("longer", NotFound(), 2 * LONG_S)

    assert refusals.get("expired") is None
    assert "expired" not in refusals
    refusals.raise_if_refused("expired")
    long, longer = refusals.get("long"), refusals.get("longer")
    assert long is not None
    assert longer is not None
    assert long.until_s - long.since_s == LONG_S
    assert LONG_S - 100 < long.ttl_s <= LONG_S < longer.ttl_s


def test_a_later_refusal_replaces_an_earlier_one() -> None:
    """The origin's last word counts, with its time."""
    refusals = Refusals()
    refusals.remember("a", NotFound(), LONG_S)
    refusals.remember("a", Revoked(), 2 * LONG_S)

    with pytest.raises(Revoked):
        refusals.raise_if_refused("a")


def test_a_refusal_can_be_forgotten() -> None:
    """A purge forgets it; to forget an unknown name is allowed."""
    refusals = Refusals()
    refusals.remember("a", NotFound(), LONG_S)
    for _ in range(2):
        refusals.forget("a")

    refusals.raise_if_refused("a")


def test_each_caller_gets_an_error_of_its_own() -> None:
    """A raised error keeps the frames of its caller alive, so the remembered one is never raised itself."""
    refusals = Refusals()
    refusals.remember("a", NotFound(), LONG_S)
    raised = []
    for _ in range(3):
        with pytest.raises(NotFound) as caught:
            refusals.raise_if_refused("a")
        raised.append(caught.value)

    remembered = refusals.get("a")
    assert remembered is not None
    assert len({id(error) for error in (*raised, remembered.error)}) == 4
    assert remembered.error.__traceback__ is None


def test_a_remembered_refusal_holds_no_text_from_outside() -> None:
    """The origin's message and the path, up to 6 kB of a stranger's key, are not kept with it."""
    refusals = Refusals()
    refusals.remember("key hash", LibraryNotFound(message="m" * 300, where="GET /" + "k" * 6000), LONG_S)

    kept = refusals.get("key hash")
    assert kept is not None
    assert kept.error.facts() == {"message": "", "where": "", "is_api_answer": True}
