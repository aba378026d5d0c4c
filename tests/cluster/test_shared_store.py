"""Two edges with a disk each, over one shared store. The store is a folder here; see test_shared_store_s3.py for S3."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from imgproxy.cache.entry import OriginalFacts, key_hash
from imgproxy.cluster.store.records import facts_as_bytes, read_facts
from imgproxy.config.sections import FreshnessSettings, PurgeSettings
from imgproxy.config.shared_store import SharedStoreSettings
from imgproxy.failpoints import Point
from imgproxy.medialibrary.operations import RevokeAsset, UnrevokeAsset
from tests.support.shared_edges import HAS_DETAIL, Edges, edges, reads, writes, written
from tests.support.site import ADMIN, KEY, LOGO, Held, Site, jpeg, png, poll, red_of, until, width_of
from tests.support.slow import slow_but

SIZES = (f"/{KEY}?w=40", f"/{KEY}?w=80&fm=webp", f"/{KEY}?w=120&h=50&fit=crop")
ORIGINAL = jpeg(200)
FRESHNESS = FreshnessSettings(settle_s=0)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Edges]:
    async with edges(tmp_path, {KEY: ORIGINAL, LOGO: png((0, 0, 255))}) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> SharedStoreSettings:
    return SharedStoreSettings(url=f"file://{tmp_path}/store", read_timeout_s=20)


def objects_of(store: SharedStoreSettings, key: str = KEY) -> list[Path]:
    """The objects of a key, as files."""
    assert store.url is not None
    folder = Path(store.url.removeprefix("file://")) / "imgproxy" / "v1" / key_hash(key)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def object_named(store: SharedStoreSettings, name: str) -> Path:
    return next(path for path in objects_of(store) if path.name == name)


async def filled(here: Edges, store: SharedStoreSettings, targets: tuple[str, ...] = SIZES) -> list[bytes]:
    """Let an edge with a disk of its own make these answers, and stop it when the store has them. Return the bodies."""
    async with here.running("first", store, freshness=FRESHNESS) as site:
        bodies = [(await site.get(target)).body for target in targets]
        await written(site)
        assert not site.metric("imgproxy_shared_store_paused", operation="write")
    here.probe.reset()
    return bodies


# --- an empty disk ----------------------------------------------------------------------------------------------------


async def test_an_edge_with_an_empty_disk_serves_a_page_without_a_render(
    here: Edges, store: SharedStoreSettings
) -> None:
    """It asks the origin once for each picture, conditionally, and takes all sizes from the store, byte for byte."""
    bodies = await filled(here, store)
    second = await here.start("second", store)

    answers = await asyncio.gather(*map(second.get, SIZES))

    assert [answer.status for answer in answers] == [200] * 3
    assert [answer.body for answer in answers] == bodies
    assert await second.renders() == 0
    assert here.probe.count("serveImage") == 1
    assert second.metric("imgproxy_origin_answers_total", answer="not_modified") == 1
    assert second.metric("imgproxy_origin_bytes_total") == 0
    assert reads(second, "variant", "hit") == 3
    assert reads(second, "original", "hit") == 0


async def test_the_answer_says_that_it_came_from_the_store(here: Edges, store: SharedStoreSettings) -> None:
    """Cache-Status names the tier and Server-Timing the time of the read; the next answer is a plain hit."""
    await filled(here, store)
    second = await here.start("second", store)

    first, other, again = [await second.get(target) for target in (SIZES[0], SIZES[1], SIZES[1])]

    assert "fwd=stale; fwd-status=304" in first.cache_status
    assert HAS_DETAIL in first.cache_status
    assert "store;dur=" in first.headers["Server-Timing"]
    assert other.cache_status.startswith("imgproxy; hit;")
    assert HAS_DETAIL in other.cache_status
    assert "detail=memory" in again.cache_status
    assert second.metric("imgproxy_cache_hits_total", tier="shared") == 2


async def test_a_new_size_is_rendered_from_the_stored_original(here: Edges, store: SharedStoreSettings) -> None:
    """A size that no edge has made needs the original: it comes from the store, and the origin sends no byte."""
    await filled(here, store)
    second = await here.start("second", store)

    answer = await second.get(f"/{KEY}?w=33")
    whole = await second.get(f"/{KEY}")

    assert width_of(answer.body) == 33
    assert whole.body == ORIGINAL
    assert await second.renders() == 1
    assert here.probe.count("serveImage") == 1
    assert second.metric("imgproxy_origin_bytes_total") == 0
    assert reads(second, "original", "hit") == 1


async def test_a_hit_does_not_call_the_store(here: Edges, store: SharedStoreSettings) -> None:
    """The store is asked after memory and disk, so hits never wait for it."""
    site = await here.start("first", store)
    await site.get(SIZES[0])
    before = [reads(site, kind, result) for kind in ("facts", "original", "variant") for result in ("hit", "miss")]

    answers = [await site.get(SIZES[0]) for _ in range(5)]

    assert all("detail=memory" in answer.cache_status for answer in answers)
    after = [reads(site, kind, result) for kind in ("facts", "original", "variant") for result in ("hit", "miss")]
    assert after == before


async def test_a_304_of_an_empty_disk_needs_no_object_but_the_facts(here: Edges, store: SharedStoreSettings) -> None:
    """A client with a copy asks an edge with an empty disk: the facts and the origin's 304 prove the copy."""
    async with here.running("first", store) as first:
        etag = (await first.get(SIZES[0])).headers["ETag"]
        await written(first)
    second = await here.start("second", store)

    answer = await second.get(SIZES[0], If_None_Match=etag)

    assert answer.status == 304
    assert reads(second, "facts", "hit") == 1
    assert reads(second, "variant", "hit") == 0


