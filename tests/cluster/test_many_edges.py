"""Many edges, one promise: what a purge at one edge means at the others, and what each failure changes."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import pytest
from pydantic import SecretStr

from imgproxy.cache.entry import key_hash
from imgproxy.cache.spreading import Spreading
from imgproxy.config.downstream import DownstreamSettings
from imgproxy.config.sections import TagSettings
from imgproxy.failpoints import Point, Step
from tests.support.cdn import cdn
from tests.support.delivery import loop_turns
from tests.support.many_edges import LEASE_S, OWN_LEASE_S, PROOF_S, Node, cluster, several
from tests.support.site import ADMIN, KEY, Reply, jpeg, png_of_noise, poll, red_of, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.cdn import Cdn
    from tests.support.many_edges import Cluster

OLD, NEW = 200, 20
TARGET = f"/{KEY}?w=50"


def is_new(reply: Reply) -> bool:
    assert reply.status == 200, reply.body
    return abs(red_of(reply.body) - NEW) <= 3


async def edit(here: Cluster) -> None:
    """Change the picture at the origin."""
    await here.library.put(KEY, jpeg(NEW))


def purging(node: Node, **query: str) -> asyncio.Task[Reply]:
    """Begin a purge of the picture's keys at a node."""
    del query
    return asyncio.create_task(
        node.send("POST", "/-/purge/keys", headers=ADMIN, data=f'{{"keys": ["{KEY}"]}}'.encode())
    )


def states(receipt: Reply) -> dict[str, str]:
    return {node["name"]: node["state"] for node in receipt.json()["nodes"]}


async def renewed(*nodes: Node) -> None:
    """Let each node renew its lease."""
    for node in nodes:
        await node.renewed()


# --- purges ---------------------------------------------------------------------------------------------------------


async def test_a_purge_at_one_edge_is_gone_from_the_other_before_its_answer(tmp_path: Path) -> None:
    """The receipt names both nodes, and nothing is pending."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        assert not is_new(await second.get(TARGET))
        await edit(here)

        receipt = await purging(first)

        assert receipt.status == 200
        assert states(receipt) == {"a": "applied", "b": "applied"}
        assert not receipt.json()["pending"]
        assert is_new(await second.get(TARGET))
        assert is_new(await first.get(TARGET))


async def test_an_entry_that_one_edge_has_never_seen_is_purged_there(tmp_path: Path) -> None:
    """The keys that the keys API lists are spread, not only those that the edge knows."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await second.get(TARGET)
        await edit(here)

        receipt = await first.purge(here.library.entry_id(KEY))

        assert receipt.status == 200
        assert receipt.json()["keys"] == [KEY]
        assert is_new(await second.get(TARGET))


async def test_a_purge_waits_for_the_slowest_node(tmp_path: Path) -> None:
    """It is not acknowledged while one of three has not applied it, and at once when it has."""
    async with cluster(tmp_path) as here:
        first, second, third = await several(here, ["a", "b", "c"])
        third.held.hold(Step.BEFORE_APPLY)
        looks = first.way.calls["members"]
        purge = purging(first)
        await third.held.arrived(Step.BEFORE_APPLY)
        await until(lambda: first.way.calls["members"] > looks and second.cluster.lag_lines == 0)

        assert not purge.done()
        third.held.release(Step.BEFORE_APPLY)

        assert states(await purge) == {"a": "applied", "b": "applied", "c": "applied"}


async def test_a_purge_waits_until_a_node_has_drained_its_answers(tmp_path: Path) -> None:
    """A node that has applied a purge, but whose report is held, is waited for. Later lines are applied meanwhile."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        second.held.hold(Step.BEFORE_REPORT)
        purge = purging(first)
        await second.held.arrived(Step.BEFORE_REPORT)
        again = purging(first)
        await until(lambda: second.edge.cache.epochs.seq >= 2 and second.cluster.lag_lines == 0)

        assert not purge.done()
        assert not again.done()
        second.held.release(Step.BEFORE_REPORT)

        assert (await purge).status == (await again).status == 200


async def test_two_purges_of_one_key_at_two_nodes_are_both_acknowledged(tmp_path: Path) -> None:
    """Each node applies the line of the other."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])

        receipts = await asyncio.gather(purging(first), purging(second))

        assert [receipt.status for receipt in receipts] == [200, 200]
        assert len(here.log.appended) == 2


