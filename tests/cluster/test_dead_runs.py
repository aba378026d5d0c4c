"""
Runs that did not leave: a node that starts again forgets its own last run, and no run that may live.

And a node that leaves stays away: the renewal that was under way does not bring it back.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from imgproxy.cluster.log import Member
from imgproxy.failpoints import Step
from tests.support.delivery import loop_turns
from tests.support.many_edges import LEASE_S, cluster, several
from tests.support.process_cluster import process_cluster
from tests.support.site import ADMIN, KEY, poll, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.many_edges import Cluster, Node
    from tests.support.postgres import PostgresServer
    from tests.support.site import Reply

# No lease ends by itself, and a purge does not wait for one.
LONG = {"lease_s": 300.0, "wait_s": 120.0}


async def purge(node: Node) -> Reply:
    """Purge the picture's key at a node."""
    return await node.send("POST", "/-/purge/keys", headers=ADMIN, data=f'{{"keys": ["{KEY}"]}}'.encode())


def states(receipt: Reply) -> list[tuple[str, str]]:
    """Return the name and the state of each node in a receipt."""
    return sorted((node["name"], node["state"]) for node in receipt.json()["nodes"])


async def die(here: Cluster, name: str, node: Node) -> None:
    """End a node as kill -9 does, as far as the log sees it."""
    node.way.is_cut = True
    await here.stop(name)


# --- over a log in memory --------------------------------------------------------------------------------------------


async def test_a_node_that_starts_again_forgets_the_run_that_was_killed(tmp_path: Path) -> None:
    """The next purge has each node once, and waits for no lease: the clock stands still."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await die(here, "b", second)
        assert second.cluster.run in here.log.rows

        again = await here.start("b")

        assert set(here.log.rows) == {first.cluster.run, again.cluster.run}
        assert states(await purge(first)) == [("a", "applied"), ("b", "applied")]


async def test_a_purge_that_waits_for_a_dead_run_goes_on_when_its_node_is_back(tmp_path: Path) -> None:
    """The others hear that the run has ended."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await die(here, "b", second)
        waiting = asyncio.create_task(purge(first))
        await until(lambda: first.cluster.waiting == 1)

        await here.start("b")

        assert states(await waiting) == [("a", "applied")]


async def test_a_node_forgets_all_its_runs_that_could_not_reach_the_log(tmp_path: Path) -> None:
    """The first one was killed. The second one did not reach the log, and so could not say that the first has ended."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await die(here, "b", second)
        here.log.is_down = True
        await here.start("b", is_joined=False)
        await here.stop("b")
        here.log.is_down = False

        again = await here.start("b")

        assert set(here.log.rows) == {first.cluster.run, again.cluster.run}


async def test_a_node_over_a_copied_disk_does_not_forget_the_run_that_lives(tmp_path: Path) -> None:
    """It has the same name, and its journal names that run. Purges wait for both."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        shutil.copytree(tmp_path / "cache-b", tmp_path / "cache-copy")

        copy = await here.start("copy", node="b")

        assert set(here.log.rows) == {first.cluster.run, second.cluster.run, copy.cluster.run}
        assert states(await purge(first)) == [("a", "applied"), ("b", "applied"), ("b", "applied")]


async def test_a_node_forgets_no_run_of_another_node_with_its_name(tmp_path: Path) -> None:
    """Both are killed. One of them starts again, and knows of its own only."""
    async with cluster(tmp_path) as here:
        one, two = await here.start("one", node="b"), await here.start("two", node="b")
        await die(here, "one", one)
        await die(here, "two", two)

        again = await here.start("two", node="b")

        assert set(here.log.rows) == {one.cluster.run, again.cluster.run}


