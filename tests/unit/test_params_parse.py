"""Parsing of request targets: paths, aliases, base64, repeats, values, and what is refused."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageColor

from imgproxy.config.url import UrlSettings
from imgproxy.errors import BadParameter, BadUrl, UriTooLong
from imgproxy.params import kinds, table
from imgproxy.params.appearance import Colour
from imgproxy.params.colours import KEYWORDS, parse_colour
from imgproxy.params.negotiate import read_headers
from imgproxy.params.parse import (
    MAX_SEGMENT_BYTES,
    Note,
    Strictness,
    parse_query,
    read_values,
    split_target,
)
from imgproxy.params.plan import Anchor, Px, Ratio, Rect
from tests.support.params import build_request


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/a.jpg", "a.jpg"),
        ("/2025/03/14/c316.jpeg", "2025/03/14/c316.jpeg"),
        ("/ein%20bild.jpg", "ein bild.jpg"),
        ("/a+b.jpg", "a+b.jpg"),
        ("/a%2Bb.jpg", "a+b.jpg"),
        ("/%E3%83%91.png", "パ.png"),
        ("/パ.png", "パ.png"),
        ("/\udce3\udc83\udc91.png", "パ.png"),
        ("/a%252Fb.jpg", "a%2Fb.jpg"),
        ("/a%2Fb.jpg", "a/b.jpg"),
        ("/100%.jpg", "100%.jpg"),
        ("/[images]/x(1)'!*~,.png", "[images]/x(1)'!*~,.png"),
        ("/a%3Fw=1.jpg", "a?w=1.jpg"),
        ("/.hidden/a..jpg", ".hidden/a..jpg"),
        ("/" + "a" * MAX_SEGMENT_BYTES, "a" * MAX_SEGMENT_BYTES),
    ],
)
def test_key_is_the_path_decoded_once(path: str, key: str) -> None:
    """The key is the path without its slash, percent-decoded once; `+` stays and `%25` does not decode twice."""
    assert split_target(f"{path}?w=1")[0] == key


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "a.jpg",
        "http://host/a.jpg",
        "*",
        "//a.jpg",
        "/a//b.jpg",
        "/a/",
        "/./a.jpg",
        "/a/../b.jpg",
        "/a/..",
        "/..%2Fetc/passwd",
        "/%2e%2e/a.jpg",
        "/a%2F%2Fb.jpg",
        "/%2Fetc/passwd",
        "/a%00.jpg",
        "/a\x00.jpg",
        "/a%0D%0AX:1",
        "/a%7F.jpg",
        "/a%C2%85.jpg",
        "/a\\b.jpg",
        "/a%5C..%5Cb.jpg",
        "/a%FF.jpg",
        "/a%C0%AF.jpg",
        "/a%ED%A0%80.jpg",
        "/a\udcff.jpg",
        "/http%3A%2F%2Favatars.com%2Fjohn.png",
        "/" + "a" * (MAX_SEGMENT_BYTES + 1),
        "/" + "%C3%A4" * 128,
        "/" + "aaaa/" * 500 + "a",
    ],
)
def test_paths_that_are_no_key_are_refused(path: str) -> None:
    """Empty and dot parts, control characters, backslashes, bad UTF-8, over-long names: each is 400, never a key."""
    with pytest.raises(BadUrl) as caught:
        split_target(f"{path}?w=1")
    assert caught.value.status == 400


@settings(deadline=None)
@given(st.text(max_size=40))
def test_no_path_becomes_a_key_that_leaves_the_library(path: str) -> None:
    """Any path is refused, or is a key whose parts are plain names."""
    try:
        key = split_target(f"/{path.replace('?', '%3F')}")[0]
    except BadUrl:
        return
    assert all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in key.split("/"))
    assert all(char.isprintable() or ord(char) > 0x9F for char in key)
    assert "\\" not in key


def test_a_target_over_the_limit_is_414() -> None:
    """The limit is for the whole target; the error has it."""
    with pytest.raises(UriTooLong) as caught:
        split_target("/a.jpg?x=" + "1" * 8000)
    assert (caught.value.status, caught.value.limit) == (414, 8000)


def test_a_mount_prefix_is_removed() -> None:
    """A prefix is removed before the key; a path without it is a key, too."""
    assert split_target("/img/a.jpg", mount_prefix="/img")[0] == "a.jpg"
    assert split_target("/a.jpg", mount_prefix="/img")[0] == "a.jpg"
    assert split_target("/imgs/a.jpg", mount_prefix="/img")[0] == "imgs/a.jpg"


@pytest.mark.parametrize(
    "target",
    [
        "/2017/a.jpeg/C=W1406,H791,X177,Y0?w=1024",
        "/2017/a.jpeg/C=W1406%2CH791%2CX177%2CY0?w=1024",
        "/2017/a.jpeg/C%3DW1406%2cH791,X177,Y0?w=1024",
        "/2017/a.jpeg%2FC=W1406,H791,X177,Y0?w=1024",
        "/2017/a.jpeg?rect=177%2C0%2C1406%2C791&w=1024",
    ],
)
def test_legacy_crop_part_is_a_rect(target: str) -> None:
    """`/C=W..,H..,X..,Y..` after the key means `rect`, however it is escaped."""
    found = build_request(target, read_headers(), UrlSettings())
    assert found == build_request("/2017/a.jpeg?rect=177,0,1406,791&w=1024", read_headers(), UrlSettings())
    assert found.key == "2017/a.jpeg"


def test_a_rect_in_the_query_wins_over_the_legacy_part() -> None:
    """If both are there, the query's rect counts."""
    found = build_request("/a.jpg/C=W1,H2,X3,Y4?rect=5,6,7,8", read_headers(), UrlSettings())
    assert found == build_request("/a.jpg?rect=5,6,7,8", read_headers(), UrlSettings())


