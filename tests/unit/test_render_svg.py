"""Drawings from strangers: what is taken out of them, and what is refused because it is too much to draw."""

from __future__ import annotations

import base64
import contextlib
import gzip
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import pyvips
from hypothesis import given
from hypothesis import strategies as st

from imgproxy.errors import DrawingTooComplex
from imgproxy.render import data_urls, svg, svg_cost, svg_css
from imgproxy.render.markup import MarkupError
from imgproxy.workers.sniff import unpack
from tests.support import images

NS = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def drawing(inside: str, attributes: str = 'width="800" height="800"') -> bytes:
    """An SVG with this content."""
    return f"<svg {NS} {attributes}>{inside}</svg>".encode()


def clean(inside: str) -> str:
    """What is left of an SVG's content."""
    return svg.sanitise(drawing(inside)).text.decode()


# --- what may stay ----------------------------------------------------------------------------------------------


SVG_NS = "{http://www.w3.org/2000/svg}"
ACTIVE = (
    "script",
    "foreignobject",
    "animate",
    "set",
    "animatemotion",
    "animatetransform",
    "iframe",
    "handler",
    "feimage",
)


# Escapes; then strings, also those without an end, and comments.
QUOTED = re.compile(
    r""" (\\.) | "(?:[^"\\\n]|\\.)*"? | '(?:[^'\\\n]|\\.)*'? | /\*.*?(?:\*/|\Z) """, re.DOTALL | re.VERBOSE
)
ESCAPE = re.compile(r"\\(?:([0-9a-fA-F]{1,6})\s?|(.))", re.DOTALL)


def name_part(char: str) -> str:
    """A character that was escaped: it is part of a name, and never a bracket or the @ of a rule."""
    return char if char.isalnum() else "_"


def find_active(text: bytes) -> list[str]:
    """
    What a browser would run or load in a drawing, found in another way than the sanitiser's: by the standard library's
    XML reader, with CSS escapes resolved and comments removed.
    """
    found = []
    assert b"<!" not in text
    assert b"<?" not in text
    for element in ET.fromstring(text).iter():
        name = element.tag.removeprefix(SVG_NS)
        if "}" in name or name.lower() in ACTIVE:
            found.append(name)
        texts = [element.text or ""] if name == "style" else []
        for key, value in element.attrib.items():
            local = key.rpartition("}")[2].lower()
            if local.startswith("on") or (local in {"href", "src"} and not re.match(r"\s*#|data:image/", value)):
                found.append(f"{key}={value}")
            if value.startswith("data:image/svg+xml;base64,"):
                found += find_active(base64.b64decode(value.partition(",")[2]))
            if local not in {"id", "class", "d", "points", "aria-label", "href"}:
                texts.append(value)
        for css in texts:
            plain = QUOTED.sub(lambda part: part[1] or ("#" if part[0][1:].startswith("#") else " "), css)
            plain = ESCAPE.sub(lambda code: name_part(chr(int(code[1], 16) % 0x110000) if code[1] else code[2]), plain)
            if re.search(r"url\(\s*(?!\s*#)|image-set\(|\bsrc\(|@import|cross-fade\(", plain, re.IGNORECASE):
                found.append(css)
    return found


