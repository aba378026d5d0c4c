"""The face record, and how delivery finds it once for an original."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from imgproxy.delivery.asked import StaleGeneration
from imgproxy.delivery.variants import Sources
from imgproxy.digest import digest_of
from imgproxy.errors import DecodeFailed, FacesUnavailable
from imgproxy.params.faces import plan_of_faces, without_faces
from imgproxy.params.plan import FaceChoice, Fit, Px, RenderPlan, Resize
from imgproxy.workers.faces import Face, read_record, write_record
from tests.support.delivery import KEY, NEW, OLD, parts

if TYPE_CHECKING:
    from pathlib import Path

    from imgproxy.delivery.variants import Made
    from tests.support.delivery import Parts

FACES = (Face(0.25, 0.125, 0.5, 0.25, 0.9), Face(0.0, 0.5, 0.125, 0.5, 0.75))
SQUARE = RenderPlan(resize=Resize(Px(100), Px(100), fit=Fit.CROP, faces=FaceChoice()))
STRIP = RenderPlan(resize=Resize(Px(300), Px(100), fit=Fit.CROP, faces=FaceChoice()))
RECORD = plan_of_faces(SQUARE)


async def make(here: Parts, plan: RenderPlan) -> Made:
    return await here.variants.make(Sources(await here.originals.current(KEY)), plan)


def test_a_record_reads_as_it_was_written() -> None:
    """Order and numbers stay; no face is a record, too."""
    assert read_record(write_record(FACES)) == FACES
    assert read_record(write_record(())) == ()


def test_a_record_may_have_more_fields_than_this_version_knows() -> None:
    """A newer version may write more into a record; an older one still reads what it knows."""
    record = json.loads(write_record(FACES))
    record["model"] = "another"
    record["faces"][0]["eyes"] = [1, 2]
    assert read_record(json.dumps(record).encode()) == FACES


FACE = '"left": 0.1, "top": 0.1, "width": 0.2, "height": 0.2, "confidence": 0.9'


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        "{}",
        '{"faces": [{}]}',
        '{"faces": [{"left": "x"}]}',
        f'{{"faces": [{{{FACE.replace("0.2", "-0.2")}}}]}}',
        f'{{"faces": [{{{FACE.replace("0.2", "2")}}}]}}',
        f'{{"faces": [{{{FACE.replace("0.1", "NaN")}}}]}}',
        f'{{"faces": [{",".join(["{" + FACE + "}"] * 51)}]}}',
    ],
)
def test_what_is_no_record_is_refused(record: str) -> None:
    """A process that a picture has taken over cannot send boxes that no picture has."""
    with pytest.raises(ValueError, match=r"."):
        read_record(record.encode())


async def test_faces_are_found_once_for_all_variants(tmp_path: Path) -> None:
    """Two plans at the same time and one later share one record, and each job gets its faces."""
    async with parts(tmp_path) as here:
        here.batches.faces = FACES
        await asyncio.gather(make(here, SQUARE), make(here, STRIP))
        third = RenderPlan(resize=Resize(Px(50), Px(50), fit=Fit.MIN, faces=FaceChoice(2)))
        await make(here, third)

        assert here.batches.plans.count(RECORD) == 1
        assert [call.faces for call in here.batches.calls if call.plan != RECORD] == [FACES] * 3


async def test_a_restart_finds_the_record_on_disk(tmp_path: Path) -> None:
    """The record is a file beside the variants."""
    async with parts(tmp_path) as here:
        here.batches.faces = FACES
        await make(here, SQUARE)
    async with parts(tmp_path) as here:
        await make(here, STRIP)

        assert here.batches.plans == [STRIP]
        assert here.batches.calls[0].faces == FACES


async def test_a_purge_removes_the_record(tmp_path: Path) -> None:
    """The faces of a purged picture are gone with it: those of the new picture are looked for."""
    async with parts(tmp_path) as here:
        here.batches.faces = FACES
        await make(here, SQUARE)
        await here.purge()
        here.origin.pictures[KEY] = NEW
        here.batches.faces = ()
        await make(here, SQUARE)

        assert here.batches.plans == [RECORD, SQUARE] * 2
        assert here.batches.calls[-1].faces == ()


async def test_a_purge_during_the_search_keeps_no_record(tmp_path: Path) -> None:
    """A record of a stale generation is thrown away like every variant, and no variant is made from it."""
    async with parts(tmp_path) as here:
        here.batches.meanwhile = here.purge
        with pytest.raises(StaleGeneration):
            await make(here, SQUARE)

        assert here.batches.plans == [RECORD]
        assert here.temporary_files() == []


async def test_without_a_search_the_next_word_of_the_list_answers_for_a_while(tmp_path: Path) -> None:
    """A detector that fails or is too slow costs one try: the variant without faces stands in, under its own name."""
    async with parts(tmp_path) as here:
        here.batches.errors = [FacesUnavailable()]
        first = await make(here, SQUARE)
        second = await make(here, SQUARE)

        assert first.is_interim
        assert second.is_interim
        assert first.variant.facts.plan == without_faces(SQUARE).digest
        assert here.batches.plans == [RECORD, without_faces(SQUARE)]
        here.refusals.forget((digest_of(OLD), RECORD.digest))
        assert not (await make(here, SQUARE)).is_interim


async def test_a_damaged_picture_is_refused_as_without_faces(tmp_path: Path) -> None:
    """The search cannot decode it, and neither can the render of the fallback: the client hears why."""
    async with parts(tmp_path) as here:
        here.batches.errors = [DecodeFailed(), DecodeFailed()]
        with pytest.raises(DecodeFailed):
            await make(here, SQUARE)
