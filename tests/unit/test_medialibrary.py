"""The pure parts of the Media Library room: tokens, operations, answers, keys, cursors, conditions, scopes."""

from __future__ import annotations

import os
import pickle
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgproxy.errors import ConfigError, ImgproxyError
from imgproxy.medialibrary import errors
from imgproxy.medialibrary.client.answers import error_for, retry_after_s
from imgproxy.medialibrary.client.tokens import TokenSource
from imgproxy.medialibrary.client.transport import pause_s
from imgproxy.medialibrary.moments import is_proof
from imgproxy.medialibrary.operations import AddUsageLogEntry, RevokeAsset, UnrevokeAsset, to_json
from imgproxy.medialibrary.server.access import READ, WRITE, AccessToken, authorize, parse_token
from imgproxy.medialibrary.server.conditions import ByteRange, Unsatisfiable, byte_range, is_not_modified
from imgproxy.medialibrary.server.cursors import read_cursor, write_cursor
from imgproxy.medialibrary.server.keys import key_from_path, key_problem, owner_of_variant, path_of
from imgproxy.medialibrary.server.patches import media_references
from imgproxy.medialibrary.server.problems import Problem
from imgproxy.medialibrary.server.state import Asset, EntryState

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


# --- tokens ------------------------------------------------------------------------------------------------------


def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A rewritten and a replaced file both give their new tokens; blank lines count for nothing."""
    path = tmp_path / "token"
    path.write_text("one\n")
    source = TokenSource.file(path)
    first = source.tokens()
    path.write_text("two\n\n  one \n")
    second = source.tokens()
    other = tmp_path / "next"
    other.write_text("six\n")
    os.replace(other, path)

    assert (first, second, source.tokens()) == (("one",), ("two", "one"), ("six",))


def test_a_token_file_in_trouble_keeps_its_last_tokens(tmp_path: Path) -> None:
    """Emptied, garbled or gone for a moment, the file's last good tokens stay in use."""
    path = tmp_path / "token"
    path.write_text("one\n")
    source = TokenSource.file(path)
    for breakage in (b"", b"\xff\xfe\n", b"two words\n"):
        path.write_bytes(breakage)
        assert source.tokens() == ("one",)
    path.unlink()
    assert source.tokens() == ("one",)
    path.write_text("two")
    assert source.tokens() == ("two",)


def test_tokens_that_cannot_stand_in_a_header(tmp_path: Path) -> None:
    """A line break, a space or an empty token is a ConfigError that does not show it; nor does a repr."""
    for token in ("", "a b", "a\r\nx: y", "tökén"):
        with pytest.raises(ConfigError) as refused:
            TokenSource.literal(token)
        assert not token or token not in str(refused.value)
    (tmp_path / "token").write_text("s3cret")

    assert "s3cret" not in repr(TokenSource.literal("s3cret")) + repr(TokenSource.file(tmp_path / "token"))
    assert TokenSource.none().tokens() == ()


def test_scopes_of_a_token_on_the_command_line() -> None:
    """T has both scopes, T=scope that one; what follows the last = is a scope only with a colon."""
    assert parse_token("T") == AccessToken("T", frozenset({READ, WRITE}))
    assert parse_token("T=public-api:read") == AccessToken("T", frozenset({READ}))
    assert parse_token("a=b==public-api:read,public-api:write") == AccessToken("a=b=", frozenset({READ, WRITE}))
    assert parse_token("YWJj==").value == "YWJj=="
    for wrong in ("", "T=public-api:delete", "a b"):
        with pytest.raises(ConfigError):
            parse_token(wrong)
    assert "s3cret" not in repr(AccessToken("s3cret"))


def test_authorization() -> None:
    """The scheme is read in any case; a token counts for its scopes alone."""
    tokens = [AccessToken("r", frozenset({READ})), AccessToken("w", frozenset({WRITE}))]
    authorize("bearer r", tokens, READ)
    authorize("Bearer  w ", tokens, WRITE)
    for header, scope, status in (
        ("Bearer r", WRITE, 403),
        ("Bearer x", READ, 401),
        ("r", READ, 401),
        (None, READ, 401),
    ):
        with pytest.raises(Problem) as refused:
            authorize(header, tokens, scope)
        assert refused.value.status == status


# --- the client's side -------------------------------------------------------------------------------------------