HOSTILE = [
    "<sCrIpT>alert(1)</sCrIpT>",
    "<x:script xmlns:x='http://www.w3.org/2000/svg'>alert(1)</x:script>",
    "<script xmlns=''>alert(1)</script>",
    "<g oNcLiCk='alert(1)' x:onload='alert(1)' xmlns:x='http://www.w3.org/2000/svg'/>",
    "<handler type='text/javascript'>alert(1)</handler>",
    "<a><animate attributeName='href' values='javascript:alert(1)'/></a>",
    "<a><set attributeName='xlink:href' to='javascript:alert(1)'/></a>",
    "<g xml:base='http://evil/'><use href='#a'/></g>",
    "<use href='&#104;ttp://evil/#a'/>",
    "<image href=' javascript:alert(1)'/>",
    "<image href='data:image/svg+xml,&lt;svg onload=\"x()\">&lt;script>1&lt;/script>&lt;/svg>'/>",
    "<image href='data:image/svg+xml,%3Csvg%3E%3Cimage href=\"http://evil/\"/%3E%3C/svg%3E'/>",
    "<use href='data:image/svg+xml,&lt;svg id=\"a\"/>#a'/>",
    "<image href='data:text/html,&lt;script>1&lt;/script>'/>",
    "<image href='data:image/svg+xml,&lt;script xmlns=\"http://www.w3.org/2000/svg\"/>'/>",
    "<style>:root{--a:url(http://evil/)}g{fill:var(--a)}</style><g fill='var(--a)'/>",
    "<style>:root{--a:image-set;--b:url}g{fill:var(--a)('http://evil/' 1x)}</style><g fill='var(--b)(http://evil/)'/>",
    "<style>:root{--a:u;--b:rl(http://evil/)}g{fill:var(--a)var(--b)}</style><g fill='var(--a)var(--b)'/>",
    "<style>:root{--a:'http://evil/'}g{fill:url(var(--a))}</style><g fill='src(var(--a))' style='--b:@import var(--a);'/>",
    f"<image href='data:image/png;base64,{base64.b64encode(b'<svg onload=alert(1)>').decode()}'/>",
    "<style>@import 'http://evil/a.css';</style>",
    "<style>@@import x;import 'http://evil/a.css';</style>",
    "<style>@imp@import x;ort 'http://evil/a.css';</style>",
    "<style>@\\69mport 'http://evil/a.css';</style>",
    "<style>@IMPORT/**/url(http://evil/a.css);</style>",
    "<style>@imp<![CDATA[ort 'http://evil/a.css';]]></style>",
    "<style>@imp<!-- x -->ort 'http://evil/a.css';</style>",
    "<style>@imp<g/>ort 'http://evil/a.css';</style>",
    "<style>" + " " * 8170 + "@imp&#111;rt 'http://evil/a.css';</style>",
    "<style>a{fill:image-set('http://evil/x' 1x)}</style>",
    "<style>a{fill:-webkit-image-set(url(http://evil/x) 1x)}</style>",
    "<style>a{fill:cross-fade(url(http://evil/x), red)}</style>",
    "<style>a{fill:src('http://evil/x')}</style>",
    "<style>a{fill:u\\72l(http://evil/x)}</style>",
    "<style>a{fill:\\000075rl(http://evil/x)}</style>",
    "<style>a{fill:url('#a' http://evil/)}</style>",
    "<style>a{fill:url(\\23 a/../http://evil)}</style>",
    "<style>@media all{@import 'http://evil/a.css';a{fill:url(http://evil/)}}</style>",
    "<style>@font-face{font-family:x;src:url(http://evil/f)}</style>",
    "<style>a{--x:url(http://evil/)}b{fill:var(--x)}</style>",
    "<style>a{fill:url(http://evil/</style>",
    "<style>a{b:'</style><g style='fill:url(http://evil/)'/>",
    "<g style='behavior:url(http://evil/);-moz-binding:url(//evil/x#y)'/>",
    "<g fill='u\\72l(http://evil/)' filter='url(http://evil/#f)' cursor='URL(http://evil/c), auto'/>",
    "<g mask='image(http://evil/)' transform='url(http://evil/)'/>",
    "<filter><feImage href='http://evil/'/></filter>",
]


@pytest.mark.parametrize("inside", HOSTILE)
def test_nothing_active_stays(inside: str) -> None:
    """Scripts, handlers and loads are removed, however they are written; a second pass changes nothing."""
    once = svg.sanitise(drawing(inside))
    assert find_active(once.text) == find_active(once.drawn) == []
    assert svg.sanitise(once.text).text == once.text


