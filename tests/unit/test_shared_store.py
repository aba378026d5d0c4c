"""The parts of the shared store without a store: the breaker, names, records, causes of failures, settings."""

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgproxy.cache.entry import Provenance, VariantFacts, key_hash
from imgproxy.cache.framed import trailer
from imgproxy.cluster.store.breaker import FAILURES_MAX, OPEN_S, Breaker
from imgproxy.cluster.store.names import ObjectNames
from imgproxy.cluster.store.objects import cause_of, open_objects, options_of
from imgproxy.cluster.store.records import WrongBytes, facts_as_bytes, read_facts, unpack_variant
from imgproxy.config.load import load
from imgproxy.config.shared_store import SharedStoreSettings
from imgproxy.digest import digest_of
from imgproxy.errors import ConfigError
from tests.support.cache import HASHED, KEY, PLAN, original_facts

FACTS = original_facts(b"picture")

# --- the breaker ------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that a test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(FAILURES_MAX):
        breaker.fail()
    return breaker


def test_failures_in_a_row_open_the_breaker() -> None:
    """The last of them opens it, and says so once; then no call is allowed."""
    breaker = Breaker(Clock())

    assert [breaker.fail() for _ in range(FAILURES_MAX + 2)] == [False] * (FAILURES_MAX - 1) + [True, False, False]
    assert breaker.is_open
    assert not breaker.allows()


def test_a_success_between_failures_keeps_it_closed() -> None:
    """Only failures in a row count."""
    breaker = Breaker(Clock())
    for _ in range(3):
        for _ in range(FAILURES_MAX - 1):
            breaker.fail()
        assert breaker.succeed() is False

    assert breaker.allows()


def test_one_call_decides_after_the_pause() -> None:
    """After the pause a single call is allowed; its success closes the breaker, and says so."""
    clock = Clock()
    breaker = opened(clock)
    clock.now_s = OPEN_S

    assert [breaker.allows(), breaker.allows()] == [True, False]
    assert breaker.succeed() is True
    assert breaker.allows()
    assert not breaker.is_open


def test_a_failure_after_the_pause_begins_another_pause() -> None:
    """It is no new opening."""
    clock = Clock()
    breaker = opened(clock)
    clock.now_s = OPEN_S
    assert breaker.allows()
    clock.now_s += 1

    assert breaker.fail() is False
    clock.now_s += OPEN_S - 0.1
    assert not breaker.allows()
    clock.now_s += 0.2
    assert breaker.allows()


def test_a_deciding_call_that_never_ends_is_followed_by_another() -> None:
    """A request that was cancelled during its call does not keep the breaker open for ever."""
    clock = Clock()
    breaker = opened(clock)
    clock.now_s = OPEN_S
    assert breaker.allows()
    clock.now_s += OPEN_S

    assert breaker.allows()


@given(st.lists(st.sampled_from(["succeed", "fail", "wait"])))
def test_calls_are_made_at_most_once_a_pause_while_it_is_open(steps: list[str]) -> None:
    """Whatever comes: while it is open, two allowed calls are a pause apart, and each success closes it."""
    clock = Clock()
    breaker = Breaker(clock)
    allowed_at_s: list[float] = []
    for step in steps:
        if step == "wait":
            clock.now_s += OPEN_S / 3
            continue
        was_open = breaker.is_open
        if not breaker.allows():
            assert was_open
            continue
        if was_open:
            allowed_at_s.append(clock.now_s)
        if step == "succeed":
            breaker.succeed()
            assert not breaker.is_open
            allowed_at_s.clear()
        else:
            breaker.fail()
    assert all(later - earlier >= OPEN_S for earlier, later in itertools.pairwise(allowed_at_s))


# --- names and records ------------------------------------------------------------------------------------------------


def test_names_are_of_the_content_below_the_key() -> None:
    """Everything of a key is in its folder, so that one listing finds it."""
    names = ObjectNames("pre/fix")
    folder = f"pre/fix/v1/{HASHED}"
    source = Provenance(HASHED, "d" * 32, ())

    assert names.facts(HASHED) == f"{folder}/facts"
    assert names.original(FACTS, HASHED) == f"{folder}/{FACTS.digest}/original"
    assert names.variant(source, PLAN) == f"{folder}/{'d' * 32}/{PLAN}"
    assert names.variant(replace(source, digest="d+e"), PLAN) == f"{folder}/d-e/{PLAN}"
    assert names.of_key(HASHED) == folder
    assert names.all == "pre/fix/v1"


def test_a_variant_without_its_watermark_has_no_name() -> None:
    """It stands in until the watermark can be had. It is not shared."""
    assert ObjectNames("p").variant(Provenance(HASHED, f"{'d' * 32}+", ()), PLAN) is None


def test_facts_are_read_as_they_were_written() -> None:
    """The validators are beside the digest that they are for."""
    assert read_facts(facts_as_bytes(FACTS), HASHED) == FACTS


