"""The credit of strangers' files: whatever block and encoding it is in, it leaves as it was written, and nothing is invented."""

from __future__ import annotations

import io
import json
import zlib
from typing import Any

import pytest
from PIL import Image, IptcImagePlugin
from PIL.PngImagePlugin import PngImageFile, iTXt

from imgproxy.params.plan import Format, Metadata, Output, RenderPlan
from imgproxy.render import credit
from imgproxy.render.credit import Credit
from tests.pixels.test_metadata import xmp_of
from tests.support import containers, images, tagged
from tests.support.rendering import render

ARTIST, COPYRIGHT, DESCRIPTION = 0x013B, 0x8298, 0x010E
PHOTO = images.jpeg(images.photo(48, 32))
PNG = images.png(images.quarters())
ORDERS = ["<", ">"]
JANE = Credit(creators=("José Müller",), copyright_notice="© dpa (picture alliance)")
CP1252 = [
    tagged.text(ARTIST, "José Müller\0".encode("cp1252")),
    tagged.text(COPYRIGHT, "© dpa (picture alliance)\0".encode("cp1252")),
]


def credit_of(data: bytes, policy: Metadata = Metadata.CREDIT, wanted: Format = Format.JPEG) -> Credit:
    """The credit in the XMP of a variant."""
    return credit.read_xmp(xmp_of(render(data, RenderPlan(output=Output(format=wanted, metadata=policy))).data))


def describe(data: bytes) -> dict[str, Any]:
    """The answer of fm=json."""
    found: dict[str, Any] = json.loads(render(data, RenderPlan(output=Output(format=Format.JSON))).data)
    return found


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("artist", "notice", "want"),
    [
        (b"Jane Doe (Reuters)\0", b"(c) 2024 dpa (picture alliance)\0", ("Jane Doe (Reuters)", "(c) 2024 dpa (picture alliance)")),
        (b"Jane Doe\0", b"Jane Doe\0 \0", ("Jane Doe", "Jane Doe")),
        (b"A\0", b"Jane Doe\0John Roe\0", ("A", "Photographer Jane Doe, Editor John Roe")),
        (b"Jos\xe9 M\xfcller\0", b"\xa9 dpa\0", ("José Müller", "© dpa")),
        ("José Müller".encode(), "© dpa".encode(), ("José Müller", "© dpa")),
    ],
)  # fmt: skip
def test_exif_text_leaves_as_it_was_written(order: str, artist: bytes, notice: bytes, want: tuple[str, str]) -> None:
    """Brackets, two parts and both encodings arrive whole in XMP and IPTC, from either byte order."""
    exif = tagged.block(order, [tagged.text(ARTIST, artist), tagged.text(COPYRIGHT, notice)])
    result = render(tagged.with_exif(PHOTO, exif), RenderPlan())
    assert credit.read_xmp(xmp_of(result.data)) == Credit(creators=(want[0],), copyright_notice=want[1])
    with Image.open(io.BytesIO(result.data)) as image:
        iptc = IptcImagePlugin.getiptcinfo(image)
    assert iptc is not None
    assert (iptc[2, 80], iptc[2, 116]) == (want[0].encode(), want[1].encode())


@pytest.mark.parametrize("blank", [b" " * 54, b"\0", b"", b" " * 53 + b"\0", b"\0" * 20])
def test_blank_tags_are_no_credit(blank: bytes) -> None:
    """A camera that fills both tags with blanks gets no notice: the variant is the one without metadata."""
    exif = tagged.block("<", [tagged.text(ARTIST, blank), tagged.text(COPYRIGHT, blank)])
    data = tagged.with_exif(PHOTO, exif)
    bare = render(data, RenderPlan(output=Output(metadata=Metadata.NONE)))
    assert render(data, RenderPlan()).data == bare.data


def test_exif_3_has_utf_8_and_a_photographer() -> None:
    """Values of the type UTF-8 (Exif 3.0) are text, and its Photographer is the creator where there is no Artist."""
    exif = tagged.block(
        "<",
        [tagged.text(COPYRIGHT, "© Zoë\0".encode(), tagged.UTF8)],
        [tagged.text(0xA437, "Zoë Ž\0".encode(), tagged.UTF8)],
    )
    assert credit_of(tagged.with_exif(PHOTO, exif)) == Credit(creators=("Zoë Ž",), copyright_notice="© Zoë")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