def test_the_search_for_active_content_finds_it() -> None:
    """The check of these tests sees a script, a handler, and a load behind an escape."""
    assert find_active(drawing("<script/>"))
    assert find_active(drawing("<g onload='x'/>"))
    assert find_active(drawing("<g style='fill:u\\72l(http://evil)'/>"))
    assert find_active(drawing("<a href='http://x'/>"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252"])
def test_encodings_hide_nothing(encoding: str) -> None:
    """A drawing in any encoding that the reader knows leaves as clean UTF-8."""
    head = f"<?xml version='1.0' encoding='{encoding}'?>"
    if encoding.startswith("utf-16-"):
        head = "\ufeff<?xml version='1.0' encoding='utf-16'?>"
    text = svg.sanitise((head + drawing("<script>1</script><text>é</text>").decode()).encode(encoding)).text
    assert find_active(text) == []
    assert "<text>é</text>" in text.decode()


@pytest.mark.parametrize("encoding", ["utf-7", "utf-32", "cp037", "nonsense"])
def test_other_encodings_are_refused(encoding: str) -> None:
    """An encoding in which "<" has other bytes is not read."""
    data = f"<?xml version='1.0' encoding='{encoding}'?><svg>+ADw-script/+AD4-</svg>".encode()
    with contextlib.suppress(MarkupError):
        assert find_active(svg.sanitise(data).text) == []


def test_a_compressed_drawing_is_read_up_to_the_limit() -> None:
    """A gzip file gives at most as many bytes as asked for; a damaged one gives nothing."""
    assert unpack(gzip.compress(b"<svg/>"), 100) == b"<svg/>"
    assert len(unpack(gzip.compress(bytes(1_000_000)), 100)) == 100
    assert unpack(b"\x1f\x8b\x08\xff\xff", 100) == b""


@pytest.mark.parametrize(
    ("css", "kept"),
    [
        ("@import url('//x?a@400;700');.a{fill:red}", ".a{fill:red}"),
        (".a{fill:red;content:'\\2014'}", "fill:red"),
        (".\\31 a{fill:red}", "fill:red"),
        ("@media (prefers-color-scheme:dark){.a{fill:red}}", "{.a{fill:red}}"),
        (".a{fill:url(#a)}@font-face{src:url(x)}.b{fill:url( '#b' )}", "fill:url(#a)"),
        (".a{filter:drop-shadow(1px 1px 2px #000)}/* ( */", "drop-shadow(1px 1px 2px #000)"),
        (".a:nth-child(2n+1)>b,c~d[x='y']{fill:rgb(1 2 3/50%)}", "c~d[x='y']"),
    ],
)
def test_harmless_css_stays(css: str, kept: str) -> None:
    """An at-rule that is dropped takes nothing else with it, and escapes are no reason to drop a style sheet."""
    assert kept in svg_css.clean(css)


# fmt: off
PIECES = [
    "@import ", "@", "import", "'", '"', "url(", "u\\72l(", "http://evil/", "#a", ")", "(", "{", "}", "[", "]", ";", ":",
    "/*", "*/", "<!--", "-->", "image-set(", "rl(", "\\69mport", "@media ", "\\40 ", "\\0 ", "\\", "\\\n", "\n", " ",
    "-", "--", "1e3", "U+26", "!", "/", "*", "é", "a", "var(--a)", "var(--a,", "--a:", ":root{--a:", "fill:",
]
# fmt: on
CSS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@given(CSS)
def test_css_that_is_cleaned_is_clean(text: str) -> None:
    """No mixture of brackets, quotes, escapes and comments hides a load, and a second pass changes nothing."""
    once = svg.sanitise(ET.tostring(styled(text)))
    assert find_active(once.text) == find_active(once.drawn) == []
    assert svg.sanitise(once.text).text == once.text


def styled(text: str) -> ET.Element:
    """A drawing with this text as its style sheet and as a style."""
    root = ET.Element("svg", {"style": text, "fill": text})
    ET.SubElement(root, "style").text = text
    return root


# --- embedded pictures ------------------------------------------------------------------------------------------


def embedded(data: bytes, media_type: str = "image/png") -> str:
    """An image element with this file in it."""
    return f"<image href='data:{media_type};base64,{base64.b64encode(data).decode()}'/>"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_embedded_pictures_stay(kind: str) -> None:
    """A raster picture stays, under the type that its bytes have."""
    data = images.encode(images.quarters(), kind)
    found = clean(embedded(data, "image/jpg;charset=utf-8"))
    assert f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}" in found
    assert svg.sanitise(found.encode()).text.decode() == found


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
@pytest.mark.parametrize("name", ["href", "xlink:href"])
def test_embedded_pictures_that_librsvg_does_not_read_are_drawn(kind: str, name: str) -> None:
    """librsvg gets a GIF or WebP as PNG; browsers get the picture itself."""
    red = images.encode(np.full((4, 4, 3), (255, 0, 0), np.uint8), kind)
    image = embedded(red).replace("href", f"width='20' height='20' {name}")
    found = svg.sanitise(drawing(image, "width='20' height='20'"))
    assert base64.b64encode(red) in found.text
    colour = pyvips.Image.svgload_buffer(found.drawn).getpoint(10, 10)
    assert np.allclose(colour, (255, 0, 0, 255), atol=3)


def test_embedded_pictures_that_are_packed_anew_are_limited() -> None:
    """Their pixels are counted before any is decoded, for all of them together."""
    large = images.encode(np.zeros((1500, 1500, 3), np.uint8), "GIF")
    assert "data:" in clean(embedded(large))
    with pytest.raises(DrawingTooComplex):
        clean(embedded(large) * 2)


def test_other_embedded_files_go() -> None:
    """What is no raster picture is removed."""
    for data in (b"<svg/>", b"%PDF-1.7", images.png_header(5, 5)[:12], b""):
        assert "data:" not in clean(embedded(data))
    for data in (b"<html/>", b"<svg>", gzip.compress(b"<svg/>"), images.encode(images.quarters(), "PNG")):
        assert "data:" not in clean(embedded(data, "image/svg+xml"))


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("data:image/svg+xml;base64,", "PHN2ZyBpZD0iYSIvPg=="),
        ("data:image/svg+xml;base64,", "PHN2ZyBp ZD0iYSIv\nPg"),
        ("data:image/svg+xml;base64,", "PHN2ZyBpZD0iYSIvPg%3D%3D"),
        ("DATA:Image/SVG+xml; charset=utf-8 ; Base64 ,", "PHN2ZyBpZD0iYSIvPg=="),
        ("data:image/svg+xml,", '<svg id="a"/>'),
        ("data:image/svg+xml;utf8,", "%3csvg%20id='a'/%3E"),
        ("  data:image/svg+xml;charset=utf-8,", "%3Csvg id=%22a%22/>  "),
    ],
)
def test_every_form_of_a_data_url_is_read(head: str, body: str) -> None:
    """An embedded drawing stays, sanitised, in base64: however its URL is written."""
    root = ET.Element("svg")
    ET.SubElement(root, "image", {"href": head + body})
    found = ET.fromstring(svg.sanitise(ET.tostring(root)).text)
    kind, _, data = found[0].attrib["href"].partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert ET.fromstring(base64.b64decode(data)).attrib == {"id": "a"}


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:image/png",
        "data:image/png;base64,A",
        "data:image/png;base64,é",
        "http:,a",
        "data:," + "%20" * 400_001,
    ],
)
def test_damaged_data_urls_are_nothing(url: str) -> None:
    """A URL of another scheme, without a comma, or with bad base64 gives nothing."""
    assert data_urls.decode(url) is None