async def test_a_purge_that_takes_too_long_is_pending_and_goes_on_by_itself(tmp_path: Path) -> None:
    """After `wait_s` it is answered by 202 with the node that it waits for. Its receipt is completed later."""
    async with cluster(tmp_path) as here:
        first, second = await here.start("a", wait_s=3.0), await here.start("b")
        second.held.hold(Step.BEFORE_APPLY)
        purge = purging(first)
        await second.held.arrived(Step.BEFORE_APPLY)
        await until(lambda: first.cluster.waiting == 1)
        # The other node renews, so its lease runs; it has not applied the line, so it is not current by it.
        first.clock.advance(3.0)
        receipt = await purge

        assert receipt.status == 202
        assert states(receipt) == {"a": "applied", "b": "waiting"}
        assert receipt.json()["pending"]
        second.held.release(Step.BEFORE_APPLY)
        await until(lambda: first.edge.purges.pending == 0)
        kept = (await first.get(f"/-/purges/{receipt.json()['seq']}", **ADMIN)).json()
        assert not kept["pending"]
        assert {node["state"] for node in kept["nodes"]} == {"applied"}


# --- a node without the database ------------------------------------------------------------------------------------


async def test_a_node_that_is_cut_off_serves_what_the_origin_proves(tmp_path: Path) -> None:
    """It asks the origin once, serves for a part of `proof_s`, then asks again. It says so, and heals by itself."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await second.get(TARGET)
        await second.fence_off()
        asked = here.serves()

        assert (await second.get(TARGET)).status == 200
        assert here.serves() == asked + 1
        assert (await second.get(TARGET)).status == 200
        assert here.serves() == asked + 1
        second.clock.advance(PROOF_S)
        assert (await second.get(TARGET)).status == 200
        assert here.serves() == asked + 2
        ready = await second.get("/-/ready")
        assert ready.status == 200
        assert ready.json()["fenced"]
        assert "cannot be reached" in ready.json()["why"]
        assert second.metric("imgproxy_cluster_current") == 0

        second.way.is_cut = False
        await second.renewed()
        await second.current()
        assert not (await second.get("/-/ready")).json()["fenced"]
        assert second.metric("imgproxy_cluster_fenced_seconds_total") > 0
        del first


async def test_each_reason_why_the_log_is_away_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A second reason is not hidden by the first one. When the log was there meanwhile, the reason is new again."""
    cut, lost = "cut off, by a test", "the answer is lost, by a test"

    def reasons() -> list[str]:
        words = "the log of purges is down: "
        return [each.message.removeprefix(words) for each in caplog.records if each.message.startswith(words)]

    async with cluster(tmp_path) as here:
        [node] = await several(here, ["a"])

        async def fails(times: int) -> None:
            calls = node.way.calls["renew"]
            while node.way.calls["renew"] < calls + times:
                node.clock.advance(LEASE_S)
                await asyncio.sleep(0)

        node.way.is_cut = True
        await fails(3)
        node.way.is_cut = False
        node.way.lost_answers.add("renew")
        await fails(3)
        node.way.is_cut = True
        await fails(3)
        assert reasons() == [cut, lost]

        node.way.is_cut = False
        node.way.lost_answers.clear()
        await node.renewed()
        node.way.is_cut = True
        await fails(3)
        assert reasons() == [cut, lost, cut]


