"""Delivery: the way of a request, from admission to the answer, and what it does when a purge comes in between."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgproxy.admission.policy import BURST_S, LONG_WAIT_JOBS
from imgproxy.cache.entry import Tier, key_hash
from imgproxy.config.sections import RenderSettings
from imgproxy.delivery.delivery import TRIES
from imgproxy.delivery.originals import State
from imgproxy.delivery.request import ORIGINAL_PLAN, Delivered, Outcome, Request, etag_of, outcome_of
from imgproxy.digest import digest_of
from imgproxy.errors import DecodeFailed, NotFound, Overloaded, PurgedMeanwhile
from imgproxy.failpoints import Point
from imgproxy.medialibrary.errors import OriginUnavailable
from imgproxy.params.plan import Format, Mark, Output, Px, RenderPlan, Resize
from imgproxy.workers.job import Lane
from tests.support.delivery import HASHED, KEY, MARK, NEW, OLD, Gate, loop_turns, parts
from tests.support.site import until

if TYPE_CHECKING:
    from imgproxy.admission.policy import Admitted
    from tests.support.delivery import Parts

PLAN = RenderPlan(resize=Resize(width=Px(100)))
LARGER = RenderPlan(resize=Resize(width=Px(200)))
MARKED = RenderPlan(mark=Mark(MARK))
AVIF = RenderPlan(output=Output(format=Format.AVIF))
WEBP = RenderPlan(output=Output(format=Format.WEBP))
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'
# One picture may be at work, and none may wait.
FULL_AT_ONCE = RenderSettings(processes=1, queue_max=0)


async def keep(delivered: Delivered) -> Delivered:
    """Begin the answer, which here is the delivered value itself."""
    return delivered


async def deliver(here: Parts, plan: RenderPlan | None = PLAN, **more: object) -> Delivered:
    return await here.delivery.answer(Request(KEY, plan, **more), keep)  # type: ignore[arg-type]


# --- pure parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "tier", "expected"),
    [
        (State.FRESH, Tier.MEMORY, Outcome.HIT),
        (State.FRESH, Tier.DISK, Outcome.HIT),
        (State.FRESH, Tier.ORIGIN, Outcome.MISS),
        (State.STALE, Tier.MEMORY, Outcome.STALE),
        (State.STALE, Tier.ORIGIN, Outcome.MISS),
        (State.REVALIDATED, Tier.DISK, Outcome.REVALIDATED),
        (State.REVALIDATED, Tier.ORIGIN, Outcome.MISS),
        (State.FETCHED, Tier.MEMORY, Outcome.MISS),
        (State.FETCHED, Tier.ORIGIN, Outcome.MISS),
    ],
)
def test_the_outcome_follows_from_the_variant_and_then_from_its_original(
    state: State, tier: Tier, expected: Outcome
) -> None:
    """A variant that was made, or whose original was fetched, is a miss; else the original's state decides."""
    assert outcome_of(state, tier) is expected


def test_an_entity_tag_tells_originals_and_plans_apart() -> None:
    """Another original or another plan has another tag; the same pair has the same tag in every process."""
    assert etag_of("a" * 32, "b" * 32) == etag_of("a" * 32, "b" * 32)
    assert len({etag_of("a", "b"), etag_of("b", "a"), etag_of("a", "c"), etag_of("ab", "")}) == 4
    assert etag_of("a", "b") == '"0a94e877dc84b50de8c5b21f"'


def test_the_tag_of_a_shared_decode_has_an_ending_of_its_own() -> None:
    """Other bytes need another strong tag (RFC 9110 8.8.1); its beginning is the tag that is known in advance."""
    alone = etag_of("a", "b")

    assert etag_of("a", "b", "3000-2") == f'{alone[:-1]}-3000-2"'


# --- hits and misses -----------------------------------------------------------------------------------------------


async def test_a_miss_then_a_hit_in_memory_then_a_hit_on_disk(tmp_path: Path) -> None:
    """One fetch and one render serve three requests with the same bytes and the same tag."""
    async with parts(tmp_path) as here:
        found = [await deliver(here), await deliver(here)]
        here.cache.hot.drop(HASHED)
        found.append(await deliver(here))

        assert [one.outcome for one in found] == [Outcome.MISS, Outcome.HIT, Outcome.HIT]
        assert [one.tier for one in found] == [Tier.ORIGIN, Tier.MEMORY, Tier.DISK]
        assert {one.etag for one in found} == {etag_of(digest_of(OLD), PLAN.digest)}
        assert len({one.variant.body for one in found if one.variant is not None}) == 1
        assert found[0].timings.queue_s == 0.25
        assert found[0].timings.render_s == 0.5
        assert found[0].timings.fetch_s > 0
        assert (here.origin.keys, here.batches.plans) == ([KEY], [PLAN])