def test_a_data_url_has_a_limit_of_escapes() -> None:
    """Each escape takes far more memory than its three bytes. A megabyte of them is read."""
    assert data_urls.decode("data:," + "%20" * 350_000) == ("", b" " * 350_000)
    assert data_urls.decode("data:," + "%20" * 1_000_000) is None


@given(st.binary(max_size=200), st.sampled_from(["image/png", "", "image/svg+xml"]))
def test_a_data_url_gives_back_its_bytes(data: bytes, media_type: str) -> None:
    """What was written as a URL is read again, also with every byte as an escape."""
    assert data_urls.decode(data_urls.encode(media_type, data)) == (media_type, data)
    assert data_urls.decode(f"data:{media_type}," + "".join(f"%{byte:02x}" for byte in data)) == (media_type, data)


@given(st.text(max_size=60), st.booleans())
def test_any_text_is_a_data_url_or_not(text: str, is_headed: bool) -> None:
    """No text makes the reader fail."""
    data_urls.decode("data:" * is_headed + text)


# --- what is too much -------------------------------------------------------------------------------------------


def chain(element: str, property_name: str, levels: int, times: int) -> str:
    """Elements that refer to one another: each to the one before, several times."""
    shape = f'<rect width="9" height="9" {property_name}="url(#e{{}})"/>'
    inside = "".join(f'<{element} id="e{n}">{shape.format(n - 1) * times}</{element}>' for n in range(1, levels))
    return f'<{element} id="e0"><rect width="9" height="9"/></{element}>{inside}{shape.format(levels - 1)}'


