"""Fetching: what each answer of the origin means for the cache, and what a purge in between changes."""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest

from imgproxy.cache.entry import key_hash
from imgproxy.delivery.asked import StaleGeneration
from imgproxy.errors import (
    CacheUnavailable,
    ImgproxyError,
    NotAnImage,
    NotFound,
    OriginDenied,
    OriginStatus,
    OriginTimeout,
    OriginUnreachable,
    Overloaded,
    Revoked,
    SourceTooLarge,
)
from imgproxy.failpoints import Point
from imgproxy.medialibrary.errors import Forbidden, LibraryNotFound, OriginUnavailable, TooLarge, Unauthorized
from imgproxy.medialibrary.models import Validators
from tests.support.delivery import HASHED, HTML, KEY, NEW, OLD, Gate, loop_turns, parts

if TYPE_CHECKING:
    from pathlib import Path

    from imgproxy.delivery.asked import Fetched
    from tests.support.delivery import Parts


async def fetch(here: Parts) -> Fetched:
    """Fetch the picture; with validators if it is cached."""
    return await here.fetching.fetch(HASHED, KEY, here.facts())


async def test_a_new_picture_is_kept_with_the_facts_of_its_answer(tmp_path: Path) -> None:
    """Size, type and validators are the origin's; the proof is of the moment in which the origin was asked."""
    async with parts(tmp_path) as here:
        asked_at_s = here.clock.now_s

        async def take_long() -> None:
            here.clock.now_s += 20

        here.origin.meanwhile = take_long
        found = await fetch(here)

        assert found.is_modified
        assert found.facts == here.facts()
        assert (found.facts.size_bytes, found.facts.content_type) == (len(OLD), "image/jpeg")
        assert found.facts.fetched_at_s == found.facts.validated_at_s == asked_at_s
        assert here.metric("imgproxy_origin_answers_total", answer="image") == 1
        assert here.metric("imgproxy_origin_bytes_total") == len(OLD)
        assert here.admission.fetch_times_s == [found.fetch_s]
        assert here.temporary_files() == []


async def test_a_cached_picture_is_asked_for_with_its_validators(tmp_path: Path) -> None:
    """A 304 proves the same bytes again, and costs no byte."""
    async with parts(tmp_path) as here:
        first = await fetch(here)
        here.clock.now_s += 500
        again = await fetch(here)

        assert here.origin.asked == [(KEY, None), (KEY, Validators(first.facts.etag, None))]
        assert not again.is_modified
        assert again.facts.digest == first.facts.digest
        assert again.facts.fetched_at_s == first.facts.fetched_at_s
        assert again.facts.validated_at_s == here.clock.now_s
        assert here.metric("imgproxy_origin_answers_total", answer="not_modified") == 1


@pytest.mark.parametrize(("age_s", "is_used"), [(1, True), (0, False), (-86_400, False)])
async def test_a_date_of_the_origin_is_used_only_if_it_proves_something(
    tmp_path: Path, age_s: int, is_used: bool
) -> None:
    """Not one of the second in which the origin was asked, and not one in the future (RFC 9110 8.8.2)."""
    async with parts(tmp_path) as here:
        here.clock.now_s = float(int(here.clock.now_s))
        here.origin.last_modified = formatdate(here.clock.now_s - age_s, usegmt=True)
        first = await fetch(here)
        here.clock.now_s += 500
        await fetch(here)

        date = here.origin.last_modified if is_used else None
        assert here.origin.asked[1] == (KEY, Validators(first.facts.etag, date))


async def test_a_picture_whose_bytes_were_evicted_is_asked_for_without_validators(tmp_path: Path) -> None:
    """A 304 would leave the caller without bytes."""
    async with parts(tmp_path) as here:
        await fetch(here)
        here.evict()
        found = await fetch(here)

        assert found.is_modified
        assert here.origin.asked == [(KEY, None), (KEY, None)]


