"""Variants: each is made once, refusals of a picture are remembered, and no stale generation is kept."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from imgproxy.cache.entry import Tier, key_hash
from imgproxy.delivery.asked import StaleGeneration
from imgproxy.delivery.variants import Sources
from imgproxy.errors import (
    CacheUnavailable,
    DecodeFailed,
    ImageRefused,
    NotAnImage,
    Overloaded,
    RenderCrashed,
    RenderOutOfMemory,
    RenderTimeout,
    TooManyPixels,
)
from imgproxy.failpoints import Point
from imgproxy.medialibrary.errors import OriginUnavailable
from imgproxy.params.plan import Mark, Px, RenderPlan, Resize
from imgproxy.workers.job import Lane
from tests.support.delivery import HASHED, KEY, MARK, NEW, OLD, Gate, loop_turns, parts

if TYPE_CHECKING:
    from pathlib import Path

    from imgproxy.delivery.variants import Made
    from tests.support.delivery import Parts

PLAN = RenderPlan(resize=Resize(width=Px(100)))
LARGER = RenderPlan(resize=Resize(width=Px(200)))
MARKED = RenderPlan(resize=Resize(width=Px(100)), mark=Mark(MARK))
GIF = b"GIF89a an animation"
TIMEOUT = RenderTimeout(1, 2)


async def sources_of(here: Parts, plan: RenderPlan = PLAN) -> Sources:
    """The current originals of a plan."""
    original = await here.originals.current(KEY)
    if plan.mark is None:
        return Sources(original)
    return Sources(original, await here.originals.current(MARK), wants_mark=True)


async def make(here: Parts, plan: RenderPlan = PLAN, lane: Lane = Lane.VISITOR) -> Made:
    return await here.variants.make(await sources_of(here, plan), plan, lane=lane)


async def test_a_variant_is_made_and_kept(tmp_path: Path) -> None:
    """It is in memory and on disk afterwards, with the facts of its render, and no temporary file is left."""
    async with parts(tmp_path) as here:
        sources = await sources_of(here)
        made = await here.variants.make(sources, PLAN)
        in_memory = await here.cache.find(sources.provenance, PLAN.digest)
        here.cache.hot.drop(HASHED)
        on_disk = await here.cache.find(sources.provenance, PLAN.digest)

        assert made.variant.body == PLAN.digest.encode() + OLD
        assert (made.timings.queue_s, made.timings.render_s, made.is_collapsed) == (0.25, 0.5, False)
        assert in_memory is not None
        assert on_disk is not None
        assert (in_memory.tier, on_disk.tier) == (Tier.MEMORY, Tier.DISK)
        assert in_memory.variant.body == on_disk.variant.body == made.variant.body
        assert here.temporary_files() == []
        assert here.variants.under_way == 0


async def test_requests_for_one_variant_share_its_render(tmp_path: Path) -> None:
    """It is rendered once, and all but the first caller are collapsed."""
    async with parts(tmp_path) as here:
        made = await asyncio.gather(*(make(here) for _ in range(5)))

        assert here.batches.plans == [PLAN]
        assert sorted(one.is_collapsed for one in made) == [False, True, True, True, True]
        assert len({one.variant.body for one in made}) == 1


async def test_a_caller_that_leaves_does_not_cancel_the_render_of_the_others(tmp_path: Path) -> None:
    """The first caller is cancelled; the second one gets the variant."""
    async with parts(tmp_path) as here:
        gate = Gate()
        here.batches.meanwhile = gate.wait
        first = asyncio.create_task(make(here))
        await gate.arrived()
        second = asyncio.create_task(make(here))
        await loop_turns()
        first.cancel()
        await loop_turns()
        gate.open()

        assert (await second).is_collapsed
        assert first.cancelled()
        assert here.batches.plans == [PLAN]


@pytest.mark.parametrize(
    ("asked", "data", "expected"),
    [
        (Lane.VISITOR, OLD, Lane.VISITOR),
        (Lane.VISITOR, GIF, Lane.ANIMATION),
        (Lane.BACKGROUND, OLD, Lane.BACKGROUND),
        (Lane.BACKGROUND, GIF, Lane.BACKGROUND),
    ],
)
async def test_a_gif_waits_in_the_lane_of_animations(tmp_path: Path, asked: Lane, data: bytes, expected: Lane) -> None:
    """Animations take long, so they do not hold up still pictures; background work stays where it is."""
    async with parts(tmp_path) as here:
        here.origin.pictures[KEY] = data
        await make(here, lane=asked)

        assert [call.lane for call in here.batches.calls] == [expected]


@pytest.mark.parametrize(
    "error",
    [DecodeFailed(), NotAnImage(), TooManyPixels(9, 1), RenderOutOfMemory(1, 2), RenderCrashed()],
    ids=lambda error: error.code,
)
async def test_a_refused_picture_is_not_rendered_again(tmp_path: Path, error: ImageRefused) -> None:
    """The reason lies in its bytes; another size of it is tried."""
    async with parts(tmp_path) as here:
        here.batches.errors = [error]
        for _ in range(2):
            with pytest.raises(type(error)):
                await make(here)
        await make(here, LARGER)

        assert here.batches.plans == [PLAN, LARGER]


async def test_a_refusal_does_not_outlive_the_bytes_that_it_is_about(tmp_path: Path) -> None:
    """The name of the refusal has the digest of the original: a changed picture is rendered."""
    async with parts(tmp_path) as here:
        here.batches.errors = [DecodeFailed()]
        with pytest.raises(DecodeFailed):
            await make(here)
        here.origin.pictures[KEY] = NEW
        await here.purge()

        assert (await make(here)).variant.body == PLAN.digest.encode() + NEW


async def test_only_the_second_timeout_in_a_row_is_remembered(tmp_path: Path) -> None:
    """The first one may be the machine's fault."""
    async with parts(tmp_path) as here:
        here.batches.errors = [TIMEOUT, TIMEOUT]
        for _ in range(3):
            with pytest.raises(RenderTimeout):
                await make(here)

        assert here.batches.plans == [PLAN, PLAN]


