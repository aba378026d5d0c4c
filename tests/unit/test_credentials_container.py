"""
Content Credentials are found where the specification has them in each container, by a bounded look at any bytes.

Most of these files are written here by hand; others by c2pa-python, as cameras and editors write them.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgproxy.credentials.container import BYTES_MAX, READS_MAX, has_credentials
from tests.support import credentials, images
from tests.support.credentials import FORMATS, signed_source, unsigned_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STORE = bytes.fromhex("63327061001100108000 00AA00389B71")
OTHER = bytes.fromhex("6A736F6E001100108000 00AA00389B71")  # a JUMBF box of JSON
PHOTO = images.photo(16, 12)


class Watched(io.BytesIO):
    """A file that counts its reads, and the bytes that were asked for."""

    reads = 0
    asked_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0, "the whole file is read"
        self.reads += 1
        self.asked_bytes += size
        return super().read(size)


def look(data: bytes) -> bool:
    """Look, and see that the look was bounded."""
    file = Watched(data)
    found = has_credentials(file)
    assert file.reads <= READS_MAX
    assert file.asked_bytes <= BYTES_MAX
    return found


# --- files by hand --------------------------------------------------------------------------------------------------


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + kind + data


def store(kind: bytes = STORE, padding: int = 40) -> bytes:
    """A JUMBF box: a description, and something in it."""
    return box(b"jumb", box(b"jumd", kind + b"\x03c2pa\0") + box(b"free", bytes(padding)))


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(data)) + data


def in_segments(jumbf: bytes, number: int = 1, size: int = 60_000) -> bytes:
    """A JUMBF box as one or more APP11 segments: each repeats the length and type of the box."""
    head, rest = jumbf[:8], jumbf[8:]
    parts = [rest[at : at + size] for at in range(0, len(rest), size)]
    return b"".join(
        segment(0xEB, b"JP" + struct.pack(">HI", number, at) + head + part) for at, part in enumerate(parts, 1)
    )


def jpeg(added: bytes) -> bytes:
    """A JPEG with more segments, after those that Pillow writes."""
    plain = images.jpeg(PHOTO)
    at = plain.index(b"\xff\xdb")
    return plain[:at] + added + plain[at:]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + bytes(4)


def png(before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG with more chunks, before and after the pixels."""
    plain = images.png(PHOTO)
    first, end = plain.index(b"IDAT") - 4, plain.index(b"IEND") - 4
    return plain[:first] + before + plain[first:end] + after + plain[end:]