async def test_an_evicted_original_comes_back_from_the_store(here: Edges, store: SharedStoreSettings) -> None:
    """The bytes of a proved original may be deleted here; a new size takes them from the store, without the origin."""
    site = await here.start("first", store)
    await site.get(SIZES[0])
    await written(site)
    Path(site.edge.cache.store.path(key_hash(KEY), "original")).unlink()

    answer = await site.get(f"/{KEY}?w=33")

    assert width_of(answer.body) == 33
    assert here.probe.count("serveImage") == 1
    assert reads(site, "original", "hit") == 1


async def test_a_picture_with_a_watermark_is_shared(here: Edges, store: SharedStoreSettings) -> None:
    """A variant of two originals is found if both are proved: two conditional requests, no render."""
    target = f"/{KEY}?w=100&mark=/{LOGO}"
    (body,) = await filled(here, store, (target,))
    second = await here.start("second", store)

    answer = await second.get(target)

    assert answer.body == body
    assert HAS_DETAIL in answer.cache_status
    assert await second.renders() == 0
    assert here.probe.count("serveImage") == 2


async def test_an_empty_disk_is_no_overload(here: Edges, store: SharedStoreSettings) -> None:
    """What the store has needs no render process. So it is served while renders are refused."""
    bodies = await filled(here, store)
    second = await here.start("second", store)
    second.edge.admission.refusal = lambda *_, **__: "overload"  # type: ignore[method-assign]

    answer, refused = await second.get(SIZES[0]), await second.get(f"/{KEY}?w=300")

    assert answer.body == bodies[0]
    assert refused.status == 503


async def test_warming_takes_what_the_store_has(here: Edges, store: SharedStoreSettings) -> None:
    """A new edge that is warmed renders nothing that another one has made."""
    from imgproxy.config.sections import WarmSettings

    await filled(here, store, (f"/{KEY}?w=40",))
    second = await here.start("second", store, warm=WarmSettings(queries=("w=40",), accept=("legacy",)))

    answer = await second.send("POST", "/-/warm/keys", headers=ADMIN, json={"keys": [KEY]})

    assert answer.status == 200
    assert await second.renders() == 0
    assert "detail=memory" in (await second.get(f"/{KEY}?w=40")).cache_status


# --- never a lie ------------------------------------------------------------------------------------------------------


async def test_a_changed_picture_is_never_served_from_an_old_object(here: Edges, store: SharedStoreSettings) -> None:
    """Its facts are out of date: the origin sends the new picture, and the old sizes have other names."""
    await filled(here, store)
    await here.library.put(KEY, jpeg(30))
    second = await here.start("second", store)

    answer = await second.get(SIZES[0])

    assert abs(red_of(answer.body) - 30) < 8
    assert await second.renders() == 1
    await written(second)
    third = await here.start("third", store)
    assert (await third.get(SIZES[0])).body == answer.body
    assert await third.renders() == 0


