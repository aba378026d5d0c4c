"""Clocks that are wrong: leases do not look at the wall clock, and nothing else that is promised does."""

from __future__ import annotations

import asyncio
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import pytest

from imgproxy.failpoints import Step
from tests.support.false_clock import FalseClock, needs_faketime
from tests.support.process_cluster import process_cluster
from tests.support.site import poll

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from tests.support.process_cluster import ProcessCluster
    from tests.support.process_node import ProcessNode
    from tests.support.visitors import Visitors

pytestmark = [pytest.mark.slow, needs_faketime]

DAY_S = 86_400
HEAD = "SELECT number FROM imgproxy.head"
# No lease ends by itself in these tests.
LONG = {"lease_s": 300.0, "wait_s": 120.0}


async def purge_at_each(here: ProcessCluster, visitors: Visitors, first_red: int) -> None:
    """Replace the picture and purge it, at one node after the other. Each purge is applied by all nodes."""
    for number, node in enumerate(here.nodes):
        red = first_red + 15 * number
        await here.put(red)
        receipt = await node.purge(here.entry)
        visitors.promise(receipt)
        assert {each["state"] for each in receipt.json()["nodes"]} == {"applied"}
        await visitors.round()


async def test_nodes_whose_clocks_differ_by_a_day_keep_the_promise(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """One is a day ahead, one a day behind, from their start: every purge at each of them is applied everywhere."""
    async with process_cluster(tmp_path, postgres_server, is_started=False, cluster=LONG) as here:
        for node, off_s in zip(here.nodes, (0, DAY_S, -DAY_S), strict=True):
            await node.start(environ=FalseClock(tmp_path / f"clock-of-{node.name}", off_s=off_s).environ)
        async with here.visitors() as visitors:
            await purge_at_each(here, visitors, 15)
            assert [node.messages("error") for node in here.nodes] == [[], [], []]


async def seconds_off(node: ProcessNode) -> float:
    """Return how far a node's clock is off, by the date of an answer."""
    date = (await node.get("/-/health")).headers["Date"]
    return parsedate_to_datetime(date).timestamp() - time.time()


async def jump(node: ProcessNode, clock: FalseClock, off_s: int) -> None:
    """Set a node's clock while it runs, and wait until its answers show that."""
    clock.set(off_s)
    await poll(lambda: seconds_off(node), lambda found: abs(found - off_s) < DAY_S / 4)


@pytest.mark.parametrize("off_s", [DAY_S, -DAY_S])
@pytest.mark.parametrize(
    ("jumps", "step"),
    [("a", Step.AFTER_RECORD), ("a", Step.AFTER_APPEND), ("a", Step.BEFORE_ACKNOWLEDGE), ("b", Step.BEFORE_APPLY)],
)
async def test_a_clock_that_jumps_by_a_day_during_a_purge_breaks_no_promise(
    tmp_path: Path, postgres_server: PostgresServer, off_s: int, jumps: str, step: Step
) -> None:
    """At the node that purges, or at one that applies it. It jumps back during the next one, and nobody stays fenced."""
    async with process_cluster(tmp_path, postgres_server, names=("a", "b"), is_started=False) as here:
        clocks = {node.name: FalseClock(tmp_path / f"clock-of-{node.name}") for node in here.nodes}
        for node in here.nodes:
            await node.start(environ=clocks[node.name].environ)
        a, b = here.nodes
        wrong = a if jumps == "a" else b
        async with here.visitors() as visitors:
            for red, now_off_s in ((15, off_s), (30, 0)):
                await wrong.hold(step)
                await here.put(red)
                purge = asyncio.create_task(a.purge(here.entry))
                await wrong.arrived(step)
                await jump(wrong, clocks[jumps], now_off_s)
                await wrong.release(step)
                visitors.promise(await purge)
                await visitors.round()
                for node in here.nodes:
                    await node.current()
                await here.put(red + 90)
                visitors.promise(await b.purge(here.entry))
                await visitors.round()
                for node in here.nodes:
                    await poll(node.state, lambda found: found["purges_waiting"] == 0)


@pytest.mark.parametrize(("jumps", "off_s"), [("a", DAY_S), ("b", -DAY_S)])
async def test_a_jump_neither_ends_a_lease_nor_makes_it_longer(
    tmp_path: Path, postgres_server: PostgresServer, jumps: str, off_s: int
) -> None:
    """
    A node is cut off from the database, and its lease runs. A purge waits for that at another node.

    By the wall clock the lease would be over, for the node that waits; or it would last for a day, for the other one.
    """
    cluster = {"lease_s": 25.0, "wait_s": 120.0}
    async with process_cluster(tmp_path, postgres_server, names=("a", "b"), is_started=False, cluster=cluster) as here:
        clocks = {node.name: FalseClock(tmp_path / f"clock-of-{node.name}") for node in here.nodes}
        for node in here.nodes:
            await node.start(environ=clocks[node.name].environ)
        a, b = here.nodes
        async with here.visitors() as visitors:
            before = await here.sql(HEAD)
            b.database.cut()
            await here.put(30)
            purge = asyncio.create_task(a.purge(here.entry))
            await poll(lambda: here.sql(HEAD), lambda found: found != before)
            await jump(a if jumps == "a" else b, clocks[jumps], off_s)

            receipt = await purge

            visitors.promise(receipt)
            assert (await b.ready())["fenced"]
            assert {each["name"]: each["state"] for each in receipt.json()["nodes"]} == {"a": "applied", "b": "fenced"}
            await visitors.round()
            b.database.mend()
            await b.current()
            await visitors.round()
