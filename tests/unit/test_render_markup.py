"""XML from unknown authors: SVG is sanitised, XMP gives its credit, entities are refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgproxy.errors import DrawingTooComplex
from imgproxy.render import credit, markup, svg
from imgproxy.render.markup import MarkupError

NS = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def clean(inside: str, attributes: str = "") -> str:
    """What is left of an SVG's content."""
    return svg.sanitise(f"<svg {NS} {attributes}>{inside}</svg>".encode()).text.decode()


@pytest.mark.parametrize(
    ("inside", "gone"),
    [
        ("<script>alert(1)</script>", "alert"),
        ("<script href='http://evil'/>", "evil"),
        ("<g onclick='alert(1)' ONLOAD='alert(2)'/>", "alert"),
        ("<foreignObject><body xmlns='http://www.w3.org/1999/xhtml'>x</body></foreignObject>", "body"),
        ("<html:script xmlns:html='http://www.w3.org/1999/xhtml'>alert(1)</html:script>", "alert"),
        ("<image href='http://evil/x.png'/>", "evil"),
        ("<image xlink:href='file:///etc/passwd'/>", "passwd"),
        ("<image href='data:image/svg+xml;base64,AAAA'/>", "data:"),
        ("<image href='data:text/html,x'/>", "data:"),
        ("<use href='other.svg#a'/>", "other"),
        ("<use xlink:href='http://evil/#a'/>", "evil"),
        ("<a href='javascript:alert(1)'><rect/></a>", "javascript"),
        ("<a href='#here'><rect/></a>", "#here"),
        ("<animate attributeName='href' to='javascript:alert(1)'/>", "javascript"),
        ("<set attributeName='onload' to='alert(1)'/>", "alert"),
        ("<rect fill='url(http://evil/)'/>", "evil"),
        ("<rect style='fill:url( &quot;http://evil/&quot; )'/>", "evil"),
        ("<rect style='fill:\\75rl(http://evil/)'/>", "evil"),
        ("<style>@import 'http://evil/a.css';</style>", "evil"),
        ("<style>@import url(http://evil/a.css);</style>", "evil"),
        ("<style>@font-face{src:url(http://evil/f)}</style>", "evil"),
        ("<style>a{background:URL(//evil/x)}</style>", "evil"),
        ("<style>a{background:u/**/rl(//evil/x)}</style>", "evil"),
        ("<feImage href='http://evil/'/>", "evil"),
        ("<metadata>someone's name</metadata>", "someone"),
        ("<iframe src='http://evil'/>", "evil"),
        ("<?xml-stylesheet href='http://evil/a.xsl'?>", "evil"),
        ("<!-- a comment -->", "comment"),
    ],
)
def test_svg_loses_scripts_and_outside_references(inside: str, gone: str) -> None:
    """Scripts, handlers, foreign content and every reference that leaves the document are dropped."""
    assert gone not in clean(inside)


@pytest.mark.parametrize(
    ("inside", "kept"),
    [
        ("<rect width='5' height='5' fill='url(#g)'/>", 'fill="url(#g)"'),
        ("<rect style='fill:url(#g);stroke:red'/>", "fill:url(#g);stroke:red"),
        ("<use xlink:href='#a'/>", 'xlink:href="#a"'),
        ("<use href='#a'/>", 'href="#a"'),
        ("<text xml:space='preserve'>1 &lt; 2 &amp; 3</text>", "1 &lt; 2 &amp; 3"),
        ("<style>.a{fill:#f00}</style>", ".a{fill:#f00}"),
        ("<linearGradient id='g'><stop offset='1'/></linearGradient>", "<linearGradient"),
        ("<filter id='f'><feGaussianBlur stdDeviation='2'/></filter>", "feGaussianBlur"),
        ("<a href='http://x'><circle r='3'/></a>", '<circle r="3">'),
    ],
)
def test_svg_keeps_its_shapes(inside: str, kept: str) -> None:
    """Shapes, gradients, filters, text, references within the document and embedded rasters stay."""
    assert kept in clean(inside)


def test_svg_keeps_its_size() -> None:
    """Width, height and viewBox of the root do not change."""
    assert 'width="40" height="20" viewBox="0 0 4 2"' in clean("", 'width="40" height="20" viewBox="0 0 4 2"')


def test_sanitising_twice_changes_nothing_more() -> None:
    """A sanitised drawing is not changed by another pass."""
    once = svg.sanitise(f"<svg {NS}><g fill='url(#a)'><text>a &amp; b</text></g></svg>".encode()).text
    assert svg.sanitise(once).text == once


BOMB = (
    '<!DOCTYPE svg [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>'
    f"<svg {NS}><text>&c;</text></svg>"
)
EXTERNAL = f'<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg {NS}><text>&a;</text></svg>'


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        EXTERNAL,
        "<svg",
        "",
        "<html/>",
        "<svg xmlns='http://www.w3.org/1999/xhtml'/>",
        '<!DOCTYPE svg [<!ENTITY % a "b">%a;]><svg/>',
        f'<!DOCTYPE svg [<!ENTITY a "{"a" * 1000}">]><svg>{"&a;" * 1000}</svg>',
        '<!DOCTYPE svg [<!ENTITY a "&#60;script/>">]><svg>&a;</svg>',
        f'<!DOCTYPE svg [<!ATTLIST g id CDATA "{"a" * 1000}">]><svg>{"<g/>" * 1000}</svg>',
        "<svg " + " ".join(f"a{n}=''" for n in range(300_000)) + "/>",
        f"<svg {NS}>" + "<g>" * 200 + "</g>" * 200 + "</svg>",
    ],
    ids=[
        "laughs",
        "external",
        "cut",
        "empty",
        "html",
        "other namespace",
        "parameter",
        "quadratic",
        "markup",
        "default",
        "attributes",
        "deep",
    ],
)
def test_hostile_svg_is_refused(text: str) -> None:
    """Entities, deep nesting and text that is not SVG are refused."""
    with pytest.raises((MarkupError, DrawingTooComplex)):
        svg.sanitise(text.encode())


