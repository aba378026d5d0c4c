"""Originals: when the origin is asked, when a cached original answers, and what a purge changes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from imgproxy.delivery.asked import StaleGeneration
from imgproxy.delivery.originals import CLOCK_SKEW_S, State, judge
from imgproxy.errors import ImgproxyError, NotFound, OriginUnreachable, Revoked
from imgproxy.medialibrary.errors import Forbidden, LibraryNotFound, OriginUnavailable
from imgproxy.medialibrary.models import Validators
from tests.support.cache import original_facts
from tests.support.delivery import FRESHNESS, KEY, NEW, Gate, loop_turns, parts
from tests.support.site import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.delivery import Parts


@pytest.mark.parametrize(
    ("age_s", "expected"),
    [
        (0, State.FRESH),
        (300, State.FRESH),
        (301, State.STALE),
        (1300, State.STALE),
        (1301, None),
        (-30, State.FRESH),
        (-CLOCK_SKEW_S, State.FRESH),
        (-CLOCK_SKEW_S - 1, None),
    ],
)
def test_the_age_of_the_last_proof_decides(age_s: float, expected: State | None) -> None:
    """An original is fresh for 300 s and stale for 1000 s more; a proof from the future is no proof."""
    facts = replace(original_facts(b"o"), validated_at_s=10_000)

    assert judge(facts, 10_000 + age_s, FRESHNESS, is_proved=True) is expected


@pytest.mark.parametrize("age_s", [0, 301])
def test_an_unproved_original_is_revalidated_first(age_s: float) -> None:
    """Facts of a lost journal may have missed a purge, however young they are."""
    facts = replace(original_facts(b"o"), validated_at_s=10_000)

    assert judge(facts, 10_000 + age_s, FRESHNESS, is_proved=False) is None


async def fetched(here: Parts) -> None:
    """Have the original in the cache, and forget that the origin was asked."""
    await here.originals.current(KEY)
    here.origin.asked.clear()


async def test_an_unknown_original_is_fetched_and_a_fresh_one_is_not(tmp_path: Path) -> None:
    """The first call asks the origin without validators; the second answers from the cache."""
    async with parts(tmp_path) as here:
        first = await here.originals.current(KEY)
        here.clock.now_s += 300
        second = await here.originals.current(KEY)

        assert (first.state, second.state) == (State.FETCHED, State.FRESH)
        assert first.facts == second.facts
        assert here.origin.asked == [(KEY, None)]


async def test_a_stale_original_answers_and_is_revalidated_behind_the_answer(tmp_path: Path) -> None:
    """The call does not wait for the origin; the next one finds the original fresh again."""
    async with parts(tmp_path) as here:
        await fetched(here)
        here.clock.now_s += 301
        gate = Gate()
        here.origin.meanwhile = gate.wait
        stale = await here.originals.current(KEY)
        await gate.arrived()
        gate.open()
        await until(lambda: here.originals.under_way == 0)

        assert stale.state is State.STALE
        assert here.origin.asked == [(KEY, Validators(stale.facts.etag, None))]
        assert (await here.originals.current(KEY)).state is State.FRESH


@pytest.mark.parametrize(("retry_behind_s", "requests"), [(1e6, 1), (0.0, 3)])
async def test_while_the_origin_fails_a_key_is_revalidated_once_in_a_while(
    tmp_path: Path, retry_behind_s: float, requests: int
) -> None:
    """Otherwise every stale answer would cost the failing origin one more request."""
    async with parts(tmp_path, retry_behind_s=retry_behind_s) as here:
        await fetched(here)
        here.clock.now_s += 301
        here.origin.error = OriginUnavailable()
        for _ in range(3):
            assert (await here.originals.current(KEY)).state is State.STALE
            await until(lambda: here.originals.under_way == 0)

        assert here.origin.keys == [KEY] * requests


async def test_an_expired_original_is_revalidated_before_the_answer(tmp_path: Path) -> None:
    """The origin confirms it, and it counts as proved at the time at which the origin was asked."""
    async with parts(tmp_path) as here:
        await fetched(here)
        here.clock.now_s += 1301
        original = await here.originals.current(KEY)

        assert original.state is State.REVALIDATED
        assert original.facts.validated_at_s == here.clock.now_s
        assert here.origin.keys == [KEY]


async def test_an_expired_original_does_not_answer_while_the_origin_is_down(tmp_path: Path) -> None:
    """The caller gets the origin's error; the original stays cached."""
    async with parts(tmp_path) as here:
        await fetched(here)
        here.clock.now_s += 1301
        here.origin.error = OriginUnavailable()
        with pytest.raises(OriginUnreachable):
            await here.originals.current(KEY)

        assert here.facts() is not None


