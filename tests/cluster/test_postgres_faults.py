"""The log over a real PostgreSQL that fails, and the order of commits."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from imgproxy.cache.outbox import OutboxLine, Subject
from imgproxy.cluster import postgres_log
from imgproxy.cluster.log import Change, HistoryLost, Kind, LogUnavailable, Position
from tests.support.cluster import NOWHERE, Edge, edge, eventually, purge
from tests.support.postgres import session, waits_for_lock
from tests.support.relay import relay

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.support.postgres import PostgresServer


async def running(awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
    """Begin a call, and let it reach the database's socket."""
    task = asyncio.ensure_future(awaitable)
    await asyncio.sleep(0)
    assert isinstance(task, asyncio.Task)
    return task


# --- the order -----------------------------------------------------------------------------------------------------


async def test_a_later_append_waits_for_the_commit_of_an_earlier_one(database_url: str) -> None:
    """While one append is held before its commit, the next one has no number; a reader sees neither, then both."""
    async with edge(database_url, "a") as a, session(database_url) as held, session(database_url) as observer:
        start = await a.position()
        transaction = held.transaction()
        await transaction.start()
        assert await held.fetchval("UPDATE imgproxy.head SET number = number + 1 RETURNING number") == 1
        await held.execute(
            "INSERT INTO imgproxy.line (number, run, kind, change) VALUES (1, 'held', 'purge', $1)",
            '{"keys": ["held.jpg"], "reason": "r"}',
        )
        second = await running(a.log.append([purge("second.jpg")]))
        await waits_for_lock(observer)
        assert await a.log.read(start, 9) == ()
        await transaction.commit()
        [place] = await second
        assert place.number == 2
        assert [line.change.keys for line in await a.log.read(start, 9)] == [("held.jpg",), ("second.jpg",)]


async def test_a_number_of_an_append_that_was_rolled_back_is_used_again(database_url: str) -> None:
    """There are no gaps: whoever waited gets the number."""
    async with edge(database_url, "a") as a, session(database_url) as held, session(database_url) as observer:
        transaction = held.transaction()
        await transaction.start()
        await held.execute("UPDATE imgproxy.head SET number = number + 1")
        second = await running(a.log.append([purge("second.jpg")]))
        await waits_for_lock(observer)
        await transaction.rollback()
        assert [place.number for place in await second] == [1]


async def test_a_renewal_sees_an_append_that_was_under_way(database_url: str) -> None:
    """A renewal that comes before the commit waits for it, and has the line's number and a member that came meanwhile."""
    async with (
        edge(database_url, "a") as a,
        edge(database_url, "b", is_member=False) as b,
        session(database_url) as held,
        session(database_url) as observer,
    ):
        transaction = held.transaction()
        await transaction.start()
        await held.execute("UPDATE imgproxy.head SET number = number + 1")
        renewal = await running(a.log.renew(NOWHERE))
        await waits_for_lock(observer)
        joining = await running(b.join())
        await waits_for_lock(observer, 2)
        await transaction.commit()
        assert (await renewal).head == 1
        await joining
        assert [member.name for member in (await a.log.renew(NOWHERE)).members] == ["a", "b"]


