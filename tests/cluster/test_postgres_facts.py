"""The facts that edges share, over a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from imgproxy.cache.outbox import OutboxLine, Subject, WaitingLine
from imgproxy.cluster.facts import Claim, Validators
from imgproxy.cluster.log import Change, Kind
from tests.support.cluster import edge, purge

if TYPE_CHECKING:
    from tests.support.cluster import Edge

# Ids and keys as a client may send them: NUL and half a surrogate pair cannot be kept by PostgreSQL.
ODD = "a\0b\ud800c"


async def test_a_delivery_is_handled_once_in_the_cluster(database_url: str) -> None:
    """Of two edges that get one delivery, one handles it; the other is told so, also after it was handled."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        claims = await asyncio.gather(*(side.facts.claim_delivery("d1") for side in (a, b) * 4))
        first, other = (a, b) if claims[0] is Claim.FIRST else (b, a)
        assert sorted(set(claims)) == [Claim.BUSY, Claim.FIRST]
        assert await other.facts.claim_delivery("d1") is Claim.BUSY
        assert await first.facts.claim_delivery("d1") is Claim.FIRST, "a repeated delivery after an error"
        await first.facts.finish_delivery("d1")
        assert [await side.facts.claim_delivery("d1") for side in (a, b)] == [Claim.HANDLED] * 2


async def test_a_claim_of_a_run_that_is_gone_is_taken_over(database_url: str) -> None:
    """A claim is free when its run gave it up, left, or is known to have ended."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        for delivery in ("given up", "ended", "left"):
            assert await a.facts.claim_delivery(delivery) is Claim.FIRST
        await a.facts.release_delivery("given up")
        assert await b.facts.claim_delivery("given up") is Claim.FIRST
        assert await b.facts.claim_delivery("ended", gone=["run-of-x"]) is Claim.BUSY
        assert await b.facts.claim_delivery("ended", gone=["run-of-a"]) is Claim.FIRST
        assert await b.facts.claim_delivery("left") is Claim.BUSY
        await a.log.leave()
        assert await b.facts.claim_delivery("left") is Claim.FIRST


async def test_keys_that_one_edge_learnt_serve_all(database_url: str) -> None:
    """Keys are new once in the cluster, and found by entry and by key."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        assert set(await a.facts.remember_keys("e1", ["x.jpg", "y.jpg", "x.jpg"])) == {"x.jpg", "y.jpg"}
        assert await b.facts.remember_keys("e1", ["y.jpg", "z.jpg"]) == ("z.jpg",)
        await b.facts.remember_keys("e2", ["z.jpg"])
        assert set(await a.facts.keys_of("e1")) == {"x.jpg", "y.jpg", "z.jpg"}
        assert await a.facts.entries_of(["z.jpg", "x.jpg", "other.jpg"]) == {"x.jpg": ("e1",), "z.jpg": ("e2", "e1")}
        assert (await a.facts.recent_entry_keys(1)) == {"z.jpg": "e2"}
        assert (await a.facts.recent_entry_keys(9)).keys() == {"x.jpg", "y.jpg", "z.jpg"}


async def test_an_append_writes_the_facts_that_belong_to_it(database_url: str) -> None:
    """Pending entries, listed keys and calls are there when the line is, also if one transaction names them twice."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        call = OutboxLine("cdn", Subject("x.jpg"), 1, time.time() + 60)
        await a.log.append(
            [
                Change(Kind.PURGE, ("x.jpg",), "revoke", entry="e1", is_pending=True, outbox=(call, call)),
                Change(Kind.PURGE, ("x.jpg",), "revoke", entry="e2", is_pending=True, outbox=(call,)),
                Change(Kind.PURGE, ("y.jpg",), "revoke", entry="e2", expanded=("x.jpg", "y.jpg", "x.jpg")),
            ]
        )
        assert await b.facts.pending_entries() == ("e1",)
        assert set(await b.facts.keys_of("e2")) == {"x.jpg", "y.jpg"}
        assert await b.outbox.unconfirmed(2) == (("cdn", Subject("x.jpg")),)
        assert await b.outbox.unconfirmed(3) == ()
        assert [await b.facts.last_purge_of_entry(entry) for entry in ("e1", "e2", "e3")] == [1, 3, 0]


async def test_a_pending_entry_is_expanded_by_one_run(database_url: str) -> None:
    """The run that purged it has it. Another takes it when that run has left. A later purge is pending by itself."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        pending = Change(Kind.PURGE, (), "revoke", entry="e1", is_pending=True)
        [first] = await a.log.append([pending])
        assert await b.facts.take_pending() == ()
        assert await a.facts.take_pending() == ("e1",)
        assert await b.facts.take_pending(gone=["run-of-a"]) == ("e1",)
        assert await a.facts.take_pending() == ()
        await b.log.leave()
        assert await a.facts.take_pending() == ("e1",)
        [second] = await a.log.append([pending])
        await a.facts.finish_pending("e1", up_to_seq=first.number)
        assert await a.facts.pending_entries() == ("e1",)
        await a.facts.remember_keys("e1", ["x.jpg"], finished_seq=second.number)
        assert await a.facts.pending_entries() == ()