@pytest.mark.parametrize("path", ["/C=W1,H2,X3,Y4", "/a/C=W1,H2,X3", "/a/c=W1,H2,X3,Y4", "/a/C=W-1,H2,X3,Y4"])
def test_a_path_that_looks_like_the_legacy_part_is_a_key(path: str) -> None:
    """Without a key before it, incomplete, or in another case, the part belongs to the key."""
    assert split_target(path) == (path[1:], None, "")


# --- the query -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "texts"),
    [
        ("", {}),
        ("w=100", {"w": "100"}),
        ("width=100&height=50&f=crop", {"w": "100", "h": "50", "fit": "crop"}),
        ("w=100&width=200", {"w": "200"}),
        ("width=200&w=100", {"w": "100"}),
        ("w=100&w=200", {"w": "200"}),
        ("w=100&w=", {"w": "100"}),
        ("mark&h=2", {"h": "2"}),
        ("w&&=&=5&h=1", {"h": "1"}),
        ("auto=compress&auto=format", {"auto": "compress,format"}),
        ("dl=ein+bild%2B.jpg", {"dl": "ein bild+.jpg"}),
        ("%77=100", {"w": "100"}),
        ("w64=MTAw", {"w": "100"}),
        ("w64=MTAw&w=5", {"w": "100"}),
        ("width64=MTAw", {"w": "100"}),
        ("w64=MTAw%3D%3D", {"w": "100"}),
        ("mark64=", {}),
        ("mark64=bG9nby5wbmc&mark=other.png", {"mark": "logo.png"}),
        ("auto64=Zm9ybWF0", {}),
        ("ch64=RFBS", {}),
        ("W=100", {}),
        ("txt=hello&txt64=eA&bg-remove=true&face-blur=1", {}),
        ("ixlib=js-3.8.0&s=abc", {"ixlib": "js-3.8.0", "s": "abc"}),
    ],
)
def test_query_texts(query: str, texts: dict[str, str]) -> None:
    """Aliases, repeats, empty values, base64 and `+` give one text a parameter, under its canonical name."""
    assert parse_query(query)[0] == texts


