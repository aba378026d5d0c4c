"""Metadata: the credit is kept; position, serial numbers and thumbnails never are."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image, IptcImagePlugin

from imgproxy.params.plan import Format, Metadata, Output, Px, RenderPlan, Resize
from imgproxy.render import credit
from tests.support import images
from tests.support.rendering import render

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/"
 xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" xmlns:aux="http://ns.adobe.com/exif/1.0/aux/"
 xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 photoshop:Credit="Keystone &amp; Söhne" xmpRights:WebStatement="https://example.org/licence"
 aux:SerialNumber="SERIAL-4711" exif:GPSLatitude="47,22.5N" xmp:Rating="3"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}">
<dc:creator><rdf:Seq><rdf:li>Zoë Müller</rdf:li><rdf:li>A &lt;B&gt;</rdf:li></rdf:Seq></dc:creator>
<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">© 2026 Müller</rdf:li></rdf:Alt></dc:rights>
<plus:Licensor><rdf:Seq><rdf:li rdf:parseType="Resource">
<plus:LicensorURL>https://example.org/buy</plus:LicensorURL></rdf:li></rdf:Seq></plus:Licensor>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>""".encode()

CREDIT = credit.Credit(
    creators=("Zoë Müller", "A <B>"),
    credit_line="Keystone & Söhne",
    copyright_notice="© 2026 Müller",
    web_statement="https://example.org/licence",
    licensor_urls=("https://example.org/buy",),
    digital_source_type=SOURCE_TYPE,
)

# Texts that are in the source and must be in no variant.
PRIVATE = (b"SERIAL-4711", b"BODY-0815", b"LENS-0816", b"OWNER-0817", b"47,22.5N", b"GPS", b"THUMBNAIL", b"MAKERNOTE")


def exif_block() -> bytes:
    """EXIF with what must go (GPS, serials, owner, maker note, a thumbnail) and what may stay (model, artist)."""
    found = Image.Exif()
    found[0x0110] = "Camera Model One"
    found[0x013B] = "Exif Artist"
    found[0x8298] = "Exif Copyright"
    found[0x0112] = 6
    camera = found.get_ifd(0x8769)
    camera[0x829A] = 0.01
    camera[0xA431] = "BODY-0815"
    camera[0xA435] = "LENS-0816"
    camera[0xA430] = "OWNER-0817"
    camera[0x927C] = b"MAKERNOTE" * 3
    gps = found.get_ifd(0x8825)
    gps[1], gps[2] = "N", (47.0, 22.0, 30.0)
    gps[0x1D] = "2026:01:01"
    return found.tobytes()


def iim(*records: tuple[int, str]) -> bytes:
    """An APP13 block with these datasets of record 2, in UTF-8."""
    body = b"".join(b"\x1c\x02" + bytes([n]) + len(t.encode()).to_bytes(2, "big") + t.encode() for n, t in records)
    thumbnail = b"8BIM\x04\x0c\x00\x00" + (9).to_bytes(4, "big") + b"THUMBNAIL\x00"
    return b"Photoshop 3.0\0" + thumbnail + b"8BIM\x04\x04\x00\x00" + len(body).to_bytes(4, "big") + body


def with_app13(data: bytes, block: bytes) -> bytes:
    """Put an APP13 segment behind a JPEG's start."""
    return data[:2] + b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]


def source() -> bytes:
    return images.jpeg(images.photo(96, 64), exif=exif_block(), xmp=XMP)


def xmp_of(data: bytes) -> bytes:
    """The XMP packet of a file, wherever its format puts it."""
    found = re.search(rb"<x:xmpmeta.*?</x:xmpmeta>", data, re.DOTALL)
    return found.group(0) if found else b""


def exif_of(data: bytes) -> dict[int, object]:
    with Image.open(io.BytesIO(data)) as image:
        return dict(image.getexif())


FORMATS = [Format.JPEG, Format.WEBP, Format.AVIF]


@pytest.mark.parametrize("wanted", FORMATS)
def test_the_credit_is_kept_by_default(wanted: Format) -> None:
    """Creator, credit line, copyright, licence URLs and the digital source type are in every variant, unchanged."""
    result = render(source(), RenderPlan(resize=Resize(width=Px(48)), output=Output(format=wanted)))
    assert credit.read_xmp(xmp_of(result.data)) == CREDIT


