"""Clocks that are wrong: leases do not look at the wall clock, and nothing else that is promised does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.false_clock import FalseClock, needs_faketime
from tests.support.process_cluster import process_cluster

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from tests.support.process_cluster import ProcessCluster
    from tests.support.visitors import Visitors

pytestmark = [pytest.mark.slow, needs_faketime]

DAY_S = 86_400
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