async def test_a_dead_run_that_comes_back_is_forgotten_again(tmp_path: Path) -> None:
    """Its last renewal was still on its way to the log when its node had started again."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await die(here, "b", second)
        again = await here.start("b")
        late = here.log.way()
        await late.join(_member_of(second), on_lines=lambda: None, on_applied=lambda: None)
        assert second.cluster.run in here.log.rows

        await again.renewed()
        await until(lambda: second.cluster.run not in here.log.rows)

        assert set(here.log.rows) == {first.cluster.run, again.cluster.run}


def _member_of(node: Node) -> Member:
    return Member("b", node.cluster.run, 0, 0, LEASE_S, 2.0)


async def test_leaving_waits_for_the_renewal_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The renewal ends first, so it does not bring the node back."""
    monkeypatch.setattr("imgproxy.cluster.node.LEAVE_S", 60.0)
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        second.way.hold("renew")
        second.clock.advance(LEASE_S / 3)
        await second.way.arrived("renew")
        leaving = asyncio.create_task(here.stop("b"))
        await until(lambda: second.edge.state.is_draining)
        await loop_turns(200)
        assert second.way.calls["leave"] == 0

        second.way.release("renew")
        await leaving

        assert second.way.calls["leave"] == 1
        assert set(here.log.rows) == {first.cluster.run}


async def test_a_node_that_leaves_waits_for_a_renewal_only_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It then does not leave at all, and says so: the renewal would bring it back."""
    monkeypatch.setattr("imgproxy.cluster.node.LEAVE_S", 0.01)
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        second.way.hold("renew")
        second.clock.advance(LEASE_S / 3)
        await second.way.arrived("renew")

        await here.stop("b")

        assert second.way.calls["leave"] == 0
        assert set(here.log.rows) == {first.cluster.run, second.cluster.run}
        assert "this node could not leave the cluster" in caplog.text


# --- as processes ----------------------------------------------------------------------------------------------------


def runs(state: dict[str, Any], name: str) -> set[str]:
    """Return the runs of the members with this name, as a node sees them."""
    return {each["run"] for each in state["nodes"] if each["name"] == name}


@pytest.mark.slow
async def test_a_killed_node_is_counted_once_when_it_is_back(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """Kill -9, three times, the last time in a purge of its own. No lease ends here: a purge would wait for a dead run."""
    async with process_cluster(tmp_path, postgres_server, cluster=LONG) as here, here.visitors() as visitors:
        a, b, c = here.nodes
        for red in (15, 30):
            await b.kill()
            await b.start()
            await here.put(red)
            receipt = await a.purge(here.entry)
            visitors.promise(receipt)
            assert states(receipt) == [("a", "applied"), ("b", "applied"), ("c", "applied")]
            await visitors.round()

        await b.hold(Step.AFTER_APPEND)
        await here.put(45)
        lost = asyncio.create_task(b.purge(here.entry))
        await b.arrived(Step.AFTER_APPEND)
        await b.kill()
        with pytest.raises(aiohttp.ClientError):
            await lost
        await b.start()
        await poll(b.state, lambda found: found["purges_waiting"] == 0)
        visitors.promise_now()
        await visitors.round()
        for node in (a, b, c):
            receipt = await node.purge(here.entry)
            assert states(receipt) == [("a", "applied"), ("b", "applied"), ("c", "applied")]


@pytest.mark.slow
async def test_a_stopped_process_stays_a_member_whatever_starts_over_its_disk(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """SIGSTOP. A second process over its disk is refused. One over a copy of the disk, with the same name, starts."""
    async with process_cluster(tmp_path, postgres_server, names=("a", "b")) as here:
        a, b = here.nodes
        await here.all_seen()
        disk = b.config.parent / "cache"
        second = await here.add("second", {"cluster": {"node": "b"}, "cache": {"dir": str(disk)}})
        copied = await here.add("copied", {"cluster": {"node": "b"}})
        async with here.visitors() as visitors:
            [paused] = runs(await a.state(), "b")
            await b.pause()
            with pytest.raises(AssertionError, match="another imgproxy is using this directory"):
                await second.start()
            shutil.copytree(disk, copied.config.parent / "cache")
            await copied.start()
            assert paused in runs(await a.state(), "b")

            await here.put(30)
            receipt = await a.purge(here.entry)

            visitors.promise(receipt)
            assert states(receipt) == [("a", "applied"), ("b", "applied"), ("b", "fenced")]
            assert paused in runs(await a.state(), "b")
            b.go_on()
            await visitors.round(a, b, copied)
            await b.current()
            assert paused in runs(await a.state(), "b")