async def test_an_append_waits_for_a_renewal_and_then_sees_it(database_url: str) -> None:
    """An append that comes during a renewal is committed after it: its writer then finds the renewed lease."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        before = {member.run: member.renewals for member in await a.log.members()}
        async with session(database_url) as held, session(database_url) as observer:
            # The renewal has its lock of `head`, and is held at its own row.
            transaction = held.transaction()
            await transaction.start()
            await held.execute("SELECT FROM imgproxy.member WHERE run = 'run-of-b' FOR UPDATE")
            renewal = await running(b.log.renew(NOWHERE))
            await waits_for_lock(observer)
            append = await running(a.log.append([purge("x.jpg")]))
            await waits_for_lock(observer, 2)
            await transaction.commit()
            await append
            after = {member.run: member.renewals for member in await a.log.members()}
            assert after["run-of-b"] == before["run-of-b"] + 1
            assert (await renewal).head == 0


@pytest.mark.slow
async def test_an_append_is_on_disk_when_the_role_says_otherwise(postgres_server: PostgresServer) -> None:
    """A role with synchronous_commit = off does not make appends asynchronous; remote_apply stays as it is."""
    database = postgres_server.new_database()
    for set_to, found in (
        ("off", "on"),
        ("local", "on"),
        ("remote_apply", "remote_apply"),
        ("remote_write", "remote_write"),
    ):
        postgres_server.sql(f"ALTER DATABASE {database} SET synchronous_commit = {set_to}")
        async with edge(postgres_server.url(database), f"node-{set_to}") as a:
            [row] = await a.database.fetch("SELECT current_setting('synchronous_commit') AS value")
            assert row["value"] == found
            renewal = await a.log.renew(NOWHERE)
            await a.log.report(Position(renewal.history, 0))
            [row] = await a.database.fetch("SELECT current_setting('synchronous_commit') AS value")
            assert row["value"] == found, "a report, which may be asynchronous, changes its own transaction only"


async def test_the_isolation_of_the_role_does_not_matter(postgres_server: PostgresServer) -> None:
    """An append that waited for another goes on with its number, also where transactions are serializable by default."""
    database = postgres_server.new_database()
    postgres_server.sql(f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'")
    url = postgres_server.url(database)
    async with edge(url, "a") as a, session(url) as held, session(url) as observer:
        [row] = await a.database.fetch("SELECT current_setting('transaction_isolation') AS level")
        assert row["level"] == "read committed"
        transaction = held.transaction(isolation="read_committed")
        await transaction.start()
        await held.execute("UPDATE imgproxy.head SET number = number + 1")
        append = await running(a.log.append([purge("x.jpg")]))
        await waits_for_lock(observer)
        await transaction.commit()
        assert [place.number for place in await append] == [2]


# --- members -------------------------------------------------------------------------------------------------------


async def test_a_member_is_forgotten_only_if_it_stood_still(database_url: str) -> None:
    """Whoever renewed since stays; whoever was forgotten joins again at its next renewal, with a higher count."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        seen = {member.run: member.renewals for member in await a.log.members()}["run-of-b"]
        await b.log.renew(NOWHERE)
        await a.log.forget("run-of-b", seen)
        assert [member.name for member in await a.log.members()] == ["a", "b"]
        await a.log.forget("run-of-b", seen + 1)
        assert [member.name for member in await a.log.members()] == ["a"]
        await b.log.renew(NOWHERE)
        assert {member.run: member.renewals for member in await a.log.members()}["run-of-b"] == seen + 2


async def test_a_report_is_news(database_url: str) -> None:
    """An edge that waits for another hears when that one has applied a line."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        [place] = await a.log.append([purge("x.jpg")])
        await a.log.renew(NOWHERE)
        await b.log.renew(NOWHERE)
        await a.hears()
        await b.log.report(place)
        await a.hears()
        assert [member.applied for member in await a.log.members()] == [0, 1]


async def test_leaving_ends_the_membership_and_is_news(database_url: str) -> None:
    """The others hear that an edge has left, and count it no more."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        a.news.clear()
        await b.log.leave()
        await a.hears()
        assert [member.name for member in await a.log.members()] == ["a"]


