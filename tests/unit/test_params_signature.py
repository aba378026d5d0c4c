"""Signatures: the vectors of the imgix blueprint and client suites, and everything that must be refused."""

from __future__ import annotations

from hashlib import md5

import imgix
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgproxy.params.signature import as_browsers_send, sign, verify
from imgproxy.secret_text import secret_problem

# token, path and query without s, s. Rows 1-6 imgix-blueprint, 7-10 imgix-rb, 11 js-core, 12 imgix-python.
VECTORS = [
    ("FOO123bar", "/users/1.png", "6797c24146142d5b40bde3141fd3600c"),
    ("FOO123bar", "/users/1.png?w=400&h=300", "c7b86f666a832434dd38577e38cf86d1"),
    ("FOO123bar", "/users/1.png?h=300&w=400", "1a4e48641614d1109c6a7af51be23d18"),
    ("FOO123bar", "/http%3A%2F%2Favatars.com%2Fjohn-smith.png", "493a52f008c91416351f8b33d4883135"),
    ("FOO123bar", "/http%3A%2F%2Favatars.com%2Fjohn-smith.png?h=300&w=400", "a201fe1a3caef4944dcb40f6ce99e746"),
    ("FOO123bar", "/http%3A%2F%2Favatars.com%2Fjohn-smith.png?w=400&h=300", "61ea1cc7add87653bb0695fe25f2b534"),
    ("10adc394", "/images/demo.png?mark", "6ca2720a15de7ec9862650cca69ad96d"),
    ("10adc394", "/images/demo.png?markalign=middle%2Ccenter", "f0d0e28a739f022638f4ba6dddf9b694"),
    ("10adc394", "/%20%3C%3E%5B%5D%7B%7D%7C%5C%5E%25.jpg?h=200&w=200", "1731846fd046c84270d052b1152b0cfa"),
    ("10adc394", "/[images]/demo.png", "ed6eb07e9eff3f6c8bbcc83fc4f63198"),
    ("abcde1234", "/file+with%20some+crazy%20things.jpg", "4aadfc1a58f27729a41d05831c52116f"),
    (
        "FOO123bar",
        "/http%3A%2F%2Favatars.com%2F%E3%81%A7%E3%81%AE%E3%83%91.png?h=300&w=400",
        "8b97a8fffdfa639af4bae846a9661c50",
    ),
    (
        "TOKEN",
        "/2017/3/29/56cac115.jpeg?rect=177%2C0%2C1406%2C791&w=1024&auto=format",
        "0ca8170f45a4037b4a5ec203787cd831",
    ),
    (
        "TOKEN",
        "/2017/3/29/56cac115.jpeg/C=W1406,H791,X177,Y0?w=1024&auto=format",
        "b63410e45b10bf8265386f5f33a01124",
    ),
    (
        "FOO123bar",
        "/a%20b(1)'!*~,%2B.jpg?rect=177%2C0%2C1406%2C791&txt=it's%20(ok)!*~%20a%2Bb",
        "ba95454592341dc16e86bad4d2a688b3",
    ),
]


def signed(target: str, digest: str) -> str:
    return f"{target}{'&' if '?' in target else '?'}s={digest}"


@pytest.mark.parametrize(("token", "target", "digest"), VECTORS)
def test_vectors_of_the_official_clients_verify_and_are_reproduced(token: str, target: str, digest: str) -> None:
    """A URL signed by any official client verifies, and signing its base gives the same URL."""
    assert sign(target, token) == signed(target, digest)
    assert verify(signed(target, digest), [token])


@pytest.mark.parametrize(("token", "target", "digest"), VECTORS)
def test_one_changed_character_anywhere_is_refused(token: str, target: str, digest: str) -> None:
    """A change of any single character of path, query or signature is refused."""
    good = signed(target, digest)
    for position in range(1, len(good)):
        other = "0" if good[position] != "0" else "1"
        assert not verify(good[:position] + other + good[position + 1 :], [token]), position


def test_the_official_python_client_and_this_service_agree() -> None:
    """A URL made by the `imgix` package verifies as it is."""
    builder = imgix.UrlBuilder("images.example", sign_key="FOO123bar", include_library_param=True)
    url = builder.create_url("/ein bild/ä+b&c.jpg", {"w": 400, "txt": "a+b c/ü", "rect": "1,2,3,4"})
    assert verify(url.removeprefix("https://images.example"), ["FOO123bar"])
    assert sign(url, "FOO123bar") == url


def test_signature_counts_wherever_it_stands() -> None:
    """`s` may be first, in the middle or last; the rest is signed in its order."""
    digest = "c7b86f666a832434dd38577e38cf86d1"
    for query in (f"s={digest}&w=400&h=300", f"w=400&s={digest}&h=300", f"w=400&h=300&s={digest}"):
        assert verify(f"/users/1.png?{query}", ["FOO123bar"])


@pytest.mark.parametrize(
    "query",
    [
        "w=400&h=300",
        "w=400&h=300&s=",
        "w=400&h=300&s",
        "w=400&h=300&s=C7B86F666A832434DD38577E38CF86D1",
        "w=400&h=300&s=c7b86f666a832434dd38577e38cf86d",
        "w=400&h=300&s=c7b86f666a832434dd38577e38cf86d1x",
        "w=400&h=300&s=c7b86f666a832434dd38577e38cf86d1%0a",
        "w=400&h=300&s=c7b86f666a832434dd38577e38cf86d1&s=c7b86f666a832434dd38577e38cf86d1",
        "w=400&h=300&s=c7b86f666a832434dd38577e38cf86d1&s=x",
        "h=300&w=400&s=c7b86f666a832434dd38577e38cf86d1",
        "w=400&h=300&S=c7b86f666a832434dd38577e38cf86d1",
        "w=400&h=300&%73=c7b86f666a832434dd38577e38cf86d1",
    ],
)
def test_missing_doubled_and_malformed_signatures_are_refused(query: str) -> None:
    """No signature, two of them, upper case, a wrong length or another order: all are refused."""
    assert not verify(f"/users/1.png?{query}", ["FOO123bar"])


