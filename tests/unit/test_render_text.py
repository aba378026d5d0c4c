"""Text of unknown encoding, and the blocks that hold it: EXIF's copyright, PNG texts, IPTC-IIM, XMP in UTF-16."""

from __future__ import annotations

import io
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgproxy.render import credit, png_text, text_blocks, xmp
from imgproxy.render.credit import Credit
from imgproxy.render.text import decode_text, guess_utf_16, one_line
from tests.support import containers, images, tagged

SOUND = "José Müller, Ž € „dpa“ © 2024"


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_utf_8_and_windows_1252_are_told_apart(encoding: str) -> None:
    """A text of a western language is read in the encoding in which it was written."""
    assert decode_text(SOUND.encode(encoding)) == SOUND


@pytest.mark.parametrize(
    ("data", "want"),
    [
        (b"", ""),
        (b"plain", "plain"),
        (b"Jos\xe9", "José"),
        ("Zoë Müll€".encode()[:-1], "Zoë Müll"),
        ("Zoë".encode()[:-1], "Zo\xc3"),
        (b"a\x81\x8d\x8f\x90\x9db\xa9", "ab©"),
        (b"\xed\xa0\x80", "í €"),
    ],
)
def test_bytes_that_are_no_utf_8_become_text(data: bytes, want: str) -> None:
    """Windows-1252 has five holes, which are dropped; UTF-8 that ends in a character loses that character."""
    assert one_line(decode_text(data)) == one_line(want)


@given(st.binary(max_size=60))
def test_every_text_can_be_encoded(data: bytes) -> None:
    """Whatever the bytes are, the text is valid for XML, JSON and UTF-8."""
    line = one_line(decode_text(data))
    line.encode()
    assert all(c.isprintable() for c in line)


def test_letters_that_are_joined_stay_joined() -> None:
    """The joiners of Persian and of Indian scripts are kept, other invisible characters are not."""
    assert one_line("\u0645\u06cc\u200c\u062e") == "\u0645\u06cc\u200c\u062e"
    assert one_line("safe\u202eevil\u0007\ufeff x") == "safe evil x"


@pytest.mark.parametrize(
    ("raw", "want"),
    [
        (b"(c) 2024 dpa (picture alliance)\0", "(c) 2024 dpa (picture alliance)"),
        (b"(c) 2024 dpa (picture alliance)", "(c) 2024 dpa (picture alliance)"),
        (b"Jane Doe\0 \0", "Jane Doe"),
        (b"Jane Doe\0\0", "Jane Doe"),
        (b"Jane Doe\0John Roe\0", "Photographer Jane Doe, Editor John Roe"),
        (b"Jane Doe\0John Roe", "Photographer Jane Doe, Editor John Roe"),
        (b" \0dpa\0", "Editor dpa"),
        (b"\0dpa\0", "Editor dpa"),
        (b"dpa\0dpa\0", "dpa"),
        (b"Jane\0\0\0\0remains\0", "Jane"),
        (b"Jane\0\x01\x7f\x02\0", "Jane"),
        (b"\xa9 dpa\0J\xf6rg\0", "Photographer © dpa, Editor Jörg"),
        (b" " * 54, ""),
        (b" " * 53 + b"\0", ""),
        (b"\0", ""),
        (b"\0" * 30, ""),
        (b"", ""),
    ],
)
def test_the_two_parts_of_a_copyright(raw: bytes, want: str) -> None:
    """EXIF 2.3, 4.6.5: the photographer's part, then the editor's, each with a NUL at its end; a blank says nothing."""
    assert credit.read_exif(b"", raw) == Credit(copyright_notice=want)


@pytest.mark.parametrize(
    ("raw", "want"),
    [
        (b"Jane Doe (Reuters)\0", ("Jane Doe (Reuters)",)),
        (b"Jos\xe9 M\xfcller", ("José Müller",)),
        (b"Jane\0rubbish\0", ("Jane",)),
        (b" " * 20 + b"\0", ()),
        (b"\0", ()),
    ],
)
def test_an_artist_is_one_text(raw: bytes, want: tuple[str, ...]) -> None:
    """The artist ends at the first NUL. A blank one is none."""
    assert credit.read_exif(raw, b"") == Credit(creators=want)