async def test_a_purge_that_cannot_be_written_into_the_log_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The node is current, for example because only the disk of the database is full. So nothing else would say it."""
    async with cluster(tmp_path) as here:
        node = await here.start("a", wait_s=0)
        node.way.lost_answers.add("append")
        assert (await purging(node)).status == 202
        while node.way.calls["append"] < 3:
            node.clock.advance(1)
            await asyncio.sleep(0)
        await node.renewed()
        assert node.cluster.is_current
        words = "purges of this node wait, they cannot be written into the log of purges: "
        said = [each.message.removeprefix(words) for each in caplog.records if each.message.startswith(words)]
        assert said == ["the answer is lost, by a test"]
        node.way.lost_answers.clear()
        await node.renewed()
        await until(lambda: not node.cluster.waiting)


async def test_a_purge_waits_for_a_node_that_is_cut_off_only_until_it_can_break_no_promise(tmp_path: Path) -> None:
    """The node is fenced in the receipt, after its lease and `proof_s`, and not before."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await second.get(TARGET)
        second.way.is_cut = True
        await renewed(first)  # it has seen the last renewal of the other
        await edit(here)
        purge = purging(first)
        await until(lambda: first.cluster.waiting == 1)
        looks = first.way.calls["members"]
        first.clock.advance(LEASE_S - 0.01)
        await until(lambda: first.way.calls["members"] > looks)
        assert not purge.done()
        first.clock.advance(0.02)
        receipt = await purge

        assert receipt.status == 200
        assert states(receipt) == {"a": "applied", "b": "fenced"}
        second.clock.advance(LEASE_S)
        assert is_new(await second.get(TARGET))


async def test_a_node_that_has_long_been_fenced_is_waited_for_as_long_as_a_proof_counts(tmp_path: Path) -> None:
    """It may have proved the key just before the purge, so its lease alone is not what counts."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await second.get(TARGET)
        await second.fence_off()
        await renewed(first)  # it has seen the last renewal of the other
        first.clock.advance(10 * LEASE_S)
        await first.renewed()
        assert not is_new(await second.get(TARGET))  # proved just before the purge
        await edit(here)
        purge = purging(first)
        await until(lambda: first.cluster.waiting == 1)
        looks = first.way.calls["members"]
        first.clock.advance(PROOF_S - 0.01)
        await until(lambda: first.way.calls["members"] > looks)

        assert not purge.done()
        assert not is_new(await second.get(TARGET))  # the promise is not given yet
        first.clock.advance(0.02)
        second.clock.advance(PROOF_S)
        assert states(await purge) == {"a": "applied", "b": "fenced"}
        assert is_new(await second.get(TARGET))


async def test_a_node_without_database_and_origin_serves_nothing(tmp_path: Path) -> None:
    """503 with a code of its own, never a picture that may be revoked."""
    async with cluster(tmp_path) as here:
        (node,) = await several(here, ["a"])
        await node.get(TARGET)
        await node.fence_off()
        here.library.faults.fail_rate = 1.0

        refused = await node.get(TARGET)

        assert refused.status == 503
        assert refused.json()["type"].endswith("cannot-prove")
        assert refused.headers["Cache-Control"] == "no-store"
        asked = here.serves()
        assert (await node.get(TARGET)).status == 503
        assert here.serves() == asked  # the next requests do not wait for the origin, for a moment


async def test_an_origin_that_takes_longer_than_a_proof_counts_proves_nothing(tmp_path: Path) -> None:
    """The request is refused after two tries."""
    async with cluster(tmp_path) as here:
        (node,) = await several(here, ["a"])
        await node.get(TARGET)
        await node.fence_off()
        asked = here.serves()
        request = None
        for _ in range(2):
            here.probe.hold("headers")
            request = request or asyncio.create_task(node.get(TARGET))
            await here.probe.arrived("headers")
            node.clock.stop_for(PROOF_S)
            here.probe.release("headers")
        assert request is not None

        assert (await request).status == 503
        assert here.serves() == asked + 2


async def test_a_stopped_process_proves_before_its_first_answer(tmp_path: Path) -> None:
    """The clock jumps, no timer has run yet, and a hit of the fast path is not answered from the cache."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await second.get(TARGET)
        assert "hit" in (await second.get(TARGET)).cache_status
        second.way.is_cut = True  # nothing reaches a stopped process
        await edit(here)
        purge = purging(first)
        await until(lambda: first.cluster.waiting == 1)
        await lease_runs_out(first, purge)
        assert states(await purge)["b"] == "fenced"

        second.clock.stop_for(LEASE_S)

        assert is_new(await second.get(TARGET))


async def lease_runs_out(node: Node, purge: asyncio.Task[Reply]) -> None:
    """Advance the clock of a node until its purge ends. The lease is counted from a look that may still be to come."""
    while not purge.done():
        node.clock.advance(LEASE_S)
        await loop_turns(50)