def test_no_token_verifies_nothing() -> None:
    """Without a token nothing verifies, not even what an empty token would have signed."""
    target = f"/a.jpg?s={md5(b'/a.jpg', usedforsecurity=False).hexdigest()}"
    assert not verify(target, [])
    assert not verify(target, [""])


def test_any_of_several_tokens_verifies() -> None:
    """During a rotation the old and the new token both sign; a removed one no longer does."""
    target = sign("/a.jpg?w=100", "old")
    assert verify(target, ["new", "old"])
    assert verify(target, ["old", "new"])
    assert not verify(target, ["new", "other"])


def test_mount_prefix_may_be_left_out_of_what_was_signed() -> None:
    """Livingdocs signs the key without the path of its image host: both forms verify under that prefix alone."""
    without = sign("/2017/a.jpeg?w=1024", "T")
    through_host = "/my-path-prefix" + without
    assert not verify(through_host, ["T"])
    assert verify(through_host, ["T"], mount_prefix="/my-path-prefix")
    assert verify(sign("/my-path-prefix/2017/a.jpeg?w=1024", "T"), ["T"], mount_prefix="/my-path-prefix")
    assert not verify("/my-path-prefixed" + without, ["T"], mount_prefix="/my-path-prefix")


def test_decoded_path_counts_only_where_it_is_allowed() -> None:
    """A key signed unescaped verifies after a browser escaped it, if the operator allows that."""
    digest = sign("/ein bild.jpg?w=10", "T")[-32:]
    on_the_wire = f"/ein%20bild.jpg?w=10&s={digest}"
    assert not verify(on_the_wire, ["T"])
    assert verify(on_the_wire, ["T"], allow_decoded_path=True)


def test_a_decoded_question_mark_does_not_move_the_query() -> None:
    """The signature of a path with a query is not one of the path whose name holds that query, escaped."""
    digest = sign("/a.jpg?w=10", "T")[-32:]
    assert not verify(f"/a.jpg%3Fw=10?s={digest}", ["T"], allow_decoded_path=True)


def test_sign_takes_whole_urls_and_replaces_an_old_signature() -> None:
    """Scheme, host and fragment stay and are not signed; signing twice is signing once."""
    url = sign("https://img.example/users/1.png?w=400&h=300#top", "FOO123bar")
    assert url == "https://img.example/users/1.png?w=400&h=300&s=c7b86f666a832434dd38577e38cf86d1#top"
    assert sign(url, "FOO123bar") == url
    assert sign("/users/1.png?", "FOO123bar") == "/users/1.png?s=6797c24146142d5b40bde3141fd3600c"
    assert sign("https://img.example", "T") == "https://img.example/?s=" + md5(b"T/").hexdigest()
    assert sign("https://img.example?w=8", "T") == "https://img.example/?w=8&s=" + md5(b"T/?w=8").hexdigest()
    assert sign("https://img.example?u=a/b", "T") == "https://img.example/?u=a/b&s=" + md5(b"T/?u=a/b").hexdigest()
    assert sign("/a.jpg?u=x://y", "T") == "/a.jpg?u=x://y&s=" + md5(b"T/a.jpg?u=x://y").hexdigest()


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("https://h/ein bild.jpg?txt=ü b", "https://h/ein%20bild.jpg?txt=%C3%BC%20b"),
        ("/a%20b+c(1)!*~,;=:@$&[x].jpg?rect=1,2&t=%41'x", "/a%20b+c(1)!*~,;=:@$&[x].jpg?rect=1,2&t=%41%27x"),
        ("/it's`{x}`|^.jpg?a=`{x}`|^", "/it's%60%7Bx%7D%60|%5E.jpg?a=`{x}`|^"),
        ('/<"a">?<"b">', "/%3C%22a%22%3E?%3C%22b%22%3E"),
        ("https://h?w=8#ä", "https://h/?w=8#ä"),
        ("/a.jpg?u=x://y z", "/a.jpg?u=x://y%20z"),
    ],
)
def test_a_url_as_typed_becomes_what_a_browser_sends(typed: str, sent: str) -> None:
    """Only what cannot stand in a request line is encoded, and never twice."""
    assert as_browsers_send(typed) == sent
    assert as_browsers_send(sent) == sent


_TARGET_TEXT = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="?#"), max_size=30)

_TOKENS = st.text(max_size=10).filter(lambda token: secret_problem(token) is None)


@settings(deadline=None)
@given(path=_TARGET_TEXT, pairs=st.lists(_TARGET_TEXT, max_size=5), token=_TOKENS)
def test_whatever_is_signed_verifies(path: str, pairs: list[str], token: str) -> None:
    """Signing and verifying agree on any path, any query, any token."""
    target = sign(f"/{path}" + (f"?{'&'.join(pairs)}" if pairs else ""), token)
    assert verify(target, ["another", token])
    assert not verify(target, [token + "x"])
