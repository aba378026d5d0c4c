"""The files of the store, the ledger, and the scan."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from imgproxy.cache.entry import OriginalFacts, VariantFacts, key_hash
from imgproxy.cache.housekeeping import delete_files
from imgproxy.cache.ledger import Ledger, name_of_file, original_name, scanned_value, split_name, variant_name
from imgproxy.cache.reading import matches_digest
from imgproxy.cache.scan import scan, shards
from imgproxy.cache.store import CacheStore
from imgproxy.cache.trash import look_into
from imgproxy.digest import digest_of
from tests.support.cache import HASHED, KEY, PLAN, original_facts

SHARD = int(HASHED[:2], 16)


def variant_facts(body: bytes, original: bytes = b"original", plan: str = PLAN) -> VariantFacts:
    return VariantFacts(KEY, plan, digest_of(original), "image/webp", len(body), digest_of(body), 8, 6)


@pytest.fixture
def store(tmp_path: Path) -> CacheStore:
    store = CacheStore(tmp_path / "cache")
    store.open()
    return store


def put_original(store: CacheStore, data: bytes = b"original") -> OriginalFacts:
    facts = original_facts(data)
    temp = Path(store.temp_path(HASHED))
    temp.write_bytes(data)
    store.commit_original(temp, facts)
    return facts


def put_variant(store: CacheStore, body: bytes = b"variant", plan: str = PLAN) -> VariantFacts:
    facts = variant_facts(body, plan=plan)
    temp = Path(store.temp_path(HASHED))
    temp.write_bytes(body)
    store.commit_variant(temp, facts)
    return facts


def read_variant(store: CacheStore, original: bytes = b"original") -> tuple[VariantFacts, bytes] | None:
    opened = store.open_variant(HASHED, PLAN, digest_of(original))
    if opened is None:
        return None
    facts, descriptor, _ = opened
    try:
        return facts, os.pread(descriptor, facts.size_bytes, 0)
    finally:
        os.close(descriptor)


def test_an_original_is_found_again_with_its_facts(store: CacheStore) -> None:
    """A new store over the same directory finds facts and file of a committed original."""
    facts = put_original(store)

    again = CacheStore(store.directory)

    assert again.facts(HASHED) == facts
    found = again.find_original(facts)
    assert found is not None
    assert Path(found[0]).read_bytes() == b"original"
    assert found[1] is False


def test_facts_come_with_an_original_and_go_with_its_purge(store: CacheStore) -> None:
    """A look before they exist changes nothing."""
    assert store.facts(HASHED) is None

    facts = put_original(store)
    assert store.facts(HASHED) == facts

    store.detach(HASHED)
    assert store.facts(HASHED) is None
    put_original(store, b"another")
    assert store.facts(HASHED) == original_facts(b"another")


def test_a_variant_is_found_for_its_original_only(store: CacheStore) -> None:
    """A variant of another original's bytes is a miss."""
    put_original(store)
    facts = put_variant(store)

    assert read_variant(store) == (facts, b"variant")
    assert read_variant(store, original=b"another") is None


def test_a_variant_under_a_foreign_name_is_a_miss(store: CacheStore) -> None:
    """A file that was renamed to another variant's name is recognised by its record."""
    put_original(store)
    put_variant(store, plan="cd" * 16)

    os.rename(store.variant_path(HASHED, "cd" * 16), store.variant_path(HASHED, PLAN))

    assert read_variant(store) is None


def test_facts_of_another_key_are_no_facts(store: CacheStore) -> None:
    """A key directory copied to another key's place has no facts there."""
    put_original(store)
    other = key_hash("other.jpg")
    store.key_dir(other).parent.mkdir(exist_ok=True)

    os.rename(store.key_dir(HASHED), store.key_dir(other))

    assert CacheStore(store.directory).facts(other) is None


def test_an_original_of_another_length_is_missing(store: CacheStore) -> None:
    """A truncated original is not rendered."""
    facts = put_original(store)

    (store.key_dir(HASHED) / "original").write_bytes(b"orig")

    assert store.find_original(facts) is None


def test_a_damaged_original_is_removed(store: CacheStore) -> None:
    """If its checksum is wrong it is deleted, and so will be fetched again."""
    facts = put_original(store)
    path = store.key_dir(HASHED) / "original"
    path.write_bytes(b"ORIGINAL")

    assert not matches_digest(path, facts.digest, facts.size_bytes)
    store.note_checked(original_name(HASHED), facts.size_bytes, is_intact=False)

    assert store.find_original(facts) is None


@pytest.mark.parametrize("name", [digest_of, lambda data: hashlib.blake2b(data, digest_size=16).hexdigest()])
@pytest.mark.parametrize("behind", [b"", b"a record"])
def test_contents_are_known_by_their_digest(tmp_path: Path, name: Callable[[bytes], str], behind: bytes) -> None:
    """Bytes after the content do not matter. The BLAKE2b digests of older caches are known, too."""
    path, data = tmp_path / "file", os.urandom(300_000)
    path.write_bytes(data + behind)

    assert matches_digest(path, name(data), len(data))
    assert not matches_digest(path, name(data), len(data) - 1)
    assert not matches_digest(path, name(data), len(data) + len(behind) + 1)
    assert not matches_digest(path, name(b"other"), len(data))
    assert not matches_digest(tmp_path / "none", name(data), len(data))