@given(st.data())
def test_damaged_facts_are_wrong(data: st.DataObject) -> None:
    """Any changed byte, and any cut, is recognised."""
    whole = facts_as_bytes(FACTS)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytes([*whole[:at], whole[at] ^ data.draw(st.integers(1, 255)), *whole[at + 1 :]])

    for damaged in (changed, whole[:at]):
        with pytest.raises(WrongBytes):
            read_facts(damaged, HASHED)


def test_facts_of_another_key_are_wrong() -> None:
    """An object that was copied to another name is not believed."""
    with pytest.raises(WrongBytes):
        read_facts(facts_as_bytes(FACTS), key_hash("other.jpg"))


def test_facts_of_another_version_are_a_miss() -> None:
    """During a rolling deployment a newer edge may write fields that this one does not know. It deletes nothing."""
    newer = trailer(replace_record(), body_bytes=0, body_digest=b"\0" * 16)
    assert read_facts(newer, HASHED) is None


def replace_record() -> object:
    """A record with a field of a later version."""
    from dataclasses import make_dataclass

    return make_dataclass("Later", ["key", "colour"], frozen=True)(KEY, "red")


def variant_file(path: Path, body: bytes = b"body", **changes: object) -> VariantFacts:
    """Write a variant as the cache does, then apply the changes to the expected name."""
    facts = VariantFacts(KEY, PLAN, "o" * 32, "image/webp", len(body), digest_of(body), 1, 1)
    path.write_bytes(body + trailer(facts, body_bytes=len(body), body_digest=bytes.fromhex(facts.digest)))
    return facts


def test_a_variant_is_cut_down_to_its_body(tmp_path: Path) -> None:
    """The cache adds the record again when it commits the file."""
    file = tmp_path / "v"
    facts = variant_file(file)

    assert unpack_variant(str(file), Provenance(HASHED, "o" * 32, ()), PLAN) == facts
    assert file.read_bytes() == b"body"


@pytest.mark.parametrize(
    ("hashed", "original", "plan"),
    [("f" * 32, "o" * 32, PLAN), (HASHED, "p" * 32, PLAN), (HASHED, "o" * 32, "cd" * 16)],
)
def test_a_variant_of_another_name_is_wrong(tmp_path: Path, hashed: str, original: str, plan: str) -> None:
    """Key, original and plan have to be those of the name."""
    file = tmp_path / "v"
    variant_file(file)

    with pytest.raises(WrongBytes):
        unpack_variant(str(file), Provenance(hashed, original, ()), plan)


# --- causes -----------------------------------------------------------------------------------------------------------


class PermissionDeniedError(Exception):
    """As obstore's."""


class GenericError(Exception):
    """As obstore's."""


CAUSES = [
    (
        PermissionDeniedError(
            "The operation lacked the necessary privileges to complete for path a/b: Error performing PUT "
            "http://s3/bucket/a/b in 474µs - Server returned non-2xx status code: 403 Forbidden: <?xml?> "
            "<Error><Code>SignatureDoesNotMatch</Code><Message>The requ"
        ),
        "HTTP 403 Forbidden, SignatureDoesNotMatch",
    ),
    (GenericError("Server returned non-2xx status code: 503 Service Unavailable: busy"), "HTTP 503 Service Unavailable"),
    (GenericError("Error performing GET http://s3/b/k?sig=SECRET in 3ms - HTTP error: error sending request"), "no connection"),
    (GenericError("request failed for key a/b: Access Denied. (code: AccessDenied)"), "AccessDenied"),
    (FileNotFoundError("404 Not Found: <Code>NoSuchBucket</Code>"), "the bucket does not exist"),
    (PermissionDeniedError("/store/a"), "permission denied"),
    (OSError(28, "No space left on device"), "No space left on device"),
    (GenericError("what?"), "the call failed (GenericError)"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "cause"), CAUSES)
def test_the_cause_of_a_failure_is_in_words(error: Exception, cause: str) -> None:
    """Operators read it in the log: no name of an object, no URL, which may hold a token."""
    assert cause_of(error) == cause


# --- settings ---------------------------------------------------------------------------------------------------------