async def test_a_render_that_ends_well_forgets_the_timeout_before_it(tmp_path: Path) -> None:
    """Then the next timeout is the first one again."""
    async with parts(tmp_path) as here:
        here.batches.errors = [TIMEOUT]
        with pytest.raises(RenderTimeout):
            await make(here)
        await make(here)
        here.batches.errors = [TIMEOUT]
        with pytest.raises(RenderTimeout):
            await make(here)
        await make(here)

        assert here.batches.plans == [PLAN] * 4


async def test_an_overload_is_not_remembered(tmp_path: Path) -> None:
    """It says nothing about the picture."""
    async with parts(tmp_path) as here:
        here.batches.errors = [Overloaded()]
        with pytest.raises(Overloaded):
            await make(here)

        assert (await make(here)).variant.body is not None


async def test_a_disk_that_refuses_is_unavailable_for_this_request_only(tmp_path: Path) -> None:
    """The caller gets CacheUnavailable, and the next one tries again."""
    async with parts(tmp_path) as here:
        here.batches.errors = [OSError("no space")]
        with pytest.raises(CacheUnavailable):
            await make(here)

        assert (await make(here)).variant.body is not None


async def test_a_variant_of_a_purged_original_is_not_kept(tmp_path: Path) -> None:
    """Its file has gone with the purge, or is removed."""
    async with parts(tmp_path) as here:
        here.failpoints.hold(Point.AFTER_RENDER)
        making = asyncio.create_task(make(here))
        await here.failpoints.arrived(Point.AFTER_RENDER)
        await here.purge()
        here.failpoints.release(Point.AFTER_RENDER)

        with pytest.raises(StaleGeneration):
            await making
        assert here.temporary_files() == []


