"""
Lines that are cut, held, swallowed and half-closed around a purge: real processes over a real PostgreSQL.

Each node has a line to the database and one to the Media Library. As in `test_faults_nodes.py`, visitors ask every door
all the time, and after a purge was answered by 200 no door may answer what was before.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from imgproxy.failpoints import Step
from tests.support.line import Way
from tests.support.process_cluster import process_cluster
from tests.support.site import KEY, poll, red_of
from tests.support.visitors import TARGETS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from tests.support.process_cluster import ProcessCluster
    from tests.support.site import Reply

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

B_IS_FENCED = {"a": "applied", "b": "fenced", "c": "applied"}
ALL_APPLIED = dict.fromkeys("abc", "applied")
# A lease that a busy machine keeps.
KEPT = {"lease_s": 60.0}
OTHER_SIZE = f"/{KEY}?w=77"


def states(receipt: Reply) -> dict[str, str]:
    """Return the state of each node in a receipt."""
    return {node["name"]: node["state"] for node in receipt.json()["nodes"]}


@pytest.mark.parametrize("fail", ["cut", "swallow"])
async def test_a_node_without_the_database_serves_what_the_origin_proves(here: ProcessCluster, fail: str) -> None:
    """No door refuses anything. The node says that it is fenced, and heals by itself. Purges go on meanwhile."""
    async with here.visitors() as visitors:
        a, b, _ = here.nodes
        getattr(b.database, fail)()
        for red in (30, 90):
            await here.put(red)
            receipt = await a.purge(here.entry)
            assert states(receipt) == B_IS_FENCED
            visitors.promise(receipt)
            await visitors.round()
        found = await b.ready()
        assert (found["status"], found["fenced"]) == ("ready", True)
        assert found["why"] == "the log of purges cannot be reached"
        b.database.mend()
        await b.current()
        await here.put(150)
        receipt = await a.purge(here.entry)
        assert states(receipt) == ALL_APPLIED
        visitors.promise(receipt)
        await visitors.round()
        assert visitors.refused("a", "b", "c") == []
        fenced = [line for line in b.messages("error") if line.startswith("this node is fenced")]
        assert len(fenced) == 1


async def test_a_purge_at_a_node_without_the_database_is_pending_and_then_done(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """It is done there at once, and everywhere when the line is back. Nobody repeats it."""
    quick = {"wait_s": 0.5}
    async with process_cluster(tmp_path, postgres_server, cluster=quick) as here, here.visitors() as visitors:
        a, b, c = here.nodes
        b.database.cut()
        await here.put(30)

        reply = await b.purge(here.entry)

        assert (reply.status, reply.json()["pending"]) == (202, True)
        assert red_of((await b.get(TARGETS[0])).body) in range(27, 34)
        b.database.mend()
        for node in (b, a, c):
            await poll(lambda node=node: node.receipts(), lambda found: found and not found[0]["pending"])  # type: ignore[misc]
        visitors.promise_now()
        await visitors.round()


@pytest.mark.parametrize("fail", ["cut", "swallow"])
async def test_a_node_without_the_origin_serves_what_it_has_and_nothing_purged(
    tmp_path: Path, postgres_server: PostgresServer, fail: str
) -> None:
    """It is current. A purge takes its picture, and it cannot get another one: it refuses, and heals by itself."""
    async with (
        process_cluster(tmp_path, postgres_server, names=("a", "b"), cluster=KEPT, origin={"timeout_s": 3.0}) as here,
        here.visitors() as visitors,
    ):
        a, b = here.nodes
        getattr(b.origin, fail)()
        await visitors.round()
        assert visitors.refused("b") == []
        await here.put(30)

        receipt = await a.purge(here.entry)

        assert states(receipt) == {"a": "applied", "b": "applied"}
        visitors.promise(receipt)
        await visitors.round()
        assert {answer.status for answer in visitors.refused("b")} <= {502, 503, 504}
        b.origin.mend()
        await poll(lambda: b.get(TARGETS[0]), lambda reply: reply.status == 200)
        await visitors.round()


@pytest.mark.parametrize("fail", ["cut", "swallow"])
async def test_a_node_without_database_and_origin_refuses(
    tmp_path: Path, postgres_server: PostgresServer, fail: str
) -> None:
    """It cannot prove anything: 503 `cannot-prove`, and no picture that may be revoked."""
    async with (
        process_cluster(tmp_path, postgres_server, names=("a", "b"), origin={"timeout_s": 3.0}) as here,
        here.visitors() as visitors,
    ):
        a, b = here.nodes
        getattr(b.database, fail)()
        getattr(b.origin, fail)()
        await here.revoke()

        receipt = await a.purge(here.entry)

        assert states(receipt) == {"a": "applied", "b": "fenced"}
        visitors.promise(receipt)
        await visitors.round()
        await b.fenced()
        reply = await b.get(TARGETS[0])
        assert (reply.status, reply.json()["type"].rpartition(":")[2]) == (503, "cannot-prove")
        b.origin.mend()
        await poll(lambda: b.get(TARGETS[0]), lambda reply: reply.status == 403)
        b.database.mend()
        await b.current()
        await visitors.round()


@pytest.mark.parametrize("way", list(Way))
async def test_half_closed_lines_to_the_database_heal(here: ProcessCluster, way: Way) -> None:
    """One way of each connection ends when a purge is about to be written. The nodes connect again, and it is done."""
    async with here.visitors() as visitors:
        a, b, _ = here.nodes
        for red in (30, 90, 150):
            await here.put(red)
            await a.hold(Step.AFTER_RECORD)
            purge = asyncio.create_task(a.purge(here.entry))
            await a.arrived(Step.AFTER_RECORD)
            assert a.database.half_close(way) > 0
            assert b.database.half_close(way) > 0
            await a.release(Step.AFTER_RECORD)
            visitors.promise(await purge)
            await visitors.round()
        for node in here.nodes:
            await node.current()
        receipt = await b.purge(here.entry)
        assert states(receipt) == ALL_APPLIED
        visitors.promise(receipt)
        await visitors.round()
        assert visitors.refused("a", "b", "c") == []


@pytest.mark.parametrize("way", list(Way))
async def test_half_closed_lines_to_the_origin_cost_a_try(here: ProcessCluster, way: Way) -> None:
    """Connections that were kept for the next fetch are half dead. The pictures of after the purge come all the same."""
    async with here.visitors() as visitors:
        a, _, _ = here.nodes
        await here.put(30)
        for node in here.nodes:
            node.origin.half_close(way)
        visitors.promise(await a.purge(here.entry))
        await visitors.round()
        assert visitors.refused("a", "b", "c") == []


async def test_a_renewal_that_is_answered_late_gives_no_lease(here: ProcessCluster) -> None:
    """
    The database has answered before the purge, and the answer arrives after it.

    A lease that were counted from the answer would let the node serve what was purged.
    """
    await late_renewal(here, Way.BACK)


async def test_a_renewal_that_arrives_late_gives_no_lease(here: ProcessCluster) -> None:
    """It was sent before the purge and reaches the database after it."""
    await late_renewal(here, Way.FORTH)


async def late_renewal(here: ProcessCluster, way: Way) -> None:
    """Hold what the database and a node say to each other while a purge is answered, then let it arrive."""
    async with here.visitors() as visitors:
        a, b, _ = here.nodes
        b.database.hold(way)
        await b.database.arrived(way)
        await here.put(30)

        receipt = await a.purge(here.entry)

        assert states(receipt) == B_IS_FENCED
        visitors.promise(receipt)
        b.database.release(way)
        await visitors.round()
        await b.current()
        await visitors.round()


async def test_a_picture_that_comes_late_from_the_origin_is_not_served_after_a_purge(here: ProcessCluster) -> None:
    """Its bytes have left the library before the purge at another node, and arrive after its answer."""
    async with here.visitors() as visitors:
        a, b, _ = here.nodes
        # A node that has nothing must fetch.
        visitors.promise(await a.purge(here.entry))
        b.origin.hold(Way.BACK)
        visitors.promise(await a.purge(here.entry))
        late = asyncio.create_task(b.get(OTHER_SIZE))
        await b.origin.arrived(Way.BACK)
        await here.put(30)

        receipt = await a.purge(here.entry)

        assert states(receipt) == ALL_APPLIED
        visitors.promise(receipt)
        b.origin.release(Way.BACK)
        reply = await late
        assert reply.status == 200, reply.body
        assert red_of(reply.body) in range(27, 34)
        await visitors.round()
