"""A node that was away applies many old purges together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgproxy.cache import purge_many
from imgproxy.cache.spreading import Spreading
from imgproxy.cluster import catching_up
from imgproxy.cluster.log import Backlog, Change, HistoryLost, Kind, Line, Position
from tests.support.cluster import edge, purge
from tests.support.many_edges import cluster
from tests.support.site import KEY, jpeg, red_of, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.many_edges import Cluster, Node

TARGET = f"/{KEY}?w=50"
MISSED = catching_up.TOGETHER_LEAST + 100


def miss(here: Cluster, *, last: Change | None = None) -> None:
    """Let nodes miss many purges of another run, the one of the picture among them, and perhaps another line."""
    keys = [KEY, *(f"absent-{number}.jpg" for number in range(MISSED - 1))]
    changes = [Change(Kind.PURGE, (key,), "revoke", entry=f"entry of {key}", settle_s=30.0) for key in keys]
    for change in (*changes, *((last,) if last is not None else ())):
        here.log.head += 1
        here.log.lines.append(Line(here.log.head, "another run", change))
    here.log.old_up_to = here.log.head


async def is_new(node: Node) -> bool:
    reply = await node.get(TARGET)
    return reply.status == 200 and red_of(reply.body) < 100


async def test_a_node_that_was_away_serves_nothing_that_was_purged(tmp_path: Path) -> None:
    """It reads the purges together, and counts as current when all are applied. The log's last line is obeyed, too."""
    async with cluster(tmp_path, pictures={KEY: jpeg(200), "other.jpg": jpeg(200)}) as here:
        node = await here.start("a")
        for target in (TARGET, "/other.jpg?w=50"):
            assert (await node.get(target)).status == 200
        await here.stop("a")
        await here.library.put(KEY, jpeg(20))
        miss(here, last=Change(Kind.PROVE, ("other.jpg",), "update"))

        node = await here.start("a")

        assert node.cluster.lag_lines == 0
        assert node.way.calls["read_backlog"] <= 3
        assert node.way.calls["read"] <= 2
        assert await is_new(node)
        served = here.serves()
        assert (await node.get("/other.jpg?w=50")).status == 200
        assert here.serves() == served + 1, "it is to be proved"
        entry = f"entry of absent-{MISSED - 2}.jpg"
        assert await node.edge.cache.journal.last_purge_of_entry(entry) > 0


async def test_the_place_is_written_when_no_crash_can_undo_the_purges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the directories cannot be synced it stays where it was, and the next run catches up again."""
    async with cluster(tmp_path) as here:
        node = await here.start("a")
        assert (await node.get(TARGET)).status == 200
        await here.stop("a")
        miss(here)
        with monkeypatch.context() as patched:
            patched.setattr(purge_many, "_sync", lambda _keys_dir: False)
            node = await here.start("a")
            await node.renewed()
            await node.edge.purges.purge_keys(["unrelated.jpg"], reason="test", is_waited_for=False)
            await here.stop("a")

        node = await here.start("a")
        assert node.way.calls["read_backlog"] > 1, "it had to catch up again"
        await here.stop("a")

        node = await here.start("a")
        rows = Spreading(node.edge.cache.journal)
        assert await rows.place() == (here.log.history, here.log.head)
        assert node.way.calls["read_backlog"] == 1


async def test_a_running_node_that_falls_far_behind_catches_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full page of the log tells it so."""
    async with cluster(tmp_path) as here:
        monkeypatch.setattr("imgproxy.cluster.follower.LINES_MAX", 50)
        node = await here.start("a")
        assert (await node.get(TARGET)).status == 200
        await here.library.put(KEY, jpeg(20))
        miss(here)
        here.log.tell()
        await node.renewed()
        await until(lambda: node.cluster.lag_lines == 0)

        assert await is_new(node)
        assert node.way.calls["read_backlog"] > 1
        assert node.way.calls["read"] < MISSED / 50, "it has not read every page"


# --- the log in PostgreSQL ------------------------------------------------------------------------------------------


async def test_old_purges_are_read_together(database_url: str) -> None:
    """Up to a line of another kind, of this run, or one whose settle time has not ended."""
    settling = Change(Kind.PURGE, ("s.jpg",), "revoke", settle_s=3600.0)
    prove = Change(Kind.PROVE, ("p.jpg",), "update")
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        start = await b.position()
        assert await b.log.read_backlog(start, 10) is None
        old = [purge("ä.jpg", "b.jpg"), Change(Kind.PURGE, ("b.jpg",), "revoke", entry="E", settle_s=0.0), prove]
        places = await a.log.append([*old, purge("c.jpg"), settling])
        assert await a.log.read_backlog(start, 10) is None, "it wrote them itself"

        assert await b.log.read_backlog(start, 10) == Backlog(2, ("ä.jpg", "b.jpg"), ("E",))
        assert await b.log.read_backlog(start, 1) == Backlog(1, ("ä.jpg", "b.jpg"), ())
        assert await b.log.read_backlog(places[1], 10) is None
        assert await b.log.read_backlog(places[2], 10) == Backlog(4, ("c.jpg",), ())
        assert await b.log.read_backlog(places[3], 10) is None

        await a.database.fetch("UPDATE imgproxy.line SET written_at = written_at - interval '2 hours'")
        assert await b.log.read_backlog(places[3], 10) == Backlog(5, ("s.jpg",), ())


async def test_a_log_without_the_lines_is_lost(database_url: str) -> None:
    """Another history, a log that begins later or ends earlier, and a line that somebody has deleted."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        places = await a.log.append([purge(f"{number}.jpg") for number in range(5)])
        for place in (Position("another", 0), Position(places[0].history, 9)):
            with pytest.raises(HistoryLost):
                await b.log.read_backlog(place, 10)
        await a.database.fetch("DELETE FROM imgproxy.line WHERE number = 3")
        with pytest.raises(HistoryLost):
            await b.log.read_backlog(places[0], 10)
        await a.database.fetch("UPDATE imgproxy.head SET oldest = 3")
        with pytest.raises(HistoryLost):
            await b.log.read_backlog(places[0], 10)


async def test_the_keys_of_a_backlog_are_those_of_its_lines(database_url: str) -> None:
    """Read line by line or together, a long log has the same keys and entries."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        start = await b.position()
        changes = [
            Change(Kind.PURGE, (f'{number}/"quoted", [x].jpg', "every.jpg"), "revoke", entry=f"E {number}")
            for number in range(300)
        ]
        await a.log.append(changes)
        lines = await b.log.read(start, 1000)
        backlog = await b.log.read_backlog(start, 1000)
        assert backlog is not None
        assert set(backlog.keys) == {key for line in lines for key in line.change.keys}
        assert set(backlog.entries) == {line.change.entry for line in lines}
        assert backlog.last == 300
