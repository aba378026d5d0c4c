"""Warming: which variants are made for a key, which exist already, and what a failing key costs the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from imgproxy.config.sections import RenderSettings, WarmSettings
from imgproxy.config.url import UrlSettings
from imgproxy.delivery.request import Outcome, Request
from imgproxy.delivery.warming import PARALLEL, Failure, Warmed, Warming
from imgproxy.errors import ConfigError, DecodeFailed, Overloaded
from imgproxy.params.plan import Format
from imgproxy.workers.job import Lane
from tests.support.delivery import KEY, OLD, Gate, loop_turns, parts

if TYPE_CHECKING:
    from pathlib import Path

    from imgproxy.delivery.request import Delivered
    from tests.support.delivery import Parts


TWO_WIDTHS = WarmSettings(queries=("w=200", "w=100"))


def warming(here: Parts, settings: WarmSettings = TWO_WIDTHS, *, is_strict: bool = False) -> Warming:
    return Warming(
        here.cache,
        here.originals,
        here.variants,
        warm=settings,
        url=UrlSettings(strict=is_strict),
        render=RenderSettings(),
    )


@pytest.mark.parametrize(
    ("queries", "accept", "expected"),
    [
        ((), ("webp", "legacy"), []),
        (("w=200",), ("webp", "legacy"), [Format.SOURCE]),
        (("w=200&auto=format",), ("webp", "legacy"), [Format.WEBP, Format.SOURCE]),
        (("w=200&auto=format",), ("avif", "webp", "legacy"), [Format.AVIF, Format.WEBP, Format.SOURCE]),
        (("w=200", "w=200&fit=clip"), ("legacy",), [Format.SOURCE]),
        (("w=200&mark=logo.png",), ("legacy",), []),
        (("",), ("legacy",), []),
    ],
    ids=["no-query", "one-format", "two-formats", "three-formats", "equal-plans", "a-watermark", "the-original"],
)
async def test_each_plan_is_made_once_for_each_kind_of_client_that_gets_another_format(
    tmp_path: Path, queries: tuple[str, ...], accept: tuple[str, ...], expected: list[Format]
) -> None:
    """Equal plans count once; a watermark may not be there yet, and the original needs no render."""
    async with parts(tmp_path) as here:
        settings = WarmSettings(queries=queries, accept=accept)
        plans = warming(here, settings).plans("Zürich 1.jpg")

        assert [plan.output.format for plan in plans] == expected


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize("query", ["widht=400", "w=400&q=much", "w=0"])
async def test_a_query_with_a_typo_is_refused_at_the_start(tmp_path: Path, query: str, is_strict: bool) -> None:
    """Lenient or strict: the variants that it makes are not those that pages ask for."""
    async with parts(tmp_path) as here:
        with pytest.raises(ConfigError, match=r"\[warm\] queries: .*expected"):
            warming(here, WarmSettings(queries=("w=100", query)), is_strict=is_strict)


@pytest.mark.parametrize(
    ("queries", "on_create", "is_configured", "is_on_create"),
    [((), False, False, False), ((), True, False, False), (("w=1",), False, True, False), (("w=1",), True, True, True)],
)
async def test_there_is_something_to_warm_only_with_queries(
    tmp_path: Path, queries: tuple[str, ...], on_create: bool, is_configured: bool, is_on_create: bool
) -> None:
    """`on_create` without queries does nothing."""
    async with parts(tmp_path) as here:
        found = warming(here, WarmSettings(queries=queries, on_create=on_create))

        assert (found.is_configured, found.is_on_create) == (is_configured, is_on_create)


async def test_missing_variants_are_made_in_the_background_lane(tmp_path: Path) -> None:
    """They are hits afterwards; a second call makes nothing."""
    async with parts(tmp_path) as here:
        found = warming(here)
        first = await found.warm([KEY])
        second = await found.warm([KEY])

        async def keep(delivered: Delivered) -> Delivered:
            return delivered

        hit = await here.delivery.answer(Request(KEY, found.plans(KEY)[0]), keep)

        assert first == Warmed((KEY,), made=2, had=0, failed=())
        assert second == Warmed((KEY,), made=0, had=2, failed=())
        assert {call.lane for call in here.batches.calls} == {Lane.BACKGROUND}
        assert hit.outcome is Outcome.HIT


async def test_variants_of_a_key_are_asked_for_at_once(tmp_path: Path) -> None:
    """So they can share a decode: both renders are asked for before one has ended."""
    async with parts(tmp_path) as here:
        gate = Gate()
        here.batches.meanwhile = gate.wait
        work = asyncio.create_task(warming(here).warm([KEY]))
        await gate.arrived(2)
        gate.open()

        assert (await work).made == 2


async def test_a_key_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    """Each failure has the code of its error; a key that is named twice is warmed once."""
    async with parts(tmp_path) as here:
        here.origin.pictures = {"good.jpg": OLD}
        warmed = await warming(here).warm(["good.jpg", "nothing.jpg", "good.jpg"])

        assert warmed == Warmed(("good.jpg", "nothing.jpg"), 2, 0, (Failure("nothing.jpg", "not_found"),))
        assert warmed.as_json() == {
            "keys": ["good.jpg", "nothing.jpg"],
            "made": 2,
            "had": 0,
            "failed": [{"key": "nothing.jpg", "code": "not_found"}],
        }


@pytest.mark.parametrize(("error", "code"), [(DecodeFailed(), "decode_failed"), (Overloaded(), "overloaded")])
async def test_a_render_that_fails_fails_its_key(tmp_path: Path, error: Exception, code: str) -> None:
    """The other variants of the key are made all the same, and exist the next time."""
    async with parts(tmp_path) as here:
        here.batches.errors = [error]
        found = warming(here)
        warmed = await found.warm([KEY])

        assert warmed.failed == (Failure(KEY, code),)


async def test_a_key_that_is_purged_while_it_is_warmed_fails(tmp_path: Path) -> None:
    """It is not tried again: the purge may have come from a newsroom that still edits the picture."""
    async with parts(tmp_path) as here:
        here.batches.meanwhile = here.purge
        warmed = await warming(here).warm([KEY])

        assert warmed.failed == (Failure(KEY, "purged_meanwhile"),)


async def test_a_few_keys_are_warmed_at_a_time(tmp_path: Path) -> None:
    """A long list does not ask the origin for everything at once."""
    async with parts(tmp_path) as here:
        keys = [f"{number}.jpg" for number in range(PARALLEL + 3)]
        here.origin.pictures = dict.fromkeys(keys, OLD)
        gate = Gate()
        here.origin.meanwhile = gate.wait
        work = asyncio.create_task(warming(here).warm(keys))
        await gate.arrived(PARALLEL)
        await loop_turns()
        asked = list(here.origin.keys)
        gate.open()
        warmed = await work

        assert asked == keys[:PARALLEL]
        assert (warmed.made, warmed.failed) == (2 * len(keys), ())
