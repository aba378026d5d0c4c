"""Two edges over a real PostgreSQL keep one promise."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import aiohttp
from pydantic import SecretStr

from imgproxy.config.cluster import ClusterSettings
from imgproxy.edge.app import Edge
from tests.support.kept_processes import KeptProcess
from tests.support.many_edges import NO_SETTLING, cluster
from tests.support.site import ADMIN, KEY, Site, jpeg, red_of, settings_for, until

if TYPE_CHECKING:
    from pathlib import Path

TARGET = f"/{KEY}?w=50"


async def test_a_purge_at_one_edge_is_gone_from_the_other_before_its_answer(tmp_path: Path, database_url: str) -> None:
    """Purges at both, at the same time, by entry and of everything; and a node that leaves."""
    async with cluster(tmp_path) as here, AsyncExitStack() as stack:
        nodes = []
        for name in ("a", "b"):
            chosen = ClusterSettings(node=name, database_url=SecretStr(database_url))
            settings = settings_for(here.library, tmp_path / name, freshness=NO_SETTLING, cluster=chosen)
            edge = await stack.enter_async_context(Edge(settings, process_class=KeptProcess))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            nodes.append(Site(edge, here.library, here.probe, session))
            await until(lambda edge=edge: edge.node.is_current)  # type: ignore[misc]
        first, second = nodes
        entry = here.library.entry_id(KEY)
        for red in (20, 90, 160):
            await second.get(TARGET)
            await here.library.put(KEY, jpeg(red))
            receipts = await asyncio.gather(first.purge(entry), second.purge(entry))
            assert {receipt.status for receipt in receipts} == {200}
            for receipt in receipts:
                assert {(node["name"], node["state"]) for node in receipt.json()["nodes"]} == {
                    ("a", "applied"),
                    ("b", "applied"),
                }
            for node in nodes:
                assert abs(red_of((await node.get(TARGET)).body) - red) <= 3
        everything = await first.send("POST", "/-/purge/all", headers=ADMIN, data=b'{"confirm": "all"}')
        assert everything.status == 200
        await second.edge.stop()

        alone = await first.purge(entry)

        assert [node["name"] for node in alone.json()["nodes"]] == ["a"]