async def test_an_answer_that_was_about_to_begin_when_the_process_was_stopped_starts_over(tmp_path: Path) -> None:
    """It was ready before the purge, and begins with the new picture."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        second.held.hold(Point.BEFORE_RESPONSE)
        request = asyncio.create_task(second.get(TARGET))
        await second.held.arrived(Point.BEFORE_RESPONSE)
        second.way.is_cut = True
        await edit(here)
        purge = purging(first)
        await until(lambda: first.cluster.waiting == 1)
        await lease_runs_out(first, purge)
        second.clock.stop_for(LEASE_S)
        second.held.release(Point.BEFORE_RESPONSE)

        assert is_new(await request)


async def test_a_request_from_before_a_stop_is_answered_whatever_it_meets_after_it(tmp_path: Path) -> None:
    """The lease has run out, the picture is found to be changed, and then its purge arrives: the request goes on."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        second.held.hold(Point.BEFORE_RESPONSE)
        request = asyncio.create_task(second.get(TARGET))
        await second.held.arrived(Point.BEFORE_RESPONSE)
        await second.fence_off()
        await edit(here)
        purge = purging(first)
        await until(lambda: first.cluster.waiting == 1)
        await lease_runs_out(first, purge)
        second.held.hold(Point.AFTER_FETCH)
        second.held.release(Point.BEFORE_RESPONSE)  # without a lease: once more
        await second.held.arrived(Point.AFTER_FETCH)
        second.held.hold_again(Point.AFTER_FETCH)  # changed: once more
        await second.held.arrived(Point.AFTER_FETCH)
        applied = second.metric("imgproxy_overtaken_total", point="fetch")
        second.way.is_cut = False
        await second.renewed()
        await until(lambda: second.cluster.lag_lines == 0)
        second.held.hold_again(Point.AFTER_FETCH)  # purged: once more
        await second.held.arrived(Point.AFTER_FETCH)
        assert second.metric("imgproxy_overtaken_total", point="fetch") > applied
        second.held.release(Point.AFTER_FETCH)

        assert is_new(await request)


async def sending(node: Node) -> asyncio.Task[Reply]:
    """Let a node begin an answer that takes long: a large original, held in the middle of it."""
    node.held.hold(Point.MID_RESPONSE)
    request = asyncio.create_task(node.get(f"/{KEY}"))
    await node.held.arrived(Point.MID_RESPONSE)
    return request


async def test_an_answer_that_outlives_the_lease_is_cut(tmp_path: Path) -> None:
    """Nobody waits for its node any more, and the origin cannot prove the picture."""
    async with cluster(tmp_path, pictures={KEY: png_of_noise(400)}) as here:
        (node,) = await several(here, ["a"])
        request = await sending(node)
        here.library.faults.fail_rate = 1.0
        await node.fence_off()
        await loop_turns(50)  # the watch looks
        node.held.release(Point.MID_RESPONSE)

        with pytest.raises(aiohttp.ClientError):
            await request


async def test_an_answer_that_outlives_the_lease_goes_on_while_the_origin_proves_it(tmp_path: Path) -> None:
    """The origin is asked before the lease ends, and again before each proof ends."""
    picture = png_of_noise(400)
    async with cluster(tmp_path, pictures={KEY: picture}) as here:
        (node,) = await several(here, ["a"])
        request = await sending(node)
        node.way.is_cut = True
        asked = here.serves()
        node.clock.advance(LEASE_S - LEASE_S / 3 - 0.4)
        lease_ends_s = node.cluster.lease.current_until_s
        for _ in range(20):
            node.clock.advance(0.2)
            now_s = node.clock.now_s()
            needed_s = now_s + 0.4 if now_s >= lease_ends_s else min(now_s + 0.4, lease_ends_s)
            await until(partial(node.cluster.fence.is_proved_until, key_hash(KEY), needed_s))
        assert not node.cluster.is_current
        assert here.serves() > asked + 1
        node.held.release(Point.MID_RESPONSE)

        assert (await request).body == picture