async def test_a_current_copy_is_confirmed_without_a_look_at_the_cache(tmp_path: Path) -> None:
    """The variant exists nowhere, and nothing is rendered; the client's own tag is repeated."""
    async with parts(tmp_path) as here:
        asked: list[str] = []

        def client_has(etag: str) -> str:
            asked.append(etag)
            return '"the tag of the client"'

        delivered = await deliver(here, client_has=client_has)

        assert delivered.variant is None
        assert delivered.etag == '"the tag of the client"'
        assert delivered.proofs == ((HASHED, 0),)
        assert asked == [etag_of(digest_of(OLD), PLAN.digest)]
        assert here.batches.calls == []


async def test_a_copy_that_is_not_current_gets_the_variant(tmp_path: Path) -> None:
    """The condition fails, so the answer is the picture."""
    async with parts(tmp_path) as here:
        delivered = await deliver(here, client_has=lambda _etag: None)

        assert delivered.variant is not None


async def test_a_confirmed_copy_with_a_watermark_is_bound_to_the_watermark_too(tmp_path: Path) -> None:
    """A purge of the watermark alone must stop the 304."""
    async with parts(tmp_path) as here:
        here.origin.pictures[MARK] = NEW
        delivered = await deliver(here, MARKED, client_has=lambda etag: etag)
        holds = [here.cache.epochs.all_hold(delivered.proofs)]
        await here.purge(MARK)
        holds.append(here.cache.epochs.all_hold(delivered.proofs))

        assert [hashed for hashed, _ in delivered.proofs] == [HASHED, key_hash(MARK)]
        assert holds == [True, False]


async def test_without_a_plan_the_original_is_passed_on(tmp_path: Path) -> None:
    """Its own bytes, from its file; no render."""
    async with parts(tmp_path) as here:
        delivered = await deliver(here, None)

        assert delivered.outcome is Outcome.PASS
        assert delivered.variant is not None
        assert delivered.variant.path is not None
        assert Path(delivered.variant.path).read_bytes() == OLD
        assert delivered.etag == etag_of(digest_of(OLD), ORIGINAL_PLAN)
        assert here.batches.calls == []


async def test_an_svg_is_never_passed_on(tmp_path: Path) -> None:
    """It can carry scripts, so it is rendered even if nothing is asked of it."""
    async with parts(tmp_path) as here:
        here.origin.pictures[KEY] = SVG
        delivered = await deliver(here, None)

        assert delivered.outcome is Outcome.MISS
        assert here.batches.plans == [RenderPlan()]


async def test_a_watermark_that_cannot_be_had_does_not_keep_the_picture_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The picture comes without it, under another tag, and the log says why."""
    async with parts(tmp_path) as here:
        without = await deliver(here, MARKED)
        here.origin.pictures[MARK] = NEW
        here.refusals.forget(key_hash(MARK))
        with_mark = await deliver(here, MARKED)

        assert without.variant is not None
        assert without.variant.facts.is_mark_missing
        assert with_mark.variant is not None
        assert not with_mark.variant.facts.is_mark_missing
        assert without.etag != with_mark.etag
        assert "the watermark logo.png cannot be had" in caplog.text


# --- interim and fallback variants ---------------------------------------------------------------------------------


async def test_an_interim_variant_answers_while_the_right_one_is_made(tmp_path: Path) -> None:
    """The WebP is made for the visitor, the AVIF in the background; the next request gets the AVIF."""
    async with parts(tmp_path) as here:
        first = await deliver(here, AVIF, interim=lambda: WEBP)
        await until(lambda: len(here.delivery.background) == 0)
        second = await deliver(here, AVIF, interim=lambda: WEBP)

        assert first.is_interim
        assert first.etag == etag_of(digest_of(OLD), WEBP.digest)
        assert not second.is_interim
        assert (second.outcome, second.etag) == (Outcome.HIT, etag_of(digest_of(OLD), AVIF.digest))
        assert {(call.plan, call.lane) for call in here.batches.calls} == {
            (WEBP, Lane.VISITOR),
            (AVIF, Lane.BACKGROUND),
        }


async def test_without_an_interim_plan_the_right_variant_is_waited_for(tmp_path: Path) -> None:
    """The caller may find that no other format fits."""
    async with parts(tmp_path) as here:
        delivered = await deliver(here, AVIF, interim=lambda: None)

        assert not delivered.is_interim
        assert here.batches.plans == [AVIF]


async def test_a_failure_behind_an_interim_variant_is_logged_and_nothing_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The visitor has an answer; the right variant is tried again by the next request."""
    caplog.set_level("INFO")
    async with parts(tmp_path) as here:
        await deliver(here, WEBP)
        here.batches.errors = [Overloaded()]
        delivered = await deliver(here, AVIF, interim=lambda: WEBP)
        await until(lambda: len(here.delivery.background) == 0)

        assert delivered.is_interim
        assert "a.jpg could not be made behind its answer" in caplog.text