def test_detaching_takes_the_directory_out_of_reach_at_once(store: CacheStore) -> None:
    """After detach neither facts nor variants are found, and the ledger counts nothing."""
    put_original(store)
    put_variant(store)

    detached = store.detach(HASHED)

    assert detached is not None
    assert store.facts(HASHED) is None
    assert read_variant(store) is None
    assert store.ledger.used_bytes == 0
    assert (detached.variants, detached.size_bytes) == (1, len(b"original") + len(b"variant"))
    assert look_into([detached]).variants == 1
    assert store.detach(HASHED) is None


def test_a_commit_into_a_detached_directory_fails(store: CacheStore) -> None:
    """A temporary file that a purge took away cannot be committed."""
    put_original(store)
    temp = Path(store.temp_path(HASHED))
    temp.write_bytes(b"variant")
    store.detach(HASHED)

    with pytest.raises(FileNotFoundError):
        store.commit_variant(temp, variant_facts(b"variant"))


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """An unusable cache directory raises NotADirectoryError."""
    blocker = tmp_path / "file"
    blocker.write_text("not a directory")

    with pytest.raises(NotADirectoryError):
        CacheStore(blocker / "cache").open()


def test_the_scan_finds_files_by_time_of_use_and_collects_orphans(store: CacheStore) -> None:
    """The oldest comes first. Temporary files of another run are deleted. A directory without facts is an orphan."""
    put_original(store)
    put_variant(store)
    os.utime(store.variant_path(HASHED, PLAN), (10, 10))
    os.utime(store.key_dir(HASHED) / "original", (20, 20))
    foreign = store.key_dir(HASHED) / "t-00000000-1"
    foreign.write_bytes(b"half")
    orphan = HASHED[:2] + "0" * 30
    store.key_dir(orphan).mkdir(parents=True)
    (store.key_dir(orphan) / "original").write_bytes(b"who knows")

    found = scan(store.keys_dir, SHARD, store.run_id)

    assert [name for name in found.files if name[:16].hex() == HASHED] == [
        variant_name(HASHED, PLAN),
        original_name(HASHED),
    ]
    assert found.orphans == [orphan]
    assert not foreign.exists()
    assert shards(store.keys_dir) == [SHARD]


def test_the_scan_skips_directories_in_the_wrong_place(store: CacheStore) -> None:
    """A directory that no lookup would find is not counted."""
    put_original(store)
    (store.keys_dir / HASHED[:2] / key_hash("other.jpg")).mkdir()
    (store.keys_dir / HASHED[:2] / key_hash("other.jpg") / "original").write_bytes(b"who knows")
    (store.keys_dir / "lost+found").mkdir()

    found = scan(store.keys_dir, SHARD, store.run_id)

    assert list(found.files) == [original_name(HASHED)]
    assert found.orphans == []
    assert shards(store.keys_dir) == [SHARD]


def test_the_scan_leaves_this_runs_temporary_files(store: CacheStore) -> None:
    """A directory with a file being written is not an orphan."""
    temp = Path(store.temp_path(HASHED))
    temp.write_bytes(b"half")

    found = scan(store.keys_dir, SHARD, store.run_id)

    assert temp.exists()
    assert found.orphans == []


def test_deleting_the_last_file_of_a_key_takes_its_facts_along(store: CacheStore) -> None:
    """A directory with facts alone is deleted."""
    put_original(store)

    delete_files([store.key_dir(HASHED) / "original"])

    assert not store.key_dir(HASHED).exists()


def test_discarding_leaves_no_empty_directory(store: CacheStore) -> None:
    """A key that the origin refuses leaves nothing on disk."""
    temp = Path(store.temp_path(HASHED))
    temp.write_bytes(b"")

    store.discard(temp)

    assert not store.key_dir(HASHED).exists()


def test_cache_files_are_not_executable(store: CacheStore) -> None:
    """Nothing in the cache can be run."""
    put_original(store)
    put_variant(store)

    modes = [path.stat().st_mode for path in store.key_dir(HASHED).iterdir()]

    assert all(not mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH) for mode in modes)


def test_the_ledger_keeps_the_order_of_use() -> None:
    """The file that was used last is evicted last."""
    ledger = Ledger()
    for name in (b"a", b"b", b"c"):
        ledger.add(name, 10, is_verified=False)

    ledger.touch(b"a")

    assert [name for name, _ in ledger.oldest(10)] == [b"b", b"c", b"a"]
    assert ledger.take_touched() == {b"a"}
    assert ledger.take_touched() == set()