async def test_a_run_is_removed_in_the_transaction_in_which_the_next_one_joins(database_url: str) -> None:
    """Before its commit the old one is there, after it the new one. The others hear of it."""
    async with (
        edge(database_url, "a") as a,
        edge(database_url, "b"),
        edge(database_url, "c", is_member=False) as c,
        session(database_url) as held,
        session(database_url) as observer,
    ):
        transaction = held.transaction()
        await transaction.start()
        await held.execute("UPDATE imgproxy.head SET number = number + 1")
        ended = ["run-of-b", "a run that nobody knows"]
        join = await running(c.log.join(c.member, ended=ended, on_lines=c.news.set, on_applied=c.news.set))
        await waits_for_lock(observer)
        assert [member.name for member in await a.log.members()] == ["a", "b"]
        a.news.clear()
        await transaction.rollback()
        await join
        await a.hears()
        assert [member.name for member in await a.log.members()] == ["a", "c"]


# --- trimming ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_lines_are_kept_until_they_are_old_and_everybody_applied_them(database_url: str) -> None:
    """The slowest member holds lines; then the old ones go, and a place before them is lost."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b:
        start = await a.position()
        places = await a.log.append([purge(f"{n}.jpg") for n in range(4)])
        await a.log.renew(places[3])
        await b.log.renew(places[1])
        assert await a.log.trim(3600) == 0, "they are young"
        assert await a.log.trim(0) == 2, "b has not applied the rest"
        renewal = await b.log.renew(places[1])
        assert (renewal.oldest, renewal.head) == (3, 4)
        assert [line.number for line in await b.log.read(places[1], 9)] == [3, 4]
        with pytest.raises(HistoryLost):
            await b.log.read(start, 9)
        await b.log.renew(places[3])
        assert await a.log.trim(0) == 2
        renewal = await b.log.renew(places[3])
        assert (renewal.oldest, renewal.head) == (5, 4)
        assert await b.log.read(places[3], 9) == ()


async def test_one_edge_at_a_time_trims(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another session trims, nothing is done. What is left over waits for the next call."""
    async with edge(database_url) as a, session(database_url) as other:
        places = await a.log.append([purge(f"{n}.jpg") for n in range(5)])
        await a.log.renew(places[4])
        await other.execute("SELECT pg_advisory_lock(272001, 1)")
        assert await a.log.trim(0) == 0
        await other.execute("SELECT pg_advisory_unlock(272001, 1)")
        monkeypatch.setattr(postgres_log, "TRIMMED_AT_ONCE", 2)
        assert [await a.log.trim(0) for _ in range(4)] == [2, 2, 1, 0]


async def test_a_line_that_was_deleted_by_hand_is_noticed(database_url: str) -> None:
    """A gap counts as lost history."""
    async with edge(database_url) as a:
        await a.log.append([purge("1.jpg"), purge("2.jpg"), purge("3.jpg")])
        await a.database.fetch("DELETE FROM imgproxy.line WHERE number = 2")
        with pytest.raises(HistoryLost):
            await a.log.read(await a.position(), 9)


# --- faults --------------------------------------------------------------------------------------------------------


async def test_a_server_that_restarts_is_found_again(own_server: PostgresServer) -> None:
    """While it is stopped each call says so; then calls work, and news come again, without a restart of the edge."""
    url = own_server.url(own_server.new_database())
    async with edge(url, "a") as a, edge(url, "b") as b:
        [first] = await a.log.append([purge("x.jpg")])
        own_server.stop("immediate")
        for call in (a.log.append([purge("y.jpg")]), a.log.renew(first), a.log.members(), a.log.read(first, 1)):
            with pytest.raises(LogUnavailable, match=r"the cluster's database \(127\.0\.0\.1\): "):
                await call
        with pytest.raises(LogUnavailable, match="is PostgreSQL running there"):
            await a.log.members()
        b.news.clear()
        own_server.start()
        await b.hears()
        [second] = await eventually(lambda: a.log.append([purge("z.jpg")]))
        assert second.history == first.history, "a crash of the server loses nothing"
        lines = await b.log.read(Position(first.history, 0), 9)
        assert (lines[0].change.keys, lines[-1].change.keys) == (("x.jpg",), ("z.jpg",))
        b.news.clear()
        await a.log.append([purge("news.jpg")])
        await b.hears()


