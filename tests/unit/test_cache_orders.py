"""An order to prove keys: what it stops, what it leaves, and how long it is remembered."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from imgproxy.cache import orders
from imgproxy.cache.cache import Cache
from imgproxy.cache.entry import OriginalFacts, Tier, key_hash
from imgproxy.cache.epochs import Epochs
from imgproxy.cache.purge_event import Unproved
from imgproxy.errors import CacheUnavailable
from tests.support.cache import (
    HASHED,
    KEY,
    PLAN,
    commit,
    commit_variant,
    let_journal_refuse,
    opened,
    original_facts,
    provenance,
)
from tests.support.site import until

OTHER = key_hash("other")
Order = Callable[[Cache], Awaitable[object]]
ORDERS: dict[str, Order] = {
    "of the key": lambda cache: cache.prove([KEY], reason="test"),
    "of everything": lambda cache: cache.distrust_all(reason="test"),
}


@pytest.fixture(autouse=True)
def _forgets_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "FORGET_AFTER_S", 0.001)
    monkeypatch.setattr(orders, "FORGET_MAX_S", 0.001)


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest) -> Order:
    return ORDERS[request.param]


def proved_again(cache: Cache, facts: OriginalFacts) -> OriginalFacts:
    """Commit what a conditional request that begins now brings: the same bytes."""
    again = replace(facts, seq=cache.epochs.seq, journal_id=cache.epochs.journal_id)
    assert cache.commit_facts(again)
    return again


async def test_an_order_stops_answers_and_leaves_files(tmp_path: Path, order: Order) -> None:
    """No answer may begin from memory or disk. The facts are still there, and count as unproved."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        path = commit_variant(cache, b"body", seq=facts.seq)
        found = await cache.find(provenance(facts), PLAN)
        assert found is not None

        await order(cache)

        assert not cache.epochs.all_hold(found.variant.proofs)
        again = await cache.find(provenance(facts), PLAN)
        assert again is None or not cache.epochs.all_hold(again.variant.proofs)
        assert cache.facts(HASHED) == facts
        assert not cache.is_proved(facts)
        assert path is not None
        assert Path(path).exists()


@pytest.mark.parametrize("tier", [Tier.MEMORY, Tier.DISK])
async def test_a_later_proof_lets_variants_answer_again(tmp_path: Path, order: Order, tier: Tier) -> None:
    """The variant is found where it was, with the new proof, and a hit in memory holds from then on."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        commit_variant(cache, b"body", seq=facts.seq)
        if tier is Tier.DISK:
            cache.hot.drop(HASHED)
        await order(cache)

        proved = proved_again(cache, facts)

        assert cache.is_proved(proved)
        found = await cache.find(provenance(proved), PLAN)
        assert found is not None
        assert (found.tier, found.variant.body) == (tier, b"body")
        assert cache.epochs.all_hold(found.variant.proofs)
        kept = cache.hot.get(HASHED, PLAN)
        assert kept is not None
        assert cache.epochs.all_hold(kept.proofs)


async def test_a_fetch_from_before_an_order_proves_nothing(tmp_path: Path, order: Order) -> None:
    """Its bytes are kept unproved. Its 304 is not taken."""
    async with opened(tmp_path) as cache:
        began, journal_id = cache.epochs.seq, cache.epochs.journal_id
        await order(cache)

        temp = Path(cache.store.temp_path(HASHED))
        temp.write_bytes(b"o")
        facts = replace(_facts(cache), seq=began, journal_id=journal_id)

        assert cache.commit_original(temp, facts)
        assert not cache.is_proved(facts)
        assert not cache.commit_facts(facts)


async def test_a_fetch_from_before_an_order_replaces_no_later_proof(tmp_path: Path, order: Order) -> None:
    """The original that was proved after the order stays."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        await order(cache)
        proved = proved_again(cache, facts)

        temp = Path(cache.store.temp_path(HASHED))
        temp.write_bytes(b"o")

        assert not cache.commit_original(temp, facts)
        cache.store.discard(temp)
        assert cache.facts(HASHED) == proved