def test_exif_of_other_formats_is_read_too(kind: str) -> None:
    """PNG, WebP and AVIF hold the same block."""
    data = images.encode(images.quarters(), kind, exif=b"Exif\0\0" + tagged.block(">", CP1252))
    assert credit_of(data) == JANE


@pytest.mark.parametrize("policy", [Metadata.CREDIT, Metadata.ALL])
@pytest.mark.parametrize("order", ORDERS)
def test_tags_of_a_tiff_are_a_credit(order: str, policy: Metadata) -> None:
    """The tags 315 and 33432 of a TIFF are kept, under both policies."""
    assert credit_of(tagged.tiff(order, CP1252), policy) == JANE


@pytest.mark.parametrize("policy", [Metadata.CREDIT, Metadata.ALL])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("form", ["iim", "turned iim", "resources"])
def test_iptc_of_a_tiff_is_a_credit(order: str, form: str, policy: Metadata) -> None:
    """IIM is in tag 33723, perhaps as LONG with its bytes turned, or in Photoshop's resources, tag 34377."""
    records = tagged.iim(
        (2, 80, "José Müller".encode("cp1252")), (2, 116, "© dpa (picture alliance)".encode()), (2, 1, b"")
    )
    records += bytes(-len(records) % 4)
    turned = b"".join(records[at : at + 4][::-1] for at in range(0, len(records), 4))
    entry = {
        "iim": tagged.text(33723, records, tagged.UNDEFINED),
        "turned iim": (33723, tagged.LONG, len(records) // 4, turned),
        "resources": tagged.text(34377, tagged.resource(0x40C, b"x") + tagged.resource(0x404, records), tagged.BYTE),
    }[form]
    data = tagged.tiff(order, [entry])
    if policy is Metadata.CREDIT:
        assert credit_of(data) == JANE
    else:
        result = render(data, RenderPlan(output=Output(format=Format.JPEG, metadata=policy)))
        with Image.open(io.BytesIO(result.data)) as image:
            iptc = IptcImagePlugin.getiptcinfo(image)
        assert iptc is not None
        assert iptc[2, 116] == "© dpa (picture alliance)".encode()


@pytest.mark.parametrize("policy", [Metadata.CREDIT, Metadata.ALL])
def test_texts_of_a_png_are_a_credit(policy: Metadata) -> None:
    """Author and Copyright of tEXt, zTXt and iTXt are kept, in Latin-1 and UTF-8, under both policies."""
    data = containers.with_chunks(
        PNG,
        (b"tEXt", "Author\0José Müller".encode("latin-1")),
        (b"zTXt", b"Copyright\0\0" + zlib.compress("© dpa (picture alliance)".encode("cp1252"))),
    )
    assert credit_of(data, policy) == JANE
    data = containers.with_chunks(PNG, (b"iTXt", "author\0\0\0\0\0José Müller".encode()))
    assert credit_of(data, policy, Format.PNG) == Credit(creators=("José Müller",))


def test_blocks_that_imagemagick_put_into_a_png_are_a_credit() -> None:
    """IPTC and EXIF as hex digits in a text are read like the blocks themselves."""
    records = tagged.resource(0x404, tagged.iim((2, 80, "José Müller".encode())))
    exif = b"Exif\0\0" + tagged.block("<", CP1252[1:])
    data = containers.with_chunks(
        PNG,
        (b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(b"\niptc\n  99\n" + records.hex("\n", 36).encode())),
        (b"tEXt", b"Raw profile type exif\0\nexif\n  99\n" + exif.hex().encode()),
    )
    assert credit_of(data) == JANE


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16"])
@pytest.mark.parametrize("policy", [Metadata.CREDIT, Metadata.ALL])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "TIFF"])
def test_xmp_in_utf_16_is_a_credit(kind: str, policy: Metadata, encoding: str) -> None:
    """A packet in UTF-16 is kept, from every format that can hold one, under both policies."""
    packet = credit.as_xmp(JANE).decode().encode(encoding)
    options: dict[str, Any] = {"tiffinfo": {700: packet}} if kind == "TIFF" else {"xmp": packet}
    data = images.encode(images.quarters(), kind, **options)
    assert credit_of(data, policy) == JANE