def test_each_field_comes_from_the_first_block_that_has_it() -> None:
    """Fields are merged one by one, and what a credit has beyond another can be told."""
    first, second = Credit(creators=("A",)), Credit(creators=("B",), copyright_notice="© B")
    assert credit.merge(first, second, Credit(credit_line="C")) == Credit(("A",), "C", "© B")
    assert second.beyond(first) == Credit(copyright_notice="© B")
    assert not first.beyond(second)


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be", "utf-16"])
def test_utf_16_is_recognised(order: str) -> None:
    """With a mark, or by its NULs; neither plain text, nor the two parts of a copyright, nor blanks are UTF-16."""
    assert "Doe\0".encode(order).decode(guess_utf_16("Doe\0".encode(order))) == "Doe\0"
    assert not [
        text for text in (b"Doe\0", b"A\0B\0", b"\0" * 20, b"", "Doe".encode("utf-8-sig")) if guess_utf_16(text)
    ]


# --- PNG ------------------------------------------------------------------------------------------------------

PNG = images.png(images.quarters())


def texts_of(*chunks: tuple[bytes, bytes]) -> tuple[tuple[str, bytes], ...]:
    return png_text.read_texts(io.BytesIO(containers.with_chunks(PNG, *chunks))).texts


def test_the_three_text_chunks_of_a_png() -> None:
    """tEXt, zTXt and iTXt, packed or not, give keyword and text as they are in the file."""
    packed = zlib.compress("© ü".encode())
    found = texts_of(
        (b"tEXt", b"Author\0Jos\xe9"),
        (b"zTXt", b"Titr\xe9\0\0" + packed),
        (b"iTXt", b"Copyright\0\0\0de\0Rechte\0" + "© ü".encode()),
        (b"iTXt", b"Copyright\0\1\0de\0Rechte\0" + packed),
        (b"gAMA", bytes(4)),
    )
    plain = "© ü".encode()
    assert found == (("Author", b"Jos\xe9"), ("Titré", plain), ("Copyright", plain), ("Copyright", plain))
    assert credit.read_png(found) == Credit(creators=("José",), copyright_notice="© ü")


def test_texts_of_a_png_are_limited() -> None:
    """A packed text of 100 MB is cut at the limit, and a chunk without an end is none. Nothing behind it is read."""
    bomb = zlib.compress(bytes(100_000_000), 9)
    assert texts_of((b"tEXt", b"Author\0A"), (b"zTXt", b"B\0\0" + bomb), (b"tEXt", b"Author\0C")) == (("Author", b"A"),)
    assert texts_of((b"zTXt", b"A\0\0no zlib"), (b"tEXt", b"B")) == (("A", b""), ("B", b""))
    file = containers.with_chunks(PNG, (b"tEXt", b"Author\0A"))
    assert png_text.read_texts(io.BytesIO(file[: file.index(b"Author") + 4])) == png_text.Texts()
    assert png_text.read_texts(io.BytesIO(PNG)) == png_text.Texts()


def test_raw_profiles_of_imagemagick() -> None:
    """A block that was put into a text as hex digits is found by its name; hex digits that are none are nothing."""
    texts = png_text.Texts(
        (
            ("Raw profile type iptc", b"\nIPTC profile\n       3\n41420a\n43\n"),
            ("raw profile type xmp", b"\nxmp\n 1\nzz"),
        )
    )
    assert png_text.raw_profile(texts, "8bim", "iptc") == b"AB\nC"
    assert png_text.raw_profile(texts, "xmp") == b""
    assert png_text.raw_profile(texts, "exif") == b""


@given(st.binary(max_size=200))
def test_any_bytes_are_texts_of_a_png_or_nothing(data: bytes) -> None:
    """Damaged chunks raise no error."""
    png_text.raw_profile(png_text.read_texts(io.BytesIO(PNG[:8] + data)), "iptc")
    texts_of((b"iTXt", data), (b"zTXt", data), (b"tEXt", b"Raw profile type iptc\0" + data))


# --- IPTC -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
@pytest.mark.parametrize("declared", [b"", b"\x1b%G"])
def test_iptc_is_read_as_it_was_written(encoding: str, declared: bytes) -> None:
    """The bytes decide between UTF-8 and Windows-1252, whatever the record of the encoding says."""
    records = tagged.iim((1, 90, declared), (2, 80, "José Müller".encode(encoding)), (2, 116, "© dpa".encode(encoding)))
    assert credit.read_iptc(records) == Credit(creators=("José Müller",), copyright_notice="© dpa")