async def test_a_variant_of_a_purged_watermark_is_not_kept(tmp_path: Path) -> None:
    """Both originals must hold."""
    async with parts(tmp_path) as here:
        here.origin.pictures[MARK] = NEW
        here.failpoints.hold(Point.AFTER_RENDER)
        making = asyncio.create_task(make(here, MARKED))
        await here.failpoints.arrived(Point.AFTER_RENDER)
        await here.purge(MARK)
        here.failpoints.release(Point.AFTER_RENDER)

        with pytest.raises(StaleGeneration):
            await making


async def test_after_a_purge_a_request_does_not_join_the_older_render(tmp_path: Path) -> None:
    """It has a render of its own, of the new picture."""
    async with parts(tmp_path) as here:
        gate = Gate()
        here.batches.meanwhile = gate.wait
        older = asyncio.create_task(make(here))
        await gate.arrived()
        here.origin.pictures[KEY] = NEW
        await here.purge()
        newer = asyncio.create_task(make(here))
        await gate.arrived()
        gate.open()

        with pytest.raises(StaleGeneration):
            await older
        assert (await newer).variant.body == PLAN.digest.encode() + NEW


@pytest.mark.parametrize("error", [DecodeFailed(), OSError("no such file")], ids=["refused", "no-file"])
@pytest.mark.parametrize("way", ["purged", "evicted"])
async def test_a_render_that_fails_because_its_original_went_starts_the_request_over(
    tmp_path: Path, way: str, error: Exception
) -> None:
    """That is no fault of the picture or of the disk, so it is not remembered."""
    async with parts(tmp_path) as here:
        sources = await sources_of(here)

        async def lose() -> None:
            if way == "purged":
                await here.purge()
            else:
                here.evict()

        here.batches.meanwhile, here.batches.errors = lose, [error]
        with pytest.raises(StaleGeneration):
            await here.variants.make(sources, PLAN)

        assert (sources.provenance.digest, PLAN.digest) not in here.refusals


async def test_an_evicted_original_is_fetched_again_for_the_render(tmp_path: Path) -> None:
    """The variant carries the newer proof, and the time of that fetch."""
    async with parts(tmp_path) as here:
        sources = await sources_of(here)
        here.evict()
        made = await here.variants.make(sources, PLAN)

        assert made.variant.body == PLAN.digest.encode() + OLD
        assert here.origin.keys == [KEY, KEY]
        assert made.timings.fetch_s > 0


async def test_a_watermark_is_given_to_the_render(tmp_path: Path) -> None:
    """The variant names both originals, and is bound to the proofs of both."""
    async with parts(tmp_path) as here:
        here.origin.pictures[MARK] = NEW
        made = await make(here, MARKED)

        assert made.variant.body == MARKED.digest.encode() + OLD + NEW
        assert [hashed for hashed, _ in made.variant.proofs] == [key_hash(KEY), key_hash(MARK)]
        assert not made.variant.facts.is_mark_missing


async def test_a_watermark_whose_file_cannot_be_had_costs_only_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The picture is rendered without it, under a name of its own, and the log says why."""
    async with parts(tmp_path) as here:
        here.origin.pictures[MARK] = NEW
        sources = await sources_of(here, MARKED)
        here.evict(MARK)
        here.origin.error = OriginUnavailable()
        made = await here.variants.make(sources, MARKED)

        assert made.variant.body == MARKED.digest.encode() + OLD
        assert made.variant.facts.is_mark_missing
        assert made.variant.facts.original != sources.provenance.digest
        assert [hashed for hashed, _ in made.variant.proofs] == [key_hash(KEY)]
        assert "the file of the watermark logo.png cannot be had" in caplog.text


async def test_close_cancels_what_is_under_way(tmp_path: Path) -> None:
    """A caller that still waits is cancelled, and no file is left."""
    async with parts(tmp_path) as here:
        gate = Gate()
        here.batches.meanwhile = gate.wait
        making = asyncio.create_task(make(here))
        await gate.arrived()
        await here.variants.close()
        await asyncio.wait([making])

        assert making.cancelled()
        assert here.temporary_files() == []