async def test_receipts_can_be_asked_for_at_any_edge(database_url: str) -> None:
    """The latest come first, by entry, key or number, and say whether their entry is still pending."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        await a.log.append(
            [purge("x.jpg"), Change(Kind.PURGE, ("y.jpg",), "revoke", entry="e1", is_pending=True), purge("x.jpg")]
        )
        given = [
            (1, 1000.5, json.dumps({"entry": None, "keys": ["x.jpg"]})),
            (2, 2000.0, json.dumps({"entry": "e1", "keys": ["y.jpg"]})),
            (2, 2001.0, json.dumps({"entry": "e1", "keys": ["y.jpg", "z.jpg"]})),
            (3, 3000.0, json.dumps({"entry": None, "keys": ["x.jpg"]})),
        ]
        await a.facts.keep_receipts(given)
        everything = await b.facts.receipts(entry=None, key=None, seq=None, count=9)
        assert [(kept.seq, kept.at_s, kept.is_pending) for kept in everything] == [
            (3, 3000.0, False),
            (2, 2001.0, True),
            (1, 1000.5, False),
        ]
        assert [kept.seq for kept in await b.facts.receipts(entry="e1", key=None, seq=None, count=9)] == [2]
        assert [kept.seq for kept in await b.facts.receipts(entry=None, key="x.jpg", seq=None, count=1)] == [3]
        [kept] = await b.facts.receipts(entry=None, key="z.jpg", seq=2, count=1)
        assert kept.receipt == given[2][2]


async def test_validators_are_those_of_the_latest_fetch(database_url: str) -> None:
    """Each key has what was noted last, by whichever edge. Other bytes make them unknown until the next purge."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        old, new = Validators("d1", '"1"', None), Validators("d1", None, "Thu, 01 Jan 2026 00:00:00 GMT")
        await a.facts.note_validators({"x.jpg": old, "y.jpg": old})
        await b.facts.note_validators({"x.jpg": new, "y.jpg": Validators("d2", None, None)})
        await b.facts.note_validators({})
        unknown = Validators(None, None, None)
        assert await noted(a, "x.jpg", "y.jpg", "z.jpg") == {"x.jpg": new, "y.jpg": unknown}

        await b.facts.note_validators({"y.jpg": old})
        assert await noted(a, "y.jpg") == {"y.jpg": replace(unknown, etag='"1"')}
        await a.log.append([purge("y.jpg"), Change(Kind.PROVE, ("x.jpg",), "update")])
        assert await noted(a, "x.jpg", "y.jpg") == {"x.jpg": new}
        await a.facts.note_validators({"y.jpg": Validators("d2", None, None)})
        assert await noted(b, "y.jpg") == {"y.jpg": Validators("d2", None, None)}


async def noted(at: Edge, *keys: str) -> dict[str, Validators]:
    """Return the validators of keys, without their age."""
    return {key: replace(item, age_s=0.0) for key, item in (await at.facts.validators(keys)).items()}


async def test_old_facts_are_deleted(database_url: str) -> None:
    """Deliveries go after a month, receipts and validators after a year."""
    async with edge(database_url) as a:
        await a.facts.finish_delivery("d1")
        await a.facts.keep_receipts(
            [(1, time.time(), '{"entry": null, "keys": []}'), (2, 1.0, '{"entry": null, "keys": []}')]
        )
        await a.facts.note_validators({"x.jpg": Validators("d", None, None)})
        assert await a.facts.tidy() == 1
        for table, column in (("delivery", "claimed_at"), ("receipt", "given_at"), ("validator", "fetched_at")):
            await a.database.fetch(f"UPDATE imgproxy.{table} SET {column} = {column} - interval '370 days'")
        async with a.database.session() as session:
            await session.driver.fetchval("SELECT pg_advisory_lock(272001, 2)")
            assert await a.facts.tidy() == 0, "another edge is doing it"
            await session.driver.fetchval("SELECT pg_advisory_unlock(272001, 2)")
        assert await a.facts.tidy() == 3
        assert await a.facts.claim_delivery("d1") is Claim.FIRST


async def test_texts_that_postgresql_cannot_keep_do_no_harm(database_url: str) -> None:
    """A purge with such texts goes through, and so does one that waits beside it. Very long ids and keys fit."""
    async with edge(database_url) as a:
        long_key = "/".join(["ü" * 127] * 8)
        changes = [
            Change(Kind.PURGE, (ODD,), ODD, entry=ODD, is_pending=True),
            Change(Kind.PURGE, (long_key,), "revoke", entry="ü" * 120, expanded=(long_key,)),
            Change(Kind.PURGE, ("x.jpg",), "revoke", entry="e" * 100_000, is_pending=True, expanded=("x.jpg",)),
        ]
        await asyncio.gather(*(a.log.append([change]) for change in changes))
        assert await a.facts.claim_delivery(ODD) is Claim.FIRST
        await a.facts.remember_keys(ODD, [ODD])
        await a.facts.keep_receipts([(1, 1.0, json.dumps({"entry": ODD, "keys": [ODD], "malformed": [ODD]}))])
        assert len(await a.facts.receipts(entry=ODD, key=ODD, seq=1, count=1)) == 1
        assert await a.facts.keys_of("ü" * 120) == (long_key,)