async def test_callers_of_one_key_share_a_fetch(tmp_path: Path) -> None:
    """The origin is asked once, and all but the first caller are collapsed."""
    async with parts(tmp_path) as here:
        found = await asyncio.gather(*(here.originals.current(KEY) for _ in range(5)))

        assert here.origin.keys == [KEY]
        assert sorted(original.is_collapsed for original in found) == [False, True, True, True, True]


async def test_a_key_that_is_cached_refused_or_being_fetched_is_known(tmp_path: Path) -> None:
    """A request for such a key needs no fetch of its own."""
    async with parts(tmp_path) as here:
        gate = Gate()
        here.origin.meanwhile = gate.wait
        is_known = [here.originals.knows(KEY)]
        fetch = asyncio.create_task(here.originals.current(KEY))
        await gate.arrived()
        is_known.append(here.originals.knows(KEY))
        gate.open()
        await fetch
        is_known.append(here.originals.knows(KEY))
        with suppress(NotFound):
            await here.originals.current("nothing.jpg")

        assert is_known == [False, True, True]
        assert here.originals.knows("nothing.jpg")
        assert not here.originals.knows("other.jpg")


async def test_a_refusal_is_remembered_until_a_purge(tmp_path: Path) -> None:
    """The origin is not asked again about a refused key; after a purge it is."""
    async with parts(tmp_path) as here:
        here.origin.error = Forbidden()
        for _ in range(2):
            with pytest.raises(Revoked):
                await here.originals.current(KEY)
        refusal = here.originals.refusal(KEY)
        here.origin.error = None
        await here.purge()

        assert refusal is not None
        assert here.origin.keys == [KEY]
        assert (await here.originals.current(KEY)).state is State.FETCHED


async def test_after_a_purge_a_caller_does_not_join_the_older_fetch(tmp_path: Path) -> None:
    """The older fetch ends as a stale generation; the newer one has the new picture."""
    async with parts(tmp_path) as here:
        gate = Gate()
        here.origin.meanwhile = gate.wait
        older = asyncio.create_task(here.originals.current(KEY))
        await gate.arrived()
        here.origin.pictures[KEY] = NEW
        await here.purge()
        newer = asyncio.create_task(here.originals.current(KEY))
        await gate.arrived()
        gate.open()

        with pytest.raises(StaleGeneration):
            await older
        assert (await newer).facts.size_bytes == len(NEW)
        assert here.metric("imgproxy_overtaken_total", point="fetch") == 1


async def test_an_evicted_file_is_fetched_again(tmp_path: Path) -> None:
    """`file` returns the path, and an original whose proof is the newer one."""
    async with parts(tmp_path) as here:
        original = await here.originals.current(KEY)
        same, path = await here.originals.file(original)
        here.evict()
        again, path_again = await here.originals.file(original)

        assert same is original
        assert path == path_again
        assert again.state is State.FETCHED
        assert here.origin.keys == [KEY, KEY]


async def test_an_evicted_file_whose_picture_has_changed_starts_the_request_over(tmp_path: Path) -> None:
    """The bytes fetched now belong to another picture than the caller has."""
    async with parts(tmp_path) as here:
        original = await here.originals.current(KEY)
        here.evict()
        here.origin.pictures[KEY] = NEW

        with pytest.raises(StaleGeneration):
            await here.originals.file(original)


async def test_revalidate_does_nothing_for_a_key_that_is_not_cached(tmp_path: Path) -> None:
    """There is nothing to prove."""
    async with parts(tmp_path) as here:
        await here.originals.revalidate(KEY)

        assert here.origin.asked == []


@pytest.mark.parametrize(("error", "is_kept"), [(OriginUnavailable(), True), (Forbidden(), False)])
async def test_revalidate_raises_and_forgets_only_what_the_origin_refuses(
    tmp_path: Path, error: ImgproxyError, is_kept: bool
) -> None:
    """An origin that is down says nothing about the picture; a 403 does."""
    async with parts(tmp_path) as here:
        await fetched(here)
        here.origin.error = error
        with pytest.raises(type(error)):
            await here.originals.revalidate(KEY)

        assert (here.facts() is not None) is is_kept


async def test_revalidate_waits_for_a_fetch_under_way_and_then_asks_anew(tmp_path: Path) -> None:
    """The fetch may have asked the origin too early."""
    async with parts(tmp_path) as here:
        gate = Gate()
        here.origin.meanwhile = gate.wait
        fetch = asyncio.create_task(here.originals.current(KEY))
        await gate.arrived()
        check = asyncio.create_task(here.originals.revalidate(KEY))
        await loop_turns()
        asked = list(here.origin.keys)
        gate.open()
        await asyncio.gather(fetch, check)

        assert asked == [KEY]
        assert here.origin.keys == [KEY, KEY]