async def test_a_connection_that_goes_silent_does_not_hang_a_purge(
    postgres_server: PostgresServer, database_url: str
) -> None:
    """Answers that do not come are given up after the time limit; the next call takes a new connection."""
    async with relay(postgres_server.port) as line:
        url = postgres_server.url(database_url.rpartition("/")[2], port=line.port)
        async with edge(url, timeout_s=1.0) as a:
            await a.log.append([purge("before.jpg")])
            line.hold()
            with pytest.raises(LogUnavailable, match="no answer in time"):
                await a.log.append([purge("x.jpg")])
            line.release()
            [place] = await eventually(lambda: a.log.append([purge("y.jpg")]))
            assert place.number == 3, "the first one was written: a call that failed may have been committed"


async def test_a_connection_that_is_cut_in_the_middle_is_replaced(
    postgres_server: PostgresServer, database_url: str
) -> None:
    """A reset under a call is an error of that call alone."""
    database = database_url.rpartition("/")[2]
    async with relay(postgres_server.port) as line, edge(postgres_server.url(database, port=line.port)) as a:
        line.end_at_next_request(is_reset=True)
        with pytest.raises(LogUnavailable, match="the connection was lost"):
            await a.log.append([purge("x.jpg")])
        await a.log.append([purge("y.jpg")])


@pytest.mark.parametrize("is_reset", [True, False])
async def test_a_read_over_a_connection_that_has_ended_is_made_once_more(
    postgres_server: PostgresServer, database_url: str, *, is_reset: bool
) -> None:
    """A purge that reads what the nodes share does not become pending by a connection that was kept too long."""
    database = database_url.rpartition("/")[2]
    async with relay(postgres_server.port) as line, edge(postgres_server.url(database, port=line.port)) as a:
        await a.facts.remember_keys("e1", ["x.jpg"])
        line.end_at_next_request(is_reset=is_reset)
        assert await a.facts.keys_of("e1") == ("x.jpg",)


async def test_a_lock_that_somebody_holds_does_not_hang_a_purge(database_url: str) -> None:
    """A session that holds the row of `head` costs an append its time limit, not more."""
    async with edge(database_url, timeout_s=1.0) as a, session(database_url) as held:
        transaction = held.transaction()
        await transaction.start()
        await held.execute("SELECT FROM imgproxy.head FOR UPDATE")
        with pytest.raises(LogUnavailable, match="another session holds a lock for too long"):
            await a.log.append([purge("x.jpg")])
        await transaction.rollback()
        assert [place.number for place in await a.log.append([purge("x.jpg")])] == [1]


async def test_an_append_that_loses_a_deadlock_is_tried_again(database_url: str) -> None:
    """Nothing was written by the one that lost, so its caller need not know."""
    call = OutboxLine("cdn", Subject("x.jpg"), 1, 0.0)
    change = Change(Kind.PURGE, ("x.jpg",), "r", outbox=(call,))
    async with session(database_url) as held, session(database_url) as observer:
        # The server looks for a deadlock only after this time: of these two, the append finds it.
        await held.execute(f"ALTER DATABASE {database_url.rpartition('/')[2]} SET deadlock_timeout = '2s'")
        await held.execute("SET deadlock_timeout = '60s'")
        async with edge(database_url, timeout_s=30.0) as a:
            await a.log.append([change])
            transaction = held.transaction()
            await transaction.start()
            await held.execute("SELECT FROM imgproxy.outbox FOR UPDATE")
            append = await running(a.log.append([change]))
            await waits_for_lock(observer)
            await held.execute("UPDATE imgproxy.head SET number = number + 1")
            assert not append.done()
            await transaction.commit()
            assert [place.number for place in await append] == [3]