def test_operations_are_refused_in_versions_that_do_not_have_them() -> None:
    """An operation or a note from a later release never leaves the client; the error names both versions."""
    with pytest.raises(errors.VersionTooOld) as refused:
        to_json(UnrevokeAsset(), "2025-11")
    with pytest.raises(errors.VersionTooOld):
        to_json(RevokeAsset("why"), "2025-11")
    with pytest.raises(errors.VersionTooOld):
        to_json(AddUsageLogEntry("web"), "2026-03")

    assert (refused.value.since, refused.value.api_version) == ("2026-01", "2025-11")
    assert "unrevokeAsset needs Media Library API version 2026-01" in str(refused.value)
    assert to_json(RevokeAsset(), "2025-03") == {"operation": "revokeAsset"}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("-1", None),
        ("soon", None),
        ("Fri, 01 May 2026 12:00:30 GMT", 30.0),
        ("Fri, 01 May 2026 11:00:00 GMT", 0.0),
        ("Fri May  1 12:00:30 2026", 30.0),
        ("Friday, 01-May-26 12:00:30 GMT", 30.0),
        ("9" * 400, 3600.0),
        ("Fri, 01 May 2099 12:00:30 GMT", 3600.0),
        (f"Fri, 01 May {'9' * 30} 12:00:30 GMT", None),
    ],
)
def test_retry_after(header: str | None, expected: float | None) -> None:
    """Seconds and dates are read, at most an hour; what lies in the past is now, and nonsense is nothing."""
    assert retry_after_s(header, now=NOW) == expected


@pytest.mark.parametrize(
    ("last_modified", "expected"),
    [
        ("Fri, 01 May 2026 11:59:59 GMT", True),
        ("Friday, 01-May-26 11:59:59 GMT", True),
        ("Fri May  1 11:59:59 2026", True),
        ("Fri, 01 May 2026 12:00:00 GMT", False),
        ("Fri, 01 May 2099 12:00:00 GMT", False),
        ("yesterday", False),
        ("0", False),
        (f"Fri, 01 May {'9' * 30} 12:00:00 GMT", False),
        ("", False),
        (None, False),
    ],
)
def test_a_last_modified_that_proves_nothing_is_not_used(last_modified: str | None, expected: bool) -> None:
    """None, one in the future, or one of the second of the answer (RFC 9110 8.8.2); dates have three forms."""
    assert is_proof(last_modified, NOW.timestamp()) is expected


def test_pauses_have_jitter_and_an_end() -> None:
    """A pause lies between nothing and twice the one before, at most two seconds; Retry-After goes before."""
    for attempt in range(1, 12):
        assert 0 <= pause_s(attempt, None) <= min(2.0, 0.1 * 2**attempt)
    assert pause_s(1, 17.0) == 17.0


@given(st.integers(400, 599), st.binary(max_size=300))
def test_any_error_answer_has_a_meaning(status: int, body: bytes) -> None:
    """Whatever bytes come with an error status, one error of ours is made, with a public text and facts."""
    error = error_for(status, body, where="GET /x", api_version="2026-05")

    assert isinstance(error, errors.MediaLibraryError)
    assert error.public
    assert len(str(error)) < 500
    assert str(error).startswith(f"{type(error).__name__}: GET /x")


def test_every_error_keeps_its_facts_over_a_process_border() -> None:
    """Each error class can be pickled, is one of the service's tree, and says something to the public."""
    facts: list[errors.MediaLibraryError] = [
        errors.LibraryNotFound(message="m", where="w", is_api_answer=False),
        errors.Forbidden(message="m"),
        errors.Unauthorized(origin_status=401),
        errors.Conflict(),
        errors.ValidationFailed(paths={"a": "b"}),
        errors.VersionGone(api_version="2025-03"),
        errors.VersionTooOld(feature="f", since="2026-01", api_version="2025-03"),
        errors.OriginUnavailable(origin_status=503, wait_s=1.5),
        errors.OriginTimeout(timeout_s=1.0),
        errors.TooLarge(limit_bytes=1, size_bytes=None),
        errors.UnexpectedStatus(origin_status=500),
        errors.UnexpectedAnswer(),
    ]
    for error in facts:
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert copy.facts() == error.facts()
        assert isinstance(copy, ImgproxyError)
        assert copy.public
    statuses = [error.status for error in facts]

    assert statuses == [404, 403, 502, 502, 502, 502, 502, 502, 504, 413, 502, 502]
    assert facts[7].retry_after_s == 2


# --- keys --------------------------------------------------------------------------------------------------------


@given(st.text(max_size=40))
def test_a_key_that_is_accepted_stays_in_the_folder(key: str) -> None:
    """No text that passes as a key can name anything above the folder."""
    if key_problem(key) is None:
        path = os.path.normpath(os.path.join("/folder", *key.split("/")))
        assert path.startswith("/folder/")
        assert "\0" not in path