def test_iptc_is_found_among_photoshops_resources() -> None:
    """The resource may stand behind others, with the head of a JPEG segment or without, as in a TIFF."""
    records = tagged.iim((2, 80, b"Jane"))
    resources = (
        tagged.resource(0x40C, b"THUMB", b"8BIM") + tagged.resource(1, b"x", b"MeSa") + tagged.resource(0x404, records)
    )
    assert credit.find_iim(resources) == records
    assert credit.find_iim(b"Photoshop 3.0\0" + resources) == records
    assert credit.find_iim(records) == records
    assert credit.find_iim(b"neither") == b""


def test_iptc_behind_a_long_record_is_read() -> None:
    """A record of extended length, such as a preview, is skipped."""
    long = b"\x1c\x08\x0a\x80\x04" + (40_000).to_bytes(4, "big") + bytes(40_000)
    assert credit.read_iptc(long + tagged.iim((2, 80, b"Jane"))).creators == ("Jane",)


def test_positions_and_previews_are_dropped_from_iptc() -> None:
    """Keywords that are positions, previews, and records of other kinds are not kept under `metadata = all`."""
    kept = tagged.iim((1, 90, b"\x1b%G"), (2, 25, b"zoo"), (2, 25, b"geology = fun"), (2, 90, "Zürich".encode()))
    gone = tagged.iim((2, 25, b"geo:lat=47.37"), (2, 25, b"GPSLatitude=47"), (2, 202, b"PREVIEW"), (8, 10, b"PREVIEW"))
    assert credit.drop_private(gone + kept) == kept


def test_segments_of_a_jpeg_are_joined() -> None:
    """Photoshop's resources may go on in a second segment: both together are one block."""
    records = tagged.iim((2, 80, b"Jane Doe"))
    block = tagged.resource(0x40C, bytes(50)) + tagged.resource(0x404, records)
    for cut in (3, 60, len(block) - 5):
        parts = [(0xED, b"Photoshop 3.0\0" + part) for part in (block[:cut], block[cut:])]
        file = tagged.with_segments(images.cached_photo(), (0xE1, b"other"), *parts)
        assert credit.find_iim(text_blocks.join_app13(io.BytesIO(file))) == records
    assert text_blocks.join_app13(io.BytesIO(images.cached_photo())) == b""


# --- XMP ------------------------------------------------------------------------------------------------------

BODY = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" photoshop:Credit="José Ž"/>'
    "</rdf:RDF></x:xmpmeta>"
)
PACKET = f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>{BODY}<?xpacket end="w"?>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("declaration", ["", '<?xml version="1.0"?>', '<?xml version="1.0" encoding="UTF-16"?>'])
@pytest.mark.parametrize("padding", ["", "\n \n\0"])
def test_xmp_is_read_in_every_encoding(encoding: str, declaration: str, padding: str) -> None:
    """XMP may be UTF-8, UTF-16 or UTF-32, with a byte order mark or without, and has blanks behind it."""
    if "UTF-16" in declaration and not encoding.startswith("utf-16"):
        declaration = '<?xml version="1.0" encoding="UTF-8"?>'
    packet = (declaration + PACKET + padding).encode(encoding)
    assert credit.read_xmp(packet) == Credit(credit_line="José Ž")
    assert credit.read_xmp(xmp.rewrite(packet, b"", credit.PREFIXES)) == Credit(credit_line="José Ž")


def test_xmp_in_windows_1252_is_read() -> None:
    """Packets that are no UTF-8, though they should be, are read as Windows-1252; a declared encoding is respected."""
    assert credit.read_xmp(BODY.encode("cp1252")) == Credit(credit_line="José Ž")
    declared = '<?xml version="1.0" encoding="windows-1251"?>' + BODY.replace("José Ž", "Жанна")
    assert credit.read_xmp(declared.encode("cp1251")) == Credit(credit_line="Жанна")


def test_a_packet_is_written_with_an_addition() -> None:
    """The properties of a second packet are added to the first one; without the first, the second is all."""
    added = credit.as_xmp(Credit(creators=("Jane",)))
    both = xmp.rewrite(PACKET.encode(), added, credit.PREFIXES)
    assert credit.read_xmp(both) == Credit(creators=("Jane",), credit_line="José Ž")
    assert xmp.rewrite(b"", added, credit.PREFIXES) == added
    assert xmp.rewrite(b"<no xml", b"", credit.PREFIXES) == b""
    assert xmp.rewrite(b"<other/>", added, credit.PREFIXES) == added


@given(st.binary(max_size=200))
def test_any_bytes_are_a_packet_or_none(data: bytes) -> None:
    """Bytes behind any mark of an encoding raise no error."""
    for head in (b"", b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<", b"\xff\xfe\0\0", b"<a>"):
        xmp.read_packet(head + data)