async def test_a_cancelled_append_does_not_stop_the_others(database_url: str) -> None:
    """Of two appends in one transaction, one caller goes away: the other gets its place."""
    async with edge(database_url) as a:
        gone = await running(a.log.append([purge("gone.jpg")]))
        stays = await running(a.log.append([purge("stays.jpg")]))
        gone.cancel()
        [place] = await stays
        lines = await a.log.read(Position(place.history, 0), 9)
        assert lines[place.number - 1].change.keys == ("stays.jpg",)


async def test_a_lost_listener_is_no_error(database_url: str) -> None:
    """The connection that listens is ended by the server: the edge is told that there may be news, and listens again."""
    async with edge(database_url, "a") as a, edge(database_url, "b") as b, session(database_url) as admin:
        b.news.clear()
        ended = await admin.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'imgproxy b' AND query LIKE 'LISTEN%'"
        )
        assert ended == 1
        await b.hears()
        await a.log.append([purge("x.jpg")])
        await b.hears()


@pytest.mark.slow
async def test_without_its_synchronous_standby_nothing_is_acknowledged(own_server: PostgresServer) -> None:
    """Neither a purge nor a lease: so an old primary that lost its standby keeps no edge current."""
    url = own_server.url(own_server.new_database())
    async with edge(url, timeout_s=2.0) as a:
        start = await a.position()
        own_server.sql("ALTER SYSTEM SET synchronous_standby_names = 'away'")
        own_server.sql("SELECT pg_reload_conf()")
        async with session(url) as observer, asyncio.timeout(20):
            while await observer.fetchval("SELECT current_setting('synchronous_standby_names')") != "away":
                await asyncio.sleep(0.01)
        for call in (a.log.append([purge("x.jpg")]), a.log.renew(start)):
            with pytest.raises(LogUnavailable):
                await call
        own_server.sql("ALTER SYSTEM RESET synchronous_standby_names")
        own_server.sql("SELECT pg_reload_conf()")
        [place] = await eventually(lambda: a.log.append([purge("y.jpg")]))
        lines = await a.log.read(start, 9)
        assert [line.change.keys for line in lines] == [("x.jpg",), ("y.jpg",)], (
            "what was not acknowledged may be there"
        )
        assert place == Position(start.history, 2)


# --- another history -----------------------------------------------------------------------------------------------


async def next_history(server_url: str, name: str) -> str:
    async with edge(server_url, name) as other:
        return (await other.position()).history


@pytest.mark.slow
async def test_a_promoted_standby_has_another_history(own_server: PostgresServer) -> None:
    """A standby that lost the last line refuses to be the log; promoted, it is another history."""
    database = own_server.new_database()
    async with edge(own_server.url(database)) as a:
        [place] = await a.log.append([purge("x.jpg")])
    standby = own_server.standby()
    try:
        async with edge(standby.url(database), is_member=False) as b:
            with pytest.raises(LogUnavailable, match="this server is a standby, which takes no writes"):
                await b.log.members()
        own_server.stop("immediate")
        standby.promote()
        async with edge(standby.url(database), "b") as b:
            renewal = await b.log.renew(place)
            assert renewal.history != place.history
            assert [member.applied for member in renewal.members if member.name == "b"] == [0]
            with pytest.raises(HistoryLost):
                await b.log.read(place, 9)
    finally:
        standby.remove()


@pytest.mark.slow
async def test_of_several_hosts_the_primary_is_taken(own_server: PostgresServer) -> None:
    """A URL with both servers leads to the one that takes writes, also after it changed."""
    database = own_server.new_database()
    standby = own_server.standby()
    try:
        hosts = f"127.0.0.1:{standby.port},127.0.0.1:{own_server.port}"
        async with edge(own_server.url(database).replace(f"127.0.0.1:{own_server.port}", hosts)) as a:
            [first] = await a.log.append([purge("x.jpg")])
            own_server.stop("fast")
            standby.promote()
            [second] = await eventually(lambda: a.log.append([purge("y.jpg")]))
            assert first.history != second.history
    finally:
        standby.remove()