def nested(inside: str, levels: int = 1) -> str:
    """Content that is a drawing in a drawing, this many levels deep."""
    for _ in range(levels):
        inside = embedded(drawing(inside), "image/svg+xml")
    return inside


FAN = "".join(f'<g id="l{n}">' + f'<use href="#l{n - 1}"/>' * 10 + "</g>" for n in range(1, 7))
LINE = "M0 0" + " 1 2" * 20_000


@pytest.mark.parametrize(
    ("inside", "what"),
    [
        (f'<rect id="l0"/>{FAN}<use xlink:href="#l6"/>', "drawn elements"),
        ('<g id="a">' + '<use href="#b"/>' * 9 + '</g><g id="b">' + '<use href="#a"/>' * 9 + "</g>", "themselves"),
        ('<g id="a"><use href="#%61"/></g>', "themselves"),
        ("".join(f'<g id="l{n}"><use href="#l{n + 1}"/></g>' for n in range(500)), "levels"),
        (
            "".join(f'<linearGradient id="l{n}" href="#l{n + 1}"/>' for n in range(500)) + "<g fill='url(#l0)'/>",
            "levels",
        ),
        (chain("pattern", "fill", 12, 10), "drawn elements"),
        (chain("pattern", "stroke", 12, 10), "drawn elements"),
        (chain("mask", "mask", 12, 2), "masks"),
        (chain("clipPath", "clip-path", 18, 2), "drawn elements"),
        (chain("marker", "marker-end", 18, 2), "drawn elements"),
        (
            "<pattern id='p'>" + "<g/>" * 200 + "</pattern><g fill='url(#p)'>" + "<rect/>" * 600 + "</g>",
            "drawn elements",
        ),
        (f"<marker id='m'>{'<g/>' * 50}</marker><path style='marker-mid:url(#m)' d='{LINE}'/>", "drawn elements"),
        (
            "<linearGradient id='g'>" + "<stop/>" * 5000 + "</linearGradient>" + "<rect fill='url(#g)'/>" * 50,
            "elements",
        ),
        ("<mask id='m'/>" + "<rect mask='url(#m)'/>" * 400, "masks"),
        ("<g style='mix-blend-mode:screen'><rect/></g>" * 400, "masks and blends"),
        ("<filter id='f'>" + "<feOffset/>" * 50 + "</filter>" + "<rect filter='url(#f)'/>" * 5, "steps of filters"),
        (f"<rect style='filter:{'blur(5px) ' * 300}'/>", "steps of filters"),
        ("<filter><feGaussianBlur stdDeviation='9000'/></filter>", "blur"),
        ("<filter><feDropShadow stdDeviation='0 1e9'/></filter>", "blur"),
        ("<filter><feMorphology radius='30'/></filter>", "erosion"),
        ("<filter><feConvolveMatrix order='50'/></filter>", "convolution"),
        ("<filter><feConvolveMatrix order='3 90'/></filter>", "convolution"),
        ("<filter><feTurbulence numOctaves='1000'/></filter>", "octaves"),
        ("<text>" + "word " * 2000 + "</text>", "characters in one text"),
        ("<text><a>" + "word " * 2000 + "</a></text>", "characters in one text"),
        ("".join(f"<g id='n{n}'>{'<g>' * 150}<use href='#n{n + 1}'/>{'</g>' * 150}</g>" for n in range(20)), "levels"),
        ("<g/>" * 60_000, "50000 elements"),
        ("<g>" * 300 + "</g>" * 300, "200 nested elements"),
        (
            "<text>" + "word " * 500 + "</text>" * 1 + "<text>" + "</text><text>".join(["word " * 500] * 9) + "</text>",
            "drawn char",
        ),
        ("<text id='t'>" + "word " * 500 + "</text>" + "<use href='#t'/>" * 20, "drawn characters"),
        (f"<path id='p' d='{LINE}'/>" + "<use href='#p'/>" * 200, "bytes of drawn paths"),
        ("<style>" + "a{fill:red}" * 1000 + "</style>" + "<g/>" * 9000, "rules of CSS"),
        ("<style>" + "a{fill:u\\72l(#a)}" * 20_000 + "</style>", "characters of CSS"),
        (embedded(images.png_header(40_000, 40_000) + bytes(99)), "pixels of embedded"),
        (nested("<g/>", 4), "levels of embedded drawings"),
        (nested("<g/>") * 300, "embedded drawings"),
        (nested("<g/>" * 9000) * 6, "elements"),
        (nested("<g>" * 150 + nested("<g>" * 100 + "</g>" * 100) + "</g>" * 150), "200 nested elements"),
        (nested("<rect/>" * 1000).replace("<image", "<image id='i'") + "<use href='#i'/>" * 100, "drawn elements"),
        (nested(nested("<mask id='m'/>" + "<rect mask='url(#m)'/>" * 60) * 6), "masks"),
        (nested("<style>" + "a{fill:u\\72l(#a)}" * 5000 + "</style>") * 4, "characters of CSS"),
        (nested(embedded(images.png_header(3000, 3000) + bytes(99))) * 4, "pixels of embedded"),
        (nested('<g id="a"><use href="#a"/></g>'), "themselves"),
        (
            embedded(images.png_header(3000, 3000) + bytes(99)).replace("<image", "<image id='i'")
            + "<use href='#i'/>" * 9,
            "pixels",
        ),
    ],
)
def test_drawings_that_cost_too_much_are_refused(inside: str, what: str) -> None:
    """Everything counts as often as it is drawn, and the refusal names the limit and its number."""
    with pytest.raises(DrawingTooComplex, match=what) as caught:
        svg.sanitise(drawing(inside))
    assert caught.value.status == 422
    assert str(svg_cost.LIMITS.get(caught.value.what, 0)) in caught.value.public