@pytest.mark.parametrize(
    "weaken",
    [
        lambda facts: replace(facts, etag=f"W/{facts.etag}"),
        lambda facts: replace(facts, etag=None, fetched_at_s=facts.fetched_at_s + 3600),
    ],
    ids=["weak tag", "date alone"],
)
async def test_a_weak_validator_proves_nothing_of_the_store(
    here: Edges, store: SharedStoreSettings, weaken: Callable[[OriginalFacts], OriginalFacts]
) -> None:
    """A 304 to a weak tag or a date may be about other bytes. So the original is fetched; its sizes have its digest."""
    bodies = await filled(here, store)
    object_ = object_named(store, "facts")
    facts = read_facts(object_.read_bytes(), key_hash(KEY))
    assert facts is not None
    object_.write_bytes(facts_as_bytes(weaken(facts)))
    second = await here.start("second", store)

    answers = [await second.get(target) for target in SIZES]

    assert [answer.body for answer in answers] == bodies
    assert second.metric("imgproxy_origin_answers_total", answer="image") == 1
    assert second.metric("imgproxy_origin_answers_total", answer="not_modified") == 0
    assert await second.renders() == 0


async def test_a_picture_revoked_without_an_event_is_refused_and_deleted(
    here: Edges, store: SharedStoreSettings
) -> None:
    """An edge that knows it from the store alone is told by the origin. It deletes the objects, too."""
    await filled(here, store)
    await here.library.patch(here.library.entry_id(KEY), RevokeAsset())
    second = await here.start("second", store)

    answer = await second.get(SIZES[0])

    assert answer.status == 403
    await until(lambda: not objects_of(store))


async def test_an_origin_that_is_down_proves_nothing(here: Edges, store: SharedStoreSettings) -> None:
    """Without an answer of the origin nothing of the store is served."""
    await filled(here, store)
    second = await here.start("second", store)
    await here.library.stop()

    answer = await second.get(SIZES[0])

    assert answer.status == 502
    assert reads(second, "facts", "hit") == 1


@pytest.mark.parametrize("point", [Point.BEFORE_FETCH, Point.AFTER_FETCH, Point.BEFORE_RESPONSE])
async def test_a_purge_overtakes_what_came_from_the_store(
    here: Edges, store: SharedStoreSettings, point: Point
) -> None:
    """A purge comes while an answer from the store is on its way: it starts over, and the origin refuses."""
    await filled(here, store)
    held = Held()
    second = await here.start("second", store, failpoints=held, freshness=FRESHNESS)
    entry = here.library.entry_id(KEY)
    held.hold(point)
    answer = asyncio.create_task(second.get(SIZES[0]))
    await held.arrived(point)

    await here.library.patch(entry, RevokeAsset())
    await second.purge(entry)
    held.release(point)

    assert (await answer).status == 403


@pytest.mark.parametrize("what", ["read", "download"])
async def test_a_purge_overtakes_a_read_of_the_store(here: Edges, store: SharedStoreSettings, what: str) -> None:
    """The store answers after the purge: what it brings is not used, or proved again first."""
    await filled(here, store)
    second = await here.start("second", store, freshness=FRESHNESS)
    entry = here.library.entry_id(KEY)
    held, arrived = asyncio.Event(), asyncio.Event()
    read = getattr(second.edge.shared.objects, what)  # type: ignore[union-attr]

    async def wait(*arguments: Any, **named: Any) -> Any:
        brought = await read(*arguments, **named)
        arrived.set()
        await held.wait()
        return brought

    setattr(second.edge.shared.objects, what, wait)  # type: ignore[union-attr]
    answer = asyncio.create_task(second.get(SIZES[0]))
    await arrived.wait()

    await here.library.patch(entry, RevokeAsset())
    await second.purge(entry)
    held.set()

    assert (await answer).status == 403
    assert not list(second.edge.cache.store.key_dir(key_hash(KEY)).glob("*"))


# --- purges -----------------------------------------------------------------------------------------------------------


