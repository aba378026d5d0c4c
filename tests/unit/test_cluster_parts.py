"""Small parts of a cluster: turns of fetches, changes as text, what the journal keeps, and a purge of everything."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from imgproxy.cache.journal import SpreadEntry, placing
from imgproxy.cache.outbox import EVERYTHING, OutboxLine, Subject
from imgproxy.cache.spreading import Spreading, Unspread, recording
from imgproxy.cluster.change_text import from_text, to_text
from imgproxy.cluster.clock import Clock
from imgproxy.cluster.log import Change, Kind
from imgproxy.delivery.share import Share
from imgproxy.purge.downstream.vendors import Cloudflare, Fastly, Varnish
from tests.support.cache import KEY, commit, commit_variant, opened, settled, variant

if TYPE_CHECKING:
    from pathlib import Path

    from imgproxy.cache.cache import Cache

CHANGE = Change(
    Kind.PURGE,
    ("a.jpg", "b ä.jpg"),
    "revoke",
    entry="E",
    settle_s=30.0,
    outbox=(OutboxLine("cdn", Subject("E", is_entry=True), 1, 5.0), OutboxLine("cdn", EVERYTHING, 2, 6.0)),
    expanded=("a.jpg",),
)


def test_a_change_is_read_as_it_was_written() -> None:
    """Every field of it. The calls of its outbox are due as long after it is read as they were when it was written."""
    now_s = time.time()
    written = replace(CHANGE, outbox=tuple(replace(line, due_at_s=now_s + 60) for line in CHANGE.outbox))
    text = to_text(written)
    read = from_text(text)

    assert [line.due_at_s for line in read.outbox] == pytest.approx([now_s + 60] * 2, abs=30)
    assert replace(read, outbox=()) == replace(written, outbox=())
    assert [replace(line, due_at_s=0.0) for line in read.outbox] == [
        replace(line, due_at_s=0.0) for line in CHANGE.outbox
    ]
    assert [row[4] for row in json.loads(text)["outbox"]] == pytest.approx([60.0] * 2, abs=30)


@pytest.mark.parametrize("text", ["", "{}", '{"kind": "other", "keys": [], "reason": ""}', "[]"])
def test_text_that_is_no_change_is_refused(text: str) -> None:
    """By one kind of error."""
    with pytest.raises(ValueError, match=r"not a change|Expecting value|valid Kind"):
        from_text(text)


async def test_a_change_is_kept_with_its_purge_until_it_is_done(tmp_path: Path) -> None:
    """In the order of the purges, also after a restart."""
    async with opened(tmp_path) as cache:
        for text in ('{"line": 1}', '{"line": 2}'):
            await cache.purge([KEY], reason="test", also=recording(text))
    async with opened(tmp_path) as cache:
        rows = Spreading(cache.journal)
        assert await rows.after(0, 10) == (Unspread(1, 1, '{"line": 1}'), Unspread(2, 2, '{"line": 2}'))
        assert await rows.after(1, 10) == (Unspread(2, 2, '{"line": 2}'),)
        await rows.done([1])
        assert await rows.seqs() == {2}


async def test_the_place_in_the_log_is_written_with_the_purge_that_leads_there(tmp_path: Path) -> None:
    """And so are the entries that it purged, with their keys."""
    async with opened(tmp_path) as cache:
        rows = Spreading(cache.journal)
        assert await rows.place() is None
        also = placing("a history", 7, [SpreadEntry("E", "revoke", ("a.jpg",))])
        await cache.purge([KEY], reason="revoke", also=also)

        assert await rows.place() == ("a history", 7)
        assert await cache.journal.keys_of("E") == ("a.jpg",)
        assert await cache.journal.last_purge_of_entry("E") > 0
        await rows.set_place("another", 9)
        assert await rows.place() == ("another", 9)


# --- everything -----------------------------------------------------------------------------------------------------


async def filled(cache: Cache) -> None:
    assert commit(cache) is not None
    assert commit_variant(cache, b"v", seq=cache.epochs.seq) is not None
    cache.hot.put(variant(b"v"))


async def test_a_purge_of_everything_leaves_nothing(tmp_path: Path) -> None:
    """Neither in memory nor on disk, nor in the ledger. What is fetched after it is kept."""
    async with opened(tmp_path) as cache:
        await settled(cache)
        await filled(cache)
        began_seq = cache.epochs.seq

        purged = await cache.purge_all(reason="all")

        assert purged.size_bytes > 0
        assert len(cache.hot) == cache.hot.used_bytes == len(cache.store.ledger) == cache.store.ledger.used_bytes == 0
        assert not list(tmp_path.glob("keys/*"))
        assert commit(cache, seq=began_seq) is None  # its fetch began before
        assert not cache.epochs.all_hold([("any", began_seq)])
        assert commit(cache) is not None
        await settled(cache)
        assert not list(tmp_path.glob("trash/*"))


async def test_a_purge_of_everything_outlives_a_crash_before_its_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record counts: the next start takes the directories away, and serves nothing of them."""
    async with opened(tmp_path) as cache:
        await settled(cache)
        await filled(cache)
        await cache.journal.record_purge_all(reason="all")  # and the process ends here
    async with opened(tmp_path) as cache:
        assert not list(tmp_path.glob("keys/*/*"))
        assert not cache.epochs.holds("any", 0)
        await settled(cache)
    async with opened(tmp_path) as cache:
        assert commit(cache) is not None
    async with opened(tmp_path):
        assert list(tmp_path.glob("keys/*/*"))  # it is taken away once


