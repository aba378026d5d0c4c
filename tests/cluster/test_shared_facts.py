"""What edges share over a real PostgreSQL, and what each does while the database is stopped."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from imgproxy.cache.entry import key_hash
from imgproxy.config.sections import FreshnessSettings, PurgeSettings
from tests.http.test_downstream import at_fastly, tag, tags_of
from tests.support.cdn import Told, cdn
from tests.support.edge_process import EdgeProcess
from tests.support.many_edges import NO_SETTLING
from tests.support.postgres_edges import LEASE_S, shared_edges
from tests.support.site import ADMIN, KEY, jpeg, poll, red_of, until
from tests.support.webhooks import deliver

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from tests.support.site import Site

OTHER = "2026/03/15/other.jpg"
TARGET = f"/{KEY}?w=50"
REVOKE = "mediaLibraryEntry.revoke"
UPDATE = "mediaLibraryEntry.update"
DEAD = "a-run-that-is-no-member"
QUICK = PurgeSettings(drain_s=0.05, expand_timeout_s=1, retry_max_s=1)


async def receipts_of(here: Site, query: str = "") -> list[dict[str, Any]]:
    """Return the receipts that this edge gives."""
    found = await here.send("GET", f"/-/purges{query}", headers=ADMIN)
    assert found.status == 200
    receipts: list[dict[str, Any]] = found.json()["purges"]
    return receipts


def sql(server: PostgresServer, url: str, statement: str) -> str:
    """Run SQL in the database of a test."""
    return server.sql(statement, database=url.rsplit("/", 1)[1])


async def until_sql(server: PostgresServer, url: str, statement: str, wanted: str) -> None:
    """Wait until a query gives this."""
    await poll(partial(asyncio.to_thread, sql, server, url, statement), lambda found: found == wanted)


# --- webhook deliveries ----------------------------------------------------------------------------------------------


async def test_a_delivery_is_handled_by_one_of_two_nodes(tmp_path: Path, database_url: str) -> None:
    """At the same moment at both, twice at one, and again later: there is one purge."""
    async with shared_edges(tmp_path, database_url) as here:
        first, second = await here.start("a"), await here.start("b")
        entry = here.library.entry_id(KEY)

        at_once = await asyncio.gather(*(deliver(each, REVOKE, entry) for each in (first, second, first, second)))
        later = [await deliver(each, REVOKE, entry) for each in (first, second)]

        assert {reply.status for reply in at_once} == {200, 204}
        assert [reply.status for reply in later] == [204, 204]
        assert len({reply.json()["seq"] for reply in at_once if reply.status == 200}) == 1
        assert here.probe.count("keys") == 1
        assert len(await receipts_of(second)) == 1


async def test_a_node_waits_for_another_one_that_handles_a_delivery(
    tmp_path: Path, database_url: str, postgres_server: PostgresServer
) -> None:
    """If it takes too long, the answer is 503. The delivery of a run that is gone is taken over."""
    async with shared_edges(tmp_path, database_url) as here:
        first, second = await here.start("a"), await here.start("b")
        entry = here.library.entry_id(KEY)
        await deliver(first, REVOKE, entry)
        claimed = partial(sql, postgres_server, database_url)
        claimed(f"UPDATE imgproxy.delivery SET is_handled = false, run = '{first.edge.run}'")

        waiting = asyncio.create_task(deliver(second, REVOKE, entry))
        refused = await waiting
        claimed(f"UPDATE imgproxy.delivery SET run = '{DEAD}'")
        taken = await deliver(second, REVOKE, entry)

        assert refused.status == 503
        assert refused.json()["type"].endswith("delivery-under-way")
        assert taken.status == 200


@pytest.mark.slow
async def test_deliveries_are_handled_while_the_database_is_stopped(tmp_path: Path, own_server: PostgresServer) -> None:
    """The answer is 202, a repeated one is 204, and the purge ends when the database is back."""
    async with shared_edges(tmp_path, own_server.url(), purge=QUICK) as here:
        first, second = await here.start("a"), await here.start("b")
        entry = here.library.entry_id(KEY)
        await second.get(TARGET)
        await asyncio.to_thread(own_server.stop)

        reply = await deliver(first, REVOKE, entry)
        again = await deliver(first, REVOKE, entry)

        assert (reply.status, again.status) == (202, 204)
        assert (reply.json()["pending"], reply.json()["seq"]) == (True, None)
        assert [found["seq"] for found in await receipts_of(first)] == [None]
        await asyncio.to_thread(own_server.start)
        await poll(partial(receipts_of, second, f"?entry={entry}"), lambda found: found and not found[0]["pending"])
        await until(lambda: not first.edge.purges.pending)


# --- entries and their keys ------------------------------------------------------------------------------------------


async def test_a_node_purges_the_keys_that_another_one_has_seen_of_a_deleted_entry(
    tmp_path: Path, database_url: str
) -> None:
    """It has never heard of the entry. Answers of the other node have the entry's tag."""
    async with shared_edges(tmp_path, database_url) as here:
        first, second = await here.start("a"), await here.start("b")
        entry = here.library.entry_id(KEY)
        await deliver(first, "mediaLibraryEntry.create", entry)
        await second.get(TARGET)
        await until(lambda: second.edge.entries.entry_of(KEY) == entry)
        assert f"e-{entry}" in (await second.get(TARGET)).headers["Surrogate-Key"]
        await here.library.remove(KEY)

        reply = await second.purge(entry)

        assert (reply.status, reply.json()["keys"]) == (200, [KEY])
        assert (await first.get(TARGET)).status == 404
        unknown = await second.purge("never-heard-of")
        assert unknown.status == 404