def test_the_ledger_counts_bytes_through_every_change() -> None:
    """Replacing and removing files keeps the sum right."""
    ledger = Ledger()
    ledger.add(b"a", 10, is_verified=True)
    ledger.add(b"a", 25, is_verified=True)
    ledger.add(b"b", 5, is_verified=False)
    ledger.remove(b"c")
    ledger.remove(b"b")

    assert ledger.used_bytes == 25
    assert ledger.touch(b"a")
    assert not ledger.touch(b"b")


def test_files_of_an_earlier_run_come_before_those_of_this_one() -> None:
    """Files from the scan are ordered by their last use, in whatever dict they are. A known name keeps its place."""
    ledger = Ledger()
    ledger.add(b"a-new", 1, is_verified=True)
    ledger.begin_scan()
    ledger.remove(b"a-gone")
    day_ns = 86_400 * 10**9

    oldest_first = {b"a-older": scanned_value(day_ns, 3), b"a-old": scanned_value(3 * day_ns, 2)}
    ledger.adopt_older(ord("a"), {**oldest_first, b"a-new": scanned_value(9, 99), b"a-gone": scanned_value(9, 7)}, 111)
    ledger.begin_scan()
    ledger.adopt_older(
        ord("b"), {b"b-between": scanned_value(2 * day_ns, 5), b"b-of-tomorrow": scanned_value(1 << 70, 4)}, 9
    )

    assert [name for name, _ in ledger.oldest(10)] == [b"a-older", b"b-between", b"a-old", b"b-of-tomorrow", b"a-new"]
    assert ledger.used_bytes == 15
    assert not ledger.touch(b"a-old")


def test_a_touch_orders_names_of_different_dicts() -> None:
    """A touch changes the order across all dicts, and keeps the size and the note about the checksum."""
    ledger = Ledger()
    names = [bytes([number]) + b"name" for number in (7, 200, 0, 255)]
    for name in names:
        ledger.add(name, 1 << 40, is_verified=name[0] == 200)
    ledger.touch(names[1])
    ledger.touch(names[0])

    assert ledger.oldest(10) == [(name, 1 << 40) for name in (names[2], names[3], names[1], names[0])]
    assert [ledger.touch(name) for name in names] == [False, True, False, False]
    assert len(ledger) == 4


@pytest.mark.parametrize("file_name", ["facts", "t-12345678-1", "v-short", "v-" + "g" * 32, "v-" + "a" * 34, "other"])
def test_only_originals_and_variants_are_counted(file_name: str) -> None:
    """Other files of a key's directory are not in the ledger."""
    assert name_of_file(HASHED, file_name) is None


def test_ledger_names_can_be_taken_apart() -> None:
    """A name says which file it is."""
    assert split_name(original_name(HASHED)) == (HASHED, None)
    assert split_name(variant_name(HASHED, PLAN)) == (HASHED, PLAN)
    assert name_of_file(HASHED, f"v-{PLAN}") == variant_name(HASHED, PLAN)


def test_a_commit_gives_the_body_that_was_rendered(store: CacheStore) -> None:
    """The body is returned whole, without the record after it."""
    put_original(store)
    facts, temp = variant_facts(b"variant"), Path(store.temp_path(HASHED))
    temp.write_bytes(b"variant")

    _, body = store.commit_variant(temp, facts, with_body=True)

    assert body == b"variant"
    assert read_variant(store) == (facts, b"variant")


def test_a_rendered_file_that_is_too_short_is_refused(store: CacheStore) -> None:
    """A file with fewer bytes than its facts say is not committed."""
    put_original(store)
    temp = Path(store.temp_path(HASHED))
    temp.write_bytes(b"vari")

    with pytest.raises(OSError, match="shorter"):
        store.commit_variant(temp, variant_facts(b"variant"), with_body=True)


def test_a_file_in_its_place_is_no_longer_being_written(store: CacheStore) -> None:
    """A file protects its directory until it is put in place or discarded."""
    put_original(store)
    assert not store.is_being_written(HASHED)
    put_variant(store)
    assert not store.is_being_written(HASHED)
    first, second = store.temp_path(HASHED), store.temp_path(HASHED)
    store.discard(first)
    assert store.is_being_written(HASHED)
    store.discard(second)
    assert not store.is_being_written(HASHED)


def test_a_file_that_cannot_be_made_is_not_being_written(store: CacheStore) -> None:
    """A file that the disk refused does not protect its directory."""
    (store.keys_dir / HASHED[:2]).write_bytes(b"in the way")
    with pytest.raises(NotADirectoryError):
        store.temp_path(HASHED)
    assert not store.is_being_written(HASHED)


def test_a_file_in_its_place_is_not_discarded(store: CacheStore) -> None:
    """A late `discard` deletes no other file of the same name."""
    temp = Path(store.temp_path(HASHED))
    store.commit_original(temp, original_facts(b""))
    temp.write_bytes(b"another file")
    store.discard(temp)
    assert temp.exists()