async def test_a_lease_is_counted_from_before_its_renewal_was_sent(tmp_path: Path) -> None:
    """A renewal whose answer takes longer than the lease makes no node current."""
    async with cluster(tmp_path) as here:
        (node,) = await several(here, ["a"])
        node.way.hold_answers("renew")
        node.clock.advance(LEASE_S / 3)
        await node.way.arrived("renew")
        node.clock.advance(OWN_LEASE_S)
        assert not node.cluster.is_current
        renewals = node.cluster.renewals
        node.way.release("renew")
        await until(lambda: node.cluster.renewals > renewals)

        assert not node.cluster.is_current
        await node.renewed()
        assert node.cluster.is_current


async def test_a_node_that_starts_replays_the_log_before_it_answers_from_its_cache(tmp_path: Path) -> None:
    """The purge came while it was away. Until it is applied, the node is fenced."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        assert not is_new(await second.get(TARGET))
        await here.stop("b")
        await edit(here)
        assert states(await purging(first)) == {"a": "applied"}

        way = here.log.way()
        way.hold("read")
        second = await here.start("b", is_joined=False, way=way)
        await way.arrived("read")
        assert not second.cluster.is_current
        assert is_new(await second.get(TARGET))
        way.release("read")
        await second.current()
        assert is_new(await second.get(TARGET))


async def test_a_node_that_leaves_is_not_waited_for(tmp_path: Path) -> None:
    """Its lease ends at once, and the receipt does not name it."""
    async with cluster(tmp_path) as here:
        first, _ = await several(here, ["a", "b"])
        await here.stop("b")

        assert states(await purging(first)) == {"a": "applied"}


# --- the database ---------------------------------------------------------------------------------------------------


async def test_a_purge_without_the_database_is_done_here_and_pending_and_goes_on(tmp_path: Path) -> None:
    """202; the others get it when the database is back, and then the receipt is complete."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await renewed(first)  # it knows the other
        await first.get(TARGET)
        await second.get(TARGET)
        await edit(here)
        here.log.is_down = True
        purge = purging(first)
        await until(lambda: first.way.calls["append"] > 0)
        first.clock.advance(20)
        receipt = await purge

        assert receipt.status == 202
        assert states(receipt) == {"a": "applied", "b": "waiting"}
        assert is_new(await first.get(TARGET))
        second.clock.advance(20)
        here.log.is_down = False
        for node in (first, second):
            await node.renewed()
            await node.current()
        await until(lambda: first.edge.purges.pending == 0)
        kept = (await first.get(f"/-/purges/{receipt.json()['seq']}", **ADMIN)).json()
        assert not kept["pending"]
        assert is_new(await second.get(TARGET))


async def test_a_purge_that_was_not_appended_before_a_restart_is_appended_after_it(tmp_path: Path) -> None:
    """The journal has it."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await second.get(TARGET)
        await edit(here)
        first.way.is_cut = True
        purge = purging(first)
        await until(lambda: first.way.calls["append"] > 0)
        first.clock.advance(20)
        assert (await purge).status == 202
        await here.stop("a")

        await here.start("a")
        await until(lambda: second.edge.cache.epochs.seq > 1)

        assert is_new(await second.get(TARGET))


@pytest.mark.parametrize("point", [Step.AFTER_RECORD, Step.AFTER_APPEND, Step.BEFORE_ACKNOWLEDGE])
async def test_a_node_that_dies_at_any_step_of_its_purge_spreads_it_after_its_restart(
    tmp_path: Path, point: Step
) -> None:
    """The other node has the new picture, the journal has nothing left to spread, and nobody waits for the dead run."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await second.get(TARGET)
        await edit(here)
        first.held.hold(point)
        purge = purging(first)
        await first.held.arrived(point)
        first.way.is_cut = True
        await here.stop("a")
        with pytest.raises(aiohttp.ClientError):
            await purge

        first = await here.start("a")
        await until(lambda: first.edge.purges.pending == 0)

        assert is_new(await second.get(TARGET))
        await first.renewed()
        rows = Spreading(first.edge.cache.journal)
        await poll(rows.seqs, lambda seqs: not seqs)


