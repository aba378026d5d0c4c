"""The file format of the cache."""

import os
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from imgproxy.cache.framed import digest_of, parse_tail, read_frame, trailer


@dataclass(frozen=True, slots=True)
class Note:
    """A record for the tests."""

    text: str
    number: int


def write(path: Path, body: bytes, note: Note) -> None:
    path.write_bytes(body + trailer(note, body_bytes=len(body), body_digest=digest_of(body)))


def frame_of(path: Path) -> object:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        frame = read_frame(descriptor)
        return None if frame is None else (frame.body_bytes, frame.body_digest, frame.read_as(Note))
    finally:
        os.close(descriptor)


@given(body=st.binary(max_size=10_000), text=st.text(max_size=300), number=st.integers())
def test_what_is_written_is_read_back(body: bytes, text: str, number: int) -> None:
    """Length, digest and record of any body come back as they were written."""
    note = Note(text, number)
    end = trailer(note, body_bytes=len(body), body_digest=digest_of(body))

    frame = parse_tail((body + end)[-4096:], file_bytes=len(body) + len(end))

    assert frame is not None
    assert (frame.body_bytes, frame.body_digest, frame.read_as(Note)) == (len(body), digest_of(body), note)


def test_every_truncation_is_a_miss(tmp_path: Path) -> None:
    """A file cut at any byte is refused."""
    path = tmp_path / "file"
    write(path, b"body", Note("a", 1))
    whole = path.read_bytes()

    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert frame_of(path) is None, length


def test_every_changed_byte_of_the_end_is_a_miss(tmp_path: Path) -> None:
    """A changed bit in record or trailer is found. (The body has its own digest.)"""
    path = tmp_path / "file"
    write(path, b"body", Note("a", 1))
    whole = path.read_bytes()

    for at in range(len(b"body"), len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        assert frame_of(path) is None, at


def test_appended_bytes_are_a_miss(tmp_path: Path) -> None:
    """A file that grew is refused."""
    path = tmp_path / "file"
    write(path, b"body", Note("a", 1))

    path.write_bytes(path.read_bytes() + b"x")

    assert frame_of(path) is None


def test_a_record_of_other_fields_is_no_record(tmp_path: Path) -> None:
    """A record of another version of the class is refused."""

    @dataclass(frozen=True)
    class Other:
        text: str

    path = tmp_path / "file"
    path.write_bytes(trailer(Other("a"), body_bytes=0, body_digest=digest_of(b"")))

    assert frame_of(path) == (0, digest_of(b""), None)
