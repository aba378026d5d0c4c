"""The log of purges over a real PostgreSQL: what `PurgeLog` promises."""

from __future__ import annotations

import asyncio

from imgproxy.cluster.log import Kind, Position
from tests.support.cluster import NOWHERE, edge, purge


async def test_lines_are_read_as_they_were_written(database_url: str) -> None:
    """Another edge reads each change in order, without its calls for the caches in front."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        places = await a.log.append([purge("one.jpg", "zwei-ü.jpg"), purge("three.jpg", reason="revoke")])
        assert [place.number for place in places] == [1, 2]
        lines = await b.log.read(await b.position(), 10)
        assert [(line.number, line.run, line.change.keys, line.change.kind) for line in lines] == [
            (1, "run-of-a", ("one.jpg", "zwei-ü.jpg"), Kind.PURGE),
            (2, "run-of-a", ("three.jpg",), Kind.PURGE),
        ]
        assert (await b.log.read(places[0], 10)) == lines[1:]
        assert (await b.log.read(places[1], 10)) == ()
        assert (await b.log.read(await b.position(), 1)) == lines[:1]


async def test_each_renewal_says_how_far_everybody_is(database_url: str) -> None:
    """A renewal has the head, the oldest line, and the members with what they applied."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        [place] = await a.log.append([purge("x.jpg")])
        await a.log.renew(place)
        renewal = await b.log.renew(NOWHERE)
        assert (renewal.history, renewal.head, renewal.oldest) == (place.history, 1, 1)
        assert [(m.name, m.run, m.applied, m.lease_s, m.proof_s) for m in renewal.members] == [
            ("a", "run-of-a", 1, 5.0, 2.0),
            ("b", "run-of-b", 0, 5.0, 2.0),
        ]
        await b.log.report(place)
        assert [m.applied for m in await a.log.members()] == [1, 1]
        await b.log.report(Position(place.history, 0))
        await b.log.renew(Position(place.history, 0))
        assert [m.applied for m in await a.log.members()] == [1, 1], "what comes late does not take back what is newer"


async def test_appends_that_wait_share_a_transaction(database_url: str) -> None:
    """Fifty appends at once take far fewer transactions, and each gets its own numbers."""
    async with edge(database_url) as a:
        places = await asyncio.gather(*(a.log.append([purge(f"{n}.jpg"), purge(f"{n}b.jpg")]) for n in range(50)))
        assert sorted(place.number for both in places for place in both) == list(range(1, 101))
        lines = await a.log.read(await a.position(), 200)
        for n, (first, second) in enumerate(places):
            assert second.number == first.number + 1
            assert lines[first.number - 1].change.keys == (f"{n}.jpg",)
        written = await a.database.fetch("SELECT count(DISTINCT xmin::text) AS transactions FROM imgproxy.line")
        assert written[0]["transactions"] <= 3