def test_a_drawing_has_a_limit_of_bytes() -> None:
    """A file that is too long is not parsed."""
    with pytest.raises(DrawingTooComplex, match="bytes"):
        svg.sanitise(drawing(" " * svg.MAX_BYTES))


def test_brackets_without_end_are_refused() -> None:
    """CSS that is nested deeper than Python's stack is refused, not a crash."""
    with pytest.raises(MarkupError):
        clean("<style>a{b:url(x)" + "(" * 50_000 + "</style>")


def test_what_is_used_often_is_counted_and_not_refused() -> None:
    """A shape that is used a thousand times, and a gradient for a whole group, are ordinary."""
    assert "<use" in clean('<rect id="b"/>' + '<use href="#b"/>' * 1000)
    gradient = "<defs><linearGradient id='g'><stop/><stop/></linearGradient></defs>"
    cost = svg.sanitise(drawing(f"{gradient}<g fill='url(#g)'>{'<rect/>' * 1000}</g>")).cost
    assert cost.shapes == 1002
    assert cost.elements == 1002 + 3 * 1001


@given(
    st.lists(
        st.sampled_from(["<g id='a'>", "</g>", "<use href='#a'/>", "<use href='#b'/>", "<g id='b' mask='url(#a)'>"])
    )
)
def test_any_references_are_counted_or_refused(parts: list[str]) -> None:
    """Counting ends, in whatever order elements refer to one another."""
    with contextlib.suppress(MarkupError, DrawingTooComplex):
        clean("".join(parts))