def test_every_alias_is_its_parameter_with_and_without_base64() -> None:
    """Each name in the table, and its `64` form where imgix has one, finds the same row."""
    for row in table.PARAMETERS:
        for name in row.names:
            assert parse_query(f"{name}=x")[0] == {row.name: "x"}
            encoded = base64.urlsafe_b64encode(b"x").decode().rstrip("=")
            expected = {row.name: "x"} if row.has_base64 else {}
            assert parse_query(f"{name}64={encoded}")[0] == expected


def test_no_name_means_two_parameters() -> None:
    """Names and aliases are unique, and none is among the ignored features of imgix."""
    names = [name for row in table.PARAMETERS for name in row.names]
    assert len(names) == len(set(names))
    assert len({row.name for row in table.PARAMETERS}) == len(table.PARAMETERS)


@pytest.mark.parametrize("value", ["a+b/", "a%2Bb%2F", "!!", "A", "gA", "MTAw=x", "MTAw%0A", "%FF"])
def test_bad_base64_is_refused_even_where_lenient(value: str) -> None:
    """The standard alphabet, stray characters, impossible lengths and bytes that are no UTF-8 are 400."""
    for name in ("mark64", "txt64"):
        with pytest.raises(BadParameter) as caught:
            parse_query(f"{name}={value}")
        assert caught.value.name == name


@settings(deadline=None)
@given(st.text(min_size=1, max_size=50))
def test_base64_holds_any_text(text: str) -> None:
    """What a client encodes comes back, padded or not."""
    encoded = base64.urlsafe_b64encode(text.encode()).decode()
    assert parse_query(f"dl64={encoded}")[0] == {"dl": text}
    assert parse_query(f"dl64={encoded.rstrip('=')}")[0] == {"dl": text}


def test_base64_of_the_official_clients() -> None:
    """The vectors of the imgix client suites decode to their texts."""
    assert parse_query("dl64=SGVsbG8sIFdvcmxkIQ")[0] == {"dl": "Hello, World!"}
    found = parse_query("dl64=SSBjYW5uw7h0IGJlbMOuw6l24oiRIGl0IHdvcu-jv3MhIPCfmLE")[0]
    assert found["dl"].startswith("I cannøt belîév∑ it wor")


def test_unknown_names_are_reported_and_known_features_of_imgix_are_not() -> None:
    """Unknown names are reported; imgix parameters for text, video and AI are not."""
    assert parse_query("mark-sclae=1&v=3&txt-font=x&bg-replace=y&w=1")[1] == (("mark-sclae", "1"), ("v", "3"))


# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "colour"),
    [
        ("red", Colour(255, 0, 0)),
        ("RebeccaPurple", Colour(0x66, 0x33, 0x99)),
        ("fff", Colour(255, 255, 255)),
        ("0FFF", Colour(255, 255, 255, 0)),
        ("8f00", Colour(255, 0, 0, 0x88)),
        ("102030", Colour(0x10, 0x20, 0x30)),
        ("80102030", Colour(0x10, 0x20, 0x30, 0x80)),
        ("#102030", Colour(0x10, 0x20, 0x30)),
        ("transparent", Colour(255, 255, 255, 0)),
        ("imgixblue", KEYWORDS["imgixblue"]),
        ("1020", Colour(0x00, 0x22, 0x00, 0x11)),
        ("", None),
        ("ff", None),
        ("fffff", None),
        ("ggg", None),
        ("\u0663\u0663\u0663", None),
    ],
)
def test_colours(text: str, colour: Colour | None) -> None:
    """Keywords and hex of three, four, six and eight digits, the alpha first."""
    assert parse_colour(text) == colour


def test_css_keywords_are_those_of_css() -> None:
    """Every keyword has the value an independent library (Pillow) gives it."""
    for name in ImageColor.colormap:
        red, green, blue = ImageColor.getrgb(name)[:3]
        assert parse_colour(name) == Colour(red, green, blue)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1.0),
        ("-1.5", -1.5),
        ("+2", 2.0),
        (" 5", 5.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("007", 7.0),
        ("0.1234567", 0.123457),
        ("-0", 0.0),
        ("", None),
        (".", None),
        ("-", None),
        ("1e3", None),
        ("inf", None),
        ("nan", None),
        ("0x10", None),
        ("1,5", None),
        ("1 0", None),
        ("\u0661", None),
        ("1_000", None),
        ("9" * 21, None),
    ],
)
def test_numbers(text: str, number: float | None) -> None:
    """Decimal digits, a sign, a point; no exponent, no infinity, no digits of other scripts."""
    assert kinds.to_number(text) == number