WRONG = [
    ('url = "ftp://bucket"', "expected s3://BUCKET, gs://BUCKET, az://CONTAINER, file:///FOLDER, memory://"),
    ('url = "s3:bucket"', "expected s3://BUCKET"),
    ('url = "s3://"', "expected s3://BUCKET"),
    ('url = ""', "expected s3://BUCKET"),
    ('url = "file://"', "expected s3://BUCKET"),
    ('url = "file://folder"', "expected s3://BUCKET"),
    ('url = "memory://x"', "nothing may follow memory://"),
    ('url = "s3://key:secret@bucket"', "credentials have keys of their own"),
    ('url = "s3://bucket?region=x"', "expected no user, no query and no fragment"),
    ('url = "gs://bucket"\nregion = "x"', "region is for s3:// only"),
    ('url = "s3://bucket"\naccount = "x"', "account is for az:// only"),
    ('url = "file:///x"\nendpoint = "https://s3"', "endpoint is for s3:// and gs:// and az:// only"),
    ('url = "s3://bucket"\naccess_key_id = "x"', "access_key_id and the secret key: give both, or neither"),
    ('url = "s3://bucket"\nsecret_key = "x"', "access_key_id and the secret key: give both, or neither"),
    (
        'url = "s3://b"\naccess_key_id = "x"\nsecret_key = "y"\nsecret_key_file = "/z"',
        "secret_key and secret_key_file: give one of them",
    ),
    ('url = "s3://b"\nendpoint = "http://s3"', "http:// is not encrypted; expected https://, or allow_http = true"),
    ('url = "s3://b"\nendpoint = "s3.example.com"', "endpoint"),
    ('url = "s3://b"\nprefix = ""', "prefix"),
    ('url = "s3://b"\nprefix = "/a"', "prefix"),
    ('url = "s3://b"\nread_timeout_s = 0', "read_timeout_s"),
    ('url = "s3://b"\nread_timeout_s = 31', "read_timeout_s"),
    ('url = "s3://b"\nqueue_max = 0', "queue_max"),
    ('url = "s3://b"\nwrites_max = 65', "writes_max"),
    ('url = "s3://b"\nbucket = "x"', "bucket"),
]


@pytest.mark.parametrize(("text", "problem"), WRONG)
def test_a_wrong_setting_is_refused_in_words(tmp_path: Path, text: str, problem: str) -> None:
    """The line names the section, and what is expected."""
    file = tmp_path / "imgproxy.toml"
    file.write_text(f"[shared_store]\n{text}\n")

    with pytest.raises(ConfigError) as raised:
        load(file)

    assert len(raised.value.problems) == 1
    assert "shared_store" in str(raised.value)
    assert problem in str(raised.value)


RIGHT: list[tuple[dict[str, object], dict[str, object]]] = [
    ({"url": "s3://b"}, {}),
    (
        {"url": "s3://b/folder", "region": "r", "access_key_id": "i", "secret_key": "s", "endpoint": "https://e"},
        {"region": "r", "access_key_id": "i", "secret_access_key": "s", "endpoint": "https://e"},
    ),
    ({"url": "gs://b", "service_account_file": "/a.json"}, {"service_account": "/a.json"}),
    ({"url": "az://c", "account": "a", "secret_key": "s"}, {"account_name": "a", "account_key": "s"}),
    ({"url": "memory://"}, {}),
    ({"url": "file:///tmp/x"}, {"mkdir": True, "automatic_cleanup": True}),
]


@pytest.mark.parametrize(("given_", "expected"), RIGHT)
def test_settings_become_the_options_of_the_library(given_: dict[str, object], expected: dict[str, object]) -> None:
    """What is not set is left to the provider's own environment."""
    assert options_of(SharedStoreSettings.model_validate(given_)) == expected


def test_the_secret_comes_from_its_file(tmp_path: Path) -> None:
    """A file of a mounted secret ends with a line break."""
    file = tmp_path / "secret"
    file.write_text("from-the-file\n")
    settings = SharedStoreSettings(url="s3://b", access_key_id="i", secret_key_file=file)

    assert options_of(settings)["secret_access_key"] == "from-the-file"


def test_without_the_extra_the_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says what to install."""
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)

    with pytest.raises(ConfigError, match=r"extra `store` is not installed; expected pip install 'imgproxy\[store\]'"):
        open_objects(SharedStoreSettings(url="memory://"))


NOT_OPENED: list[tuple[Callable[[Path], SharedStoreSettings], str]] = [
    (lambda _: SharedStoreSettings(url="s3://b", access_key_id="i", secret_key_file=Path("/missing")), "/missing"),
    (lambda _: SharedStoreSettings(url="az://c"), "Account must be specified"),
    (lambda _: SharedStoreSettings.model_validate({"url": "az://c", "account": "a", "secret_key": "?"}), "Access Key"),
    (lambda _: SharedStoreSettings(url="gs://b", service_account_file=Path("/missing")), "service account file"),
    (lambda at: SharedStoreSettings(url=f"file://{at}/file/folder"), "url: "),
]


@pytest.mark.parametrize(("settings", "problem"), NOT_OPENED)
def test_a_store_that_cannot_be_opened_is_refused_at_the_start(
    tmp_path: Path, settings: Callable[[Path], SharedStoreSettings], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is in the line; nothing was sent."""
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match=r"\[shared_store\]") as raised:
        open_objects(settings(tmp_path))

    assert problem in str(raised.value)