@pytest.mark.parametrize("options", [(), ("--data-only",)], ids=["whole", "data only"])
@pytest.mark.slow
async def test_a_restored_dump_has_another_history(postgres_server: PostgresServer, options: tuple[str, ...]) -> None:
    """The same lines, restored from a dump, are another history, also if only the rows were restored."""
    database = postgres_server.new_database()
    url = postgres_server.url(database)
    async with edge(url) as a:
        [place] = await a.log.append([purge("x.jpg")])
    dump = postgres_server.dump(database, "--schema=imgproxy", *options)
    if options:
        tables = "edge_schema, identity, head, line, member"
        names = ", ".join(f"imgproxy.{name.strip()}" for name in tables.split(","))
        postgres_server.sql(f"DELETE FROM {names.replace(', ', '; DELETE FROM ')}", database=database)
    else:
        postgres_server.sql("DROP SCHEMA imgproxy CASCADE", database=database)
    postgres_server.load(database, dump)
    async with edge(url, "b") as b:
        renewal = await b.log.renew(place)
        assert (renewal.head, renewal.history != place.history) == (1, True)


async def test_a_log_that_went_back_becomes_another_history(
    own_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A copy of the disk is restored: it has the same identity and timeline, but the last line is gone."""
    database = own_server.new_database()
    url = own_server.url(database)
    async with edge(url, "a") as a:
        places = await a.log.append([purge("1.jpg")])
        own_server.stop()
        copy = own_server.copy()
        own_server.start()
        try:
            places += await eventually(lambda: a.log.append([purge("2.jpg")]))
            own_server.stop()
            copy.port = own_server.port
            copy.start()
            with caplog.at_level(logging.CRITICAL):
                renewal = await eventually(lambda: a.log.renew(places[1]))
            assert renewal.head == 1
            assert renewal.history != places[1].history == places[0].history
            assert "went back, it has lost lines" in caplog.text
            assert renewal.history == await next_history(url, "b"), "once, for all edges"
        finally:
            copy.remove()


async def test_an_edge_that_knows_nothing_of_the_lost_lines_notices_that_its_renewal_is_gone(
    own_server: PostgresServer,
) -> None:
    """It was cut off when the line was written, and is the first one that comes back, to a snapshot of the disk."""
    url = own_server.url(own_server.new_database())
    async with edge(url, "a") as a, edge(url, "b") as b:
        [first] = await a.log.append([purge("1.jpg")])
        own_server.stop()
        copy = own_server.copy()
        own_server.start()
        try:
            assert (await eventually(lambda: b.log.renew(first))).history == first.history
            await eventually(lambda: a.log.append([purge("2.jpg")]))
            own_server.stop()
            copy.port = own_server.port
            copy.start()
            renewal = await eventually(lambda: b.log.renew(first))
            assert (renewal.head, renewal.history != first.history) == (1, True)
            again = await b.log.renew(Position(renewal.history, 1))
            assert again.history == renewal.history, "once"
        finally:
            copy.remove()


async def test_an_append_to_a_log_that_went_back_begins_another_history(own_server: PostgresServer) -> None:
    """An edge that only appends finds out, too: its line is in the new history."""
    database = own_server.new_database()
    async with edge(own_server.url(database), "a") as a:
        [first] = await a.log.append([purge("1.jpg")])
        own_server.stop()
        copy = own_server.copy()
        own_server.start()
        try:
            [second] = await eventually(lambda: a.log.append([purge("2.jpg")]))
            own_server.stop()
            copy.port = own_server.port
            copy.start()
            [third] = await eventually(lambda: a.log.append([purge("3.jpg")]))
            assert (first.history == second.history, third.history == second.history) == (True, False)
        finally:
            copy.remove()


def test_an_edge_is_made_without_a_connection() -> None:
    """Nothing is connected before the first call."""
    Edge("postgresql://127.0.0.1:1/nothing", "a", 1.0)