def waiting(name: str, seq: int, number: int = 1, attempts: int = 0) -> WaitingLine:
    return WaitingLine(Subject(name), number, seq, attempts)


def call(name: str, due_in_s: float, number: int = 1, target: str = "cdn") -> OutboxLine:
    return OutboxLine(target, Subject(name), number, time.time() + due_in_s)


async def test_calls_become_due_and_are_confirmed(database_url: str) -> None:
    """A line is due at its time or when it is released, and goes when it is confirmed; other edges hear of both."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        heard = asyncio.Event()
        b.outbox.watch(heard.set)
        await asyncio.wait_for(heard.wait(), 20)  # a new channel counts as news
        await a.log.append([Change(Kind.PURGE, ("x.jpg",), "r", outbox=(call("x.jpg", 60), call("x.jpg", 90, 2)))])
        assert await b.outbox.due("cdn", time.time(), 9) == ()
        heard.clear()
        await a.outbox.release("cdn", [Subject("x.jpg"), Subject("y.jpg")], 1)
        await asyncio.wait_for(heard.wait(), 20)
        assert await b.outbox.due("cdn", time.time(), 9) == (waiting("x.jpg", 1),)
        assert await b.outbox.due("cdn", time.time() + 120, 9) == (waiting("x.jpg", 1), waiting("x.jpg", 1, 2))
        heard.clear()
        await a.outbox.done("cdn", [waiting("x.jpg", 1)])
        await asyncio.wait_for(heard.wait(), 20)
        assert await b.outbox.unconfirmed(1) == ()
        figures = await b.outbox.figures("cdn")
        assert (figures.lines, figures.oldest_at_s) == (1, None)
        assert figures.next_due_s is not None
        assert abs(figures.next_due_s - time.time() - 90) < 30


async def test_a_later_purge_takes_a_call_over(database_url: str) -> None:
    """The confirmation of the first purge leaves the line of the second, and so does a failure."""
    async with edge(database_url) as a:
        for _ in range(2):
            await a.log.append([Change(Kind.PURGE, ("x.jpg",), "r", outbox=(call("x.jpg", -1),))])
        await a.outbox.done("cdn", [waiting("x.jpg", 1)])
        await a.outbox.put_off("cdn", [waiting("x.jpg", 1)], time.time() + 60)
        assert await a.outbox.due("cdn", time.time(), 9) == (waiting("x.jpg", 2),)


async def test_calls_that_failed_are_put_off_and_resumed(database_url: str) -> None:
    """Failed lines are due later and have one attempt more; all are put off with them; a success makes them due."""
    async with edge(database_url) as a:
        await a.log.append([Change(Kind.PURGE, (), "r", outbox=(call("x.jpg", -1), call("y.jpg", -1)))])
        now_s = time.time()
        await a.outbox.put_off("cdn", [waiting("x.jpg", 1)], now_s + 60)
        assert await a.outbox.due("cdn", now_s, 9) == (waiting("y.jpg", 1),)
        await a.outbox.put_off_all("cdn", now_s, now_s + 60)
        assert await a.outbox.due("cdn", now_s, 9) == ()
        await a.outbox.resume("cdn", now_s + 120)
        assert await a.outbox.due("cdn", time.time(), 9) == (waiting("x.jpg", 1, attempts=1),)


async def test_one_run_at_a_time_works_on_a_target(database_url: str) -> None:
    """A turn is kept by its run, and free when it was ended, has run out, or its run is gone."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        assert await a.outbox.take_turn("cdn", 60)
        assert await a.outbox.take_turn("cdn", 60)
        assert not await b.outbox.take_turn("cdn", 60)
        assert await b.outbox.take_turn("other", 60)
        await b.outbox.end_turn("cdn")
        assert not await b.outbox.take_turn("cdn", 60), "it was not its turn to end"
        await a.outbox.end_turn("cdn")
        assert await b.outbox.take_turn("cdn", 0)
        assert await a.outbox.take_turn("cdn", 60), "the turn of b has run out"
        await a.log.leave()
        assert await b.outbox.take_turn("cdn", 60)


async def test_calls_of_unknown_targets_are_dropped_late(database_url: str) -> None:
    """A target that this edge does not know may be of a newer configuration: its lines stay for a day."""
    async with edge(database_url) as a:
        await a.log.append([Change(Kind.PURGE, (), "r", outbox=(call("x.jpg", 0), call("x.jpg", 0, target="old")))])
        assert await a.outbox.take_up(["cdn"]) == 0
        await a.database.fetch("UPDATE imgproxy.outbox SET recorded_at = recorded_at - interval '25 hours'")
        assert await a.outbox.take_up(["cdn"]) == 1
        assert (await a.outbox.figures("cdn")).lines == 1
