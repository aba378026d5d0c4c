"""The messages of the builder, the names of manifests, and the frames that its process may send."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgproxy.credentials.messages import (
    BadAnswerError,
    Failure,
    Kind,
    Reason,
    Result,
    ToSign,
    decode,
)
from imgproxy.credentials.service import manifest_in, manifest_name, manifest_plan

DIGEST = "0123456789abcdef" * 2
MADE = {"kind": "embedded", "size_bytes": 5, "digest": DIGEST, "manifest_bytes": 3}
NAME = manifest_name(DIGEST, DIGEST)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ({"sign": "AAAA"}, ToSign("AAAA")),
        ({"failed": "timeout", "detail": "slow"}, Failure(Reason.TIMEOUT, "slow")),
        ({"failed": "build", "detail": "x" * 10_000}, Failure(Reason.BUILD, "x" * 300)),
        ({"made": MADE}, Result(Kind.EMBEDDED, 5, DIGEST, 3)),
    ],
)
def test_an_answer_is_read(sent: dict[str, object], answer: object) -> None:
    """Each kind of answer has one form."""
    assert decode(json.dumps(sent).encode()) == answer


@pytest.mark.parametrize(
    "sent",
    [
        {},
        [],
        None,
        {"sign": 1},
        {"failed": "unknown", "detail": ""},
        {"failed": "timeout"},
        {"made": MADE | {"digest": "../../etc/passwd"}},
        {"made": MADE | {"digest": DIGEST.upper()}},
        {"made": MADE | {"size_bytes": -1}},
        {"made": MADE | {"size_bytes": True}},
        {"made": MADE | {"kind": "other"}},
    ],
)
def test_everything_else_is_refused(sent: object) -> None:
    """The builder reads pictures of strangers: what it sends may be theirs."""
    with pytest.raises(BadAnswerError):
        decode(json.dumps(sent).encode())


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(payload: bytes) -> None:
    """Nothing but BadAnswerError is raised."""
    with contextlib.suppress(BadAnswerError):
        decode(payload)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (f"/a/b.jpg/-/credentials/{NAME}.c2pa", ("/a/b.jpg", NAME)),
        (f"/a%20b.jpg/-/credentials/{NAME}.c2pa", ("/a%20b.jpg", NAME)),
        # A key may have the same words in it. The last ones count.
        (f"/x/-/credentials/y.jpg/-/credentials/{NAME}.c2pa", ("/x/-/credentials/y.jpg", NAME)),
        ("/a/b.jpg", None),
        ("/a/-/credentials/picture.jpg", None),
        (f"/a/b.jpg/-/credentials/{NAME}", None),
        (f"/a/b.jpg/-/credentials/{NAME}.c2pa/more", None),
        (f"/a/b.jpg/-/credentials/{NAME.upper()}.c2pa", None),
    ],
)
def test_the_path_of_a_manifest_is_told_from_that_of_a_picture(path: str, found: tuple[str, str] | None) -> None:
    """Only a whole name with its ending is a manifest; every other path is a key."""
    assert manifest_in(path) == found


def test_a_manifest_is_known_by_plan_and_bytes() -> None:
    """Other bytes of the same plan have another manifest, in URLs and in the cache."""
    other = manifest_name(DIGEST, "f" * 32)

    assert other != NAME
    assert manifest_plan(other) != manifest_plan(NAME)
    assert len(manifest_plan(NAME)) == len(DIGEST)
