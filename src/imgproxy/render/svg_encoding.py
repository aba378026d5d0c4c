"""
Bring a drawing to UTF-8 where expat does not read its encoding, or believes a wrong declaration.

Programs write `encoding="utf-16"` into files that are UTF-8 (.NET does so by default) and the other way round; the
bytes decide, as in browsers. expat knows no encoding with several bytes a character but UTF-8 and UTF-16.
Source: XML 1.0, 4.3.3 and appendix F; WHATWG Encoding, 4.2 (names).
"""

from __future__ import annotations

import codecs
import re
from typing import Final

from imgproxy.render.markup import MarkupError

_DECLARATION: Final = re.compile(
    rb"\A<\?xml\s[^>]{0,200}?\bencoding\s{0,9}=\s{0,9}[\"']([\w.:-]{1,40})[\"'][^>]{0,200}\?>"
)
_DECLARED_AS_TEXT: Final = re.compile(r"\A<\?xml\b[^>]{0,400}\?>")

_UTF_16: Final = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_UTF_16_STARTS: Final = ((b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))

# Names that are wrong for bytes that can be read as ASCII, and those that say UTF-8.
_NOT_OF_BYTES: Final = frozenset({"unicode", "ucs-2", "iso-10646-ucs-2", "utf8", "utf-8"})
# The standard's encodings of several bytes, by the names of Python.
_SEVERAL_BYTES: Final = {
    "gb2312": "gb18030",
    "gb_2312-80": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "big5": "big5",
    "big5-hkscs": "big5hkscs",
    "euc-jp": "euc_jp",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "sjis": "cp932",
    "windows-31j": "cp932",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
}


def as_utf_8(data: bytes) -> bytes:
    """Return the drawing in UTF-8, without its declaration, or as it is. Raises MarkupError if it cannot be decoded."""
    for start, codec in (*_UTF_16, *_UTF_16_STARTS):
        if data.startswith(start):
            return _decode(data.removeprefix(start) if (start, codec) in _UTF_16 else data, codec)
    plain = data.removeprefix(codecs.BOM_UTF8)
    declared = _DECLARATION.match(plain)
    if declared is None:
        return data
    name = declared[1].decode().lower()
    if len(plain) < len(data) or name in _NOT_OF_BYTES or name.startswith("utf-16"):
        return plain[declared.end() :]
    return _decode(plain, _SEVERAL_BYTES[name]) if name in _SEVERAL_BYTES else data


def _decode(data: bytes, codec: str) -> bytes:
    try:
        return _DECLARED_AS_TEXT.sub("", data.decode(codec)).encode()
    except UnicodeDecodeError as exc:
        raise MarkupError("not in the encoding that it declares") from exc
