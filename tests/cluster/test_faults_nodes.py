"""
Nodes that die, hang, restart and come back, around a purge: real processes over a real PostgreSQL.

In each test visitors ask every door for every size, all the time. After a purge was answered by 200, or its receipt
says that it is done, no door may answer what was before. `visitors.promise` notes that, and the end of the block
looks at every answer. Nothing here depends on how long something takes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from imgproxy.failpoints import Point, Step
from tests.support.cluster import edge as edge_of_log
from tests.support.line import Way, line_to
from tests.support.postgres import waits_for_lock
from tests.support.process_cluster import process_cluster
from tests.support.site import ADMIN, KEY, poll, red_of
from tests.support.visitors import BALANCER

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from tests.support.process_cluster import ProcessCluster
    from tests.support.process_node import ProcessNode
    from tests.support.site import Reply

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

OTHER_SIZE = f"/{KEY}?w=77"
HEAD = "SELECT number FROM imgproxy.head"


def states(receipt: Reply) -> dict[str, str]:
    """Return the state of each node in a receipt."""
    return {node["name"]: node["state"] for node in receipt.json()["nodes"]}


async def unanswered(purge: asyncio.Task[Reply]) -> None:
    """Wait for a purge whose node was killed: it has no answer, so nothing was promised."""
    with pytest.raises(aiohttp.ClientError):
        await purge


def namesakes(node: ProcessNode) -> list[str]:
    """Return what a node has logged of other nodes with its name."""
    return [line for line in node.messages("error") if line.startswith("another node is named")]


# --- a node is killed ------------------------------------------------------------------------------------------------


async def kill_in_a_purge(here: ProcessCluster, step: Step) -> None:
    """Edit the picture, purge it at the first node, and kill that node at this step of the purge."""
    node = here.nodes[0]
    await node.hold(step)
    await here.put(30)
    purge = asyncio.create_task(node.purge(here.entry))
    await node.arrived(step)
    await node.kill()
    await unanswered(purge)


@pytest.mark.parametrize("step", [Step.AFTER_RECORD, Step.AFTER_APPEND, Step.BEFORE_ACKNOWLEDGE])
async def test_a_purge_goes_on_by_itself_after_its_node_was_killed(here: ProcessCluster, step: Step) -> None:
    """The node dies before its line is in the log, after that, or just before the answer. It is started again."""
    async with here.visitors() as visitors:
        a, b, _c = here.nodes
        await kill_in_a_purge(here, step)

        await a.start()
        await a.all_done()

        visitors.promise_now()
        await visitors.round()
        await here.put(90)
        receipt = await b.purge(here.entry)
        visitors.promise(receipt)
        assert states(receipt)["c"] == "applied"
        await visitors.round()


@pytest.mark.parametrize("step", [Step.AFTER_RECORD, Step.AFTER_APPEND, Step.BEFORE_ACKNOWLEDGE])
async def test_a_purge_is_repeated_at_another_node_after_its_own_was_killed(here: ProcessCluster, step: Step) -> None:
    """The dead node holds it up only until it can serve nothing. When it is back it answers nothing old."""
    async with here.visitors() as visitors:
        a, b, c = here.nodes
        await kill_in_a_purge(here, step)

        receipt = await b.purge(here.entry)

        assert states(receipt)["a"] == "fenced"
        visitors.promise(receipt)
        await visitors.round(b, c)
        await a.start(is_current=False)
        await visitors.round()
        await a.current()
        await a.all_done()
        await visitors.round()


async def test_a_node_is_killed_when_its_line_is_in_the_log_and_it_does_not_know(here: ProcessCluster) -> None:
    """The commit has happened, its answer has not come. After the restart the line is written once more, and done."""
    async with here.visitors() as visitors:
        a, b, c = here.nodes
        await a.hold(Step.AFTER_RECORD)
        await here.put(30)
        purge = asyncio.create_task(a.purge(here.entry))
        await a.arrived(Step.AFTER_RECORD)
        async with here.session() as other, here.session() as observer:
            async with other.transaction():
                before = await other.fetchval(f"{HEAD} FOR UPDATE")
                await a.release(Step.AFTER_RECORD)
                await waits_for_lock(observer)  # the statement is at the server, whole
                a.database.hold(Way.BACK)
            await poll(lambda: observer.fetchval(HEAD), lambda found: found != before)
        await a.kill()
        await unanswered(purge)
        a.database.mend()
        await visitors.round(b, c)

        await a.start()
        await a.all_done()

        visitors.promise_now()
        await visitors.round()


async def test_a_node_is_killed_when_all_is_done_but_its_answer_has_not_left(here: ProcessCluster) -> None:
    """The newsroom has no answer. Any other node has the receipt, and it says that the purge is done."""
    async with here.visitors() as visitors:
        a, b, c = here.nodes
        async with line_to(a.port) as way:
            way.hold(Way.BACK)
            await here.put(30)
            url = f"http://127.0.0.1:{way.port}/-/purge/entries/{here.entry}"
            purge = asyncio.create_task(a.session.post(url, headers=ADMIN))
            await way.arrived(Way.BACK)
            await a.kill()
            way.cut()
            with pytest.raises(aiohttp.ClientError):
                await purge

        await b.all_done()

        visitors.promise_now()
        await visitors.round(b, c)
        await a.start(is_current=False)
        await visitors.round()


@pytest.mark.parametrize("step", [Step.BEFORE_APPLY, Step.BEFORE_REPORT])
async def test_another_node_is_killed_while_it_applies_a_purge(here: ProcessCluster, step: Step) -> None:
    """After the commit, before it has applied the line; or after that, before the others hear of it."""
    async with here.visitors(is_balanced=True) as visitors:
        a, b, c = here.nodes
        await b.hold(step)
        await here.put(30)
        purge = asyncio.create_task(a.purge(here.entry))
        await b.arrived(step)
        await b.kill()

        receipt = await purge

        assert states(receipt) == {"a": "applied", "b": "fenced", "c": "applied"}
        visitors.promise(receipt)
        await visitors.round(a, c)
        await b.start(is_current=False)
        await visitors.round()
        await b.current()
        await visitors.round()


# --- a node hangs ----------------------------------------------------------------------------------------------------


async def test_a_node_that_was_stopped_during_a_purge_wakes_up_fenced(here: ProcessCluster) -> None:
    """
    SIGSTOP, a purge, SIGCONT: requests from before the stop, and from during it, get nothing old.

    One request is held just before its answer, with the old bytes. Another one waits in the kernel.
    """
    async with here.visitors() as visitors:
        a, b, c = here.nodes
        assert red_of((await b.get(OTHER_SIZE)).body) in range(197, 204)
        await b.hold(Point.BEFORE_RESPONSE)
        held = asyncio.create_task(b.get(f"/{KEY}?w=78"))
        await b.arrived(Point.BEFORE_RESPONSE)
        await b.pause()
        waiting = asyncio.create_task(b.get(OTHER_SIZE))
        await here.put(30)

        receipt = await a.purge(here.entry)

        assert states(receipt) == {"a": "applied", "b": "fenced", "c": "applied"}
        visitors.promise(receipt)
        await visitors.round(a, c)
        b.go_on()
        await b.release(Point.BEFORE_RESPONSE)
        for reply in await asyncio.gather(held, waiting):
            assert reply.status == 200, reply.body
            assert red_of(reply.body) in range(27, 34)
        await visitors.round()
        await b.current()
        await visitors.round()


async def test_a_purge_is_pending_while_a_stopped_node_can_break_it_and_then_done_without_help(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """202 with `pending`, and the node that is waited for. When it goes on, the receipt at every node says done."""
    slow = {"lease_s": 120.0, "wait_s": 0.5}
    async with process_cluster(tmp_path, postgres_server, cluster=slow) as here, here.visitors() as visitors:
        a, b, c = here.nodes
        await b.pause()
        await here.put(30)

        reply = await a.purge(here.entry)

        assert (reply.status, reply.json()["pending"]) == (202, True)
        assert states(reply)["b"] == "waiting"
        await poll(c.receipts, lambda found: found and found[0]["seq"] is not None)
        [receipt] = await c.receipts()
        assert receipt["pending"] is True
        number = receipt["seq"]
        b.go_on()
        for node in (a, c, b):
            await poll(lambda node=node: node.receipt(number), lambda found: not found["pending"])  # type: ignore[misc]
        visitors.promise_now()
        assert {each["state"] for each in (await c.receipt(number))["nodes"]} == {"applied"}
        await visitors.round()


async def test_a_pending_purge_is_done_when_the_node_that_it_waits_for_has_died(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """Nobody repeats it and nobody starts the node: its lease runs out."""
    async with (
        process_cluster(tmp_path, postgres_server, names=("a", "b"), cluster={"wait_s": 0}) as here,
        here.visitors() as visitors,
    ):
        a, b = here.nodes
        await here.all_seen()  # a purge that does not wait at all does not look
        await b.hold(Step.BEFORE_APPLY)
        await here.put(30)
        reply = await a.purge(here.entry)
        await b.arrived(Step.BEFORE_APPLY)
        await b.kill()

        assert (reply.status, reply.json()["pending"], states(reply)["b"]) == (202, True, "waiting")
        await a.all_done()
        visitors.promise_now()
        await visitors.round(a)
        found = (await a.send("GET", f"/-/purges?entry={here.entry}", headers=ADMIN)).json()["purges"]
        assert {each["name"]: each["state"] for each in found[0]["nodes"]}["b"] == "fenced"
        await b.start(is_current=False)
        await visitors.round()


# --- nodes come and go -----------------------------------------------------------------------------------------------


async def test_a_rolling_restart_refuses_nobody(here: ProcessCluster) -> None:
    """Each node is stopped and started in turn, with a purge while it is away and one when it is back."""
    async with here.visitors(is_balanced=True) as visitors:
        for number, node in enumerate(here.nodes):
            others = [each for each in here.nodes if each is not node]
            assert await node.stop() == 0
            await here.put(10 + 40 * number)
            receipt = await others[0].purge(here.entry)
            assert states(receipt) == {each.name: "applied" for each in others}, "a node that leaves says so"
            visitors.promise(receipt)
            await visitors.round(*others)
            await node.start()
            await here.put(30 + 40 * number)
            receipt = await others[1].purge(here.entry)
            assert set(states(receipt).values()) == {"applied"}
            visitors.promise(receipt)
            await visitors.round()
        assert visitors.refused(BALANCER) == []


async def test_a_node_is_killed_before_it_can_say_that_it_leaves(here: ProcessCluster) -> None:
    """Its port is closed, and it is still a member: purges wait for it until its lease has run out."""
    async with here.visitors() as visitors:
        a, b, c = here.nodes
        await b.hold(Step.BEFORE_LEAVE)
        ending = asyncio.create_task(b.stop())
        await b.arrived(Step.BEFORE_LEAVE)
        b.kill_now()
        await ending
        await here.put(30)

        receipt = await a.purge(here.entry)

        assert states(receipt) == {"a": "applied", "b": "fenced", "c": "applied"}
        visitors.promise(receipt)
        await visitors.round(a, c)
        await b.start(is_current=False)
        await visitors.round()


async def test_a_node_that_comes_back_after_the_log_was_trimmed_asks_for_every_picture(
    here: ProcessCluster, postgres_server: PostgresServer
) -> None:
    """It has missed a purge that nobody can tell it of any more. It keeps its files, and proves each before it serves."""
    async with here.visitors() as visitors:
        a, b, _c = here.nodes
        assert await b.stop() == 0
        await here.put(30)
        visitors.promise(await a.purge(here.entry))
        url = postgres_server.url(here.database)
        head = int(await here.sql(HEAD))
        async with edge_of_log(url, "tidy", is_member=False) as tidy:
            await poll(lambda: here.sql("SELECT min(applied) FROM imgproxy.member"), lambda found: found == str(head))
            assert await tidy.log.trim(0) > 0
        assert await here.sql("SELECT oldest FROM imgproxy.head") == str(head + 1)

        await b.start(is_current=False)

        await visitors.round()
        await b.current()
        await visitors.round()
        lost = [line for line in b.messages("error") if "no longer has the lines since" in line]
        assert len(lost) == 1


# --- two at once -----------------------------------------------------------------------------------------------------


async def test_two_purges_of_one_picture_at_two_nodes_at_once(here: ProcessCluster) -> None:
    """Both are recorded and neither is in the log yet. Each is done, and each has a receipt of its own."""
    async with here.visitors() as visitors:
        a, b, _ = here.nodes
        await here.put(30)
        for node in (a, b):
            await node.hold(Step.AFTER_RECORD)
        purges = [asyncio.create_task(node.purge(here.entry)) for node in (a, b)]
        for node in (a, b):
            await node.arrived(Step.AFTER_RECORD)
        for node in (b, a):
            await node.release(Step.AFTER_RECORD)

        receipts = await asyncio.gather(*purges)

        for receipt in receipts:
            visitors.promise(receipt)
            assert set(states(receipt).values()) == {"applied"}
        assert len({receipt.json()["seq"] for receipt in receipts}) == 2
        await visitors.round()


async def test_a_webhook_that_two_nodes_get_is_handled_once(here: ProcessCluster) -> None:
    """The second one waits for the first, and says the same: done."""
    async with here.visitors() as visitors:
        a, b, c = here.nodes
        before = int(await here.sql(HEAD))
        await a.hold(Step.AFTER_RECORD)
        await here.put(30)
        first = asyncio.create_task(a.deliver("mediaLibraryEntry.revoke", here.entry, "once"))
        await a.arrived(Step.AFTER_RECORD)
        second = asyncio.create_task(b.deliver("mediaLibraryEntry.revoke", here.entry, "once"))
        await poll(lambda: b.metric("imgproxy_cluster_current"), bool)
        assert not second.done()
        await a.release(Step.AFTER_RECORD)

        replies = await asyncio.gather(first, second)

        assert [reply.status for reply in replies] == [200, 204]
        visitors.promise(replies[0])
        assert (await c.deliver("mediaLibraryEntry.revoke", here.entry, "once")).status == 204
        assert int(await here.sql(HEAD)) == before + 1
        await visitors.round()


async def test_a_webhook_is_handled_by_the_second_node_if_the_first_dies(here: ProcessCluster) -> None:
    """It had claimed the delivery and has answered nothing. The second one takes it over."""
    async with here.visitors() as visitors:
        a, b, c = here.nodes
        await a.hold(Step.AFTER_RECORD)
        await here.put(30)
        first = asyncio.create_task(a.deliver("mediaLibraryEntry.revoke", here.entry, "twice"))
        await a.arrived(Step.AFTER_RECORD)
        second = asyncio.create_task(b.deliver("mediaLibraryEntry.revoke", here.entry, "twice"))
        await a.kill()
        await unanswered(first)

        receipt = await second

        visitors.promise(receipt)
        await visitors.round(b, c)
        await a.start(is_current=False)
        await visitors.round()


async def test_two_nodes_with_one_name_keep_the_promise_and_say_so(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """One clear line in the log of each, a warning at `/-/ready`, and a purge that waits for both."""
    async with process_cluster(tmp_path, postgres_server, names=("a", "b")) as here:
        twin = await here.add("b2", {"cluster": {"node": "b"}})
        await twin.start()
        async with here.visitors() as visitors:
            a, b, _ = here.nodes
            for node in (b, twin):
                await poll(node.ready, lambda found: found.get("warning") == "another node has the same name")
                [line] = namesakes(node)
                assert line.startswith("another node is named b, too: give each a [cluster] node of its own")
            assert namesakes(a) == []
            await twin.pause()
            await here.put(30)
            receipt = await a.purge(here.entry)
            assert sorted((node["name"], node["state"]) for node in receipt.json()["nodes"]) == [
                ("a", "applied"),
                ("b", "applied"),
                ("b", "fenced"),
            ]
            visitors.promise(receipt)
            await visitors.round(a, b)
            twin.go_on()
            await visitors.round()


async def test_a_revoked_picture_is_gone_in_every_size_from_every_door(here: ProcessCluster) -> None:
    """The webhook reaches one node. One of the others is cut off from the database, and knows nothing of it."""
    async with here.visitors() as visitors:
        a, _, c = here.nodes
        c.database.cut()
        await here.revoke()

        receipt = await a.deliver("mediaLibraryEntry.revoke", here.entry, "revoked")

        assert states(receipt) == {"a": "applied", "b": "applied", "c": "fenced"}
        visitors.promise(receipt)
        await visitors.round()
        c.database.mend()
        await c.current()
        await visitors.round()
        for node in here.nodes:
            for target in (OTHER_SIZE, f"/{KEY}", f"/{KEY}?w=50", f"/{KEY}?w=120&fm=png"):
                assert (await node.get(target)).status == 403