async def test_a_node_that_dies_before_its_report_is_fenced_in_the_receipt(tmp_path: Path) -> None:
    """And it replays the line when it is back."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await second.get(TARGET)
        await edit(here)
        second.held.hold(Step.BEFORE_APPLY)
        purge = purging(first)
        await second.held.arrived(Step.BEFORE_APPLY)
        second.way.is_cut = True
        await here.stop("b")
        await until(lambda: first.cluster.waiting == 1)
        await lease_runs_out(first, purge)
        assert states(await purge) == {"a": "applied", "b": "fenced"}

        second = await here.start("b")

        assert is_new(await second.get(TARGET))


async def test_an_append_whose_answer_is_lost_is_repeated(tmp_path: Path) -> None:
    """A second line does no harm, and the purge is acknowledged."""
    async with cluster(tmp_path) as here:
        first, _ = await several(here, ["a", "b"])
        first.way.lost_answers.add("append")
        purge = purging(first)
        await until(lambda: first.way.calls["append"] > 0)
        first.way.lost_answers.clear()
        first.clock.advance(1)

        assert (await purge).status == 200
        assert len(here.log.appended) == 2


async def test_a_failover_that_lost_lines_lets_every_picture_be_asked_for_again(tmp_path: Path) -> None:
    """The files stay, the origin is asked once, and the purge that was lost has its effect all the same."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await second.get(TARGET)
        renders = await second.renders()
        asked = here.serves()
        here.log.fail_over("h2")
        await renewed(second)
        await second.current()

        assert (await second.get(TARGET)).status == 200
        assert here.serves() == asked + 1
        assert await second.renders() == renders
        del first


async def test_a_purge_that_the_failover_lost_is_written_again(tmp_path: Path) -> None:
    """It was in the log, and not acknowledged yet. The new history gets it, and a node that was away applies it."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await second.get(TARGET)
        await edit(here)
        second.held.hold(Step.BEFORE_APPLY)
        purge = purging(first)
        await second.held.arrived(Step.BEFORE_APPLY)
        here.log.fail_over("h2", lost_lines=1)
        second.held.release(Step.BEFORE_APPLY)
        await renewed(first, second)
        await until(lambda: len(here.log.appended) == 2)
        # Members of the old history may be alive without being in the new one.
        await renewed(first, second)
        await lease_runs_out(first, purge)
        receipt = await purge

        assert receipt.status == 200
        assert is_new(await second.get(TARGET))


async def test_lines_that_come_while_a_renewal_is_answered_are_no_sign_of_a_loss(tmp_path: Path) -> None:
    """The renewal reports an older end of the log than what is applied by then."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await second.get(TARGET)
        second.way.hold_answers("renew")
        second.clock.advance(LEASE_S / 3)
        await second.way.arrived("renew")
        assert (await first.send("PURGE", "/other.jpg", headers=ADMIN)).status == 200
        assert second.cluster.lag_lines == 0
        asked, renewals = here.serves(), second.cluster.renewals
        second.way.release("renew")
        await until(lambda: second.cluster.renewals > renewals)

        assert second.cluster.is_current
        assert (await second.get(TARGET)).status == 200
        assert here.serves() == asked


async def test_a_log_that_is_shorter_than_what_was_applied_is_another_one(tmp_path: Path) -> None:
    """A copy of its disk was restored, under the same history."""
    async with cluster(tmp_path) as here:
        (node,) = await several(here, ["a"])
        await purging(node)
        await node.get(TARGET)
        asked = here.serves()
        here.log.go_back(1)
        await renewed(node)
        await node.current()

        assert (await node.get(TARGET)).status == 200
        assert here.serves() == asked + 1


async def test_a_log_that_was_trimmed_too_far_lets_every_picture_be_asked_for_again(tmp_path: Path) -> None:
    """A node that was away for longer than the log is kept."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await second.get(TARGET)
        await here.stop("b")
        await edit(here)
        await purging(first)
        here.log.trim_all()

        second = await here.start("b")

        assert is_new(await second.get(TARGET))


# --- the rest -------------------------------------------------------------------------------------------------------


async def test_news_are_no_promise(tmp_path: Path) -> None:
    """A node that hears nothing applies the lines at its next renewal."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        second.way.is_deaf = first.way.is_deaf = True
        purge = purging(first)
        await until(lambda: len(here.log.appended) == 1)
        await renewed(second)
        await until(lambda: [row.applied for row in here.log.members() if row.name == "b"] == [1])
        await renewed(first)

        assert (await purge).status == 200