async def test_without_the_database_a_purge_is_pending_until_the_shared_keys_were_read(
    tmp_path: Path, own_server: PostgresServer
) -> None:
    """The entry is deleted, and only the stopped database knows its key."""
    async with shared_edges(tmp_path, own_server.url(), purge=QUICK) as here:
        first, second = await here.start("a"), await here.start("b")
        entry = here.library.entry_id(KEY)
        await deliver(first, "mediaLibraryEntry.create", entry)
        await second.get(TARGET)
        await here.library.remove(KEY)
        await asyncio.to_thread(own_server.stop)

        reply = await second.purge(entry)

        assert (reply.status, reply.json()["keys"], reply.json()["pending"]) == (202, [], True)
        await asyncio.to_thread(own_server.start)
        await poll(partial(receipts_of, first, f"?key={KEY}"), lambda found: found and not found[0]["pending"])
        assert (await second.get(TARGET)).status == 404


@pytest.mark.slow
async def test_a_node_brings_the_keys_that_it_has_learnt_without_the_database(
    tmp_path: Path, own_server: PostgresServer
) -> None:
    """Those from before it was in a cluster, and those of a time in which the database was stopped."""
    pictures = {KEY: jpeg(200), OTHER: jpeg(100)}
    async with shared_edges(tmp_path, own_server.url(), pictures=pictures) as here:
        await asyncio.to_thread(own_server.stop)
        first = await here.start("a", is_joined=False)
        await deliver(first, "mediaLibraryEntry.create", here.library.entry_id(KEY))
        await asyncio.to_thread(own_server.start)
        count = "SELECT count(*) FROM imgproxy.entry_key"
        await until(lambda: first.edge.node is not None and first.edge.node.is_current)
        await until_sql(own_server, own_server.url(), count, "1")
        await asyncio.to_thread(own_server.stop)
        await deliver(first, "mediaLibraryEntry.create", here.library.entry_id(OTHER), delivery="d-2")
        await asyncio.to_thread(own_server.start)
        await until_sql(own_server, own_server.url(), count, "2")


# --- receipts --------------------------------------------------------------------------------------------------------


async def test_a_receipt_can_be_asked_for_at_any_node_by_the_number_of_the_log(
    tmp_path: Path, database_url: str, postgres_server: PostgresServer
) -> None:
    """Numbers are unique in the cluster. The receipt names the nodes."""
    async with shared_edges(tmp_path, database_url) as here:
        first, second = await here.start("a"), await here.start("b")
        entry = here.library.entry_id(KEY)
        given = [(await each.purge(entry)).json() for each in (first, second, first)]
        given.append((await second.send("POST", "/-/purge/all", headers=ADMIN, data=b'{"confirm": "all"}')).json())

        numbers = [receipt["seq"] for receipt in given]
        assert len(set(numbers)) == 4
        assert sql(postgres_server, database_url, "SELECT max(number) FROM imgproxy.line") == str(max(numbers))
        for receipt in given:
            for each in (first, second):
                found = (await each.send("GET", f"/-/purges/{receipt['seq']}", headers=ADMIN)).json()
                assert (found["seq"], found["pending"], found["entry"]) == (receipt["seq"], False, receipt["entry"])
                assert {node["name"] for node in found["nodes"]} == {"a", "b"}


# --- the outbox ------------------------------------------------------------------------------------------------------