def test_a_plain_doctype_is_harmless() -> None:
    """The document type that drawing programs write is ignored, and nothing is fetched for it."""
    text = f'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://evil/svg11.dtd"><svg {NS}><rect/></svg>'
    found = svg.sanitise(text.encode()).text
    assert b"<rect" in found
    assert b"evil" not in found


def test_plain_entities_are_expanded() -> None:
    """Illustrator writes its namespaces as entities, and attribute lists without defaults."""
    text = (
        '<!DOCTYPE svg [<!ENTITY ns_svg "http://www.w3.org/2000/svg"><!ENTITY who "Jane">'
        '<!ATTLIST svg xmlns:a3 CDATA #IMPLIED>]><svg xmlns="&ns_svg;"><text>&who; &amp; Joe</text></svg>'
    )
    assert b"<text>Jane &amp; Joe</text>" in svg.sanitise(text.encode()).text


def test_default_attributes_are_read() -> None:
    """A document type may give an attribute to all elements of a name, also a namespace, also by an entity."""
    text = (
        '<!DOCTYPE svg [<!ENTITY ns "http://www.w3.org/2000/svg">'
        '<!ATTLIST svg xmlns CDATA #FIXED "&ns;" width CDATA "40"><!ATTLIST g fill CDATA "red">]>'
        '<svg><g/><g fill="blue"/></svg>'
    )
    assert b'width="40"><g fill="red"></g><g fill="blue"></g></svg>' in svg.sanitise(text.encode()).text


@pytest.mark.parametrize(
    ("declared", "inside"),
    [
        ("".join(f'<!ENTITY a{n} "">' for n in range(1001)), ""),
        ("".join(f'<!ATTLIST g a{n} CDATA "">' for n in range(1001)), "<g/>"),
        ("".join(f"<!ATTLIST g a{n} ID #IMPLIED>" for n in range(1001)), "<g/>"),
        (f'<!ENTITY a "{"a" * 1000}"><!ATTLIST g x CDATA "{"&a;" * 3}">', "<g/>" * 400),
        (f'<!ENTITY a "{"a" * 1000}">', "<g>&a;</g>" * 1100),
        (f'<!ENTITY a "{"a" * 1000}">', '<g x="&a;"/>' * 1100),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_what_a_document_type_adds_is_bounded(declared: str, inside: str, encoding: str) -> None:
    """There is a limit for the declarations, and for the text that entities and default attributes add."""
    text = f"<!DOCTYPE svg [{declared}]><svg {NS}>{inside}</svg>"
    with pytest.raises(DrawingTooComplex, match=r"declarations|characters from"):
        svg.sanitise(text.encode(encoding))


def test_characters_by_number_do_not_count_as_entities() -> None:
    """`&#160;` and `&amp;` are no references to what the document declares."""
    text = f'<!DOCTYPE svg [<!ENTITY a "{"a" * 1000}">]><svg {NS}><desc>{"&#65;&amp;" * 500}&a;</desc></svg>'
    assert b"aaaa" in svg.sanitise(text.encode()).text


def test_size_is_bounded() -> None:
    """More bytes than the limit are not parsed."""
    with pytest.raises(MarkupError):
        markup.parse(b"<a>" + b" " * 100 + b"</a>", max_bytes=50)


@given(st.binary(max_size=300))
def test_any_bytes_are_markup_or_refused(data: bytes) -> None:
    """Bad XML raises MarkupError and no other error."""
    with contextlib.suppress(MarkupError):
        markup.parse(data, max_bytes=1000)


TEXT = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=40)


@given(
    st.builds(
        credit.Credit,
        creators=st.lists(TEXT, max_size=3).map(tuple),
        credit_line=TEXT | st.just(""),
        copyright_notice=TEXT | st.just(""),
        web_statement=TEXT | st.just(""),
        licensor_urls=st.lists(TEXT, max_size=2).map(tuple),
        digital_source_type=TEXT | st.just(""),
    )
)
def test_a_credit_can_be_written_and_read_again(found: credit.Credit) -> None:
    """XMP and IPTC give back every text that was written."""
    assert credit.read_xmp(credit.as_xmp(found)) == found
    from_iptc = credit.read_iptc(credit.as_iptc(found))
    assert from_iptc.creators == found.creators
    assert (from_iptc.credit_line, from_iptc.copyright_notice) == (found.credit_line, found.copyright_notice)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_credit_or_nothing(data: bytes) -> None:
    """Broken metadata raises no error, in any block."""
    credit.read_xmp(data)
    credit.read_exif(data, data)
    credit.read_png([("Author", data), ("Copyright", data)])
    for head in (b"", b"\x1c\x02\x50", b"Photoshop 3.0\0", b"Photoshop 3.0\x008BIM\x04\x04", b"8BIM\x04\x04\0\0"):
        credit.read_iptc(head + data)
        credit.drop_private(head + data)


def test_credit_texts_are_one_clean_line() -> None:
    """A credit has no line breaks and control characters, and its length is limited."""
    found = credit.read_exif(b"Jane\r\nRoe\x1b[31m", b"x" * 9000)
    assert found.creators == ("Jane Roe [31m",)
    assert len(found.copyright_notice) == 2000