def fronts(server: Cdn) -> tuple[DownstreamSettings, ...]:
    """Fastly, and a cache that purges by key alone."""
    return (
        DownstreamSettings(
            kind="fastly", url=server.url, service_id="SU1Z0isxPaozGVKXdv0eY", token=SecretStr("fastly-token")
        ),
        DownstreamSettings(kind="http", name="squid", url=f"{server.url}/squid/{{key}}"),
    )


TAGS = TagSettings(headers=("Surrogate-Key",))


async def test_the_caches_in_front_are_told_once_when_every_node_has_applied_the_purge(tmp_path: Path) -> None:
    """Not before: a node that lags could give them the old picture again. And by the purge's own node alone."""
    async with cdn() as server, cluster(tmp_path, downstream=fronts(server), tags=TAGS) as here:
        first, second = await several(here, ["a", "b"])
        second.held.hold(Step.BEFORE_REPORT)
        purge = purging(first)
        await second.held.arrived(Step.BEFORE_REPORT)
        assert server.asked == []
        second.held.release(Step.BEFORE_REPORT)
        receipt = await purge

        assert [cache["state"] for cache in receipt.json()["downstream"]] == ["done", "done"]
        assert sorted(asked.target.split("/")[1] for asked in server.asked) == ["service", "squid"]


async def test_caches_in_front_are_told_of_a_pending_purge_when_it_is_complete(tmp_path: Path) -> None:
    """Until then the receipt says that they wait, and then that they have confirmed."""
    async with cdn() as server, cluster(tmp_path, downstream=fronts(server), tags=TAGS) as here:
        first, second = await here.start("a", wait_s=0.0), await here.start("b")
        second.held.hold(Step.BEFORE_APPLY)
        receipt = await purging(first)
        assert receipt.status == 202
        assert {cache["state"] for cache in receipt.json()["downstream"]} == {"pending"}
        assert server.asked == []
        second.held.release(Step.BEFORE_APPLY)
        await server.arrived(2)
        await until(lambda: first.edge.purges.pending == 0)

        kept = (await first.get(f"/-/purges/{receipt.json()['seq']}", **ADMIN)).json()
        assert {cache["state"] for cache in kept["downstream"]} == {"done"}
        assert not kept["pending"]


async def test_a_cache_that_cannot_forget_everything_is_skipped(tmp_path: Path) -> None:
    """Fastly is told by its own call; the receipt says of the other one that it was not."""
    async with cdn() as server, cluster(tmp_path, downstream=fronts(server), tags=TAGS) as here:
        (node,) = await several(here, ["a"])
        receipt = await node.send("POST", "/-/purge/all", headers=ADMIN, data=b'{"confirm": "all"}')

        assert receipt.status == 200
        assert [cache["state"] for cache in receipt.json()["downstream"]] == ["done", "skipped"]
        assert [asked.target for asked in server.asked] == ["/service/SU1Z0isxPaozGVKXdv0eY/purge_all"]
        kept = (await node.get(f"/-/purges/{receipt.json()['seq']}", **ADMIN)).json()
        assert [cache["state"] for cache in kept["downstream"]] == ["done", "skipped"]


