"""
Text of unknown authors: bytes whose encoding nobody states become clean text.

EXIF says ASCII, PNG says Latin-1, and IPTC-IIM often says nothing. Programs write UTF-8 or Windows-1252 into all of
them.
"""

from __future__ import annotations

import codecs
from typing import Final

# XMP has no limit. A longer text is not a credit.
LINE_MAX: Final = 2_000

# Persian and the scripts of India need them between letters. Python does not count them as printable.
_JOINERS: Final = "\u200c\u200d"


def decode_text(data: bytes) -> str:
    """
    Decode UTF-8, else Windows-1252. Raises nothing.

    A field of a fixed length can end inside a character of UTF-8: that character is dropped. Windows-1252 has no
    character for five bytes; they are dropped, too. Source of the table: WHATWG Encoding, "windows-1252".
    """
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        before = data[: exc.start]
        is_cut = exc.reason == "unexpected end of data" and not before.isascii()
        return before.decode() if is_cut else data.decode("cp1252", "ignore")


def guess_utf_16(data: bytes) -> str:
    """
    Return the codec if these bytes are text in UTF-16, else an empty text.

    They are if there is a byte order mark, or if every other byte is NUL and no letter between is (of three or more:
    two may be the two parts of a copyright).
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for codec, letters, others in (("utf-16-le", data[::2], data[1::2]), ("utf-16-be", data[1::2], data[::2])):
        text = letters.rstrip(b"\0")
        if len(text) >= 3 and b"\0" not in text and not any(others):
            return codec
    return ""


def one_line(text: str) -> str:
    """Make one line of at most LINE_MAX characters, without control characters (XML forbids them)."""
    short = text[: 4 * LINE_MAX]
    return " ".join("".join(c if c.isprintable() or c in _JOINERS else " " for c in short).split())[:LINE_MAX]