def riff(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def webp(*chunks: bytes) -> bytes:
    """A WebP with more chunks at its end."""
    body = images.encode(PHOTO, "WEBP")[12:] + b"".join(chunks)
    return riff(b"RIFF", b"WEBP" + body)


C2PA_BOX = bytes.fromhex("D8FEC3D61B0E483C92975828877EC481")
FTYP = box(b"ftyp", b"avif\0\0\0\0avifmif1")
MDAT = box(b"mdat", bytes(300))


def long_box(kind: bytes, data: bytes) -> bytes:
    """A box with a length of 64 bits."""
    return struct.pack(">I", 1) + kind + struct.pack(">Q", 16 + len(data)) + data


def tiff(*directories: list[int], order: str = "<", is_big: bool = False) -> bytes:
    """A TIFF with these directories of tags, one after the other."""
    count, word, entry = ("Q", "Q", "HHQQ") if is_big else ("H", "I", "HHII")
    mark = b"II" if order == "<" else b"MM"
    head = mark + (struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if is_big else struct.pack(f"{order}HI", 42, 8))
    for at, tags in enumerate(directories, 1):
        entries = b"".join(struct.pack(f"{order}{entry}", tag, 4, 1, 0) for tag in tags)
        size = struct.calcsize(f"{order}{count}{word}") + len(entries)
        following = len(head) + size if at < len(directories) else 0
        head += struct.pack(f"{order}{count}", len(tags)) + entries + struct.pack(f"{order}{word}", following)
    return head


TAGS, TAG = [256, 257, 258, 262, 273], 0xCD41

WITH = {
    "JPEG": jpeg(in_segments(store())),
    "JPEG, the first segment": b"\xff\xd8" + in_segments(store()) + images.jpeg(PHOTO)[2:],
    "JPEG, after much else": jpeg(segment(0xE1, bytes(60_000)) * 200 + in_segments(store())),
    "JPEG, after another box": jpeg(in_segments(store(OTHER)) + in_segments(store(), number=2)),
    "JPEG, many segments": jpeg(in_segments(store(padding=200_000))),
    "JPEG, tiny segments": jpeg(in_segments(store(), size=5)),
    "JPEG, two boxes in turns": jpeg(
        b"".join(
            one + other
            for one, other in zip(
                [in_segments(store(OTHER), 1, 10)[at : at + 30] for at in range(0, 60, 30)],
                [in_segments(store(), 2, 16)[at : at + 36] for at in range(0, 72, 36)],
                strict=True,
            )
        )
    ),
    "JPEG, long box": jpeg(
        segment(0xEB, b"JP" + struct.pack(">HI", 1, 1) + b"\0\0\0\1jumb" + struct.pack(">Q", 99) + store()[8:])
    ),
    "JPEG, filled markers": jpeg(b"\xff\xff\xff" + in_segments(store())),
    "JPEG, after an empty segment": jpeg(segment(0xE0, b"") + in_segments(store())),
    "JPEG, bare markers": jpeg(b"\xff\x01\xff\xd0" + in_segments(store())),
    "PNG, before the pixels": png(before=chunk(b"caBX", store())),
    "PNG, after the pixels": png(after=chunk(b"caBX", store())),
    "PNG, after a thousand chunks": png(after=chunk(b"IDAT", bytes(8192)) * 1000 + chunk(b"caBX", store())),
    "WebP": webp(riff(b"C2PA", store())),
    "WebP, after an odd chunk": webp(riff(b"XMP ", b"odd"), riff(b"C2PA", store())),
    "AVIF": FTYP + box(b"uuid", C2PA_BOX + bytes(30)) + MDAT,
    "AVIF, after the pixels": FTYP + MDAT + box(b"uuid", C2PA_BOX + bytes(30)),
    "AVIF, long boxes": FTYP + long_box(b"mdat", bytes(300)) + long_box(b"uuid", C2PA_BOX),
    "AVIF, to the end": FTYP + MDAT + struct.pack(">I", 0) + b"uuid" + C2PA_BOX,
    "AVIF, after another uuid": FTYP + box(b"uuid", bytes(30)) + box(b"uuid", C2PA_BOX),
    "HEIC": box(b"ftyp", b"heic\0\0\0\0mif1heic") + box(b"uuid", C2PA_BOX + bytes(30)) + MDAT,
    "TIFF": tiff([*TAGS, TAG]),
    "TIFF, second directory": tiff(TAGS, [TAG]),
    "TIFF, big endian": tiff(TAGS, [*TAGS, TAG], order=">"),
    "TIFF, 900 tags": tiff([*range(900), TAG]),
    "BigTIFF": tiff(TAGS, [*TAGS, TAG], is_big=True),
    "BigTIFF, big endian": tiff([*range(900), TAG], order=">", is_big=True),
}
WITHOUT = {
    "nothing": b"",
    "text": b"C2PA caBX jumb",
    "JPEG": images.jpeg(PHOTO),
    "JPEG, other box": jpeg(in_segments(store(OTHER))),
    "JPEG, other APP11": jpeg(segment(0xEB, b"HDR_RI ver=11" + STORE)),
    "JPEG, the words in its XMP": jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + store())),
    "JPEG, a remote manifest": jpeg(
        segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x dcterms:provenance="https://a/b"/>')
    ),
    "JPEG, in a box of another type": jpeg(in_segments(b"\0\0\0\x60free" + store()[8:])),
    "JPEG, in its picture": b"\xff\xd8" + segment(0xDA, bytes(10)) + in_segments(store()),
    "JPEG, between its end and more": b"\xff\xd8" + segment(0xD9, bytes(2)) + in_segments(store()),
    "JPEG, after its end": images.jpeg(PHOTO) + in_segments(store()),
    "PNG": images.png(PHOTO),
    "PNG, after its end": images.png(PHOTO) + chunk(b"caBX", store()),
    "WebP": images.encode(PHOTO, "WEBP"),
    "WebP, after its end": images.encode(PHOTO, "WEBP") + riff(b"C2PA", store()),
    "RIFF of another kind": riff(b"RIFF", b"AVI " + riff(b"C2PA", store())),
    "AVIF": FTYP + MDAT,
    "AVIF, other uuid": FTYP + box(b"uuid", bytes(16) + C2PA_BOX) + MDAT,
    "AVIF, inside another box": FTYP + box(b"meta", box(b"uuid", C2PA_BOX)),
    "TIFF": tiff(TAGS, TAGS),
    "TIFF, the tag in the other order": tiff([0x41CD]),
    "TIFF, the tag after its directory": tiff(TAGS) + bytes(8) + struct.pack("<HHII", TAG, 7, 1, 0) * 9,
    "BigTIFF": tiff(TAGS, TAGS, is_big=True),
    "GIF": images.animation("GIF", [PHOTO, PHOTO], [50, 50]),
    "GIF with a manifest": b"GIF89a" + bytes(7) + b"!\xff\x0bC2PA_GIF\1\0\0" + bytes([60]) + store()[:60] + b"\0;",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
    "SVG with a manifest": b'<svg xmlns="http://www.w3.org/2000/svg" xmlns:c2pa="http://c2pa.org/manifest"><metadata>'
    b"<c2pa:manifest>AAAA</c2pa:manifest></metadata></svg>",
}