async def test_a_larger_variant_answers_when_the_render_is_refused(tmp_path: Path) -> None:
    """It counts as a hit, and as an interim answer, so that it is kept for a short time only."""
    async with parts(tmp_path) as here:
        larger = await deliver(here, LARGER)
        here.batches.errors = [Overloaded()]
        fallback = await deliver(here, PLAN)

        assert fallback.is_interim
        assert (fallback.outcome, fallback.etag) == (Outcome.HIT, larger.etag)
        assert fallback.variant is not None
        assert larger.variant is not None
        assert fallback.variant.body == larger.variant.body


async def test_without_a_larger_variant_the_refusal_is_the_answer(tmp_path: Path) -> None:
    """A smaller variant, or one of another picture, is no fallback."""
    async with parts(tmp_path) as here:
        await deliver(here, PLAN)
        here.batches.errors = [Overloaded()]
        with pytest.raises(Overloaded):
            await deliver(here, LARGER)


async def test_a_refused_picture_has_no_fallback(tmp_path: Path) -> None:
    """Only an overload is answered with another size."""
    async with parts(tmp_path) as here:
        await deliver(here, LARGER)
        here.batches.errors = [DecodeFailed()]
        with pytest.raises(DecodeFailed):
            await deliver(here, PLAN)


# --- admission -----------------------------------------------------------------------------------------------------


async def test_admission_is_asked_before_a_picture_is_fetched(tmp_path: Path) -> None:
    """A refused request costs the origin nothing."""
    async with parts(tmp_path, render=FULL_AT_ONCE) as here:
        async with here.admission.admit("another", "plan", is_fetched=True):
            with pytest.raises(Overloaded):
                await deliver(here)

        assert here.origin.asked == []
        assert (await deliver(here)).outcome is Outcome.MISS


async def test_admission_is_asked_once_a_request(tmp_path: Path) -> None:
    """Before the fetch if the original has to be fetched, else before the render. A hit is not asked about."""
    async with parts(tmp_path) as here:
        asked: list[bool] = []
        admit = here.admission.admit

        def noted(key_hash: str, plan: str, *, is_fetched: bool) -> Admitted:
            asked.append(is_fetched)
            return admit(key_hash, plan, is_fetched=is_fetched)

        here.admission.admit = noted  # type: ignore[method-assign]
        for plan in (PLAN, LARGER, PLAN):
            await deliver(here, plan)

        assert asked == [False, True]


@pytest.mark.parametrize("plan", [PLAN, None], ids=["hit", "original"])
async def test_what_needs_no_render_needs_no_admission(tmp_path: Path, plan: RenderPlan | None) -> None:
    """Hits and originals are answered however full the queue is."""
    async with parts(tmp_path, render=FULL_AT_ONCE) as here:
        if plan is not None:
            await deliver(here, plan)
        async with here.admission.admit("another", "plan", is_fetched=True):
            delivered = await deliver(here, plan)

        assert delivered.outcome in (Outcome.HIT, Outcome.PASS)


async def test_a_request_counts_in_admission_while_it_is_fetched_and_rendered(tmp_path: Path) -> None:
    """One picture is under way, so with `queue_max = 0` there is no place for another."""
    async with parts(tmp_path, render=FULL_AT_ONCE) as here:
        gate = Gate()
        here.origin.meanwhile = here.batches.meanwhile = gate.wait
        is_full = [here.admission.is_full]
        first = asyncio.create_task(deliver(here))
        await gate.arrived()
        is_full.append(here.admission.is_full)
        gate.open()
        await first
        is_full.append(here.admission.is_full)

        assert is_full == [False, True, False]