async def test_everything_is_purged_on_every_node(tmp_path: Path) -> None:
    """`/-/purge/all` needs its word, and leaves nothing anywhere."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await first.get(TARGET)
        await second.get(TARGET)
        await edit(here)
        assert (await first.send("POST", "/-/purge/all", headers=ADMIN, data=b"{}")).status == 400

        receipt = await first.send("POST", "/-/purge/all", headers=ADMIN, data=b'{"confirm": "all"}')

        assert receipt.status == 200
        assert states(receipt) == {"a": "applied", "b": "applied"}
        assert is_new(await first.get(TARGET))
        assert is_new(await second.get(TARGET))


async def test_a_soft_purge_is_a_soft_one_at_the_other_nodes_too(tmp_path: Path) -> None:
    """They serve what they have once more, and revalidate it behind the answer."""
    async with cluster(tmp_path) as here:
        first, second = await several(here, ["a", "b"])
        await first.get(TARGET)
        await second.get(TARGET)
        await edit(here)

        await first.purge(here.library.entry_id(KEY), "?soft=1")
        cached = partial(second.edge.cache.facts, key_hash(KEY))
        await until(lambda: (facts := cached()) is not None and facts.validated_at_s < time.time() - 60)

        assert not is_new(await second.get(TARGET))
        await poll(partial(second.get, TARGET), is_new)


async def test_a_node_that_serves_what_it_has_is_waited_for_until_it_is_forgotten(tmp_path: Path) -> None:
    """`when_fenced = "serve"`: it answers from its cache, says so, and a purge stays pending."""
    async with cluster(tmp_path) as here:
        first = await here.start("a")
        second = await here.start("b", when_fenced="serve")
        await second.get(TARGET)
        await second.fence_off()
        asked = here.serves()
        assert not is_new(await second.get(TARGET))
        assert here.serves() == asked
        assert (await second.get("/-/ready")).json()["unproved_for_s"] > 0
        purge = purging(first)
        await until(lambda: first.cluster.waiting == 1)
        first.clock.advance(100)
        receipt = await purge
        assert states(receipt)["b"] == "waiting"

        first.clock.advance(600)
        await first.renewed()
        await until(lambda: first.edge.purges.pending == 0)

        assert first.cluster.members == 1


async def test_a_forgotten_node_asks_the_origin_for_each_request(tmp_path: Path) -> None:
    """Requests that come together share a proof that begins after all of them."""
    async with cluster(tmp_path) as here:
        (node,) = await several(here, ["a"])
        await node.get(TARGET)
        node.way.is_cut = True
        node.clock.advance(600)
        await until(lambda: not node.cluster.is_current)
        asked = here.serves()
        for _ in range(2):
            node.clock.stop_for(0.001)
            assert (await node.get(TARGET)).status == 200
        assert here.serves() == asked + 2

        node.clock.stop_for(0.001)
        here.probe.hold("headers")
        early = asyncio.create_task(node.get(TARGET))
        await here.probe.arrived("headers")
        await edit(here)
        node.clock.stop_for(0.001)
        late = [asyncio.create_task(node.get(TARGET)) for _ in range(5)]
        await until(lambda: node.metric("imgproxy_requests_in_flight") == 6)
        here.probe.release("headers")

        assert all(is_new(reply) for reply in await asyncio.gather(*late))
        assert (await early).status == 200
        assert here.serves() <= asked + 5


async def test_proofs_take_no_more_than_the_share_of_the_origin(tmp_path: Path) -> None:
    """With two nodes and `fetches_max` 16, eight are proved at a time."""
    pictures = {f"p/{number}.jpg": jpeg(OLD) for number in range(20)}
    async with cluster(tmp_path, pictures=pictures) as here:
        _, second = await several(here, ["a", "b"])
        for key in pictures:
            await second.get(f"/{key}?w=50")
        await second.fence_off()
        asked = here.serves()
        here.probe.hold("headers")
        requests = [asyncio.create_task(second.get(f"/{key}?w=50")) for key in pictures]
        await here.probe.arrived("headers", 8)
        await until(lambda: second.metric("imgproxy_requests_in_flight") == 20)
        assert here.serves() == asked + 8
        here.probe.release("headers")

        assert {reply.status for reply in await asyncio.gather(*requests)} == {200}


async def test_two_nodes_with_one_name_say_so(tmp_path: Path) -> None:
    """The promise holds: leases are those of runs."""
    async with cluster(tmp_path) as here:
        first = await here.start("a")
        second = await here.start("b", node="a")
        await second.get(TARGET)
        for node in (first, second, first):
            await node.renewed()

        assert "same name" in (await first.get("/-/ready")).json()["warning"]
        await edit(here)
        receipt = await purging(first)
        assert [node["state"] for node in receipt.json()["nodes"]] == ["applied", "applied"]
        assert is_new(await second.get(TARGET))


async def test_the_status_shows_every_node(tmp_path: Path) -> None:
    """Names, and how far each has applied the log."""
    async with cluster(tmp_path) as here:
        first, _ = await several(here, ["a", "b"])
        await purging(first)
        await renewed(first)

        found = (await first.get("/-/status", **ADMIN)).json()["cluster"]

        assert {node["name"] for node in found["nodes"]} == {"a", "b"}
        assert all(node["behind"] == 0 for node in found["nodes"])
        assert found["when_fenced"] == "prove"