def with_tail(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Put chunks behind the pixels of a PNG."""
    end = len(png) - 12
    return png[:end] + containers.with_chunks(PNG[:33], *chunks)[33:] + png[end:]


@pytest.mark.parametrize("policy", [Metadata.CREDIT, Metadata.ALL])
@pytest.mark.parametrize(
    "chunk",
    [
        (b"tEXt", "Author\0Zoë".encode("latin-1")),
        (b"eXIf", tagged.block("<", [tagged.text(ARTIST, "Zoë\0".encode())])),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + credit.as_xmp(Credit(creators=("Zoë",)))),
        (b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(credit.as_xmp(Credit(creators=("Zoë",))))),
        (b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(b"\nIPTC profile\n  8\n1c025000035a6f65")),
    ],
    ids=["text", "exif", "xmp", "packed xmp", "iptc"],
)
def test_a_credit_behind_the_pixels_of_a_png_is_kept(chunk: tuple[bytes, bytes], policy: Metadata) -> None:
    """PNG allows texts and EXIF behind the pixels; libvips reads neither there."""
    wanted = "Zoe" if b"Raw" in chunk[1] else "Zoë"
    for data in (with_tail(PNG, chunk), containers.with_chunks(PNG, chunk)):
        assert credit_of(data, policy).creators == (wanted,)


@pytest.mark.parametrize("policy", [Metadata.CREDIT, Metadata.ALL])
def test_xmp_of_a_gif_is_a_credit(policy: Metadata) -> None:
    """The packet in the application extension that Photoshop writes is kept, with the 258 bytes behind it left out."""
    gif = images.encode(images.quarters(), "GIF")
    trailer = b"\1" + bytes(range(255, -1, -1)) + b"\0"
    for packet in (credit.as_xmp(JANE), b""):
        extension = b"\x21\xff\x0bXMP DataXMP" + packet + trailer
        assert credit_of(gif[:-1] + extension + b";", policy) == (JANE if packet else Credit())
    assert credit_of(gif + b"\x21\xff\x0bXMP DataXMP" + credit.as_xmp(JANE), policy) == Credit()


PANTRY = """<xmpMM:Pantry xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"><rdf:Bag><rdf:li><rdf:Description>
<dc:creator><rdf:Seq><rdf:li>Wrong</rdf:li></rdf:Seq></dc:creator><dc:rights>© Wrong</dc:rights>
<photoshop:Credit>Wrong</photoshop:Credit></rdf:Description></rdf:li></rdf:Bag></xmpMM:Pantry>"""


def test_the_credit_of_a_picture_that_was_placed_is_not_this_ones() -> None:
    """Photoshop keeps the packets of placed pictures inside the packet: their creators are not the creator."""
    own = credit.as_xmp(JANE).decode()
    packet = own.replace("<dc:creator>", f"{PANTRY}<dc:creator>", 1)
    assert credit.read_xmp(packet.encode()) == JANE
    alone = credit.as_xmp(Credit(web_statement="u")).decode()
    packet = alone.replace("<xmpRights:Web", f"{PANTRY}<xmpRights:Web", 1)
    assert credit.read_xmp(packet.encode()) == Credit(web_statement="u")


def test_the_default_language_and_the_value_itself_count() -> None:
    """Of rights in several languages the default one is kept, and of a value with qualifiers the value alone."""
    own = credit.as_xmp(JANE).decode()
    item = '<rdf:li xml:lang="x-default">© dpa (picture alliance)</rdf:li>'
    packet = own.replace(item, f'<rdf:li xml:lang="de">Alle Rechte</rdf:li>{item}')
    assert credit.read_xmp(packet.encode()) == JANE
    value = "<rdf:Description><rdf:value>José Müller</rdf:value><photoshop:Role>R</photoshop:Role></rdf:Description>"
    assert credit.read_xmp(own.replace("<rdf:li>José Müller", f"<rdf:li>{value}").encode()) == JANE


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("Müller", "Müller\x01\x00", "José Müller"),
        ("Müller", "Müller&#0;&#x1F;", "José Müller"),
        ("Müller", "Müller & Söhne &amp; Co", "José Müller & Söhne & Co"),
        ("<dc:creator>", "<acme:x acme:y='1'>2</acme:x><dc:creator>", "José Müller"),
        (' xmlns:dc="http://purl.org/dc/elements/1.1/"', "", "José Müller"),
        ("</x:xmpmeta>", "</x:xmpmeta>\0\0\xff<junk", "José Müller"),
        ("<?xpacket begin", '<?xml version="1.0" encoding="UTF-16"?><?xpacket begin', "José Müller"),
    ],
)
def test_a_damaged_packet_is_repaired(old: str, new: str, name: str) -> None:
    """What programs are known to write into packets, and XML forbids, does not cost the credit."""
    packet = credit.as_xmp(JANE).decode().replace(old, new, 1).encode()
    assert credit.read_xmp(packet).creators == (name,)


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be", "utf-16"])
def test_exif_text_in_utf_16_is_read(order: str) -> None:
    """Some programs write UTF-16 into a tag for ASCII: the name is not its first letter."""
    exif = tagged.block("<", [tagged.text(ARTIST, "Zoë Roe\0".encode(order))])
    data = tagged.with_exif(PHOTO, exif)
    assert credit_of(data) == Credit(creators=("Zoë Roe",))
    assert describe(data)["TIFF"]["Artist"] == "Zoë Roe"


def test_a_blank_artist_does_not_hide_the_photographer() -> None:
    """Cameras fill Artist with blanks; the Photographer of Exif 3.0 is kept then."""
    exif = tagged.block("<", [tagged.text(ARTIST, b"   \0")], [tagged.text(0xA437, b"Zoe\0")])
    assert credit_of(tagged.with_exif(PHOTO, exif)) == Credit(creators=("Zoe",))


def test_filled_up_records_and_empty_resources_hide_no_by_line() -> None:
    """A NUL behind an IPTC record of odd length, and an empty resource before the one with the records, are passed."""
    records = tagged.iim((2, 5, b"abc")) + b"\0" + tagged.iim((2, 80, b"Jane"))
    block = b"Photoshop 3.0\0" + tagged.resource(0x404, b"") + tagged.resource(0x404, records)
    assert credit_of(tagged.with_segments(PHOTO, (0xED, block))) == Credit(creators=("Jane",))


def test_resources_in_two_segments_are_a_credit() -> None:
    """A JPEG of Photoshop's whose resources fill more than one segment keeps its by-line."""
    parts = tagged.resource(0x40C, bytes(40)), tagged.resource(0x404, tagged.iim((2, 80, b"Jane Doe")))
    data = tagged.with_segments(PHOTO, *((0xED, b"Photoshop 3.0\0" + part) for part in parts))
    assert credit_of(data) == Credit(creators=("Jane Doe",))


def test_all_adds_to_xmp_what_other_blocks_say() -> None:
    """Under `metadata = all` a packet without creator and notice gets those of EXIF; its own properties stay."""
    packet = credit.as_xmp(Credit(credit_line="dpa", copyright_notice="© XMP"))
    data = tagged.with_segments(PHOTO, (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet))
    data = tagged.with_exif(data, tagged.block("<", CP1252))
    assert credit_of(data, Metadata.ALL) == Credit(("José Müller",), "dpa", "© XMP")


def test_all_keeps_the_bytes_of_exif_texts() -> None:
    """Under `metadata = all` EXIF texts leave byte for byte."""
    caption = "Berlin (dpa) - Der Bürgermeister (l.)\0".encode("cp1252")
    exif = tagged.block(">", [*CP1252, tagged.text(DESCRIPTION, caption)])
    data = render(tagged.with_exif(PHOTO, exif), RenderPlan(output=Output(metadata=Metadata.ALL))).data
    for _, _, _, text in (*CP1252, tagged.text(DESCRIPTION, caption)):
        assert text in data


def test_a_png_has_its_credit_where_xmp_belongs() -> None:
    """The packet of a PNG is in an uncompressed iTXt chunk, and all checksums are right: Pillow finds it."""
    data = images.png(images.with_alpha(images.quarters()), exif=b"Exif\0\0" + tagged.block("<", CP1252))
    result = render(data, RenderPlan())
    with Image.open(io.BytesIO(result.data)) as image:
        image.load()
        assert image.mode == "RGBA"
        assert isinstance(image, PngImageFile)
        assert credit.read_xmp(image.text["XML:com.adobe.xmp"].encode()) == JANE
        assert isinstance(image.text["XML:com.adobe.xmp"], iTXt)


@pytest.mark.parametrize("policy", list(Metadata))
@pytest.mark.parametrize("wanted", [Format.JPEG, Format.WEBP, Format.AVIF, Format.PNG])
def test_a_credit_beyond_measure_is_no_error(wanted: Format, policy: Metadata) -> None:
    """Blocks that do not fit into the variant's format are cut or left out: the picture is made."""
    huge = Credit(
        creators=tuple(f"{n} " + "Ж" * 1990 for n in range(20)),
        copyright_notice="Ж" * 2000,
        licensor_urls=tuple(f"https://{n}.example/" + "x" * 1900 for n in range(20)),
    )
    records = b"".join(tagged.iim((2, 80, text.encode()), (2, 25, text.encode())) for text in huge.creators)
    entries = [tagged.text(DESCRIPTION, b"y" * 200_000), tagged.text(33723, records, tagged.UNDEFINED)]
    exif = tagged.block("<", entries[:1])
    sources = (
        images.encode(images.quarters(), "WEBP", xmp=credit.as_xmp(huge), exif=b"Exif\0\0" + exif),
        tagged.tiff("<", [tagged.text(700, credit.as_xmp(huge), tagged.BYTE), *entries]),
    )
    for data in sources:
        result = render(data, RenderPlan(output=Output(format=wanted, metadata=policy)))
        assert result.pixels.shape[0] > 0
        if policy is not Metadata.NONE:
            assert credit.read_xmp(xmp_of(result.data)).creators == huge.creators[:1]


# --- fm=json --------------------------------------------------------------------------------------------------


def test_fm_json_has_whole_texts_and_numbers() -> None:
    """Texts are not cut at a bracket and have their letters; numbers are numbers; what cannot be shown is left out."""
    exif = tagged.block(
        ">",
        [
            tagged.text(DESCRIPTION, "Berlin (dpa) - Der Bürgermeister…\0".encode("cp1252")),
            tagged.text(0x010F, b" \0"),
            tagged.text(0x9C9B, "Título\0".encode("utf-16-le"), tagged.BYTE),
            (0x011A, tagged.RATIONAL, 1, b"\0\0\0\x48\0\0\0\x01"),
        ],
        [
            (0x829A, tagged.RATIONAL, 1, b"\0\0\0\x01\0\0\0\x04"),
            (0x829D, tagged.RATIONAL, 1, bytes(8)),
            (0x8827, tagged.SHORT, 2, b"\0\x64\0\x65"),
            tagged.text(0x9000, b"0232", tagged.UNDEFINED),
            tagged.text(0x9286, b"ASCII\0\0\0Note (x)", tagged.UNDEFINED),
            tagged.text(0xA431, b"BODY-0815"),
        ],
        [tagged.text(1, b"N\0")],
    )
    found = describe(tagged.with_exif(PHOTO, exif))
    assert found["TIFF"] == {
        "ImageDescription": "Berlin (dpa) - Der Bürgermeister…",
        "XPTitle": "Título",
        "XResolution": 72,
    }
    assert found["Exif"] == {
        "ExposureTime": 0.25,
        "ISOSpeedRatings": [100, 101],
        "ExifVersion": "0232",
        "UserComment": "Note (x)",
    }


def test_fm_json_of_a_tiff_has_its_tags() -> None:
    """A TIFF is described by its own tags."""
    found = describe(tagged.tiff(">", CP1252))
    assert found["TIFF"]["Artist"] == "José Müller"
    assert found["TIFF"]["BitsPerSample"] == [8, 8, 8]


@pytest.mark.parametrize("order", ORDERS)
def test_an_infinite_resolution_is_no_error(order: str) -> None:
    """A resolution of 1/0 is left out of fm=json, and the picture is made."""
    high, zero = (b"\0\0\0\x01", bytes(4)) if order == ">" else (b"\x01\0\0\0", bytes(4))
    entries = [(tag, tagged.RATIONAL, 1, high + zero) for tag in (0x011A, 0x011B)]
    for data in (tagged.with_exif(PHOTO, tagged.block(order, entries)), tagged.tiff(order, entries)):
        assert "XResolution" not in describe(data).get("TIFF", {})
        assert render(data, RenderPlan()).rendered.size_bytes


def test_the_name_of_a_profile_may_be_in_any_encoding() -> None:
    """The description of an ICC profile, version 2, is often Latin-1."""
    profile = bytearray(images.vips_profile("p3"))
    name = b"Farbr\xe4ume (D65)\0"
    at = len(profile)
    tag = b"desc" + bytes(4) + len(name).to_bytes(4, "big") + name
    profile += tag
    profile[:4] = len(profile).to_bytes(4, "big")
    entry = profile.index(b"desc", 128)
    profile[entry + 4 : entry + 12] = at.to_bytes(4, "big") + len(tag).to_bytes(4, "big")
    data = images.jpeg(images.photo(48, 32), icc_profile=bytes(profile))
    assert describe(data)["ProfileName"] == "Farbräume (D65)"