async def test_changed_bytes_purge_what_was_made_of_the_old_ones(tmp_path: Path) -> None:
    """The picture changed without an event: the key is purged, and the new bytes are kept."""
    async with parts(tmp_path) as here:
        first = await fetch(here)
        here.origin.pictures[KEY] = NEW
        purged: list[str] = []
        here.cache.purged.subscribe(lambda event: purged.append(event.key))

        # The fetch began before its own purge; so the purge counts, and the caller starts over.
        with pytest.raises(StaleGeneration):
            await fetch(here)
        second = await fetch(here)

        assert purged == [KEY]
        assert not here.cache.epochs.holds(HASHED, first.facts.seq)
        assert second.facts.size_bytes == len(NEW)


async def test_a_log_in_page_does_not_replace_a_proved_picture(tmp_path: Path) -> None:
    """Bytes that are no image, with status 200, are the origin's fault; the cached picture stays."""
    async with parts(tmp_path) as here:
        first = await fetch(here)
        here.origin.pictures[KEY] = HTML
        with pytest.raises(OriginStatus) as raised:
            await fetch(here)

        assert raised.value.origin_status == 200
        assert here.facts() == first.facts
        assert HASHED not in here.refusals


async def test_bytes_that_are_no_image_are_refused_if_nothing_is_cached(tmp_path: Path) -> None:
    """The refusal is remembered, and nothing is kept."""
    async with parts(tmp_path) as here:
        here.origin.pictures[KEY] = HTML
        with pytest.raises(NotAnImage):
            await fetch(here)

        assert here.facts() is None
        assert HASHED in here.refusals
        assert here.temporary_files() == []


@pytest.mark.parametrize(
    ("error", "expected", "is_remembered"),
    [
        (LibraryNotFound(), NotFound, True),
        (LibraryNotFound(is_api_answer=False), OriginStatus, False),
        (Forbidden(), Revoked, True),
        (Unauthorized(origin_status=401), OriginDenied, False),
        (OriginUnavailable(), OriginUnreachable, False),
        (OriginTimeout(5), OriginTimeout, False),
        (OriginStatus(500), OriginStatus, False),
        (TooLarge(limit_bytes=10), SourceTooLarge, True),
    ],
    ids=["404", "404-of-a-proxy", "403", "401", "no-connection", "timeout", "500", "too-large"],
)
async def test_an_error_is_a_refusal_only_if_it_is_about_the_picture(
    tmp_path: Path, error: ImgproxyError, expected: type[ImgproxyError], is_remembered: bool
) -> None:
    """A refused picture is purged and its refusal remembered; after any other error the cached picture stays."""
    async with parts(tmp_path) as here:
        await fetch(here)
        here.origin.error = error
        with pytest.raises(expected) as raised:
            await fetch(here)

        assert (HASHED in here.refusals) is is_remembered
        assert (here.facts() is None) is is_remembered
        assert here.metric("imgproxy_origin_answers_total", answer=raised.value.code) == 1


@pytest.mark.parametrize(
    ("error", "probe_error", "is_token_dead", "is_down"),
    [
        (Unauthorized(origin_status=401), None, True, False),
        (OriginUnavailable(), None, False, True),
        (LibraryNotFound(), None, False, False),
        (Forbidden(), None, False, False),
        (Forbidden(), Unauthorized(origin_status=401), True, False),
    ],
    ids=["401", "no-connection", "404", "403", "403-and-the-token-is-dead"],
)
async def test_each_answer_tells_whether_the_origin_is_well(
    tmp_path: Path, error: ImgproxyError, probe_error: ImgproxyError | None, is_token_dead: bool, is_down: bool
) -> None:
    """A 403 is tried on a call that names no picture: the token may be dead."""
    async with parts(tmp_path) as here:
        here.origin.error, here.origin.probe_error = error, probe_error
        with pytest.raises(ImgproxyError):
            await fetch(here)

        assert (here.health.is_token_dead, here.health.is_down) == (is_token_dead, is_down)


async def test_a_403_of_a_dead_token_takes_no_picture_away(tmp_path: Path) -> None:
    """It is the service that is refused, not the picture."""
    async with parts(tmp_path) as here:
        await fetch(here)
        here.origin.error, here.origin.probe_error = Forbidden(), Unauthorized(origin_status=403)
        with pytest.raises(OriginDenied):
            await fetch(here)

        assert here.facts() is not None
        assert HASHED not in here.refusals