def test_credit_is_in_the_iptc_of_a_jpeg() -> None:
    """A JPEG has the credit as IPTC-IIM too, which older tools of agencies read."""
    result = render(source(), RenderPlan())
    with Image.open(io.BytesIO(result.data)) as image:
        found = IptcImagePlugin.getiptcinfo(image)
    assert found is not None
    assert found[2, 80] == [b"Zo\xc3\xab M\xc3\xbcller", b"A <B>"]
    assert found[2, 110] == "Keystone & Söhne".encode()
    assert found[2, 116] == "© 2026 Müller".encode()
    assert found[1, 90] == b"\x1b%G"


@pytest.mark.parametrize("wanted", [*FORMATS, Format.PNG])
@pytest.mark.parametrize("policy", list(Metadata))
def test_private_metadata_never_leaves(wanted: Format, policy: Metadata) -> None:
    """GPS, serial numbers, owner, maker notes and thumbnails are in no variant, under every policy."""
    data = with_app13(source(), iim((80, "By Line")))
    assert all(word in data for word in PRIVATE if word != b"GPS")
    result = render(data, RenderPlan(output=Output(format=wanted, metadata=policy)))
    for word in PRIVATE:
        assert word not in result.data, (word, policy)
    with Image.open(io.BytesIO(result.data)) as image:
        found = image.getexif()
        assert dict(found.get_ifd(0x8825)) == {}
        assert not {0xA430, 0xA431, 0xA435, 0x927C} & set(found.get_ifd(0x8769))


@pytest.mark.parametrize("wanted", FORMATS)
def test_policy_none_removes_all_metadata(wanted: Format) -> None:
    """With metadata = none there is no EXIF, XMP or IPTC."""
    result = render(source(), RenderPlan(output=Output(format=wanted, metadata=Metadata.NONE)))
    assert xmp_of(result.data) == b""
    assert exif_of(result.data) == {}
    assert b"Photoshop 3.0" not in result.data


@pytest.mark.parametrize("wanted", FORMATS)
def test_policy_all_keeps_what_is_not_private(wanted: Format) -> None:
    """With metadata = all the camera, the artist and other properties are kept."""
    result = render(source(), RenderPlan(output=Output(format=wanted, metadata=Metadata.ALL)))
    found = exif_of(result.data)
    assert found[0x0110] == "Camera Model One"
    assert found[0x013B] == "Exif Artist"
    assert credit.read_xmp(xmp_of(result.data)) == CREDIT
    assert b"Rating" in xmp_of(result.data)


def test_credit_is_found_in_iptc_and_exif() -> None:
    """Without XMP the credit comes from IPTC, and the fields that IPTC does not have from EXIF."""
    plain = images.jpeg(images.photo(96, 64), exif=exif_block())
    result = render(plain, RenderPlan())
    assert credit.read_xmp(xmp_of(result.data)) == credit.Credit(
        creators=("Exif Artist",), copyright_notice="Exif Copyright"
    )
    tagged = with_app13(plain, iim((80, "Jane Roe"), (80, "Jörg Öz"), (110, "Agency / Jane")))
    result = render(tagged, RenderPlan())
    assert credit.read_xmp(xmp_of(result.data)) == credit.Credit(
        creators=("Jane Roe", "Jörg Öz"), credit_line="Agency / Jane", copyright_notice="Exif Copyright"
    )


def test_a_picture_without_a_credit_gets_no_packet() -> None:
    """If the source has no credit, the variant is as small as with metadata = none."""
    plain = images.jpeg(images.photo(96, 64))
    small = render(plain, RenderPlan(output=Output(metadata=Metadata.NONE)))
    assert render(plain, RenderPlan()).data == small.data
    assert b"Exif" not in small.data


@pytest.mark.parametrize(
    "packet",
    [
        b"<not xml",
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>',
        b"<a>" * 5000,
        XMP.replace(b"Zo", b"Zo\x00"),
        b"",
    ],
)
def test_a_hostile_packet_counts_as_missing(packet: bytes) -> None:
    """If XMP cannot be read, or declares entities, the variant is made without a credit."""
    data = images.jpeg(images.photo(32, 32), xmp=packet or b" ")
    for policy in Metadata:
        result = render(data, RenderPlan(output=Output(metadata=policy)))
        assert result.rendered.width_px == 32
        assert b"ENTITY" not in result.data