async def test_the_caches_in_front_are_told_once_whichever_node_purges(tmp_path: Path, database_url: str) -> None:
    """Three nodes, a purge at each. Each answer has the confirmation, and every call is made by one node."""
    async with cdn() as server, shared_edges(tmp_path, database_url, downstream=(at_fastly(server),)) as here:
        nodes = [await here.start(name) for name in ("a", "b", "c")]
        entry = here.library.entry_id(KEY)

        replies = [await each.purge(entry) for each in nodes]

        assert [reply.json()["downstream"][0]["state"] for reply in replies] == ["done"] * 3
        assert [tags_of(asked) for asked in server.asked] == [{tag(KEY), f"e-{entry}"}] * 3
        server.answer = lambda _asked: Told()
        everything = await nodes[2].send("POST", "/-/purge/all", headers=ADMIN, data=b'{"confirm": "all"}')
        assert everything.json()["downstream"][0]["state"] == "done"
        assert [asked.target.rsplit("/", 1)[1] for asked in server.asked[3:]] == ["purge_all"]


@pytest.mark.slow
async def test_another_node_goes_on_with_the_outbox_when_one_ends(
    tmp_path: Path, database_url: str, postgres_server: PostgresServer
) -> None:
    """The one with the turn leaves while the CDN refuses. What it had to do is done by the other, also for the dead."""
    async with (
        cdn() as server,
        shared_edges(tmp_path, database_url, downstream=(at_fastly(server, wait_s=0.5),)) as here,
    ):
        first = await here.start("a")
        await first.get(TARGET)
        entry = here.library.entry_id(KEY)
        right = server.answer
        server.answer = lambda _asked: Told(503)
        refused = await first.purge(entry)
        second = await here.start("b")
        await here.stop("a")
        server.answer = right

        assert (refused.status, refused.json()["downstream"][0]["state"]) == (202, "pending")
        await until_sql(postgres_server, database_url, "SELECT count(*) FROM imgproxy.outbox", "0")
        await poll(partial(receipts_of, second), lambda found: found and not found[0]["pending"])
        # A run that died without a word: it is no member any more.
        sql(postgres_server, database_url, f"UPDATE imgproxy.outbox_turn SET run = '{DEAD}', ends_at = 'infinity'")
        done = await second.purge(entry)
        await until_sql(postgres_server, database_url, "SELECT count(*) FROM imgproxy.outbox", "0")
        assert done.json()["downstream"][0]["state"] in {"done", "pending"}


@pytest.mark.slow
async def test_purges_without_the_database_reach_the_caches_in_front(
    tmp_path: Path, own_server: PostgresServer
) -> None:
    """From the outbox here when their time has come, and once more with every node, when the database is back."""
    purge = PurgeSettings(drain_s=0.0, expand_timeout_s=10, retry_max_s=1)  # lines are held for more than a minute
    async with (
        cdn() as server,
        shared_edges(tmp_path, own_server.url(), downstream=(at_fastly(server),), purge=purge) as here,
    ):
        first, second = await here.start("a"), await here.start("b")
        await asyncio.to_thread(own_server.stop)

        reply = await first.send("PURGE", f"/{KEY}", headers=ADMIN)
        assert (reply.status, reply.json()["downstream"][0]["state"]) == (202, "pending")
        assert server.asked == []
        await first.edge.cache.journal.write(lambda database: database.execute("UPDATE outbox SET due_at_s = 0"))
        await server.arrived(1)
        second_purge = await first.send("PURGE", f"/{OTHER}", headers=ADMIN)
        assert second_purge.status == 202
        await asyncio.to_thread(own_server.start)

        await poll(partial(receipts_of, second, f"?key={OTHER}"), lambda found: found and not found[0]["pending"])
        assert sorted(tag for asked in server.asked for tag in tags_of(asked)) == sorted([tag(KEY)] * 2 + [tag(OTHER)])
        rows = "SELECT count(*) FROM outbox"
        await poll(partial(first.edge.cache.journal.read, rows), lambda found: found == [(0,)])
        await until_sql(own_server, own_server.url(), "SELECT count(*) FROM imgproxy.outbox", "0")