async def test_a_purge_deletes_the_objects_of_its_key_alone(here: Edges, store: SharedStoreSettings) -> None:
    """Behind the acknowledgement; the receipt does not name the store, and another key keeps its objects."""
    site = await here.start("first", store, freshness=FRESHNESS)
    for target in (*SIZES, f"/{LOGO}?w=9"):
        await site.get(target)
    await written(site)
    assert len(objects_of(store)) == 5
    others = objects_of(store, LOGO)

    receipt = await site.purge(here.library.entry_id(KEY))

    assert receipt.status == 200
    assert receipt.json()["downstream"] == []
    await until(lambda: not objects_of(store))
    assert objects_of(store, LOGO) == others
    await until(lambda: site.metric("imgproxy_downstream_purges_total", target="shared store", result="done") >= 1)


async def test_a_soft_purge_leaves_the_objects(here: Edges, store: SharedStoreSettings) -> None:
    """They are proved before they are served in any case."""
    site = await here.start("first", store, freshness=FRESHNESS)
    await site.get(SIZES[0])
    await written(site)
    before = objects_of(store)

    receipt = await site.purge(here.library.entry_id(KEY), "?soft=true")
    await site.get(SIZES[0])

    assert receipt.json()["soft"] is True
    assert objects_of(store) == before


async def test_everything_can_be_deleted(here: Edges, store: SharedStoreSettings) -> None:
    """One line of the outbox stands for all keys."""
    site = await here.start("first", store, freshness=FRESHNESS)
    for target in (SIZES[0], f"/{LOGO}?w=9"):
        await site.get(target)
    await written(site)

    answer = await site.send("POST", "/-/purge/all", headers=ADMIN, json={"confirm": "all"})

    assert answer.status == 200
    await poll(lambda: deletions_waiting(site), lambda waiting: not waiting)
    assert objects_of(store) == objects_of(store, LOGO) == []


async def test_after_a_purge_the_store_is_filled_again(here: Edges, store: SharedStoreSettings) -> None:
    """The picture was purged and came back: the next edge finds the new objects."""
    site = await here.start("first", store, freshness=FRESHNESS)
    await site.get(SIZES[0])
    await written(site)
    entry = here.library.entry_id(KEY)
    await here.library.patch(entry, RevokeAsset())
    await site.purge(entry)
    await until(lambda: not objects_of(store))
    await here.library.patch(entry, UnrevokeAsset())
    await site.purge(entry)
    await poll(lambda: deletions_waiting(site), lambda waiting: not waiting)

    await site.get(SIZES[0])
    await written(site)

    assert len(objects_of(store)) == 3


async def deletions_waiting(site: Site) -> int:
    return (await site.edge.downstreams._behind[0]._outbox.figures("shared store")).lines


async def test_a_deletion_survives_a_restart(here: Edges, store: SharedStoreSettings, tmp_path: Path) -> None:
    """The store refuses while the purge comes, and works when the edge runs again: the objects are deleted then."""
    async with here.running("first", store, freshness=FRESHNESS) as site:
        await site.get(SIZES[0])
        await written(site)

        async def refuse(_: str) -> int:
            from imgproxy.cluster.store.objects import StoreFailed

            raise StoreFailed("permission denied")

        site.edge.shared.objects.delete_below = refuse  # type: ignore[union-attr, method-assign]
        receipt = await site.purge(here.library.entry_id(KEY))
        assert receipt.status == 200
        assert receipt.json()["pending"] is False
        await until(
            lambda: site.metric("imgproxy_downstream_purges_total", target="shared store", result="failed") >= 1
        )
    assert objects_of(store)

    await here.start("first", store, freshness=FRESHNESS, purge=PurgeSettings(drain_s=0.05))

    await until(lambda: not objects_of(store))


async def test_a_restored_journal_does_not_trust_the_store(here: Edges, store: SharedStoreSettings) -> None:
    """The deletion never happened, and the disk is gone: the objects are there, and the origin refuses the picture."""
    await filled(here, store)
    await here.library.patch(here.library.entry_id(KEY), RevokeAsset())
    assert objects_of(store)

    second = await here.start("second", store)

    assert [(await second.get(target)).status for target in SIZES] == [403] * 3


