"""`imgproxy check` and `imgproxy cluster status` over a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json

import pytest

from imgproxy.cluster.engine import read_status
from imgproxy.cluster.status import ClusterStatus, NodeState, NodeStatus
from tests.support.cli import NOBODY, run
from tests.support.cluster import edge, purge


def imgproxy(*arguments: str, url: str | None) -> tuple[int, str, str]:
    """Run a command with this database. Return exit code, standard output and standard error."""
    database = {} if url is None else {"IMGPROXY_CLUSTER__DATABASE_URL": url}
    return run(*arguments, **database, IMGPROXY_ORIGIN__URL=NOBODY, IMGPROXY_ORIGIN__TOKEN="t" * 20)


async def test_status_shows_who_is_behind(database_url: str) -> None:
    """Names, lines behind, the log's length, and whether a lease has run out."""
    async with edge(database_url, "a") as a, edge(database_url, "b"):
        places = await a.log.append([purge(f"{n}.jpg") for n in range(3)])
        await a.log.renew(places[2])
        await a.database.fetch(
            "UPDATE imgproxy.member SET renewed_at = renewed_at - interval '1 hour' WHERE name = 'b'"
        )
        found = await read_status(database_url)
        assert (found.head, found.lines, found.history) == (3, 3, places[0].history)
        assert [(node.name, node.state, node.lag_lines) for node in found.nodes] == [
            ("a", NodeState.CURRENT, 0),
            ("b", NodeState.SILENT, 3),
        ]
        code, out, err = await asyncio.to_thread(imgproxy, "cluster", "status", "--json", url=database_url)
        assert code == 0, err
        said = json.loads(out)
        assert [(node["name"], node["state"], node["lag_lines"]) for node in said["nodes"]] == [
            ("a", "current", 0),
            ("b", "silent", 3),
        ]
        assert (said["head"], said["lines"], said["schema_version"]) == (3, 3, 1)
        assert 0 <= said["oldest_age_s"] < 600
        _, table, _ = await asyncio.to_thread(imgproxy, "cluster", "status", url=database_url)
        assert "run-of-b" in table
        assert "log: 3 lines" in table


def test_the_state_of_a_node_follows_from_lease_and_lag() -> None:
    """The lease counts first: an edge that is silent may not know what it lacks."""
    states = [
        NodeStatus("a", "r", lag, ago_s, 5.0, None).state for lag, ago_s in ((0, 4.0), (1, 4.0), (0, 6.0), (1, 6.0))
    ]
    assert states == [NodeState.CURRENT, NodeState.BEHIND, NodeState.SILENT, NodeState.SILENT]
    assert ClusterStatus("h", 0, 0, None, 1, ()).as_json()["oldest_age_s"] is None


def test_two_edges_with_one_name_are_noticed() -> None:
    """A run that has ended, and is not forgotten yet, is not the second one."""

    def cluster(ago_s: float) -> ClusterStatus:
        nodes = (NodeStatus("a", "r1", 0, 1.0, 5.0, None), NodeStatus("a", "r2", 0, ago_s, 5.0, None))
        return ClusterStatus("h", 0, 0, None, 1, nodes)

    assert (cluster(1.0).shared_names, cluster(9.0).shared_names) == (("a",), ())


def test_status_without_a_cluster_is_one_line() -> None:
    """An edge that is alone has nothing to show."""
    code, _, err = imgproxy("cluster", "status", url=None)
    assert (code, err) == (2, "imgproxy: [cluster] database_url is not set: this edge is alone\n")


def test_status_of_a_database_that_is_away_is_one_line() -> None:
    """It says what is wrong."""
    code, _, err = imgproxy("cluster", "status", url="postgresql://u:p@127.0.0.1:1/d")
    assert code == 1
    assert err == (
        "imgproxy: the cluster's database (127.0.0.1): the connection is refused: is PostgreSQL running there?\n"
    )


@pytest.mark.usefixtures("no_libraries_tried")
async def test_check_writes_and_reads(database_url: str) -> None:
    """It makes the schema, says how many edges there are, and leaves nothing behind."""
    async with edge(database_url) as a:
        _, said, _ = await asyncio.to_thread(imgproxy, "check", url=database_url)
        assert "✓ the cluster's database (127.0.0.1) can be written and read: PostgreSQL " in said
        assert "1 edges" in said
        assert [row["count"] for row in await a.database.fetch("SELECT count(*) FROM imgproxy.delivery")] == [0]
    code, said, _ = await asyncio.to_thread(imgproxy, "check", url="postgresql://u:p@127.0.0.1:1/d")
    assert "✗ [cluster] the cluster's database (127.0.0.1): the connection is refused" in said
    assert code == 1