# --- pending entries -------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_an_entry_of_a_node_that_has_died_is_expanded_by_another_one(
    tmp_path: Path, database_url: str, postgres_server: PostgresServer
) -> None:
    """The keys API does not answer, the node ends, and the other one goes on when the API is back."""
    async with shared_edges(tmp_path, database_url, purge=QUICK) as here:
        first, second = await here.start("a"), await here.start("b")
        entry = here.library.entry_id(KEY)
        await second.get(TARGET)
        await here.library.stop()
        pending = await first.purge(entry)
        assert (pending.status, pending.json()["keys"]) == (202, [])
        await poll(partial(receipts_of, second), lambda found: found and found[0]["pending"])
        await here.stop("a")
        await here.library.start()

        await until_sql(postgres_server, database_url, "SELECT count(*) FROM imgproxy.pending", "0")
        found = await receipts_of(second)

        assert {receipt["pending"] for receipt in found} == {False}
        assert any(receipt["keys"] == [KEY] for receipt in found)


@pytest.mark.slow
async def test_what_a_killed_node_had_to_do_is_done_by_another_one(
    tmp_path: Path, database_url: str, postgres_server: PostgresServer
) -> None:
    """It is killed while the keys API does not answer and the CDN refuses. It has the turn there, and its lease runs."""
    async with cdn() as server, shared_edges(tmp_path, database_url, purge=QUICK) as here:
        target = at_fastly(server, wait_s=0.2)
        right, server.answer = server.answer, lambda _asked: Told(503)
        row = {
            "kind": "fastly",
            "url": server.url,
            "service_id": target.service_id,
            "token": "fastly-token",
            "wait_s": 0.2,
        }
        environment = {
            "IMGPROXY_CLUSTER__DATABASE_URL": database_url,
            "IMGPROXY_CLUSTER__NODE": "a",
            "IMGPROXY_CLUSTER__LEASE_S": str(LEASE_S),
            "IMGPROXY_PURGE__EXPAND_TIMEOUT_S": "0.5",
            "IMGPROXY_DOWNSTREAM": json.dumps([row]),
        }
        async with (
            EdgeProcess(here.library, tmp_path / "killed", NO_SETTLING, **environment) as killed,
            aiohttp.ClientSession() as session,
        ):
            turn = "SELECT count(*) FROM imgproxy.outbox_turn JOIN imgproxy.member USING (run)"
            await until_sql(postgres_server, database_url, turn, "1")
            second = await here.start("b", downstream=(target,))
            await second.get(TARGET)
            entry = here.library.entry_id(KEY)
            await here.library.stop()
            async with session.post(f"{killed.url}/-/purge/entries/{entry}", headers=ADMIN) as reply:
                assert reply.status == 202
            await killed.kill()
        await here.library.start()
        server.answer = right

        await until_sql(postgres_server, database_url, "SELECT count(*) FROM imgproxy.pending", "0")
        await until_sql(postgres_server, database_url, "SELECT count(*) FROM imgproxy.outbox", "0")
        found = await receipts_of(second)
        assert {receipt["pending"] for receipt in found} == {False}
        assert any(receipt["keys"] == [KEY] for receipt in found)
        assert (await second.get(TARGET)).status == 200


@pytest.mark.slow
async def test_a_purge_leaves_no_entry_pending_in_the_cluster(
    tmp_path: Path, database_url: str, postgres_server: PostgresServer
) -> None:
    """Nor does an update, nor a purge of an entry that does not exist."""
    async with shared_edges(tmp_path, database_url) as here:
        first = await here.start("a")
        await here.start("b")
        entry = here.library.entry_id(KEY)
        count = "SELECT count(*) FROM imgproxy.pending"

        for reply in (await first.purge(entry), await first.purge(entry), await deliver(first, UPDATE, entry)):
            assert reply.status == 200
            assert sql(postgres_server, database_url, count) == "0"
        assert (await first.purge("never-heard-of")).status == 404
        await until_sql(postgres_server, database_url, count, "0")


# --- validators ------------------------------------------------------------------------------------------------------


async def test_a_node_without_the_picture_proves_it_by_one_conditional_request(
    tmp_path: Path, database_url: str
) -> None:
    """An event that changed nothing purges nothing, anywhere. One that changed the bytes purges them."""
    async with cdn() as server, shared_edges(tmp_path, database_url, downstream=(at_fastly(server),)) as here:
        first, second = await here.start("a"), await here.start("b")
        entry = here.library.entry_id(KEY)
        await second.get(TARGET)
        assert second.edge.known is not None
        await second.edge.known.find([KEY])  # what is noted is written
        here.probe.reset()

        kept = await deliver(first, UPDATE, entry)

        assert (kept.json()["kept"], kept.json()["keys"], kept.status) == ([KEY], [], 200)
        assert here.probe.count("serveImage") == 1
        assert first.metric("imgproxy_origin_answers_total", answer="not_modified") == 1
        assert server.asked == []
        await here.library.put(KEY, jpeg(20))
        changed = await deliver(first, UPDATE, entry, delivery="d-2")
        assert (changed.json()["kept"], changed.json()["keys"]) == ([], [KEY])
        assert red_of((await second.get(TARGET)).body) <= 23
        assert len(server.asked) == 1