async def test_a_render_under_way_is_kept_on_disk_alone(tmp_path: Path, order: Order) -> None:
    """It is named by its original's digest, so it may stay. It answers when the original is proved."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        await order(cache)

        assert commit_variant(cache, b"body", seq=facts.seq) is not None

        assert cache.hot.get(HASHED, PLAN) is None
        found = await cache.find(provenance(proved_again(cache, facts)), PLAN)
        assert found is not None
        assert found.tier is Tier.DISK


@pytest.mark.parametrize("is_killed", [False, True])
async def test_an_order_holds_after_a_restart(tmp_path: Path, order: Order, is_killed: bool) -> None:
    """Facts from before it are unproved, also after kill -9."""
    async with opened(tmp_path / "a") as cache:
        facts = commit(cache)
        assert facts is not None
        await order(cache)
        if is_killed:
            shutil.copytree(tmp_path / "a", tmp_path / "b")

    async with opened(tmp_path / ("b" if is_killed else "a")) as cache:
        again = cache.facts(HASHED)
        assert again == facts
        assert not cache.is_proved(facts)
        await until(lambda: not cache._orders._is_forgetting)
        assert not cache.is_proved(facts)


async def test_an_order_is_forgotten_when_its_proof_is_on_disk(tmp_path: Path) -> None:
    """Memory and journal lose it. The facts count as proved after a restart."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        await cache.prove([KEY], reason="test")
        assert cache.epochs.orders == 1
        proved = proved_again(cache, facts)
        await until(lambda: not cache.epochs.orders)
        assert await cache.journal.read("SELECT * FROM unproved_key") == []
        assert cache.is_proved(proved)

    async with opened(tmp_path) as cache:
        assert cache.facts(HASHED) == proved
        assert cache.is_proved(proved)


async def test_an_order_is_remembered_while_its_facts_are_old(tmp_path: Path) -> None:
    """Nobody asked for the key since: there is nothing on disk that proves it."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        await cache.prove([KEY], reason="test")
        cache._orders.look_at(HASHED)
        await until(lambda: not cache._orders._is_forgetting)

        assert cache.epochs.orders == 1
        assert not cache.is_proved(facts)


async def test_an_order_is_remembered_while_older_work_is_under_way(tmp_path: Path) -> None:
    """What a fetch from before the order brings is still compared with it, also after a proof."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        with cache.epochs.at_work():
            await cache.prove([KEY], reason="test")
            proved_again(cache, facts)
            assert not await cache._orders._forget_some()
            assert not cache.epochs.is_proved(HASHED, facts.seq)

        await until(lambda: not cache.epochs.orders)


async def test_an_order_for_a_key_that_is_not_cached_is_forgotten(tmp_path: Path) -> None:
    """Nothing of it can be served that was fetched before, so it takes no memory."""
    async with opened(tmp_path) as cache:
        await cache.prove(["other"], reason="test")

        await until(lambda: not cache.epochs.orders)
        assert await cache.journal.read("SELECT * FROM unproved_key") == []


async def test_facts_that_the_disk_refused_prove_nothing_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proof that is only in memory leaves the order in the journal: the disk has older facts."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        await cache.prove([KEY], reason="test")
        with monkeypatch.context() as full:
            full.setattr(cache.store, "commit_facts", _refuse)
            proved = proved_again(cache, facts)
        await until(lambda: not cache._orders._is_forgetting)
        assert cache.is_proved(proved)
        assert cache.epochs.orders == 1

    async with opened(tmp_path) as cache:
        again = cache.facts(HASHED)
        assert again is not None
        assert not cache.is_proved(again)


async def test_a_purge_ends_an_order(tmp_path: Path) -> None:
    """The purge is the stronger of both: neither memory nor journal keeps the order."""
    async with opened(tmp_path) as cache:
        commit(cache)
        await cache.prove([KEY], reason="test")

        await cache.purge([KEY], reason="test")

        assert cache.epochs.orders == 0
        assert await cache.journal.read("SELECT * FROM unproved_key") == []
        assert cache.facts(HASHED) is None