@given(st.text(alphabet="ab./%2fF5cC0\\", max_size=20))
def test_a_key_of_a_path_stays_in_the_folder(raw: str) -> None:
    """No path, however encoded, becomes a key that could leave; what is refused is a 400 at `key`."""
    try:
        key = key_from_path(raw)
    except Problem as problem:
        details = (problem.status, list(problem.details))
    else:
        details = (400, ["key"]) if key_problem(key) is None else (200, [key])
    assert details == (400, ["key"])


def test_paths_outside_the_folder_are_no_files(tmp_path: Path) -> None:
    """A file beside the folder, a linked folder out of it and a folder itself have no path."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "photos-secret").mkdir()
    for path in (folder / "a.png", folder / "sub" / "b.png", tmp_path / "photos-secret" / "c.png"):
        path.touch()
    (folder / "link").symlink_to(tmp_path / "photos-secret")

    assert path_of(str(folder), "sub/b.png") == os.path.realpath(folder / "sub" / "b.png")
    for key in ("link/c.png", "../photos-secret/c.png", "sub", "none.png", "", "/etc/passwd"):
        assert path_of(str(folder), key) is None


def test_variants_find_the_longest_name() -> None:
    """The longest stem before a separator wins; a stem in the middle of a word does not count."""
    stems = {"my/key": "A", "my/key-2": "B", "x": "C"}
    owners = {
        "v/my/key.webp": "A",
        "v/my/key_1.webp": "A",
        "v/my/key-2.webp": "B",
        "v/my/key-2/a.webp": "B",
        "v/my/key-22.webp": "A",
        "v/my/keys.webp": None,
        "v/x.y.z": "C",
        "v/other.webp": None,
    }
    for key, owner in owners.items():
        assert owner_of_variant(key, stems) == owner, key


# --- cursors, conditions, references -----------------------------------------------------------------------------


@given(st.integers(0, 2**61), st.sampled_from(["documents", "media"]), st.text(max_size=12))
def test_cursors_fit_their_own_list_alone(position: int, kind: str, entry_id: str) -> None:
    """A cursor gives its position back for its list, and nothing for another entry or kind."""
    cursor = write_cursor(position, kind, entry_id)

    assert read_cursor(cursor, kind, entry_id) == position
    assert read_cursor(cursor, kind, f"{entry_id}x") is None
    assert read_cursor(cursor, f"{kind}x", entry_id) is None


@given(st.text(max_size=60))
def test_foreign_texts_are_no_cursors(text: str) -> None:
    """Whatever a client sends as a cursor is one of ours or nothing; it never raises."""
    assert read_cursor(text, "documents", "x") is None


@given(st.integers(1, 10_000), st.integers(0, 20_000), st.integers(0, 20_000))
def test_ranges_stay_within_the_picture(size_bytes: int, first: int, last: int) -> None:
    """A range has at least one byte, none behind the end, or is unsatisfiable."""
    try:
        found = byte_range(size_bytes, '"e"', "d", range_header=f"bytes={first}-{last}", if_range=None)
    except Unsatisfiable:
        assert first >= size_bytes
        return
    if first > last:
        assert found is None
    else:
        assert found == ByteRange(first, min(last, size_bytes - 1))
        assert found.length_bytes >= 1


def test_if_none_match_goes_before_the_date() -> None:
    """With an ETag the date counts for nothing, in both directions (RFC 9110 section 13.2.2)."""
    date = "Fri, 01 May 2026 12:00:00 GMT"
    assert not is_not_modified('"a"', date, if_none_match='"b"', if_modified_since=date)
    assert is_not_modified('"a"', date, if_none_match='"b", "a"', if_modified_since=None)
    assert is_not_modified('"a"', date, if_none_match=None, if_modified_since=date)
    assert not is_not_modified('"a"', date, if_none_match=None, if_modified_since="Fri, 01 May 2026 11:59:59 GMT")


def test_media_references_are_found_in_metadata() -> None:
    """Objects with mediaId or a reference, alone or in a list, refer; other values do not."""
    entry = EntryState(
        id="x",
        version=1,
        asset=Asset("k", None, "image/png", 1, 1, 1, "k"),
        created_at="",
        updated_at="",
        metadata={
            "link": {"mediaId": "A"},
            "several": [{"mediaId": "B"}, {"mediaId": "A"}, 3, None],
            "other": {"$ref": "mediaLibrary", "reference": {"id": "C"}},
            "title": "A",
            "empty": {"mediaId": ""},
        },
    )

    assert media_references(entry) == (("link", "A"), ("several", "B"), ("several", "A"), ("other", "C"))