@pytest.mark.slow
async def test_a_storm_of_updates_at_two_nodes_asks_the_origin_once_for_each(tmp_path: Path, database_url: str) -> None:
    """Each event comes to both nodes. Nothing is rendered or purged."""
    keys = [f"2026/{number:03}.jpg" for number in range(60)]
    pictures = {key: jpeg(number, (40, 30)) for number, key in enumerate(keys)}
    async with (
        cdn() as server,
        shared_edges(tmp_path, database_url, pictures=pictures, downstream=(at_fastly(server),)) as here,
    ):
        first, second = await here.start("a", lease_s=120), await here.start("b", lease_s=120)
        for key in keys:
            assert (await second.get(f"/{key}?w=20")).status == 200
        await second.edge.known.find(keys)
        here.probe.reset()

        replies = await asyncio.gather(
            *(
                deliver(each, UPDATE, here.library.entry_id(key), delivery=f"d-{key}")
                for key in keys
                for each in (first, second)
            )
        )

        receipts = [reply.json() for reply in replies if reply.status == 200]
        assert {reply.status for reply in replies} == {200, 204}
        assert sorted(receipt["kept"][0] for receipt in receipts) == keys
        assert {here.probe.count("serveImage", key) for key in keys} == {1}
        assert server.asked == []


async def test_bytes_that_differ_between_nodes_are_purged_by_the_next_event(tmp_path: Path, database_url: str) -> None:
    """One node has the old bytes, another one has fetched the new ones. The caches in front may have both."""
    async with shared_edges(tmp_path, database_url) as here:
        first, second = await here.start("a"), await here.start("b")
        entry = here.library.entry_id(KEY)
        await first.get(TARGET)
        await first.edge.known.find([KEY])
        await here.library.put(KEY, jpeg(20))
        await second.get(TARGET)

        reply = await deliver(second, UPDATE, entry)

        assert reply.json()["keys"] == [KEY]
        assert red_of((await first.get(TARGET)).body) <= 23


# --- checks, soft purges, other doors --------------------------------------------------------------------------------


async def test_each_node_checks_what_it_fetches_after_a_purge(tmp_path: Path, database_url: str) -> None:
    """A replica of the origin has served the old bytes again, at the other node. The check there finds it."""
    settling = FreshnessSettings(settle_s=1)
    async with shared_edges(tmp_path, database_url, freshness=settling) as here:
        first, second = await here.start("a"), await here.start("b")
        await first.purge(here.library.entry_id(KEY))
        await second.get(TARGET)
        await here.library.put(KEY, jpeg(20))

        await poll(partial(second.get, TARGET), lambda reply: red_of(reply.body) <= 23)


async def test_a_soft_purge_is_a_soft_one_at_every_node(tmp_path: Path, database_url: str) -> None:
    """The other node serves what it has once more, and revalidates it behind the answer."""
    async with shared_edges(tmp_path, database_url) as here:
        first, second = await here.start("a"), await here.start("b")
        await second.get(TARGET)
        await here.library.put(KEY, jpeg(20))

        reply = await first.purge(here.library.entry_id(KEY), "?soft=1")
        cached = partial(second.edge.cache.facts, key_hash(KEY))
        await until(lambda: (facts := cached()) is not None and facts.validated_at_s < time.time() - 60)

        assert (reply.status, reply.json()["soft"]) == (200, True)
        assert red_of((await second.get(TARGET)).body) >= 197
        await poll(partial(second.get, TARGET), lambda found: red_of(found.body) <= 23)


async def test_the_purge_api_of_imgix_reaches_every_node(tmp_path: Path, database_url: str) -> None:
    """Its answer has the number of the log as id."""
    async with shared_edges(tmp_path, database_url) as here:
        first, second = await here.start("a"), await here.start("b")
        await second.get(TARGET)
        await here.library.put(KEY, jpeg(20))
        body = {"data": {"type": "purges", "attributes": {"url": f"https://images.example{TARGET}"}}}

        reply = await first.send("POST", "/api/v1/purge", headers=ADMIN, json=body)

        assert reply.status == 200
        assert red_of((await second.get(TARGET)).body) <= 23
        found = await receipts_of(second, f"?key={KEY}")
        assert [str(receipt["seq"]) for receipt in found] == [reply.json()["data"]["id"]]