# --- strangers' text --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "codec"),
    [
        ("utf-16", "utf-8"),
        ("UTF-16", "utf-8-sig"),
        ("unicode", "ascii"),
        ("utf-8", "utf-16"),
        ("utf-8", "utf-16-le"),
        ("utf-16", "utf-16-be"),
        ("iso-8859-1", "utf-8-sig"),
        ("GB2312", "gb2312"),
        ("Shift_JIS", "shift_jis"),
        ("EUC-JP", "euc_jp"),
        ("euc-kr", "euc_kr"),
        ("big5", "big5"),
        ("koi8-r", "koi8-r"),
        ("windows-1252", "cp1252"),
    ],
)
def test_every_usual_encoding_is_read(declared: str, codec: str) -> None:
    """Encodings of several bytes are read, and where the declaration is wrong, the bytes decide."""
    word = {"gb2312": "中文", "big5": "中文", "shift_jis": "日本", "euc_jp": "日本", "euc_kr": "한국", "koi8-r": "Мир"}
    title = word.get(codec, "Red" if codec == "ascii" else "Zoë")
    file = f"<?xml version='1.0' encoding='{declared}'?><svg xmlns='http://www.w3.org/2000/svg'><title>{title}</title></svg>"
    assert f"<title>{title}</title>" in svg.sanitise(file.encode(codec)).text.decode()


@pytest.mark.parametrize("declared", ["utf-7", "hex", "rot13", "foo", "undefined", "idna"])
def test_what_is_no_encoding_of_the_web_is_refused(declared: str) -> None:
    """Codecs of Python that are no encodings of the web decode nothing."""
    with pytest.raises(MarkupError):
        svg.sanitise(f"<?xml version='1.0' encoding='{declared}'?><svg>+ADw-script+AD4-</svg>".encode())
    with pytest.raises(MarkupError):
        svg.sanitise(b"<?xml version='1.0' encoding='gb2312'?><svg>\xff\xff</svg>")


@pytest.mark.parametrize(
    ("style", "wanted"),
    [
        ("fill: light-dark(rgb(1, 2, 3), #000)", "fill: rgb(1, 2, 3)"),
        ("fill: light-dark(light-dark(red, blue), url(http://a/#b))", "fill: red"),
        ("fill: light-dark(url(http://a/#b), red)", "fill: none"),
        ("fill: light-dark(image(http://a), red)", "fill: unknown-function"),
        ("fill: device-cmyk(0 1 1 0)", "fill: unknown-function"),
        ("background: image-set('http://a')", "background: unknown-function"),
    ],
)
def test_a_function_that_is_not_known_does_not_count(style: str, wanted: str) -> None:
    """It becomes a value that no property has, so that an attribute or an earlier rule counts. draw.io's is known."""
    assert f'style="{wanted}"' in clean(f"<rect fill='red' style=\"{style}\"/>")


def test_names_with_brackets_and_blanks_can_be_used() -> None:
    """`<use>` finds "Group (1)", and it counts as drawn."""
    assert 'href="#Group (1)"' in clean("<g id='Group (1)'/><use href='#Group (1)'/>")
    with pytest.raises(DrawingTooComplex):
        clean("<g id='Group (1)'><use href='#Group (1)'/></g>")


def test_styles_as_entities_of_a_map_are_expanded() -> None:
    """Old Illustrator writes an entity as the style of each shape: 10,000 shapes are a drawing."""
    style = "fill:#FFCC00;stroke:#000000;stroke-width:0.25;stroke-linejoin:round;"
    shapes = "<path style='&st0;'/>" * 10_000
    file = f"<!DOCTYPE svg [<!ENTITY st0 '{style}'>]><svg>{shapes}</svg>"
    assert svg.sanitise(file.encode()).text.count(style.encode()) == 10_000