async def test_the_event_comes_after_the_record_and_before_the_answer(tmp_path: Path) -> None:
    """At the event the order is durable, and answers are stopped. It names the time of the check."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        task = asyncio.create_task(cache.prove([KEY, KEY, "other"], reason="test", settle_at_s=100.0))
        published: list[Unproved] = []

        def listen(unproved: Unproved) -> None:
            assert not task.done()
            assert not cache.epochs.is_proved(unproved.key_hash, facts.seq)
            published.append(unproved)

        cache.unproved.subscribe(listen)

        assert (await task).seq == cache.epochs.seq == 1
        assert published == [Unproved(HASHED, KEY, 100.0), Unproved(OTHER, "other", 100.0)]
        assert await cache.journal.settling() == {KEY: 100.0, "other": 100.0}


async def test_an_order_goes_on_when_its_caller_leaves(tmp_path: Path, order: Order) -> None:
    """A cancelled caller does not stop an order that may be recorded already."""
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        caller = asyncio.ensure_future(order(cache))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

        await until(lambda: not cache.is_proved(facts))


async def test_an_order_that_cannot_be_recorded_becomes_a_purge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk refuses the order's record and takes the purge's."""
    async with opened(tmp_path) as cache:
        commit(cache)
        monkeypatch.setattr(cache.journal, "record_order", _refuse_record)

        order = await cache.prove([KEY], reason="test")

        assert order.purged is not None
        assert order.purged.keys == (KEY,)
        assert cache.facts(HASHED) is None


async def test_keys_are_closed_while_the_disk_takes_no_record(tmp_path: Path) -> None:
    """Nothing of them is served, whenever it was fetched, until their purge is recorded."""
    async with opened(tmp_path) as cache:
        commit(cache)
        let_journal_refuse(cache.journal, refuses=True)
        with pytest.raises(CacheUnavailable):
            await cache.prove([KEY], reason="test")

        assert cache.epochs.is_closed(HASHED)
        assert not cache.epochs.is_proved(HASHED, cache.epochs.seq)
        let_journal_refuse(cache.journal, refuses=False)
        await cache.purge([KEY], reason="test")
        assert cache.epochs.is_proved(HASHED, cache.epochs.seq)


async def test_too_many_orders_become_one_for_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for them is bounded, and no key is served unproved."""
    monkeypatch.setattr(orders, "ORDERS_MAX", 1)
    async with opened(tmp_path) as cache:
        facts = commit(cache)
        assert facts is not None
        before = cache.epochs.journal_id

        await cache.prove([KEY, "other"], reason="test")

        await until(lambda: cache.epochs.journal_id != before)
        assert cache.epochs.orders == 0
        assert not cache.is_proved(facts)


# --- epochs ----------------------------------------------------------------------------------------------------------


def test_an_order_asks_for_a_proof_and_keeps_what_is_stored() -> None:
    """A number below the order's may be stored, and answers no more. The order's own number answers."""
    epochs = Epochs("j", 5)

    epochs.order(HASHED, 6)

    assert epochs.holds(HASHED, 5)
    assert not epochs.is_proved(HASHED, 5)
    assert not epochs.all_hold([(OTHER, 5), (HASHED, 5)])
    assert epochs.all_hold([(OTHER, 5), (HASHED, 6)])


def test_distrust_asks_for_a_proof_of_every_key_and_keeps_later_numbers() -> None:
    """Keys that are not named need its number. Purges and orders with a later number need theirs; closed keys stay."""
    epochs = Epochs("j", 5)
    epochs.purge(HASHED, 6)
    epochs.order(OTHER, 9)
    epochs.close("closed")

    epochs.distrust("k", 8)

    assert epochs.journal_id == "k"
    assert not epochs.is_proved("any", 7)
    assert epochs.is_proved("any", 8)
    assert not epochs.is_proved(HASHED, 7)
    assert epochs.is_proved(HASHED, 8)
    assert not epochs.is_proved(OTHER, 8)
    assert not epochs.is_proved("closed", 100)
    assert epochs.holds("any", 5)


def test_the_end_of_a_purge_leaves_a_later_order() -> None:
    """A purge that is forgotten takes no order with it."""
    epochs = Epochs("j", 5)
    epochs.purge(HASHED, 6)
    epochs.order(HASHED, 7)

    epochs.collected(HASHED, 6)

    assert epochs.holds(HASHED, 5)
    assert not epochs.is_proved(HASHED, 6)
    epochs.obeyed(HASHED, 7)
    assert epochs.is_proved(HASHED, 5)


def _facts(cache: Cache) -> OriginalFacts:
    return replace(original_facts(b"o"), journal_id=cache.epochs.journal_id)


def _refuse(_facts: OriginalFacts) -> None:
    raise OSError("full")


async def _refuse_record(*_arguments: object, **_named: object) -> int:
    raise CacheUnavailable