@pytest.mark.parametrize(
    ("is_overloaded", "plan", "is_cached", "expected"),
    [
        (True, PLAN, False, True),
        (False, PLAN, False, False),
        (True, None, False, False),
        (True, PLAN, True, False),
    ],
    ids=["refused", "no-overload", "an-original", "known"],
)
async def test_an_overload_refuses_a_picture_that_has_to_be_fetched_and_rendered(
    tmp_path: Path, is_overloaded: bool, plan: RenderPlan | None, is_cached: bool, expected: bool
) -> None:
    """`refuses` is asked by the fast path, before anything is done for the request."""
    async with parts(tmp_path) as here, AsyncExitStack() as waiting:
        if is_cached:
            await here.originals.current(KEY)
        for number in range(2 * LONG_WAIT_JOBS):
            await waiting.enter_async_context(here.admission.admit(str(number), "plan", is_fetched=True))
        if is_overloaded:
            here.admission_clock.now_s += 2 * BURST_S
            assert here.admission.refuses("another", "plan")

        assert here.delivery.refuses(Request(KEY, plan)) is expected


# --- purges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [Point.BEFORE_FETCH, Point.AFTER_FETCH, Point.AFTER_RENDER, Point.BEFORE_RESPONSE])
async def test_a_request_that_is_purged_under_way_starts_over_once(tmp_path: Path, point: Point) -> None:
    """It answers with the new picture, whatever it was doing when the purge came."""
    async with parts(tmp_path) as here:
        here.failpoints.hold(point)
        request = asyncio.create_task(deliver(here))
        await here.failpoints.arrived(point)
        here.origin.pictures[KEY] = NEW
        await here.purge()
        here.failpoints.release(point)
        delivered = await request

        assert delivered.variant is not None
        assert delivered.variant.body == PLAN.digest.encode() + NEW
        assert here.origin.keys[-1] == KEY


async def test_a_request_that_is_purged_again_and_again_is_told_so(tmp_path: Path) -> None:
    """It does not start over for ever."""
    async with parts(tmp_path) as here:
        here.failpoints.hold(Point.BEFORE_RESPONSE)
        request = asyncio.create_task(deliver(here))
        for _ in range(TRIES):
            await here.failpoints.arrived(Point.BEFORE_RESPONSE)
            await here.purge()
            here.failpoints.hold_again(Point.BEFORE_RESPONSE)

        with pytest.raises(PurgedMeanwhile):
            await request
        assert here.metric("imgproxy_overtaken_total", point="response") == TRIES


async def test_no_answer_begins_after_a_purge(tmp_path: Path) -> None:
    """The check and the beginning of the answer have no await between them, so `begin` sees only proofs that hold."""
    async with parts(tmp_path) as here:
        begun: list[Delivered] = []

        async def begin(delivered: Delivered) -> None:
            assert here.cache.epochs.all_hold(delivered.proofs)
            begun.append(delivered)

        here.failpoints.hold(Point.BEFORE_RESPONSE)
        request = asyncio.create_task(here.delivery.answer(Request(KEY, PLAN), begin))
        await here.failpoints.arrived(Point.BEFORE_RESPONSE)
        await here.purge()
        here.failpoints.release(Point.BEFORE_RESPONSE)
        await request

        assert len(begun) == 1


async def test_an_answer_whose_file_is_gone_starts_over(tmp_path: Path) -> None:
    """An eviction may take the file between the look at the cache and the beginning of the answer."""
    async with parts(tmp_path) as here:
        tries = 0

        async def begin(delivered: Delivered) -> Delivered:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise FileNotFoundError
            return delivered

        delivered = await here.delivery.answer(Request(KEY, PLAN), begin)

        assert tries == 2
        assert delivered.outcome is Outcome.HIT


@pytest.mark.parametrize(
    ("error", "expected"), [(OriginUnavailable(), OriginUnavailable), (None, NotFound)], ids=["down", "404"]
)
async def test_an_error_of_the_origin_is_the_answer(
    tmp_path: Path, error: OriginUnavailable | None, expected: type[Exception]
) -> None:
    """`begin` is not called."""
    async with parts(tmp_path) as here:
        here.origin.error = error
        here.origin.pictures.clear()
        with pytest.raises(expected):
            await deliver(here)


async def test_a_client_that_leaves_is_no_longer_counted(tmp_path: Path) -> None:
    """Its request ends, and with it the fetch that nobody else waits for."""
    async with parts(tmp_path) as here:
        gate = Gate()
        here.origin.meanwhile = gate.wait
        request = asyncio.create_task(deliver(here))
        await gate.arrived()
        request.cancel()
        await asyncio.wait([request])
        await loop_turns()

        assert here.originals.under_way == 0
        assert not here.originals.knows(KEY)
        assert here.temporary_files() == []