async def test_a_scan_under_way_brings_nothing_back(tmp_path: Path) -> None:
    """What it found before a purge of everything is gone."""
    async with opened(tmp_path) as cache:
        await settled(cache)
        ledger = cache.store.ledger
        ledger.begin_scan()
        ledger.clear()
        ledger.adopt_older(0, {b"\0" * 32: 1 << 43}, 5)

        assert len(ledger) == ledger.used_bytes == 0


def test_caches_that_can_are_told_to_forget_everything() -> None:
    """Whatever else is in the same call. Varnish has no call for it."""
    fastly = Fastly("service", lambda: "t").call([EVERYTHING, Subject("a")])
    cloudflare = Cloudflare("zone", lambda: "t").call([Subject("a"), EVERYTHING])

    assert fastly.url.endswith("/service/service/purge_all")
    assert cloudflare.body == b'{"purge_everything": true}'
    assert not Varnish("http://varnish/", lambda: None).covers(EVERYTHING)
    assert Fastly("service", lambda: "t").covers(EVERYTHING)


# --- turns ----------------------------------------------------------------------------------------------------------


async def test_turns_are_as_many_as_the_limit_says_now() -> None:
    """A lower limit holds for the next turn, a higher one when a turn is given back."""
    limit = 2
    share = Share(lambda: limit)
    await share.acquire()
    assert not share.locked()
    limit = 1
    assert share.locked()
    waiting = [asyncio.create_task(share.acquire()) for _ in range(2)]
    await asyncio.sleep(0)
    limit = 2
    share.release()
    await asyncio.gather(*waiting)

    assert share.locked()


async def test_a_turn_that_nobody_wants_any_more_goes_to_the_next() -> None:
    """Cancelled while it waits, or just when it was given the turn."""
    share = Share(lambda: 1)
    await share.acquire()
    first, second, third = (asyncio.create_task(share.acquire()) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    share.release()  # to the second
    second.cancel()

    await third
    share.release()
    assert not share.locked()


async def test_a_wait_ends_by_its_event_or_its_time() -> None:
    """Also if there is no time at which it ends."""
    clock, news = Clock(), asyncio.Event()
    await clock.wait(news, clock.now_s())
    assert not news.is_set()
    asyncio.get_running_loop().call_soon(news.set)
    await clock.wait(news, float("inf"))
    assert news.is_set()