@pytest.mark.parametrize(("point", "counted"), [(Point.BEFORE_FETCH, 0), (Point.AFTER_FETCH, 1)])
async def test_a_fetch_during_which_the_key_is_purged_is_of_a_stale_generation(
    tmp_path: Path, point: Point, counted: int
) -> None:
    """Nothing is kept. Bytes that have come are counted as thrown away; before that the file cannot be written."""
    async with parts(tmp_path) as here:
        await during(here, point)

        assert here.facts() is None
        assert here.metric("imgproxy_overtaken_total", point="fetch") == counted
        assert here.temporary_files() == []


async def test_a_304_during_which_the_key_is_purged_is_of_a_stale_generation(tmp_path: Path) -> None:
    """The confirmation does not bring back what the purge removed."""
    async with parts(tmp_path) as here:
        await fetch(here)
        await during(here, Point.AFTER_FETCH)

        assert here.facts() is None
        assert here.metric("imgproxy_overtaken_total", point="revalidation") == 1


async def test_a_refusal_during_which_the_key_is_purged_is_not_remembered(tmp_path: Path) -> None:
    """The purge may be the one that allows the picture again."""
    async with parts(tmp_path) as here:
        here.origin.error = Forbidden()
        await during(here, None)

        assert HASHED not in here.refusals


async def during(here: Parts, point: Point | None) -> None:
    """Fetch, and purge the key at this point; None: while the origin answers."""
    if point is None:
        here.origin.meanwhile = here.purge
        with pytest.raises(StaleGeneration):
            await fetch(here)
        return
    here.failpoints.hold(point)
    fetching = asyncio.create_task(fetch(here))
    await here.failpoints.arrived(point)
    await here.purge()
    here.failpoints.release(point)
    with pytest.raises(StaleGeneration):
        await fetching


async def test_the_origin_is_asked_although_no_file_can_be_made(tmp_path: Path) -> None:
    """A 404 needs no file; only a picture fails with the disk's error."""
    async with parts(tmp_path) as here:
        keys = here.cache.store.keys_dir
        keys.rmdir()
        keys.write_bytes(b"a file in the place of the directory")
        with pytest.raises(CacheUnavailable):
            await fetch(here)
        here.origin.error = LibraryNotFound()
        with pytest.raises(NotFound):
            await fetch(here)

        assert here.origin.keys == [KEY, KEY]
        keys.unlink()
        keys.mkdir()


async def test_so_many_fetches_wait_for_their_turn_and_no_more(tmp_path: Path) -> None:
    """One fetch is under way and one waits; the third is refused before the origin is asked."""
    async with parts(tmp_path, fetches_max=1, fetch_queue_max=1) as here:
        here.origin.pictures = {"1": OLD, "2": OLD, "3": OLD}
        gate = Gate()
        here.origin.meanwhile = gate.wait
        first = asyncio.create_task(here.fetching.fetch(key_hash("1"), "1", None))
        await gate.arrived()
        second = asyncio.create_task(here.fetching.fetch(key_hash("2"), "2", None))
        await loop_turns()
        with pytest.raises(Overloaded):
            await here.fetching.fetch(key_hash("3"), "3", None)
        asked = list(here.origin.keys)
        gate.open()
        await asyncio.gather(first, second)

        assert asked == ["1"]
        assert here.origin.keys == ["1", "2"]
        assert here.admission.rules == ["fetches"]


async def test_a_fetch_that_is_cancelled_while_it_waits_gives_its_turn_back(tmp_path: Path) -> None:
    """The next fetch can wait in its place."""
    async with parts(tmp_path, fetches_max=1, fetch_queue_max=1) as here:
        here.origin.pictures = {"1": OLD, "2": OLD, "3": OLD}
        gate = Gate()
        here.origin.meanwhile = gate.wait
        first = asyncio.create_task(here.fetching.fetch(key_hash("1"), "1", None))
        await gate.arrived()
        second = asyncio.create_task(here.fetching.fetch(key_hash("2"), "2", None))
        await loop_turns()
        second.cancel()
        await asyncio.wait([second])
        third = asyncio.create_task(here.fetching.fetch(key_hash("3"), "3", None))
        await loop_turns()
        gate.open()
        await asyncio.gather(first, third)

        assert here.origin.keys == ["1", "3"]