async def test_revalidate_does_not_join_a_revalidation_under_way(tmp_path: Path) -> None:
    """It may have asked the origin before the picture was changed."""
    async with parts(tmp_path) as here:
        await fetched(here)
        here.clock.now_s += 301
        gate = Gate()
        here.origin.meanwhile = gate.wait
        await here.originals.current(KEY)
        await gate.arrived()
        here.origin.pictures[KEY] = NEW
        check = asyncio.create_task(here.originals.revalidate(KEY))
        await gate.arrived()
        gate.open()
        await check

        assert here.origin.keys == [KEY, KEY]
        assert here.facts() is None  # the picture has changed, so the old one is purged
        assert (await here.originals.current(KEY)).facts.size_bytes == len(NEW)


async def test_the_takedown_bound_is_the_age_of_the_oldest_proof_that_answered_after_its_time(tmp_path: Path) -> None:
    """It counts from the proof, and ends with a new proof or a purge."""
    async with parts(tmp_path) as here:
        await fetched(here)
        fresh_s = here.originals.oldest_unproved_s
        here.clock.now_s += 400
        here.origin.error = OriginUnavailable()
        await here.originals.current(KEY)
        await until(lambda: here.originals.under_way == 0)
        unproved_s = here.originals.oldest_unproved_s
        here.origin.error = None
        await here.originals.revalidate(KEY)

        assert (fresh_s, unproved_s, here.originals.oldest_unproved_s) == (0, 400, 0)


# --- soft purges -----------------------------------------------------------------------------------------------------


def soften(here: Parts) -> None:
    """Purge the key softly, as the purge service does."""
    here.cache.soften(KEY, here.clock.now_s - FRESHNESS.revalidate_after_s - 1)


async def test_what_a_fetch_under_way_brings_is_stale_after_a_soft_purge(tmp_path: Path) -> None:
    """It is served once more, and revalidated behind the answer. The key was not even cached when the purge came."""
    async with parts(tmp_path) as here:
        gate = Gate()
        here.origin.meanwhile = gate.wait
        calls = [asyncio.create_task(here.originals.current(KEY)) for _ in range(2)]
        await gate.arrived()
        here.origin.pictures[KEY] = NEW
        soften(here)
        late = asyncio.create_task(here.originals.current(KEY))  # it joins the fetch
        await loop_turns()
        gate.open()
        await asyncio.gather(*calls, late)

        once_more = await here.originals.current(KEY)
        await until(lambda: here.originals.under_way == 0)

        assert once_more.state is State.STALE
        assert (await here.originals.current(KEY)).facts.size_bytes == len(NEW)


@pytest.mark.parametrize("age_s", [301, 2_000], ids=["behind an answer", "before the answer"])
async def test_a_revalidation_under_way_does_not_make_the_key_fresh_after_a_soft_purge(
    tmp_path: Path, age_s: float
) -> None:
    """Its 304 says what was true before. The next answer starts a new revalidation at once, and does not join it."""
    async with parts(tmp_path) as here:
        await fetched(here)
        here.clock.now_s += age_s
        gate = Gate()
        here.origin.meanwhile = gate.wait
        first = asyncio.create_task(here.originals.current(KEY))
        await gate.arrived()
        here.origin.pictures[KEY] = NEW
        soften(here)
        second = asyncio.create_task(here.originals.current(KEY))
        await gate.arrived()
        gate.open()
        await asyncio.gather(first, second, return_exceptions=True)
        await until(lambda: here.originals.under_way == 0)

        assert here.origin.keys == [KEY, KEY]
        assert (await here.originals.current(KEY)).facts.size_bytes == len(NEW)


async def test_a_304_from_before_a_soft_purge_is_a_stale_proof(tmp_path: Path) -> None:
    """While no other request comes, the key stays stale."""
    async with parts(tmp_path) as here:
        await fetched(here)
        here.clock.now_s += 301
        gate = Gate()
        here.origin.meanwhile = gate.wait
        await here.originals.current(KEY)
        await gate.arrived()
        soften(here)
        gate.open()
        await loop_turns()

        facts = here.facts()
        assert facts is not None
        assert judge(facts, here.clock.now_s, FRESHNESS, is_proved=True) is State.STALE


async def test_a_refusal_from_before_a_soft_purge_is_not_remembered(tmp_path: Path) -> None:
    """Neither one that is remembered already, nor one that is under way."""
    async with parts(tmp_path) as here:
        here.origin.error = LibraryNotFound(message="no such image", where=KEY)
        with pytest.raises(NotFound):
            await here.originals.current(KEY)
        soften(here)
        gate = Gate()
        here.origin.meanwhile = gate.wait
        under_way = asyncio.create_task(here.originals.current(KEY))
        await gate.arrived()
        here.origin.error = None
        soften(here)
        gate.open()
        with pytest.raises(NotFound):
            await under_way

        assert (await here.originals.current(KEY)).state is State.FETCHED
