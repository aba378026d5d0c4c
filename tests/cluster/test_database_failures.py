"""
What may happen to the database, with three edges as processes: no answer is older than an acknowledged purge allows.

Visitors come to every door all the time. Each test waits for states, not for times.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support.process_cluster import process_cluster
from tests.support.site import ADMIN, KEY, poll, red_of
from tests.support.small_disk import fill, small_disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from tests.support.process_cluster import ProcessCluster
    from tests.support.process_node import ProcessNode
    from tests.support.site import Reply
    from tests.support.visitors import Visitors

pytestmark = pytest.mark.slow

TARGET = f"/{KEY}?w=50"
ANOTHER_HISTORY = "the log of purges is another one"
# A lease that a busy machine keeps, and that ends soon enough to wait for it. A purge is answered when it is done, or
# at once.
PATIENT = {"lease_s": 6.0, "wait_s": 120.0}
HASTY = {"lease_s": 6.0, "wait_s": 0.2}


async def purged(here: ProcessCluster, visitors: Visitors, at: ProcessNode, red: int) -> Reply:
    """Replace the picture and purge it at a node, which acknowledges it at once."""
    await here.put(red)
    receipt = await at.purge(here.entry)
    visitors.promise(receipt)
    return receipt


async def spread(visitors: Visitors, at: ProcessNode) -> None:
    """Wait until the purges that a node has answered as pending are done everywhere. Then they are promises, too."""
    await poll(at.state, lambda found: found["purges_waiting"] == 0)
    visitors.promise_now()


async def every_door_serves(here: ProcessCluster) -> None:
    """Wait until every door has the present picture. On a busy machine one may refuse some requests before."""

    async def red_at(node: ProcessNode) -> int | None:
        reply = await node.get(TARGET)
        return red_of(reply.body) if reply.status == 200 else None

    for node in here.nodes:
        await poll(partial(red_at, node), lambda red: red is not None and abs(red - here.reds[-1]) <= 3)


async def all_current(here: ProcessCluster) -> None:
    await asyncio.gather(*(node.current() for node in here.nodes))


async def all_fenced(here: ProcessCluster) -> None:
    await asyncio.gather(*(node.fenced() for node in here.nodes))


def states(receipt: Reply) -> dict[str, str]:
    return {node["name"]: node["state"] for node in receipt.json()["nodes"]}


def lead(here: ProcessCluster, server: PostgresServer) -> None:
    """Let the name of the database lead to another server, as a failover does."""
    for node in here.nodes:
        node.database.lead_to(server.port)


async def in_thread(call: Callable[..., None], *arguments: str) -> None:
    """Call a program of PostgreSQL. The event loop goes on: the lines are on it."""
    await asyncio.to_thread(call, *arguments)


async def another_history(node: ProcessNode) -> None:
    """Wait until a node has logged that the log of purges is another one."""
    await poll(partial(node.messages, "error"), lambda found: any(line.startswith(ANOTHER_HISTORY) for line in found))


async def test_a_purge_while_the_database_is_stopped_is_answered_as_pending(
    tmp_path: Path, own_server: PostgresServer
) -> None:
    """202, and the caches of the other nodes are purged when the database is back."""
    async with process_cluster(tmp_path, own_server, names=("a", "b"), cluster=HASTY) as here:
        a, b = here.nodes
        assert (await b.get(TARGET)).status == 200
        await in_thread(own_server.stop, "immediate")
        await all_fenced(here)
        await here.put(90)
        receipt = await a.purge(here.entry)
        assert (receipt.status, receipt.json()["pending"], states(receipt)["a"]) == (202, True, "applied")
        assert abs(red_of((await a.get(TARGET)).body) - 90) <= 3
        await in_thread(own_server.start)
        await poll(a.state, lambda found: found["purges_waiting"] == 0)
        await all_current(here)
        assert abs(red_of((await b.get(TARGET)).body) - 90) <= 3


async def test_a_promoted_standby_without_the_last_purge_brings_no_old_picture_back(
    tmp_path: Path, own_server: PostgresServer
) -> None:
    """A node was cut off during the purge, so only the lost tail had told it. Every node notices, proves, and heals."""
    async with process_cluster(tmp_path, own_server, cluster=PATIENT) as here:
        a, _, c = here.nodes
        standby = await asyncio.to_thread(own_server.standby)
        try:
            async with here.visitors() as visitors:
                await in_thread(standby.stop)  # it is behind from now on: it is asynchronous
                c.database.cut()
                receipt = await purged(here, visitors, a, 30)
                assert states(receipt) == {"a": "applied", "b": "applied", "c": "fenced"}
                await in_thread(own_server.stop, "immediate")
                await in_thread(standby.start)
                await in_thread(standby.promote)
                lead(here, standby)
                c.database.mend()
                await all_current(here)
                await asyncio.gather(*map(another_history, here.nodes))
                await visitors.round()
                await purged(here, visitors, c, 90)
                await visitors.round()
                await every_door_serves(here)
        finally:
            await in_thread(standby.remove)


@pytest.mark.parametrize("first", ["a node that knows the lost line", "a node that was cut off"])
async def test_a_restored_snapshot_brings_no_old_picture_back(
    tmp_path: Path, own_server: PostgresServer, first: str
) -> None:
    """The log goes back to before a purge that one node has missed. It does not matter which node comes first."""
    async with process_cluster(tmp_path, own_server, cluster=PATIENT) as here:
        a, b, c = here.nodes
        await in_thread(own_server.stop)
        snapshot = await asyncio.to_thread(own_server.copy)
        await in_thread(own_server.start)
        try:
            await all_current(here)
            renewed = await c.metric("imgproxy_cluster_renewals_total")
            await poll(partial(c.metric, "imgproxy_cluster_renewals_total"), lambda found: found > renewed)
            async with here.visitors() as visitors:
                c.database.cut()
                await purged(here, visitors, a, 30)
                for node in (a, b):
                    node.database.cut()
                await in_thread(own_server.stop)
                await in_thread(snapshot.start)
                lead(here, snapshot)
                await all_fenced(here)
                one = a if first == "a node that knows the lost line" else c
                one.database.mend()
                await one.current()
                await visitors.round()
                for node in here.nodes:
                    node.database.mend()
                await all_current(here)
                await asyncio.gather(*map(another_history, here.nodes))
                await visitors.round()
                await purged(here, visitors, b, 90)
                await visitors.round()
                await every_door_serves(here)
        finally:
            await in_thread(snapshot.remove)


async def test_a_full_disk_of_the_database_costs_no_promise(tmp_path: Path, own_server: PostgresServer) -> None:
    """A purge whose line does not fit is pending, and is done when there is space again. The log says why."""
    with small_disk(own_server.folder / "small", 48 << 20) as disk:
        disk.chmod(0o777)
        tables = disk / "tables"
        own_server.make_folder(tables)
        own_server.sql(f"CREATE TABLESPACE small LOCATION '{tables}'")
        own_server.sql("ALTER ROLE postgres SET default_tablespace = small")
        async with process_cluster(tmp_path, own_server, names=("a", "b"), cluster=HASTY) as here:
            a, b = here.nodes
            async with here.visitors() as visitors:
                filler = await asyncio.to_thread(fill, disk)
                await here.put(30)
                # So many keys need pages that the table does not have yet.
                keys = [KEY, *(f"absent/{number:04d}/{number * 7919:09d}.jpg" for number in range(2000))]
                body = f'{{"keys": {str(keys).replace(chr(39), chr(34))}}}'.encode()
                receipt = await a.send("POST", "/-/purge/keys", headers=ADMIN, data=body)
                assert (receipt.status, receipt.json()["pending"]) == (202, True)
                await poll(
                    partial(a.messages, "warning"),
                    lambda found: any("the server's disk is full" in line for line in found),
                )
                await visitors.round()
                filler.unlink()
                await spread(visitors, a)
                await visitors.round()
                await all_current(here)
                await every_door_serves(here)
            del b


async def test_a_commit_that_hangs_costs_no_promise(tmp_path: Path, own_server: PostgresServer) -> None:
    """The synchronous standby is away: nodes are fenced, purges pending. Both end when commits end again."""
    async with process_cluster(tmp_path, own_server, cluster=HASTY) as here, here.visitors() as visitors:
        a, b, _ = here.nodes
        await in_thread(partial(_set, own_server), "synchronous_standby_names", "nobody")
        await all_fenced(here)
        for node, red in ((a, 30), (b, 90)):
            await here.put(red)
            receipt = await node.purge(here.entry)
            assert (receipt.status, receipt.json()["pending"]) == (202, True)
        await visitors.round()
        await in_thread(partial(_set, own_server), "synchronous_standby_names", "")
        await all_current(here)
        for node in (a, b):
            await poll(node.state, lambda found: found["purges_waiting"] == 0)
        visitors.promise_now()
        await visitors.round()
        await every_door_serves(here)


def _set(server: PostgresServer, name: str, value: str) -> None:
    server.sql(f"ALTER SYSTEM SET {name} = '{value}'")
    server.sql("SELECT pg_reload_conf()")


async def test_a_node_that_returns_after_the_log_was_trimmed_proves_what_it_has(
    tmp_path: Path, own_server: PostgresServer
) -> None:
    """It stopped with an old picture on its disk, and the log no longer has the purge of it."""
    async with process_cluster(tmp_path, own_server, cluster=PATIENT) as here:
        a, b, c = here.nodes
        assert (await c.get(TARGET)).status == 200
        assert await c.stop() == 0
        async with here.visitors() as visitors:
            await purged(here, visitors, a, 30)
            await asyncio.to_thread(
                partial(own_server.sql, database=_database_of(a)),
                "DELETE FROM imgproxy.line; UPDATE imgproxy.head SET oldest = number + 1",
            )
            await c.start()
            await another_history(c)
            await visitors.round()
            await purged(here, visitors, b, 90)
            await visitors.round()
            await every_door_serves(here)


def _database_of(node: ProcessNode) -> str:
    [line] = [line for line in node.config.read_text("utf-8").splitlines() if line.startswith("database_url")]
    return line.strip("'").rpartition("/")[2]