VALUES: list[tuple[str, str, object]] = [
    ("w", "400", Px(400)),
    ("w", "400.5", Px(401)),
    ("w", "0.5", Ratio(0.5)),
    ("w", "1", Ratio(1.0)),
    ("w", "1.0", Ratio(1.0)),
    ("w", "99999999", Px(100_000)),
    ("w", "abc", None),
    ("w", "400px", None),
    ("ar", "16:9", 16 / 9),
    ("ar", "0.85:1", 0.85),
    ("ar", "2", 2.0),
    ("ar", "0:1", None),
    ("ar", "1:2:3", None),
    ("ar", ":", None),
    ("dpr", "2", 2.0),
    ("dpr", "9", 5.0),
    ("dpr", "0", None),
    ("dpr", "nan", None),
    ("q", "150", 100),
    ("q", "-5", 0),
    ("q", "74.5", 75),
    ("q", "best", None),
    ("fp-x", "1.2", 1.0),
    ("fp-z", "0.5", 1.0),
    ("max-w", "0", None),
    ("max-w", "9000", 8192),
    ("crop", "top, LEFT,x", ("top", "left")),
    ("crop", "x", None),
    ("fit", "facearea,fill", ("facearea", "fill")),
    ("fm", "JPEG", "jpeg"),
    ("fm", "jp2", None),
    ("fm", "mp4", None),
    ("rot", "-90", 270.0),
    ("rot", "725", 5.0),
    ("rot", "360", 0.0),
    ("rot", "-0.0000001", 0.0),
    ("hue", "400", 40.0),
    ("orient", "90", 6),
    ("orient", "0", 1),
    ("orient", "9", None),
    ("orient", "6.5", None),
    ("flip", "vh", "hv"),
    ("border", "10,red", (10, Colour(255, 0, 0))),
    ("border", "500,red", (100, Colour(255, 0, 0))),
    ("border", "10", None),
    ("border", "0,red", None),
    ("corner-radius", "10", (10,)),
    ("corner-radius", "1,2,3,4", (1, 2, 3, 4)),
    ("corner-radius", "7,7,7,7", (7,)),
    ("corner-radius", "1,2", None),
    ("corner-radius", "-1", None),
    ("duotone", "000,ff0000", (Colour(0, 0, 0), Colour(255, 0, 0))),
    ("duotone", "000", None),
    ("frame", "3", (3, 3)),
    ("frame", "2-5", (2, 5)),
    ("frame", "2,5", (2, 5)),
    ("frame", "2-", (2, None)),
    ("frame", "-5", (None, 5)),
    ("frame", "5-2", None),
    ("frame", "-0", None),
    ("frame", "0-", None),
    ("frame", "-", None),
    ("frame", ",", None),
    ("frame", ",5", None),
    ("frame", "2,", None),
    ("frame", "", None),
    ("frame", "0", None),
    ("lossless", "1", True),
    ("lossless", "TRUE", True),
    ("lossless", "0", False),
    ("lossless", "yes", None),
    ("prefix", "a{}*{display:none}", None),
    ("prefix", "my-colors", "my-colors"),
    ("rect", "177,0,1406,791", Rect(Px(177), Px(0), Px(1406), Px(791))),
    ("rect", "center,middle,0.5,1", Rect(Anchor(0.5), Anchor(0.5), Ratio(0.5), Px(1))),
    ("rect", "right,bottom,full,10", Rect(Px(0), Anchor(1.0), Ratio(1.0), Px(10))),
    ("rect", "left,top,0.5,0.5", Rect(Px(0), Px(0), Ratio(0.5), Ratio(0.5))),
    ("rect", "0.0,0,1,1.0", Rect(Px(0), Px(0), Px(1), Ratio(1.0))),
    ("rect", "0.5,0.25,10,10", Rect(Ratio(0.5), Ratio(0.25), Px(10), Px(10))),
    ("rect", "-10,0,100,100", Rect(Px(-10), Px(0), Px(100), Px(100))),
    ("rect", "1,2,3", None),
    ("rect", "1,2,3,4,5", None),
    ("rect", "1,2,0,4", None),
    ("rect", "1,2,x,4", None),
    ("rect", "x,2,3,4", None),
]


