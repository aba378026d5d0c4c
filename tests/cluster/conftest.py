"""A cluster as processes that the tests of one module share: it is healed before each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from tests.support.process_cluster import process_cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from tests.support.postgres import PostgresServer
    from tests.support.process_cluster import ProcessCluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def processes(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[ProcessCluster]:
    """Run three nodes while the tests of a module run. The module needs `pytest.mark.asyncio(loop_scope="module")`."""
    async with process_cluster(tmp_path_factory.mktemp("cluster"), postgres_server) as here:
        yield here


@pytest_asyncio.fixture(loop_scope="module")
async def here(processes: ProcessCluster) -> ProcessCluster:
    """Return the cluster of the module, healed: three nodes a, b, c that are current."""
    await processes.heal()
    return processes