# --- what is found --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH)
def test_a_manifest_store_is_found(name: str) -> None:
    """A file with a manifest store at its place in the container has credentials."""
    assert look(WITH[name]) is True


@pytest.mark.parametrize("name", WITHOUT)
def test_a_file_without_one_has_none(name: str) -> None:
    """A file has no credentials if the store is missing, is of another kind, or is at another place."""
    assert look(WITHOUT[name]) is False


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP", "AVIF", "TIFF", "BigTIFF"])
def test_a_picture_without_one_costs_a_few_reads(name: str) -> None:
    """For a picture without credentials at most 20 reads and 1000 bytes are needed."""
    file = Watched(WITHOUT[name])

    assert has_credentials(file) is False
    assert file.reads <= 20
    assert file.asked_bytes <= 1000


# --- files of a C2PA library -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("parents", [0, 1])
def test_the_credentials_of_a_library_are_found(kind: str, parents: int) -> None:
    """What c2pa-python has signed has credentials, in each format and generation; before, it had none."""
    assert look(signed_source(kind, parents=parents)) is True
    assert look(unsigned_source(kind)) is False


@pytest.mark.parametrize("kind", FORMATS)
def test_large_and_damaged_credentials_are_found(kind: str) -> None:
    """A manifest of 200 kB is found, in many segments of a JPEG, and so is one that does not fit its picture."""
    large = signed_source(kind, padding_bytes=200_000)

    assert len(large) > 200_000
    assert look(large) is True
    assert look(credentials.tampered(large)) is True


@pytest.mark.parametrize("kind", FORMATS)
def test_a_remote_manifest_is_not_looked_for(kind: str) -> None:
    """A picture whose XMP alone names a manifest has no credentials."""
    linked = credentials.linked(unsigned_source(kind), kind, "https://example.com/manifest.c2pa")

    assert b"https://example.com/manifest.c2pa" in linked
    assert look(linked) is False


@pytest.mark.parametrize("kind", ["image/gif", "image/svg+xml"])
def test_a_library_writes_into_other_formats_too(kind: str) -> None:
    """GIF and SVG have a place for a manifest as well, which is not looked at."""
    plain = WITHOUT["GIF"] if kind == "image/gif" else WITHOUT["SVG"]
    signed = credentials.sign(plain, kind, credentials.camera(), title="a", generator="b", assertions=[CREATED])

    found = credentials.read(signed, kind)
    assert found is not None
    assert found.state == "Trusted"
    assert look(signed) is False


CREATED = {
    "label": "c2pa.actions.v2",
    "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": credentials.CAPTURE}]},
}


# --- hostile files ----------------------------------------------------------------------------------------------------


def ending(data: bytes, at: int, order: str, kind: str, value: int) -> bytes:
    """Write another number into a file."""
    changed = bytearray(data)
    struct.pack_into(f"{order}{kind}", changed, at, value)
    return bytes(changed)