# --- wrong bytes ------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Cut a file in two."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    """Leave nothing."""
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("kind", "damage"),
    slow_but(
        [("facts", flip), ("original", cut), ("variant", empty)],
        product(("facts", "original", "variant"), (flip, cut, empty)),
    ),
)
async def test_wrong_bytes_are_a_miss_and_are_deleted(
    here: Edges, store: SharedStoreSettings, kind: str, damage: object
) -> None:
    """A damaged object is recognised by its digest: the answer is right, and the object is written anew."""
    (body,) = await filled(here, store, (SIZES[0],))
    object_ = next(
        path for path in objects_of(store) if path.name == kind or (kind == "variant" and len(path.name) == 32)
    )
    assert callable(damage)
    damage(object_)
    second = await here.start("second", store)

    answer = await second.get(SIZES[0])
    whole = await second.get(f"/{KEY}")

    assert answer.body == body
    assert whole.body == ORIGINAL
    assert reads(second, kind, "wrong") == 1
    await written(second)
    third = await here.start("third", store)
    await third.get(SIZES[0])
    assert (await third.get(f"/{KEY}")).body == ORIGINAL
    assert reads(third, kind, "wrong") == 0


async def test_a_variant_under_the_name_of_another_is_wrong(here: Edges, store: SharedStoreSettings) -> None:
    """An intact object that is not what its name says is not served."""
    bodies = await filled(here, store, SIZES[:2])
    one, other = (path for path in objects_of(store) if len(path.name) == 32)
    first, second_bytes = one.read_bytes(), other.read_bytes()
    one.write_bytes(second_bytes)
    other.write_bytes(first)
    second = await here.start("second", store)

    assert [(await second.get(target)).body for target in SIZES[:2]] == bodies
    assert reads(second, "variant", "wrong") == 2


# --- bounds -----------------------------------------------------------------------------------------------------------


async def test_a_full_queue_drops_objects_and_counts_them(here: Edges, store: SharedStoreSettings) -> None:
    """Answers never wait for the store: what does not fit into the queue is dropped."""
    small = store.model_copy(update={"queue_max": 1, "writes_max": 1})
    site = await here.start("first", small)
    held = asyncio.Event()
    write = site.edge.shared.objects.write  # type: ignore[union-attr]

    async def wait(name: str, data: bytes | Path) -> None:
        await held.wait()
        await write(name, data)

    site.edge.shared.objects.write = wait  # type: ignore[union-attr, method-assign]

    answers = [await site.get(target) for target in SIZES]
    dropped = sum(writes(site, kind, "dropped") for kind in ("original", "facts", "variant"))
    held.set()
    await written(site)

    assert [answer.status for answer in answers] == [200] * 3
    done = sum(writes(site, kind, "done") for kind in ("original", "facts", "variant"))
    assert dropped >= 1
    assert done + dropped >= 5


async def test_an_object_that_a_purge_overtakes_is_deleted_again(here: Edges, store: SharedStoreSettings) -> None:
    """A write that is under way when the purge comes ends after its deletion; the writer deletes it again."""
    site = await here.start("first", store, freshness=FRESHNESS)
    held, arrived = asyncio.Event(), asyncio.Event()
    write = site.edge.shared.objects.write  # type: ignore[union-attr]

    async def wait(name: str, data: bytes | Path) -> None:
        arrived.set()
        await held.wait()
        await write(name, data if isinstance(data, bytes) else ORIGINAL)

    site.edge.shared.objects.write = wait  # type: ignore[union-attr, method-assign]
    await site.get(SIZES[0])
    await arrived.wait()

    await site.purge(here.library.entry_id(KEY))
    await poll(lambda: deletions_waiting(site), lambda waiting: not waiting)
    held.set()
    await written(site)

    assert objects_of(store) == []
    assert sum(writes(site, kind, "purged") for kind in ("original", "facts", "variant")) == 3


def test_without_a_store_obstore_is_not_imported() -> None:
    """An edge without the setting does not load the library, and does not need the extra."""
    program = (
        "import sys\nfrom imgproxy.config.settings import Settings\nfrom imgproxy.edge.app import Edge\n"
        "edge = Edge(Settings())\nassert edge.shared is None\nprint('obstore' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