@pytest.mark.parametrize(("name", "text", "value"), VALUES)
def test_values(name: str, text: str, value: object) -> None:
    """In lenient mode a text gives its value, the nearest one in range, or None."""
    assert read_values({name: text}, Strictness()).get(table.BY_NAME[name]) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w", "0"),
        ("w", "-5"),
        ("h", "0.0"),
        ("mark", "https://elsewhere.example/logo.png"),
        ("mark", "//elsewhere.example/logo.png"),
        ("mark-base", "file:///etc"),
        ("blend", "http://169.254.169.254/"),
        ("mask", "https://elsewhere.example/mask.png"),
    ],
)
def test_values_that_are_never_valid(name: str, text: str) -> None:
    """A size of 0 and the URL of another host are refused in lenient mode, too."""
    with pytest.raises(BadParameter) as caught:
        read_values({name: text}, Strictness())
    assert (caught.value.name, caught.value.value) == (name, text)


_SLOPPY = [("w", "abc"), ("q", "150"), ("fit", "cropp"), ("crop", "top,x"), ("dpr", "9"), ("rot", "-90"), ("w", "9000")]


@pytest.mark.parametrize(("name", "text"), _SLOPPY)
def test_strict_mode_names_the_parameter_its_value_and_what_was_expected(name: str, text: str) -> None:
    """Strict mode refuses what lenient mode corrects or drops, and says why."""
    with pytest.raises(BadParameter) as caught:
        read_values({name: text}, Strictness(is_strict=True))
    row = table.BY_NAME[name]
    assert caught.value.public == f"Parameter {name}={text!r}: expected {row.kind.expected}."


@pytest.mark.parametrize(("name", "text"), _SLOPPY)
def test_lenient_mode_keeps_a_note(name: str, text: str) -> None:
    """A value that was corrected or dropped gives a note for the log."""
    strictness = Strictness()
    read_values({name: text}, strictness)
    assert strictness.notes == [Note(name, text, table.BY_NAME[name].kind.expected)]


def test_notes_are_few_and_short() -> None:
    """Many and long names and values give few short notes, each on one line."""
    _, unknown = parse_query("&".join(["w%0D%0A" * 500 + "=x%0D%0A"] * 100))
    strictness = Strictness()
    for name, text in unknown:
        strictness.object(name, text, "a parameter")
    read_values({"w": "x\r\n" * 500}, strictness)
    assert 1 <= len(strictness.notes) <= 8
    assert all(len(note.name) <= 80 and len(note.text) <= 80 for note in strictness.notes)
    assert all(note.name.isprintable() for note in strictness.notes)


@settings(deadline=None)
@given(st.sampled_from([row.name for row in table.PARAMETERS]), st.text(max_size=30))
def test_no_text_breaks_a_reader(name: str, text: str) -> None:
    """Any text for any parameter gives a value, nothing, or BadParameter: never another error."""
    try:
        read_values({name: text}, Strictness())
    except BadParameter as error:
        assert error.name == name  # noqa: PT017 - refusing is one of the right answers


@settings(deadline=None)
@given(
    st.sampled_from([row.name for row in table.PARAMETERS]),
    st.text(alphabet="0123456789.,-:+abcflrxhv%", max_size=12),
)
def test_no_number_like_text_breaks_a_reader(name: str, text: str) -> None:
    """The same for texts that are nearly numbers or lists."""
    try:
        read_values({name: text}, Strictness())
    except BadParameter as error:
        assert error.name == name  # noqa: PT017 - refusing is one of the right answers