def ifd_loop() -> bytes:
    """A TIFF whose second directory leads back to the first."""
    plain = tiff(TAGS, TAGS)
    return plain[:-4] + struct.pack("<I", 8)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "JPEG of empty segments": lambda: b"\xff\xd8" + segment(0xE0, b"") * 100_000,
    "JPEG of fill bytes": lambda: b"\xff\xd8" + b"\xff" * 200_000,
    "JPEG of bare markers": lambda: b"\xff\xd8" + b"\xff\xd0" * 100_000,
    "JPEG, length 0": lambda: b"\xff\xd8\xff\xe0\0\0" + bytes(100),
    "JPEG, length 1": lambda: b"\xff\xd8\xff\xeb\0\1JP" + bytes(100),
    "JPEG of 60000 boxes": lambda: b"\xff\xd8" + b"".join(in_segments(store(OTHER), n, 5)[:25] for n in range(60_000)),
    "PNG of empty chunks": lambda: png(before=chunk(b"tEXt", b"") * 100_000),
    "PNG, a chunk of 4 GB": lambda: images.png(PHOTO)[:8] + b"\xff\xff\xff\xffIDAT",
    "WebP of empty chunks": lambda: webp(riff(b"ANMF", b"") * 100_000),
    "WebP, a chunk of 4 GB": lambda: ending(webp(riff(b"EXIF", b"abcd")), 16, "<", "I", 0xFFFFFFFF),
    "AVIF of empty boxes": lambda: FTYP + box(b"free", b"") * 100_000,
    "AVIF, a box of 2^64": lambda: FTYP + struct.pack(">I", 1) + b"mdat" + b"\xff" * 8 + bytes(99),
    "AVIF, a long box of 0": lambda: FTYP + struct.pack(">I", 1) + b"mdat" + bytes(99),
    "AVIF, a box of 4": lambda: FTYP + struct.pack(">I", 4) + b"mdat" + bytes(99),
    "TIFF in a loop": ifd_loop,
    "TIFF in itself": lambda: tiff(TAGS)[:-4] + struct.pack("<I", 8),
    "TIFF, 65535 entries": lambda: ending(tiff(TAGS), 8, "<", "H", 0xFFFF) + bytes(900_000),
    "TIFF of empty directories": lambda: tiff(*[[]] * 40_000),
    "TIFF, a far directory": lambda: tiff(TAGS)[:-4] + b"\xff" * 4,
    "BigTIFF, 2^64 entries": lambda: ending(tiff(TAGS, is_big=True), 16, "<", "Q", 2**64 - 1) + bytes(3_000_000),
    "BigTIFF, a far directory": lambda: tiff(TAGS, is_big=True)[:-8] + b"\xff" * 8,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_ends_the_look(name: str) -> None:
    """Loops, lying lengths and endless rows of small parts end with no, within the bounds of reads and bytes."""
    assert look(HOSTILE[name]()) is False


@pytest.mark.parametrize("name", [name for name, data in (WITH | WITHOUT).items() if len(data) < 5000])
def test_a_truncated_file_is_no_error(name: str) -> None:
    """A file may end after any byte: a look at what is left raises nothing, and finds nothing new."""
    whole = WITH.get(name, WITHOUT.get(name, b""))
    found = [look(whole[:size]) for size in range(len(whole) + 1)]

    assert sorted(found) == found  # no at first, and yes from some byte on
    assert found[-1] is look(whole)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_file_of_a_library_is_no_error(kind: str) -> None:
    """The same with what c2pa-python has signed, at every byte up to the manifest and some after it."""
    whole = signed_source(kind, pixels=images.photo(8, 8))
    found = [look(whole[:size]) for size in range(len(whole))]

    assert sorted(found) == found
    assert found[-1] is True


HEADS = [data[:20] for data in (WITH | WITHOUT).values()]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(HEADS), st.binary(max_size=400))
@example(b"RIFF\xff\xff\xff\xffWEBP", b"")
@example(b"\xff\xd8\xff", b"")
def test_any_bytes_are_no_error(head: bytes, rest: bytes) -> None:
    """Whatever follows the first bytes of a format, a look raises nothing and stays within its bounds."""
    look(head + rest)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([data for data in WITH.values() if len(data) < 5000]), st.data())
def test_a_damaged_file_is_no_error(whole: bytes, data: st.DataObject) -> None:
    """A file with other bytes in places raises nothing and stays within its bounds."""
    damaged = bytearray(whole)
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=6)):
        damaged[at] = data.draw(st.sampled_from([0, 1, 2, 8, 0x7F, 0x80, 0xFE, 0xFF]))
    look(bytes(damaged))


def test_a_file_on_disk_is_read(tmp_path: Path) -> None:
    """An unbuffered file on disk is looked at like one in memory, also one that is larger than what is read."""
    path = tmp_path / "big.png"
    with path.open("wb") as out:
        plain = png(after=chunk(b"caBX", store()))
        at = plain.index(b"IDAT") - 4
        out.write(plain[:at] + struct.pack(">I", 2**30) + b"IDAT")
        out.seek(2**30 + 4, 1)
        out.write(plain[at:])

    with path.open("rb", buffering=0) as file:
        assert has_credentials(file) is True
